"""``deploy/prepare --worker``: what a machine gets that only executes runs."""

from __future__ import annotations

import configparser
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[1] / "deploy"
FIRST = {
    "SCICAT_DAGSTER_STATE": "/var/lib/scicat-dagster",
    "SCICAT_DAGSTER_BIN": "/opt/scicat_dagster/.venv/bin",
    "SCICAT_DAGSTER_WORKER_GROUPS": "1",
    "SCICAT_DAGSTER_WORKERS": "10",
    "SCICAT_INGESTOR_CONFIG": "'/etc/sci cat/config.yml'",
    "DATABASE_BIN": "/usr/lib/postgresql/15/bin",
    "DAGSTER_HOME": "/var/lib/scicat-dagster/home",
    "DAGSTER_EVENT_BATCH_SIZE": "100",
    "DAGSTER_POSTGRES_HOST": "/var/lib/scicat-dagster/database",
    "DAGSTER_POSTGRES_PORT": "15432",
    "DAGSTER_POSTGRES_USER": "dagster",
    "DAGSTER_POSTGRES_PASSWORD": "s3cret",
    "DAGSTER_POSTGRES_DB": "dagster",
    "DAGSTER_CELERY_BROKER": "redis://:s3cret@127.0.0.1:15433/0",
    "DAGSTER_CELERY_BACKEND": "redis://:s3cret@127.0.0.1:15433/1",
}

WITHOUT_FILE = {"SCICAT_INGESTOR_CONFIG": ""}


@pytest.fixture
def folder() -> Iterator[Path]:
    # Unix sockets have short names only.
    with tempfile.TemporaryDirectory(prefix="worker-", dir="/tmp") as made:
        yield Path(made)


def prepare(
    folder: Path, address: str, first: Mapping[str, str] = FIRST, **environment: str
) -> subprocess.CompletedProcess[str]:
    copied = folder / "first"
    copied.write_text("".join(f"{name}={value}\n" for name, value in first.items()))
    command = [str(DEPLOY / "prepare"), "--worker", str(folder / "state"), str(copied), address]
    path = {"PATH": os.environ["PATH"]}
    return subprocess.run(command, env={**path, **environment}, capture_output=True, text=True)


def settings(folder: Path) -> dict[str, str]:
    """As deploy/start reads them."""
    script = 'set -a; . "$1"; env -0'
    command = ["env", "-i", "bash", "-c", script, "bash", str(folder / "state" / "environment")]
    read = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(line.split("=", 1) for line in read.stdout.split("\0") if line)


@pytest.mark.parametrize(
    ("address", "in_url"), [("192.0.2.10", "192.0.2.10"), ("2001:db8::10", "[2001:db8::10]")]
)
def test_what_is_on_the_first_machine_is_reached_at_its_address(
    folder: Path, address: str, in_url: str
) -> None:
    done = prepare(folder, address)

    assert done.returncode == 0, done.stderr
    found = settings(folder)
    assert found["DAGSTER_POSTGRES_HOST"] == address
    assert found["DAGSTER_POSTGRES_PASSWORD"] == "s3cret"
    assert found["DAGSTER_CELERY_BROKER"] == f"redis://:s3cret@{in_url}:15433/0"
    assert found["SCICAT_INGESTOR_CONFIG"] == "/etc/sci cat/config.yml"
    assert found["DAGSTER_HOME"] == str(folder / "state" / "home")
    assert "DATABASE_BIN" not in found
    assert f"listen_addr = {address}" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


def test_what_is_at_another_machine_already_stays_there(folder: Path) -> None:
    elsewhere = {
        "DAGSTER_POSTGRES_HOST": "database.example.org",
        "DAGSTER_CELERY_BROKER": "redis://:s3cret@queue.example.org:6379/0",
    }

    assert prepare(folder, "192.0.2.10", {**FIRST, **elsewhere}).returncode == 0

    assert settings(folder).items() >= elsewhere.items()


def test_nobody_else_can_read_it(folder: Path) -> None:
    prepare(folder, "192.0.2.10")

    found = [folder / "state", *(folder / "state").rglob("*")]
    assert len(found) == 6
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in found)
    assert (folder / "state" / "home" / "dagster.yaml").read_text() == (DEPLOY / "dagster.yaml").read_text()


def test_a_configuration_at_another_place_is_kept(folder: Path) -> None:
    prepare(folder, "192.0.2.10", SCICAT_INGESTOR_CONFIG="/here/config.yml", SCICAT_DAGSTER_BIN="/here/bin")

    found = settings(folder)
    assert (found["SCICAT_INGESTOR_CONFIG"], found["SCICAT_DAGSTER_BIN"]) == ("/here/config.yml", "/here/bin")


def test_a_folder_is_prepared_once(folder: Path) -> None:
    prepare(folder, "192.0.2.10")
    before = settings(folder)

    again = prepare(folder, "192.0.2.11")

    assert again.returncode == 1
    assert "is prepared already" in again.stderr
    assert settings(folder) == before


def test_it_executes_the_runs_of_the_first_machines_project(folder: Path) -> None:
    prepare(folder, "192.0.2.10", {**FIRST, "SCICAT_DAGSTER_MODULE": "two.definitions", **WITHOUT_FILE})

    found = settings(folder)
    assert (found["SCICAT_DAGSTER_MODULE"], found["SCICAT_INGESTOR_CONFIG"]) == ("two.definitions", "")


def test_a_first_machine_of_an_earlier_version_has_no_project(folder: Path) -> None:
    prepare(folder, "192.0.2.10", SCICAT_DAGSTER_MODULE="of.this.shell")

    assert settings(folder)["SCICAT_DAGSTER_MODULE"] == "scicat_dagster.definitions"


@pytest.mark.parametrize("missing", ["DAGSTER_POSTGRES_HOST", "DAGSTER_CELERY_BROKER"])
def test_a_file_that_is_not_the_first_machines_is_refused(folder: Path, missing: str) -> None:
    first = {name: value for name, value in FIRST.items() if name != missing}

    done = prepare(folder, "192.0.2.10", first)

    assert done.returncode == 1
    assert f"has no {missing}" in done.stderr
    assert not (folder / "state").exists()


def test_its_program_is_that_of_the_first_machine() -> None:
    def worker(name: str) -> dict[str, str]:
        found = configparser.RawConfigParser(inline_comment_prefixes=None)
        found.read(DEPLOY / name)
        return dict(found["program:worker"])

    first, other = worker("supervisord.conf"), worker("worker.conf")
    # It waits for no code server, has a name of its own, and nothing is to be started before it.
    first["command"] = first["command"].replace("%(ENV_CODE_SERVER_SOCKET)s ", "")
    assert other["command"] == first["command"].replace("--hostname group", "--hostname worker")
    different = {name for name in first.keys() | other.keys() if first.get(name) != other.get(name)}
    assert different == {"command", "priority"}
