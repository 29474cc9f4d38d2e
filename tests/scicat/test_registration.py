"""Registering converges: whatever fails and however often it is repeated, one dataset with one block.

Against the stand-in over HTTP, which fails as ``faults`` lets it. Single requests and what their answers mean
are ``test_client``'s; the plans of ``faults`` themselves are tested at the end.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from scicat_dagster.config.models import IngestionSettings, ScicatSettings
from scicat_dagster.dataset.build import BuiltDataset
from scicat_dagster.demo.catalogue import Account, Accounts, CatalogueServer, Dialect, Store, create_app
from scicat_dagster.demo.catalogue.faults import Call, FaultKind, Faults, Plan, Random, Scripted
from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.errors import RefusedError
from scicat_dagster.scicat.registration import (
    LARGEST_BLOCK_BYTES,
    Registration,
    register,
    register_new,
    unregistered,
)

PASSWORD = "pwd"
PID = "20.500.12269/one"
FILE = "/data/443503/raw/one.nxs"
SHORT = 0.3
PATIENT = 20.0
MOST_CALLS = 6
LONG_AGO = "2026-01-15T09:30:00.000Z"

LOGIN = ("POST", "auth/login")
SEARCH = ("GET", "datasets")
READ = ("GET", "datasets/.+")
BLOCKS = ("GET", "origdatablocks")
CREATE = ("POST", "datasets")
ADD = ("POST", "origdatablocks")
HEALTH = ("GET", "health")

INGESTOR = Account(
    "ingestor", PASSWORD, ("ingestor",),
    may_create_datasets=True, may_create_any_group=True, may_read_all=True,
)  # fmt: skip
BLIND = Account("blind", PASSWORD, ("blind",), may_create_datasets=True, may_create_any_group=True)
PLAIN = Account("plain", PASSWORD, ("plain",))

ANY_CHECK = IngestionSettings()
NO_METADATA_CHECK = IngestionSettings(check_if_dataset_exists_by_metadata=False)


class Exchangeable:
    """A plan that a test can exchange, and what was asked meanwhile."""

    def __init__(self) -> None:
        self.plan: Plan = Scripted()
        self.calls: list[Call] = []

    def fault(self, call: Call) -> FaultKind | None:
        self.calls.append(call)
        return self.plan.fault(call)


class ShortOutage:
    """The database is away for the first list of datasets, and back before anybody asks for its health."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._script = Scripted((FaultKind.LISTS_NOTHING, "GET", "datasets"))

    def fault(self, call: Call) -> FaultKind | None:
        if call.path == "health":
            self._faults.forget()
        return self._script.fault(call)


@dataclass
class Catalogue:
    """A running stand-in, and clients of it."""

    server: CatalogueServer
    store: Store
    faults: Faults
    plans: Exchangeable
    stack: ExitStack
    api: str = "v3"

    def client(self, username: str = "ingestor", timeout: float = PATIENT) -> ScicatClient:
        given = {
            "host": self.server.api_root,
            "api": self.api,
            "username": username,
            "password": PASSWORD,
            "timeout": timeout,
        }
        client = ScicatClient(ScicatSettings.model_validate(given))
        self.stack.callback(client.close)
        return client

    def script(self, *steps: tuple[FaultKind, str, str]) -> Scripted:
        script = Scripted(*steps)
        self.plans.plan = script
        return script

    def let_time_pass(self) -> None:
        """Make every dataset and block so old that nobody can still be about to add another block."""
        self.faults.wait_until_all_are_carried_out()
        for dataset in self.store.datasets():
            self.store.change_dataset(dataset["pid"], lambda document: {**document, "createdAt": LONG_AGO})
            for block in self.store.origdatablocks(dataset["pid"]):
                self.store.delete_origdatablock(block["_id"], instant=LONG_AGO, user="test")
                self.store.insert_origdatablock({**block, "createdAt": LONG_AGO})

    def until_registered(
        self, call: Callable[[], Registration], most: int = MOST_CALLS, *, at_once: bool = False
    ) -> tuple[Registration, list[TransientError]]:
        """Repeat a registration as Dagster's retries would, and give what it met on the way."""
        met: list[TransientError] = []
        for _ in range(most):
            try:
                return call(), met
            except TransientError as error:
                met.append(error)
                if not at_once:
                    self.let_time_pass()
        raise AssertionError(f"Not registered after {most} calls: {met[-1]}")

    def posted(self, path: str) -> int:
        return sum((call.method, call.path) == ("POST", path) for call in self.plans.calls)

    @property
    def holds(self) -> tuple[int, int]:
        """How many datasets and blocks there are."""
        return self.store.count_datasets(), self.store.count_origdatablocks()


@pytest.fixture(scope="module", params=[(Dialect.V4X, "v3"), (Dialect.V5_NEXT, "v4")], ids=str)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    accounts = Accounts((INGESTOR, BLIND, PLAIN))
    plans = Exchangeable()
    with Store(tmp_path_factory.mktemp("catalogue") / "catalogue.sqlite") as store:
        dialect, api = request.param
        app = create_app(store, accounts, dialect)
        faults = Faults(app, plans, store, slow_seconds=0.01)
        with CatalogueServer(store, accounts, app=faults) as server, faults:
            yield Catalogue(server, store, faults, plans, ExitStack(), api)


@pytest.fixture
def catalogue(running: Catalogue) -> Iterator[Catalogue]:
    running.store.clear()
    running.script()
    running.plans.calls.clear()
    running.faults.forget()
    with ExitStack() as stack:
        yield replace(running, stack=stack)


def built(
    file: str = FILE,
    *,
    pid: str | None = PID,
    job: str | None = "a1b2c3d4-0000-4000-8000-000000000001",
    folder: str = "/data/443503",
    size: int = 1000,
    checksum: str | None = "abab",
    absolute: bool = False,
    derived: bool = False,
    **changes: Any,
) -> BuiltDataset:
    path = file if absolute else str(PurePosixPath(file).relative_to(folder))
    listed: dict[str, Any] = {"path": path, "size": size, "time": "2026-01-15T09:30:00.000Z"}
    if checksum is not None:
        listed["chk"] = checksum
    sidecar = {"path": "ingestor/one.b2b", "size": 4, "time": "2026-01-15T09:30:01.000Z"}
    metadata = {} if job is None else {"job_id": {"value": job, "unit": "", "human_name": "Job"}}
    dataset: dict[str, Any] = {
        "type": "raw",
        "datasetName": "Run 12",
        "owner": "Ada Lovelace",
        "contactEmail": "ada@example.com",
        "sourceFolder": folder,
        "creationTime": "2026-01-15T09:30:00.000Z",
        "principalInvestigator": "Ada Lovelace",
        "creationLocation": "ESS:CODA",
        "ownerGroup": "ess_proposal_443503",
        "accessGroups": [],
        "scientificMetadata": metadata,
        **changes,
    }
    if pid is not None:
        dataset["pid"] = pid
    block: dict[str, Any] = {
        "datasetId": pid,
        "size": size + 4,
        "chkAlg": "blake2b",
        "dataFileList": [listed, sidecar],
        "ownerGroup": "ess_proposal_443503",
        "accessGroups": [],
    }
    return BuiltDataset(dataset=dataset, origdatablock=block, data_file=file, pid_is_derived=derived)


# Without failures


@pytest.mark.parametrize("pid", [PID, None])
def test_registering_twice_makes_one_dataset_with_one_block(catalogue: Catalogue, pid: str | None) -> None:
    client = catalogue.client()

    first = register(built(pid=pid), client, ANY_CHECK)
    second = register(built(pid=pid), client, ANY_CHECK)

    assert catalogue.holds == (1, 1)
    stored = catalogue.store.datasets()[0]
    assert first == Registration(pid=stored["pid"], created_dataset=True, created_origdatablock=True)
    assert second == Registration(pid=stored["pid"], created_dataset=False, created_origdatablock=False)
    assert (stored["size"], stored["numberOfFiles"]) == (1004, 2)
    assert catalogue.store.origdatablocks(stored["pid"])[0]["datasetId"] == stored["pid"]
    if pid is not None:
        assert stored["pid"] == pid


def test_registering_twice_without_looking_at_metadata_makes_one_dataset(catalogue: Catalogue) -> None:
    for _ in range(2):
        register(built(job=None), catalogue.client(), NO_METADATA_CHECK)

    assert catalogue.holds == (1, 1)


@pytest.mark.parametrize("absolute", [True, False])
def test_a_file_is_recognised_however_it_was_listed(catalogue: Catalogue, absolute: bool) -> None:
    register(built(absolute=not absolute), catalogue.client(), ANY_CHECK)

    again = register(built(absolute=absolute), catalogue.client(), ANY_CHECK)

    assert not again.created_origdatablock
    assert catalogue.holds == (1, 1)


def test_a_file_whose_source_folder_is_another_now_gets_no_second_block(catalogue: Catalogue) -> None:
    register(built(folder="/data/443503"), catalogue.client(), ANY_CHECK)

    again = register(built(folder="/data/443503/raw"), catalogue.client(), ANY_CHECK)

    assert not again.created_origdatablock
    assert catalogue.holds == (1, 1)


def test_a_changed_file_is_noticed_although_its_source_folder_is_another_now(catalogue: Catalogue) -> None:
    register(built(folder="/data/443503"), catalogue.client(), ANY_CHECK)

    with pytest.raises(PermanentError, match="changed since"):
        register(built(folder="/data/443503/raw", size=2000), catalogue.client(), ANY_CHECK)

    assert catalogue.holds == (1, 1)


def test_a_file_that_was_registered_under_another_pid_is_found_by_its_metadata(catalogue: Catalogue) -> None:
    register(built(pid="older"), catalogue.client(), ANY_CHECK)

    again = register(built(), catalogue.client(), ANY_CHECK)

    assert again.pid == "older"
    assert catalogue.holds == (1, 1)


@pytest.mark.parametrize("job", ["a1b2c3d4-0000-4000-8000-000000000001", None])
def test_a_login_that_runs_out_while_looking_makes_no_second_dataset(
    catalogue: Catalogue, job: str | None
) -> None:
    """A server may answer like nobody: with an empty list, which no answer to a write confirms then."""
    register(built(pid="older", job=job), catalogue.client(), ANY_CHECK)
    client = catalogue.client()
    client.whoami()
    script = catalogue.script((FaultKind.TOKEN_EXPIRED, *SEARCH))

    again = register(built(job=job), client, ANY_CHECK)

    assert script.remaining == ()
    assert again.pid == "older"
    assert catalogue.holds == (1, 1)


def test_two_files_of_one_job_are_two_datasets(catalogue: Catalogue) -> None:
    register(built(), catalogue.client(), ANY_CHECK)
    register(built("/data/443503/raw/two.nxs", pid="two"), catalogue.client(), ANY_CHECK)

    assert catalogue.holds == (2, 2)
    assert [catalogue.store.count_origdatablocks(pid) for pid in (PID, "two")] == [1, 1]


def test_two_files_of_one_job_without_pids_are_two_datasets(catalogue: Catalogue) -> None:
    for _ in range(2):
        register(built(pid=None), catalogue.client(), ANY_CHECK)
        register(built("/data/443503/raw/two.nxs", pid=None), catalogue.client(), ANY_CHECK)

    assert catalogue.holds == (2, 2)


@pytest.mark.parametrize("jobs", [(None, "a"), ("a", None), ("a", "b")], ids=str)
def test_a_derived_pid_is_one_dataset_whatever_is_known_of_the_job(
    catalogue: Catalogue, jobs: tuple[str | None, ...]
) -> None:
    for job in jobs:
        register(built(job=job, derived=True), catalogue.client(), ANY_CHECK)

    assert catalogue.holds == (1, 1)


@pytest.mark.parametrize("jobs", [(None, "a"), ("a", None), ("a", "b")], ids=str)
def test_a_derived_pid_that_a_crash_left_without_its_block_gets_it(
    catalogue: Catalogue, jobs: tuple[str | None, ...]
) -> None:
    first, second = (built(job=job, derived=True) for job in jobs)
    catalogue.client().create_dataset(first.dataset)
    catalogue.let_time_pass()

    registration = register(second, catalogue.client(), ANY_CHECK)

    assert registration.created_origdatablock
    assert catalogue.holds == (1, 1)


def test_a_file_without_known_job_is_found_by_its_folder_and_name(catalogue: Catalogue) -> None:
    register(built("/data/443503/raw/two.nxs", pid="two", job="b"), catalogue.client(), ANY_CHECK)
    register(built(pid="older"), catalogue.client(), ANY_CHECK)

    again = register(built(pid=PID, job=None, derived=True), catalogue.client(), ANY_CHECK)

    assert again == Registration(pid="older", created_dataset=False, created_origdatablock=False)
    assert catalogue.holds == (2, 2)


@pytest.mark.parametrize("derived", [True, False])
def test_a_file_is_found_by_its_folder_and_name_where_its_metadata_is_not_looked_at(
    catalogue: Catalogue, derived: bool
) -> None:
    register(built(pid="older"), catalogue.client(), ANY_CHECK)

    again = register(built(pid=PID, derived=derived), catalogue.client(), NO_METADATA_CHECK)

    assert again == Registration(pid="older", created_dataset=False, created_origdatablock=False)
    assert catalogue.holds == (1, 1)


def test_a_dataset_without_a_list_is_not_taken_for_a_file_of_the_same_folder_and_name(
    catalogue: Catalogue,
) -> None:
    """Another registration has made it, and may be about to add its list."""
    other = built("/data/443503/raw/two.nxs", pid="two", job=None, derived=True)
    catalogue.client().create_dataset(other.dataset)

    done = register(built(job=None, derived=True), catalogue.client(), ANY_CHECK)

    assert done == Registration(pid=PID, created_dataset=True, created_origdatablock=True)
    assert catalogue.holds == (2, 1)


def test_a_dataset_without_a_list_is_not_taken_for_another_file_of_its_job(catalogue: Catalogue) -> None:
    """Its registration was interrupted; its own file completes it."""
    other = built("/data/443503/raw/two.nxs", pid="two")
    catalogue.client().create_dataset(other.dataset)

    done = register(built(), catalogue.client(), ANY_CHECK)
    catalogue.let_time_pass()
    completed = register(other, catalogue.client(), ANY_CHECK)

    assert done == Registration(pid=PID, created_dataset=True, created_origdatablock=True)
    assert (completed.pid, completed.created_dataset) == ("two", False)
    assert catalogue.holds == (2, 2)


def test_the_lists_of_a_campaign_with_one_title_are_asked_for_at_once(catalogue: Catalogue) -> None:
    for number in range(12):
        file = f"/data/443503/raw/other{number}.nxs"
        register(built(file, pid=f"p{number}", job=str(number)), catalogue.client(), ANY_CHECK)
    catalogue.plans.calls.clear()

    register(built(job=None, derived=True), catalogue.client(), ANY_CHECK)

    asked = [call.path for call in catalogue.plans.calls if call.method == "GET"]
    assert asked.count("origdatablocks") == 1


def test_a_file_that_has_the_name_of_another_in_its_folder_is_registered(catalogue: Catalogue) -> None:
    register(built("/data/443503/raw/two.nxs", pid="two", job=None), catalogue.client(), ANY_CHECK)

    register(built(job=None, derived=True), catalogue.client(), ANY_CHECK)

    assert catalogue.holds == (2, 2)


def test_a_moved_file_is_refused_where_nobody_assigned_a_pid(catalogue: Catalogue) -> None:
    register(
        built("/archive/443503/raw/one.nxs", folder="/archive/443503", pid="older"),
        catalogue.client(),
        ANY_CHECK,
    )

    with pytest.raises(PermanentError, match="older has the same job_id") as refusal:
        register(built(derived=True), catalogue.client(), ANY_CHECK)

    assert refusal.value.details["in the catalogue"] == "Run 12 in /archive/443503"
    assert catalogue.holds == (1, 1)


# What was there before


@pytest.mark.parametrize(("pid", "settings"), [(PID, ANY_CHECK), (PID, NO_METADATA_CHECK), (None, ANY_CHECK)])
def test_a_dataset_that_a_crash_left_without_its_block_gets_it(
    catalogue: Catalogue, pid: str | None, settings: IngestionSettings
) -> None:
    catalogue.script((FaultKind.HTML, *ADD))
    with pytest.raises(TransientError):
        register(built(pid=pid), catalogue.client(), settings)
    assert catalogue.holds == (1, 0)
    catalogue.let_time_pass()

    done = register(built(pid=pid), catalogue.client(), settings)

    assert (done.created_dataset, done.created_origdatablock) == (False, True)
    assert catalogue.holds == (1, 1)


def test_a_dataset_that_somebody_else_may_still_be_completing_is_left_for_later(catalogue: Catalogue) -> None:
    catalogue.client().create_dataset(built().dataset)

    with pytest.raises(TransientError, match="under way") as waiting:
        register(built(), catalogue.client(), ANY_CHECK)

    assert waiting.value.retry_after_seconds is not None
    assert PATIENT < waiting.value.retry_after_seconds < 3 * PATIENT
    assert catalogue.holds == (1, 0)


def test_duplicate_blocks_are_noticed_and_not_added_to(catalogue: Catalogue) -> None:
    client = catalogue.client()
    register(built(), client, ANY_CHECK)
    client.create_origdatablock(built().origdatablock)

    done = register(built(), client, ANY_CHECK)

    assert catalogue.holds == (1, 2)
    identifiers = [block["_id"] for block in catalogue.store.origdatablocks(PID)]
    assert [notice.subject for notice in done.notices] == ["origdatablocks"]
    assert all(identifier in done.notices[0].reason for identifier in identifiers)


def test_blocks_of_further_files_are_left_alone(catalogue: Catalogue) -> None:
    client = catalogue.client()
    register(built(), client, ANY_CHECK)
    client.create_origdatablock(built("/data/443503/raw/further.nxs").origdatablock)

    done = register(built(), client, ANY_CHECK)

    assert done.notices == ()
    assert catalogue.holds == (1, 2)


@pytest.mark.parametrize("settings", [ANY_CHECK, NO_METADATA_CHECK])
@pytest.mark.parametrize("has_block", [True, False])
def test_a_pid_of_another_file_is_refused_and_both_are_named(
    catalogue: Catalogue, settings: IngestionSettings, has_block: bool
) -> None:
    client = catalogue.client()
    theirs = built("/data/1/raw/theirs.nxs", folder="/data/1", job="theirs", datasetName="Their run")
    client.create_dataset(theirs.dataset)
    if has_block:
        client.create_origdatablock(theirs.origdatablock)

    with pytest.raises(PermanentError) as refused:
        register(built(), client, settings)

    said = f"{refused.value} {refused.value.details}"
    assert PID in refused.value.what
    assert all(part in said for part in ("Their run", "/data/1", FILE))
    assert "pid" in refused.value.remedy
    assert catalogue.holds == (1, int(has_block))


@pytest.mark.parametrize("changed", [{"size": 1001}, {"checksum": "cdcd"}])
def test_a_file_that_changed_since_it_was_registered_is_refused(
    catalogue: Catalogue, changed: dict[str, Any]
) -> None:
    register(built(), catalogue.client(), ANY_CHECK)

    with pytest.raises(PermanentError, match="changed since") as refused:
        register(built(**changed), catalogue.client(), ANY_CHECK)

    assert "1000 bytes, abab" in refused.value.details["registered"]
    assert refused.value.details["on disk"] != refused.value.details["registered"]
    assert refused.value.remedy
    assert catalogue.holds == (1, 1)
    assert catalogue.store.datasets()[0]["size"] == 1004


def test_a_file_that_has_no_checksum_now_is_still_the_same(catalogue: Catalogue) -> None:
    register(built(), catalogue.client(), ANY_CHECK)

    assert not register(built(checksum=None), catalogue.client(), ANY_CHECK).created_origdatablock


def test_a_pid_is_not_taken_again_where_nobody_can_read_it(catalogue: Catalogue) -> None:
    first = register(built(), catalogue.client("blind"), ANY_CHECK)
    assert (first.created_dataset, first.created_origdatablock) == (True, True)

    with pytest.raises(PermanentError, match="may not read it") as refused:
        register(built(), catalogue.client("blind"), ANY_CHECK)

    assert PID in refused.value.what
    assert "right to read" in refused.value.remedy
    assert catalogue.holds == (1, 1)


@pytest.mark.parametrize("settings", [ANY_CHECK, NO_METADATA_CHECK])
@pytest.mark.parametrize("job", [None, ""])
def test_a_dataset_that_could_not_be_recognised_is_refused(
    catalogue: Catalogue, settings: IngestionSettings, job: str | None
) -> None:
    with pytest.raises(PermanentError, match="twice") as refused:
        register(built(pid=None, job=job), catalogue.client(), settings)

    assert "job_id" in refused.value.remedy
    assert catalogue.posted("datasets") == 0


def test_a_list_that_is_empty_because_the_database_is_away_makes_no_second_dataset(
    catalogue: Catalogue,
) -> None:
    """Only the first of the two requests is about the database; without a pid nothing else would refuse."""
    registration = partial(register, built(pid=None), catalogue.client(), ANY_CHECK)
    first = registration()
    catalogue.script((FaultKind.LISTS_NOTHING, "GET", "datasets"))

    _, met = catalogue.until_registered(registration)

    assert len(met) == 1
    assert "not healthy" in str(met[0]) or "503" in str(met[0])
    assert registration().pid == first.pid
    assert catalogue.holds == (1, 1)


def test_a_dataset_that_is_listed_a_moment_later_is_not_made_again(catalogue: Catalogue) -> None:
    """The database came back between the list and the question for its health."""
    registration = partial(register, built(pid=None), catalogue.client(), ANY_CHECK)
    registration()
    catalogue.plans.plan = ShortOutage(catalogue.faults)

    _, met = catalogue.until_registered(registration)

    assert len(met) == 1
    assert catalogue.holds == (1, 1)


def test_a_dataset_without_pid_is_refused_where_its_metadata_is_not_looked_at(catalogue: Catalogue) -> None:
    with pytest.raises(PermanentError, match="twice") as refused:
        register(built(pid=None), catalogue.client(), NO_METADATA_CHECK)

    assert "check_if_dataset_exists_by_metadata" in refused.value.remedy
    assert catalogue.posted("datasets") == 0


def test_a_missing_right_is_refused_and_posts_nothing(catalogue: Catalogue) -> None:
    with pytest.raises(RefusedError, match="Forbidden resource"):
        register(built(), catalogue.client("plain"), ANY_CHECK)

    assert catalogue.holds == (0, 0)


def test_what_the_server_refuses_is_permanent_and_leaves_nothing(catalogue: Catalogue) -> None:
    with pytest.raises(RefusedError, match="property foo should not exist"):
        register(built(foo="bar"), catalogue.client(), ANY_CHECK)

    assert catalogue.holds == (0, 0)


# File lists that are too large for one request


SEVERAL = 750
"""A limit for which the ten files of ``long`` need four blocks."""


def long(*, pid: str | None = PID, entries: int = 10) -> BuiltDataset:
    """A file with so many others beside it that its list is long."""
    short = built(pid=pid)
    beside = [
        {
            "path": f"ingestor/{number:06}.b2b",
            "size": 128,
            "time": "2026-01-15T09:30:01.000Z",
            "chk": "ab" * 32,
        }
        for number in range(entries - 1)
    ]
    listed: Any = short.origdatablock["dataFileList"]
    size = 1000 + 128 * len(beside)
    block = {**short.origdatablock, "dataFileList": [listed[0], *beside], "size": size}
    return short.model_copy(update={"origdatablock": block})


def check_listed_once(store: Store, wanted: BuiltDataset) -> list[list[dict[str, Any]]]:
    """Each file of the list is in exactly one block of the one dataset; and the files of each block."""
    (dataset,) = store.datasets()
    blocks = store.origdatablocks(dataset["pid"])
    listed = [block["dataFileList"] for block in blocks]
    expected: Any = wanted.origdatablock["dataFileList"]
    assert Counter(file["path"] for files in listed for file in files) == Counter(
        file["path"] for file in expected
    )
    assert [block["size"] for block in blocks] == [sum(file["size"] for file in files) for files in listed]
    return listed


@pytest.mark.parametrize("pid", [PID, None])
def test_a_long_file_list_becomes_several_blocks_and_stays_so(catalogue: Catalogue, pid: str | None) -> None:
    client = catalogue.client()

    first = register(long(pid=pid), client, ANY_CHECK, most_bytes=SEVERAL)
    second = register(long(pid=pid), client, ANY_CHECK, most_bytes=SEVERAL)

    assert (first.created_dataset, first.created_origdatablock) == (True, True)
    assert (second.created_dataset, second.created_origdatablock) == (False, False)
    assert second.notices == ()
    listed = check_listed_once(catalogue.store, long())
    assert len(listed) == 4
    assert all(len(json.dumps(files)) < SEVERAL for files in listed)
    assert catalogue.store.datasets()[0]["size"] == 1000 + 9 * 128


def test_a_file_list_of_more_than_16_mib_is_registered_whole(catalogue: Catalogue) -> None:
    enormous = long(entries=110_000)
    assert len(json.dumps(enormous.origdatablock)) > 16 * 1024 * 1024

    register(enormous, catalogue.client(), ANY_CHECK)

    assert len(check_listed_once(catalogue.store, enormous)) == 3


@pytest.mark.parametrize("kind", [FaultKind.HTML, FaultKind.RESET, FaultKind.STORED_THEN_ERROR])
@pytest.mark.parametrize("fine", [0, 1, 2, 3])
@pytest.mark.parametrize("pid", [PID, None])
def test_a_fault_at_any_block_ends_with_each_file_listed_once(
    catalogue: Catalogue, kind: FaultKind, fine: int, pid: str | None
) -> None:
    script = catalogue.script(*[(FaultKind.SLOW, *ADD)] * fine, (kind, *ADD))
    client = catalogue.client()

    done, _ = catalogue.until_registered(
        lambda: register(long(pid=pid), client, ANY_CHECK, most_bytes=SEVERAL)
    )

    assert script.remaining == ()
    assert len(check_listed_once(catalogue.store, long())) == 4
    assert done.notices == ()


@pytest.mark.parametrize("most_bytes", [SEVERAL, LARGEST_BLOCK_BYTES])
@pytest.mark.parametrize("stored", [1, 2, 3])
def test_a_crash_between_two_blocks_is_completed_by_what_is_missing(
    catalogue: Catalogue, stored: int, most_bytes: int
) -> None:
    client = catalogue.client()
    register(long(), client, ANY_CHECK, most_bytes=SEVERAL)
    # As if the blocks after these had never been posted.
    for block in catalogue.store.origdatablocks(PID)[stored:]:
        catalogue.store.delete_origdatablock(block["_id"], instant=LONG_AGO, user="test")
    catalogue.let_time_pass()
    catalogue.plans.calls.clear()

    done = register(long(), client, ANY_CHECK, most_bytes=most_bytes)

    assert (done.created_dataset, done.created_origdatablock) == (False, True)
    assert catalogue.posted("origdatablocks") == (4 - stored if most_bytes == SEVERAL else 1)
    check_listed_once(catalogue.store, long())
    assert not register(long(), client, ANY_CHECK, most_bytes=SEVERAL).created_origdatablock


def test_blocks_that_somebody_else_may_still_be_adding_are_left_for_later(catalogue: Catalogue) -> None:
    client = catalogue.client()
    catalogue.script((FaultKind.SLOW, *ADD), (FaultKind.HTML, *ADD))
    with pytest.raises(TransientError):
        register(long(), client, ANY_CHECK, most_bytes=SEVERAL)
    # The dataset is old, but its first block is not.
    catalogue.store.change_dataset(PID, lambda document: {**document, "createdAt": LONG_AGO})

    with pytest.raises(TransientError, match="under way"):
        register(long(), client, ANY_CHECK, most_bytes=SEVERAL)

    assert catalogue.holds == (1, 1)


def test_a_registered_file_is_complete_although_other_files_are_beside_it_now(catalogue: Catalogue) -> None:
    register(built(), catalogue.client(), ANY_CHECK)

    again = register(long(), catalogue.client(), ANY_CHECK)

    assert not again.created_origdatablock
    assert catalogue.holds == (1, 1)


def test_an_entry_that_is_too_large_for_a_request_is_refused_before_anything_is_posted(
    catalogue: Catalogue,
) -> None:
    with pytest.raises(PermanentError, match="more than there is room for") as refused:
        register(long(), catalogue.client(), ANY_CHECK, most_bytes=350)

    assert "path" in refused.value.remedy
    assert catalogue.posted("datasets") == catalogue.posted("origdatablocks") == 0


# Many files of one run: the catalogue is asked once which of them it does not know.


def of_many(number: int) -> list[BuiltDataset]:
    return [
        built(f"/data/443503/raw/{index}.nxs", pid=f"20.500.12269/{index}", job=f"job-{index}")
        for index in range(number)
    ]


def test_files_that_the_catalogue_does_not_know_are_found_with_one_question(catalogue: Catalogue) -> None:
    files = of_many(20)
    register(files[3], catalogue.client(), ANY_CHECK)
    catalogue.plans.calls.clear()

    found = unregistered(files, catalogue.client(), ANY_CHECK)

    assert found == {file.data_file for index, file in enumerate(files) if index != 3}
    assert sum(call.path == "datasets" for call in catalogue.plans.calls) == 1


def test_files_that_may_be_registered_by_another_pid_are_not_taken_for_new(catalogue: Catalogue) -> None:
    twins = [built(f"/data/443503/raw/{name}.nxs", pid=f"20.500.12269/{name}", job="same") for name in "ab"]
    without_job = built("/data/443503/raw/c.nxs", pid="20.500.12269/c", job=None)
    without_pid = built("/data/443503/raw/d.nxs", pid=None, job="d")

    found = unregistered([*twins, without_job, without_pid], catalogue.client(), ANY_CHECK)

    assert found == frozenset()
    assert unregistered(of_many(2), catalogue.client(), NO_METADATA_CHECK) == frozenset()


@pytest.mark.parametrize("fault", [FaultKind.INTERNAL_ERROR, FaultKind.HTML])
def test_nothing_is_taken_for_new_when_the_catalogue_cannot_tell(
    catalogue: Catalogue, fault: FaultKind
) -> None:
    catalogue.script((fault, *SEARCH))

    assert unregistered(of_many(2), catalogue.client(), ANY_CHECK) == frozenset()


def test_a_login_that_has_run_out_hides_no_dataset(catalogue: Catalogue) -> None:
    files = of_many(2)
    client = catalogue.client()
    register(files[0], client, ANY_CHECK)
    catalogue.script((FaultKind.TOKEN_EXPIRED, *SEARCH))

    assert unregistered(files, client, ANY_CHECK) == {files[1].data_file}


def test_a_new_file_takes_two_requests(catalogue: Catalogue) -> None:
    client = catalogue.client()
    client.whoami()
    catalogue.plans.calls.clear()

    registered = register_new(built(), client, ANY_CHECK)

    assert registered.created_dataset
    assert registered.created_origdatablock
    assert [(call.method, call.path) for call in catalogue.plans.calls] == [CREATE, ADD]
    assert catalogue.holds == (1, 1)


def test_a_file_that_is_looked_for_and_new_takes_three_requests(catalogue: Catalogue) -> None:
    client = catalogue.client()
    client.whoami()
    catalogue.plans.calls.clear()

    register(built(), client, ANY_CHECK)

    assert [(call.method, call.path) for call in catalogue.plans.calls] == [SEARCH, CREATE, ADD]


class Miscounting:
    """A server that stores another size than it was sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def miscounted() -> dict[str, Any]:
            message = dict(await receive())
            if scope["path"].endswith("/origdatablocks"):
                message["body"] = message["body"].replace(b'"size": 1000,', b'"size": 1001,')
            return message

        await self._app(scope, receive if scope["type"] != "http" else miscounted, send)


def test_a_list_that_the_server_stores_otherwise_is_noticed(tmp_path: Path) -> None:
    accounts = Accounts((INGESTOR,))
    with Store(tmp_path / "catalogue.sqlite") as store:
        app = Miscounting(create_app(store, accounts, Dialect.V4X))
        with CatalogueServer(store, accounts, app=app) as server:
            settings = ScicatSettings(host=server.api_root, username="ingestor", password=SecretStr(PASSWORD))
            client = ScicatClient(settings)
            registered = register(built(), client, ANY_CHECK)
            client.close()

    (notice,) = registered.notices
    assert notice.subject == "origdatablock"
    assert "1 of the 2 files" in notice.reason


def test_a_file_that_somebody_registered_since_is_not_registered_twice(catalogue: Catalogue) -> None:
    client = catalogue.client()
    new = unregistered([built()], client, ANY_CHECK)
    register(built(), catalogue.client(), ANY_CHECK)

    again = register_new(built(), client, ANY_CHECK)

    assert new == {FILE}
    assert not again.created_dataset
    assert not again.created_origdatablock
    assert catalogue.holds == (1, 1)


# With failures


@dataclass(frozen=True)
class Situation:
    """What is in the catalogue before, and with which pid and settings a file is registered."""

    dataset: bool
    block: bool
    pid: str | None
    settings: IngestionSettings
    requests: tuple[tuple[str, str], ...]
    """The requests of a registration without failures, without the login."""

    def prepare(self, catalogue: Catalogue) -> None:
        client, before = catalogue.client(), built(pid=self.pid)
        if self.dataset:
            pid = client.create_dataset(before.dataset).pid
            if self.block:
                client.create_origdatablock({**before.origdatablock, "datasetId": pid})
        catalogue.let_time_pass()
        catalogue.plans.calls.clear()

    @property
    def built(self) -> BuiltDataset:
        # What has another name now is not found by it.
        name = "Run 12, corrected" if self.settings is NO_METADATA_CHECK else "Run 12"
        return built(pid=self.pid, datasetName=name)


SITUATIONS = {
    "new": Situation(False, False, PID, ANY_CHECK, (SEARCH, CREATE, ADD)),
    "half": Situation(True, False, PID, ANY_CHECK, (SEARCH, BLOCKS, ADD)),
    "half, by pid": Situation(True, False, PID, NO_METADATA_CHECK, (SEARCH, CREATE, READ, BLOCKS, ADD)),
    "whole": Situation(True, True, PID, ANY_CHECK, (SEARCH, BLOCKS)),
    "whole, by pid": Situation(True, True, PID, NO_METADATA_CHECK, (SEARCH, CREATE, READ, BLOCKS)),
    "new, no pid": Situation(False, False, None, ANY_CHECK, (SEARCH, HEALTH, CREATE, ADD)),
    "half, no pid": Situation(True, False, None, ANY_CHECK, (SEARCH, BLOCKS, ADD)),
    "whole, no pid": Situation(True, True, None, ANY_CHECK, (SEARCH, BLOCKS)),
}
UNANSWERED = {FaultKind.STORED_THEN_TIMEOUT, FaultKind.CARRIED_OUT_LATER}
# A pid of ours that is taken is refused, whatever the list said.
UNHARMED = {FaultKind.SLOW, FaultKind.TOKEN_EXPIRED, FaultKind.LISTS_NOTHING}


def fits(kind: FaultKind, request: tuple[str, str]) -> bool:
    return kind.fits(Call(request[0], request[1]))


# All kinds at all requests of these; elsewhere those that merely refuse are one kind.
IN_FULL = ("new", "half, by pid")
MERELY_REFUSING = {FaultKind.BAD_GATEWAY, FaultKind.UNAVAILABLE, FaultKind.TOO_MANY}
CASES = [
    pytest.param(name, request, kind, id=f"{name}: {kind.name} at {' '.join(request)}")
    for name, situation in SITUATIONS.items()
    for request in (LOGIN, *situation.requests)
    for kind in FaultKind
    if fits(kind, request) and (request != LOGIN or name == "new")
    if name in IN_FULL or kind not in MERELY_REFUSING
]


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_registration_sends_these_requests(catalogue: Catalogue, name: str) -> None:
    situation = SITUATIONS[name]
    situation.prepare(catalogue)

    register(situation.built, catalogue.client(), situation.settings)

    sent = [(call.method, call.path) for call in catalogue.plans.calls]
    as_named = {(method, READ[1] if path.startswith("datasets/") else path) for method, path in sent}
    assert as_named - {("GET", "auth/whoami")} == {LOGIN, *situation.requests}


@pytest.mark.parametrize(("name", "request_", "kind"), CASES)
def test_a_fault_at_any_request_ends_with_one_dataset_and_one_block(
    catalogue: Catalogue, name: str, request_: tuple[str, str], kind: FaultKind
) -> None:
    situation = SITUATIONS[name]
    situation.prepare(catalogue)
    script = catalogue.script((kind, *request_))
    client = catalogue.client(timeout=SHORT if kind in UNANSWERED else PATIENT)

    done, met = catalogue.until_registered(lambda: register(situation.built, client, situation.settings))

    assert script.remaining == ()
    assert catalogue.faults.counts == {kind: 1}
    assert catalogue.holds == (1, 1)
    assert done.pid == catalogue.store.datasets()[0]["pid"]
    assert done.notices == ()
    # One for the fault; a machine that is busy may be too slow for the short time-out once more.
    assert len(met) <= (1 if kind not in UNANSWERED else 5)
    # Reads that are not answered are repeated by the client itself, and so is the block of a new dataset.
    if kind not in UNHARMED | UNANSWERED and request_ != ADD:
        assert len(met) == 1


@pytest.mark.parametrize("request_", [CREATE, ADD])
@pytest.mark.parametrize("kind", [kind for kind in FaultKind if fits(kind, ("GET", "auth/whoami"))])
def test_a_fault_while_asking_who_we_are_ends_with_one_dataset_and_one_block(
    catalogue: Catalogue, request_: tuple[str, str], kind: FaultKind
) -> None:
    script = catalogue.script((FaultKind.TOKEN_EXPIRED, *request_), (kind, "GET", "auth/whoami"))
    client = catalogue.client(timeout=SHORT if kind in UNANSWERED else PATIENT)

    catalogue.until_registered(lambda: register(built(), client, ANY_CHECK))

    # A server of today says itself that it does not know us; who we are is asked after an empty list.
    is_asked = request_ == CREATE or catalogue.api == "v3"
    assert (script.remaining == ()) == is_asked
    assert catalogue.holds == (1, 1)


@pytest.mark.parametrize("request_", [CREATE, ADD])
@pytest.mark.parametrize("kind", [kind for kind in FaultKind if fits(kind, LOGIN)])
def test_a_fault_while_logging_in_again_ends_with_one_dataset_and_one_block(
    catalogue: Catalogue, request_: tuple[str, str], kind: FaultKind
) -> None:
    client = catalogue.client(timeout=SHORT if kind in UNANSWERED else PATIENT)
    client.dataset(PID)
    script = catalogue.script((FaultKind.TOKEN_EXPIRED, *request_), (kind, *LOGIN))

    catalogue.until_registered(lambda: register(built(), client, ANY_CHECK))

    assert script.remaining == ()
    assert catalogue.holds == (1, 1)


@pytest.mark.parametrize("kind", [kind for kind in FaultKind if fits(kind, ("GET", "health"))])
def test_a_fault_while_asking_for_the_health_ends_with_one_dataset_and_one_block(
    catalogue: Catalogue, kind: FaultKind
) -> None:
    script = catalogue.script((FaultKind.DATABASE_DOWN, *CREATE), (kind, "GET", "health"))
    client = catalogue.client(timeout=SHORT if kind in UNANSWERED else PATIENT)

    catalogue.until_registered(lambda: register(built(), client, ANY_CHECK))

    assert script.remaining == ()
    assert catalogue.holds == (1, 1)


@pytest.mark.parametrize("kind", [FaultKind.STORED_THEN_ERROR, FaultKind.RESET])
def test_a_dataset_that_may_have_been_stored_and_cannot_be_read_is_left_to_a_person(
    catalogue: Catalogue, kind: FaultKind
) -> None:
    catalogue.script((kind, *CREATE))
    client = catalogue.client("blind")
    with pytest.raises(TransientError):
        register(built(), client, ANY_CHECK)

    with pytest.raises(PermanentError, match="may not read it") as refused:
        register(built(), client, ANY_CHECK)

    assert "right to read" in refused.value.remedy
    assert catalogue.holds == (1, 0)


@pytest.mark.parametrize("kind", [FaultKind.STORED_THEN_ERROR, FaultKind.RESET, FaultKind.UNAVAILABLE])
def test_a_block_that_may_have_been_stored_and_cannot_be_read_is_not_added_again(
    catalogue: Catalogue, kind: FaultKind
) -> None:
    catalogue.script((kind, *ADD))
    client = catalogue.client("blind")

    try:
        catalogue.until_registered(lambda: register(built(), client, ANY_CHECK))
        left_to_a_person = False
    except PermanentError as refused:
        left_to_a_person = "may not read it" in refused.what

    assert left_to_a_person or catalogue.holds == (1, 1)
    assert catalogue.holds in ((1, 0), (1, 1))


def test_faults_at_every_request_one_after_the_other(catalogue: Catalogue) -> None:
    stored = (FaultKind.STORED_THEN_ERROR, FaultKind.TOKEN_EXPIRED, FaultKind.RESET)
    steps = [(kind, *request) for request in (LOGIN, SEARCH, CREATE, BLOCKS, ADD) for kind in stored]
    script = catalogue.script(*steps)
    client = catalogue.client()

    catalogue.until_registered(lambda: register(built(), client, ANY_CHECK), most=20)

    assert catalogue.holds == (1, 1)
    assert len(script.remaining) < len(steps) / 2


def test_a_server_that_is_away_between_the_two_writes(tmp_path: Path) -> None:
    accounts = Accounts((INGESTOR,))
    with Store(tmp_path / "catalogue.sqlite") as store, ExitStack() as stack:
        script = Scripted((FaultKind.HTML, *ADD))
        faults = Faults(create_app(store, accounts), script, store)
        server = CatalogueServer(store, accounts, app=faults)
        with server:
            catalogue = Catalogue(server, store, faults, Exchangeable(), stack)
            client = catalogue.client()
            with pytest.raises(TransientError):
                register(built(), client, ANY_CHECK)
        with pytest.raises(TransientError, match="cannot be reached"):
            register(built(), client, ANY_CHECK)
        assert catalogue.holds == (1, 0)
        catalogue.let_time_pass()

        with server:
            done = register(built(), client, ANY_CHECK)

        assert (done.created_dataset, done.created_origdatablock) == (False, True)
        assert catalogue.holds == (1, 1)


@pytest.mark.parametrize("pid", [True, False])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_files_under_faults_by_chance(catalogue: Catalogue, seed: int, pid: bool) -> None:
    likely = dict.fromkeys(FaultKind, 0.04)
    plan = Random(seed, {**likely, FaultKind.STORED_THEN_TIMEOUT: 0.01}, most_in_a_row=2)
    catalogue.plans.plan = plan
    client = catalogue.client(timeout=SHORT)
    files = [
        built(f"/data/443503/raw/{number}.nxs", pid=f"pid/{number}" if pid else None, job=f"job {number}")
        for number in range(4)
    ]

    for file in files * 2:
        catalogue.until_registered(lambda file=file: register(file, client, ANY_CHECK), most=60)  # type: ignore[misc]

    plan.stop()
    assert catalogue.faults.counts.total() > 3
    assert catalogue.holds == (4, 4)
    listed = [
        block["dataFileList"][0]["path"]
        for dataset in catalogue.store.datasets()
        for block in catalogue.store.origdatablocks(dataset["pid"])
    ]
    assert sorted(listed) == [f"raw/{number}.nxs" for number in range(4)]


# At the same time


class Meeting:
    """Lets a client add a block only when the other has seen the blocks, or added one itself, or is done."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._changed = threading.Condition()
        self._ready: set[int] = set()
        self._lists: dict[int, int] = {}
        self._done = False

    def one_is_done(self) -> None:
        with self._changed:
            self._done = True
            self._changed.notify_all()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, port = (scope["method"], scope["path"].rpartition("/")[2]), scope["client"][1]
        if request == ADD:
            await run_in_threadpool(self._wait_for_the_other, port)
        await self._app(scope, receive, send)
        if request == BLOCKS:
            with self._changed:
                self._lists[port] = self._lists.get(port, 0) + 1
                # Twice: for whether the dataset is ours, and for what is missing in it.
                if self._lists[port] == 2:
                    self._ready.add(port)
                    self._changed.notify_all()

    def _wait_for_the_other(self, port: int) -> None:
        with self._changed:
            self._ready.add(port)
            self._changed.notify_all()
            # Each waits with its own block, and so neither before both are here.
            assert self._changed.wait_for(lambda: self._done or self._ready - {port}, PATIENT)


def register_twice_at_once(
    folder: Path,
    *,
    half: bool,
    may_delete: bool,
    file: BuiltDataset | None = None,
    most_bytes: int = LARGEST_BLOCK_BYTES,
) -> tuple[Store, list[Registration]]:
    """Two registrations by two clients, neither of which adds its block before the other has looked."""
    file = file or built()
    accounts = Accounts((replace(INGESTOR, may_delete=may_delete),))
    store = Store(folder / "catalogue.sqlite")
    with ExitStack() as stack:
        meeting = Meeting(create_app(store, accounts))
        faults = Faults(meeting, Scripted(), store)
        with CatalogueServer(store, accounts, app=faults) as server:
            catalogue = Catalogue(server, store, faults, Exchangeable(), stack)
            clients = [catalogue.client() for _ in range(2)]
            if half:
                clients[0].create_dataset(file.dataset)
                catalogue.let_time_pass()

            def run(client: ScicatClient) -> Registration:
                try:
                    return catalogue.until_registered(
                        lambda: register(file, client, ANY_CHECK, most_bytes=most_bytes),
                        most=1000,
                        at_once=True,
                    )[0]
                finally:
                    meeting.one_is_done()

            with ThreadPoolExecutor(2) as threads:
                return store, list(threads.map(run, clients))


@pytest.mark.parametrize("half", [True, False])
def test_two_registrations_at_the_same_time_make_one_dataset_with_one_block(
    tmp_path: Path, half: bool
) -> None:
    store, done = register_twice_at_once(tmp_path, half=half, may_delete=True)

    with store:
        assert [registration.pid for registration in done] == [PID, PID]
        assert sum(registration.created_dataset for registration in done) == (0 if half else 1)
        assert store.count_datasets() == 1
        assert store.count_origdatablocks() == 1
        assert [registration.notices for registration in done] == [(), ()]
        assert store.datasets()[0]["size"] == 1004


@pytest.mark.parametrize("half", [True, False])
def test_two_registrations_of_several_blocks_at_the_same_time_list_each_file_once(
    tmp_path: Path, half: bool
) -> None:
    store, done = register_twice_at_once(
        tmp_path, half=half, may_delete=True, file=long(), most_bytes=SEVERAL
    )

    with store:
        assert [registration.notices for registration in done] == [(), ()]
        assert len(check_listed_once(store, long())) == 4


def test_a_block_too_many_that_nobody_may_remove_is_noticed_once(tmp_path: Path) -> None:
    store, done = register_twice_at_once(tmp_path, half=True, may_delete=False)

    with store:
        blocks = [block["_id"] for block in store.origdatablocks(PID)]
        (notice,) = [notice for registration in done for notice in registration.notices]
        assert len(blocks) == 2
        assert all(identifier in notice.reason for identifier in blocks)


def test_two_registrations_one_after_the_other_by_two_clients(catalogue: Catalogue) -> None:
    done = [register(built(), catalogue.client(), ANY_CHECK) for _ in range(2)]

    assert [registration.created_origdatablock for registration in done] == [True, False]
    assert catalogue.holds == (1, 1)


# The plans, and what holds answers back


def test_answers_that_are_held_back_are_given_when_the_faults_are_over(tmp_path: Path) -> None:
    accounts = Accounts((INGESTOR,))
    with Store(tmp_path / "catalogue.sqlite") as store, ExitStack() as stack:
        faults = Faults(
            create_app(store, accounts), Scripted((FaultKind.STORED_THEN_TIMEOUT, *CREATE)), store
        )
        with CatalogueServer(store, accounts, app=faults) as server, ThreadPoolExecutor(1) as thread:
            client = Catalogue(server, store, faults, Exchangeable(), stack).client()
            with faults:
                waiting = thread.submit(register, built(), client, ANY_CHECK)
            assert waiting.result(2 * PATIENT).created_dataset


def test_a_script_is_used_up_step_by_step() -> None:
    script = Scripted((FaultKind.HTML, "POST", "datasets"), (FaultKind.RESET, "POST", "datasets|proposals"))

    assert script.fault(Call("GET", "datasets")) is None
    assert script.fault(Call("POST", "datasets/one")) is None
    assert script.fault(Call("POST", "datasets")) is FaultKind.HTML
    assert script.fault(Call("POST", "datasets")) is FaultKind.RESET
    assert script.fault(Call("POST", "datasets")) is None
    assert script.remaining == ()


def test_a_fault_of_one_route_does_not_happen_to_another() -> None:
    script = Scripted((FaultKind.LOGIN_DOWN, "POST", ".*"), (FaultKind.DATABASE_DOWN, "GET", ".*"))

    assert script.fault(Call("POST", "datasets")) is None
    assert script.fault(Call("GET", "datasets")) is None
    assert script.fault(Call("GET", "health")) is FaultKind.DATABASE_DOWN
    assert script.fault(Call("POST", "auth/login")) is FaultKind.LOGIN_DOWN


CALLS = [Call("POST", "datasets", pid=str(number % 7)) for number in range(300)]


def decisions(plan: Plan, calls: list[Call] = CALLS) -> list[FaultKind | None]:
    return [plan.fault(call) for call in calls]


def test_chance_is_the_same_for_the_same_seed() -> None:
    likely = {FaultKind.RESET: 0.3, FaultKind.HTML: 0.2}

    first = decisions(Random(1, likely))

    assert decisions(Random(1, likely)) == first
    assert decisions(Random(2, likely)) != first
    assert 60 <= first.count(FaultKind.RESET) <= 120
    assert 30 <= first.count(FaultKind.HTML) <= 90


def test_chance_leaves_a_request_alone_after_so_many_faults() -> None:
    plan = Random(1, {FaultKind.RESET: 1.0}, most_in_a_row=2)

    one = [plan.fault(Call("POST", "datasets", pid="one")) for _ in range(6)]
    other = plan.fault(Call("POST", "datasets", pid="other"))

    assert one == [FaultKind.RESET, FaultKind.RESET, None] * 2
    assert other is FaultKind.RESET


def test_chance_can_be_stopped() -> None:
    plan = Random(1, {FaultKind.RESET: 1.0})
    assert decisions(plan, CALLS[:3]) == [FaultKind.RESET] * 3

    plan.stop()

    assert decisions(plan) == [None] * len(CALLS)


@pytest.mark.parametrize("likely", [{FaultKind.RESET: 0.6, FaultKind.HTML: 0.6}, {FaultKind.RESET: -0.1}])
def test_impossible_chances_are_refused(likely: dict[FaultKind, float]) -> None:
    with pytest.raises(ValueError, match="at most 1"):
        Random(1, likely)
