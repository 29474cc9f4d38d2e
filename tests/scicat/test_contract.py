"""What the ingestor needs of a SciCat server, by each version of the API: the client against every dialect.

``pytest tests/scicat/test_contract.py --backend https://scicat.example.org/api`` asks a real server instead,
as the user in ``SCICAT_USERNAME`` with the password in ``SCICAT_PASSWORD``. It makes datasets that nobody
needs: see docs/how-to/check-a-scicat-server.md.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import JsonValue

from scicat_dagster.config.models import IngestionSettings, ScicatSettings, Settings
from scicat_dagster.dataset.build import BuiltDataset
from scicat_dagster.dataset.jobs import Job
from scicat_dagster.dataset.samples import Sample, samples_called
from scicat_dagster.demo.catalogue import CatalogueServer, Dialect
from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.scicat.client import ConflictError, ModifiedMeanwhileError, ScicatClient
from scicat_dagster.scicat.dialects import Attachment
from scicat_dagster.scicat.errors import RefusedError
from scicat_dagster.scicat.registration import register
from scicat_dagster.usecases.samples import look_for, make_sample

APIS = ("v3", "v4")
REAL = "real"
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)


@dataclass(frozen=True)
class Backend:
    """A server, and what the tests have to know of it."""

    client: ScicatClient
    api: str
    is_real: bool
    group: str
    is_4_5: bool = False
    """Whether it is the stand-in of that generation, which lacks what some of the tests are about."""

    def may_lack(self, what: str) -> None:
        """Skip the test of a real server that lacks this as 4.5 does; others have it."""
        if self.is_real and not self.client.generation.is_since_4_28:
            pytest.skip(f"The server is an older one: {what}")
        assert self.is_4_5, what

    def dataset(self, **changes: Any) -> dict[str, Any]:
        """A dataset that nobody has posted yet."""
        name = str(uuid.uuid4())
        return {
            "pid": f"20.500.12269/{name}",
            "type": "raw",
            "datasetName": "scicat-dagster contract",
            "owner": "Ada Lovelace",
            "contactEmail": "ada@example.com",
            "sourceFolder": f"/data/{name}",
            "creationTime": "2026-01-15T09:30:00.000Z",
            "principalInvestigator": "Ada Lovelace",
            "creationLocation": "ESS:CODA",
            "ownerGroup": self.group,
            "scientificMetadata": {"job_id": {"value": name, "unit": ""}},
            **changes,
        }

    def block(self, dataset: dict[str, Any]) -> dict[str, Any]:
        files = [
            {"path": f"{number}.nxs", "size": 7, "time": "2026-01-15T09:30:00.000Z"} for number in (1, 2)
        ]
        groups = {"ownerGroup": self.group, "accessGroups": []}
        return {"datasetId": dataset["pid"], "size": 14, "dataFileList": files, **groups}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    dialects = [REAL] if metafunc.config.getoption("--backend") else [str(one) for one in Dialect]
    if "backend" in metafunc.fixturenames:
        pairs = [
            (dialect, api) for dialect in dialects for api in APIS if (dialect, api) != (Dialect.V4_5, "v4")
        ]
        names = [f"{dialect}-{api}" for dialect, api in pairs]
        metafunc.parametrize("backend", pairs, ids=names, indirect=True, scope="module")


@pytest.fixture(scope="module")
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    dialect, api = request.param
    if dialect == REAL:
        login = {"username": os.environ["SCICAT_USERNAME"], "password": os.environ["SCICAT_PASSWORD"]}
        host = request.config.getoption("--backend")
        with closing(ScicatClient(ScicatSettings(host=host, api=api, timeout=60, **login))) as client:
            if api == "v4" and not client.generation.has_v4:
                pytest.skip("The server has no API v4, or not all of it.")
            group = os.environ.get("SCICAT_GROUP", login["username"])
            yield Backend(client, api, is_real=True, group=group)
        return
    database = tmp_path_factory.mktemp("contract") / "catalogue.sqlite"
    with CatalogueServer(database, dialect=Dialect(dialect)) as server:
        settings = ScicatSettings.model_validate(
            {"host": server.root, "api": api, "username": "ingestor", "password": "pwd"}
        )
        with closing(ScicatClient(settings)) as client:
            yield Backend(client, api, is_real=False, group="ingestor", is_4_5=dialect == Dialect.V4_5)


def posted(backend: Backend, **changes: Any) -> dict[str, Any]:
    body = backend.dataset(**changes)
    backend.client.create_dataset(body)
    return body


def fields(backend: Backend, pid: str) -> dict[str, Any]:
    record = backend.client.dataset(pid)
    assert record is not None
    return record.model_dump(mode="json")


def test_it_is_healthy_and_knows_us(backend: Backend) -> None:
    backend.client.check_health()

    assert backend.client.whoami()
    assert {backend.client.route(name).dialect.version for name in ("datasets", "jobs")} == {
        int(backend.api.removeprefix("v"))
    }


def test_a_dataset_is_read_as_it_was_posted(backend: Backend) -> None:
    body = posted(backend, proposalId="443503", keywords=["a"], description="text")

    read = fields(backend, body["pid"])

    compared = ("pid", "type", "owner", "principalInvestigator", "proposalId", "keywords", "description")
    assert {name: read[name] for name in compared} == {name: body[name] for name in compared}
    assert read["scientificMetadata"]["job_id"]["value"] == body["scientificMetadata"]["job_id"]["value"]


def test_a_list_of_several_is_kept_where_the_api_has_lists(backend: Backend) -> None:
    names = {"principalInvestigator": "Ada, Bo", "principalInvestigators": ["Ada", "Bo"]}
    several = {"proposalId": "1", "proposalIds": ["1", "2"], **names}
    body = posted(backend, **several)

    read = fields(backend, body["pid"])

    assert (read["proposalId"], read["principalInvestigator"]) == ("1", "Ada, Bo")
    assert read.get("proposalIds") == (["1", "2"] if backend.api == "v4" else None)
    left_out = [notice.subject for notice in backend.client.left_out(body)]
    assert left_out == ([] if backend.api == "v4" else ["dataset.proposalId"])


def test_a_dataset_without_a_name_gets_one(backend: Backend) -> None:
    body = backend.dataset(sourceFolder="/data/odin/443503")
    del body["datasetName"]

    backend.client.create_dataset(body)

    assert fields(backend, body["pid"])["datasetName"] == "odin/443503"


def test_a_pid_is_taken_once(backend: Backend) -> None:
    body = posted(backend)

    with pytest.raises(ConflictError):
        backend.client.create_dataset(body)


def test_what_is_not_there_is_none(backend: Backend) -> None:
    assert backend.client.dataset(f"20.500.12269/{uuid.uuid4()}") is None


def test_an_unknown_field_is_refused_by_its_name(backend: Backend) -> None:
    with pytest.raises(RefusedError, match="nonsense"):
        backend.client.create_dataset(backend.dataset(nonsense="x"))


@pytest.mark.parametrize("value", ["2026-01-15 test", "LOKI 1", 12])
def test_a_dataset_is_found_by_its_metadata(backend: Backend, value: Any) -> None:
    unique = f"key_{uuid.uuid4().hex}"
    body = posted(backend, scientificMetadata={unique: {"value": value, "unit": ""}})

    (found,) = backend.client.datasets_with_metadata(unique, value)

    assert found.pid == body["pid"]


@pytest.mark.parametrize("name", ["2026-01-15 test", "12", 'a + b = 100% of "ä" [c]?', "$x.y"])
def test_a_dataset_is_found_by_its_folder_and_name(backend: Backend, name: str) -> None:
    folder = f"/data/{uuid.uuid4().hex}"
    body = posted(backend, sourceFolder=folder, datasetName=name)
    posted(backend, sourceFolder=folder, datasetName=f"{name}2")

    (found,) = backend.client.datasets_named(folder, name)

    assert found.pid == body["pid"]


def test_a_file_that_is_registered_under_another_pid_is_found_without_its_metadata(backend: Backend) -> None:
    body = backend.dataset(sourceFolder=f"/data/{uuid.uuid4().hex}")
    block = backend.block(body)
    file = f"{body['sourceFolder']}/{block['dataFileList'][0]['path']}"
    settings = IngestionSettings(check_if_dataset_exists_by_metadata=False)
    built = BuiltDataset(dataset=body, origdatablock=block, data_file=file)
    assert register(built, backend.client, settings).is_new_as_sent
    ours = {**body, "pid": f"20.500.12269/{uuid.uuid4()}"}
    again = BuiltDataset(dataset=ours, origdatablock=block, data_file=file, pid_is_derived=True)

    registration = register(again, backend.client, settings)

    assert (registration.pid, registration.created_dataset) == (body["pid"], False)


def test_several_datasets_are_found_at_once(backend: Backend) -> None:
    bodies = [posted(backend) for _ in range(3)]
    jobs = [str(body["scientificMetadata"]["job_id"]["value"]) for body in bodies]
    pids = {str(body["pid"]) for body in bodies}

    assert backend.client.metadata_values("job_id", [*jobs, "another"]) == set(jobs)
    assert {record.pid for record in backend.client.datasets_called(sorted(pids))} == pids
    folders = [str(body["sourceFolder"]) for body in bodies]
    assert {record.pid for record in backend.client.datasets_from(folders)} == pids


def test_a_dataset_has_the_sums_of_its_blocks(backend: Backend) -> None:
    bodies = [posted(backend), posted(backend)]
    for body in bodies:
        backend.client.create_origdatablock(backend.block(body))

    blocks = list(backend.client.origdatablocks_of([body["pid"] for body in bodies]))

    assert {block.datasetId for block in blocks} == {body["pid"] for body in bodies}
    assert [len(block.dataFileList) for block in blocks] == [2, 2]
    read = fields(backend, bodies[0]["pid"])
    assert (read["size"], read["numberOfFiles"]) == (14, 2)


LINK = {"scientificMetadataSchema": "https://schemas.invalid/odin.json"}


@pytest.mark.parametrize("link", [{}, LINK])
def test_a_change_replaces_what_it_names_and_keeps_the_sums(backend: Backend, link: dict[str, Any]) -> None:
    metadata = {
        "length": {"value": 2, "unit": "mm"},
        "old": {"value": 1, "unit": ""},
        "same": {"value": 3, "unit": "K"},
    }
    body = posted(backend, scientificMetadata=metadata, description="before", **link)
    backend.client.create_origdatablock(backend.block(body))
    record = backend.client.dataset(body["pid"])
    assert record is not None
    new: dict[str, JsonValue] = {
        "length": {"value": 3, "unit": "m"},
        "same": record.scientificMetadata["same"],
        "more": {"value": "x", "unit": ""},
    }

    backend.client.update_dataset(
        record, {"scientificMetadata": new, "proposalId": "2"}, unmodified_since=None
    )

    read = fields(backend, body["pid"])
    assert sorted(read["scientificMetadata"]) == ["length", "more", "same"]
    length = read["scientificMetadata"]["length"]
    assert (length["value"], length["valueSI"], length["unitSI"]) == (3, 3, "m")
    assert (read["description"], read["proposalId"]) == ("before", "2")
    assert (read["size"], read["numberOfFiles"]) == (14, 2)


def test_a_value_may_become_null(backend: Backend) -> None:
    body = posted(backend, scientificMetadata={"x": {"value": 1, "unit": ""}, "y": {"value": 2, "unit": ""}})
    record = backend.client.dataset(body["pid"])
    assert record is not None
    new: dict[str, JsonValue] = {"x": {"value": None, "unit": ""}, "y": {"value": 2, "unit": ""}}

    backend.client.update_dataset(record, {"scientificMetadata": new}, unmodified_since=None)

    entries = fields(backend, body["pid"])["scientificMetadata"]
    assert entries["x"] == {"value": None, "unit": ""}
    assert entries["y"]["value"] == 2


def test_a_name_in_the_metadata_may_be_any_text(backend: Backend) -> None:
    names = ("a.b c", "100 %", "ü", "plain")
    metadata = {name: {"value": {"x.y": 1}, "unit": ""} for name in names}
    body = posted(backend, scientificMetadata=metadata)
    record = backend.client.dataset(body["pid"])
    assert record is not None
    assert record.scientificMetadata == metadata

    new: dict[str, JsonValue] = {"a.b c": {"value": 2, "unit": ""}, "ü": {"value": {"z z": 1}, "unit": ""}}
    backend.client.update_dataset(record, {"scientificMetadata": new}, unmodified_since=None)

    assert fields(backend, body["pid"])["scientificMetadata"] == new


def test_a_change_of_what_has_changed_since_is_refused(backend: Backend) -> None:
    body = posted(backend)
    record = backend.client.dataset(body["pid"])
    assert record is not None
    assert record.createdAt is not None

    before = record.createdAt - timedelta(days=1)

    try:
        backend.client.update_dataset(record, {"comment": "new"}, unmodified_since=before)
    except ModifiedMeanwhileError:
        assert fields(backend, body["pid"]).get("comment") != "new"
    else:
        backend.may_lack("before 4.27 a change has no condition")


def test_a_relationship_is_posted_in_the_form_of_the_server(backend: Backend) -> None:
    related = {
        "identifier": "20.500.12269/other",
        "identifierType": "Local",
        "relationship": "IsCitedBy",
        "entityType": "Dataset",
    }

    (kept,) = fields(backend, posted(backend, relationships=[related])["pid"])["relationships"]

    assert {name: kept[name] for name in related} == related


def test_the_schema_of_the_metadata_is_named_where_the_server_has_a_place_for_it(backend: Backend) -> None:
    body = posted(backend, **LINK)
    notices = backend.client.left_out(body)

    kept = fields(backend, body["pid"]).get("scientificMetadataSchema")

    if backend.client.generation.is_since_4_28:
        assert (kept, notices) == (LINK["scientificMetadataSchema"], ())
        assert backend.client.held(body) == body
    else:
        assert kept is None
        assert [notice.subject for notice in notices] == ["dataset.scientificMetadataSchema"]
        assert "scientificMetadataSchema" not in backend.client.held(body)


def test_a_derived_dataset_names_its_inputs(backend: Backend) -> None:
    derived = {"type": "derived", "inputDatasets": [posted(backend)["pid"]], "usedSoftware": ["scipp"]}

    read = fields(backend, posted(backend, **derived)["pid"])

    assert {name: read[name] for name in derived} == derived
    assert read["principalInvestigator"] == "Ada Lovelace"


def test_a_type_of_the_facilitys_own_needs_the_newer_api(backend: Backend) -> None:
    body = backend.dataset(type="simulation")
    if backend.api == "v3":
        with pytest.raises(RefusedError, match="no datasets of the type simulation"):
            backend.client.create_dataset(body)
        return
    try:
        backend.client.create_dataset(body)
    except RefusedError as refusal:
        if backend.is_real:
            pytest.skip(f"The server has a list of types: {refusal.what}")
        raise
    assert fields(backend, body["pid"])["type"] == "simulation"


def test_a_picture_is_attached(backend: Backend) -> None:
    body = posted(backend)
    picture = Attachment(body["pid"], PICTURE, "a picture", backend.group)
    assert backend.client.attachments(body["pid"]) == []

    created = backend.client.create_attachment(picture)

    (found,) = backend.client.attachments(body["pid"])
    assert (found.id, found.caption, found.thumbnail) == (created.id, "a picture", PICTURE)


def test_a_picture_is_replaced(backend: Backend) -> None:
    body = posted(backend)
    picture = Attachment(body["pid"], PICTURE, "a picture", backend.group, id=str(uuid.uuid4()))
    created = backend.client.create_attachment(picture)

    try:
        backend.client.replace_attachment(created.id, replace(picture, caption="another"))
    except RefusedError as refusal:
        (found,) = backend.client.attachments(body["pid"])
        assert (found.id, found.caption) == (created.id, "a picture")
        backend.may_lack(refusal.what)
        return

    (found,) = backend.client.attachments(body["pid"])
    assert found.caption == "another"
    if backend.client.gives_attachments_ids:
        assert found.id == picture.id
        with pytest.raises(TransientError):
            backend.client.create_attachment(picture)


def test_a_job_is_found_by_its_dataset(backend: Backend) -> None:
    body = posted(backend)
    job = Job(
        type="archive",
        jobParams={"datasetList": [{"pid": body["pid"], "files": []}]},
        ownerUser=backend.client.whoami() or "",
        ownerGroup=backend.group,
        contactEmail="ada@example.com",
    )
    place = ("datasetList", "pid")
    try:
        assert list(backend.client.jobs_like(job, place, body["pid"])) == []
    except RefusedError as refusal:
        backend.may_lack(refusal.what)
        return
    try:
        created = backend.client.create_job(job)
    except RefusedError as refusal:
        if backend.is_real and "Invalid job type" in refusal.what:
            pytest.skip("The server has no jobs of type archive.")
        raise

    (found,) = backend.client.jobs_like(job, place, body["pid"])

    assert found.id == created.id
    assert found.jobParams == job.jobParams


def test_registering_a_file_again_creates_nothing(backend: Backend) -> None:
    body = backend.dataset()
    block = backend.block(body)
    built = BuiltDataset(dataset=body, origdatablock=block, data_file=f"{body['sourceFolder']}/1.nxs")

    first = register(built, backend.client, IngestionSettings())
    second = register(built, backend.client, IngestionSettings())

    assert (first.pid, first.created_dataset, first.created_origdatablock) == (body["pid"], True, True)
    assert (second.pid, second.created_dataset, second.created_origdatablock) == (body["pid"], False, False)
    assert len(backend.client.origdatablocks(body["pid"])) == 1


def test_a_sample_is_made_once_and_found(backend: Backend) -> None:
    settings = Settings.model_validate({"scicat": {"host": "https://scicat.example.org/api"}})
    # Its proposal owns a sample, and the account is a member of this group.
    sample = Sample(name=f"scicat-dagster contract {uuid.uuid4()}", proposal_id=backend.group)

    assert look_for(sample, backend.client) is None
    try:
        made = [make_sample(sample, backend.client, settings) for _ in range(2)]
    except PermanentError as refusal:
        backend.may_lack(refusal.what)
        return

    assert [each.state for each in made] == ["made", "was there"]
    assert {each.id for each in made} == {sample.id}
    assert backend.client.has_sample(sample.id)
    assert len(samples_called(sample.name, backend.client.samples_of_proposal(backend.group))) == 1
    with pytest.raises(TransientError):
        backend.client.create_sample(sample.body(()))
