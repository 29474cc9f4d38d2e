"""How the service is doing today: its numbers, the sensor that reports them, and the command."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner, Result
from dagster._core.scheduler.instigation import TickStatus

from scicat_dagster.cli import main
from scicat_dagster.config.current import CurrentConfiguration
from scicat_dagster.config.loading import load_configuration
from scicat_dagster.diagnostics.checkup import Check
from scicat_dagster.kafka.messages import Position, Rejected
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.ingest.rejected_messages import rejected_event
from scicat_dagster.orchestration.names import UNPREFIXED
from scicat_dagster.orchestration.operations.today import (
    LONGEST_KNOWN_LAG,
    Registrations,
    Today,
    as_text,
    reported,
    reported_away,
    today,
)
from scicat_dagster.orchestration.operations.today_sensor import checksum, today_sensor
from scicat_dagster.orchestration.tags import KAFKA_LAG, LAG_BY_TOPIC, PURPOSE_RUN_TAG
from tests.notifications.test_notifications import Hook
from tests.orchestration.ingest.test_raw_dataset import announcement
from tests.orchestration.operations.test_health import heartbeats, sensor
from tests.small_facility import SmallFacility, instance_in

OK = Check(name="scicat", ok=True, words="It answers.")
AWAY = Check(name="scicat", ok=False, words="It cannot be reached.", remedy="Look at it.")


def numbers(small: SmallFacility, *checks: Check, registrations: Registrations | None = None) -> Today:
    return today(small.instance, checks, {}, registrations or Registrations())


def test_where_nothing_happened_there_is_nothing_to_tell(small: SmallFacility) -> None:
    found = numbers(small)

    assert (found.registered, found.failed, found.waiting, found.rejected) == (0, 0, 0, 0)
    assert (found.oldest_unregistered, found.median_seconds, found.unread) == (None, None, None)


def test_registered_files_are_counted_once_with_their_seconds_by_instrument(small: SmallFacility) -> None:
    for _ in range(2):
        small.ingest(small.facility(), run_config=announcement(small.file))

    found = numbers(small)

    assert found.registered == 1
    assert found.median_seconds == found.p95_seconds
    (instrument,) = found.instruments
    assert (instrument.instrument, instrument.registered, instrument.failed) == ("ODIN", 1, 0)


def test_only_what_is_new_is_read_again(small: SmallFacility) -> None:
    registrations = Registrations()
    assert numbers(small, registrations=registrations).registered == 0
    small.ingest(small.facility())

    assert numbers(small, registrations=registrations).registered == 1
    assert numbers(small, registrations=registrations).registered == 1


def test_another_day_begins_at_zero(small: SmallFacility) -> None:
    registrations = Registrations()
    small.ingest(small.facility())
    assert numbers(small, registrations=registrations).registered == 1

    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert today(small.instance, (), {}, registrations, tomorrow).registered == 0


def test_failed_files_are_counted_by_reason_and_by_what_they_wait_for(small: SmallFacility) -> None:
    facility = small.facility(
        file_handling={"data_file_open_max_tries": 1, "data_directory": str(small.directory / "data")}
    )
    for name in ("one.hdf", "two.hdf"):
        small.ingest(facility, small.file.with_name(name), run_config=announcement(small.file))
    small.store.clear()
    small.ingest(facility)

    found = numbers(small)

    assert (found.failed, found.waiting_for_retry) == (1, 2)
    assert [reason.files for reason in found.reasons] == [2, 1]
    assert [reason.waiting_for_retry for reason in found.reasons] == [2, 0]
    # Of files that are not there nobody knows the instrument.
    instruments = {each.instrument: (each.failed, each.waiting_for_retry) for each in found.instruments}
    assert instruments == {"ODIN": (1, 0), "unknown": (0, 2)}
    assert "one.hdf" not in found.reasons[0].reason
    # The time of the message, not of the run.
    assert found.oldest_unregistered == datetime.fromtimestamp(1_730_000_000, UTC)


def test_files_of_dry_runs_are_counted(small: SmallFacility) -> None:
    assert "dry runs only" not in as_text(numbers(small))
    small.ingest(small.facility(dry_run=True))

    found = numbers(small)

    assert (found.dry_runs, found.failed, found.registered) == (1, 0, 0)
    assert "dry runs only           1 (not registered" in as_text(found)


def test_runs_that_wait_and_runs_that_work_are_told_apart(small: SmallFacility) -> None:
    for status in (
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTED,
    ):
        small.instance.add_run(
            dg.DagsterRun("ingest_file", status=status, tags={PURPOSE_RUN_TAG: "ingestion"})
        )

    found = numbers(small)

    assert (found.queued, found.running, found.waiting) == (2, 1, 3)
    assert found.oldest_unregistered is not None


def test_rejected_and_unread_messages_are_counted(small: SmallFacility) -> None:
    rejected = Rejected(Position("coda", 0, 1), "It is broken.", "Mend it.", b"x")
    small.instance.report_runless_asset_event(rejected_event(rejected))
    lag = dg.AssetMaterialization(KAFKA_LAG, metadata={LAG_BY_TOPIC: dg.MetadataValue.json({"a": 3, "b": 4})})
    small.instance.report_runless_asset_event(lag)

    found = numbers(small)

    assert (found.rejected, found.unread) == (1, 7)


def lag(small: SmallFacility, messages: int) -> None:
    metadata = {LAG_BY_TOPIC: dg.MetadataValue.json({"coda": messages})}
    small.instance.report_runless_asset_event(dg.AssetMaterialization(KAFKA_LAG, metadata=metadata))


def test_what_nobody_reads_is_not_counted_by_what_was_said_before(small: SmallFacility) -> None:
    lag(small, 0)
    well = as_text(numbers(small))
    nobody = Check(name="daemons", ok=False, words="No daemon lives.", remedy="Start it.")
    found = today(small.instance, (), {}, Registrations(), dagster=[nobody])

    assert "oldest unregistered     none\nunread messages         0\n" in well
    assert found.unread is None
    assert "oldest unregistered     unknown\nunread messages         unknown\n" in as_text(found)


def test_a_lag_that_was_said_long_ago_is_not_known_any_more(small: SmallFacility) -> None:
    lag(small, 3)
    now = datetime.now(UTC)

    assert today(small.instance, (), {}, Registrations(), now + LONGEST_KNOWN_LAG * 0.9).unread == 3
    assert today(small.instance, (), {}, Registrations(), now + LONGEST_KNOWN_LAG * 1.1).unread is None


def test_the_oldest_file_is_not_known_while_messages_are_unread(small: SmallFacility) -> None:
    lag(small, 3)

    assert "oldest unregistered     unknown\nunread messages         3\n" in as_text(numbers(small))


def test_files_that_wait_for_a_retry_are_not_shown_as_failed(small: SmallFacility) -> None:
    facility = small.facility(
        file_handling={"data_file_open_max_tries": 1, "data_directory": str(small.directory / "data")}
    )
    small.ingest(facility, small.file.with_name("one.hdf"), run_config=announcement(small.file))

    text = as_text(numbers(small))

    assert "failed                  0" in text
    assert "why files failed" not in text
    assert "why files wait for a retry\n     1  " in text


# The sensor


@pytest.fixture
def hook() -> Iterator[Hook]:
    opened = Hook()
    yield opened
    opened.close()


def notified(small: SmallFacility, hook: Hook) -> Facility:
    small.facility()
    path = small.directory / "config.yml"
    notifications = {"webhook": hook.address, "dagster_url": "https://dagster.example.org"}
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"notifications": notifications}))
    return Facility(CurrentConfiguration(load_configuration(path, {})))


def tick(small: SmallFacility, facility: Facility, cursor: str | None, checks: Sequence[Check]) -> str:
    """One tick, whose events are stored; its cursor."""
    context = dg.build_sensor_context(
        instance=small.instance, cursor=cursor, resources={"facility": facility}
    )
    data = today_sensor(UNPREFIXED, lambda _: checks).evaluate_tick(context)
    for event in data.asset_events:
        small.instance.report_runless_asset_event(event)
    return str(data.cursor)


def test_who_is_to_be_told_is_told_at_once_and_once(small: SmallFacility, hook: Hook) -> None:
    facility = notified(small, hook)
    cursor = tick(small, facility, None, [OK])
    assert hook.posted == []

    cursor = tick(small, facility, cursor, [AWAY])
    cursor = tick(small, facility, cursor, [AWAY])
    ((_, gone),) = hook.posted
    assert [each["name"] for each in gone["away"]] == ["scicat"]
    assert "https://dagster.example.org" in gone["text"]

    tick(small, facility, cursor, [OK])
    _, back = hook.posted[-1]
    assert len(hook.posted) == 2
    assert back["back"][0]["since"] == gone["away"][0]["since"]


def test_a_channel_that_was_away_itself_is_told_later(small: SmallFacility, hook: Hook) -> None:
    facility = notified(small, hook)
    hook.status = 503
    cursor = tick(small, facility, None, [AWAY])
    hook.status = 200

    tick(small, facility, cursor, [AWAY])

    assert [each["name"] for each in hook.posted[-1][1]["away"]] == ["scicat"]


def test_since_when_something_is_away_stays_the_same(small: SmallFacility, hook: Hook) -> None:
    facility = notified(small, hook)
    cursor = tick(small, facility, None, [AWAY])
    since = reported_away(small.instance)
    tick(small, facility, cursor, [AWAY])

    assert since.keys() == {"scicat"}
    assert reported_away(small.instance) == since


def test_the_asset_is_reported_when_something_goes_away_and_not_at_each_tick(
    small: SmallFacility, hook: Hook
) -> None:
    facility = notified(small, hook)
    cursor = tick(small, facility, None, [OK])
    cursor = tick(small, facility, cursor, [OK])
    assert len(small.instance.fetch_materializations(dg.AssetKey("today"), limit=5).records) == 1

    tick(small, facility, cursor, [AWAY])

    assert len(small.instance.fetch_materializations(dg.AssetKey("today"), limit=5).records) == 2
    found = reported(small.instance)
    assert found is not None
    assert [each.ok for each in found.dependencies] == [False]


def test_only_numbers_make_a_report_another_one(small: SmallFacility) -> None:
    first = numbers(small, OK)
    later = today(small.instance, [OK.model_copy(update={"words": "Still."})], {}, Registrations())
    small.ingest(small.facility())

    assert checksum(first) == checksum(later)
    assert checksum(first) != checksum(numbers(small, OK))


def test_a_cursor_that_is_not_ours_is_taken_for_none(small: SmallFacility, hook: Hook) -> None:
    tick(small, notified(small, hook), "not ours", [AWAY])

    assert reported_away(small.instance).keys() == {"scicat"}


# The command


def status(small: SmallFacility, home: str, *arguments: str) -> Result:
    config = str(small.directory / "config.yml")
    runner = CliRunner(env={"DAGSTER_HOME": home})
    return runner.invoke(main, ["status", "--config", config, *arguments])


def test_the_command_shows_the_numbers_and_what_is_away_since_when(
    small: SmallFacility, tmp_path: Path, hook: Hook
) -> None:
    with instance_in(tmp_path / "home") as instance:
        small.instance = instance
        small.ingest(small.facility())
        facility = notified(small, hook)
        tick(small, facility, None, [AWAY])
        since = reported_away(instance)["scicat"]
        small.server.stop()

        shown = status(small, instance.root_directory)
        found = json.loads(status(small, instance.root_directory, "--json").stdout)

    assert shown.exit_code == 0, shown.output
    assert "registered today        1" in shown.stdout
    assert f"configuration           {small.directory / 'config.yml'}\n" in shown.stdout
    assert f"DAGSTER_HOME            {instance.root_directory}\n" in shown.stdout
    assert found["configuration"] == str(small.directory / "config.yml")
    assert found["dagster_home"] == instance.root_directory
    (scicat,) = (each for each in found["dependencies"] if each["name"] == "scicat")
    assert datetime.fromisoformat(scicat["away_since"]) == since
    assert found["registered"] == 1


def test_that_nothing_works_on_files_stands_above_everything(small: SmallFacility, tmp_path: Path) -> None:
    with instance_in(tmp_path / "home") as instance:
        small.facility()
        never = status(small, instance.root_directory)
        never_json = json.loads(status(small, instance.root_directory, "--json").stdout)
        now = time.time()
        heartbeats(instance, now)
        sensor(instance, (TickStatus.SKIPPED, now))
        well = status(small, instance.root_directory)

    _, _, first, *_ = never.stdout.splitlines()
    assert first == "NOT OK    No daemon lives (none has ever run): nothing works on files."
    assert [(check["name"], check["ok"]) for check in never_json["dagster"]] == [
        ("daemons", False),
        ("sensor", False),
    ]
    assert "NOT OK" not in well.stdout


def test_without_records_the_command_says_so(small: SmallFacility) -> None:
    small.facility()
    shown = status(small, "")

    assert shown.exit_code == 2
    assert "DAGSTER_HOME is not set" in shown.stderr
