"""The web server that stands before Dagster's, as ``deploy/nginx.conf`` has it: who and what gets through."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.brokers import free_ports
from tests.endtoend.browsing import chromium
from tests.endtoend.test_production_layout import DEPLOY, SBIN, wait_for

NGINX = shutil.which("nginx", path=SBIN)

pytestmark = [
    pytest.mark.endtoend,
    pytest.mark.skipif(NGINX is None, reason="No nginx here."),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="No openssl to make a certificate with."),
]

USER = ("ada", "correct horse")
SENSOR = "watched_by_the_test"
START_SECONDS = 90
QUERY = "{ instance { id } }"
# It changes something that everybody who is logged in can see.
MUTATION = "mutation { setNuxSeen }"
DEFINITIONS = """
import dagster as dg

@dg.asset
def shown_by_the_test() -> None: ...

defs = dg.Definitions(assets=[shown_by_the_test])
"""


@dataclass(frozen=True)
class Site:
    """A Dagster webserver behind nginx."""

    port: int
    dagster_port: int
    certificate: Path
    access_log: Path

    @property
    def origin(self) -> str:
        return f"https://localhost:{self.port}"

    def get(self, path: str, headers: Mapping[str, str] | None = None, **params: str) -> requests.Response:
        return self._ask("GET", path, headers, params=params)

    def post(
        self, path: str, headers: Mapping[str, str] | None = None, *, query: str = QUERY
    ) -> requests.Response:
        return self._ask("POST", path, headers, json={"query": query})

    def _ask(
        self, method: str, path: str, headers: Mapping[str, str] | None, **rest: Any
    ) -> requests.Response:
        return requests.request(
            method,
            self.origin + path,
            headers=headers,
            auth=USER,
            verify=str(self.certificate),
            timeout=60,
            allow_redirects=False,
            **rest,
        )

    def raw(self, head: str) -> bytes:
        """The answer to a request as it stands here, with the login."""
        login = base64.b64encode(":".join(USER).encode()).decode()
        context = ssl.create_default_context(cafile=str(self.certificate))
        with (
            socket.create_connection(("localhost", self.port), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            lines = [*head.splitlines(), f"Host: localhost:{self.port}", f"Authorization: Basic {login}"]
            connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            return connection.recv(200)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="proxy-", dir="/tmp"))
    port, dagster_port = free_ports(2)
    try:
        configuration = configured(folder, port, dagster_port)
        found = Site(port, dagster_port, folder / "server.crt", folder / "access.log")
        command = [
            str(Path(sys.executable).with_name("dagster-webserver")),
            *("-f", "definitions.py", "-h", "127.0.0.1", "-p", str(dagster_port)),
        ]
        environment = {**os.environ, "DAGSTER_HOME": str(folder)}
        with (folder / "webserver.log").open("wb") as log:
            webserver = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        proxy = subprocess.Popen([str(NGINX), "-c", str(configuration), "-p", str(folder)])
        try:
            wait_for(lambda: answers(found), "the webserver behind nginx", seconds=START_SECONDS)
            yield found
        finally:
            for process in (proxy, webserver):
                process.terminate()
                process.wait(30)
    finally:
        shutil.rmtree(folder)


def configured(folder: Path, port: int, dagster_port: int) -> Path:
    """Our example with a certificate, a user and ports of this test."""
    (folder / "definitions.py").write_text(DEFINITIONS)
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-addext",
            "subjectAltName=DNS:localhost", "-keyout", "server.key", "-out", "server.crt",
        ],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    hashed = subprocess.check_output(["openssl", "passwd", "-apr1", USER[1]], text=True).strip()
    (folder / "users").write_text(f"{USER[0]}:{hashed}\n")
    # Its workers are another account.
    folder.chmod(0o711)
    (folder / "users").chmod(0o644)
    example = (DEPLOY / "nginx.conf").read_text()
    for ours, theirs in {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "dagster.example.org": "localhost",
        "/etc/nginx/scicat-dagster.crt": str(folder / "server.crt"),
        "/etc/nginx/scicat-dagster.key": str(folder / "server.key"),
        "/etc/nginx/scicat-dagster.users": str(folder / "users"),
        "http://127.0.0.1:3000": f"http://127.0.0.1:{dagster_port}",
    }.items():
        assert ours in example
        example = example.replace(ours, theirs)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log {folder}/access.log;\n{temporary}{example}}}\n"
    )
    return folder / "nginx.conf"


def answers(site: Site) -> bool:
    try:
        return site.get("/server_info").status_code == 200
    except requests.ConnectionError:
        return False


def test_nobody_gets_anything_without_a_login(site: Site) -> None:
    for path in ("/", "/graphql", "/server_info", "/logs/x"):
        for method in ("GET", "POST"):
            answer = requests.request(method, site.origin + path, verify=str(site.certificate), timeout=60)
            assert answer.status_code in (401, 403, 405)
            assert "dagster" not in answer.text.lower().replace('realm="dagster"', "")
    wrong = requests.get(site.origin, auth=("ada", "guess"), verify=str(site.certificate), timeout=60)
    assert wrong.status_code == 401


def test_who_is_logged_in_gets_pages_and_answers(site: Site) -> None:
    assert "<!DOCTYPE html>" in site.get("/").text
    assert site.post("/graphql").json()["data"]["instance"]["id"]
    own = {"Origin": site.origin, "Sec-Fetch-Site": "same-origin"}
    assert site.post("/graphql", own, query=MUTATION).json()["data"] == {"setNuxSeen": True}


def test_dagster_itself_executes_a_mutation_by_get(site: Site) -> None:
    """Why the proxy refuses it. Should this fail one day, Dagster has mended it."""
    answer = requests.get(
        f"http://127.0.0.1:{site.dagster_port}/graphql", params={"query": MUTATION}, timeout=60
    )
    assert answer.json()["data"] == {"setNuxSeen": True}


@pytest.mark.parametrize("path", ["/graphql", "/graphql/", "//graphql", "/%67raphql", "/x/../graphql"])
def test_graphql_is_not_answered_by_get(site: Site, path: str) -> None:
    answer = site.raw(f"GET {path}?query=mutation%7BsetNuxSeen%7D HTTP/1.1\nConnection: close")

    assert b" 405 " in answer.splitlines()[0]


def test_a_get_that_only_looks_like_a_websocket_is_not_executed(site: Site) -> None:
    answer = site.raw(
        "GET /graphql?query=mutation%7BsetNuxSeen%7D HTTP/1.1\nUpgrade: websocket\nConnection: upgrade"
    )

    assert b" 400 " in answer.splitlines()[0]


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_no_other_method_reaches_graphql(site: Site, method: str) -> None:
    assert b" 405 " in site.raw(f"{method} /graphql HTTP/1.1\nConnection: close").splitlines()[0]


@pytest.mark.parametrize(
    "foreign",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://localhost"},
        {"Origin": "https://localhost.evil.example"},
        {"Origin": "http://localhost"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_another_web_page_cannot_send_anything_in_a_persons_name(
    site: Site, foreign: Mapping[str, str]
) -> None:
    assert site.post("/graphql", foreign, query=MUTATION).status_code == 403


def test_another_web_page_cannot_open_the_websocket(site: Site) -> None:
    head = (
        "GET /graphql HTTP/1.1\nUpgrade: websocket\nConnection: upgrade\nSec-WebSocket-Version: 13\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Protocol: graphql-ws\n"
    )

    assert b" 101 " in site.raw(f"{head}Origin: {site.origin}").splitlines()[0]
    assert b" 403 " in site.raw(f"{head}Origin: https://evil.example").splitlines()[0]


def test_nothing_can_be_reported_from_outside(site: Site) -> None:
    assert site.post("/report_asset_materialization/shown_by_the_test").status_code == 403


def test_a_link_in_another_page_leads_to_the_ui(site: Site) -> None:
    assert site.get("/runs", {"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_the_ui_works_in_a_browser(site: Site) -> None:
    with chromium("--ignore-certificate-errors") as seen:
        seen.get(f"https://{USER[0]}:{USER[1].replace(' ', '%20')}@localhost:{site.port}/server_info")
        # The browser remembers the login. A page with one in its address could not ask for anything.
        seen.get(f"{site.origin}/assets/shown_by_the_test")
        WebDriverWait(seen, 60).until(
            lambda page: "shown_by_the_test" in page.find_element(By.TAG_NAME, "body").text
        )

    # Its subscriptions came through, and nothing that it wanted was refused.
    log = [line for line in site.access_log.read_text().splitlines() if "HeadlessChrome" in line]
    assert any('"GET /graphql HTTP/1.1" 101 ' in line for line in log)
    assert any('"POST /graphql' in line and '" 200 ' in line for line in log)
    assert not any('" 403 ' in line or '" 405 ' in line for line in log)
