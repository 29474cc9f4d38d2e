"""Each job of a schema is posted once for a dataset, whatever is repeated, crashes or is answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scicat_dagster.config.models import IngestionSettings, ScicatSettings
from scicat_dagster.dataset.build import BuiltDataset
from scicat_dagster.dataset.jobs import Job, WantedJob
from scicat_dagster.demo.catalogue import CatalogueServer, Dialect, Store, create_app
from scicat_dagster.demo.catalogue.accounts import Accounts, demo_accounts
from scicat_dagster.demo.catalogue.faults import FaultKind, Faults, Scripted
from scicat_dagster.errors import TransientError
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.jobs import place_of, with_jobs
from scicat_dagster.scicat.registration import Registration, register

PID = "20.500.12269/one"
LONG_AGO = "2020-01-01T00:00:00.000Z"
EMBARGO = Job(
    type="embargo_period",
    jobParams={"datasetList": [{"pid": PID, "files": []}], "days": 1095},
    ownerUser="ingestor",
    ownerGroup="ingestor",
    contactEmail="ada@example.org",
)


@dataclass
class Catalogue:
    """A running stand-in, a client of it, and one file."""

    store: Store
    faults: Faults
    plan: Scripted
    client: ScicatClient

    def register(self, *jobs: Job) -> Registration:
        file = {"path": "one.nxs", "size": 1, "time": "2026-01-15T09:30:00.000Z"}
        built = BuiltDataset(
            dataset={
                "pid": PID,
                "type": "raw",
                "datasetName": "one",
                "owner": "Ada",
                "contactEmail": "ada@example.com",
                "sourceFolder": "/data",
                "creationTime": "2026-01-15T09:30:00.000Z",
                "principalInvestigator": "Ada",
                "creationLocation": "ESS:ODIN",
                "ownerGroup": "ingestor",
            },
            origdatablock={"datasetId": PID, "size": 1, "dataFileList": [file]},
            data_file="/data/one.nxs",
        )
        wanted = [WantedJob(name=f"job {number}", job=job) for number, job in enumerate(jobs or (EMBARGO,))]
        return with_jobs(register(built, self.client, IngestionSettings()), wanted, self.client)

    def let_time_pass(self) -> None:
        self.faults.wait_until_all_are_carried_out()
        self.store.change_dataset(PID, lambda document: {**document, "createdAt": LONG_AGO})


def states(registration: Registration) -> list[str]:
    return [job.state for job in registration.jobs]


@pytest.fixture(params=[(Dialect.V4X, "v3"), (Dialect.V5_2, "v3"), (Dialect.V5_NEXT, "v4")], ids=str)
def catalogue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalogue]:
    dialect, api = request.param
    accounts = Accounts(demo_accounts())
    with ExitStack() as stack:
        store = stack.enter_context(Store(tmp_path / "catalogue.sqlite"))
        plan = Scripted()
        faults = stack.enter_context(Faults(create_app(store, accounts, dialect), plan, store))
        server = stack.enter_context(CatalogueServer(store, accounts, app=faults))
        given = {"host": server.root, "api": api, "username": "ingestor", "password": "pwd", "timeout": 1}
        client = stack.enter_context(closing(ScicatClient(ScicatSettings.model_validate(given))))
        yield Catalogue(store, faults, plan, client)


def test_a_job_is_posted_once_however_often_the_file_is_registered(catalogue: Catalogue) -> None:
    first = catalogue.register()
    again = [catalogue.register() for _ in range(2)]

    assert states(first) == ["posted"]
    assert [states(each) for each in again] == [["was there"]] * 2
    (job,) = catalogue.store.jobs()
    assert {each.jobs[0].id for each in (first, *again)} == {job["_id"]}
    assert (job["type"], job["jobParams"]["days"]) == ("embargo_period", 1095)
    assert (job["ownerUser"], job["ownerGroup"]) == ("ingestor", "ingestor")
    assert job["contactEmail"] == "ada@example.org"


@pytest.mark.parametrize(
    "kind",
    [FaultKind.STORED_THEN_ERROR, FaultKind.STORED_THEN_TIMEOUT, FaultKind.INTERNAL_ERROR, FaultKind.RESET],
)
def test_a_job_whose_answer_was_lost_is_looked_for_before_it_is_posted_again(
    catalogue: Catalogue, kind: FaultKind
) -> None:
    catalogue.plan.add((kind, "POST", "jobs"))
    with pytest.raises(TransientError):
        catalogue.register()

    catalogue.let_time_pass()
    catalogue.register()

    assert len(catalogue.store.jobs()) == 1


def test_a_job_that_a_crash_has_lost_is_posted_by_the_next_execution(catalogue: Catalogue) -> None:
    registration = catalogue.register()
    catalogue.store.clear_jobs()
    with pytest.raises(TransientError, match="under way") as failure:
        catalogue.register()
    assert failure.value.retry_after_seconds is not None

    catalogue.let_time_pass()

    assert states(catalogue.register()) == ["posted"]
    assert registration.created_dataset


def test_a_refused_job_does_not_hide_the_dataset_nor_the_other_job(catalogue: Catalogue) -> None:
    unknown = EMBARGO.model_copy(update={"type": "nonsense"})

    registration = catalogue.register(unknown, EMBARGO)

    assert (registration.pid, registration.created_dataset) == (PID, True)
    assert states(registration) == ["refused", "posted"]
    assert "Invalid job type: nonsense" in registration.jobs[0].reason


def test_several_jobs_of_one_type_are_told_apart_by_their_parameters(catalogue: Catalogue) -> None:
    longer = EMBARGO.model_copy(update={"jobParams": {**EMBARGO.jobParams, "days": 2000}})
    catalogue.register(EMBARGO)
    catalogue.let_time_pass()

    assert states(catalogue.register(EMBARGO, longer)) == ["was there", "posted"]
    assert states(catalogue.register(EMBARGO, longer)) == ["was there", "was there"]
    assert sorted(job["jobParams"]["days"] for job in catalogue.store.jobs()) == [1095, 2000]


def test_a_job_that_does_not_name_the_dataset_is_posted_with_it_and_never_again(catalogue: Catalogue) -> None:
    anything = EMBARGO.model_copy(update={"type": "anyone", "jobParams": {"any": 1}})
    # Every job of API v3 has a list of datasets.
    takes_it = catalogue.client.route("jobs").dialect.version == 4

    assert states(catalogue.register(anything)) == ["posted" if takes_it else "refused"]
    assert states(catalogue.register(anything)) == ["not looked for"]
    assert len(catalogue.store.jobs()) == int(takes_it)


VALUES = st.recursive(
    st.text(max_size=3) | st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=6
)


@given(
    st.dictionaries(st.text("ab", min_size=1, max_size=2), VALUES, max_size=3),
    st.text("xyz", min_size=1, max_size=4),
)
def test_the_place_of_a_pid_leads_to_it(params: dict[str, Any], key: str) -> None:
    assert place_of(PID, params) is None
    assert place_of(PID, {**params, "list": [1, {key: [PID]}]}) == ("list", key)
    assert place_of(PID, {"with.dot": PID}) is None
