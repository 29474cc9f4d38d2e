"""A project with two facilities in what ``deploy/`` lays out: warm workers register the files of each."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import dagster as dg
import pytest
import yaml

from scicat_dagster.demo.file_writer import Announcer, write_and_announce
from scicat_dagster.demo.laptop import Services, running_services
from scicat_dagster.demo.measurement import PlannedFile, plan_file
from scicat_dagster.demo.people import LOKI, ODIN, Instrument
from scicat_dagster.orchestration.tags import GROUP_TAG
from tests.brokers import free_ports

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin"
REGISTERED_SECONDS = 120
END_SECONDS = 60
PREFIXES = {"odin": ODIN, "loki": LOKI}

pytestmark = [
    pytest.mark.endtoend,
    pytest.mark.skipif(
        not all(shutil.which(name, path=SBIN) for name in ("redis-server", "pgbouncer")),
        reason="No Redis or pgbouncer here.",
    ),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    # Unix sockets have short names only.
    made = Path(tempfile.mkdtemp(prefix="two-", dir="/tmp"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def services(folder: Path) -> Iterator[Services]:
    with running_services(folder / "demo", "http://127.0.0.1:3000") as running:
        yield running


def project(folder: Path, services: Services) -> Path:
    """The documentation's example, with the demo's servers and schemas."""
    copied = shutil.copytree(ROOT / "docs" / "examples" / "two-facilities", folder / "project")
    for port, (prefix, instrument) in zip(free_ports(2), PREFIXES.items(), strict=True):
        place = copied / "src" / "two_facilities" / "defs" / prefix
        (place / "schemas").mkdir()
        shutil.copy(services.directory / "schemas" / f"{prefix}.imsc.yml", place / "schemas")
        data = folder / "data" / prefix
        data.mkdir(parents=True)
        settings = {
            "scicat": {
                "host": services.catalogue.api_root,
                "username": "ingestor",
                "password": "${SCICAT_PASSWORD}",
            },
            "dataset": {"allow_dataset_pid": True, "dataset_pid_prefix": "20.500.12269"},
            "kafka": {
                "topics": [instrument.topic],
                "group_id": f"of-{prefix}",
                "bootstrap_servers": [services.broker.bootstrap_servers],
            },
            "ingestion": {"schemas_directory": "schemas", "file_handling": {"data_directory": str(data)}},
            "health_check": {"port": port},
        }
        (place / "facility.yml").write_text(yaml.safe_dump(settings))
    return copied


def prepare(folder: Path, services: Services) -> dict[str, str]:
    """What ``deploy/prepare`` writes down, and what the project takes from the environment."""
    given = {
        "SCICAT_DAGSTER_MODULE": "two_facilities.definitions",
        "SCICAT_DAGSTER_BIN": str(Path(sys.executable).parent),
        "WEBSERVER_PORT": str(free_ports(1)[0]),
    }
    # Three ports in a row.
    port = next(port for port in free_ports(40) if port % 10 == 0 or port % 10 == 5)
    environment = {name: value for name, value in os.environ.items() if name != "SCICAT_INGESTOR_CONFIG"}
    command = [str(DEPLOY / "prepare"), str(folder / "state"), str(port)]
    done = subprocess.run(command, env=environment | given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with (folder / "state" / "environment").open("a") as file:
        # Where a facility installs the project.
        file.write(f"PYTHONPATH={project(folder, services) / 'src'}\n")
        file.write(f"SCICAT_PASSWORD={services.password}\nSCICAT_DAGSTER_WORKERS=2\n")
    lines = (folder / "state" / "environment").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def ctl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(DEPLOY / "ctl"), str(folder / "state"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def started(folder: Path, stack: ExitStack) -> None:
    """``deploy/start``, until the test ends."""
    log = stack.enter_context((folder / "start.log").open("w"))
    process = subprocess.Popen([str(DEPLOY / "start"), str(folder / "state")], stdout=log, stderr=log)

    # Its database dies with it: to stop all in order takes as long as the rest.
    stack.callback(lambda: kill_every_process_of(folder / "state", process))


def kill_every_process_of(state: Path, supervisor: subprocess.Popen[bytes]) -> None:
    supervisor.kill()
    supervisor.wait(END_SECONDS)
    mark = f"SCICAT_DAGSTER_STATE={state}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0") and int(process.name) != os.getpid():
                os.kill(int(process.name), signal.SIGKILL)


def plan_of(instrument: Instrument) -> PlannedFile:
    return next(
        plan for number in range(9) if (plan := plan_file(31, number)).proposal.instrument == instrument
    )


def test_each_facility_registers_its_own_files(
    folder: Path, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        for name, value in prepare(folder, services).items():
            monkeypatch.setenv(name, value)
        started(folder, stack)
        announcer = Announcer(services.broker.bootstrap_servers)
        files = {
            prefix: write_and_announce(plan_of(instrument), folder / "data" / prefix, announcer)
            for prefix, instrument in PREFIXES.items()
        }

        deadline = time.monotonic() + REGISTERED_SECONDS
        while services.store.count_datasets() < len(files):
            assert time.monotonic() < deadline, (folder / "start.log").read_text()
            time.sleep(0.2)

        status = ctl(folder, "status")
        assert status.returncode == 0, status.stdout + status.stderr
        with dg.DagsterInstance.from_config(str(folder / "state" / "home")) as instance:
            runs = {run.job_name: run for run in instance.get_runs()}
            assert runs.keys() == {"odin__ingest_file", "loki__ingest_file"}
            assert all(GROUP_TAG in run.tags for run in runs.values())
            for prefix, file in files.items():
                (key,) = instance.get_dynamic_partitions(f"{prefix}__nexus_files")
                assert file == folder / "data" / prefix / key
