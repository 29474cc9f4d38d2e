"""What travels between ops: nothing of it is lost, it is nobody else's business, and it is never executed."""

from __future__ import annotations

import json
import math
import os
import pickle
import stat
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import pytest
import yaml
from pydantic import BaseModel

from scicat_dagster.dataset.ingestion import extract_metadata
from scicat_dagster.dataset.stored_schemas import StoredSchemas
from scicat_dagster.demo.catalogue.faults import FaultKind, Scripted
from scicat_dagster.files.identity import complete_file
from scicat_dagster.orchestration.ingest.io_manager import JsonBetweenOps
from scicat_dagster.orchestration.ingest.ops import AnnouncedFile, Prepared, ReadFile
from scicat_dagster.orchestration.ingest.per_file import PerFile
from scicat_dagster.schemas.models import Schema
from tests.orchestration.ingest.test_schema_changes import catalogue_with, execute
from tests.small_facility import DATA, SmallFacility, instance_in

Model = TypeVar("Model", bound=BaseModel)


class Anything(BaseModel):
    """A model of an op."""

    value: Any


def travelled(folder: Path, model: BaseModel) -> BaseModel:
    """The model as the next op gets it in another process."""
    got: list[BaseModel] = []

    @dg.op(out=dg.Out(type(model)))
    def first() -> BaseModel:
        return model

    @dg.op(ins={"found": dg.In(type(model), input_manager_key="of_another_process")})
    def second(found: BaseModel) -> None:
        got.append(found)

    here, there = (dg.IOManagerDefinition.hardcoded_io_manager(JsonBetweenOps()) for _ in range(2))

    @dg.job(resource_defs={"io_manager": here, "of_another_process": there})
    def both() -> None:
        second(first())

    with instance_in(folder) as instance:
        assert both.execute_in_process(instance=instance).success
    return got[0]


def failed_at_the_catalogue(small: SmallFacility) -> str:
    """A run whose last op failed."""
    with catalogue_with(small, Scripted((FaultKind.UNAVAILABLE, "POST", "datasets"))) as facility:
        facility.facility().close()
        with execute(facility) as failed:
            assert not failed.success
    small.facility().close()
    return failed.run_id


def the_small_file_read(small: SmallFacility) -> ReadFile:
    facility = small.facility()
    file = complete_file(small.file, small.file.stat())
    extracted = extract_metadata(file, facility.schemas(), facility.catalogue, facility.settings)
    return ReadFile(announced=AnnouncedFile(file=file), extracted=extracted)


def stored(small: SmallFacility, run_id: str) -> list[Path]:
    folder = Path(small.instance.storage_directory()) / run_id
    return [path for path in folder.rglob("*") if path.is_file()]


def read_again(model: type[Model], content: bytes) -> Model:
    stored = json.loads(content)
    return model.model_validate_json(json.dumps(stored["value"]), context=StoredSchemas(stored["schemas"]))


def re_executed(small: SmallFacility, run_id: str) -> dg.JobExecutionResult:
    """From the failed op, as Dagster's retry does."""
    with execute(small, dg.ReexecutionOptions.from_failure(run_id, small.instance)) as done:
        return done


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text with \0, \u202e and 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
        2**100,
        1e-300,
        -math.inf,
        datetime(2026, 11, 24, 12, tzinfo=UTC),
        date(2026, 11, 24),
        b"\0\xff",
        {1: {None: [True, {"$": "date", "value": "no date"}]}, date(2026, 1, 1): {"a"}},
        {"$": "bytes", "value": "no base64"},
    ],
    ids=repr,
)
def test_whatever_yaml_can_hold_arrives_as_it_was(tmp_path: Path, value: object) -> None:
    arrived = travelled(tmp_path, Anything(value=[value, {"inner": value}]))

    assert arrived == Anything(value=[value, {"inner": value}])


def test_what_is_no_number_stays_so(tmp_path: Path) -> None:
    arrived = travelled(tmp_path, Anything(value=math.nan))

    assert isinstance(arrived, Anything)
    assert math.isnan(arrived.value)


def all_schemas() -> list[Path]:
    repository = Path(__file__).parents[3]
    found = (
        path for folder in ("scicat_dagster", "tests") for path in (repository / folder).rglob("*.imsc.yml")
    )
    return sorted(found)


@pytest.mark.parametrize("path", all_schemas(), ids=lambda path: path.stem)
def test_every_schema_arrives_as_it_was(tmp_path: Path, path: Path) -> None:
    schema = Schema.model_validate(yaml.safe_load(path.read_text()))

    assert travelled(tmp_path, schema) == schema


def test_a_schema_with_mistakes_and_dates_arrives_as_it_was(tmp_path: Path) -> None:
    raw = yaml.safe_load((DATA / "small-coda.imsc.yml").read_text())
    raw["variables"]["day"] = {"source": "VALUE", "value": date(2026, 1, 1), "value_type": "date"}
    raw["variables"]["nothing"] = {"source": "VALUE", "value": None, "value_type": "none"}
    raw["variables"]["wrong"] = {"source": "VALUE", "operator": "shout", "value": "x", "value_type": "string"}
    raw["unknown"] = {"jobs": [1]}
    schema = Schema.model_validate(raw)

    assert travelled(tmp_path, schema) == schema


def test_a_run_goes_on_in_another_process_with_what_was_stored(small: SmallFacility) -> None:
    run_id = failed_at_the_catalogue(small)

    done = re_executed(small, run_id)

    assert done.success
    assert {event.step_key for event in done.all_events if event.is_step_success} == {
        "raw_dataset.register_dataset"
    }


def test_what_is_stored_is_json_and_nobody_elses_business(small: SmallFacility) -> None:
    run_id = failed_at_the_catalogue(small)

    files = stored(small, run_id)

    assert len(files) == 4
    found = {path.parent.name: path.read_bytes() for path in files}
    assert read_again(PerFile[AnnouncedFile], found["raw_dataset.wait_for_file"]).made
    assert read_again(PerFile[ReadFile], found["raw_dataset.extract_metadata"]).made
    assert read_again(PerFile[Prepared], found["raw_dataset.build_dataset"]).made
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in files} == {0o700}
    assert {stat.S_IMODE(path.parents[1].stat().st_mode) for path in files} == {0o700}


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.sprung),)


def test_a_pickle_that_somebody_placed_there_is_not_loaded(small: SmallFacility, tmp_path: Path) -> None:
    run_id = failed_at_the_catalogue(small)
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    for path in stored(small, run_id):
        path.write_bytes(trap)
        # Where Dagster's own IO manager would look.
        path.with_suffix("").write_bytes(trap)

    done = re_executed(small, run_id)

    assert not done.success
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", '{"made": {"a": 1}}', "[" * 100_000, '{"$": "object", "value": 1}', None,
        '{"schemas": {}, "value": {"made": {}}}', '{"schemas": [], "value": 1}', '{"schemas": []}',
    ],
)  # fmt: skip
def test_what_is_not_what_was_stored_is_a_failure_that_says_so_and_the_run_is_repeated(
    small: SmallFacility, content: str | None
) -> None:
    run_id = failed_at_the_catalogue(small)
    (path,) = (path for path in stored(small, run_id) if "build_dataset" in str(path))
    path.unlink()
    if content is not None:
        path.write_text(content)

    done = re_executed(small, run_id)

    (failed,) = (event for event in done.all_events if event.is_step_failure)
    shown = failed.step_failure_data.user_failure_data
    assert shown is not None
    assert str(shown.metadata["where"].value) == str(path)
    assert "whole run" in str(shown.metadata["what to do"].value)
    run = small.instance.get_run_by_id(done.run_id)
    assert run is not None
    # What Dagster's retry, which is given to it by the daemon, goes by.
    assert run.tags["dagster/retry_strategy"] == "ALL_STEPS"
    assert run.tags["dagster/retry_on_asset_or_op_failure"] == "true"


@pytest.mark.parametrize("stands_for_it", [-1, 1, "0", None, True, 0.5])
def test_a_schema_that_was_not_stored_is_a_failure(small: SmallFacility, stands_for_it: object) -> None:
    run_id = failed_at_the_catalogue(small)
    (path,) = (path for path in stored(small, run_id) if "build_dataset" in str(path))
    content = json.loads(path.read_text())
    ((_, prepared),) = content["value"]["made"].items()
    assert prepared["extracted"][0]["schema_"] == 0
    prepared["extracted"][0]["schema_"] = stands_for_it
    path.write_text(json.dumps(content))

    assert not re_executed(small, run_id).success


def test_the_schema_of_many_files_is_stored_once(tmp_path: Path, small: SmallFacility) -> None:
    read = the_small_file_read(small)
    files = PerFile[ReadFile](made={f"{number}": read for number in range(100)})

    arrived = travelled(tmp_path, files)

    assert arrived == files
    assert isinstance(arrived, PerFile)
    assert len({id(metadata.schema_) for file in arrived.made.values() for metadata in file.extracted}) == 1
    (path,) = (path for path in (tmp_path / "storage").rglob("result.json"))
    assert len(json.loads(path.read_text())["schemas"]) == 1


def test_a_link_that_somebody_placed_there_is_not_followed(small: SmallFacility, tmp_path: Path) -> None:
    run_id = failed_at_the_catalogue(small)
    (path,) = (path for path in stored(small, run_id) if "build_dataset" in str(path))
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    assert not re_executed(small, run_id).success
