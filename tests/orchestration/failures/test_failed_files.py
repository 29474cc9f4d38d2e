"""Files that failed: the inventory, its report, and trying again later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as db
import yaml
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunTagsTable

from scicat_dagster.definitions import build_definitions
from scicat_dagster.orchestration.failures.failed_files import (
    BATCH_GRACE,
    MOST_ROUNDS,
    PROMISE,
    FailedFile,
    failed_files,
    problem_of,
)
from scicat_dagster.orchestration.ingest.jobs import ingest_file
from scicat_dagster.orchestration.ingest.retry_sensor import (
    FIRST_PAUSE,
    FIRST_SHORT_PAUSE,
    LONGEST_PAUSE,
    due,
    retries,
    retry_sensor,
)
from scicat_dagster.orchestration.names import UNPREFIXED
from scicat_dagster.orchestration.operations.failure_report import failed_files_report
from scicat_dagster.orchestration.tags import RAW_DATASET
from tests.small_facility import SmallFacility

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def broken_schema(small: SmallFacility) -> str:
    """The small facility with a schema that cannot be used; the good one is the fixture's value."""
    good = small.schema.read_text()
    schema = yaml.safe_load(good)
    del schema["id"]
    small.schema.write_text(yaml.safe_dump(schema, sort_keys=False))
    return good


def retry_tick(small: SmallFacility, now: datetime) -> SensorExecutionData:
    """What Dagster makes of a tick at a time: it refuses requests for partitions that do not exist."""

    @dg.sensor(name="retry_sensor", job=ingest_file(UNPREFIXED))
    def at_that_time(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return retries(context.instance, now)

    definitions = build_definitions(small.facility().configuration)
    context = dg.build_sensor_context(instance=small.instance, definitions=definitions)
    with dg.partition_loading_context(dynamic_partitions_store=small.instance):
        return at_that_time.evaluate_tick(context)


def failed(kind: str = "transient", *, ago: timedelta, round_: int = 0) -> FailedFile:
    return FailedFile(
        path="/data/a.hdf",
        since=NOW - ago,
        last=NOW - ago,
        runs=1,
        run_id="run",
        kind=kind,
        round=round_,
        told_run_id="run",
        run_config={},
    )


def test_a_failed_file_is_listed_with_its_reason(small: SmallFacility, broken_schema: str) -> None:
    result = small.ingest(small.facility())

    (file,) = failed_files(small.instance)
    assert (file.path, file.kind, file.runs) == (small.key(), "permanent", 1)
    assert file.run_id == result.run_id
    problem = problem_of(small.instance, file)
    reason, remedy = problem.what, problem.remedy
    assert "id: is missing" in reason
    assert "Correct the schema file" in remedy


def test_a_file_is_no_longer_listed_once_it_is_registered(small: SmallFacility, broken_schema: str) -> None:
    small.ingest(small.facility())
    small.schema.write_text(broken_schema)
    small.ingest(small.facility())

    assert failed_files(small.instance) == []


def test_a_file_that_failed_several_times_is_listed_once(small: SmallFacility, broken_schema: str) -> None:
    small.ingest(small.facility())
    last = small.ingest(small.facility())

    (file,) = failed_files(small.instance)
    assert (file.runs, file.run_id) == (2, last.run_id)
    assert file.since <= file.last


def test_a_file_that_a_backfill_has_repaired_is_not_listed(small: SmallFacility, broken_schema: str) -> None:
    """The run of a backfill is about many files, and its tags name only the first and the last."""
    small.ingest(small.facility())
    small.schema.write_text(broken_schema)
    small.ingest_range(small.facility(), [small.file])

    assert small.instance.get_materialized_partitions(RAW_DATASET) == {small.key()}
    assert failed_files(small.instance) == []


def test_a_file_whose_partition_was_deleted_is_not_listed(small: SmallFacility, broken_schema: str) -> None:
    small.ingest(small.facility())
    small.instance.delete_dynamic_partition("nexus_files", small.key())

    assert failed_files(small.instance) == []


def test_a_deleted_partition_does_not_keep_other_files_from_being_tried_again(small: SmallFacility) -> None:
    facility = small.facility(file_handling={"data_file_open_max_tries": 1})
    late, deleted = small.file.with_name("late.hdf"), small.file.with_name("deleted.hdf")
    small.ingest(facility, late)
    small.ingest(facility, deleted)
    small.instance.delete_dynamic_partition("nexus_files", str(deleted))

    tick = retry_tick(small, datetime.now(UTC) + FIRST_SHORT_PAUSE)

    assert [request.partition_key for request in tick.run_requests or ()] == [str(late)]


def test_failures_older_than_a_month_are_still_listed(small: SmallFacility, broken_schema: str) -> None:
    small.ingest(small.facility())

    assert failed_files(small.instance, datetime.now(UTC) + timedelta(days=400))


def test_a_dry_run_repairs_nothing(small: SmallFacility, broken_schema: str) -> None:
    failed_run = small.ingest(small.facility())
    small.schema.write_text(broken_schema)
    assert small.ingest(small.facility(dry_run=True)).success

    (file,) = failed_files(small.instance)
    assert file.run_id == failed_run.run_id


def test_failures_before_a_registration_do_not_count(small: SmallFacility, broken_schema: str) -> None:
    small.ingest(small.facility())
    broken = small.schema.read_text()
    small.schema.write_text(broken_schema)
    small.ingest(small.facility())
    small.schema.write_text(broken)
    last = small.ingest(small.facility())

    (file,) = failed_files(small.instance)
    assert (file.runs, file.run_id, file.since) == (1, last.run_id, file.last)


def test_a_file_that_a_killed_backfill_left_is_listed_when_nobody_requested_it(small: SmallFacility) -> None:
    run = small.ingest_range(small.facility(dry_run=True), [small.file]).dagster_run
    small.instance.report_run_failed(run)

    assert failed_files(small.instance) == []
    (file,) = failed_files(small.instance, datetime.now(UTC) + BATCH_GRACE)

    assert (file.path, file.kind) == (small.key(), "crash")


@pytest.mark.parametrize("earlier_failures", [0, 1])
def test_a_run_that_dagster_no_longer_finds_by_its_file_is_listed(
    small: SmallFacility, broken_schema: str, earlier_failures: int
) -> None:
    for _ in range(earlier_failures):
        small.ingest(small.facility())
    last = small.ingest(small.facility())
    # What is left by a kill between Dagster's two writes: the run, and not the tags that it is found by.
    storage = small.instance.run_storage
    assert isinstance(storage, SqlRunStorage)
    with storage.connect() as connection:
        connection.execute(db.delete(RunTagsTable).where(RunTagsTable.c.run_id == last.run_id))

    (file,) = failed_files(small.instance)
    assert (file.runs, file.run_id) == (1 + earlier_failures, last.run_id)


def test_a_run_that_dagster_will_retry_is_not_a_failed_file_yet(
    small: SmallFacility, broken_schema: str
) -> None:
    result = small.ingest(small.facility())
    small.instance.add_run_tags(result.run_id, {"dagster/will_retry": "true"})

    assert failed_files(small.instance) == []


def test_a_retry_that_never_came_does_not_hide_the_failure(small: SmallFacility, broken_schema: str) -> None:
    """A daemon that was killed between its promise and the new run."""
    result = small.ingest(small.facility())
    small.instance.add_run_tags(result.run_id, {"dagster/will_retry": "true"})

    (file,) = failed_files(small.instance, datetime.now(UTC) + 2 * PROMISE)

    assert file.run_id == result.run_id


def test_a_run_that_a_person_cancelled_is_listed_and_left_to_people(small: SmallFacility) -> None:
    run = small.ingest(small.facility(dry_run=True)).dagster_run
    small.instance.report_run_canceled(run)

    (file,) = failed_files(small.instance)
    assert file.kind == "cancelled"
    assert file.needs_manual_intervention
    assert "cancelled" in problem_of(small.instance, file).what


def test_a_run_that_was_interrupted_in_an_op_was_cancelled_and_is_not_a_bug(
    small: SmallFacility, broken_schema: str
) -> None:
    """Dagster stores the interruption as a failure of the op."""
    run = small.ingest(small.facility()).dagster_run
    small.instance.report_run_canceled(run)

    (file,) = failed_files(small.instance)
    problem = problem_of(small.instance, file)
    reason, remedy = problem.what, problem.remedy
    assert reason == "The run was cancelled."
    assert "bug" not in remedy


def test_a_re_executed_run_that_is_killed_has_not_failed_as_its_parent_did(
    small: SmallFacility, broken_schema: str
) -> None:
    parent = small.ingest(small.facility()).dagster_run
    child = small.instance.create_run_for_job(
        build_definitions(small.facility().configuration).resolve_job_def("ingest_file"), tags=parent.tags
    )
    small.instance.report_run_failed(child)

    (file,) = failed_files(small.instance)
    assert file.run_id == child.run_id
    assert file.kind == "crash"
    assert not file.needs_manual_intervention


def test_the_report_is_a_table_of_the_failed_files(small: SmallFacility, broken_schema: str) -> None:
    small.ingest(small.facility())

    result = dg.materialize([failed_files_report(UNPREFIXED)], instance=small.instance)

    (event,) = result.asset_materializations_for_node("failed_files_report")
    assert event.metadata["failed files"].value == 1
    assert event.metadata["need manual intervention"].value == 1
    (row,) = event.metadata["table"].value.records  # type: ignore[union-attr]
    assert row.data["file"] == small.key()
    assert "id: is missing" in str(row.data["reason"])


@pytest.mark.parametrize(
    ("file", "is_due"),
    [
        (failed(ago=FIRST_PAUSE), True),
        (failed(ago=FIRST_PAUSE - timedelta(seconds=1)), False),
        (failed(ago=FIRST_PAUSE, round_=1), False),
        (failed(ago=2 * FIRST_PAUSE, round_=1), True),
        (failed(ago=LONGEST_PAUSE, round_=20), True),
        (failed(ago=LONGEST_PAUSE * 10, round_=MOST_ROUNDS), False),
        (failed("waiting", ago=FIRST_SHORT_PAUSE), True),
        (failed("waiting", ago=FIRST_SHORT_PAUSE, round_=1), False),
        (failed("crash", ago=FIRST_SHORT_PAUSE), True),
        (failed("changed", ago=FIRST_PAUSE), True),
        (failed("permanent", ago=LONGEST_PAUSE * 10), False),
        (failed("cancelled", ago=LONGEST_PAUSE * 10), False),
    ],
)
def test_what_is_due_to_be_tried_again(file: FailedFile, is_due: bool) -> None:
    assert due([file], NOW) == ([file] if is_due else [])


def test_a_file_that_was_not_ready_is_requested_anew_with_its_announcement(small: SmallFacility) -> None:
    missing = small.file.with_name("late.hdf")
    config = {"ops": {"raw_dataset": {"ops": {"wait_for_file": {"config": {"announcement": ""}}}}}}
    run = small.ingest(
        small.facility(file_handling={"data_file_open_max_tries": 1}), Path(missing), run_config=config
    )
    assert not run.success
    (file,) = failed_files(small.instance)
    assert file.kind == "waiting"
    assert due([file], file.last + FIRST_SHORT_PAUSE) == [file]
    assert file.run_config == config


def test_nothing_is_requested_when_nothing_is_due(small: SmallFacility, broken_schema: str) -> None:
    small.ingest(small.facility())

    result = retry_sensor(UNPREFIXED)(dg.build_sensor_context(instance=small.instance))

    assert isinstance(result, dg.SkipReason)
    assert "1 need manual intervention" in str(result.skip_message)
