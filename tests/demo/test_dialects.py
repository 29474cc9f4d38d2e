"""The stand-in's newer dialects answer as the recorded servers did, where they differ from the oldest."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from scicat_dagster.demo.catalogue import Account, Accounts, CatalogueServer, Dialect, recorded_accounts

EXCHANGES = Path(__file__).parents[1] / "data" / "exchanges-5x"
RECORDED: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(EXCHANGES.glob("*.json"))
}
EXPIRED = [name for name in RECORDED if name.startswith("14_expired_")]
NEWER = (Dialect.V5_2, Dialect.V5_NEXT)
TIMEOUT = 20


def deleting(account: Account) -> Account:
    return Account(
        account.username, account.password, account.groups, may_create_datasets=True, may_delete=True
    )


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Dialect, CatalogueServer]]:
    folder = tmp_path_factory.mktemp("dialects")
    started = {}
    for dialect in Dialect:
        accounts = Accounts(map(deleting, recorded_accounts()))
        started[dialect] = CatalogueServer(folder / f"{dialect}.sqlite", accounts, dialect=dialect)
        started[dialect].start()
    yield started
    for server in started.values():
        server.stop()


def logged_in(server: CatalogueServer) -> dict[str, str]:
    server.store.clear()
    body = {"username": "ingestor", "password": "pwd"}
    answer = requests.post(f"{server.api_root}/auth/login", json=body, timeout=TIMEOUT)
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


def ask(server: CatalogueServer, name: str, headers: dict[str, str]) -> requests.Response:
    request = RECORDED[name]["request"]
    return requests.request(
        request["method"],
        server.url + request["path"],
        json=request["body"],
        headers=headers,
        timeout=TIMEOUT,
    )


def as_recorded(answer: requests.Response, name: str) -> bool:
    response = RECORDED[name]["response"]
    body = answer.json() if answer.content else None
    return bool((answer.status_code, body) == (response["status"], response["body"]))


@pytest.mark.parametrize("dialect", NEWER)
@pytest.mark.parametrize("name", EXPIRED)
def test_an_expired_token_is_reported_on_every_route(
    servers: dict[Dialect, CatalogueServer], dialect: Dialect, name: str
) -> None:
    server = servers[dialect]
    headers = logged_in(server)
    server.store.expire_tokens()

    assert as_recorded(ask(server, name, headers), name)


def test_the_oldest_dialect_takes_the_sender_of_an_expired_token_for_anonymous(
    servers: dict[Dialect, CatalogueServer],
) -> None:
    server = servers[Dialect.V4X]
    headers = logged_in(server)
    server.store.expire_tokens()

    answer = ask(server, "14_expired_whoami", headers)

    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("dialect", NEWER)
def test_a_forged_token_is_not_reported(servers: dict[Dialect, CatalogueServer], dialect: Dialect) -> None:
    answer = ask(servers[dialect], "14_expired_whoami", {"Authorization": "Bearer forged"})

    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("dialect", list(Dialect))
def test_routes_that_know_no_inq_fail_with_it(
    servers: dict[Dialect, CatalogueServer], dialect: Dialect
) -> None:
    headers = logged_in(servers[dialect])

    for name in ("07_samples_list_proposalId_inq", "30_v521_samples_inq", "06_v3_odb_list_inq"):
        assert as_recorded(ask(servers[dialect], name, headers), name)
    assert ask(servers[dialect], "07_samples_list_proposalId", headers).json() == []


def test_who_may_list_blocks_without_a_login(servers: dict[Dialect, CatalogueServer]) -> None:
    assert as_recorded(ask(servers[Dialect.V5_2], "30_v521_odb_no_token", {}), "30_v521_odb_no_token")
    assert as_recorded(
        ask(servers[Dialect.V5_NEXT], "06_v3_odb_list_no_token", {}), "06_v3_odb_list_no_token"
    )


def sums(server: CatalogueServer, headers: dict[str, str], pid: str) -> tuple[int, int]:
    url = f"{server.api_root}/datasets/{quote(pid, safe='')}"
    dataset = requests.get(url, headers=headers, timeout=TIMEOUT).json()
    return dataset["size"], dataset["numberOfFiles"]


@pytest.mark.parametrize(
    ("dialect", "name"),
    [
        (Dialect.V4X, "30_v521_dataset_after_odb"),
        (Dialect.V5_2, "30_v521_dataset_after_odb"),
        (Dialect.V5_NEXT, "06_v3_dataset_after_first_odb"),
    ],
)
def test_the_sums_of_a_dataset_that_was_posted_with_its_size(
    servers: dict[Dialect, CatalogueServer], dialect: Dialect, name: str
) -> None:
    server = servers[dialect]
    headers = logged_in(server)
    dataset = ask(server, "02_v3_dataset_post_ok", headers).json()
    block = ask(server, "06_v3_odb_post_ok", headers).json()

    expected = RECORDED[name]["response"]["body"]
    assert sums(server, headers, dataset["pid"]) == (expected["size"], expected["numberOfFiles"])

    repaired = ask(server, "16_repair_patch_size", headers).json()
    assert (repaired["size"], repaired["numberOfFiles"]) == (1000, 1)

    url = f"{server.api_root}/origdatablocks/{block['_id']}"
    requests.delete(url, headers=headers, timeout=TIMEOUT).raise_for_status()
    assert sums(server, headers, dataset["pid"]) == (0, 0)


@pytest.mark.parametrize("dialect", list(Dialect))
def test_the_sums_of_a_dataset_that_was_posted_without_its_size(
    servers: dict[Dialect, CatalogueServer], dialect: Dialect
) -> None:
    server = servers[dialect]
    headers = logged_in(server)
    body = dict(RECORDED["02_v3_dataset_post_ok"]["request"]["body"])
    del body["size"], body["numberOfFiles"]
    answer = requests.post(f"{server.api_root}/datasets", json=body, headers=headers, timeout=TIMEOUT)
    ask(server, "06_v3_odb_post_ok", headers).raise_for_status()

    assert sums(server, headers, answer.json()["pid"]) == (1000, 1)


def test_only_newer_servers_know_the_names_of_samples(servers: dict[Dialect, CatalogueServer]) -> None:
    for dialect in NEWER:
        headers = logged_in(servers[dialect])
        statuses = [
            ask(servers[dialect], name, headers).status_code
            for name in ("07_sample_post_ok", "07_sample_post_again", "07_sample_post_no_sampleName")
        ]
        assert statuses == [201, 500, 500]

    older = ask(servers[Dialect.V4X], "07_sample_post_ok", logged_in(servers[Dialect.V4X]))

    # As the sources of a 4.5.0 have it, which takes no field that it does not know.
    assert older.status_code == 400
    assert older.json()["message"] == ["property sampleName should not exist"]
