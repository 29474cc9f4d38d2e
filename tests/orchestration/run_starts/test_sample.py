"""A run start leads to one sample; the dataset of its file is registered, whatever becomes of that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner
from streaming_data_types import serialise_pl72

from scicat_dagster.cli import main
from scicat_dagster.definitions import build_definitions
from scicat_dagster.demo.broker import LoopbackBroker
from scicat_dagster.demo.catalogue import CatalogueServer, create_app
from scicat_dagster.demo.catalogue.accounts import Accounts, demo_accounts
from scicat_dagster.demo.catalogue.faults import FaultKind, Faults, Scripted
from scicat_dagster.orchestration.failures.failed_files import failed_files, problem_of
from scicat_dagster.orchestration.ingest.retry_sensor import retries
from scicat_dagster.orchestration.names import UNPREFIXED
from scicat_dagster.orchestration.operations.retention import delete_registered
from scicat_dagster.orchestration.past_files.request_sensor import reconcile_sensor
from scicat_dagster.orchestration.run_starts.open_runs import started_runs
from scicat_dagster.orchestration.tags import SAMPLE, SAMPLE_ID
from scicat_dagster.usecases.reingest import Reingestion
from tests.orchestration.ingest.test_sensor import Announcements, observed, wrdn
from tests.small_facility import SmallFacility, instance_in

TOMORROW = timedelta(days=1)


def pl72(path: object, job_id: str = "job", instrument: str = "ODIN") -> bytes:
    return bytes(serialise_pl72(job_id=job_id, filename=str(path), instrument_name=instrument))


def sample_key(small: SmallFacility, file: Path | None = None) -> str:
    return f"sample://{small.key(file)}"


def make(small: SmallFacility, key: str | None = None, **ingestion: object) -> dg.ExecuteInProcessResult:
    """Run the job for the sample of the file that is there, or for another partition."""
    handling = {"data_directory": str(small.directory / "data"), "data_file_open_max_tries": 1}
    facility = small.facility(samples=True, file_handling=handling, **ingestion)
    key = key or sample_key(small)
    small.instance.add_dynamic_partitions("started_files", [key])
    try:
        return (
            build_definitions(facility.configuration, facility)
            .resolve_job_def("make_sample")
            .execute_in_process(
                instance=small.instance,
                partition_key=key,
                tags={"dagster/max_retries": "0"},
                raise_on_error=False,
            )
        )
    finally:
        facility.close()


def samples(small: SmallFacility) -> list[dict[str, Any]]:
    return list(small.store.find("samples", {}))


def want_sample(small: SmallFacility) -> None:
    """Let the schema ask for the file's sample."""
    schema = yaml.safe_load(small.schema.read_text())
    schema["sample_attachment"] = {"query_sample_name": True}
    small.schema.write_text(yaml.safe_dump(schema, sort_keys=False))


# What a tick requests


@pytest.fixture
def announcements(small: SmallFacility, loopback_broker: LoopbackBroker) -> Iterator[Announcements]:
    made = Announcements(small, loopback_broker)
    made.facility = small.facility(samples=True)
    made.facility.wait_seconds = 10.0
    yield made
    made.facility.close()


def test_one_batch_may_start_runs_and_announce_files(announcements: Announcements) -> None:
    small = announcements.small
    other = small.file.with_name("other.hdf")
    announcements.send(pl72(small.file, "one"), wrdn(small.file, "one"), pl72(other, "two"))

    result = announcements.tick()

    requests = list(result.run_requests or [])
    assert [(request.job_name, request.partition_key) for request in requests] == [
        ("make_sample", sample_key(small)),
        ("make_sample", sample_key(small, other)),
        ("ingest_file", small.key()),
    ]
    assert len({request.run_key for request in requests}) == 3
    assert requests[1].tags["instrument"] == "ODIN"
    assert requests[1].tags["file"] == "other.hdf"
    added = {
        change.partitions_def_name: change.partition_keys
        for change in result.dynamic_partitions_requests or []
    }
    assert added == {
        "nexus_files": [small.key()],
        "started_files": [sample_key(small), sample_key(small, other)],
    }
    assert [run.job_id for run in started_runs(small.instance).open] == ["two"]


def test_a_run_that_is_announced_twice_is_requested_once(announcements: Announcements) -> None:
    announcements.send(pl72(announcements.small.file), pl72(announcements.small.file))

    (request,) = announcements.tick().run_requests or []

    assert request.run_key == f"{announcements.topic}:0:1"


def test_a_tick_that_is_repeated_changes_nothing(announcements: Announcements) -> None:
    announcements.send(pl72(announcements.small.file))
    first = announcements.tick()
    runs = started_runs(announcements.small.instance)

    again = announcements.tick()

    assert [request.run_key for request in first.run_requests or []] == [
        request.run_key for request in again.run_requests or []
    ]
    assert started_runs(announcements.small.instance) == runs


def test_a_broken_run_start_is_rejected_and_the_others_are_not(announcements: Announcements) -> None:
    announcements.send(
        pl72(announcements.small.file)[:30], pl72("/elsewhere.hdf"), pl72(announcements.small.file)
    )

    result = announcements.tick()

    assert len(result.run_requests or []) == 1
    assert ["broken pl72" in (event.description or "") for event in observed(result)] == [True, False]


def test_an_existing_configuration_leaves_run_starts_alone(announcements: Announcements) -> None:
    announcements.facility.close()
    announcements.facility = announcements.small.facility()
    announcements.facility.wait_seconds = 10.0
    announcements.send(pl72(announcements.small.file), pl72("/elsewhere.hdf")[:-1])

    result = announcements.tick()

    assert result.run_requests == []
    assert observed(result) == []
    assert "foreign: 2 pl72" in str(result.skip_reason)
    assert started_runs(announcements.small.instance).open == ()


# The sample's own run


def test_a_run_start_makes_the_sample_of_its_file(small: SmallFacility) -> None:
    result = make(small)

    assert result.success
    (sample,) = samples(small)
    assert (sample["description"], sample["proposalId"]) == ("A Sample", "443503")
    event = small.instance.get_latest_materialization_event(SAMPLE)
    assert event is not None
    assert event.asset_materialization is not None
    shown = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    assert shown[SAMPLE_ID] == sample["sampleId"]
    assert (shown["sample"], shown["what became of it"]) == ("A Sample", "made")
    assert str(shown["SciCat"]).endswith(f"/samples/{sample['sampleId']}")


def test_a_second_run_of_the_same_sample_makes_no_second_one(small: SmallFacility) -> None:
    assert make(small).success
    assert make(small).success

    assert len(samples(small)) == 1


def test_a_dry_run_makes_nothing(small: SmallFacility) -> None:
    assert make(small, dry_run=True).success

    assert samples(small) == []
    (record,) = small.instance.fetch_observations(SAMPLE, limit=5).records
    assert record.asset_observation is not None
    assert record.asset_observation.metadata["what became of it"].value == "would be made"


def test_a_file_that_names_no_sample_is_no_failure(small: SmallFacility) -> None:
    import h5py

    with h5py.File(small.file, "a") as file:
        del file["entry/sample/name"]

    assert make(small).success

    assert samples(small) == []
    assert failed_files(small.instance) == []


def test_a_sample_that_failed_is_listed_and_tried_again(small: SmallFacility) -> None:
    gone = small.file.with_name("gone.hdf")
    small.ingest(small.facility())
    assert not make(small, sample_key(small, gone)).success

    (failed,) = failed_files(small.instance)
    assert (failed.path, failed.kind, failed.is_sample) == (sample_key(small, gone), "waiting", True)
    assert "gone.hdf is not there" in problem_of(small.instance, failed).what
    later = retries(small.instance, datetime.now(UTC) + TOMORROW)
    assert isinstance(later, dg.SensorResult)
    assert [(each.job_name, each.partition_key) for each in later.run_requests or []] == [
        ("make_sample", failed.path)
    ]


def test_a_key_that_is_no_samples_fails_for_good(small: SmallFacility) -> None:
    for key in (small.key(), "sample:///elsewhere.hdf", "sample://raw//small-coda.hdf"):
        assert not make(small, key).success

    assert samples(small) == []


def test_a_failed_sample_is_requested_again_or_dismissed_by_hand(
    small: SmallFacility, tmp_path: Path
) -> None:
    with instance_in(tmp_path / "home") as instance:
        small.instance = instance
        gone = sample_key(small, small.file.with_name("gone.hdf"))
        make(small, gone)
        runner = CliRunner(env={"DAGSTER_HOME": instance.root_directory})

        assert gone in runner.invoke(main, ["failures"]).stdout
        assert runner.invoke(main, ["failures", "--retry"]).exit_code == 0
        result = reconcile_sensor(UNPREFIXED)(dg.build_sensor_context(instance=instance))
        assert isinstance(result, dg.SensorResult)
        assert [(each.job_name, each.partition_key) for each in result.run_requests or []] == [
            ("make_sample", gone)
        ]
        assert runner.invoke(main, ["failures", "--dismiss", gone]).exit_code == 0
        assert runner.invoke(main, ["failures"]).exit_code == 0


def test_samples_are_forgotten_like_files(small: SmallFacility) -> None:
    make(small)
    small.ingest(small.facility())

    assert delete_registered(small.instance, datetime.now(UTC) + TOMORROW) == (2, 2)

    assert small.instance.get_dynamic_partitions("started_files") == []
    assert small.instance.get_dynamic_partitions("nexus_files") == []


# The dataset's run


def sample_ids(small: SmallFacility) -> list[object]:
    return [document.get("sampleId") for document in small.store.find("datasets", {})]


def test_a_dataset_finds_the_sample_that_its_run_start_made(small: SmallFacility) -> None:
    want_sample(small)
    make(small)

    small.ingest(small.facility(samples=True))

    assert sample_ids(small) == [samples(small)[0]["sampleId"]]


def test_a_dataset_makes_the_sample_that_is_still_missing(small: SmallFacility) -> None:
    want_sample(small)

    small.ingest(small.facility(samples=True))
    make(small)

    (sample,) = samples(small)
    assert sample_ids(small) == [sample["sampleId"]]


@pytest.mark.parametrize("ingestion", [{}, {"samples": True, "dry_run": True}])
def test_no_dataset_makes_a_sample_that_nobody_asked_for(
    small: SmallFacility, ingestion: dict[str, object]
) -> None:
    want_sample(small)

    assert small.ingest(small.facility(**ingestion)).success

    assert samples(small) == []


@pytest.mark.parametrize("count", [1, 20])
def test_a_dataset_does_not_wait_for_a_sample_that_cannot_be_made(
    small: SmallFacility, tmp_path: Path, count: int
) -> None:
    want_sample(small)
    accounts = Accounts(demo_accounts())
    plan = Scripted(*[(FaultKind.INTERNAL_ERROR, "POST", "samples")] * count)
    with ExitStack() as stack:
        faults = stack.enter_context(Faults(create_app(small.store, accounts), plan, small.store))
        small.server = stack.enter_context(CatalogueServer(small.store, accounts, app=faults))

        assert small.ingest(small.facility(samples=True)).success

        made = [sample["sampleId"] for sample in samples(small)]
        assert len(made) == (1 if count == 1 else 0)
        assert sample_ids(small) == (made or [None])


def test_reingest_attaches_a_sample_that_came_later(small: SmallFacility) -> None:
    want_sample(small)
    small.ingest(small.facility())
    make(small)
    facility = small.facility(samples=True)

    (found,) = Reingestion(facility.settings, facility.schemas(), facility.catalogue).updated(str(small.file))

    assert "sampleId" in [change.field for change in found.changes]
    assert sample_ids(small) == [samples(small)[0]["sampleId"]]
    facility.close()
