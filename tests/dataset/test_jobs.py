"""The jobs of a schema: what they are for one registered dataset, and what cannot be made."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scicat_dagster.dataset.build import BuiltDataset
from scicat_dagster.dataset.ingestion import ExtractedMetadata
from scicat_dagster.dataset.jobs import WantedJob, wanted_jobs
from scicat_dagster.files.identity import CompleteFile
from scicat_dagster.files.reading import look_at
from scicat_dagster.schemas.models import Schema

Document = dict[str, Any]
Wanted = Callable[..., tuple[WantedJob, ...]]

PID = "20.500.12269/one"
EMBARGO = {
    "type": "embargo_period",
    "job_params": {"datasetList": [{"pid": "<pid>", "files": []}]},
    "owner_user": "pit_manager",
    "owner_group": "pit_management",
    "contact_email": "<pi_email>",
}


@pytest.fixture
def file(data_folder: Path) -> CompleteFile:
    return look_at(data_folder / "small-coda.hdf", data_directory="")


@pytest.fixture
def wanted(schema_document: Document, file: CompleteFile) -> Wanted:
    """The jobs of a schema with the variable pi_email, for a dataset of the group odin."""

    def make(jobs: object, **values: Any) -> tuple[WantedJob, ...]:
        document = {**copy.deepcopy(schema_document), "jobs": jobs}
        document["variables"] = {
            name: {"source": "VALUE", "value": "x", "value_type": "string"} for name in ("pi_email", "broken")
        }
        values = {"pi_email": "ada@example.org", **values}
        metadata = ExtractedMetadata(
            file=file, schema_=Schema.model_validate(document), values=values, units={"pi_email": "K"}
        )
        built = BuiltDataset(dataset={"ownerGroup": "odin"}, origdatablock={}, data_file=file.path)
        return wanted_jobs(metadata, built, PID)

    return make


def test_a_job_is_rendered_with_the_pid_of_the_dataset(wanted: Wanted) -> None:
    (embargo,) = wanted({"embargo": EMBARGO})

    assert embargo.name == "embargo"
    assert embargo.job is not None
    assert embargo.job.model_dump() == {
        "type": "embargo_period",
        "jobParams": {"datasetList": [{"pid": PID, "files": []}]},
        "ownerUser": "pit_manager",
        "ownerGroup": "pit_management",
        "contactEmail": "ada@example.org",
    }


def test_names_are_rendered_in_keys_and_the_group_is_the_datasets(wanted: Wanted) -> None:
    (made,) = wanted({"it": {"type": "x", "job_params": {"<pi_email>": 1, "whole": "<pi_email>"}}})

    assert made.job is not None
    assert made.job.jobParams == {"ada@example.org": 1, "whole": "ada@example.org"}
    assert (made.job.ownerUser, made.job.ownerGroup) == ("", "odin")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"contact_email": "<broken>"}, "<broken>"),
        ({"job_params": {"a": "<nowhere>"}}, "<nowhere>"),
        ({"job_params": {"a": {"b": 1}}}, "a is a dictionary; use a list of dictionaries"),
        ({"job_params": "<pid>"}, "job_params"),
        ({"type": ""}, "type"),
    ],
)
def test_a_job_that_cannot_be_made_takes_no_other_with_it(
    wanted: Wanted, changes: Document, reason: str
) -> None:
    broken, good = wanted({"broken": {**EMBARGO, **changes}, "good": EMBARGO})

    assert broken.job is None
    assert reason in broken.reason
    assert good.job is not None


@pytest.mark.parametrize("jobs", ["embargo", [EMBARGO], 3])
def test_jobs_that_are_no_dictionary_are_one_that_cannot_be_made(wanted: Wanted, jobs: object) -> None:
    (broken,) = wanted(jobs)

    assert broken.job is None


def test_a_schema_without_jobs_wants_none(wanted: Wanted) -> None:
    assert wanted({}) == wanted(None) == ()


def test_a_reference_that_no_variable_defines_is_a_mistake(schema_document: Document) -> None:
    jobs = {"embargo": {**EMBARGO, "owner_user": "<nobody>"}}
    schema = Schema.model_validate({**schema_document, "jobs": jobs})

    assert sorted(map(str, schema.reference_mistakes())) == [
        "jobs.embargo: uses <nobody>, which is not defined.",
        "jobs.embargo: uses <pi_email>, which is not defined.",
    ]
