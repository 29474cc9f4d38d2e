"""Through which connections requests go."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from scicat_dagster.scicat.transport import new_session


@contextmanager
def a_server() -> Iterator[tuple[str, list[str]]]:
    """Its address, and what it was asked for as it stood in the requests."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()


def test_each_server_is_asked_through_the_proxy_that_the_environment_names_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with a_server() as (proxy, of_proxy), a_server() as (catalogue, of_catalogue):
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with new_session() as session:
            for number in range(2):
                assert session.get(f"http://elsewhere.example/{number}", timeout=10).ok
                assert session.get(f"{catalogue}/{number}", timeout=10).ok

    assert of_proxy == ["http://elsewhere.example/0", "http://elsewhere.example/1"]
    assert of_catalogue == ["/0", "/1"]
