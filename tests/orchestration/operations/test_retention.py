"""Old registered files are forgotten, and no others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from scicat_dagster.config.models import RetentionSettings
from scicat_dagster.definitions import build_definitions
from scicat_dagster.orchestration.names import UNPREFIXED
from scicat_dagster.orchestration.operations.retention import deletable, delete_registered, retention_schedule
from scicat_dagster.orchestration.past_files.backfills import start_backfills
from scicat_dagster.orchestration.tags import RAW_DATASET
from tests.small_facility import SmallFacility

TOMORROW = datetime.now(UTC) + timedelta(days=1)


def forgotten(small: SmallFacility, before: datetime = TOMORROW) -> list[str]:
    return [path for path, _ in deletable(small.instance, before)]


def test_a_file_that_was_registered_long_ago_is_forgotten(small: SmallFacility) -> None:
    run = small.ingest(small.facility())

    assert list(deletable(small.instance, TOMORROW)) == [(small.key(), [run.run_id])]


def test_a_file_that_was_registered_since_is_kept(small: SmallFacility) -> None:
    small.ingest(small.facility())

    assert forgotten(small, datetime.now(UTC) - timedelta(hours=1)) == []


def test_a_file_that_failed_is_kept(small: SmallFacility) -> None:
    small.schema.unlink()
    assert not small.ingest(small.facility()).success

    assert forgotten(small) == []


def test_a_file_that_was_registered_and_failed_later_is_kept(small: SmallFacility) -> None:
    small.ingest(small.facility())
    small.schema.unlink()
    assert not small.ingest(small.facility()).success

    assert forgotten(small) == []


def test_a_file_that_is_being_worked_on_is_kept(small: SmallFacility) -> None:
    small.ingest(small.facility())
    small.instance.add_run(
        dg.DagsterRun(
            "ingest_file", tags={"dagster/partition": small.key()}, status=dg.DagsterRunStatus.STARTED
        )
    )

    assert forgotten(small) == []


def test_the_files_of_a_backfill_are_kept_that_has_not_come_to_them_yet(small: SmallFacility) -> None:
    small.ingest(small.facility())

    start_backfills(small.instance, [small.key()], "test")

    assert forgotten(small) == []


@pytest.mark.parametrize(
    ("first", "last", "is_kept"), [(0, 2, True), (1, 1, True), (2, 2, False), (0, 0, False)]
)
def test_the_files_of_a_run_of_many_are_kept_while_it_works(
    small: SmallFacility, first: int, last: int, is_kept: bool
) -> None:
    files = [small.file.with_name("before.hdf"), small.file, small.file.with_name("after.hdf")]
    small.instance.add_dynamic_partitions("nexus_files", [small.key(file) for file in files])
    small.ingest(small.facility())
    ends = {
        "dagster/asset_partition_range_start": small.key(files[first]),
        "dagster/asset_partition_range_end": small.key(files[last]),
    }

    small.instance.add_run(dg.DagsterRun("ingest_file", tags=ends, status=dg.DagsterRunStatus.STARTED))

    assert forgotten(small) == ([] if is_kept else [small.key()])


def test_a_file_that_was_registered_again_is_as_old_as_that(small: SmallFacility) -> None:
    small.ingest(small.facility())
    between = datetime.now(UTC)
    small.ingest(small.facility())

    assert forgotten(small, between) == []
    assert len(next(deletable(small.instance, TOMORROW))[1]) == 2


def test_key_and_runs_go_and_the_catalogue_is_left_alone(small: SmallFacility) -> None:
    run = small.ingest(small.facility())
    before = small.store.datasets()
    between_the_ops = Path(small.instance.storage_directory()) / run.run_id
    assert between_the_ops.exists()

    assert delete_registered(small.instance, TOMORROW) == (1, 1)

    assert not small.instance.has_run(run.run_id)
    assert not between_the_ops.exists()
    assert small.instance.get_dynamic_partitions("nexus_files") == []
    assert small.instance.get_materialized_partitions(RAW_DATASET) == set()
    assert small.store.datasets() == before
    assert Path(small.file).exists()


def test_the_job_forgets_nothing_unless_the_configuration_says_when(small: SmallFacility) -> None:
    facility = small.facility()
    run = small.ingest(facility)
    job = build_definitions(facility.configuration, facility).resolve_job_def("apply_retention")

    assert job.execute_in_process(instance=small.instance).success

    assert small.instance.has_run(run.run_id)


def test_the_schedule_runs_only_where_an_age_is_given() -> None:
    assert (
        retention_schedule(RetentionSettings(), UNPREFIXED).default_status is dg.DefaultScheduleStatus.STOPPED
    )
    assert (
        retention_schedule(RetentionSettings(days=30), UNPREFIXED).default_status
        is dg.DefaultScheduleStatus.RUNNING
    )
