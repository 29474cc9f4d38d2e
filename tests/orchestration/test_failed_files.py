"""Files that failed: the inventory, its report, and trying again later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as db
import yaml
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunTagsTable

from scicat_dagster.definitions import build_definitions
from scicat_dagster.orchestration.inventory import PROMISE, FailedFile, failed_files, reason_of
from scicat_dagster.orchestration.later import (
    FIRST_PAUSE,
    FIRST_SHORT_PAUSE,
    LONGEST_PAUSE,
    MOST_ROUNDS,
    due,
    retry_later_sensor,
)
from scicat_dagster.orchestration.reports import failed_files_report
from tests.orchestration.conftest import SmallFacility

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def broken_schema(small: SmallFacility) -> str:
    """The small facility with a schema that cannot be used; the good one is the fixture's value."""
    good = small.schema.read_text()
    schema = yaml.safe_load(good)
    del schema["id"]
    small.schema.write_text(yaml.safe_dump(schema, sort_keys=False))
    return good


def failed(kind: str = "transient", *, ago: timedelta, round_: int = 0) -> FailedFile:
    return FailedFile(
        path="/data/a.hdf",
        since=NOW - ago,
        last=NOW - ago,
        runs=1,
        run_id="run",
        kind=kind,
        round=round_,
        run_config={},
    )


def test_a_failed_file_is_listed_with_its_reason(small: SmallFacility, broken_schema: str) -> None:
    result = small.ingest(small.facility())

    (file,) = failed_files(small.instance)
    assert (file.path, file.kind, file.runs) == (str(small.file), "permanent", 1)
    assert file.run_id == result.run_id
    reason, remedy = reason_of(small.instance, file.run_id)
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
    run = small.ingest(small.facility()).dagster_run
    small.instance.report_run_canceled(run)

    (file,) = failed_files(small.instance)
    assert file.kind == "cancelled"
    assert file.waits_for_a_person
    assert "cancelled" in reason_of(small.instance, file.run_id)[0]


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
    assert not file.waits_for_a_person


def test_the_report_is_a_table_of_the_failed_files(small: SmallFacility, broken_schema: str) -> None:
    small.ingest(small.facility())

    result = dg.materialize([failed_files_report], instance=small.instance)

    (event,) = result.asset_materializations_for_node("failed_files_report")
    assert event.metadata["failed files"].value == 1
    assert event.metadata["waiting for a person"].value == 1
    (row,) = event.metadata["table"].value.records  # type: ignore[union-attr]
    assert row.data["file"] == str(small.file)
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

    result = retry_later_sensor(dg.build_sensor_context(instance=small.instance))

    assert isinstance(result, dg.SkipReason)
    assert "1 wait for a person" in str(result.skip_message)
