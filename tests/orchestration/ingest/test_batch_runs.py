"""A batch run, as a backfill makes it: each file stands for itself."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import pytest
import yaml

from scicat_dagster.config.current import CurrentConfiguration
from scicat_dagster.config.loading import load_configuration
from scicat_dagster.definitions import build_definitions
from scicat_dagster.demo.catalogue import CatalogueServer, demo_accounts
from scicat_dagster.demo.catalogue.accounts import Accounts
from scicat_dagster.demo.file_writer import write_past_file
from scicat_dagster.demo.laptop import lay_out, seed
from scicat_dagster.demo.measurement import plan_file
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.failures.failed_files import problem_of_run
from scicat_dagster.orchestration.past_files.deferred_files import deferred_files, requests_for_deferred
from scicat_dagster.orchestration.tags import RAW_DATASET
from scicat_dagster.schemas.loading import SchemaCollection
from tests.storages import faulty_storage

PASSWORD = "many"


@dataclass
class Backlog:
    """A facility with files that nobody announced."""

    facility: Facility
    server: CatalogueServer
    instance: dg.DagsterInstance
    data: Path
    files: list[str]
    """Their partition keys."""

    def run(self) -> dg.ExecuteInProcessResult:
        """One run of all files."""
        job = build_definitions(self.facility.configuration, self.facility).resolve_job_def("ingest_file")
        return job.execute_in_process(
            instance=self.instance,
            tags={
                "dagster/asset_partition_range_start": self.files[0],
                "dagster/asset_partition_range_end": self.files[-1],
            },
            raise_on_error=False,
        )

    def pull_the_brake(self) -> None:
        """Dry runs only, from now on."""
        path = self.facility.configuration.path
        settings = yaml.safe_load(path.read_text())
        settings.setdefault("ingestion", {})["dry_run"] = True
        path.write_text(yaml.safe_dump(settings))

    def green(self) -> set[str]:
        return self.instance.get_materialized_partitions(RAW_DATASET)


@dataclass
class Flawed(Facility):
    """A facility whose schemas cannot be had for the third file, which no code expects."""

    asked: int = 0

    def schemas(self) -> SchemaCollection:
        self.asked += 1
        if self.asked == 3:
            raise KeyError("flaw")
        return super().schemas()


@pytest.fixture
def backlog(tmp_path: Path) -> Iterator[Backlog]:
    lay_out(tmp_path)
    accounts = Accounts(replace(account, password=PASSWORD) for account in demo_accounts())
    data = tmp_path / "data"
    files = [str(write_past_file(plan_file(5, index), data).relative_to(data)) for index in range(6)]
    with (
        CatalogueServer(tmp_path / "catalogue.sqlite", accounts) as server,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        seed(server.store)
        environment = {
            "SCICAT_DEMO_PASSWORD": PASSWORD,
            "SCICAT_DEMO_DATA_DIRECTORY": str(tmp_path / "data"),
            "SCICAT_DEMO_SCICAT_PORT": str(server.port),
        }
        instance.add_dynamic_partitions("nexus_files", files)
        facility = Facility(
            CurrentConfiguration(load_configuration(tmp_path / "config.yml", environment)), op_pauses=()
        )
        yield Backlog(facility, server, instance, data, files)
        facility.close()


def test_many_files_are_registered_in_one_run_each_with_its_own_materialization(backlog: Backlog) -> None:
    assert backlog.run().success

    assert backlog.green() == set(backlog.files)
    assert backlog.server.store.count_datasets() == backlog.server.store.count_origdatablocks() == 6
    pids = set()
    for path in backlog.files:
        event = backlog.instance.fetch_materializations(
            dg.AssetRecordsFilter(RAW_DATASET, asset_partitions=[path]), limit=2
        ).records
        assert len(event) == 1
        assert event[0].asset_materialization is not None
        pids.add(event[0].asset_materialization.metadata["pid"].value)
    assert pids == {dataset["pid"] for dataset in backlog.server.store.datasets()}


def test_one_bad_file_does_not_keep_the_others_and_is_named(backlog: Backlog) -> None:
    bad = backlog.data / backlog.files[2]
    bad.chmod(0o644)
    bad.write_text("no HDF5")
    os.utime(bad, (time.time() - 3600, time.time() - 3600))

    result = backlog.run()

    assert not result.success
    assert backlog.green() == set(backlog.files) - {backlog.files[2]}
    run = backlog.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["dagster/retry_on_asset_or_op_failure"] == "false"
    assert deferred_files(backlog.instance, run) == [backlog.files[2]]


def test_a_defect_that_one_file_meets_does_not_keep_the_others(backlog: Backlog) -> None:
    backlog.facility = Flawed(backlog.facility.current, op_pauses=())

    result = backlog.run()

    run = backlog.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert not result.success
    (bad,) = deferred_files(backlog.instance, run)
    assert backlog.green() == set(backlog.files) - {bad}


def test_the_bad_file_gets_a_run_of_its_own_behind_the_announced_ones(backlog: Backlog) -> None:
    bad = backlog.data / backlog.files[2]
    bad.unlink()
    before = requests_for_deferred(backlog.instance, None).cursor
    backlog.run()

    found = requests_for_deferred(backlog.instance, before)
    (request,) = found.run_requests or ()
    assert request.partition_key == backlog.files[2]
    assert int(request.tags["dagster/priority"]) < 0
    assert requests_for_deferred(backlog.instance, found.cursor).run_requests == []


def test_a_batch_run_does_not_wait_behind_the_runs_that_failed_before_it(backlog: Backlog) -> None:
    (backlog.data / backlog.files[2]).unlink()
    cursor = requests_for_deferred(backlog.instance, None).cursor
    for number in range(30):
        run = dg.DagsterRun("ingest_file", run_id=str(uuid.uuid4()), tags={"dagster/partition": f"{number}"})
        backlog.instance.add_run(run)
        backlog.instance.report_run_failed(run)
    backlog.run()

    found = requests_for_deferred(backlog.instance, cursor)

    assert [request.partition_key for request in found.run_requests or ()] == [backlog.files[2]]


def test_the_position_that_dagsters_own_sensor_left_is_gone_on_from(backlog: Backlog) -> None:
    (backlog.data / backlog.files[2]).unlink()
    backlog.run()
    left = '{"__class__": "RunStatusSensorCursor", "record_id": 0, "update_timestamp": null}'

    found = requests_for_deferred(backlog.instance, left)

    assert [request.partition_key for request in found.run_requests or ()] == [backlog.files[2]]


def test_a_run_of_many_can_be_repeated_and_changes_nothing(backlog: Backlog) -> None:
    backlog.run()
    before = [dataset["updatedAt"] for dataset in backlog.server.store.datasets()]

    assert backlog.run().success

    assert [dataset["updatedAt"] for dataset in backlog.server.store.datasets()] == before
    assert backlog.server.store.count_origdatablocks() == 6


def test_what_a_killed_run_did_not_register_is_left_over(backlog: Backlog) -> None:
    """Its log ends somewhere in the middle."""
    run = dg.DagsterRun(
        "ingest_file",
        tags={
            "dagster/asset_partition_range_start": backlog.files[0],
            "dagster/asset_partition_range_end": backlog.files[-1],
        },
        status=dg.DagsterRunStatus.FAILURE,
    )
    backlog.instance.add_run(run)

    assert deferred_files(backlog.instance, run) == backlog.files


@pytest.mark.parametrize("deleted", [0, 2, 5])
def test_a_partition_that_was_deleted_is_not_left_over(backlog: Backlog, deleted: int) -> None:
    """Not even the first or the last, which the run is named by."""
    backlog.pull_the_brake()
    run = backlog.run().dagster_run
    backlog.instance.delete_dynamic_partition("nexus_files", backlog.files[deleted])

    left = deferred_files(backlog.instance, run)

    assert left == [path for path in backlog.files if path != backlog.files[deleted]]


def test_a_storage_that_hangs_is_waited_for_once_and_the_rest_is_deferred(
    backlog: Backlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scicat_dagster.patience.PATIENCE_SECONDS", 0.5)
    with faulty_storage((backlog.data / backlog.files[2]).parent, b"", 0.0) as storage:
        storage.hang()
        result = backlog.run()

    run = backlog.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert deferred_files(backlog.instance, run) == backlog.files[2:]
    assert backlog.green() == set(backlog.files[:2])
    assert "did not answer" in problem_of_run(backlog.instance, result.run_id, backlog.files[-1]).what
