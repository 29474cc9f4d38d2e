"""Progress in stored events: none is left out, also one that appears late or cannot be done."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scicat_dagster.orchestration.integration.progress import MOST_DONE, SETTLED_AFTER, Progress

KEY = dg.AssetKey("events")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(settings={"telemetry": {"enabled": False}}) as made:
        yield made


def observe(instance: dg.DagsterInstance, number: int) -> None:
    for _ in range(number):
        instance.report_runless_asset_event(dg.AssetObservation(KEY))


def ids(records: object) -> list[int]:
    return [record.storage_id for record in records]  # type: ignore[attr-defined]


def now() -> datetime:
    return datetime.now(UTC)


def test_events_are_done_in_their_order_and_once(instance: dg.DagsterInstance) -> None:
    observe(instance, 5)
    progress, done = Progress(), []
    for _ in range(4):
        behind, records = progress.seen(KEY, instance.fetch_observations, most=2)
        done += ids(records)
        progress = progress.after(behind, ids(records))
    assert done == sorted(set(done))
    assert len(done) == 5


def test_young_events_are_remembered_one_by_one(instance: dg.DagsterInstance) -> None:
    observe(instance, 3)
    behind, records = Progress().seen(KEY, instance.fetch_observations, most=10)

    young = Progress().after(behind, ids(records), now())
    old = Progress().after(behind, ids(records), now() + 2 * SETTLED_AFTER)

    assert (young.settled, list(young.done)) == (0, ids(records))
    assert (old.settled, old.done) == (ids(records)[-1], ())


def test_an_event_that_appears_behind_a_later_one_is_done(instance: dg.DagsterInstance) -> None:
    observe(instance, 3)
    behind, records = Progress().seen(KEY, instance.fetch_observations, most=10)
    # The database has not shown the first one yet.
    progress = Progress().after(behind[1:], ids(records[1:]), now())

    _, missed = progress.seen(KEY, instance.fetch_observations, most=10)

    assert ids(missed) == ids(records[:1])


def test_one_that_cannot_be_done_holds_up_no_other_and_stays(instance: dg.DagsterInstance) -> None:
    observe(instance, 3)
    later = now() + 2 * SETTLED_AFTER
    behind, records = Progress().seen(KEY, instance.fetch_observations, most=10)
    progress = Progress().after(behind, ids(records[1:]), later)
    observe(instance, 1)

    _, left = progress.seen(KEY, instance.fetch_observations, most=10)

    assert ids(left) == [ids(records)[0], ids(records)[-1] + 1]


def test_the_cursor_stays_small(instance: dg.DagsterInstance) -> None:
    observe(instance, 1)
    full = Progress(settled=0, done=tuple(range(100, 100 + MOST_DONE)))
    assert full.seen(KEY, instance.fetch_observations, most=10)[1] == []
    assert len(full.model_dump_json()) < 20_000


@given(st.integers(0, 10**9), st.sets(st.integers(0, 10**9), max_size=9))
def test_a_cursor_is_read_back_as_it_was(settled: int, done: set[int]) -> None:
    progress = Progress(settled=settled, done=tuple(sorted(done)))
    assert Progress.parse(progress.model_dump_json()) == progress


def test_no_cursor_is_the_beginning() -> None:
    assert Progress.parse(None) == Progress.parse("") == Progress()
