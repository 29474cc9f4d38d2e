"""``POST /announce``: what a program gets for an announcement, from a real server."""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from pydantic import SecretStr

from scicat_dagster.config.models import (
    FileHandlingSettings,
    HealthCheckSettings,
    IngestionSettings,
    ScicatSettings,
    Settings,
)
from scicat_dagster.demo.catalogue import CatalogueServer
from scicat_dagster.diagnostics.announce import announce_route
from scicat_dagster.diagnostics.checkup import Checkup
from scicat_dagster.diagnostics.endpoint import create_app
from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.kafka.messages import FileWritten
from scicat_dagster.limits import LARGEST_ANNOUNCEMENT_BYTES

TOKEN = "a-token-that-nobody-may-see"
FILE = {"file_path": "/data/odin/run.hdf", "job_id": "scan-7"}


class Endpoint:
    """A health server whose store keeps what it gets, or fails as it is told."""

    def __init__(self) -> None:
        self.stored: list[FileWritten] = []
        self.failure: Exception | None = None
        self.token = TOKEN
        self.url = ""

    def settings(self) -> Settings:
        return Settings(
            scicat=ScicatSettings(host="https://scicat.invalid/api/v3"),
            health_check=HealthCheckSettings(announce_token=SecretStr(self.token)),
            ingestion=IngestionSettings(file_handling=FileHandlingSettings(data_directory="/data")),
        )

    def store(self, written: FileWritten, data_directory: str) -> str:
        if self.failure is not None:
            raise self.failure
        self.stored.append(written)
        return written.file_path.removeprefix(f"{data_directory}/")

    def post(self, body: object, authorization: str | None = f"Bearer {TOKEN}") -> requests.Response:
        headers = {} if authorization is None else {"Authorization": authorization}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return requests.post(f"{self.url}/announce", data=data, headers=headers, timeout=30)


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    made = Endpoint()
    app = create_app(Checkup({}), more=[announce_route(made.settings, made.store)])
    with CatalogueServer(tmp_path / "unused.sqlite", app=app) as server:
        made.url = server.url
        yield made


def test_an_announcement_is_stored_whole_before_it_is_accepted(endpoint: Endpoint) -> None:
    answer = endpoint.post(FILE | {"instrument": "ODIN", "metadata": {"a": [None]}})

    assert answer.status_code == 202
    assert answer.json() == {"file_path": "/data/odin/run.hdf", "partition_key": "odin/run.hdf"}
    (written,) = endpoint.stored
    assert (written.job_id, written.instrument, written.metadata) == ("scan-7", "ODIN", {"a": [None]})
    assert written.announced_at_ms is not None


@pytest.mark.parametrize(
    "authorization",
    [None, "", TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer ", f"Bearer {TOKEN}x", TOKEN[:-1], "Bearer ü"],
)
def test_without_the_right_token_nothing_is_stored(endpoint: Endpoint, authorization: str | None) -> None:
    answer = endpoint.post(FILE, authorization.encode("latin-1") if authorization else authorization)  # type: ignore[arg-type]

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert not endpoint.stored
    assert TOKEN not in answer.text


def test_the_word_bearer_may_be_written_in_any_case(endpoint: Endpoint) -> None:
    assert endpoint.post(FILE, f"bearer {TOKEN}").status_code == 202


def test_without_a_token_in_the_configuration_nothing_can_be_announced(endpoint: Endpoint) -> None:
    endpoint.token = ""

    for authorization in ("Bearer ", None, f"Bearer {TOKEN}"):
        answer = endpoint.post(FILE, authorization)
        assert answer.status_code == 404
        assert "health_check.announce_token" in answer.json()["what"]


def test_a_token_that_was_changed_is_in_force_at_once(endpoint: Endpoint) -> None:
    endpoint.token = "another-token-of-today"

    assert endpoint.post(FILE).status_code == 401
    assert endpoint.post(FILE, "Bearer another-token-of-today").status_code == 202


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'"text"', b"{" * 100_000, b"\x10\0\0\0wrdn"])
def test_what_is_no_json_object_is_a_bad_request(endpoint: Endpoint, body: bytes) -> None:
    answer = endpoint.post(body)

    assert answer.status_code == 400
    assert "schema announcement" in answer.json()["remedy"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"job_id": "scan-7"}, "file_path is missing"),
        (FILE | {"job": "scan-7"}, "job is not a known field"),
        (FILE | {"file_path": "/etc/run.hdf"}, "file_path: "),
    ],
)
def test_an_object_that_announces_nothing_is_refused_with_the_field(
    endpoint: Endpoint, body: dict[str, str], named: str
) -> None:
    answer = endpoint.post(body)

    assert answer.status_code == 422
    assert named in answer.json()["what"]
    assert not endpoint.stored


def test_an_announcement_that_is_too_large_is_not_read_to_its_end(endpoint: Endpoint) -> None:
    address = urlsplit(endpoint.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    connection.putrequest("POST", "/announce")
    connection.putheader("Authorization", f"Bearer {TOKEN}")
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    connection.send(b" " * (LARGEST_ANNOUNCEMENT_BYTES + 1))

    assert connection.getresponse().status == 413
    connection.close()
    assert not endpoint.stored


def test_metadata_are_refused_rather_than_dropped(endpoint: Endpoint) -> None:
    # Close together as sent, and longer as we write them.
    numbers = ",".join("1" * (LARGEST_ANNOUNCEMENT_BYTES // 2 - 100))
    body = json.dumps(FILE)[:-1] + f',"metadata":[{numbers}]}}'

    assert endpoint.post(body.encode()).status_code == 413
    assert not endpoint.stored


@pytest.mark.parametrize(
    ("failure", "status"),
    [(TransientError("No database.", remedy="Wait."), 503), (PermanentError("No.", remedy="Never."), 422)],
)
def test_what_cannot_be_stored_is_not_accepted(endpoint: Endpoint, failure: Exception, status: int) -> None:
    endpoint.failure = failure

    answer = endpoint.post(FILE)

    assert answer.status_code == status
    assert answer.json()["what"]


def test_other_methods_are_not_allowed(endpoint: Endpoint) -> None:
    assert requests.get(f"{endpoint.url}/announce", timeout=30).status_code == 405


def test_the_token_is_in_no_log(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint.failure = TransientError("No database.", remedy="Wait.")
    endpoint.post(FILE)

    assert TOKEN not in caplog.text
    assert TOKEN not in repr(endpoint.settings())
