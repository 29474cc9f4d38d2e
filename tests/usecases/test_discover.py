"""Asking the catalogue which files it holds, against the stand-in over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import pytest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from scicat_dagster.config.models import ScicatSettings
from scicat_dagster.demo.catalogue import Account, Accounts, CatalogueServer, Store, create_app
from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.usecases.discover import Discovery, discover
from scicat_dagster.usecases.walk import FoundFile

PASSWORD = "pwd"
INGESTOR = Account(
    "ingestor", PASSWORD, ("ingestor",),
    may_create_datasets=True, may_create_any_group=True, may_read_all=True,
)  # fmt: skip
WHEN = "2026-01-15T09:30:00.000Z"
LONGEST_ADDRESS = 8000


class Listening:
    """Keeps the addresses that are asked for, and lets the list of blocks be refused."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.addresses: list[str] = []
        self.knows_lists_of_pids = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = f"{scope['path']}?{scope.get('query_string', b'').decode()}"
        self.addresses.append(address)
        if "/origdatablocks?" in address and "$in" in unquote(address) and not self.knows_lists_of_pids:
            error = JSONResponse("Internal server error", HTTPStatus.INTERNAL_SERVER_ERROR)
            await error(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def asked(self, collection: str) -> list[str]:
        """The lists that were asked for of one collection."""
        return [address for address in self.addresses if f"/{collection}?" in address]


@dataclass
class Catalogue:
    """A running stand-in with a logged-in client."""

    server: CatalogueServer
    listening: Listening
    client: ScicatClient

    @property
    def store(self) -> Store:
        return self.server.store

    def register(self, pid: str, folder: str, *files: str, size: int = 10, published: bool = False) -> None:
        """A dataset whose block lists files as they are written here; without files it has no block."""
        self.client.create_dataset(
            {
                "pid": pid,
                "type": "raw",
                "owner": "Ada Lovelace",
                "contactEmail": "ada@example.com",
                "sourceFolder": folder,
                "creationTime": WHEN,
                "principalInvestigator": "Ada Lovelace",
                "creationLocation": "ESS:CODA",
                "ownerGroup": "ingestor",
                "isPublished": published,
            }
        )
        if files:
            self.block(pid, *files, size=size)

    def block(self, pid: str, *files: str, size: int = 10) -> None:
        """One more block of a dataset."""
        listed: Any = [{"path": file, "size": size, "time": WHEN} for file in files]
        self.client.create_origdatablock({"datasetId": pid, "size": size, "dataFileList": listed})

    def ask(self, *paths: str, size: int = 10, **known_pids: str) -> dict[str, str]:
        """The states of files by their names."""
        by_path = {path: known_pids[name] for path in paths if (name := name_of(path)) in known_pids}
        found = discover(files(paths, size), self.client, known_pids=lambda _: by_path)
        return {name_of(file.path): file.state for file in found.files}


def name_of(path: str) -> str:
    return PurePosixPath(path).stem


def files(paths: Sequence[str], size: int = 10) -> list[FoundFile]:
    return [FoundFile(path, "/data", "odin", size, 0.0) for path in paths]


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    accounts = Accounts((INGESTOR,))
    with Store(tmp_path / "catalogue.sqlite") as store:
        listening = Listening(create_app(store, accounts))
        with CatalogueServer(store, accounts, app=listening) as server:
            settings = {"host": server.api_root, "username": "ingestor", "password": PASSWORD}
            client = ScicatClient(ScicatSettings.model_validate(settings))
            yield Catalogue(server, listening, client)
            client.close()


FILE = "/data/odin/2026/443503/raw/one.nxs"


@pytest.mark.parametrize(
    ("folder", "listed"),
    [
        ("/data/odin/2026/443503/raw", "one.nxs"),
        ("/data/odin/2026/443503", "raw/one.nxs"),
        ("/data/odin", "2026/443503/raw/one.nxs"),
        ("/data/odin/2026/443503", FILE),
        ("/data/odin/2026/443503/raw", "./one.nxs"),
        ("/data/odin/2026/443503/raw/", "one.nxs"),
        ("/", FILE.removeprefix("/")),
    ],
)
def test_a_file_is_recognised_whatever_the_source_folder_and_however_it_is_listed(
    catalogue: Catalogue, folder: str, listed: str
) -> None:
    catalogue.register("p/1", folder, listed)

    expected = "missing" if folder == "/" else "registered"
    assert catalogue.ask(FILE) == {"one": expected}


def test_files_of_other_folders_and_names_are_not_taken_for_it(catalogue: Catalogue) -> None:
    catalogue.register("p/1", "/data/odin/2026/443504/raw", "one.nxs")
    catalogue.register("p/2", "/data/odin/2026/443503/raw", "two.nxs", "one.nxs.bak")

    assert catalogue.ask(FILE) == {"one": "missing"}


def test_a_file_with_another_size_has_changed_since(catalogue: Catalogue) -> None:
    catalogue.register("p/1", "/data/odin/2026/443503/raw", "one.nxs", size=10)

    (file,) = discover(files([FILE], size=11), catalogue.client).files

    assert (file.state, file.pid, file.size, file.registered_size) == ("changed", "p/1", 11, 10)


def test_of_several_datasets_the_one_with_the_present_size_counts(catalogue: Catalogue) -> None:
    for number, size in enumerate((9, 10, 11)):
        catalogue.register(f"p/{number}", "/data/odin/2026/443503/raw", "one.nxs", size=size)

    (file,) = discover(files([FILE]), catalogue.client).files

    assert (file.state, file.pid) == ("registered", "p/1")


@pytest.mark.parametrize(
    ("expected", "state", "reason"),
    [
        (2, "registered", ""),
        (3, "missing", "2 of its 3 datasets are registered."),
        (1, "registered", ""),
        ("it is away.", "registered", "Whether all its datasets are registered is not known: it is away."),
    ],
)
def test_a_file_without_all_its_datasets_is_missing(
    catalogue: Catalogue, expected: int | str, state: str, reason: str
) -> None:
    for number in range(2):
        catalogue.register(f"p/{number}", "/data/odin/2026/443503/raw", "one.nxs")
    asked: list[str] = []

    def datasets_of(paths: Sequence[str]) -> dict[str, int | str]:
        asked.extend(paths)
        return {FILE: expected}

    other = FILE.replace("one", "two")
    found = discover(files([FILE, other]), catalogue.client, datasets_of=datasets_of).files

    assert [(file.path, file.state, file.reason) for file in found] == [
        (FILE, state, reason), (other, "missing", ""),
    ]  # fmt: skip
    assert (found[0].pid is None) == (state == "missing")
    assert asked == [FILE]


def test_of_a_file_that_has_changed_nobody_asks_for_its_datasets(catalogue: Catalogue) -> None:
    catalogue.register("p/1", "/data/odin/2026/443503/raw", "one.nxs", size=10)
    asked: list[str] = []

    def datasets_of(paths: Sequence[str]) -> dict[str, int | str]:
        asked.extend(paths)
        return {}

    (file,) = discover(files([FILE], size=11), catalogue.client, datasets_of=datasets_of).files

    assert (file.state, asked) == ("changed", [])


def test_a_file_may_be_in_any_block_of_its_dataset(catalogue: Catalogue) -> None:
    catalogue.register("p/1", "/data/odin/2026/443503", "ingestor/one.b2b")
    catalogue.block("p/1", "raw/one.nxs")

    assert catalogue.ask(FILE) == {"one": "registered"}


def test_a_dataset_that_a_crash_left_without_its_block_holds_no_file(catalogue: Catalogue) -> None:
    catalogue.register("p/1", "/data/odin/2026/443503/raw")
    catalogue.register("p/2", "/data/odin/2026/443503/raw", "two.nxs")

    assert catalogue.ask(FILE, FILE.replace("one", "two")) == {"one": "missing", "two": "registered"}


def test_a_file_that_was_registered_elsewhere_is_found_by_its_pid(catalogue: Catalogue) -> None:
    catalogue.register("p/1", "/archive/443503", FILE)
    catalogue.register("p/2", "/archive/443503", "/data/other.nxs")

    assert catalogue.ask(FILE) == {"one": "missing"}
    assert catalogue.ask(FILE, one="p/1") == {"one": "registered"}
    assert catalogue.ask(FILE, one="p/2") == {"one": "missing"}
    assert catalogue.ask(FILE, one="p/gone") == {"one": "missing"}


def test_folders_further_up_are_asked_only_for_files_that_were_not_found(catalogue: Catalogue) -> None:
    catalogue.register("p/1", "/data/odin/2026/443503/raw", "one.nxs")

    catalogue.listening.addresses.clear()
    assert catalogue.ask(FILE) == {"one": "registered"}
    assert len(catalogue.listening.asked("datasets")) == 1
    assert len(catalogue.listening.asked("origdatablocks")) == 1


def test_many_files_are_asked_for_in_few_addresses_of_bearable_length(catalogue: Catalogue) -> None:
    paths = [f"/data/odin/2026/{number:06}-ångström/raw/{number}.nxs" for number in range(120)]
    for number, path in enumerate(paths):
        if number % 2:
            catalogue.register(f"p/{number}", str(PurePosixPath(path).parent), PurePosixPath(path).name)
    catalogue.listening.addresses.clear()

    states = catalogue.ask(*paths)

    assert [states[str(number)] for number in range(120)] == ["missing", "registered"] * 60
    assert max(map(len, catalogue.listening.addresses)) < LONGEST_ADDRESS
    lists = len(catalogue.listening.asked("datasets")) + len(catalogue.listening.asked("origdatablocks"))
    assert lists < 20


def test_more_datasets_than_a_page_holds_are_all_read(catalogue: Catalogue) -> None:
    catalogue.register("p/1", "/data/raw", "1.nxs")
    dataset = catalogue.store.dataset("p/1")
    assert dataset is not None
    (block,) = catalogue.store.origdatablocks("p/1")
    for number in range(2, 1003):
        pid = f"p/{number}"
        (file,) = block["dataFileList"]
        catalogue.store.insert_dataset({**dataset, "pid": pid, "_id": pid})
        catalogue.store.insert_origdatablock(
            {**block, "_id": pid, "datasetId": pid, "dataFileList": [{**file, "path": f"{number}.nxs"}]}
        )

    states = catalogue.ask(*(f"/data/raw/{number}.nxs" for number in range(1, 1004)))

    assert [number for number, state in states.items() if state == "missing"] == ["1003"]


def test_a_server_that_lists_blocks_of_one_dataset_only_is_asked_for_each(catalogue: Catalogue) -> None:
    catalogue.listening.knows_lists_of_pids = False
    catalogue.register("p/1", "/data/odin/2026/443503/raw", "one.nxs")
    catalogue.register("p/2", "/data/odin/2026/443503/raw", "two.nxs")

    assert catalogue.ask(FILE, FILE.replace("one", "two")) == {"one": "registered", "two": "registered"}


def test_nothing_is_missing_because_the_login_has_run_out(catalogue: Catalogue) -> None:
    """Of a published dataset a stranger is told, so that the answer is not empty."""
    folder = "/data/odin/2026/443503/raw"
    catalogue.register("p/1", folder, "one.nxs")
    catalogue.register("p/2", folder, "two.nxs", published=True)
    both = FILE, FILE.replace("one", "two")
    catalogue.store.expire_tokens()

    assert catalogue.ask(*both) == {"one": "registered", "two": "registered"}

    settings = {"host": catalogue.server.api_root, "token": "expired"}
    stranger = ScicatClient(ScicatSettings.model_validate(settings))
    try:
        with pytest.raises(PermanentError, match="does not accept our login"):
            discover(files(both), stranger)
    finally:
        stranger.close()


def test_a_catalogue_that_is_away_says_nothing_about_any_file(catalogue: Catalogue) -> None:
    nobody = {"host": "http://127.0.0.1:9/api/v3", "token": "t"}
    client = ScicatClient(ScicatSettings.model_validate(nobody))

    with pytest.raises(TransientError):
        discover(files([FILE]), client)
    client.close()


def test_without_files_the_catalogue_is_not_asked(catalogue: Catalogue) -> None:
    assert discover([], catalogue.client) == Discovery()
    assert catalogue.listening.addresses == []


def test_the_progress_ends_with_all_files(catalogue: Catalogue) -> None:
    catalogue.register("p/1", "/data/odin/2026/443503/raw", "one.nxs")
    told: list[tuple[int, int]] = []

    discover(
        files([FILE, FILE.replace("one", "two")]),
        catalogue.client,
        answered=lambda done, of: told.append((done, of)),
    )

    assert told == sorted(told)
    assert told[0] == (1, 2)
    assert told[-1] == (2, 2)
