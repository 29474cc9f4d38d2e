"""Runs that started and never ended: who is named, until when, and what survives a restart."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner

from scicat_dagster.cli import main
from scicat_dagster.config.current import CurrentConfiguration
from scicat_dagster.config.loading import load_configuration
from scicat_dagster.config.models import MonitoringSettings
from scicat_dagster.definitions import build_definitions
from scicat_dagster.kafka.messages import RunStarted
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.names import UNPREFIXED
from scicat_dagster.orchestration.operations.digest_sensor import unended_conditions
from scicat_dagster.orchestration.operations.today import Registrations, as_text, today
from scicat_dagster.orchestration.run_starts.open_runs import follow, started_runs
from scicat_dagster.orchestration.run_starts.unended import (
    ASKED_AGAIN_SECONDS,
    LONGEST_LAG_AGE,
    Watch,
    find_unended,
    is_everything_read,
    reported_unended,
    run_starts_sensor,
)
from scicat_dagster.orchestration.tags import KAFKA_LAG, LAG_BY_TOPIC, RAW_DATASET
from tests.small_facility import SmallFacility, instance_in
from tests.storages import faulty_storage

NOW = datetime.now(UTC)
A_DAY = timedelta(days=1)


def start(file: Path, job: str = "job", ago: timedelta = A_DAY) -> RunStarted:
    moment = int((NOW - ago).timestamp() * 1000)
    return RunStarted(
        file_path=str(file),
        job_id=job,
        instrument="ODIN",
        started_at_ms=moment,
        announced_at_ms=moment,
        topic="t",
        partition=0,
        offset=0,
    )


def report_lag(instance: dg.DagsterInstance, waiting: int = 0) -> None:
    lag = {LAG_BY_TOPIC: dg.MetadataValue.json({"t": waiting})}
    instance.report_runless_asset_event(dg.AssetMaterialization(KAFKA_LAG, metadata=lag))


def with_hours(small: SmallFacility, hours: float) -> Facility:
    """The small facility, whose runs take so many hours at most."""
    small.facility().close()
    path = small.directory / "config.yml"
    settings = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**settings, "monitoring": {"unended_run_hours": hours}}))
    return Facility(CurrentConfiguration(load_configuration(path, {})), wait_seconds=0.0, op_pauses=(0.0,))


class Followed:
    """The small facility, and the sensor that looks at its runs."""

    def __init__(self, small: SmallFacility, hours: float = 2.0) -> None:
        self.small = small
        self.facility = with_hours(small, hours)
        self.cursor: str | None = None

    @property
    def gone(self) -> Path:
        return self.small.directory / "data" / "gone.hdf"

    def tick(self) -> list[dg.AssetCheckEvaluation]:
        """What a tick reports; its cursor is that of the next one."""
        context = dg.build_sensor_context(
            instance=self.small.instance, cursor=self.cursor, resources={"facility": self.facility}
        )
        result = run_starts_sensor(MonitoringSettings(), UNPREFIXED)(context)
        if not isinstance(result, dg.SensorResult):
            return []
        self.cursor = result.cursor
        found = [event for event in result.asset_events or [] if isinstance(event, dg.AssetCheckEvaluation)]
        for event in found:
            self.small.instance.report_runless_asset_event(event)
        return found

    def follow(self, *started: RunStarted, ended: tuple[str, ...] = ()) -> None:
        follow(self.small.instance, started, ended, NOW)

    def named(self) -> list[str]:
        return [each.run.job_id for each in reported_unended(self.small.instance)]


@pytest.fixture
def followed(small: SmallFacility) -> Iterator[Followed]:
    report_lag(small.instance)
    made = Followed(small)
    yield made
    made.facility.close()


def test_a_run_that_never_ended_is_named_and_its_end_clears_that(followed: Followed) -> None:
    followed.follow(start(followed.gone))

    (evaluation,) = followed.tick()

    assert not evaluation.passed
    assert "gone.hdf" in (evaluation.description or "")
    (found,) = reported_unended(followed.small.instance)
    assert (found.run.job_id, found.on_disk.state) == ("job", "not there")
    assert followed.tick() == []
    followed.follow(ended=("job",))
    (cleared,) = followed.tick()
    assert cleared.passed
    assert followed.named() == []


def test_a_run_whose_file_lies_on_disk_is_named_with_it(followed: Followed) -> None:
    followed.follow(start(followed.small.file))

    followed.tick()

    (found,) = reported_unended(followed.small.instance)
    assert found.on_disk.size == followed.small.file.stat().st_size
    assert f"scicat-dagster ingest {followed.small.file}" in found.remedy


def test_a_run_that_is_not_overdue_is_not_named(followed: Followed) -> None:
    followed.follow(start(followed.gone, ago=timedelta(hours=1)))

    (evaluation,) = followed.tick()

    assert evaluation.passed


def test_a_run_whose_file_still_grows_is_not_named(followed: Followed) -> None:
    os.utime(followed.small.file)
    followed.follow(start(followed.small.file))

    (evaluation,) = followed.tick()

    assert evaluation.passed


def test_a_file_that_was_registered_by_another_way_is_never_named(followed: Followed) -> None:
    small = followed.small
    followed.follow(start(small.file))
    small.ingest(small.facility())
    followed.facility = with_hours(small, 2.0)

    assert followed.tick()[0].passed

    # Its partition is forgotten, and the catalogue away.
    small.instance.delete_dynamic_partition("nexus_files", small.key())
    small.server.stop()
    assert find_unended(small.instance, followed.facility, Watch(), NOW) == ()


def test_a_run_whose_file_was_tried_and_failed_stays_named(followed: Followed) -> None:
    small = followed.small
    followed.follow(start(small.file))
    small.store.clear()
    assert not small.ingest(with_hours(small, 2.0)).success

    followed.tick()
    assert followed.named() == ["job"]

    small.add_proposal()
    small.store.add_instrument("ODIN")
    assert small.ingest(with_hours(small, 2.0)).success
    (cleared,) = followed.tick()
    assert cleared.passed


def test_a_file_that_only_the_catalogue_knows_is_not_named(followed: Followed) -> None:
    small = followed.small
    small.ingest(small.facility())
    small.instance.wipe_assets([RAW_DATASET])
    followed.facility = with_hours(small, 2.0)
    followed.follow(start(small.file))

    assert followed.tick()[0].passed


def test_the_catalogue_is_asked_for_a_run_once_an_hour(followed: Followed) -> None:
    small = followed.small
    clock = iter([0.0, ASKED_AGAIN_SECONDS - 1, ASKED_AGAIN_SECONDS])
    watch = Watch(clock=lambda: next(clock))
    followed.follow(start(small.file))
    assert len(find_unended(small.instance, followed.facility, watch, NOW)) == 1
    # By another ingestor, as far as this instance knows.
    small.ingest(small.facility())
    small.instance.wipe_assets([RAW_DATASET])
    followed.facility = with_hours(small, 2.0)

    assert len(find_unended(small.instance, followed.facility, watch, NOW)) == 1
    assert find_unended(small.instance, followed.facility, watch, NOW) == ()


def test_nobody_is_named_while_the_catalogue_is_away(followed: Followed) -> None:
    followed.follow(start(followed.gone))
    followed.small.server.stop()

    assert followed.tick() == []

    followed.small.server.start()
    assert not followed.tick()[0].passed


def test_nobody_is_named_while_messages_wait(followed: Followed) -> None:
    followed.follow(start(followed.gone))
    report_lag(followed.small.instance, waiting=3)

    assert followed.tick() == []

    report_lag(followed.small.instance)
    assert not followed.tick()[0].passed


def test_a_report_of_the_lag_is_good_for_some_minutes(small: SmallFacility) -> None:
    assert not is_everything_read(small.instance, NOW)

    report_lag(small.instance)

    assert is_everything_read(small.instance, NOW)
    assert not is_everything_read(small.instance, datetime.now(UTC) + LONGEST_LAG_AGE)


def test_a_storage_that_hangs_holds_up_one_look(followed: Followed) -> None:
    folder = followed.gone.parent / "hanging"
    folder.mkdir()
    watch = Watch(storage_seconds=0.05)
    with faulty_storage(folder, b"", modified=0.0) as storage:
        storage.hang()
        followed.follow(start(storage.file))

        (found,) = find_unended(followed.small.instance, followed.facility, watch, NOW)

        assert found.on_disk.state == "unknown"
        assert watch.look([str(followed.small.file)]) == {}


def test_a_facility_that_does_not_say_how_long_runs_take_sees_nothing(small: SmallFacility) -> None:
    unwatched = Followed(small, hours=0)
    unwatched.follow(start(unwatched.gone))

    assert unwatched.tick() == []
    unwatched.facility.close()


def test_what_was_named_is_cleared_when_it_is_switched_off(followed: Followed) -> None:
    followed.follow(start(followed.gone))
    followed.tick()
    followed.facility = with_hours(followed.small, 0)

    (evaluation,) = followed.tick()

    assert evaluation.passed


def test_the_check_can_be_executed_by_hand(followed: Followed) -> None:
    followed.follow(start(followed.gone))
    definitions = build_definitions(followed.facility.configuration, followed.facility)
    check = dg.AssetCheckKey(dg.AssetKey("run_starts"), "runs_ended")

    result = (
        dg.define_asset_job(
            "check", selection=dg.AssetSelection.checks(check), executor_def=dg.in_process_executor
        )
        .resolve(
            asset_graph=definitions.get_repository_def().asset_graph,
        )
        .execute_in_process(instance=followed.small.instance, resources={"facility": followed.facility})
    )

    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed


@contextmanager
def restarted(home: Path) -> Iterator[dg.DagsterInstance]:
    with instance_in(home) as instance:
        yield instance


def test_runs_are_listed_and_dismissed_after_a_restart(small: SmallFacility, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with restarted(home) as instance:
        small.instance = instance
        report_lag(instance)
        first = Followed(small)
        first.follow(start(first.gone), start(small.file, "other", timedelta(minutes=5)))
        first.tick()
        first.facility.close()
    with restarted(home) as instance:
        small.instance = instance
        second = Followed(small)
        assert [run.job_id for run in started_runs(instance).open] == ["job", "other"]
        assert second.named() == ["job"]
        runner = CliRunner(env={"DAGSTER_HOME": instance.root_directory})

        listed = runner.invoke(main, ["messages", "runs"]).stdout

        assert str(second.gone) in listed
        assert listed.count("never ended") == 1
        assert runner.invoke(main, ["messages", "dismiss", "nobody"]).exit_code == 1
        assert runner.invoke(main, ["messages", "dismiss", "job"]).exit_code == 0
        (evaluation,) = second.tick()
        assert evaluation.passed
        second.facility.close()


def test_people_are_told_with_the_rest_of_the_day(followed: Followed) -> None:
    followed.follow(start(followed.gone))
    followed.tick()
    instance = followed.small.instance

    found = today(instance, (), {}, Registrations(), NOW)
    (condition,) = unended_conditions(reported_unended(instance))

    assert found.unended_runs == 1
    assert "runs that never ended" in as_text(found)
    assert str(followed.gone) in condition.what
    assert condition.name == "run of gone.hdf"
