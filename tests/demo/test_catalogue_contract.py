"""The SciCat stand-in answers like the recorded backend, keeps what it answered, and shows it on its pages.

Every recorded exchange is replayed over HTTP, after its own state has been set up: ``STATES`` says for each
recording what has to exist before. What is recorded and deliberately not served is in ``NOT_SERVED``.
"""

import json
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
import requests

from scicat_dagster.demo.catalogue import (
    Account,
    Accounts,
    AlreadyStoredError,
    CatalogueServer,
    Store,
    demo_accounts,
    recorded_accounts,
)
from scicat_dagster.demo.catalogue.content.dates import javascript_takes_for_date

EXCHANGES = Path(__file__).parents[1] / "data" / "exchanges"
TIMEOUT = 20
MAIN_PID = "20.500.12269/a1b2c3d4-0000-4000-8000-00000000000a"
PATCHED_PID = "20.500.12269/patchme"

NO_FAULTS = "A fault of the real server; faults are for a middleware to make."
NOT_SERVED = {
    "23_pidrules_admin_post_bad_pid": "The stand-in takes every pid, like a backend without rules for them.",
    "25_mongo_down_health": NO_FAULTS,
    "25_mongo_down_post_dataset": NO_FAULTS,
    "26_race_2000keys_0_odb": NO_FAULTS,
}
RECORDED_IN_ALL = 176


@dataclass(frozen=True)
class Exchange:
    """One recorded request with its answer."""

    name: str
    user: str | None
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    status: int
    content_type: str | None
    answer: Any

    @property
    def text(self) -> str:
        """Everything that the request says, decoded."""
        body = self.body if isinstance(self.body, str) else json.dumps(self.body, ensure_ascii=False)
        return f"{unquote(self.path)} {body}"


def read_exchange(path: Path) -> Exchange:
    recorded = json.loads(path.read_text(encoding="utf-8"))
    request, response = recorded["request"], recorded["response"]
    return Exchange(
        name=recorded["name"],
        user=recorded["as_user"],
        method=request["method"],
        path=request["path"],
        headers=request["headers"],
        body=request["body"],
        status=response["status"],
        content_type=response["content_type"],
        answer=None if response["body_kind"] == "empty" else response["body"],
    )


RECORDED = {path.stem: read_exchange(path) for path in sorted(EXCHANGES.glob("*.json"))}


@dataclass(frozen=True)
class Dataset:
    """A dataset exists, like the first recorded one but for these fields."""

    pid: str
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Replayed:
    """Another recorded request was sent before."""

    name: str


@dataclass(frozen=True)
class Listed:
    """What the recorded answer lists was posted before, one by one, by those who had created it."""


@dataclass(frozen=True)
class Posted:
    """Something was posted before."""

    user: str
    path: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Renamed:
    """A dataset was given another name before."""

    pid: str
    name: str


Step = Dataset | Replayed | Listed | Posted | Renamed


@dataclass(frozen=True)
class State:
    """What has to be so before a recorded request is replayed: on which backend, and after which steps."""

    steps: tuple[Step, ...] = ()
    backend: str = "plain"


def after(*steps: Step, backend: str = "plain") -> State:
    return State(steps, backend)


EMPTY = State()
MAIN = Replayed("02_dataset_post_raw_ok")
WITH_MAIN = after(MAIN)
WITH_PATCHED = after(Dataset(PATCHED_PID))
FOREIGN_PROPOSAL = {"proposalId": "foreign", "ownerGroup": "other", "email": "pi@example.com", "title": "t"}

STATES: dict[str, State] = {
    "00_health": EMPTY,
    "01_auth_login_empty_body": EMPTY,
    "01_auth_login_ok_ingestor": EMPTY,
    "01_auth_login_wrong_password": EMPTY,
    "01_auth_whoami": EMPTY,
    "01_auth_whoami_no_token": EMPTY,
    "01_expired_token_get_dataset": EMPTY,
    "01_expired_token_list_datasets": WITH_MAIN,
    "01_expired_token_post_dataset": EMPTY,
    "01_expired_token_post_origdatablock": after(Dataset("20.500.12269/auth-test")),
    "01_no_token_post_dataset": EMPTY,
    "01_users_my_self": EMPTY,
    "02_dataset_post_as_plainuser": EMPTY,
    "02_dataset_post_empty_pid": EMPTY,
    "02_dataset_post_no_pid": EMPTY,
    "02_dataset_post_owner_group_not_mine": EMPTY,
    "02_dataset_post_raw_ok": EMPTY,
    "02_scimeta_dots": EMPTY,
    "02_scimeta_human_name_list": EMPTY,
    "02_scimeta_list_value": EMPTY,
    "02_scimeta_nested": EMPTY,
    "02_scimeta_null_entry": EMPTY,
    "02_scimeta_null_value_inside": EMPTY,
    "02_scimeta_units": EMPTY,
    "03_dataset_post_duplicate_pid": WITH_MAIN,
    "03_dataset_post_duplicate_pid_other_content": WITH_MAIN,
    "04_bad_email_contactEmail": EMPTY,
    "04_bad_email_ownerEmail": EMPTY,
    "04_bad_techniques_missing_name": EMPTY,
    "04_bad_type_proposalId_int": EMPTY,
    "04_bad_type_runNumber_int": EMPTY,
    "04_bad_type_size_string": EMPTY,
    "04_bad_type_type": EMPTY,
    "04_contactEmail_list": EMPTY,
    "04_date_endTime_bad": EMPTY,
    "04_date_micro": EMPTY,
    "04_date_no_tz": EMPTY,
    "04_date_not_iso": EMPTY,
    "04_date_offset": EMPTY,
    "04_date_startTime_empty": EMPTY,
    "04_derived_ok": EMPTY,
    "04_empty_owner": EMPTY,
    "04_empty_sourceFolder": EMPTY,
    "04_invalid_json": EMPTY,
    "04_isValid_bad_email": EMPTY,
    "04_isValid_existing_pid": after(Dataset("20.500.12269/b")),
    "04_isValid_missing_owner": EMPTY,
    "04_isValid_ok": EMPTY,
    "04_missing_contactEmail": EMPTY,
    "04_missing_creationLocation": EMPTY,
    "04_missing_creationTime": EMPTY,
    "04_missing_datasetName": EMPTY,
    "04_missing_owner": EMPTY,
    "04_missing_ownerEmail": EMPTY,
    "04_missing_ownerGroup": EMPTY,
    "04_missing_principalInvestigator": EMPTY,
    "04_missing_scientificMetadata": EMPTY,
    "04_missing_sourceFolder": EMPTY,
    "04_missing_type": EMPTY,
    "04_nan_in_json": EMPTY,
    "04_sourceFolder_trailing_slash": EMPTY,
    "04_two_errors": EMPTY,
    "04_unknown_field": EMPTY,
    "04_wrong_content_type_text": EMPTY,
    "05_coerce_create_word_number": EMPTY,
    "05_coerce_word_number_scientificMetadata_k_value": after(Replayed("05_coerce_create_word_number")),
    "05_coerce_word_number_scientificMetadata_k_value_inq": after(
        MAIN, Replayed("05_coerce_create_word_number")
    ),
    "05_count": after(MAIN, Dataset("20.500.12269/b")),
    "05_findOne": after(Dataset("20.500.12269/b"), MAIN),
    "05_findOne_missing": WITH_MAIN,
    "05_get_existing": WITH_MAIN,
    "05_get_existing_no_token": WITH_MAIN,
    "05_get_existing_other_user_no_access": WITH_MAIN,
    "05_get_missing": WITH_MAIN,
    "05_get_unencoded_slash": WITH_MAIN,
    "05_head_existing": WITH_MAIN,
    "05_head_missing": WITH_MAIN,
    "05_list_bad_filter_json": WITH_MAIN,
    "05_list_no_filter": after(MAIN, Dataset("20.500.12269/b")),
    "05_list_where_job_id": after(MAIN, Dataset("20.500.12269/b"), Dataset("20.500.12269/third")),
    "05_list_where_job_id_missing": WITH_MAIN,
    "05_list_where_pid": after(Dataset("20.500.12269/b"), MAIN),
    "05_list_where_pid_missing": WITH_MAIN,
    "05_list_where_pid_no_token": WITH_MAIN,
    "06_dataset_after_first_odb": after(MAIN, Replayed("06_odb_post_ok")),
    "06_dataset_after_second_identical_odb": after(
        MAIN, Replayed("06_odb_post_ok"), Replayed("06_odb_post_again_identical")
    ),
    "06_odb_dataset_missing": WITH_MAIN,
    "06_odb_empty_chkAlg": WITH_MAIN,
    "06_odb_empty_dataFileList": WITH_MAIN,
    "06_odb_file_chk_null": WITH_MAIN,
    "06_odb_file_minimal": WITH_MAIN,
    "06_odb_file_no_size": WITH_MAIN,
    "06_odb_file_no_time": WITH_MAIN,
    "06_odb_file_uid_int": WITH_MAIN,
    "06_odb_list_where_datasetId": after(MAIN, Listed()),
    "06_odb_list_where_datasetId_missing": after(MAIN, Replayed("06_odb_post_ok")),
    "06_odb_list_where_datasetId_no_token": after(MAIN, Replayed("06_odb_post_ok")),
    "06_odb_missing_datasetId": WITH_MAIN,
    "06_odb_no_chkAlg": WITH_MAIN,
    "06_odb_no_token": WITH_MAIN,
    "06_odb_other_ownerGroup_in_body": WITH_MAIN,
    "06_odb_post_again_identical": after(MAIN, Replayed("06_odb_post_ok")),
    "06_odb_post_ok": WITH_MAIN,
    "06_odb_size_mismatch": WITH_MAIN,
    "06_odb_sub_list": after(MAIN, Listed()),
    "06_odb_two_errors": WITH_MAIN,
    "06_odb_unknown_field": WITH_MAIN,
    "07_instrument_get_missing": EMPTY,
    "07_instrument_post_as_ingestor": EMPTY,
    "07_instrument_post_duplicate_uniqueName": after(Replayed("07_instrument_post_ok")),
    "07_instrument_post_ok": EMPTY,
    "07_instruments_list_exact_reference_url": after(Listed()),
    "07_instruments_list_where_name": after(
        Posted("admin", "instruments", {"name": "loki", "uniqueName": "loki"}), Listed()
    ),
    "07_instruments_list_where_name_date_like": after(
        Posted("admin", "instruments", {"name": "LOKI 1", "uniqueName": "LOKI 1"})
    ),
    "07_instruments_list_where_name_date_like_inq": after(Listed(), Replayed("07_instrument_post_ok")),
    "07_instruments_list_where_name_missing": after(Replayed("07_instrument_post_ok")),
    "07_proposal_get_empty_id": after(Listed(), Posted("admin", "proposals", FOREIGN_PROPOSAL)),
    "07_proposal_get_existing": after(Replayed("07_proposal_post_ok_admin")),
    "07_proposal_get_foreign": after(Posted("admin", "proposals", FOREIGN_PROPOSAL)),
    "07_proposal_get_missing": after(Replayed("07_proposal_post_ok_admin")),
    "07_proposal_post_duplicate": after(Replayed("07_proposal_post_ok_admin")),
    "07_proposal_post_ok_admin": EMPTY,
    "07_proposals_list_filters": after(
        Replayed("07_proposal_post_ok_admin"), Posted("admin", "proposals", FOREIGN_PROPOSAL)
    ),
    "07_sample_get_existing": after(Replayed("07_sample_post_ok_ingestor")),
    "07_sample_get_missing": after(Replayed("07_sample_post_ok_ingestor")),
    "07_sample_post_duplicate": after(Replayed("07_sample_post_ok_ingestor")),
    "07_sample_post_no_id": EMPTY,
    "07_sample_post_ok_ingestor": EMPTY,
    "07_samples_list_where_description": after(
        Listed(), Posted("ingestor", "samples", {"ownerGroup": "ingestor", "description": "Another"})
    ),
    "07_samples_list_where_missing": after(Replayed("07_sample_post_ok_ingestor")),
    "08_delete_admin_not_in_DELETE_GROUPS": WITH_PATCHED,
    "08_delete_ingestor": WITH_PATCHED,
    "08_patch_accessGroups": after(Dataset(PATCHED_PID, {"datasetName": "new name"})),
    "08_patch_if_unmodified_since_old": WITH_PATCHED,
    "08_patch_missing_dataset": WITH_PATCHED,
    "08_patch_no_token": WITH_PATCHED,
    "08_patch_pid_forbidden": WITH_PATCHED,
    "08_patch_scimeta_replaces_whole": after(
        Dataset(PATCHED_PID, {"datasetName": "new name"}), Replayed("08_patch_accessGroups")
    ),
    "08_patch_unknown_field": WITH_PATCHED,
    "09_attach_v3_dataset_missing": WITH_PATCHED,
    "09_attach_v3_dataset_ok": WITH_PATCHED,
    "09_attach_v3_list": after(Dataset(PATCHED_PID), Listed()),
    "09_attach_v3_no_caption": WITH_PATCHED,
    "09_attach_v3_no_token": WITH_PATCHED,
    "09_attach_v3_root_endpoint": WITH_PATCHED,
    "09_attach_v3_thumbnail": after(Dataset(PATCHED_PID), Replayed("09_attach_v3_dataset_ok")),
    "10_v4_get_existing": after(Replayed("10_v4_post_ok")),
    "10_v4_get_missing": EMPTY,
    "10_v4_get_no_token": after(Replayed("10_v4_post_ok")),
    "10_v4_isValid": EMPTY,
    "10_v4_isValid_bad": EMPTY,
    "10_v4_list_missing": EMPTY,
    "10_v4_list_no_token": after(Replayed("10_v4_post_ok")),
    "10_v4_list_where_job_id": after(Replayed("10_v4_post_ok")),
    "10_v4_list_where_pid": after(Replayed("10_v4_post_ok")),
    "10_v4_missing_datasetName": EMPTY,
    "10_v4_missing_owner": EMPTY,
    "10_v4_odb_again": after(Replayed("10_v4_post_ok"), Replayed("10_v4_odb_post_ok")),
    "10_v4_odb_dataset_missing": EMPTY,
    "10_v4_odb_list": after(Replayed("10_v4_post_ok"), Listed()),
    "10_v4_odb_post_ok": after(Replayed("10_v4_post_ok")),
    "10_v4_patch_merge": after(Replayed("10_v4_post_ok"), Renamed("20.500.12269/v4-a", "n")),
    "10_v4_post_duplicate": after(Replayed("10_v4_post_ok")),
    "10_v4_post_ok": EMPTY,
    "10_v4_post_v3_shape": EMPTY,
    "10_v4_two_errors": EMPTY,
    "10_v4_unknown_field": EMPTY,
    "20_compose_dataset_duplicate": after(
        Replayed("20_compose_dataset_post_foreign_owner_group"), backend="any group"
    ),
    "20_compose_dataset_post_foreign_owner_group": after(backend="any group"),
    "21_prefix_post_bare_uuid": EMPTY,
    "21_prefix_post_no_pid": EMPTY,
    "22_delete_delete_admin": after(
        Dataset("20.500.12269/del"),
        Posted(
            "ingestor",
            "origdatablocks",
            {
                "datasetId": "20.500.12269/del",
                "size": 10,
                "dataFileList": [{"path": "f", "size": 10, "time": "2026-01-15T09:30:00.000Z"}],
            },
        ),
        backend="deleting",
    ),
}

# What clients post, of all that the server answers with.
POSTED_FIELDS = {
    "origdatablocks": {"datasetId", "size", "chkAlg", "dataFileList"},
    "dataFileList": {"path", "size", "time", "chk", "uid", "gid", "perm", "type"},
    "attachments": {"thumbnail", "caption", "ownerGroup", "accessGroups"},
    "instruments": {"name", "uniqueName", "customMetadata"},
    "samples": {
        "sampleId", "ownerGroup", "accessGroups", "owner", "description", "sampleCharacteristics",
        "isPublished", "proposalId",
    },
    "proposals": {
        "ownerGroup", "accessGroups", "instrumentGroup", "proposalId", "pi_email", "pi_firstname",
        "pi_lastname", "email", "firstname", "lastname", "title", "abstract", "startTime", "endTime",
        "MeasurementPeriodList", "metadata", "type", "instrumentIds",
    },
    "MeasurementPeriodList": {"instrument", "start", "end", "comment"},
}  # fmt: skip
NEWEST_FIRST = {"attachments"}

GENERATED_IDS = {"_id", "id", "pid", "sampleId", "userId"}
GENERATED_TEXTS = {
    "access_token",
    "archiveRetentionTime",
    "created",
    "createdAt",
    "dateOfDiskPurging",
    "dateOfPublishing",
    "publishedOn",
    "updatedAt",
}
MADE_BY_A_SERVER = re.compile(r"([0-9a-f]{24}|(\S+/)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|<JWT>)")


@dataclass(frozen=True)
class Backend:
    """A running stand-in with a token for everybody in the recordings."""

    server: CatalogueServer
    tokens: dict[str, str]

    @property
    def store(self) -> Store:
        return self.server.store

    def send(self, exchange: Exchange) -> requests.Response:
        headers = {
            name: value
            for name, value in exchange.headers.items()
            if name not in ("Authorization", "Content-Length", "Connection")
        }
        if exchange.user is not None:
            headers["Authorization"] = f"Bearer {self.tokens[exchange.user]}"
        body = exchange.body if isinstance(exchange.body, str) else json.dumps(exchange.body)
        return requests.request(
            exchange.method,
            self.server.url + exchange.path,
            data=None if exchange.body is None else body.encode(),
            headers=headers,
            timeout=TIMEOUT,
        )

    def post(self, user: str, path: str, body: dict[str, Any]) -> requests.Response:
        return requests.post(
            f"{self.server.api_root}/{path}", json=body, headers=self.authorized(user), timeout=TIMEOUT
        )

    def get(self, user: str | None, path: str, **parameters: str) -> requests.Response:
        headers = {} if user is None else self.authorized(user)
        return requests.get(
            f"{self.server.api_root}/{path}", params=parameters, headers=headers, timeout=TIMEOUT
        )

    def authorized(self, user: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[user]}"}

    def prepare(self, steps: tuple[Step, ...], exchange: Exchange) -> None:
        self.store.clear()
        for step in steps:
            match step:
                case Dataset(pid, changes):
                    responses = [self.post("ingestor", "datasets", dataset_body(pid, **changes))]
                case Replayed(name):
                    responses = [self.send(RECORDED[name])]
                case Posted(user, path, body):
                    responses = [self.post(user, path, body)]
                case Renamed(pid, name):
                    self.store.change_dataset(pid, partial(renamed, name))
                    responses = []
                case Listed():
                    responses = self._post_what_is_listed(exchange)
            for response in responses:
                assert response.ok, f"{step}: {response.status_code} {response.text}"

    def _post_what_is_listed(self, exchange: Exchange) -> list[requests.Response]:
        path = unquote(exchange.path.partition("?")[0]).partition("/api/v")[2][2:].rstrip("/")
        kind = path.rpartition("/")[2]
        where = f"datasets/{quote(PATCHED_PID, safe='')}/attachments" if kind == "attachments" else kind
        listed = reversed(exchange.answer) if kind in NEWEST_FIRST else exchange.answer
        return [self.post(item["createdBy"], where, as_posted(item, kind)) for item in listed]


def renamed(name: str, document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "datasetName": name}


def dataset_body(pid: str, **changes: Any) -> dict[str, Any]:
    return {**RECORDED["02_dataset_post_raw_ok"].body, "pid": pid, **changes}


def as_posted(item: dict[str, Any], kind: str) -> dict[str, Any]:
    posted = {name: value for name, value in item.items() if name in POSTED_FIELDS[kind]}
    for name in posted.keys() & POSTED_FIELDS.keys():
        posted[name] = [as_posted(part, name) for part in posted[name]]
    return posted


def block_body(pid: str, *sizes: int) -> dict[str, Any]:
    files = [
        {"path": f"file_{number}.nxs", "size": size, "time": "2026-01-15T09:30:00.000Z"}
        for number, size in enumerate(sizes)
    ]
    return {"datasetId": pid, "size": sum(sizes), "chkAlg": "blake2b", "dataFileList": files}


def dataset_path(pid: str) -> str:
    return f"datasets/{quote(pid, safe='')}"


def log_in(server: CatalogueServer, user: str) -> str:
    response = requests.post(
        f"{server.api_root}/auth/login", json={"username": user, "password": "pwd"}, timeout=TIMEOUT
    )
    assert response.status_code == 201
    token = response.json()["access_token"]
    assert isinstance(token, str)
    return token


def start(server: CatalogueServer) -> Backend:
    expired = log_in(server, "ingestor")
    server.store.expire_tokens()
    tokens = {user: log_in(server, user) for user in ("admin", "ingestor", "plainuser")}
    return Backend(server, {**tokens, "expired": expired})


def recorded_accounts_with(changed: Account) -> tuple[Account, ...]:
    others = (account for account in recorded_accounts() if account.username != changed.username)
    return (changed, *others)


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Backend]]:
    folder = tmp_path_factory.mktemp("catalogues")
    admin, ingestor, _ = recorded_accounts()
    accounts = {
        "plain": recorded_accounts(),
        "any group": recorded_accounts_with(replace(ingestor, may_create_any_group=True)),
        "deleting": recorded_accounts_with(replace(admin, may_delete=True)),
        "demo": demo_accounts(),
    }
    servers = {
        name: CatalogueServer(folder / f"{name}.sqlite", Accounts(accounts[name])) for name in accounts
    }
    try:
        for server in servers.values():
            server.start()
        yield {name: start(server) for name, server in servers.items()}
    finally:
        for server in servers.values():
            server.stop()


@pytest.fixture
def backend(backends: dict[str, Backend]) -> Backend:
    """The stand-in with the recorded accounts, empty."""
    backends["plain"].store.clear()
    return backends["plain"]


@pytest.fixture
def demo(backends: dict[str, Backend]) -> Backend:
    """The stand-in with the demo's accounts, empty."""
    backends["demo"].store.clear()
    return backends["demo"]


def differences(recorded: Any, received: Any, request: str, path: str = "") -> Iterator[str]:
    """Where an answer differs from the recorded one; made-up ids and times only have to be texts."""
    name = path.rpartition(".")[2].partition("[")[0]
    if isinstance(recorded, dict) and isinstance(received, dict):
        for key in sorted(recorded.keys() | received.keys()):
            if key not in received or key not in recorded:
                yield f"{path}.{key} is {'missing' if key in recorded else 'too much'}"
            else:
                yield from differences(recorded[key], received[key], request, f"{path}.{key}")
    elif isinstance(recorded, list) and isinstance(received, list):
        if len(recorded) != len(received):
            yield f"{path} has {len(received)} items, not {len(recorded)}"
        for number, (left, right) in enumerate(zip(recorded, received, strict=False)):
            yield from differences(left, right, request, f"{path}[{number}]")
    elif is_generated(name, recorded, request):
        if not isinstance(received, str) or not received:
            yield f"{path} is {received!r}, no text"
    elif isinstance(recorded, float) and isinstance(received, int | float):
        if received != pytest.approx(recorded, rel=1e-12):
            yield f"{path} is {received!r}, not {recorded!r}"
    elif type(recorded) is not type(received) or recorded != received:
        yield f"{path} is {received!r}, not {recorded!r}"


def is_generated(name: str, recorded: Any, request: str) -> bool:
    if not isinstance(recorded, str):
        return False
    if name in GENERATED_TEXTS:
        return True
    made = MADE_BY_A_SERVER.fullmatch(recorded) is not None
    return name in GENERATED_IDS and made and recorded not in request


def test_no_recording_is_left_out() -> None:
    assert RECORDED.keys() == STATES.keys()
    assert not RECORDED.keys() & NOT_SERVED.keys()
    assert len(RECORDED) + len(NOT_SERVED) == RECORDED_IN_ALL


@pytest.mark.parametrize("name", RECORDED)
def test_answers_as_recorded(name: str, backends: dict[str, Backend]) -> None:
    exchange = RECORDED[name]
    state = STATES[name]
    backend = backends[state.backend]
    backend.prepare(state.steps, exchange)

    response = backend.send(exchange)

    assert (response.status_code, response.headers.get("Content-Type")) == (
        exchange.status,
        exchange.content_type,
    )
    if exchange.answer is None:
        assert response.content == b""
    elif isinstance(exchange.answer, dict) and "_truncated_for_the_record" in exchange.answer:
        complete = RECORDED["05_list_where_pid"].answer[0]
        assert [sorted(item) for item in response.json()] == [
            sorted(complete)
        ] * backend.store.count_datasets()
    else:
        assert list(differences(exchange.answer, response.json(), exchange.text)) == []


def test_a_different_answer_is_noticed() -> None:
    recorded = {"_id": "6b027fbe47568bb542f8ee9a", "size": 1, "pid": "a", "list": [{"x": 1.5}], "flag": True}

    assert list(differences(recorded, {**recorded, "_id": "another"}, "")) == []
    assert list(differences(recorded, {**recorded, "_id": None}, "")) == ["._id is None, no text"]
    assert list(differences(recorded, {**recorded, "size": "1"}, "")) == [".size is '1', not 1"]
    assert list(differences(recorded, {**recorded, "flag": 1}, "")) == [".flag is 1, not True"]
    assert list(differences(recorded, {**recorded, "more": 1}, "")) == [".more is too much"]
    assert list(differences(recorded, {**recorded, "list": [{}]}, "")) == [".list[0].x is missing"]
    assert list(differences(recorded, {**recorded, "list": []}, "")) == [".list has 0 items, not 1"]


def test_an_ingestor_for_any_group_cannot_read_what_it_wrote(backends: dict[str, Backend]) -> None:
    backend = backends["any group"]
    exchange = RECORDED["20_compose_dataset_post_foreign_owner_group"]
    backend.prepare((), exchange)
    backend.send(exchange)

    by_id = backend.get("ingestor", dataset_path("20.500.12269/c2"))
    listed = backend.get("ingestor", "datasets", filter=json.dumps({"where": {"pid": "20.500.12269/c2"}}))

    assert by_id.status_code == 403
    assert (listed.status_code, listed.json()) == (200, [])
    assert backend.store.count_datasets() == 1


def test_the_demos_ingestor_reads_and_corrects_what_it_wrote_for_a_proposal(demo: Backend) -> None:
    body = dataset_body("20.500.12269/own", ownerGroup="ess_proposal_443503", accessGroups=["ess"])

    created = demo.post("ingestor", "datasets", body)
    block = demo.post("ingestor", "origdatablocks", block_body("20.500.12269/own", 5, 7))

    assert (created.status_code, block.status_code) == (201, 201)
    assert demo.get("ingestor", dataset_path("20.500.12269/own")).json()["size"] == 12
    listed = demo.get(
        "ingestor", "origdatablocks", filter='{"where": {"datasetId": "20.500.12269/own"}}'
    ).json()
    assert [found["ownerGroup"] for found in listed] == ["ess_proposal_443503"]
    assert demo.get("plainuser", dataset_path("20.500.12269/own")).status_code == 403
    changed = {
        user: requests.patch(
            f"{demo.server.api_root}/{dataset_path('20.500.12269/own')}",
            json={"comment": user},
            headers=demo.authorized(user),
            timeout=TIMEOUT,
        ).status_code
        for user in ("ingestor", "plainuser")
    }
    assert changed == {"ingestor": 200, "plainuser": 403}
    assert demo.get("ingestor", dataset_path("20.500.12269/own")).json()["comment"] == "ingestor"


@pytest.mark.parametrize("token", ["forged", "", "a b c"])
def test_a_forged_token_is_anonymous(token: str, backend: Backend) -> None:
    forged = replace(backend, tokens={"forger": token})

    assert forged.get("forger", "auth/whoami").content == b""
    assert forged.get("forger", "users/my/self").status_code == 401
    assert forged.post("forger", "datasets", dataset_body("20.500.12269/x")).status_code == 403
    assert forged.get("forger", "datasets").json() == []


def test_a_token_expires(tmp_path: Path) -> None:
    accounts = Accounts(recorded_accounts(), token_lifetime=timedelta(0))
    with CatalogueServer(tmp_path / "catalogue.sqlite", accounts) as server:
        backend = Backend(server, {"ingestor": log_in(server, "ingestor")})

        assert backend.get("ingestor", "auth/whoami").content == b""
        assert backend.post("ingestor", "datasets", dataset_body("20.500.12269/x")).status_code == 403
        assert server.store.count_datasets() == 0


def test_a_restart_keeps_documents_tokens_and_port(tmp_path: Path) -> None:
    server = CatalogueServer(tmp_path / "catalogue.sqlite", Accounts(recorded_accounts()))
    with server:
        backend = Backend(server, {"ingestor": log_in(server, "ingestor")})
        url = server.url
        backend.post("ingestor", "datasets", dataset_body(MAIN_PID))
        backend.post("ingestor", "origdatablocks", block_body(MAIN_PID, 1, 2))
        before = backend.get("ingestor", dataset_path(MAIN_PID)).json()
    with server:
        assert server.url == url
        assert backend.get("ingestor", dataset_path(MAIN_PID)).json() == before
        assert server.store.count_origdatablocks(MAIN_PID) == 1
        assert backend.post("ingestor", "datasets", dataset_body(MAIN_PID)).status_code == 409


def test_one_of_many_concurrent_posts_of_a_pid_wins(backend: Backend) -> None:
    together = threading.Barrier(10)

    def post(_: int) -> int:
        together.wait(TIMEOUT)
        return backend.post("ingestor", "datasets", dataset_body(MAIN_PID)).status_code

    with ThreadPoolExecutor(10) as threads:
        statuses = sorted(threads.map(post, range(10)))

    assert statuses == [201] + [409] * 9
    assert backend.store.count_datasets() == 1


def test_concurrent_blocks_all_count(backend: Backend) -> None:
    backend.post("ingestor", "datasets", dataset_body(MAIN_PID))

    with ThreadPoolExecutor(8) as threads:
        bodies = [block_body(MAIN_PID, number, 1) for number in range(16)]
        statuses = set(
            threads.map(lambda body: backend.post("ingestor", "origdatablocks", body).status_code, bodies)
        )

    dataset = backend.get("ingestor", dataset_path(MAIN_PID)).json()
    assert statuses == {201}
    assert (dataset["size"], dataset["numberOfFiles"]) == (sum(range(16)) + 16, 32)


@pytest.mark.parametrize(
    ("metadata", "deadly"),
    [
        ({"none": None}, True),
        ({"x": {"value": 1, "human_name": ["a"]}}, True),
        ({"x": {"value": 1, "human_name": {}}}, True),
        ({"": {"value": 1}}, True),
        ({"x": {"value": None, "human_name": "x"}}, False),
        ({"group": {"inner": None}}, False),
    ],
)
def test_metadata_that_would_kill_the_real_server_is_marked(
    metadata: dict[str, Any], deadly: bool, backend: Backend
) -> None:
    response = backend.post("ingestor", "datasets", dataset_body(MAIN_PID, scientificMetadata=metadata))

    assert response.status_code == 201
    assert list(backend.store.poisoned()) == ([MAIN_PID] if deadly else [])
    summary = requests.get(f"{backend.server.url}/demo/summary", timeout=TIMEOUT).json()
    assert summary == {"datasets": 1, "origdatablocks": 0, "poisoned": int(deadly)}
    page = requests.get(f"{backend.server.url}/{dataset_path(MAIN_PID)}", timeout=TIMEOUT).text
    assert ("would have crashed" in page) is deadly


def test_the_mark_outlives_a_change_for_the_better(backend: Backend) -> None:
    backend.post("ingestor", "datasets", dataset_body(MAIN_PID))
    for metadata in ({"none": None}, {}):
        response = requests.patch(
            f"{backend.server.api_root}/{dataset_path(MAIN_PID)}",
            json={"scientificMetadata": metadata},
            headers=backend.authorized("ingestor"),
            timeout=TIMEOUT,
        )
        assert response.status_code == 200

    assert list(backend.store.poisoned()) == [MAIN_PID]


@pytest.mark.parametrize(("milliseconds", "status"), [(-1, 412), (0, 412), (1, 200), (3_600_000, 200)])
@pytest.mark.parametrize("form", ["ISO 8601", "HTTP"])
def test_a_change_is_made_only_when_nothing_changed_since(
    form: str, milliseconds: int, status: int, backend: Backend
) -> None:
    """Not recorded: the server's source reads the condition as JavaScript reads dates; a tie is a change."""
    backend.post("ingestor", "datasets", dataset_body(MAIN_PID))

    def at_a_full_second(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "updatedAt": "2026-01-15T09:30:00.000Z"}

    backend.store.change_dataset(MAIN_PID, at_a_full_second)
    moment = datetime(2026, 1, 15, 9, 30, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    if form == "HTTP":
        # It has seconds only.
        moment += timedelta(seconds=1) if milliseconds == 1 else timedelta()
        condition = format_datetime(moment, usegmt=True)
    else:
        condition = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    response = requests.patch(
        f"{backend.server.api_root}/{dataset_path(MAIN_PID)}",
        json={"comment": "new"},
        headers={**backend.authorized("ingestor"), "If-Unmodified-Since": condition},
        timeout=TIMEOUT,
    )

    assert response.status_code == status
    stored = backend.store.dataset(MAIN_PID)
    assert stored is not None
    assert stored.get("comment") == ("new" if status == 200 else None)


@pytest.mark.parametrize(
    ("where", "pids"),
    [
        ({}, "ABC"),
        ({"datasetName": "alpha"}, "A"),
        ({"datasetName": {"inq": ["alpha", "gamma"]}}, "AC"),
        ({"datasetName": {"nin": ["alpha", "gamma"]}}, "B"),
        ({"datasetName": {"neq": "alpha"}}, "BC"),
        ({"datasetName": {"ilike": "^(AL|be)"}}, "AB"),
        ({"datasetName": {"like": "^AL"}}, ""),
        ({"datasetName": {"regexp": "m+"}}, "C"),
        ({"or": [{"datasetName": "alpha"}, {"scientificMetadata.n.value": 2}]}, "AB"),
        ({"and": [{"datasetName": "alpha"}, {"scientificMetadata.n.value": 2}]}, ""),
        ({"scientificMetadata.n.value": {"gt": 1}}, "BC"),
        ({"scientificMetadata.n.value": {"between": [1, 2]}}, "AB"),
        ({"scientificMetadata.n.value": "1"}, ""),
        ({"scientificMetadata.text.value": "word"}, "AB"),
        ({"scientificMetadata.text.value": {"exists": False}}, "C"),
        ({"scientificMetadata.absent": None, "datasetName": "gamma"}, "C"),
        ({"keywords": "only B"}, "B"),
        ({"runNumber": "12"}, ""),
        ({"runNumber": {"inq": ["12"]}}, "ABC"),
        ({"creationTime": "2026-01-15T10:30:00.000+01:00"}, "A"),
        ({"creationTime": {"gte": "2026-01-16T00:00:00Z"}}, "BC"),
    ],
)
def test_where(where: dict[str, Any], pids: str, backend: Backend) -> None:
    store_three_datasets(backend)

    response = backend.get("ingestor", "datasets", filter=json.dumps({"where": where}))

    assert [found["pid"] for found in response.json()] == list(pids)
    counted = backend.get("ingestor", "datasets/count", filter=json.dumps({"where": where}))
    assert counted.json() == {"count": len(pids)}


@pytest.mark.parametrize(
    ("further", "expected"),
    [
        ({"limits": {"limit": 2}}, ["A", "B"]),
        ({"limits": {"limit": 2, "skip": 1}}, ["B", "C"]),
        ({"limits": {"order": "datasetName:desc"}}, ["C", "B", "A"]),
        ({"limits": {"order": "creationTime:desc", "limit": 1}}, ["C"]),
        ({"limit": 1}, ["A", "B", "C"]),
    ],
)
def test_limits(further: dict[str, Any], expected: list[str], backend: Backend) -> None:
    store_three_datasets(backend)

    response = backend.get("ingestor", "datasets", filter=json.dumps(further))

    assert [found["pid"] for found in response.json()] == expected


def test_fields_cut_deep(backend: Backend) -> None:
    store_three_datasets(backend)
    wanted = {"fields": ["scientificMetadata.n.value", "nowhere.x"], "limits": {"limit": 1}}

    response = backend.get("ingestor", "datasets", filter=json.dumps(wanted))

    assert response.json() == [{"_id": "A", "scientificMetadata": {"n": {"value": 1}}}]


def test_a_filter_that_is_not_served_fails_loudly(backend: Backend) -> None:
    response = backend.get("ingestor", "datasets", filter='{"where": {"pid": {"$near": 1}}}')

    assert (response.status_code, response.json()) == (500, "Internal server error")


def test_a_list_ends_after_a_hundred(backend: Backend) -> None:
    backend.post("ingestor", "datasets", dataset_body(MAIN_PID))
    document = backend.store.datasets()[0]
    for number in range(250):
        backend.store.insert_dataset({**document, "pid": f"p{number}", "_id": f"p{number}"})

    assert len(backend.get("ingestor", "datasets").json()) == 100
    everything = backend.get("ingestor", "datasets", filter='{"limits": {"limit": 1000}}').json()
    assert len({found["pid"] for found in everything}) == 251


def store_three_datasets(backend: Backend) -> None:
    texts = {"A": "word", "B": ["other", "word"], "C": None}
    for number, (pid, name) in enumerate((("A", "alpha"), ("B", "beta"), ("C", "gamma")), start=1):
        metadata: dict[str, Any] = {"n": {"value": number}}
        if texts[pid] is not None:
            metadata["text"] = {"value": texts[pid]}
        body = dataset_body(
            pid,
            datasetName=name,
            creationTime=f"2026-01-{14 + number}T09:30:00.000Z",
            keywords=["all", f"only {pid}"],
            scientificMetadata=metadata,
        )
        assert backend.post("ingestor", "datasets", body).status_code == 201


@pytest.mark.parametrize(
    ("text", "is_date"),
    [
        ("LOKI 1", True),
        ("TEST-1", True),
        ("2026", True),
        ("00123", True),
        ("2026/1", True),
        ("hello may 3", True),
        ("(note) 1", True),
        ("2026-01-15T09:30:00.000Z", True),
        ("coda", False),
        ("443503", False),
        ("LOKI 13", False),
        ("1 LOKI", False),
        ("file_0.nxs", False),
        ("12:30", False),
        ("Run 12 of sample A", False),
        ("2026-W03", False),
        ("a1b2c3d4-0000-4000-8000-000000000001", False),
        ("20.500.12269/a1b2c3d4-0000-4000-8000-000000000001", False),
    ],
)
def test_what_javascript_takes_for_a_date(text: str, is_date: bool) -> None:
    assert javascript_takes_for_date(text) is is_date


def test_a_body_over_sixteen_mebibytes_is_an_unhandled_error(backend: Backend) -> None:
    too_long = "x" * (16 * 1024 * 1024)

    response = backend.post("ingestor", "datasets", dataset_body(MAIN_PID, description=too_long))

    assert (response.status_code, response.json()) == (500, "Internal server error")
    assert backend.store.count_datasets() == 0


def test_published_documents_are_everybodys(backend: Backend) -> None:
    backend.post("ingestor", "datasets", dataset_body(MAIN_PID, isPublished=True))

    assert backend.get(None, dataset_path(MAIN_PID)).status_code == 200
    assert [found["pid"] for found in backend.get(None, "datasets").json()] == [MAIN_PID]


def test_half_a_character_is_stored_as_text(backend: Backend) -> None:
    body = json.dumps(dataset_body(MAIN_PID, description="HALF")).replace("HALF", "\\ud83d")
    headers = {**backend.authorized("ingestor"), "Content-Type": "application/json"}

    response = requests.post(
        f"{backend.server.api_root}/datasets", data=body.encode(), headers=headers, timeout=TIMEOUT
    )

    assert (response.status_code, response.json()["description"]) == (201, "?")


def test_seeded_documents_look_like_posted_ones(backend: Backend) -> None:
    store = backend.store
    proposal = store.add_proposal(
        "443503",
        title="Integration Test Proposal",
        pi_firstname="Principal",
        pi_lastname="Investigator",
        pi_email="pi@example.com",
        owner_group="ingestor",
    )
    instrument = store.add_instrument("LOKI 1", pid="loki-pid")
    sample = store.add_sample("SAMPLE-1", owner_group="ingestor", description="A sample", proposalId="443503")

    assert backend.get("ingestor", "proposals/443503").json() == proposal
    assert backend.get("ingestor", "samples/SAMPLE-1").json() == sample
    assert backend.get(None, "instruments/loki-pid").json() == instrument
    assert backend.get(None, "instruments", filter='{"where": {"name": {"inq": ["LOKI 1"]}}}').json() == [
        instrument
    ]
    assert instrument.keys() == RECORDED["07_instrument_post_ok"].answer.keys()
    with pytest.raises(AlreadyStoredError):
        store.add_instrument("LOKI 1")


def test_the_list_page_shows_the_newest_first_and_searches(backend: Backend) -> None:
    store_three_datasets(backend)

    page = requests.get(f"{backend.server.url}/", timeout=TIMEOUT)
    found = requests.get(f"{backend.server.url}/datasets", params={"search": "only B"}, timeout=TIMEOUT)

    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.text.index("gamma") < page.text.index("beta") < page.text.index("alpha")
    assert "ESS:CODA:TEST" in page.text
    assert "beta" in found.text
    assert "gamma" not in found.text


def test_the_list_page_is_paged(backend: Backend) -> None:
    backend.post("ingestor", "datasets", dataset_body(MAIN_PID))
    document = backend.store.datasets()[0]
    for number in range(30):
        backend.store.insert_dataset({**document, "pid": f"p{number:02}", "_id": f"p{number:02}"})

    first = requests.get(f"{backend.server.url}/datasets", timeout=TIMEOUT).text
    second = requests.get(f"{backend.server.url}/datasets", params={"page": "2"}, timeout=TIMEOUT).text

    assert "31 datasets, page 1 of 2" in first
    assert "Older" in first
    assert "Newer" in second
    assert ("p29" in first, "p29" in second) == (True, False)
    assert ("p00" in first, "p00" in second) == (False, True)


def test_the_page_of_a_dataset_shows_its_fields_metadata_and_files(backend: Backend) -> None:
    backend.send(RECORDED["02_dataset_post_raw_ok"])
    backend.send(RECORDED["06_odb_post_ok"])

    for path in (dataset_path(MAIN_PID), f"datasets/{MAIN_PID}"):
        page = requests.get(f"{backend.server.url}/{path}", timeout=TIMEOUT)

        assert page.status_code == 200
        for shown in (
            "Run 12 of sample A",
            "Ada Lovelace",
            "A length in mm",
            "25.5",
            "file_1.nxs",
            "ababab",
            "blake2b",
        ):
            assert shown in page.text


def test_the_page_of_a_dataset_shows_its_techniques_and_jobs(backend: Backend) -> None:
    techniques = [{"pid": "PaNET01129", "name": "tomography"}]
    backend.post("ingestor", "datasets", dataset_body(MAIN_PID, techniques=techniques))
    params = {"datasetList": [{"pid": MAIN_PID, "files": []}], "years": 3}
    backend.store.insert_job({"_id": "1", "type": "embargo_period", "jobParams": params})
    other = {**params, "datasetList": [{"pid": "another", "files": []}]}
    backend.store.insert_job({"_id": "2", "type": "archive", "jobParams": other})

    page = requests.get(f"{backend.server.url}/{dataset_path(MAIN_PID)}", timeout=TIMEOUT).text

    assert "tomography (PaNET01129)" in page
    assert "embargo_period" in page
    assert "archive" not in page.partition("<h2>Jobs</h2>")[2].partition("<h2>")[0]


def test_pages_escape_what_comes_from_documents(backend: Backend) -> None:
    hostile = "<script>alert('x')</script>\"&"
    pid = f"20.500.12269/{hostile}"
    metadata = {
        hostile: {"value": hostile, "unit": hostile, "human_name": hostile, "type": hostile},
        "n": None,
    }
    body = dataset_body(pid, datasetName=hostile, proposalId=hostile, scientificMetadata=metadata)
    assert backend.post("ingestor", "datasets", body).status_code == 201
    block = block_body(pid, 1)
    block["dataFileList"][0].update(path=hostile, chk=hostile)
    assert backend.post("ingestor", "origdatablocks", block).status_code == 201

    for path in (
        "datasets",
        f"datasets?search={quote(hostile)}",
        dataset_path(pid),
        f"datasets/{quote(hostile)}",
    ):
        page = requests.get(f"{backend.server.url}/{path}", timeout=TIMEOUT).text
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&quot;&amp;" in page


def test_an_unknown_page_is_not_found(backend: Backend) -> None:
    for path in ("nowhere", "datasets/nowhere"):
        page = requests.get(f"{backend.server.url}/{path}", timeout=TIMEOUT)
        assert (page.status_code, page.headers["Content-Type"]) == (404, "text/html; charset=utf-8")


def test_a_server_leaves_a_lent_store_open(tmp_path: Path) -> None:
    with Store(tmp_path / "catalogue.sqlite") as store:
        with CatalogueServer(store) as server:
            assert requests.get(f"{server.api_root}/health", timeout=TIMEOUT).json()["status"] == "ok"
        assert store.count_datasets() == 0
    with pytest.raises(sqlite3.ProgrammingError):
        store.count_datasets()


def test_a_taken_port_is_refused(backend: Backend, tmp_path: Path) -> None:
    second = CatalogueServer(tmp_path / "catalogue.sqlite", port=backend.server.port)

    with pytest.raises(OSError, match="in use"):
        second.start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_told_to_stop(number: signal.Signals, tmp_path: Path) -> None:
    with running_command(tmp_path) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        assert post_a_dataset(url) == 201
        process.send_signal(number)
        assert process.wait(TIMEOUT) == 0

    with Store(tmp_path / "catalogue.sqlite") as store:
        assert store.count_datasets() == 1


def test_what_was_answered_with_201_survives_a_kill(tmp_path: Path) -> None:
    with running_command(tmp_path) as (process, url):
        assert post_a_dataset(url) == 201
        process.kill()
        assert process.wait(TIMEOUT) == -signal.SIGKILL

    with Store(tmp_path / "catalogue.sqlite") as store:
        assert [dataset["pid"] for dataset in store.datasets()] == [MAIN_PID]


class running_command:  # noqa: N801 # It reads as a function.
    """The command as a process of its own, and the address it announces."""

    def __init__(self, folder: Path) -> None:
        command = ["-m", "scicat_dagster.demo.catalogue", "--database", str(folder / "catalogue.sqlite")]
        self._process = subprocess.Popen(
            [sys.executable, *command, "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> tuple["subprocess.Popen[str]", str]:
        assert self._process.stdout is not None
        return self._process, self._process.stdout.readline().strip()

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def post_a_dataset(url: str) -> int:
    credentials = {"username": "ingestor", "password": "pwd"}
    login = requests.post(f"{url}/api/v3/auth/login", json=credentials, timeout=TIMEOUT)
    headers = {"Authorization": f"Bearer {login.json()['access_token']}"}
    body = dataset_body(MAIN_PID)
    return requests.post(f"{url}/api/v3/datasets", json=body, headers=headers, timeout=TIMEOUT).status_code
