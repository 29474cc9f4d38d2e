"""Every exchange that was recorded with SciCat 5.x is answered by the stand-in with its status and shape.

What has to exist before is found in the request itself: the datasets, attachments and samples that it names
are posted as they were for the recording. Texts and numbers are not compared, their kinds are.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import requests

from scicat_dagster.demo.catalogue import Account, Accounts, CatalogueServer, Dialect, recorded_accounts
from scicat_dagster.demo.catalogue.content.documents import new_sample

EXCHANGES = Path(__file__).parents[1] / "data" / "exchanges-5x"
RECORDED: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(EXCHANGES.glob("*.json"))
}
TIMEOUT = 30

DESCRIBED = "The recording describes its body, which is too large to be kept."
MOMENT = "Its condition is a moment of the recording; test_catalogue_contract has the rule."
FAULT = "A fault of the real server; faults are for a middleware to make."
UNUSED = "A route that nobody here asks."
NOT_SERVED = {
    "08_v3_patch_if_unmodified_since_plus_1ms": MOMENT,
    "08_v3_patch_if_unmodified_since_same_moment": MOMENT,
    "13_scimeta_300_keys": DESCRIBED,
    "13_scimeta_300_keys_again": DESCRIBED,
    "12_lifecycle_patch_ingestor": UNUSED,
    "12_jobs_v4_archive_not_archivable": "A lifecycle that no route here changes.",
    "13_body_15MiB": DESCRIBED,
    "13_body_17MiB": DESCRIBED,
    "13_odb_20000_files": DESCRIBED,
    "13_scimeta_2100_keys": DESCRIBED,
    "13_scimeta_2100_keys_odb": DESCRIBED,
    "15_anonymous_v4_datasets_public": UNUSED,
    "15_anonymous_v4_origdatablocks_public": UNUSED,
    "15_anonymous_v4_public_get": UNUSED,
    "10_v4_list_include_blocks": UNUSED,
    **{name: FAULT for name in RECORDED if name.startswith("25_")},
}
SERVED = [name for name in RECORDED if name not in NOT_SERVED]
RECORDED_IN_ALL = 307

CREATED = {
    # Some pids were posted more than once; the first one counts.
    exchange["response"]["body"]["pid"]: name
    for name, exchange in reversed(RECORDED.items())
    if exchange["request"]["method"] == "POST"
    and re.search(r"v\d/datasets$", exchange["request"]["path"])
    and exchange["response"]["status"] == 201
    and isinstance(exchange["response"]["body"], dict)
    and exchange["response"]["body"]["pid"] in json.dumps(exchange["request"]["body"])
}
"""By which recorded request each dataset was made."""

EXISTING = {
    "x-1": ["07_sample_post_ok"],
    "5c000000-0000-4000-8000-000000000001": ["09_attach_v4_ok"],
}
PUBLISHED = "15_publish_v3"
DESCRIPTION = ["02_v3_dataset_post_ok", "08_v3_patch_description"]
BEFORE = {
    "07_proposal_post_again": ["07_proposal_post_admin"],
    "08_v3_patch_before_if_unmodified": DESCRIPTION,
    "08_v3_patch_before_if_unmodified2": DESCRIPTION,
    "08_v3_patch_scimeta_replaces": DESCRIPTION,
    "10_v4_get_of_v3": DESCRIPTION,
    "16_repair_patch_size": DESCRIPTION,
    "11_v4_dataset_after_odb": ["10_v4_dataset_post_ok", "10_v4_patch_json"],
    "13_scimeta_null_entry_stored_all_the_same": ["13_scimeta_null_entry"],
    "15_anonymous_get_published": [PUBLISHED],
}
FILLED = {
    "origdatablocks": ["06_v3_odb_post_ok", "11_v4_odb_post_ok"],
    "attachments": ["09_attach_v3_ok", "09_attach_v3_again", "09_attach_v4_ok", "09_attach_v4_no_aid"],
    "thumbnail": ["09_attach_v3_ok"],
    "jobs": ["12_jobs_v4_archive_ok"],
    "samples": ["07_sample_post_ok"],
}
"""What a list holds in the end of a path, where the recorded one holds anything."""


def accounts() -> Accounts:
    return Accounts(
        [
            *recorded_accounts(),
            Account("proposalmember", "pwd", ("proposal_512017",), may_create_datasets=True),
            Account("archiveManager", "pwd", ("archivemanager",), may_read_all=True, may_delete=True),
        ]
    )


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Dialect, CatalogueServer]]:
    folder = tmp_path_factory.mktemp("recorded")
    started = {
        dialect: CatalogueServer(folder / f"{dialect}.sqlite", accounts(), dialect=dialect)
        for dialect in (Dialect.V5_2, Dialect.V5_NEXT)
    }
    for server in started.values():
        server.start()
    yield started
    for server in started.values():
        server.stop()


def headers_for(server: CatalogueServer, exchange: dict[str, Any]) -> dict[str, str]:
    kept = ("Content-Type", "If-Unmodified-Since")
    headers = {name: value for name, value in exchange["request"]["headers"].items() if name in kept}
    if exchange["as_user"]:
        logged_in = server.accounts.log_in(server.store, exchange["as_user"], "pwd")
        assert logged_in is not None
        headers["Authorization"] = f"Bearer {logged_in[1]}"
    return headers


def send(server: CatalogueServer, exchange: dict[str, Any], path: str = "") -> requests.Response:
    body = exchange["request"]["body"]
    if isinstance(body, dict) and "<password>" in body.values():
        right = exchange["response"]["status"] == 201
        body = {**body, "password": "pwd" if right else "wrong"}
    text = body if isinstance(body, str) else json.dumps(body)
    return requests.request(
        exchange["request"]["method"],
        server.url + (path or exchange["request"]["path"]),
        data=None if body is None else text.encode(),
        headers=headers_for(server, exchange),
        timeout=TIMEOUT,
    )


def seed(server: CatalogueServer) -> None:
    store = server.store
    store.clear()
    for name in ("ODIN", "LOKI 1"):
        store.add_instrument(name, unique_name=name.lower(), customMetadata={"technique": "imaging"})
    recorded = RECORDED["07_proposal_get"]["response"]["body"]
    further = {
        name: recorded[name]
        for name in ("abstract", "startTime", "endTime", "instrumentGroup", "MeasurementPeriodList")
        if name in recorded
    }
    store.add_proposal(
        "512017",
        title="Lithium",
        pi_firstname="Anna",
        pi_lastname="Öberg",
        pi_email="a@example.org",
        owner_group="proposal_512017",
        access_groups=("ingestor",),
        **further,
    )
    sample = {"sampleId": "s-512017-0", "sampleName": "Pouch cell A", "description": ""}
    owned = {"ownerGroup": "proposal_512017", "accessGroups": ["ingestor"], "proposalId": "512017"}
    store.insert_sample(new_sample({**sample, **owned}, "admin", Dialect.V5_NEXT))


def needed(name: str) -> list[str]:
    """The recorded requests after which the one with this name was answered."""
    exchange = RECORDED[name]
    request, response = exchange["request"], exchange["response"]
    said = unquote(request["path"]) + json.dumps(request["body"])
    creates_it = request["path"].endswith("/datasets") and response["status"] != 409
    listed = [item.get("pid") for item in response["body"]] if isinstance(response["body"], list) else []
    before = [maker for pid, maker in CREATED.items() if (pid in said and not creates_it) or pid in listed]
    before += BEFORE.get(name, [])
    for identifier, makers in EXISTING.items():
        if identifier in unquote(request["path"]) or (identifier in said and response["status"] == 500):
            before += makers
    kind = request["path"].partition("?")[0].rpartition("/")[2]
    if request["method"] == "GET" and response["body"] and response["status"] == 200:
        before += FILLED.get(kind, [])
    if request["method"] == "DELETE" and "/origdatablocks/" in request["path"]:
        before.append("06_v3_odb_post_ok")
    return list(dict.fromkeys(made for one in before for made in (*makers_of(one), one)))


def makers_of(name: str) -> list[str]:
    said = unquote(RECORDED[name]["request"]["path"]) + json.dumps(RECORDED[name]["request"]["body"])
    return [maker for pid, maker in CREATED.items() if pid in said and maker != name]


def path_of(server: CatalogueServer, exchange: dict[str, Any]) -> str:
    """The recorded path, with the id that the block has here."""
    path: str = exchange["request"]["path"]
    head, mark, _ = path.partition("/origdatablocks/")
    if exchange["request"]["method"] != "DELETE" or not mark:
        return path
    return f"{head}{mark}{next(server.store.find('origdatablocks', {}))['_id']}"


def shape(value: Any) -> Any:
    """The keys and kinds of an answer; of a list the kind of its first item."""
    if isinstance(value, dict):
        return {
            name: "object" if name in OPEN and isinstance(item, dict) else shape(item)
            for name, item in value.items()
            if name not in GENERATED
        }
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, bool):
        return "boolean"
    return {int: "number", float: "number", str: "text"}.get(type(value), "null")


def differences(recorded: Any, received: Any, place: str = "") -> Iterator[str]:
    if isinstance(recorded, dict) and isinstance(received, dict):
        for name in sorted(recorded.keys() | received.keys()):
            if name not in received or name not in recorded:
                yield f"{place}.{name} is {'missing' if name in recorded else 'too much'}"
            else:
                yield from differences(recorded[name], received[name], f"{place}.{name}")
    elif isinstance(recorded, list) and isinstance(received, list) and recorded and received:
        yield from differences(recorded[0], received[0], f"{place}[]")
    elif recorded != received:
        yield f"{place} is {received}, not {recorded}"


OPEN = {"scientificMetadata", "sampleCharacteristics", "datasetlifecycle", "jobParams", "metadata", "value"}
GENERATED = {"_id", "history"}
"""Ids of parts differ: a text, or what JavaScript makes of a database's id; some have none."""


@pytest.mark.parametrize("name", SERVED)
def test_answers_as_recorded(servers: dict[Dialect, CatalogueServer], name: str) -> None:
    exchange = RECORDED[name]
    server = servers[Dialect.V5_2 if name.startswith("30_") else Dialect.V5_NEXT]
    seed(server)
    for before in needed(name):
        done = send(server, RECORDED[before])
        assert done.status_code == RECORDED[before]["response"]["status"], f"{before}: {done.text}"
    if name.startswith("14_expired"):
        headers = headers_for(server, exchange)
        server.store.expire_tokens()
        request = exchange["request"]
        answer = requests.request(
            request["method"], server.url + request["path"], json=request["body"], headers=headers,
            timeout=TIMEOUT,
        )  # fmt: skip
    else:
        answer = send(server, exchange, path_of(server, exchange))

    response = exchange["response"]
    assert answer.status_code == response["status"], answer.text
    if response["body_kind"] == "empty":
        assert answer.content == b""
    else:
        assert list(differences(shape(response["body"]), shape(answer.json()))) == []


def test_no_recording_is_left_out() -> None:
    assert len(SERVED) + len(NOT_SERVED) == RECORDED_IN_ALL
    assert RECORDED.keys() >= NOT_SERVED.keys()
