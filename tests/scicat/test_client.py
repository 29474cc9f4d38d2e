"""The client against the stand-in over HTTP, and against every recorded answer on a route that it uses.

Logging in, connections, addresses, what each answer means, and that no failure tells a secret. Putting
several requests together into a registration is ``test_registration``'s.
"""

import base64
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from scicat_dagster.config.models import ScicatSettings
from scicat_dagster.demo.catalogue import Account, Accounts, CatalogueServer, Dialect, Store, create_app
from scicat_dagster.demo.catalogue.faults import FaultKind, Faults, Scripted
from scicat_dagster.errors import IngestionError, PermanentError, TransientError
from scicat_dagster.scicat.client import ConflictError, ModifiedMeanwhileError, ScicatClient
from scicat_dagster.scicat.errors import RefusedError
from scicat_dagster.scicat.models import DatasetRecord
from scicat_dagster.scicat.session import IDLE_SECONDS, REFUSAL_SECONDS, RENEWAL_SECONDS, LoginRefusedError
from scicat_dagster.scicat.tokens import expiry_of

EXCHANGES = Path(__file__).parents[1] / "data" / "exchanges"
PASSWORD = "pa55word-nobody-may-see"
HEADER_SECRET = "header-nobody-may-see"
NETRC_SECRET = "netrc-nobody-may-see"
WRONG_TOKEN = "token-nobody-may-see"
SECRETS = (PASSWORD, HEADER_SECRET, NETRC_SECRET, WRONG_TOKEN)
SHORT = 0.3
LONG = 20.0
PID = "20.500.12269/one"
NOW = datetime(2026, 11, 22, 5, 46, 58, 991_000, tzinfo=UTC)

INGESTOR = Account(
    "ingestor", PASSWORD, ("ingestor",),
    may_create_datasets=True, may_create_any_group=True, may_read_all=True,
)  # fmt: skip
PLAIN = Account("plain", PASSWORD, ("plain",))
BLIND = Account("blind", PASSWORD, ("blind",), may_create_datasets=True, may_create_any_group=True)

Failure = TypeVar("Failure", bound=Exception)


@dataclass(frozen=True)
class Seen:
    """A request as a server got it."""

    method: str
    path: str
    port: int
    headers: dict[str, str]

    @property
    def route(self) -> tuple[str, str]:
        return self.method, self.path.removeprefix("/api/v3/").partition("?")[0]

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


class Recorder:
    """Keeps what an application is asked."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.requests: list[Seen] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["raw_path"].decode("latin-1")
        query = scope["query_string"].decode("latin-1")
        whole = f"{path}?{query}" if query else path
        self.requests.append(Seen(scope["method"], whole, scope["client"][1], headers))
        await self._app(scope, receive, send)


class Clock:
    """A clock that stands still until it is set forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Catalogue:
    """A running stand-in that records its requests and fails as scripted."""

    server: CatalogueServer
    recorder: Recorder
    faults: Faults
    script: Scripted
    stack: ExitStack

    @property
    def store(self) -> Store:
        return self.server.store

    @property
    def routes(self) -> list[tuple[str, str]]:
        return [request.route for request in self.recorder.requests]

    def client(self, clock: Callable[[], float] | None = None, **changes: Any) -> ScicatClient:
        """A client; by default it logs in as the ingestor."""
        given: dict[str, Any] = {"host": self.server.api_root, "timeout": LONG}
        if "token" not in changes:
            given |= {"username": "ingestor", "password": PASSWORD}
        settings = ScicatSettings.model_validate(given | changes)
        made = ScicatClient(settings) if clock is None else ScicatClient(settings, clock)
        self.stack.callback(made.close)
        return made

    def token(self, username: str = "ingestor") -> str:
        """A new token of an account."""
        logged_in = self.server.accounts.log_in(self.store, username, PASSWORD)
        assert logged_in is not None
        return logged_in[1]

    def raised(self, kind: type[Failure], call: Callable[[], object]) -> Failure:
        """The failure of a call, which tells no secret."""
        tokens = {request.token for request in self.recorder.requests if request.token}
        return raised(kind, call, *tokens)


def raised(kind: type[Failure], call: Callable[[], object], *further_secrets: str) -> Failure:
    with pytest.raises(kind) as caught:
        call()
    failure = caught.value
    shown = "".join(traceback.format_exception(failure)) + repr(failure) + str(failure)
    shown += repr(getattr(failure, "details", "")) + repr(pickle.dumps(failure))
    for secret in (*SECRETS, *further_secrets):
        assert secret not in shown
    if isinstance(failure, IngestionError):
        assert failure.what
        assert failure.remedy
    return failure


@pytest.fixture(scope="module", params=[Dialect.V4X, Dialect.V5_NEXT])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    accounts = Accounts((INGESTOR, PLAIN, BLIND))
    with Store(tmp_path_factory.mktemp("catalogue") / "catalogue.sqlite") as store:
        script = Scripted()
        # A client that does not heed its own time-out gets the answer after all, and no failure.
        app = create_app(store, accounts, request.param)
        faults = Faults(app, script, store, longest_hold_seconds=10 * SHORT)
        recorder = Recorder(faults)
        with CatalogueServer(store, accounts, app=recorder) as server, faults:
            yield Catalogue(server, recorder, faults, script, ExitStack())


@pytest.fixture
def catalogue(running: Catalogue) -> Iterator[Catalogue]:
    running.store.clear()
    running.recorder.requests.clear()
    running.faults.forget()
    with ExitStack() as stack:
        yield replace(running, stack=stack)
    assert running.script.remaining == ()


def dataset(pid: str = PID, **changes: Any) -> dict[str, Any]:
    return {
        "pid": pid,
        "type": "raw",
        "owner": "Ada Lovelace",
        "contactEmail": "ada@example.com",
        "sourceFolder": "/data/one",
        "creationTime": "2026-01-15T09:30:00.000Z",
        "principalInvestigator": "Ada Lovelace",
        "creationLocation": "ESS:CODA",
        "ownerGroup": "ingestor",
        "scientificMetadata": {"job_id": {"value": "job", "unit": ""}},
        **changes,
    }


def block(pid: str = PID) -> dict[str, Any]:
    files = [{"path": "one.nxs", "size": 1, "time": "2026-01-15T09:30:00.000Z"}]
    return {"datasetId": pid, "size": 1, "dataFileList": files}


# Logging in


def test_a_given_token_is_used_and_nobody_logs_in(catalogue: Catalogue) -> None:
    token = catalogue.token()

    assert catalogue.client(token=token).whoami() == "ingestor"

    assert catalogue.routes == [("GET", "auth/whoami")]
    assert catalogue.recorder.requests[0].token == token


def test_a_password_is_turned_into_a_token_once(catalogue: Catalogue) -> None:
    client = catalogue.client()

    assert [client.whoami(), client.whoami()] == ["ingestor", "ingestor"]

    assert catalogue.routes == [("POST", "auth/login"), ("GET", "auth/whoami"), ("GET", "auth/whoami")]
    assert catalogue.recorder.requests[0].token == ""


@pytest.mark.parametrize(("seconds_before", "logins"), [(RENEWAL_SECONDS + 2, 1), (RENEWAL_SECONDS - 2, 2)])
def test_a_login_is_renewed_before_it_expires(
    catalogue: Catalogue, seconds_before: float, logins: int
) -> None:
    clock = Clock()
    client = catalogue.client(clock)

    client.whoami()
    clock.now += catalogue.server.accounts.token_lifetime.total_seconds() - seconds_before
    client.whoami()

    assert catalogue.routes.count(("POST", "auth/login")) == logins
    tokens = {request.token for request in catalogue.recorder.requests if request.token}
    assert len(tokens) == logins


@pytest.mark.parametrize("create", ["dataset", "origdatablock"])
def test_a_write_that_the_server_took_for_a_strangers_is_sent_again_with_a_new_login(
    catalogue: Catalogue, create: str
) -> None:
    client = catalogue.client()
    client.create_dataset(dataset("before"))
    catalogue.store.expire_tokens()

    if create == "dataset":
        client.create_dataset(dataset())
        assert catalogue.store.count_datasets() == 2
    else:
        client.create_origdatablock(block("before"))
        assert catalogue.store.count_origdatablocks() == 1
    assert catalogue.routes.count(("POST", "auth/login")) == 2


READS: dict[str, Callable[[ScicatClient], object]] = {
    "dataset": lambda client: client.dataset(PID),
    "datasets_with_metadata": lambda client: client.datasets_with_metadata("job_id", "job"),
    "origdatablocks": lambda client: client.origdatablocks(PID),
    "samples_of_proposal": lambda client: client.samples_of_proposal("443503"),
    "fetch": lambda client: client.fetch("proposals/443503"),
}
WRITES: dict[str, Callable[[ScicatClient], object]] = {
    "create_dataset": lambda client: client.create_dataset(dataset("new")),
    "create_origdatablock": lambda client: client.create_origdatablock(block()),
}
CALLS = READS | WRITES


def fill(catalogue: Catalogue) -> None:
    """Something to be found by each of the reads."""
    client = catalogue.client()
    client.create_dataset(dataset())
    client.create_origdatablock(block())
    catalogue.store.add_proposal(
        "443503", title="T", pi_firstname="Ada", pi_lastname="L", pi_email="a@b.org", owner_group="ingestor"
    )
    catalogue.store.add_sample("SAMPLE-1", owner_group="ingestor", proposalId="443503")


@pytest.mark.parametrize("name", READS)
def test_what_a_read_finds_after_the_login_has_run_out_is_what_is_there(
    catalogue: Catalogue, name: str
) -> None:
    fill(catalogue)
    client = catalogue.client()
    expected = READS[name](client)
    catalogue.store.expire_tokens()

    try:
        found = READS[name](client)
    except TransientError:
        # The login is renewed; what was asked has to be asked again.
        found = READS[name](client)

    assert found == expected
    assert found


@pytest.mark.parametrize("name", CALLS)
def test_an_expired_token_is_said_to_be_expired_and_nothing_is_said_to_be_absent(
    catalogue: Catalogue, name: str
) -> None:
    fill(catalogue)
    client = catalogue.client(token=catalogue.token())
    catalogue.store.expire_tokens()

    failure = catalogue.raised(PermanentError, lambda: CALLS[name](client))

    assert "the token has expired or is wrong" in str(failure)
    assert "token" in failure.remedy


@pytest.mark.parametrize("name", CALLS)
def test_a_forged_token_is_said_to_be_wrong(catalogue: Catalogue, name: str) -> None:
    fill(catalogue)

    failure = catalogue.raised(PermanentError, lambda: CALLS[name](catalogue.client(token=WRONG_TOKEN)))

    assert "the token has expired or is wrong" in str(failure)


def signed(**claims: object) -> str:
    """A token that says this about itself; nobody here looks at its signature."""
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


def test_when_a_token_has_expired_is_said_where_it_says_so_itself(catalogue: Catalogue) -> None:
    client = catalogue.client(token=signed(exp=1_700_000_000))

    failure = catalogue.raised(PermanentError, lambda: client.dataset(PID))

    assert "the token expired at 2023-11-14 22:13 UTC" in failure.what


@given(st.text() | st.builds(signed, exp=st.none() | st.integers() | st.floats() | st.text()))
def test_whatever_a_token_is_it_expires_at_some_time_or_at_none(token: str) -> None:
    expiry = expiry_of(token)

    assert expiry is None or expiry.tzinfo is UTC


def test_a_login_is_renewed_also_where_the_clock_here_stood_still(catalogue: Catalogue) -> None:
    """As that of a machine that was suspended."""
    client = catalogue.client(Clock())
    client.create_dataset(dataset("before"))
    catalogue.store.expire_tokens()

    assert client.create_dataset(dataset()).pid == PID
    assert catalogue.routes.count(("POST", "auth/login")) == 2


def test_a_refusal_elsewhere_is_not_taken_for_an_entry_that_is_not_there(catalogue: Catalogue) -> None:
    with Stranger(401) as stranger:
        failure = catalogue.raised(PermanentError, lambda: catalogue.client().fetch(f"{stranger.url}/people"))

    assert not isinstance(failure, LookupError)
    assert "401" in failure.what


def test_nobodys_name_is_none(catalogue: Catalogue) -> None:
    assert catalogue.client(token=WRONG_TOKEN).whoami() is None


def test_a_wrong_password_is_permanent_and_named_by_its_account(catalogue: Catalogue) -> None:
    client = catalogue.client(username="ingestor", password=WRONG_TOKEN)

    failure = catalogue.raised(PermanentError, client.whoami)

    assert "logging in as ingestor" in failure.what
    assert "Unauthorized" in failure.what
    assert "password" in failure.remedy


def test_a_login_that_was_refused_is_not_tried_again_for_a_while(catalogue: Catalogue) -> None:
    """Each try might be the one that locks the account."""
    clock = Clock()
    client = catalogue.client(clock, username="ingestor", password=WRONG_TOKEN)

    for _ in range(5):
        catalogue.raised(LoginRefusedError, client.whoami)
    assert catalogue.routes == [("POST", "auth/login")]

    clock.now += REFUSAL_SECONDS + 1
    catalogue.raised(LoginRefusedError, client.whoami)
    assert catalogue.routes == [("POST", "auth/login")] * 2


def test_a_login_of_the_ldap_server_is_renewed_as_any_other(catalogue: Catalogue) -> None:
    client = catalogue.client(login="ldap")

    assert client.whoami() == "ingestor"
    catalogue.store.expire_tokens()
    client.create_dataset(dataset())

    logins = [path for method, path in catalogue.routes if method == "POST" and path.startswith("auth/")]
    assert set(logins) == {"auth/ldap"}
    assert len(logins) == 2


def test_an_id_token_is_exchanged_and_read_anew_at_each_login(tmp_path: Path) -> None:
    file = tmp_path / "id-token"
    accounts = Accounts((INGESTOR, PLAIN))
    with CatalogueServer(tmp_path / "catalogue.sqlite", accounts, dialect=Dialect.V5_2) as server:
        given = {"host": server.api_root, "login": "oidc", "oidc_token_file": str(file), "timeout": LONG}
        client = ScicatClient(ScicatSettings.model_validate(given))
        raised(LoginRefusedError, client.whoami)
        file.write_text(f"{accounts.id_token('ingestor')}\n")
        assert client.whoami() == "ingestor"

        file.write_text(accounts.id_token("plain"))
        server.store.expire_tokens()
        # The login is renewed with what the file holds now.
        assert client.dataset(PID) is None
        assert client.whoami() == "plain"
        client.close()


@pytest.mark.parametrize("content", ["", "wrong-token-nobody-may-see", "\xff"])
def test_an_id_token_that_is_refused_is_not_shown(tmp_path: Path, content: str) -> None:
    file = tmp_path / "id-token"
    file.write_bytes(content.encode("latin-1"))
    with CatalogueServer(tmp_path / "catalogue.sqlite", dialect=Dialect.V5_2) as server:
        given = {"host": server.api_root, "login": "oidc", "oidc_token_file": str(file), "timeout": LONG}
        client = ScicatClient(ScicatSettings.model_validate(given))
        raised(LoginRefusedError, client.whoami, "wrong-token-nobody-may-see")
        client.close()


def test_a_login_that_is_down_is_transient(catalogue: Catalogue) -> None:
    catalogue.script.add((FaultKind.LOGIN_DOWN, "POST", "auth/login"))
    client = catalogue.client()

    catalogue.raised(TransientError, client.whoami)

    assert client.whoami() == "ingestor"


@pytest.mark.parametrize("token", [f"{WRONG_TOKEN}\r\nX: y", f"{WRONG_TOKEN}→", f"{WRONG_TOKEN} x\0"])
@pytest.mark.parametrize("place", ["token", "additional_headers"])
def test_what_no_header_can_hold_is_refused_without_being_shown(
    catalogue: Catalogue, token: str, place: str
) -> None:
    changes = {"token": token} if place == "token" else {"additional_headers": {"X-Key": token}}

    with pytest.raises(ValidationError, match="no HTTP header") as refused:
        catalogue.client(**changes)

    assert place in str(refused.value)
    assert WRONG_TOKEN not in "".join(traceback.format_exception(refused.value)) + repr(refused.value)


def test_a_line_break_after_a_token_does_not_matter(catalogue: Catalogue) -> None:
    token = catalogue.token()

    assert catalogue.client(token=f"{token}\n").whoami() == "ingestor"


# Connections


def test_connections_are_used_again(catalogue: Catalogue) -> None:
    client = catalogue.client()

    for _ in range(3):
        client.whoami()
        client.dataset(PID)
    client.create_dataset(dataset())

    assert len({request.port for request in catalogue.recorder.requests}) == 1


def test_a_connection_that_the_server_may_have_closed_is_not_used_again(catalogue: Catalogue) -> None:
    clock = Clock()
    client = catalogue.client(clock)

    client.create_dataset(dataset("before"))
    clock.now += IDLE_SECONDS + 0.1
    client.create_dataset(dataset())

    ports = [request.port for request in catalogue.recorder.requests]
    assert ports[0] == ports[1] != ports[2]
    assert catalogue.store.count_datasets() == 2


@pytest.mark.parametrize("name", WRITES)
def test_a_write_that_is_not_answered_in_time_is_transient_and_sent_once(
    catalogue: Catalogue, name: str
) -> None:
    fill(catalogue)
    client = catalogue.client(timeout=SHORT)
    endpoint = {"create_dataset": "datasets", "create_origdatablock": "origdatablocks"}[name]
    before = catalogue.routes.count(("POST", endpoint))
    catalogue.script.add((FaultKind.STORED_THEN_TIMEOUT, "POST", endpoint))

    failure = catalogue.raised(TransientError, lambda: WRITES[name](client))

    assert "did not answer in time" in failure.what
    assert catalogue.routes.count(("POST", endpoint)) == before + 1


def test_a_read_that_is_not_answered_in_time_is_asked_again(catalogue: Catalogue) -> None:
    fill(catalogue)
    client = catalogue.client(timeout=SHORT)
    catalogue.script.add((FaultKind.STORED_THEN_TIMEOUT, "GET", "datasets/.*"))

    found = client.dataset(PID)

    assert found is not None
    assert found.pid == PID


def test_a_server_that_never_answers_is_given_up(catalogue: Catalogue) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"http://127.0.0.1:{silent.getsockname()[1]}/api/v3"
        client = catalogue.client(token=WRONG_TOKEN, host=host, timeout=SHORT)

        raised(TransientError, lambda: client.create_dataset(dataset()))


def test_a_server_that_is_not_there_is_transient_until_it_is(tmp_path: Path) -> None:
    accounts = Accounts((INGESTOR,))
    server = CatalogueServer(tmp_path / "catalogue.sqlite", accounts)
    with server:
        given = {"host": server.api_root, "username": "ingestor", "password": PASSWORD, "timeout": LONG}
        client = ScicatClient(ScicatSettings.model_validate(given))
        client.create_dataset(dataset())
    try:
        failure = raised(TransientError, lambda: client.dataset(PID))
        assert "cannot be reached" in failure.what
        with server:
            assert client.dataset(PID) is not None
    finally:
        client.close()


@pytest.mark.parametrize("method", ["read", "write"])
def test_an_answer_that_breaks_off_is_transient(catalogue: Catalogue, method: str) -> None:
    client = catalogue.client()
    if method == "read":
        client.create_dataset(dataset())
        catalogue.script.add((FaultKind.RESET, "GET", "datasets/.*"))
        catalogue.raised(TransientError, lambda: client.dataset(PID))
    else:
        catalogue.script.add((FaultKind.RESET, "POST", "datasets"))
        catalogue.raised(TransientError, lambda: client.create_dataset(dataset()))
    assert client.dataset(PID) is not None


# Addresses


@pytest.mark.parametrize(
    "pid", ["20.500.12269/a", "a b", "100%", "a%2Fb", "a#b", "a?b=c", "é→𝛼", "a&b=c+d", ";:@,$"]
)
def test_a_pid_is_one_part_of_the_path_whatever_it_holds(catalogue: Catalogue, pid: str) -> None:
    client = catalogue.client()

    client.create_dataset(dataset(pid))
    client.create_origdatablock(block(pid))
    found = client.dataset(pid)

    assert found is not None
    assert found.pid == pid
    assert [listed.datasetId for listed in client.origdatablocks(pid)] == [pid]
    path = next(request.path for request in catalogue.recorder.requests if "datasets/" in request.path)
    assert unquote(path.rpartition("/")[2]) == pid
    assert client.dataset_page(pid) == f"{catalogue.server.url}/datasets/{path.rpartition('/')[2]}"


@pytest.mark.parametrize("value", ["LOKI 1", "TEST-1", "2026", "00123", "2026-01-15", 12, 1.5, True])
def test_metadata_values_that_look_like_dates_are_found(catalogue: Catalogue, value: Any) -> None:
    client = catalogue.client()
    client.create_dataset(dataset(scientificMetadata={"k": {"value": value, "unit": ""}}))
    client.create_dataset(dataset("other", scientificMetadata={"k": {"value": "other", "unit": ""}}))

    assert [record.pid for record in client.datasets_with_metadata("k", value)] == [PID]


def test_more_entries_than_the_server_lists_by_default_are_found(catalogue: Catalogue) -> None:
    client = catalogue.client()
    client.create_dataset(dataset())
    client.create_origdatablock(block())
    document = catalogue.store.origdatablocks(PID)[0]
    for number in range(149):
        catalogue.store.insert_origdatablock({**document, "_id": f"block {number}"})

    assert len(client.origdatablocks(PID)) == 150


class Stranger:
    """Another HTTP server: keeps what it is asked, and answers all of it in one way."""

    def __init__(self, status: int = 200, body: bytes = b"{}", headers: dict[str, str] | None = None) -> None:
        self.requests: list[Seen] = []
        stranger = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                sent = {name.lower(): value for name, value in self.headers.items()}
                stranger.requests.append(Seen(self.command, self.path, self.client_address[1], sent))
                status, body, further = stranger.answer(self.command, self.path)
                self.send_response(status)
                for name, value in further.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PATCH = answer  # noqa: N815 # The library's names.

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._answer = (status, body, headers or {})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def answer(self, method: str, path: str) -> tuple[int, bytes, dict[str, str]]:  # noqa: ARG002
        return self._answer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Stranger":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(LONG)
        self._server.server_close()


def test_an_address_of_a_schema_is_asked_where_the_collection_is_configured_to_be() -> None:
    with Stranger(body=b'{"pi": "Ada"}') as server:
        given = {"host": f"{server.url}/api", "token": WRONG_TOKEN, "timeout": LONG}
        endpoints = {"proposals": "v3/proposals", "health": f"{server.url}/alive"}
        client = ScicatClient(ScicatSettings.model_validate({**given, "api_endpoints": endpoints}))
        try:
            assert client.fetch("proposals/P1") == {"pi": "Ada"}
            client.fetch("v3/proposals/P1")
            client.check_health()
        finally:
            client.close()

    assert [seen.path for seen in server.requests] == ["/api/v3/proposals/P1"] * 2 + ["/alive"]


def test_another_server_never_gets_our_token(catalogue: Catalogue) -> None:
    client = catalogue.client()
    assert client.whoami() == "ingestor"

    with Stranger(body=b'{"pi": "Ada"}') as stranger:
        assert client.fetch(f"{stranger.url}/api/v3/proposals/1") == {"pi": "Ada"}

    assert [(seen.method, seen.path) for seen in stranger.requests] == [("GET", "/api/v3/proposals/1")]
    assert "authorization" not in stranger.requests[0].headers


def test_another_server_never_gets_our_additional_headers(catalogue: Catalogue) -> None:
    client = catalogue.client(additional_headers={"X-Api-Key": HEADER_SECRET})

    with Stranger() as stranger:
        client.fetch(f"{stranger.url}/anything")
    client.whoami()

    assert catalogue.recorder.requests[-1].headers["x-api-key"] == HEADER_SECRET
    assert HEADER_SECRET not in str(stranger.requests)


@pytest.mark.parametrize(
    "address", ["http://{host}.example.org", "http://{host}@{other}", "http://{other}#{host}"]
)
def test_an_address_that_only_looks_like_ours_is_anothers(catalogue: Catalogue, address: str) -> None:
    with Stranger() as stranger:
        ours = urlsplit(catalogue.server.url).netloc
        url = address.format(host=ours, other=urlsplit(stranger.url).netloc)
        client = catalogue.client(timeout=SHORT)
        with suppress(IngestionError, LookupError, ValueError):
            client.fetch(f"{url}/x")

    sent = [seen.headers.get("authorization", "") for seen in stranger.requests]
    assert not [value for value in sent if value.startswith("Bearer")]
    assert catalogue.routes in ([], [("POST", "auth/login")])


@pytest.mark.parametrize("url", ["proposals/..", "proposals/../users/1", "proposals/%2e%2E/users/1", "a/./b"])
def test_an_address_that_leads_out_of_its_collection_is_not_asked(catalogue: Catalogue, url: str) -> None:
    client = catalogue.client()

    with pytest.raises(LookupError, match="leads out of its collection"):
        client.fetch(url)

    assert catalogue.recorder.requests == []


def test_our_own_absolute_address_gets_our_token(catalogue: Catalogue) -> None:
    fill(catalogue)

    answer = catalogue.client().fetch(f"{catalogue.server.api_root}/proposals/443503")

    assert isinstance(answer, dict)
    assert answer["pi_firstname"] == "Ada"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("name", ["dataset", "origdatablocks", "create_dataset", "fetch"])
def test_a_redirect_is_refused_and_its_target_is_named(status: int, name: str) -> None:
    with Stranger() as target, Stranger(status, b"", {"Location": f"{target.url}/elsewhere"}) as moved:
        given = {"host": f"{moved.url}/api/v3", "token": WRONG_TOKEN, "timeout": LONG}
        client = ScicatClient(ScicatSettings.model_validate(given))
        try:
            failure = raised(PermanentError, lambda: CALLS[name](client))
        finally:
            client.close()

    assert f"{target.url}/elsewhere" in str(failure)
    assert "scicat.host" in failure.remedy
    assert target.requests == []


NETRC_PROGRAM = """
import sys
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.config.models import ScicatSettings
host, token, *further = sys.argv[1:]
client = ScicatClient(ScicatSettings.model_validate({"host": host, "token": token, "timeout": 20}))
for url in further:
    client.fetch(url)
client.close()
"""


@pytest.mark.parametrize("place", ["home", "variable"])
def test_a_netrc_file_is_not_used(place: str, tmp_path: Path) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"default login someone password {NETRC_SECRET}\n", encoding="utf-8")
    netrc.chmod(0o600)
    environment = {name: value for name, value in os.environ.items() if name not in ("NETRC", "HOME")}
    environment |= {"HOME": str(tmp_path)} if place == "home" else {"NETRC": str(netrc)}

    with Stranger() as ours, Stranger() as theirs:
        arguments = [f"{ours.url}/api/v3", WRONG_TOKEN, "proposals/1", f"{theirs.url}/x"]
        done = subprocess.run(
            [sys.executable, "-c", NETRC_PROGRAM, *arguments],
            env=environment, timeout=60, capture_output=True, text=True,
        )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert [seen.token for seen in ours.requests] == [WRONG_TOKEN]
    assert [seen.headers.get("authorization") for seen in theirs.requests] == [None]


# What answers mean


@pytest.mark.parametrize("name", CALLS)
def test_a_page_instead_of_json_is_transient_and_says_so(catalogue: Catalogue, name: str) -> None:
    fill(catalogue)
    catalogue.script.add((FaultKind.HTML, "GET" if name in READS else "POST", "(?!auth).*"))
    client = catalogue.client()

    failure = catalogue.raised(TransientError, lambda: CALLS[name](client))

    assert "text/html" in failure.what
    assert "instead of JSON" in failure.what
    assert "scicat.host" in failure.remedy


@pytest.mark.parametrize("kind", [
    FaultKind.INTERNAL_ERROR, FaultKind.BAD_GATEWAY, FaultKind.UNAVAILABLE, FaultKind.TOO_MANY,
    FaultKind.STORED_THEN_ERROR,
])  # fmt: skip
@pytest.mark.parametrize("name", CALLS)
def test_a_server_that_cannot_answer_now_is_transient(
    catalogue: Catalogue, name: str, kind: FaultKind
) -> None:
    fill(catalogue)
    catalogue.script.add((kind, "GET" if name in READS else "POST", "(?!auth).*"))
    client = catalogue.client()

    failure = catalogue.raised(TransientError, lambda: CALLS[name](client))

    status = {FaultKind.BAD_GATEWAY: "502", FaultKind.UNAVAILABLE: "503", FaultKind.TOO_MANY: "429"}
    assert f"answered {status.get(kind, '500')}" in failure.what
    assert failure.retry_after_seconds == (1 if kind is FaultKind.TOO_MANY else None)


def test_a_missing_right_is_permanent_and_in_the_servers_words(catalogue: Catalogue) -> None:
    client = catalogue.client(token=catalogue.token("plain"))

    failure = catalogue.raised(RefusedError, lambda: client.create_dataset(dataset()))

    assert "403" in failure.what
    assert "Forbidden resource" in failure.what
    assert "right" in failure.remedy


def test_a_dataset_that_exists_and_may_not_be_read_is_not_absent(catalogue: Catalogue) -> None:
    fill(catalogue)
    client = catalogue.client(token=catalogue.token("blind"))

    failure = catalogue.raised(RefusedError, lambda: client.dataset(PID))

    assert "Unauthorized access" in failure.what


@pytest.mark.parametrize("name", WRITES)
def test_a_write_that_is_forbidden_because_the_database_is_down_is_transient(
    catalogue: Catalogue, name: str
) -> None:
    fill(catalogue)
    catalogue.script.add((FaultKind.DATABASE_DOWN, "POST", "datasets|origdatablocks"))
    client = catalogue.client()

    failure = catalogue.raised(TransientError, lambda: WRITES[name](client))

    assert "not healthy" in failure.what
    WRITES[name](client)


def test_nothing_is_asked_of_health_with_our_token(catalogue: Catalogue) -> None:
    catalogue.script.add((FaultKind.DATABASE_DOWN, "POST", "datasets"))
    catalogue.raised(TransientError, lambda: catalogue.client().create_dataset(dataset()))

    asked = [request.token for request in catalogue.recorder.requests if request.route == ("GET", "health")]
    assert asked == [""]


def test_a_taken_pid_is_a_conflict(catalogue: Catalogue) -> None:
    client = catalogue.client()
    client.create_dataset(dataset())

    failure = catalogue.raised(ConflictError, lambda: client.create_dataset(dataset()))

    assert f"A dataset with pid {PID} already exists!" in failure.what


def test_the_samples_of_a_proposal_are_those_of_no_other(catalogue: Catalogue) -> None:
    fill(catalogue)
    catalogue.store.add_sample("SAMPLE-2", owner_group="ingestor", proposalId="2026")

    found = catalogue.client().samples_of_proposal("2026")

    assert [sample["sampleId"] for sample in found] == ["SAMPLE-2"]


# Recorded answers


@dataclass(frozen=True)
class Exchange:
    """What a recording holds of a request and its answer."""

    name: str
    user: str | None
    method: str
    path: str
    query: str
    body: Any
    status: int
    answer: Any
    content: bytes = field(repr=False)
    headers: dict[str, str] = field(repr=False)

    @property
    def known(self) -> bool:
        return self.user not in (None, "expired")


def read_exchange(path: Path) -> Exchange:
    recorded = json.loads(path.read_text(encoding="utf-8"))
    request, response = recorded["request"], recorded["response"]
    route, _, query = request["path"].partition("?")
    empty = response["body_kind"] == "empty"
    return Exchange(
        name=recorded["name"],
        user=recorded["as_user"],
        method=request["method"],
        path=route.removeprefix("/api/v3/"),
        query=query,
        body=request["body"] if isinstance(request["body"], dict) else {},
        status=response["status"],
        answer=None if empty else response["body"],
        content=b"" if empty else json.dumps(response["body"]).encode(),
        headers={} if response["content_type"] is None else {"Content-Type": response["content_type"]},
    )


RECORDED = {
    path.stem: read_exchange(path)
    for path in sorted(EXCHANGES.glob("*.json"))
    # What the client asks by v4, test_contract asks the stand-in, which answers as recorded.
    if not path.stem.startswith("10_v4_")
}
PLURALS = ("proposals", "instruments", "samples")


def call_for(exchange: Exchange) -> Callable[[ScicatClient], object] | None:
    """How the client comes to send a recorded request; None where it never does."""
    first, _, rest = exchange.path.partition("/")
    match exchange.method, first:
        case "POST", "datasets" if not rest:
            return lambda client: client.create_dataset(exchange.body)
        case "POST", "origdatablocks":
            return lambda client: client.create_origdatablock(exchange.body)
        case "POST", "auth":
            return lambda client: client.whoami()
        case "GET", "auth":
            return lambda client: client.whoami()
        case "GET", "datasets" if not rest and exchange.query:
            return lambda client: client.datasets_with_metadata("job_id", "job")
        case "GET", "datasets" if rest.count("/") == 0 and rest not in ("", "count", "findOne"):
            return lambda client: client.dataset(unquote(rest))
        case "PATCH", "datasets":
            return lambda client: client.update_dataset(
                DatasetRecord(pid=unquote(rest)), exchange.body, unmodified_since=NOW
            )
        case "GET", "origdatablocks":
            return lambda client: client.origdatablocks(PID)
        case "GET", name if name in PLURALS:
            return lambda client: client.fetch(f"{exchange.path}?{exchange.query}".rstrip("?"))
    return None


USED = {name: exchange for name, exchange in RECORDED.items() if call_for(exchange) is not None}
NEVER_SENT = {
    "00_health", "01_users_my_self", "04_isValid_bad_email", "04_isValid_existing_pid",
    "04_isValid_missing_owner", "04_isValid_ok", "05_count", "05_findOne", "05_findOne_missing",
    "05_get_unencoded_slash", "05_head_existing", "05_head_missing", "05_list_no_filter", "06_odb_sub_list",
    "07_instrument_post_as_ingestor", "07_instrument_post_duplicate_uniqueName", "07_instrument_post_ok",
    "07_proposal_post_duplicate", "07_proposal_post_ok_admin", "07_sample_post_duplicate",
    "07_sample_post_no_id", "07_sample_post_ok_ingestor", "08_delete_admin_not_in_DELETE_GROUPS",
    "08_delete_ingestor", "09_attach_v3_dataset_missing",
    "09_attach_v3_dataset_ok", "09_attach_v3_list", "09_attach_v3_no_caption", "09_attach_v3_no_token",
    "09_attach_v3_root_endpoint", "09_attach_v3_thumbnail", "22_delete_delete_admin",
}  # fmt: skip


class Replay(Stranger):
    """Answers one recorded request with the recorded answer, and what the client asks on doubt."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__()
        self._exchange = exchange

    def answer(self, method: str, path: str) -> tuple[int, bytes, dict[str, str]]:
        route = path.partition("?")[0].removeprefix("/api/v3/")
        if route == self._exchange.path and method == self._exchange.method:
            shown = self._exchange
        elif route == "auth/whoami":
            shown = RECORDED["01_auth_whoami" if self._exchange.known else "01_auth_whoami_no_token"]
        elif route == "health":
            shown = RECORDED["00_health"]
        else:
            return 404, b"", {}
        return shown.status, shown.content, shown.headers


def outcome(exchange: Exchange) -> tuple[object, str]:
    """Calls the client as for the recording: what it gave or raised, and the text of what it raised."""
    call = call_for(exchange)
    assert call is not None
    login = {"username": "ingestor", "password": PASSWORD}
    with Replay(exchange) as server:
        credentials = login if exchange.path == "auth/login" else {"token": WRONG_TOKEN}
        given = {"host": f"{server.url}/api/v3", "timeout": LONG, **credentials}
        client = ScicatClient(ScicatSettings.model_validate(given))
        try:
            return call(client), ""
        except (IngestionError, LookupError) as error:
            return raised(type(error), lambda: call(client)), str(error)
        finally:
            client.close()


def expected_failure(exchange: Exchange) -> type[Exception] | None:
    """The kind of failure that a recorded answer is, by what the API's description says."""
    kind = exchange.path.partition("/")[0]
    fetched = kind in PLURALS
    if exchange.status >= 500:
        return TransientError
    if exchange.path == "auth/login":
        return LoginRefusedError if exchange.status == 401 else None
    if exchange.path == "auth/whoami" or exchange.status == 201:
        return None
    if exchange.status == 409:
        return ConflictError
    if exchange.status == 412:
        return ModifiedMeanwhileError
    if exchange.status == 400:
        return RefusedError
    if not exchange.known and (exchange.status in (403, 404) or exchange.answer == []) and not fetched:
        return PermanentError
    if fetched:
        return LookupError if exchange.status in (403, 404) or exchange.answer is None else None
    if exchange.status == 403 or (exchange.status == 404 and exchange.method in {"POST", "PATCH"}):
        return RefusedError
    return None


def test_no_recording_is_left_out() -> None:
    assert USED.keys().isdisjoint(NEVER_SENT)
    assert USED.keys() | NEVER_SENT == RECORDED.keys()


@pytest.mark.parametrize("name", USED)
def test_a_recorded_answer_is_understood(name: str) -> None:
    exchange = USED[name]

    result, said = outcome(exchange)

    expected = expected_failure(exchange)
    if expected is not None:
        assert isinstance(result, expected)
        if expected is PermanentError:
            assert "the token has expired or is wrong" in said
        elif isinstance(exchange.answer, dict) and isinstance(exchange.answer.get("message"), str):
            decoded = exchange.answer["message"] if exchange.status != 412 else "changed by somebody else"
            assert decoded in said or decoded.startswith("[{") or "errors" in exchange.answer
    elif exchange.path == "auth/login":
        assert result == "ingestor" or result is None
    elif exchange.path == "auth/whoami":
        assert result == (exchange.answer or {}).get("username")
    elif exchange.status == 404:
        assert result is None
    elif exchange.path.partition("/")[0] in PLURALS:
        assert result == exchange.answer
    elif isinstance(exchange.answer, list):
        listed = cast("list[Any]", result)
        assert [as_answered(item) for item in listed] == [identity(item) for item in exchange.answer]
    else:
        assert as_answered(result) == identity(exchange.answer)


def test_a_change_is_conditional_on_the_version_that_was_read(catalogue: Catalogue) -> None:
    """In milliseconds and one later, because a tie counts as a change by somebody else."""
    client = catalogue.client()
    client.create_dataset(dataset())

    with pytest.raises(ModifiedMeanwhileError):
        client.update_dataset(
            DatasetRecord(pid=PID), {"comment": "new"}, unmodified_since=NOW - timedelta(days=9999)
        )

    assert catalogue.recorder.requests[-1].headers["if-unmodified-since"] == "1999-07-08T05:46:58.992Z"
    changed = client.update_dataset(DatasetRecord(pid=PID), {"comment": "new"}, unmodified_since=None)
    assert (changed.model_extra or {})["comment"] == "new"
    assert "if-unmodified-since" not in catalogue.recorder.requests[-1].headers


def identity(answer: dict[str, Any]) -> tuple[Any, Any]:
    return answer.get("pid"), [file["path"] for file in answer.get("dataFileList", ())]


def as_answered(record: Any) -> tuple[Any, Any]:
    return getattr(record, "pid", None), [file.path for file in getattr(record, "dataFileList", ())]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("02_dataset_post_owner_group_not_mine", "Unauthorized to create this dataset"),
        ("01_auth_login_wrong_password", "Unauthorized"),
        ("06_odb_two_errors", "property foo should not exist; size must be an integer number"),
        ("04_two_errors", "foo: property foo should not exist; ownerEmail: ownerEmail must be an email"),
        ("04_bad_techniques_missing_name", "techniques.0.name: "),
        ("04_wrong_content_type_text", "500 when creating the dataset: Internal server error"),
        ("04_empty_owner", "owner: Path `owner` is required."),
        ("04_invalid_json", "Unexpected end of JSON input"),
    ],
)
def test_each_shape_of_error_yields_the_servers_words(name: str, words: str) -> None:
    failure, said = outcome(USED[name])

    assert words in said
    assert isinstance(failure, IngestionError)
    assert words.rpartition("dataset: ")[2] in failure.details["answer"]


# What an answer may be


class Dripping:
    """A server whose answers never end."""

    def __init__(
        self, part: bytes, seconds_between: float, headers: dict[str, str], *, ends_headers: bool = True
    ) -> None:
        ended = self._ended = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # The library's name.
                self.send_response(200)
                for name, value in headers.items():
                    self.send_header(name, value)
                if ends_headers:
                    self.end_headers()
                else:
                    self.flush_headers()
                with suppress(OSError):
                    while not ended.wait(seconds_between):
                        self.wfile.write(part)
                        self.wfile.flush()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_address[1]}/api/v3"

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def packed_zeros() -> bytes:
    """What unpacks to a thousand times as much, again and again."""
    packer = zlib.compressobj(wbits=31)
    return packer.compress(bytes(10_000_000)) + packer.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize(
    ("part", "seconds_between", "headers"),
    [
        (b" ", 0.05, {}),
        (b"x" * 1_000_000, 0.0, {}),
        (packed_zeros(), 0.0, {"Content-Encoding": "gzip"}),
    ],
    ids=["dripping", "endless", "packed"],
)
def test_an_answer_is_bounded_in_time_and_size(
    part: bytes, seconds_between: float, headers: dict[str, str]
) -> None:
    with Dripping(part, seconds_between, headers) as host:
        settings = ScicatSettings.model_validate({"host": host, "token": WRONG_TOKEN, "timeout": 1})
        client = ScicatClient(settings)
        try:
            raised(TransientError, lambda: client.dataset(PID))
        finally:
            client.close()


def test_headers_that_do_not_end_are_bounded_in_time() -> None:
    with Dripping(b"X", 0.05, {}, ends_headers=False) as host:
        settings = ScicatSettings.model_validate({"host": host, "token": WRONG_TOKEN, "timeout": 0.3})
        client = ScicatClient(settings)
        try:
            failure = raised(TransientError, lambda: client.dataset(PID))
        finally:
            client.close()

    assert "in time" in failure.what


def test_a_write_that_was_not_answered_says_how_long_it_may_be_under_way(catalogue: Catalogue) -> None:
    catalogue.script.add((FaultKind.CARRIED_OUT_LATER, "POST", "datasets"))
    client = catalogue.client(timeout=SHORT)

    failure = catalogue.raised(TransientError, lambda: client.create_dataset(dataset()))

    assert failure.retry_after_seconds == pytest.approx(1.5 * SHORT)
    catalogue.faults.wait_until_all_are_carried_out()
    assert catalogue.store.count_datasets() == 1


def test_a_write_that_was_never_sent_can_be_repeated_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{unused.getsockname()[1]}/api/v3"
    client = ScicatClient(ScicatSettings.model_validate({"host": host, "token": WRONG_TOKEN, "timeout": 1}))

    failure = raised(TransientError, lambda: client.create_dataset(dataset()))

    assert failure.retry_after_seconds is None
    client.close()
