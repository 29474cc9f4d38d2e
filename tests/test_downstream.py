"""The contract for projects downstream, and the example that uses it, as *Use datasets downstream* says."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import h5py
import pytest
import yaml

from scicat_dagster.orchestration.failures.failed_files import failed_files
from scicat_dagster.orchestration.operations.retention import deletable
from scicat_dagster.orchestration.past_files.in_flight import files_in_flight
from scicat_dagster.orchestration.tags import RAW_DATASET
from tests.small_facility import FILE_TIME, SmallFacility

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "how-to" / "use-datasets-downstream.md"
EXAMPLE = ROOT / "docs" / "examples" / "downstream"
COUNTS = dg.AssetKey("counts")
TOMORROW = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def example() -> dg.Definitions:
    """The definitions of the example, loaded as Dagster loads the file."""
    found = importlib.util.spec_from_file_location("downstream_example", EXAMPLE / "definitions.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    definitions = module.defs
    assert isinstance(definitions, dg.Definitions)
    return definitions


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COUNTS_DIRECTORY", str(tmp_path / "counts"))
    return tmp_path / "counts"


@pytest.fixture
def measured(small: SmallFacility) -> SmallFacility:
    """The small facility, whose file has a signal."""
    with h5py.File(small.file, "a") as file:
        data = file.create_group("entry/histogram")
        data.attrs.update({"NX_class": "NXdata", "signal": "frames"})
        data["frames"] = [[1, 2], [3, 40]]
    os.utime(small.file, (FILE_TIME, FILE_TIME))
    return small


def materialization(small: SmallFacility, asset: dg.AssetKey) -> dg.AssetMaterialization:
    wanted = dg.AssetRecordsFilter(asset, asset_partitions=[small.key()])
    (record,) = small.instance.fetch_materializations(wanted, limit=1).records
    assert record.asset_materialization is not None
    return record.asset_materialization


def evaluate(
    example: dg.Definitions, instance: dg.DagsterInstance, cursor: Any = None
) -> dg.EvaluateAutomationConditionsResult:
    """One evaluation by the daemon. (Of all assets it would be a beta feature, and warn.)"""
    chosen = dg.AssetSelection.assets(COUNTS)
    return dg.evaluate_automation_conditions(example, instance, asset_selection=chosen, cursor=cursor)


def run_example(small: SmallFacility, example: dg.Definitions) -> dg.ExecuteInProcessResult:
    """What the run does that the automation requests."""
    job = example.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=small.instance, partition_key=small.key(), asset_selection=[COUNTS], raise_on_error=False
    )


def contract() -> Iterator[tuple[str, str]]:
    """Key and type of the metadata that the page promises."""
    table = PAGE.read_text().split("<!-- contract -->")[1].split("\n\n")[0]
    for row in table.strip().splitlines()[2:]:
        key, kind, _ = row.strip("| ").split(" | ")
        yield key.strip("`"), kind


def test_each_materialization_has_what_the_page_promises(small: SmallFacility) -> None:
    assert small.ingest(small.facility()).success

    metadata = materialization(small, RAW_DATASET).metadata
    promised = dict(contract())
    assert len(promised) == 9
    kinds = {
        key: type(value).__name__.removesuffix("MetadataValue").lower() for key, value in metadata.items()
    }
    assert {key: kinds.get(key) for key in promised} == promised
    assert metadata["file"].value == str(small.file)


def test_a_registered_file_is_requested_once_and_summed(
    measured: SmallFacility, example: dg.Definitions, results: Path
) -> None:
    instance, key = measured.instance, measured.key()
    before = evaluate(example, instance)
    instance.add_dynamic_partitions("nexus_files", ["raw/another.hdf", key])
    announced = evaluate(example, instance, cursor=before.cursor)
    assert measured.ingest(measured.facility()).success

    registered = evaluate(example, instance, cursor=announced.cursor)
    after = evaluate(example, instance, cursor=registered.cursor)

    # And no file but this one.
    assert (before.total_requested, announced.total_requested) == (0, 0)
    assert registered.get_requested_partitions(COUNTS) == {key}
    assert after.total_requested == 0
    assert run_example(measured, example).success
    found: dict[str, Any] = json.loads((results / f"{key}.counts.json").read_text())
    assert found["signals"] == [{"signal": "/entry/histogram/frames", "sum": 46.0, "maximum": 40.0}]
    assert found["pid"] == materialization(measured, RAW_DATASET).metadata["pid"].value
    assert found["pid"] == materialization(measured, COUNTS).metadata["pid"].value


def test_a_file_that_is_registered_again_is_requested_again(
    measured: SmallFacility, example: dg.Definitions, results: Path
) -> None:
    cursor = evaluate(example, measured.instance).cursor
    requested = []
    for _ in range(2):
        assert measured.ingest(measured.facility()).success
        found = evaluate(example, measured.instance, cursor=cursor)
        requested.append(found.get_requested_partitions(COUNTS))
        assert run_example(measured, example).success
        # What is registered again before this evaluation is not requested again, as the page says.
        cursor = evaluate(example, measured.instance, cursor=found.cursor).cursor

    assert requested == [{measured.key()}] * 2
    assert len(list(results.rglob("*.json"))) == 1


def test_files_from_before_the_sensor_are_not_requested(
    measured: SmallFacility, example: dg.Definitions
) -> None:
    assert measured.ingest(measured.facility()).success

    first = evaluate(example, measured.instance)
    second = evaluate(example, measured.instance, cursor=first.cursor)

    assert (first.total_requested, second.total_requested) == (0, 0)


def test_a_failure_downstream_is_not_one_of_the_file(
    measured: SmallFacility, example: dg.Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COUNTS_DIRECTORY", raising=False)
    assert measured.ingest(measured.facility()).success

    assert not run_example(measured, example).success

    assert failed_files(measured.instance) == []
    # The records of the file are deleted in time all the same, and the runs of the other project are not.
    ((path, run_ids),) = deletable(measured.instance, TOMORROW)
    assert path == measured.key()
    assert len(run_ids) == 1


@pytest.mark.parametrize(
    ("job", "selection", "is_in_flight"),
    [
        ("ingest_file", None, True),
        ("__ASSET_JOB", {RAW_DATASET}, True),
        ("__ASSET_JOB", {COUNTS}, False),
        ("plot_each_file", None, False),
    ],
)
def test_a_run_downstream_is_not_at_work_on_the_file(
    small: SmallFacility, job: str, selection: set[dg.AssetKey] | None, *, is_in_flight: bool
) -> None:
    small.instance.add_run(
        dg.DagsterRun(
            job,
            asset_selection=frozenset(selection) if selection else None,
            tags={"dagster/partition": small.key()},
            status=dg.DagsterRunStatus.STARTED,
        )
    )

    assert files_in_flight(small.instance) == ({small.key()} if is_in_flight else set())


def test_the_workspace_of_the_example_names_both_locations() -> None:
    locations = yaml.safe_load((EXAMPLE / "workspace.yaml").read_text())["load_from"]

    (ours,) = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"]
    assert locations[0] == ours
    assert (EXAMPLE / locations[1]["python_file"]["relative_path"]).is_file()


def test_the_example_imports_nothing_of_the_package() -> None:
    source = (EXAMPLE / "definitions.py").read_text()

    assert not re.search(r"^\s*(?:from|import) scicat_dagster", source, re.MULTILINE)
