"""A whole facility as real processes: SciCat stand-in, Kafka, code server, daemon and webserver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import dagster as dg
import pytest
import requests
from dagster._core.scheduler.instigation import InstigatorTick

from scicat_dagster.config.loading import CONFIGURATION_VARIABLE
from scicat_dagster.demo.broker import LoopbackBroker
from scicat_dagster.demo.catalogue import CatalogueServer, Store, create_app
from scicat_dagster.demo.catalogue.accounts import Account, Accounts, TokenStore, demo_accounts
from scicat_dagster.demo.catalogue.faults import Faults, Scripted
from scicat_dagster.demo.laptop import UNFINISHED, lay_out, seed
from scicat_dagster.orchestration.partitions import paths_of
from scicat_dagster.orchestration.tags import PROCESS_TAG
from tests.brokers import Broker, KafkaCluster, free_ports

RAW_DATASET = dg.AssetKey("raw_dataset")
REJECTED = dg.AssetKey("rejected_messages")


class WatchedAccounts(Accounts):
    """The demo's accounts with a password that is easy to find, and every token that was given out."""

    password = "Pa55word-that-nobody-may-see"

    def __init__(self) -> None:
        super().__init__(replace(account, password=self.password) for account in demo_accounts())
        self.tokens: list[str] = []

    def log_in(self, tokens: TokenStore, username: object, password: object) -> tuple[Account, str] | None:
        found = super().log_in(tokens, username, password)
        if found is not None:
            self.tokens.append(found[1])
        return found


@dataclass
class Processes:
    """A facility's folder and the processes that work on it."""

    directory: Path
    server: CatalogueServer
    accounts: WatchedAccounts
    faults: Scripted
    broker: Broker
    instance: dg.DagsterInstance
    environment: Mapping[str, str]
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    killed: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def data_directory(self) -> Path:
        return self.directory / "data"

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one of Dagster's processes; all are stopped in the end."""
        log = (self.directory / f"{len(self.running)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=self.directory,
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """SIGKILL, with everything that the process has started."""
        self.killed.append(process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def run_workers(self) -> list[int]:
        """The ids of the processes that execute a run now."""
        started = self.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        return [int(run.tags[PROCESS_TAG].split()[1]) for run in started]

    def start_daemon(self) -> subprocess.Popen[bytes]:
        return self.start("dagster._daemon", "run", "-w", str(self.directory / "workspace.yaml"))

    def start_code_server(self, port: int) -> subprocess.Popen[bytes]:
        return self.start("dagster", "api", "grpc", "-m", "scicat_dagster.definitions", "-p", str(port))

    def start_dagster(self) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes], int]:
        """A code server and the daemon, as in production; and the code server's port."""
        (port,) = free_ports(1)
        code_server = self.start_code_server(port)
        workspace = self.directory / "workspace.yaml"
        workspace.write_text(
            f"load_from: [{{grpc_server: {{host: 127.0.0.1, port: {port}, location_name: scicat}}}}]\n"
        )
        return code_server, self.start_daemon(), port

    def start_webserver(self) -> str:
        """The UI's address, once it answers."""
        (port,) = free_ports(1)
        self.start(
            "dagster_webserver",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-w",
            str(self.directory / "workspace.yaml"),
        )
        url = f"http://127.0.0.1:{port}"

        def up() -> bool:
            try:
                return requests.get(f"{url}/server_info", timeout=2).ok
            except requests.ConnectionError:
                return False

        self.wait_for(up, "the webserver", seconds=60)
        return url

    def wait_for(self, condition: Callable[[], bool], what: str, *, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"Not within {seconds:.0f} s: {what}\n{self.logs()[-6000:]}")
            for process in self.running:
                if process in self.killed:
                    continue
                assert process.poll() is None, f"{process.args!r} ended\n{self.logs()[-6000:]}"
            time.sleep(0.2)

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.directory.glob("*.log")))

    def registered(self) -> set[str]:
        keys = self.instance.get_materialized_partitions(RAW_DATASET)
        # A second copy of the facility has the data of the first one.
        return paths_of(keys, self.environment["SCICAT_DEMO_DATA_DIRECTORY"])

    def ticks(self, sensor: str = "wrdn_sensor") -> list[InstigatorTick]:
        """The latest evaluations of a sensor, newest first."""
        for state in self.instance.all_instigator_state():
            if state.instigator_name == sensor:
                return list(self.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=20))
        return []

    def failed_runs(self) -> list[dg.DagsterRun]:
        return list(self.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])))

    def unfinished_runs(self) -> int:
        return len(self.instance.get_run_ids(dg.RunsFilter(statuses=UNFINISHED)))

    def stop(self) -> None:
        for process in reversed(self.running):
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)
                    process.wait(timeout=15)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    continue
        self.running.clear()


@contextmanager
def facility_processes(
    directory: Path, broker: Broker, prepare: Callable[[Path], None] | None = None
) -> Iterator[Processes]:
    """A facility without any of Dagster's processes yet; ``prepare`` may change the new DAGSTER_HOME."""
    lay_out(directory)
    if prepare is not None:
        prepare(directory / "dagster")
    accounts = WatchedAccounts()
    script = Scripted()
    with Store(directory / "catalogue.sqlite") as store, ExitStack() as stack:
        faults = Faults(create_app(store, accounts), script, store, slow_seconds=5.0)
        server = stack.enter_context(CatalogueServer(store, accounts, app=faults))
        stack.enter_context(faults)
        seed(store)
        environment = {
            "DAGSTER_HOME": str(directory / "dagster"),
            CONFIGURATION_VARIABLE: str(directory / "config.yml"),
            "SCICAT_DEMO_PASSWORD": accounts.password,
            "SCICAT_DEMO_DATA_DIRECTORY": str(directory / "data"),
            "SCICAT_DEMO_SCICAT_PORT": str(server.port),
            "SCICAT_DEMO_KAFKA_PORT": broker.bootstrap_servers.rpartition(":")[2],
        }
        with dg.DagsterInstance.from_config(str(directory / "dagster")) as instance:
            processes = Processes(directory, server, accounts, script, broker, instance, environment)
            try:
                yield processes
            finally:
                processes.stop()


@contextmanager
def second_copy(facility: Processes, directory: Path) -> Iterator[Processes]:
    """The same facility once more: a Dagster of its own, with the same files, topics and catalogue."""
    lay_out(directory)
    environment = {
        **facility.environment,
        "DAGSTER_HOME": str(directory / "dagster"),
        CONFIGURATION_VARIABLE: str(directory / "config.yml"),
    }
    with dg.DagsterInstance.from_config(str(directory / "dagster")) as instance:
        processes = replace(
            facility,
            directory=directory,
            instance=instance,
            environment=environment,
            running=[],
            killed=[],
        )
        try:
            yield processes
        finally:
            processes.stop()


@pytest.fixture
def on_loopback(tmp_path: Path, loopback_broker: LoopbackBroker) -> Iterator[Processes]:
    with facility_processes(tmp_path, loopback_broker) as processes:
        yield processes


@pytest.fixture
def on_apache_kafka(tmp_path: Path, apache_kafka: KafkaCluster) -> Iterator[Processes]:
    with facility_processes(tmp_path, apache_kafka) as processes:
        yield processes
