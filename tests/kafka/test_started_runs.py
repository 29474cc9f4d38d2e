"""Which runs are open after some messages, in whichever order these are read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scicat_dagster.kafka.messages import RunStarted
from scicat_dagster.kafka.started_runs import KEPT, MOST_OPEN, MOST_OVER, StartedRuns, open_run

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
HOUR_MS = 3_600_000


def milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def start(job: str, *, ago: timedelta = timedelta(hours=1), **further: int | None) -> RunStarted:
    moment = milliseconds(NOW - ago)
    return RunStarted.model_validate(
        {
            "file_path": f"/data/{job}.hdf",
            "job_id": job,
            "topic": "t",
            "partition": 0,
            "offset": 0,
            "started_at_ms": moment,
            "announced_at_ms": moment,
            **further,
        }
    )


def jobs(runs: StartedRuns) -> list[str]:
    return [run.job_id for run in runs.open]


def test_a_run_is_open_until_its_end_is_announced() -> None:
    begun = StartedRuns().after([start("one"), start("two")], (), NOW)

    assert jobs(begun) == ["one", "two"]
    assert jobs(begun.after([], {"one"}, NOW)) == ["two"]


def test_a_run_that_starts_and_ends_in_one_batch_is_not_open() -> None:
    assert jobs(StartedRuns().after([start("one")], {"one"}, NOW)) == []


def test_a_start_that_is_read_after_the_end_or_once_more_opens_nothing() -> None:
    ended = StartedRuns().after([], {"late"}, NOW)
    assert jobs(ended.after([start("late")], (), NOW)) == []

    whole = StartedRuns().after([start("one")], (), NOW).after([], {"one"}, NOW)
    assert jobs(whole.after([start("one")], (), NOW)) == []


def test_a_run_that_is_announced_twice_is_one() -> None:
    assert jobs(StartedRuns().after([start("one"), start("one")], (), NOW)) == ["one"]


def test_what_is_stored_is_bounded() -> None:
    many = [
        start(f"{number:04}", ago=timedelta(hours=10) - timedelta(seconds=number)) for number in range(600)
    ]

    runs = StartedRuns().after(many, {f"end {number}" for number in range(300)}, NOW)

    assert jobs(runs) == [each.job_id for each in many[-MOST_OPEN:]]
    assert len(runs.over) == MOST_OVER


def test_a_run_whose_end_does_not_come_is_forgotten() -> None:
    begun = StartedRuns().after([start("one")], (), NOW)

    assert jobs(begun.after([start("two", ago=-KEPT)], (), NOW + KEPT)) == ["two"]


def test_a_run_counts_from_its_announcement_its_start_or_its_planned_end() -> None:
    announced = milliseconds(NOW) - HOUR_MS

    assert open_run(start("one"), NOW).expected_end == NOW - timedelta(hours=1)
    planned = start("one", stops_at_ms=announced + 3 * HOUR_MS)
    assert open_run(planned, NOW).expected_end == NOW + timedelta(hours=2)
    later = start("one", started_at_ms=announced + 2 * HOUR_MS)
    assert open_run(later, NOW).expected_end == NOW + timedelta(hours=1)
    early = start("one", started_at_ms=announced - HOUR_MS)
    assert (open_run(early, NOW).started, open_run(early, NOW).expected_end) == (
        NOW - timedelta(hours=2),
        NOW - timedelta(hours=1),
    )


@pytest.mark.parametrize("moment", [1, 1_730_100, 32_503_680_000_000], ids=["1970", "seconds", "3000"])
def test_a_date_that_cannot_be_meant_does_not_count(moment: int) -> None:
    run = open_run(start("one", started_at_ms=moment, stops_at_ms=moment), NOW)

    assert run.started == run.expected_end == NOW - timedelta(hours=1)


@given(st.tuples(*[st.none() | st.integers(-(2**63), 2**63)] * 3))
def test_no_date_raises_or_puts_the_end_off_for_long(
    dates: tuple[int | None, int | None, int | None],
) -> None:
    named: dict[str, Any] = dict(zip(("started_at_ms", "stops_at_ms", "announced_at_ms"), dates, strict=True))

    run = open_run(start("one", **named), NOW)

    assert run.expected_end <= NOW + timedelta(days=366)


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef")), max_size=12),
    st.lists(st.integers(0, 12), max_size=3),
)
def test_the_same_messages_in_other_batches_leave_the_same_runs_open(
    messages: list[tuple[bool, str]], cuts: list[int]
) -> None:
    places = [0, *sorted(min(cut, len(messages)) for cut in cuts), len(messages)]
    runs = StartedRuns()
    for begin, end in pairwise(places):
        batch = messages[begin:end]
        started = [start(job) for is_start, job in batch if is_start]
        runs = runs.after(started, {job for is_start, job in batch if not is_start}, NOW)

    ended = {job for is_start, job in messages if not is_start}
    assert set(jobs(runs)) == {job for is_start, job in messages if is_start} - ended
    # As it is stored.
    assert StartedRuns.model_validate_json(runs.model_dump_json()) == runs
