"""The job that brings datasets up to date: what it changes, what the UI shows, and how it fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from scicat_dagster.config.current import CurrentConfiguration
from scicat_dagster.definitions import build_definitions
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.partitions import path_of
from scicat_dagster.orchestration.tags import RAW_DATASET
from tests.corrected_schema import PASSWORD, CorrectedFacility, corrected_facility


@dataclass
class Workshop:
    """The facility and the Dagster instance that works for it."""

    facility: CorrectedFacility
    instance: dg.DagsterInstance

    def run(self, places: Sequence[Path], **config: Any) -> dg.ExecuteInProcessResult:
        """Run the job; ops are tried again once and at once."""
        resource = Facility(CurrentConfiguration(self.facility.configuration), op_pauses=(0.0,))
        job = build_definitions(resource.configuration, resource).resolve_job_def("reingest_files")
        config = {"files": [str(place) for place in places], **config}
        try:
            return job.execute_in_process(
                instance=self.instance,
                run_config={"ops": {"reingest": {"config": config}}},
                raise_on_error=False,
            )
        finally:
            resource.close()

    def observations(self) -> dict[str, dg.AssetObservation]:
        """The latest one of each file."""
        records = self.instance.fetch_observations(RAW_DATASET, limit=100, ascending=True).records
        events = [record.asset_observation for record in records]
        return {
            path_of(str(event.partition), str(self.facility.folder / "data")): event
            for event in events
            if event is not None
        }

    def tags(self, result: dg.ExecuteInProcessResult) -> dict[str, str]:
        run = self.instance.get_run_by_id(result.run_id)
        assert run is not None
        return dict(run.tags)


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    with (
        corrected_facility(tmp_path) as facility,
        dg.DagsterInstance.ephemeral(settings={"telemetry": {"enabled": False}}) as instance,
    ):
        facility.correct_the_schema()
        yield Workshop(facility, instance)


def rows(event: dg.AssetObservation, name: str) -> dict[str, dict[str, Any]]:
    table = event.metadata[name]
    assert isinstance(table, dg.TableMetadataValue)
    return {str(record.data["field"]): dict(record.data) for record in table.records}


def said(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The metadata of the failure."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    assert failure is not None
    return {name: value.value for name, value in failure.metadata.items()}


def test_without_update_each_file_that_differs_shows_what_would_be_changed(workshop: Workshop) -> None:
    facility = workshop.facility
    before = facility.store.datasets()

    assert workshop.run([facility.data]).success

    assert facility.store.datasets() == before
    observed = workshop.observations()
    assert set(observed) == {str(path) for path in facility.odin}
    event = observed[str(facility.odin[0])]
    pid = facility.dataset(facility.odin[0])["pid"]
    assert event.metadata["pid"].value == pid
    assert str(event.metadata["SciCat"].value).endswith(pid.replace("/", "%2F"))
    table = rows(event, "would be changed")
    assert table["scientificMetadata.run_number"] == {
        "field": "scientificMetadata.run_number",
        "in the catalogue": "443503",
        "from the file": "1",
        "what": "change",
        "why": "",
    }
    assert table["creationTime"]["what"] == "left alone"


def test_update_repairs_exactly_the_affected_datasets(workshop: Workshop) -> None:
    facility = workshop.facility
    facility.edit(facility.odin[2], keywords=["mine"], scientificMetadata={"mine": {"value": 1, "unit": ""}})
    untouched = [facility.dataset(path) for path in facility.dream]

    result = workshop.run([facility.data], update=True)

    assert result.success
    assert [facility.run_number(path) for path in facility.odin] == [1, 2, 3]
    assert [facility.dataset(path) for path in facility.dream] == untouched
    assert facility.dataset(facility.odin[2])["keywords"] == ["mine"]
    assert facility.dataset(facility.odin[2])["scientificMetadata"]["mine"]["value"] == 1
    observed = workshop.observations()
    assert set(observed) == {str(path) for path in facility.odin}
    assert "was changed" in observed[str(facility.odin[0])].metadata
    assert "1 fields" in str(observed[str(facility.odin[0])].description)


def test_updating_again_changes_and_shows_nothing(workshop: Workshop) -> None:
    workshop.run([workshop.facility.data], update=True)
    before = workshop.facility.store.datasets()
    shown = workshop.instance.fetch_observations(RAW_DATASET, limit=100).records

    assert workshop.run([workshop.facility.data], update=True).success

    assert workshop.facility.store.datasets() == before
    assert len(workshop.instance.fetch_observations(RAW_DATASET, limit=100).records) == len(shown)


def test_the_files_can_be_chosen_by_schema_and_fields_be_asked_for(workshop: Workshop) -> None:
    facility = workshop.facility
    for path in (facility.odin[0], facility.dream[0]):
        facility.edit(path, keywords=["mine"])

    assert workshop.run([facility.data], update=True, only_schema="Dream", also=["keywords"]).success

    assert facility.dataset(facility.dream[0])["keywords"] == ["neutrons"]
    assert facility.dataset(facility.odin[0])["keywords"] == ["mine"]
    assert facility.run_number(facility.odin[0]) == 443503


def test_a_file_that_fails_fails_the_run_in_the_end_and_the_others_are_done(workshop: Workshop) -> None:
    facility = workshop.facility
    broken = facility.odin[0]
    broken.chmod(0o644)
    broken.write_bytes(b"no HDF5, but much longer ago")

    result = workshop.run([*facility.odin, *facility.dream], update=True)

    assert not result.success
    assert [facility.run_number(path) for path in facility.odin] == [443503, 2, 3]
    failure = said(result)
    (row,) = failure["files that failed"].records
    assert row.data["file"] == str(broken)
    assert row.data["what to do"]
    assert failure["updated"] == 2
    assert workshop.tags(result)["dagster/retry_on_asset_or_op_failure"] == "true"


def test_what_waits_for_a_person_is_not_retried(workshop: Workshop) -> None:
    result = workshop.run([Path("/elsewhere/one.nxs")])

    assert "outside the data directory" in said(result)["files that failed"].records[0].data["reason"]
    assert workshop.tags(result)["dagster/retry_on_asset_or_op_failure"] == "false"


def test_a_field_that_cannot_be_asked_for_is_a_permanent_failure(workshop: Workshop) -> None:
    result = workshop.run([workshop.facility.data], also=["pid"])

    assert "pid cannot be brought up to date" in said(result)["reason"]
    assert workshop.tags(result)["dagster/retry_on_asset_or_op_failure"] == "false"


def test_no_secret_is_in_any_event(workshop: Workshop) -> None:
    result = workshop.run([workshop.facility.data], update=True)

    assert PASSWORD not in "".join(str(entry) for entry in workshop.instance.all_logs(result.run_id))
