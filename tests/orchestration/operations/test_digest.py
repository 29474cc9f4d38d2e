"""Who is told about failed files, when, and what the sensor remembers of it."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml

from scicat_dagster.config.current import CurrentConfiguration
from scicat_dagster.config.loading import load_configuration
from scicat_dagster.config.models import NotificationSettings
from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.kafka.messages import Position, Rejected
from scicat_dagster.notifications.message import MOST_LISTED, Condition
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.failures.failed_files import FailedFile, failed_files
from scicat_dagster.orchestration.ingest.rejected_messages import rejected_event
from scicat_dagster.orchestration.names import UNPREFIXED
from scicat_dagster.orchestration.operations.digest_sensor import digest_sensor, not_well
from scicat_dagster.orchestration.operations.news import (
    MOST_REPORTED,
    PATIENCE,
    DigestCursor,
    Told,
    news,
    short_name,
)
from scicat_dagster.orchestration.tags import FAILED_RUN_TAG, FAILURE_TAG
from tests.notifications.test_notifications import SECRET, Hook
from tests.orchestration.operations.test_health import heartbeats
from tests.small_facility import SmallFacility, instance_in

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LONG_AGO = timedelta(days=2)


def failed(
    path: str, kind: str = "permanent", *, ago: timedelta = LONG_AGO, last: timedelta | None = None
) -> FailedFile:
    since = NOW - ago
    return FailedFile(
        path=path,
        since=since,
        last=since if last is None else NOW - last,
        runs=1,
        run_id="run",
        kind=kind,
        round=0,
        told_run_id="run",
        run_config={},
    )


def paths(files: tuple[FailedFile, ...]) -> list[str]:
    return [file.path for file in files]


# What is news


@pytest.mark.parametrize(
    ("file", "is_news"),
    [
        (failed("a", ago=timedelta(0)), True),
        (failed("a", "cancelled", ago=timedelta(0)), True),
        (failed("a", "transient", ago=PATIENCE - timedelta(seconds=1)), False),
        (failed("a", "transient", ago=PATIENCE), True),
        (failed("a", "waiting", ago=timedelta(minutes=5)), False),
        (failed("a", "waiting", ago=LONG_AGO, last=timedelta(0)), True),
        (failed("a", "crash", ago=timedelta(minutes=5)), False),
        (failed("a", "changed", ago=LONG_AGO), True),
    ],
)
def test_people_are_told_about_what_waits_for_them_and_what_goes_on_failing(
    file: FailedFile, is_news: bool
) -> None:
    assert news([file], (), Told(), NOW).is_due is is_news


def test_nobody_is_told_twice() -> None:
    first = news([failed("a")], (), Told(), NOW)
    second = news([failed("a", last=timedelta(0))], (), first.if_told, NOW)

    assert paths(first.new) == ["a"]
    assert (second.new, second.still_failed, second.repaired, second.is_due) == ((), 1, 0, False)


def test_what_is_repaired_is_said_with_the_next_news_or_when_it_is_all() -> None:
    told = news([failed("a"), failed("b")], (), Told(), NOW).if_told

    one = news([failed("b")], (), told, NOW)
    assert (one.is_due, one.still_failed, one.repaired) == (False, 1, 1)
    new = news([failed("b"), failed("c")], (), one.if_not, NOW)
    assert (new.is_due, paths(new.new), new.still_failed, new.repaired) == (True, ["c"], 1, 1)

    all_ = news([], (), one.if_not, NOW)
    assert (all_.is_due, all_.still_failed, all_.repaired) == (True, 0, 2)
    assert not news([], (), all_.if_told, NOW).is_due


def test_a_file_that_fails_anew_after_it_was_repaired_is_new() -> None:
    told = news([failed("a"), failed("b")], (), Told(), NOW).if_told
    told = news([failed("b")], (), told, NOW).if_not

    assert paths(news([failed("a"), failed("b")], (), told, NOW).new) == ["a"]


def test_a_file_that_is_worked_on_is_neither_repaired_nor_new_when_it_fails_again() -> None:
    told = news([failed("a", "transient")], (), Told(), NOW).if_told

    meanwhile = news([], ["a", "other"], told, NOW)
    assert (meanwhile.is_due, meanwhile.still_failed, meanwhile.repaired) == (False, 1, 0)
    again = news([failed("a", "transient")], (), meanwhile.if_not, NOW)
    assert (again.is_due, again.still_failed) == (False, 1)


def test_what_is_remembered_is_bounded_and_still_nobody_is_told_twice() -> None:
    files = [failed(f"/data/{number}", "transient") for number in range(3 * MOST_REPORTED)]

    first = news(files, (), Told(), NOW)
    assert len(first.new) == 3 * MOST_REPORTED
    assert len(first.if_told.files) == MOST_REPORTED
    assert len(DigestCursor(channels={"webhook": first.if_told}).model_dump_json()) < 20_000

    # Tried again and failed again meanwhile.
    later = NOW + timedelta(hours=6)
    again = [failed(file.path, "transient", last=-timedelta(hours=5)) for file in files]
    second = news(again, (), first.if_told, later)
    assert (second.new, second.still_failed, second.repaired) == ((), 3 * MOST_REPORTED, 0)

    third = news([*again[:5], failed("new", ago=-timedelta(hours=5))], (), second.if_not, later)
    assert (paths(third.new), third.still_failed) == (["new"], 5)
    assert third.repaired == 3 * MOST_REPORTED - 5
    assert news(again[:5], (), third.if_told, later).still_failed == 5


def test_short_names_are_short_and_differ() -> None:
    names = {short_name(f"/data/{number}.hdf") for number in range(10_000)}

    assert len(names) == 10_000
    assert {len(name) for name in names} == {8}
    assert short_name("\udcff")


# The sensor


@pytest.fixture
def hooks() -> Iterator[tuple[Hook, Hook]]:
    one, other = Hook(), Hook()
    yield one, other
    one.close()
    other.close()


def facility(small: SmallFacility, **notifications: object) -> Facility:
    small.facility()
    path = small.directory / "config.yml"
    document = yaml.safe_load(path.read_text()) | {"id": "odin", "notifications": notifications}
    path.write_text(yaml.safe_dump(document))
    return Facility(CurrentConfiguration(load_configuration(path, {})))


def tick(
    small: SmallFacility, told: Facility, cursor: str | None = None, *conditions: Condition
) -> tuple[str, str]:
    """The words of a tick, and its cursor; ``conditions`` are what is not well."""
    sensor = digest_sensor(told.settings.notifications, UNPREFIXED, lambda *_: conditions)
    context = dg.build_sensor_context(instance=small.instance, cursor=cursor, resources={"facility": told})
    data = sensor.evaluate_tick(context)
    assert not data.run_requests
    assert SECRET not in str(data)
    return str(data.skip_message), str(data.cursor)


def fail(small: SmallFacility, *files: str) -> None:
    """Runs of files that end with a permanent failure."""
    small.instance.add_dynamic_partitions("nexus_files", list(files))
    for path in files:
        run_id = str(uuid.uuid4())
        tags = {"dagster/partition": path, FAILURE_TAG: "permanent", FAILED_RUN_TAG: run_id}
        run = small.instance.add_run(dg.DagsterRun("ingest_file", run_id=run_id, tags=tags))
        small.instance.report_run_failed(run)


def test_a_failed_file_is_told_once_with_its_reason_and_then_that_it_is_repaired(
    small: SmallFacility, hooks: tuple[Hook, Hook]
) -> None:
    told = facility(small, webhook=hooks[0].address)
    small.store.clear()
    small.ingest(Facility(told.current, wait_seconds=0.0, op_pauses=()))

    words, cursor = tick(small, told)
    assert words == "webhook was told: [scicat_dagster odin] 1 file failed"
    ((_, first),) = hooks[0].posted
    assert first["files"][0]["file"] == small.key()
    assert "Mandatory fields cannot be built" in first["reasons"][0]["reason"]
    assert first["files"][0]["what_to_do"]

    words, cursor = tick(small, told, cursor)
    assert words == "1 failed files, none of them news."

    small.store.add_instrument("ODIN")
    small.add_proposal()
    assert small.ingest(Facility(told.current, wait_seconds=0.0)).success
    words, cursor = tick(small, told, cursor)
    assert words == "webhook was told: [scicat_dagster odin] all failed files are repaired"
    assert tick(small, told, cursor)[0] == "0 failed files, none of them news."
    assert len(hooks[0].posted) == 2


def test_a_thousand_failures_are_one_message(small: SmallFacility, hooks: tuple[Hook, Hook]) -> None:
    told = facility(small, webhook=hooks[0].address)
    fail(small, *[f"/data/{number}.hdf" for number in range(1000)])

    _, cursor = tick(small, told)

    ((_, body),) = hooks[0].posted
    assert body["new"] == 1000
    assert len(body["files"]) == MOST_LISTED
    assert sum(reason["files"] for reason in body["reasons"]) == 1000
    assert len(body["text"]) < 40_000
    assert len(cursor) < 20_000


def test_a_channel_that_fails_is_told_later_and_the_other_one_not_again(
    small: SmallFacility, hooks: tuple[Hook, Hook], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    one, other = hooks
    told = facility(small, webhook=one.address, slack_webhook=other.address)
    other.status = 503
    fail(small, "/data/a.hdf")

    words, cursor = tick(small, told)
    assert "webhook was told: " in words
    assert "slack_webhook was not told: The server of notifications.slack_webhook answered 503." in words
    assert SECRET not in cursor

    # Only the failing one has something to be told now, so that the tick fails for all to see.
    with pytest.raises(TransientError, match="slack_webhook answered 503"):
        tick(small, told, cursor)

    fail(small, "/data/b.hdf")
    other.status = 200
    words, cursor = tick(small, told, cursor)
    assert [body["new"] for _, body in one.posted] == [1, 1]
    assert other.posted[-1][1]["text"].startswith("[scicat_dagster odin] 2 files failed")
    assert tick(small, told, cursor)[0] == "2 failed files, none of them news."
    assert SECRET not in caplog.text


def test_when_nobody_could_be_told_the_tick_fails_without_the_address(
    small: SmallFacility, hooks: tuple[Hook, Hook]
) -> None:
    told = facility(small, webhook=f"http://127.0.0.1:1/{SECRET}", slack_webhook=hooks[1].address)
    hooks[1].status = 404
    fail(small, "/data/a.hdf")

    with pytest.raises(TransientError) as caught:
        tick(small, told)

    assert SECRET not in f"{caught.value!r}"


def test_a_run_that_dagster_will_retry_is_not_taken_for_repaired(
    small: SmallFacility, hooks: tuple[Hook, Hook]
) -> None:
    told = facility(small, webhook=hooks[0].address)
    fail(small, "/data/a.hdf")
    _, cursor = tick(small, told)

    (file,) = failed_files(small.instance)
    small.instance.add_run_tags(file.run_id, {"dagster/will_retry": "true"})

    assert failed_files(small.instance) == []
    assert tick(small, told, cursor)[0] == "0 failed files, none of them news."
    assert len(hooks[0].posted) == 1


def test_a_channel_that_is_new_is_told_everything(small: SmallFacility, hooks: tuple[Hook, Hook]) -> None:
    fail(small, "/data/a.hdf")
    _, cursor = tick(small, facility(small, webhook=hooks[0].address))

    both = facility(small, webhook=hooks[0].address, slack_webhook=hooks[1].address)
    assert tick(small, both, cursor)[0] == "slack_webhook was told: [scicat_dagster odin] 1 file failed"


def test_without_a_channel_nothing_is_looked_at(small: SmallFacility) -> None:
    told = facility(small)

    assert "names no channel" in tick(small, told)[0]


def test_the_sensor_is_on_where_somebody_is_to_be_told() -> None:
    off = digest_sensor(NotificationSettings(), UNPREFIXED)
    on = digest_sensor(
        NotificationSettings.model_validate({"webhook": "https://hook", "every_minutes": 5}), UNPREFIXED
    )

    assert off.default_status is dg.DefaultSensorStatus.STOPPED
    assert on.default_status is dg.DefaultSensorStatus.RUNNING
    assert on.minimum_interval_seconds == 300


def test_a_cursor_that_is_not_ours_is_said_so() -> None:
    with pytest.raises(PermanentError, match="Reset it"):
        DigestCursor.parse("nonsense")


AWAY = Condition(name="scicat", what="SciCat cannot be reached.", what_to_do="See that it is there.")


def test_what_is_not_well_is_told_once_and_that_it_is_well_again(
    small: SmallFacility, hooks: tuple[Hook, Hook]
) -> None:
    told = facility(small, webhook=hooks[0].address)
    _, cursor = tick(small, told)
    assert hooks[0].posted == []

    words, cursor = tick(small, told, cursor, AWAY)
    assert words == "webhook was told: [scicat_dagster odin] not well: scicat"
    _, message = hooks[0].posted[-1]
    assert "SciCat cannot be reached." in message["text"]
    assert message["conditions"] == [AWAY.model_dump()]

    words, cursor = tick(small, told, cursor, AWAY)
    assert "none of them news" in words
    words, _ = tick(small, told, cursor)
    assert words == "webhook was told: [scicat_dagster odin] well again: scicat"
    assert len(hooks[0].posted) == 2


def test_messages_that_led_to_no_file_are_told_by_their_number(
    small: SmallFacility, hooks: tuple[Hook, Hook]
) -> None:
    told = facility(small, webhook=hooks[0].address)

    def reject(offset: int) -> None:
        rejected = Rejected(Position("odin", 0, offset), "It is broken.", "Mend it.", b"x")
        small.instance.report_runless_asset_event(rejected_event(rejected))

    reject(0)
    words, cursor = tick(small, told)
    assert "none of them news" in words
    reject(1)
    reject(2)
    words, cursor = tick(small, told, cursor)
    assert words == "webhook was told: [scicat_dagster odin] 2 messages led to no file"
    words, _ = tick(small, told, cursor)
    assert "none of them news" in words


def test_a_channel_that_was_away_is_told_what_is_not_well_later(
    small: SmallFacility, hooks: tuple[Hook, Hook]
) -> None:
    told = facility(small, webhook=hooks[0].address, slack_webhook=hooks[1].address)
    _, cursor = tick(small, told)
    hooks[0].status = 503
    _, cursor = tick(small, told, cursor, AWAY)
    hooks[0].status = 200

    words, _ = tick(small, told, cursor, AWAY)

    assert words == "webhook was told: [scicat_dagster odin] not well: scicat"


def test_what_health_finds_is_what_is_told(small: SmallFacility, tmp_path: Path) -> None:
    small.password = "wrong"

    with instance_in(tmp_path / "home") as home:
        names = {condition.name for condition in not_well(small.facility(), home)}

    # Nothing has ever run here, and the rest follows of it. That nobody knows our login is for the sensor
    # that reports what is away.
    assert names == {"daemons"}


def test_what_has_a_cause_of_its_own_is_told(small: SmallFacility, tmp_path: Path) -> None:
    with instance_in(tmp_path / "home") as home:
        heartbeats(home, time.time())
        conditions = not_well(small.facility(), home)

    # The daemons live: that the sensor never ran is not theirs; that nobody knows of topics follows of it.
    assert {condition.name for condition in conditions} == {"sensor"}
