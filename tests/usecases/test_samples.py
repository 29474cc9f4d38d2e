"""Each sample is made once, whatever is repeated, races or is answered; a file may be written meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scicat_dagster.config.models import ScicatSettings, Settings
from scicat_dagster.dataset.samples import Sample
from scicat_dagster.demo.catalogue import CatalogueServer, Dialect, Store, create_app
from scicat_dagster.demo.catalogue.accounts import Accounts, demo_accounts
from scicat_dagster.demo.catalogue.faults import FaultKind, Faults, Scripted
from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.files.access import NotReadyError
from scicat_dagster.schemas.loading import load_schemas
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.usecases.samples import look_for, make_sample, places_in, sample_of_run

SILICON = Sample(name="Silicon", proposal_id="443503")
LONG_AGO = 1_700_000_000


@dataclass
class Catalogue:
    """A running stand-in and its facility's settings."""

    store: Store
    plan: Scripted
    faults: Faults
    host: str
    dialect: Dialect

    @property
    def settings(self) -> Settings:
        login = {"username": "ingestor", "password": "pwd", "timeout": 1}
        return Settings.model_validate({"scicat": {"host": self.host, **login}})

    def client(self) -> ScicatClient:
        return ScicatClient(self.settings.scicat)

    def samples(self) -> list[dict[str, Any]]:
        return list(self.store.find("samples", {}))


def running(dialect: Dialect, tmp_path: Path, *, reads_all: bool = True) -> Iterator[Catalogue]:
    accounts = Accounts(replace(account, may_read_all=reads_all) for account in demo_accounts())
    with ExitStack() as stack:
        store = stack.enter_context(Store(tmp_path / "catalogue.sqlite"))
        plan = Scripted()
        faults = stack.enter_context(Faults(create_app(store, accounts, dialect), plan, store))
        server = stack.enter_context(CatalogueServer(store, accounts, app=faults))
        yield Catalogue(store, plan, faults, server.api_root, dialect)


@pytest.fixture(params=[one for one in Dialect if one.knows_proposals_of_samples], ids=str)
def catalogue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalogue]:
    yield from running(request.param, tmp_path)


@pytest.fixture
def client(catalogue: Catalogue) -> Iterator[ScicatClient]:
    with closing(catalogue.client()) as opened:
        yield opened


def test_a_sample_is_made_once_however_often_its_runs_start(
    catalogue: Catalogue, client: ScicatClient
) -> None:
    made = [make_sample(SILICON, client, catalogue.settings) for _ in range(3)]

    assert [each.state for each in made] == ["made", "was there", "was there"]
    (sample,) = catalogue.samples()
    assert {each.id for each in made} == {sample["sampleId"]}
    assert (sample["description"], sample["proposalId"]) == ("Silicon", "443503")
    assert (sample["ownerGroup"], sample["accessGroups"]) == ("443503", ["443503"])
    assert sample["isPublished"] is False
    assert ("sampleName" in sample) is (catalogue.dialect is not Dialect.V4X)


def test_the_groups_that_may_read_datasets_may_read_samples(
    catalogue: Catalogue, client: ScicatClient
) -> None:
    dataset = catalogue.settings.dataset.model_copy(update={"default_access_groups": ("ess", "443503")})

    make_sample(SILICON, client, catalogue.settings.model_copy(update={"dataset": dataset}))

    assert catalogue.samples()[0]["accessGroups"] == ["443503", "ess"]


@pytest.mark.parametrize("field", ["description", "sampleName"])
def test_a_sample_that_somebody_else_made_is_left_alone(
    catalogue: Catalogue, client: ScicatClient, field: str
) -> None:
    named: dict[str, Any] = {field: "Silicon"}
    catalogue.store.add_sample("user-office", owner_group="x", proposalId="443503", **named)

    found = make_sample(SILICON, client, catalogue.settings)

    assert (found.state, found.id) == ("was there", "user-office")
    assert len(catalogue.samples()) == 1


def test_the_same_name_in_another_proposal_is_another_sample(
    catalogue: Catalogue, client: ScicatClient
) -> None:
    for proposal in ("443503", "512017"):
        make_sample(SILICON.model_copy(update={"proposal_id": proposal}), client, catalogue.settings)

    assert {sample["proposalId"] for sample in catalogue.samples()} == {"443503", "512017"}


@pytest.mark.parametrize(
    "kind",
    [
        FaultKind.INTERNAL_ERROR,
        FaultKind.STORED_THEN_ERROR,
        FaultKind.STORED_THEN_TIMEOUT,
        FaultKind.CARRIED_OUT_LATER,
        FaultKind.RESET,
        FaultKind.BAD_GATEWAY,
        FaultKind.TOKEN_EXPIRED,
        FaultKind.DATABASE_DOWN,
    ],
)
def test_whatever_becomes_of_the_answer_there_is_one_sample_in_the_end(
    catalogue: Catalogue, client: ScicatClient, kind: FaultKind
) -> None:
    catalogue.plan.add((kind, "POST", "samples"))

    for _ in range(3):
        try:
            found = make_sample(SILICON, client, catalogue.settings)
        except TransientError:
            continue
        break
    catalogue.faults.wait_until_all_are_carried_out()

    assert found.id == SILICON.id
    assert [sample["sampleId"] for sample in catalogue.samples()] == [SILICON.id]
    assert catalogue.plan.remaining == ()


def test_two_that_look_at_once_make_one_sample(catalogue: Catalogue) -> None:
    clients = [catalogue.client() for _ in range(4)]
    for client in clients:
        assert look_for(SILICON, client) is None

    def post(client: ScicatClient) -> str:
        with closing(client):
            return make_sample(SILICON, client, catalogue.settings).id

    with ThreadPoolExecutor(len(clients)) as pool:
        assert set(pool.map(post, clients)) == {SILICON.id}
    assert len(catalogue.samples()) == 1


def test_a_sample_that_its_maker_may_not_read_is_known_by_its_id(tmp_path: Path) -> None:
    for catalogue in running(Dialect.V5_2, tmp_path, reads_all=False):
        with closing(catalogue.client()) as client:
            made = [make_sample(SILICON, client, catalogue.settings) for _ in range(2)]
            assert client.samples_of_proposal("443503") == []

        assert [each.state for each in made] == ["made", "was there"]
        assert len(catalogue.samples()) == 1


def test_an_account_that_may_not_create_samples_is_told_what_it_needs(
    catalogue: Catalogue,
) -> None:
    settings = ScicatSettings.model_validate(
        {"host": catalogue.host, "username": "plainuser", "password": "pwd"}
    )
    with closing(ScicatClient(settings)) as client, pytest.raises(PermanentError) as caught:
        make_sample(SILICON, client, catalogue.settings)

    assert "Silicon" in caught.value.what
    assert "SAMPLE_PRIVILEGED_GROUPS" in caught.value.remedy


def test_a_server_whose_samples_have_no_proposal_is_told_from_a_missing_right(tmp_path: Path) -> None:
    for catalogue in running(Dialect.V4_5, tmp_path):
        with closing(catalogue.client()) as client, pytest.raises(PermanentError) as caught:
            make_sample(SILICON, client, catalogue.settings)

        assert "ingestion.samples" in caught.value.remedy
        assert catalogue.samples() == []


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_an_id_is_the_same_for_the_same_sample_and_for_no_other(name: str, proposal: str) -> None:
    sample = Sample(name=name, proposal_id=proposal)

    assert sample.id == Sample(name=name, proposal_id=proposal).id
    assert sample.id != Sample(name=f"{name}x", proposal_id=proposal).id
    assert sample.id != Sample(name=name, proposal_id=f"{proposal}x").id


@dataclass
class Facility:
    """A folder with schemas and one file that is written."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "run.nxs"

    @property
    def settings(self) -> Settings:
        handling = {"data_directory": str(self.folder), "data_file_open_max_tries": 3}
        return Settings.model_validate(
            {"scicat": {"host": "http://127.0.0.1:1/api/v3"}, "ingestion": {"file_handling": handling}}
        )

    def begin(self, **values: object) -> h5py.File:
        file = h5py.File(self.file, "w", libver="latest")
        for path, value in values.items():
            file[path.replace("__", "/")] = value
        return file

    def look(self, when_waiting: Any = lambda _seconds: None) -> Sample | str:
        return sample_of_run(self.file, load_schemas(self.folder), self.settings, when_waiting)


NAMED = {"entry__sample__name": "Silicon", "entry__experiment_identifier": "443503"}


@pytest.fixture
def facility(tmp_path: Path) -> Facility:
    return Facility(tmp_path)


def test_a_file_is_read_while_it_is_written(facility: Facility) -> None:
    with facility.begin(**NAMED) as file:
        file.create_dataset("entry/counts", (0,), dtype="i4", maxshape=(None,), chunks=(10,))
        file.swmr_mode = True
        file["entry/counts"].resize((1000,))

        assert facility.look() == SILICON


def test_a_file_that_nobody_writes_any_more_is_read_as_well(facility: Facility) -> None:
    facility.begin(**NAMED).close()

    assert facility.look() == SILICON


def test_a_file_that_its_writer_has_locked_is_waited_for(facility: Facility) -> None:
    file = facility.begin(**NAMED)

    assert facility.look(lambda _seconds: file.close()) == SILICON


def test_a_file_that_is_not_there_yet_is_waited_for(facility: Facility) -> None:
    assert facility.look(lambda _seconds: facility.begin(**NAMED).close()) == SILICON


def test_a_file_that_does_not_come_is_tried_again_later(facility: Facility) -> None:
    waits: list[float] = []

    with pytest.raises(NotReadyError):
        facility.look(waits.append)

    assert len(waits) == 2


def test_a_locked_file_is_tried_again_later(facility: Facility) -> None:
    with facility.begin(**NAMED), pytest.raises(NotReadyError):
        facility.look()


def test_a_name_that_is_written_a_moment_later_is_waited_for(facility: Facility) -> None:
    facility.begin(entry__experiment_identifier="443503").close()

    assert facility.look(lambda _seconds: facility.begin(**NAMED).close()) == SILICON


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"entry__experiment_identifier": "443503"}, "/entry/sample/name"),
        ({"entry__sample__name": "Silicon"}, "/entry/experiment_identifier"),
        ({**NAMED, "entry__sample__name": "  "}, "/entry/sample/name"),
        ({**NAMED, "entry__sample__name": "a\nb"}, "/entry/sample/name"),
        ({**NAMED, "entry__sample__name": "x" * 501}, "/entry/sample/name"),
    ],
    ids=["no name", "no proposal", "blank", "two lines", "too long"],
)
def test_a_file_without_a_usable_name_has_no_sample(
    facility: Facility, values: dict[str, object], place: str
) -> None:
    facility.begin(**values).close()

    found = facility.look()

    assert isinstance(found, str)
    assert place in found


def test_a_broken_file_fails_for_good_when_it_has_settled(facility: Facility) -> None:
    facility.file.write_bytes(b"not HDF5")
    os.utime(facility.file, (LONG_AGO, LONG_AGO))

    with pytest.raises(PermanentError):
        facility.look()


def test_a_schema_says_where_its_files_name_the_sample(facility: Facility) -> None:
    schema = {
        "id": "one", "name": "one", "order": 1, "selector": "*", "schema": {},
        "sample_attachment": {"sample_name_path": "/entry/specimen"},
    }  # fmt: skip
    (facility.folder / "one.imsc.yml").write_text(yaml.safe_dump(schema))
    facility.begin(entry__specimen="Silicon", entry__experiment_identifier="443503").close()

    assert places_in(load_schemas(facility.folder), str(facility.file)).sample_name_path == "/entry/specimen"
    assert facility.look() == SILICON
