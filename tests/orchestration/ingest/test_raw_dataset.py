"""One run of one file: what it leaves in the catalogue, in Dagster and on the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import h5py
import pytest
import yaml

from scicat_dagster.definitions import build_definitions
from scicat_dagster.demo.catalogue import CatalogueServer, Dialect, create_app, demo_accounts
from scicat_dagster.demo.catalogue.accounts import Accounts
from scicat_dagster.demo.catalogue.faults import Call, FaultKind, Faults, Scripted
from scicat_dagster.kafka.messages import FileWritten
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.failures.policy import kind_of
from scicat_dagster.orchestration.ingest.per_file import seconds_to_read
from scicat_dagster.orchestration.metadata import jobs_in
from scicat_dagster.orchestration.tags import (
    REASON_TAG,
    RETRY_RUN_TAG,
    SECONDS_AT_WORK,
    SECONDS_IN_QUEUE,
    SECONDS_SINCE_MESSAGE,
    SECONDS_UNTIL_REQUESTED,
    TOPIC_TAG,
)
from scicat_dagster.usecases.reingest import Reingestion
from tests.small_facility import FILE_TIME, SmallFacility
from tests.storages import faulty_storage

ASSET = dg.AssetKey("raw_dataset")
PID = "20.500.12269/f22acb1c-950b-11ef-a3ef-fa163e9aae0a"
OPS = ["wait_for_file", "extract_metadata", "describe_files", "build_dataset", "register_dataset"]


def announcement(file: Path, job_id: str = "f22acb1c-950b-11ef-a3ef-fa163e9aae0a") -> dict[str, Any]:
    written = FileWritten(
        file_path=str(file),
        job_id=job_id,
        topic="coda",
        partition=1,
        offset=17,
        announced_at_ms=1_730_000_000_000,
    )
    config = {"config": {"announcement": written.model_dump_json()}}
    return {"ops": {"raw_dataset": {"ops": {"wait_for_file": config}}}}


class Noting:
    """A plan in which nothing fails, and what was asked of the catalogue."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def fault(self, call: Call) -> FaultKind | None:
        self.calls.append((call.method, call.path))
        return None


@contextmanager
def observed(small: SmallFacility) -> Iterator[list[tuple[str, str]]]:
    """What the facility asks of the catalogue, as method and path."""
    plan, accounts, store = Noting(), Accounts(demo_accounts()), small.store
    with (
        Faults(create_app(store, accounts, Dialect.V4X), plan, store) as faults,
        CatalogueServer(store, accounts, app=faults) as server,
    ):
        small.server = server
        yield plan.calls


def materialization(small: SmallFacility) -> dict[str, Any]:
    event = small.instance.get_latest_materialization_event(ASSET)
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def failure(result: dg.ExecuteInProcessResult) -> tuple[str, dict[str, Any]]:
    """The op that failed, and what its failure says."""
    event = next(event for event in result.all_events if event.is_step_failure)
    said = event.step_failure_data.user_failure_data
    assert said is not None
    return str(event.step_key), {name: value.value for name, value in said.metadata.items()}


def breaks(small: SmallFacility, **changes: Any) -> None:
    schema = yaml.safe_load(small.schema.read_text())
    schema["variables"].update(changes)
    small.schema.write_text(yaml.safe_dump(schema, sort_keys=False))


def test_a_file_becomes_one_dataset_with_one_block(small: SmallFacility) -> None:
    result = small.ingest(small.facility(), run_config=announcement(small.file))

    assert result.success
    (dataset,) = small.store.datasets()
    assert dataset["pid"] == PID
    (block,) = small.store.origdatablocks(PID)
    assert [file["path"] for file in block["dataFileList"]] == [
        "raw/small-coda.hdf",
        "ingestor/small-coda.hdf.b2b",
        "ingestor/small-coda.hdf.message.json",
        "ingestor/small-coda.hdf.message.json.b2b",
    ]
    assert small.store.poisoned() == {}


def test_the_materialization_tells_what_was_registered(small: SmallFacility) -> None:
    small.ingest(small.facility(), run_config=announcement(small.file))

    shown = materialization(small)
    assert shown["pid"] == PID
    assert shown["SciCat"] == f"{small.server.url}/datasets/{PID.replace('/', '%2F')}"
    assert shown["schema"] == "Test Coda Metadata Schema"
    assert shown["schema id"] == "628b28d6-9c26-11ef-948d-0b2d405fc82f"
    assert shown["proposal"] == "443503"
    assert shown["instrument"] == "ODIN"
    assert shown["number of files"] == 4
    assert shown["file size in bytes"] == small.file.stat().st_size
    assert shown["seconds from message to registration"] > 0
    assert shown["dataset"]["pid"] == PID
    assert shown["dataset"]["scientificMetadata"]["run_number"]["value"] == 31010


def test_the_run_of_a_message_says_what_its_file_waited_for(small: SmallFacility) -> None:
    facility = small.facility()
    small.instance.add_dynamic_partitions("nexus_files", [small.key()])
    job = build_definitions(facility.configuration, facility).resolve_job_def("ingest_file")

    job.execute_in_process(
        instance=small.instance,
        partition_key=small.key(),
        run_config=announcement(small.file),
        tags={TOPIC_TAG: "coda"},
    )
    facility.close()

    shown = materialization(small)
    parts = [SECONDS_UNTIL_REQUESTED, SECONDS_IN_QUEUE, SECONDS_AT_WORK]
    assert all(shown[part] >= 0 for part in parts)
    assert sum(shown[part] for part in parts) == pytest.approx(shown[SECONDS_SINCE_MESSAGE], abs=0.01)
    # The message is years old.
    assert shown[SECONDS_UNTIL_REQUESTED] > 10 * shown[SECONDS_AT_WORK]


def test_a_run_whose_dataset_cannot_be_built_can_be_found_by_instrument(small: SmallFacility) -> None:
    small.store.clear()
    result = small.ingest(small.facility())

    run = small.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert (failure(result)[0], run.tags["instrument"]) == ("raw_dataset.build_dataset", "ODIN")


def test_a_file_that_nobody_announced_has_waited_for_nothing(small: SmallFacility) -> None:
    small.ingest(small.facility())

    assert not {SECONDS_SINCE_MESSAGE, SECONDS_IN_QUEUE} & materialization(small).keys()


def test_the_run_can_be_found_by_instrument_and_proposal(small: SmallFacility) -> None:
    result = small.ingest(small.facility())

    run = small.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["instrument"] == "ODIN"
    assert run.tags["proposal"] == "443503"


def test_only_huge_files_need_longer_than_other_runs() -> None:
    assert seconds_to_read(112_587) == 0
    assert seconds_to_read(100 * 10**9) == 10_000


def test_the_run_consists_of_the_five_ops(small: SmallFacility) -> None:
    result = small.ingest(small.facility())

    ran = {event.step_key for event in result.all_events if event.is_step_success}
    assert ran == {f"raw_dataset.{name}" for name in OPS}


def test_the_data_file_is_left_alone_and_its_checksum_lies_beside_it(small: SmallFacility) -> None:
    before = (small.file.read_bytes(), small.file.stat().st_mtime_ns)

    small.ingest(small.facility(), run_config=announcement(small.file))

    assert (small.file.read_bytes(), small.file.stat().st_mtime_ns) == before
    beside = small.directory / "data" / "ingestor"
    (block,) = small.store.origdatablocks(PID)
    assert (beside / "small-coda.hdf.b2b").read_text() == block["dataFileList"][0]["chk"]
    assert json.loads((beside / "small-coda.hdf.message.json").read_text())["offset"] == 17


def with_jobs(small: SmallFacility, **types: str) -> None:
    schema = yaml.safe_load(small.schema.read_text())
    params = {"datasetList": [{"pid": "<pid>", "files": []}]}
    schema["jobs"] = {name: {"type": kind, "job_params": params} for name, kind in types.items()}
    small.schema.write_text(yaml.safe_dump(schema, sort_keys=False))


def shown_jobs(small: SmallFacility) -> dict[str, Any]:
    event = small.instance.get_latest_materialization_event(ASSET)
    assert event is not None
    assert event.asset_materialization is not None
    return {job.name: job.state for job in jobs_in(event.asset_materialization.metadata)}


def test_a_refused_job_is_a_failed_check_and_does_not_hide_the_dataset(small: SmallFacility) -> None:
    with_jobs(small, embargo="embargo_period", wrong="nonsense")

    result = small.ingest(small.facility(), run_config=announcement(small.file))

    assert result.success
    assert materialization(small)["pid"] == PID
    assert shown_jobs(small) == {"embargo": "posted", "wrong": "refused"}
    evaluations = {found.check_name: found for found in result.get_asset_check_evaluations()}
    check = evaluations["jobs_posted"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    findings = check.metadata["findings"]
    assert isinstance(findings, dg.TableMetadataValue)
    (finding,) = findings.records
    assert "Invalid job type: nonsense" in str(finding.data["why"])


def test_a_repeated_run_posts_the_jobs_that_are_missing(small: SmallFacility) -> None:
    with_jobs(small, embargo="embargo_period", wrong="nonsense")
    small.ingest(small.facility(), run_config=announcement(small.file))
    small.store.change_dataset(PID, lambda document: {**document, "createdAt": "2020-01-01T00:00:00.000Z"})
    with_jobs(small, embargo="embargo_period", wrong="archive")

    small.ingest(small.facility())

    assert shown_jobs(small) == {"embargo": "was there", "wrong": "posted"}
    assert sorted(job["type"] for job in small.store.jobs()) == ["archive", "embargo_period"]


def test_running_a_file_twice_changes_nothing(small: SmallFacility) -> None:
    small.ingest(small.facility(), run_config=announcement(small.file))
    before = (small.store.datasets(), small.store.origdatablocks(PID))

    assert small.ingest(small.facility()).success

    assert (small.store.datasets(), small.store.origdatablocks(PID)) == before
    assert materialization(small)["this run created"] == "nothing; both were there"


def test_a_dataset_that_a_crash_left_without_its_block_gets_it(small: SmallFacility) -> None:
    small.ingest(small.facility())
    (dataset,) = small.store.datasets()
    small.store.clear()
    # Long ago, so that whoever created it can no longer be about to add the block.
    small.store.insert_dataset({**dataset, "createdAt": "2026-01-15T09:30:00.000Z"})
    small.add_proposal()

    assert small.ingest(small.facility()).success

    assert small.store.count_datasets() == 1
    assert small.store.count_origdatablocks(PID) == 1


def test_a_variable_that_fails_is_shown_and_does_not_stop_the_file(small: SmallFacility) -> None:
    breaks(small, run_number={"source": "NXS", "path": "/entry/nowhere", "value_type": "integer"})

    assert small.ingest(small.facility()).success

    shown = materialization(small)
    table = {record.data["what"]: record.data["why"] for record in shown["what failed and why"].records}
    assert table["variables.run_number"] == "There is no dataset at /entry/nowhere."
    assert "It needs <run_number>" in str(table["schema.run_number (run_number)"])


def test_a_broken_schema_fails_the_file_with_reason_and_remedy(small: SmallFacility) -> None:
    small.schema.write_text(small.schema.read_text().replace("id: ", "identifier: ", 1))

    result = small.ingest(small.facility())

    op, said = failure(result)
    assert op == "raw_dataset.extract_metadata"
    assert "id: is missing" in said["reason"]
    assert str(small.schema) in said["reason"]
    assert "Correct the schema file" in said["what to do"]
    assert said["kind"] == "permanent"
    assert small.store.count_datasets() == 0


def test_the_reason_of_a_run_names_its_file_without_folders_and_everything_else_in_full(
    small: SmallFacility,
) -> None:
    breaks(small, pi_firstname={"source": "NXS", "path": "/entry/nowhere/end_time", "value_type": "string"})
    small.ingest(small.facility())
    (run,) = small.instance.get_runs(limit=1)
    assert "There is no dataset at /entry/nowhere/end_time." in run.tags["reason"]

    outside = small.directory / "elsewhere" / "data"
    outside.mkdir(parents=True)
    small.ingest(small.facility(file_handling={"data_directory": str(outside)}), small.file)
    (run,) = small.instance.get_runs(limit=1)
    assert run.tags["reason"] == (
        f"The path '{small.file.name}' lies outside the data directory '{outside}'."
    )


def test_a_mistake_in_one_variable_costs_what_needs_it_and_not_the_file(small: SmallFacility) -> None:
    breaks(small, run_number={"source": "VALUE", "operator": "shout", "value": "x", "value_type": "string"})

    assert small.ingest(small.facility()).success

    shown = materialization(small)
    table = {record.data["what"]: record.data["why"] for record in shown["what failed and why"].records}
    assert "unknown operator 'shout'" in str(table["variables.run_number"])
    assert "It needs <run_number>" in str(table["schema.run_number (run_number)"])


def test_a_pid_that_the_schema_misdefines_is_not_replaced_by_another(small: SmallFacility) -> None:
    breaks(small, pid={"source": "VALUE", "operator": "shout", "value": "x", "value_type": "string"})

    _, said = failure(small.ingest(small.facility()))

    assert "unknown operator 'shout'" in said["reason"]
    assert said["kind"] == "permanent"
    assert small.store.count_datasets() == 0


def test_a_permanent_failure_is_not_retried(small: SmallFacility) -> None:
    breaks(small, pid={"source": "VALUE", "operator": "shout", "value": "x", "value_type": "string"})

    result = small.ingest(small.facility())

    run = small.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["dagster/retry_on_asset_or_op_failure"] == "false"
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_a_failed_file_is_registered_by_re_execution_once_its_schema_is_corrected(
    small: SmallFacility,
) -> None:
    good = small.schema.read_text()
    breaks(small, pid={"source": "VALUE", "operator": "shout", "value": "x", "value_type": "string"})
    assert not small.ingest(small.facility()).success
    small.schema.write_text(good)

    assert small.ingest(small.facility()).success

    assert small.store.count_datasets() == small.store.count_origdatablocks() == 1


def test_missing_mandatory_fields_are_all_named(small: SmallFacility) -> None:
    small.store.clear()

    _, said = failure(small.ingest(small.facility()))

    for name in ("owner", "contactEmail", "principalInvestigator"):
        assert f"{name}: It needs" in said["reason"]
    assert "Proposal: 443503 not found" in said["reason"]


def test_a_file_that_is_no_hdf5_file_fails_and_says_so(small: SmallFacility) -> None:
    other = small.file.with_name("notes.hdf")
    other.write_text("not HDF5")
    os.utime(other, (1_730_000_000, 1_730_000_000))

    op, said = failure(small.ingest(small.facility(), other))

    assert op == "raw_dataset.wait_for_file"
    assert "is not a complete HDF5 file" in said["reason"]


def test_a_file_that_is_not_there_is_looked_for_again_and_then_left_for_later(small: SmallFacility) -> None:
    one_look = small.facility(file_handling={"data_file_open_max_tries": 1})
    result = small.ingest(one_look, small.file.with_name("late.hdf"))

    assert len([event for event in result.all_events if event.is_step_up_for_retry]) == 1
    _, said = failure(result)
    assert "late.hdf is not there" in said["reason"]
    assert "mounted" in said["what to do"]
    assert said["kind"] == "waiting"
    run = small.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags[".dagster/scicat_failure"] == "waiting"
    # The list of runs has no room for its folders.
    assert run.tags["reason"] == "late.hdf is not there."
    # Its place in the queue is for others; see the sensor that tries again later.
    assert run.tags["dagster/retry_on_asset_or_op_failure"] == "false"


def test_a_catalogue_that_is_away_is_a_transient_failure(small: SmallFacility) -> None:
    facility = small.facility()
    small.server.stop()

    result = small.ingest(facility)

    assert len([event for event in result.all_events if event.is_step_up_for_retry]) == 1
    _, said = failure(result)
    assert "SciCat cannot be reached" in said["reason"]
    assert said["kind"] == "transient"
    run = small.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["dagster/retry_on_asset_or_op_failure"] == "true"


def test_a_partition_outside_the_data_directory_is_refused(small: SmallFacility) -> None:
    op, said = failure(small.ingest(small.facility(), Path("/etc/passwd")))

    assert op == "raw_dataset.wait_for_file"
    assert "outside the data directory" in said["reason"]


def test_a_dry_run_registers_nothing_and_shows_what_it_would_post(small: SmallFacility) -> None:
    result = small.ingest(small.facility(dry_run=True))

    assert result.success
    assert small.store.count_datasets() == 0
    assert not (small.directory / "data" / "ingestor").exists()
    assert small.instance.get_latest_materialization_event(ASSET) is None
    (observed,) = small.instance.fetch_observations(ASSET, limit=5).records
    assert observed.asset_observation is not None
    posted = observed.asset_observation.metadata["would be posted"].value
    assert isinstance(posted, dict)
    assert posted["dataset"]["pid"] == PID


def test_no_secret_is_in_any_event_of_a_run_that_cannot_log_in(small: SmallFacility) -> None:
    small.password = "s3cr3t-Pa55"

    result = small.ingest(small.facility())

    assert "401" in failure(result)[1]["reason"]
    assert "s3cr3t-Pa55" not in "".join(str(entry) for entry in small.instance.all_logs(result.run_id))


def test_the_run_evaluates_the_asset_checks(small: SmallFacility) -> None:
    breaks(small, run_number={"source": "NXS", "path": "/entry/nowhere", "value_type": "integer"})

    result = small.ingest(small.facility())

    found = {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}
    assert set(found) == {"variables_resolved", "fields_present", "catalogue_agrees", "references_known"}
    assert found["catalogue_agrees"].passed
    unresolved = found["variables_resolved"]
    assert not unresolved.passed
    assert unresolved.severity is dg.AssetCheckSeverity.WARN
    records = unresolved.metadata["findings"].value.records  # type: ignore[union-attr]
    assert any("run_number" in str(record.data["what"]) for record in records)


def test_sums_that_are_not_those_of_the_blocks_are_a_finding_and_reingest_corrects_them(
    small: SmallFacility,
) -> None:
    """What scicat-ingestor leaves on servers after 5.2.1."""
    small.ingest(small.facility())
    size = small.store.datasets()[0]["size"]
    small.store.change_dataset(PID, lambda found: {**found, "size": 2 * size})
    facility = small.facility()

    result = small.ingest(facility)

    (found,) = (one for one in result.get_asset_check_evaluations() if one.check_name == "catalogue_agrees")
    assert not found.passed
    (row,) = found.metadata["findings"].value.records  # type: ignore[union-attr]
    assert "reingest" in str(row.data["why"])

    (updated,) = Reingestion(facility.settings, facility.schemas(), facility.catalogue).updated(
        str(small.file)
    )
    assert (updated.state, small.store.datasets()[0]["size"]) == ("updated", size)
    facility.close()


def test_that_all_is_well_is_not_said_for_each_file_but_what_is_not_always_is(small: SmallFacility) -> None:
    facility = small.facility()

    first, second = (said_of_checks(small, facility) for _ in range(2))
    breaks(small, run_number={"source": "NXS", "path": "/entry/nowhere", "value_type": "integer"})
    broken = [said_of_checks(small, facility) for _ in range(2)]

    assert first["variables_resolved"]
    assert first["catalogue_agrees"]
    assert second == {question: False for question, is_good in first.items() if not is_good}
    for found in broken:
        assert found == second | {"variables_resolved": False}


@pytest.mark.parametrize("is_changed", [False, True])
def test_what_lies_beside_a_registered_file_stays_when_it_is_announced_again(
    small: SmallFacility, *, is_changed: bool
) -> None:
    small.ingest(small.facility(), run_config=announcement(small.file))
    sidecars = small.directory / "data" / "ingestor"
    before = {path.name: path.read_bytes() for path in sidecars.iterdir()}
    if is_changed:
        with h5py.File(small.file, "a") as file:
            file["entry/added"] = 1

    again = small.ingest(small.facility(), run_config=announcement(small.file, job_id="another"))

    assert again.success is not is_changed
    assert {path.name: path.read_bytes() for path in sidecars.iterdir()} == before
    assert len(before) == 3


def test_a_new_dataset_is_read_once_more_if_that_was_not_done_within_the_last_minute(
    small: SmallFacility,
) -> None:
    with observed(small) as calls:
        facility = small.facility()

        def read(*, is_new: bool) -> int:
            if is_new:
                small.store.clear()
                small.add_proposal()
            calls.clear()
            small.ingest(facility)
            return calls.count(("GET", f"datasets/{quote(PID, safe='')}"))

        assert [read(is_new=True), read(is_new=True), read(is_new=False)] == [1, 0, 1]
        facility.close()


@pytest.mark.parametrize(("seconds", "says"), [(3600.0, []), (0.0, [True])])
def test_a_finding_stays_in_sight_for_a_while(small: SmallFacility, seconds: float, says: list[bool]) -> None:
    schema = small.schema.read_text()
    breaks(small, run_number={"source": "NXS", "path": "/entry/nowhere", "value_type": "integer"})
    assert not said_of_checks(small, small.facility())["variables_resolved"]
    small.schema.write_text(schema)
    # Another worker's, which has said nothing yet.
    facility = small.facility()
    facility.finding_seconds = seconds

    repaired = said_of_checks(small, facility)

    assert [good for question, good in repaired.items() if question == "variables_resolved"] == says


def said_of_checks(small: SmallFacility, facility: Facility) -> dict[str, bool]:
    evaluations = small.ingest(facility).get_asset_check_evaluations()
    return {evaluation.check_name: evaluation.passed for evaluation in evaluations}


def test_the_name_of_an_instrument_is_cleaned_where_it_becomes_a_tag(small: SmallFacility) -> None:
    with h5py.File(small.file, "a") as file:
        del file["entry/instrument/name"]
        file["entry/instrument/name"] = "ODIN\n" + "x" * 5000

    result = small.ingest(small.facility())

    assert result.success
    run = small.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["instrument"] == ("ODIN " + "x" * 5000)[:200]


def test_a_file_that_is_executed_again_asks_the_catalogue_anew(
    small: SmallFacility, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have failed for what has been corrected there since; one that was just announced need not."""
    with observed(small) as calls:
        facility = small.facility()
        small.instance.add_dynamic_partitions("nexus_files", [small.key()])
        job = build_definitions(facility.configuration, facility).resolve_job_def("ingest_file")

        def ingest(**tags: str) -> int:
            calls.clear()
            run = job.execute_in_process(instance=small.instance, partition_key=small.key(), tags=tags)
            assert run.success
            return calls.count(("GET", "proposals/443503"))

        assert ingest(**{TOPIC_TAG: "coda"}) == 1
        assert ingest(**{TOPIC_TAG: "coda"}) == 0
        assert ingest() == 1
        facility.close()


def add_default_data(small: SmallFacility) -> None:
    with h5py.File(small.file, "a") as file:
        file.attrs["default"] = "entry"
        file["entry"].attrs["default"] = "data"
        data = file.create_group("entry/data")
        data.attrs.update({"NX_class": "NXdata", "signal": "counts](http://example.org) ![x"})
        data["counts](http://example.org) ![x"] = [1, 2, 3]
    os.utime(small.file, (FILE_TIME, FILE_TIME))


def test_the_run_shows_the_picture_that_is_attached(small: SmallFacility) -> None:
    add_default_data(small)

    assert small.ingest(small.facility()).success

    (attachment,) = small.store.attachments(small.store.datasets()[0]["pid"])
    shown = materialization(small)["preview"]
    assert shown.endswith(f"]({attachment['thumbnail']})")
    # What the file says does not act as markup.
    assert shown.count("](") == 1
    assert "example.org" not in shown


def test_a_file_without_default_data_has_no_picture_and_the_run_says_so(small: SmallFacility) -> None:
    assert small.ingest(small.facility()).success

    shown = materialization(small)
    assert shown["preview"].startswith("none: ")
    assert small.store.attachments(shown["pid"]) == []


def test_previews_can_be_switched_off_for_all(small: SmallFacility) -> None:
    add_default_data(small)

    assert small.ingest(small.facility(previews=False)).success

    assert small.store.attachments(small.store.datasets()[0]["pid"]) == []
    assert materialization(small)["preview"].startswith("none: ")


def test_a_batch_run_attaches_a_picture_to_each_dataset(small: SmallFacility) -> None:
    add_default_data(small)

    assert small.ingest_range(small.facility(), [small.file]).success

    (dataset,) = small.store.datasets()
    assert len(small.store.attachments(dataset["pid"])) == 1


def test_a_dry_run_shows_the_picture_and_attaches_none(small: SmallFacility) -> None:
    add_default_data(small)

    assert small.ingest(small.facility(dry_run=True)).success

    (record,) = small.instance.fetch_observations(ASSET, limit=1).records
    assert record.asset_observation is not None
    assert "data:image/png" in str(record.asset_observation.metadata["preview"].value)
    assert small.store.datasets() == []


# By v3 a second attempt could attach a second picture, as long as the first may still be under way.
@pytest.mark.parametrize(("api", "attempts"), [("v3", 1), ("v4", 2)])
def test_a_picture_that_cannot_be_attached_fails_no_file(
    small: SmallFacility, api: str, attempts: int
) -> None:
    small.api = api
    add_default_data(small)
    steps = [(FaultKind.INTERNAL_ERROR, "POST", "(datasets/.+/)?attachments")] * 9
    plan, accounts = Scripted(*steps), Accounts(demo_accounts())
    with (
        Faults(create_app(small.store, accounts, Dialect.V5_2), plan, small.store) as faults,
        CatalogueServer(small.store, accounts, app=faults) as failing,
    ):
        small.server = failing
        assert small.ingest(small.facility()).success

    assert len(plan.remaining) == len(steps) - attempts
    shown = materialization(small)
    (notice,) = shown["what failed and why"].records
    assert notice.data["what"] == "preview"
    assert shown["preview"].startswith("none: ")


def test_a_dataset_of_several_files_lists_them_all(small: SmallFacility) -> None:
    frames = small.file.parent / "frames"
    frames.mkdir()
    for name in ("frame_1.tif", "frame_2.tif"):
        (frames / name).write_text(name)
        os.utime(frames / name, (FILE_TIME, FILE_TIME))
    with h5py.File(frames / "eiger.h5", "w") as file:
        file["temperature"] = 4.2
    os.utime(frames / "eiger.h5", (FILE_TIME, FILE_TIME))
    with h5py.File(small.file, "a") as file:
        file["entry/eiger"] = h5py.ExternalLink("frames/eiger.h5", "/")
    os.utime(small.file, (FILE_TIME, FILE_TIME))
    schema = yaml.safe_load(small.schema.read_text())
    schema["files"] = {"linked": True, "patterns": ["frames/frame_*.tif", "frames/*.cbf"]}
    schema["variables"]["temperature"] = {
        "source": "NXS", "path": "/entry/eiger/temperature", "value_type": "float"
    }  # fmt: skip
    schema["schema"]["temperature"] = {
        "field_type": "scientific_metadata",
        "machine_name": "temperature",
        "value": "<temperature>",
        "type": "float",
    }
    small.schema.write_text(yaml.safe_dump(schema, sort_keys=False))

    assert small.ingest(small.facility()).success

    (dataset,) = small.store.datasets()
    (block,) = small.store.origdatablocks(dataset["pid"])
    listed = [os.path.basename(file["path"]) for file in block["dataFileList"]]  # noqa: PTH119
    assert listed[:4] == ["small-coda.hdf", "eiger.h5", "frame_1.tif", "frame_2.tif"]
    assert all(file["chk"] for file in block["dataFileList"][:4])
    assert block["size"] == sum(file["size"] for file in block["dataFileList"])
    assert dataset["scientificMetadata"]["temperature"]["value"] == 4.2
    notices = [record.data for record in materialization(small)["what failed and why"].records]
    assert {"what": "files", "why": "No file beside it matches 'frames/*.cbf'."} in notices


def test_a_retry_of_a_storage_that_hangs_keeps_no_worker(small: SmallFacility) -> None:
    with faulty_storage(small.file.parent, b"", 0.0) as storage, pytest.MonkeyPatch.context() as patched:
        patched.setattr("scicat_dagster.patience.PATIENCE_SECONDS", 0.5)
        storage.hang()
        result = small.ingest(small.facility())

    run = small.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert not result.success
    # Neither the op nor the run: the retry sensor comes after minutes.
    assert [event for event in result.all_events if event.is_step_up_for_retry] == []
    assert (kind_of(run), run.tags[RETRY_RUN_TAG]) == ("transient", "false")
    assert "did not answer" in run.tags[REASON_TAG]
