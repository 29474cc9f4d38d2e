"""A real PostgreSQL for tests, Dagster instances on it, and what is sent to any database."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import sqlalchemy

from tests.brokers import free_ports

_START_SECONDS = 30.0


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    """An empty database of a PostgreSQL of these tests' own."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not installed:
        pytest.skip("PostgreSQL is not installed.")
    # Not pytest's own folder, which only its owner may enter: PostgreSQL refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    user = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--"]
    (port,) = free_ports(1)
    data = str(folder / "data")
    subprocess.run(
        [*user, installed[-1] / "initdb", "-D", data, "-U", "dagster", "--auth=trust", "--locale=C.UTF-8"],
        check=True, capture_output=True, cwd=folder,
    )  # fmt: skip
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*user, installed[-1] / "postgres", "-D", data, "-p", str(port),
             "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="],
            stdout=log, stderr=log, cwd=folder,
        )  # fmt: skip
    url = f"postgresql://dagster@127.0.0.1:{port}/postgres"
    try:
        _wait_for(url, server)
        yield url.replace("postgresql:", "postgresql+psycopg2:")
    finally:
        # Immediate shutdown: nobody needs the data any more.
        server.send_signal(3)
        server.wait(_START_SECONDS)
        shutil.rmtree(folder)


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            psycopg2.connect(url).close()
        except psycopg2.OperationalError:
            assert server.poll() is None
            assert time.monotonic() < deadline
        else:
            return


def kept_connections(postgres_url: str) -> dict[str, object]:
    """The ``storage`` section of a ``dagster.yaml`` as production has it."""
    return {
        "custom": {
            "module": "scicat_dagster.instance.storage",
            "class": "KeptConnections",
            "config": {"postgres_url": postgres_url},
        }
    }


@contextmanager
def statements() -> Iterator[list[str]]:
    """What any engine of the process sends."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", note)
