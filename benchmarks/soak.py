"""The soak: a whole facility whose parts fail and are killed all the time, and an account of every file.

``python -m benchmarks.soak --files 200 --seed 7`` starts the catalogue's stand-in, a broker, a code server
and a daemon, announces files, lets requests fail and the broker go away, and kills processes. Then it lets
everything settle, compares what was announced with what is in the catalogue, and prints one JSON object.
Here belong the plan of a soak, its execution and its judgement; the parts themselves are the demo's. Linux
only: processes are found by their environment in /proc.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any

import click
import dagster as dg
import h5py
import yaml
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from dagster._cli.job import execute_launch_command
from dagster_shared.cli import WorkspaceOpts

from scicat_dagster.demo.broker import LOOPBACK, LoopbackBroker
from scicat_dagster.demo.catalogue import CatalogueServer, Store, create_app, demo_accounts
from scicat_dagster.demo.catalogue.accounts import Accounts
from scicat_dagster.demo.catalogue.faults import FaultKind, Faults, Random
from scicat_dagster.demo.facility import people
from scicat_dagster.demo.facility.measurement import PlannedFile, plan_file
from scicat_dagster.demo.facility.nexus import write_beginning, write_end
from scicat_dagster.demo.file_writer import (
    READ_ONLY,
    Announcer,
    Delivered,
    DeliveryError,
    Extras,
    MessageKind,
    write_files,
    written_message,
)
from scicat_dagster.demo.laptop import UNFINISHED, DemoError, lay_out, seed
from scicat_dagster.kafka import Cursor
from scicat_dagster.orchestration.inventory import FailedFile, failed_files, reason_of
from scicat_dagster.orchestration.rejections import rejections
from scicat_dagster.preview import preview_file
from scicat_dagster.settings import CONFIGURATION_VARIABLE

FAULTS: Mapping[FaultKind, float] = {
    FaultKind.INTERNAL_ERROR: 0.01,
    FaultKind.BAD_GATEWAY: 0.01,
    FaultKind.UNAVAILABLE: 0.01,
    FaultKind.TOO_MANY: 0.01,
    FaultKind.HTML: 0.01,
    FaultKind.SLOW: 0.02,
    FaultKind.RESET: 0.02,
    FaultKind.STORED_THEN_TIMEOUT: 0.02,
    FaultKind.STORED_THEN_ERROR: 0.02,
    FaultKind.TOKEN_EXPIRED: 0.02,
    # These two happen to few requests only.
    FaultKind.LOGIN_DOWN: 0.06,
    FaultKind.DATABASE_DOWN: 0.04,
}
"""How likely each kind of fault is for a request."""

_MOST_FAULTS_IN_A_ROW = 3
_SLOW_SECONDS = 0.5
_SCICAT_TIMEOUT_SECONDS = 2
_PARTITIONS = 2
_MOST_FILES_IN_A_BURST = 8
_OUTAGE_SECONDS = 6.0
_LATEST_SECONDS_PER_FILE = 6.0
"""A kill that waits for files to be registered happens after so many seconds for each of them anyway."""
_LOOK_SECONDS = 1.0
_QUIET_SECONDS = 6.0
"""How long nothing may change when every file is accounted for: more than a sensor's interval."""
_PATIENCE_SECONDS = 90.0
"""How long nothing may change when a file is not: more than any pause of Dagster's, run monitoring's too."""
_MOST_REQUESTS_BY_HAND = 3
_SHORT: Mapping[tuple[str, ...], Mapping[str, int]] = {
    ("run_monitoring",): {
        "start_timeout_seconds": 25,
        "poll_interval_seconds": 2,
        "max_runtime_seconds": 60,
    },
    ("run_coordinator", "config"): {"user_code_failure_retry_delay": 3},
}
"""The times in ``dagster.yaml`` for which a soak would have to wait, and what they are here."""
_COMPARED = (
    "pid", "datasetName", "description", "sourceFolder", "proposalId", "instrumentId", "sampleId", "owner",
    "ownerEmail", "contactEmail", "ownerGroup", "accessGroups", "creationLocation", "principalInvestigator",
)  # fmt: skip
"""What a dataset's entry has to say as if nothing had failed."""
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0


class SoakError(Exception):
    """The soak itself cannot go on; this says nothing about the project."""


class FileFault(StrEnum):
    """What is wrong with a file."""

    NONE = "none"
    LATE = "announced before it exists"
    TRUNCATED = "cut off for good"
    NOT_HDF5 = "not HDF5"

    @property
    def permanent(self) -> bool:
        """Whether the file can never be registered."""
        return self in (FileFault.TRUNCATED, FileFault.NOT_HDF5)


class Victim(StrEnum):
    """Which process is killed."""

    RUN_WORKER = "run worker"
    CODE_SERVER = "code server"
    DAEMON = "daemon"
    EVERYTHING = "everything of Dagster at once"


# The plan: what happens to what, decided from the seed before anything starts.


@dataclass(frozen=True)
class SoakFile:
    """A file, what is wrong with it, and how long after its announcement it appears if it is late."""

    file: PlannedFile
    fault: FileFault = FileFault.NONE
    late_seconds: float = 0.0


@dataclass(frozen=True)
class Burst:
    """Files that are announced one right after the other, at ``at`` seconds, and the mishaps among them."""

    at: float
    files: tuple[SoakFile, ...]
    extras: Extras


@dataclass(frozen=True)
class Kill:
    """A kill, once so many files are in the catalogue and then so many seconds later."""

    victim: Victim
    after_files: int
    delay: float


@dataclass(frozen=True)
class Plan:
    """All that the soak does to the facility but for the faults of requests, which have the same seed."""

    bursts: tuple[Burst, ...]
    kills: tuple[Kill, ...]
    outage_at: float

    @property
    def files(self) -> list[SoakFile]:
        """All files in the order of their announcement."""
        return [file for burst in self.bursts for file in burst.files]


def make_plan(seed: int, files: int, kills: int) -> Plan:
    """The plan that a seed stands for."""
    chance = random.Random(f"soak/{seed}")  # noqa: S311 - no secret
    bursts = list(_bursts(_files(seed, files, chance), chance))
    # Before a burst, so that the daemon finds the broker down and then finds it full.
    middle = len(bursts) // 2
    outage_at = bursts[middle].at
    bursts[middle:] = [replace(burst, at=burst.at + _OUTAGE_SECONDS + 0.5) for burst in bursts[middle:]]
    return Plan(tuple(bursts), tuple(_kills(files, kills, chance)), outage_at)


def _files(seed: int, files: int, chance: random.Random) -> list[SoakFile]:
    planned = [SoakFile(plan_file(seed, index)) for index in range(files)]
    late = max(1, files // 15)
    special = [FileFault.TRUNCATED, FileFault.NOT_HDF5, *[FileFault.LATE] * late][:files]
    for index, fault in zip(chance.sample(range(files), len(special)), special, strict=True):
        planned[index] = SoakFile(planned[index].file, fault, chance.uniform(3, 30))
    return planned


def _bursts(files: list[SoakFile], chance: random.Random) -> Iterator[Burst]:
    at = 0.0
    while files:
        size = chance.randint(1, _MOST_FILES_IN_A_BURST)
        now, files = files[:size], files[size:]
        mishaps = [chance.random() < share for share in (0.5, 0.3, 0.3)]
        yield Burst(at, tuple(now), Extras(duplicate=mishaps[0], broken=mishaps[1], failed=mishaps[2]))
        # On average as fast as two cores are.
        at += chance.uniform(0.2, 2.5) * size


def _kills(files: int, kills: int, chance: random.Random) -> Iterator[Kill]:
    victims: list[Victim] = []
    while len(victims) < kills:
        victims += chance.sample(list(Victim), len(Victim))
    moments = sorted(chance.randint(0, int(files * 0.7)) for _ in range(kills))
    for victim, after_files in zip(victims[:kills], moments, strict=True):
        yield Kill(victim, after_files, chance.uniform(0, 3))


# The facility: the catalogue and the broker in this process, Dagster in processes of its own.


class Announcements(Announcer):
    """Remembers where each partition ends."""

    def __init__(self, bootstrap_servers: str) -> None:
        super().__init__(bootstrap_servers)
        self.ends: dict[tuple[str, int], int] = {}

    def send(self, topic: str, kind: MessageKind, value: bytes, *, key: str) -> Delivered:
        """Put one message on the topic, as :meth:`Announcer.send` does."""
        delivered = super().send(topic, kind, value, key=key)
        self.ends[delivered.topic, delivered.partition] = delivered.offset + 1
        return delivered


@dataclass
class DagsterProcesses:
    """The code server and the daemon, which are killed and started again, and the run workers."""

    directory: Path
    environment: Mapping[str, str]
    port: int
    _code_server: subprocess.Popen[bytes] | None = None
    _daemon: subprocess.Popen[bytes] | None = None

    @property
    def workspace(self) -> Path:
        """The file that says where the code server is."""
        return self.directory / "workspace.yaml"

    def start(self) -> None:
        """Start what does not run; a daemon that finds no code server would look again a minute later."""
        location = f"{{host: {LOOPBACK}, port: {self.port}, location_name: scicat}}"
        self.workspace.write_text(f"load_from: [{{grpc_server: {location}}}]\n")
        if self._code_server is None:
            arguments = ("api", "grpc", "-m", "scicat_dagster.definitions", "-p", str(self.port))
            self._code_server = self._started("code_server", "dagster", *arguments)
            self._wait_for_port()
        if self._daemon is None:
            self._daemon = self._started("daemon", "dagster._daemon", "run", "-w", str(self.workspace))

    def kill(self, victim: Victim, chance: random.Random) -> bool:
        """Kill it without warning and start it again; False where there is none at the moment."""
        match victim:
            case Victim.RUN_WORKER:
                return self._kill_worker(chance)
            case Victim.CODE_SERVER:
                _end(self._code_server)
                self._code_server = None
            case Victim.DAEMON:
                _end(self._daemon)
                self._daemon = None
            case Victim.EVERYTHING:
                self._kill_all()
        time.sleep(chance.uniform(0, 2))
        self.start()
        return True

    def check(self) -> None:
        """Make sure that nothing ended by itself.

        Raises
        ------
        SoakError
            The code server or the daemon did.
        """
        for name, process in (("code server", self._code_server), ("daemon", self._daemon)):
            if process is not None and process.poll() is not None:
                raise SoakError(f"The {name} ended by itself; see the logs in {self.directory}.")

    def stop(self) -> None:
        """End every process, first with a word and then without."""
        for process in (self._daemon, self._code_server):
            if process is not None:
                process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        while self._all() and time.monotonic() < deadline:
            for process in (self._daemon, self._code_server):
                if process is not None:
                    process.poll()
            time.sleep(0.1)
        self._kill_all()

    def _started(self, log_name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{log_name}.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own arguments
                [sys.executable, "-m", *arguments],
                cwd=self.directory,
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_for_port(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            self.check()
            with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, self.port), timeout=1):
                return
            if time.monotonic() > deadline:
                raise SoakError(f"The code server did not come up; see the logs in {self.directory}.")
            time.sleep(0.1)

    def _kill_worker(self, chance: random.Random) -> bool:
        workers = [pid for pid, command in sorted(self._all().items()) if "spawn_main" in command]
        if not workers:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(workers), signal.SIGKILL)
            return True
        return False

    def _kill_all(self) -> None:
        for pid in self._all():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in (self._code_server, self._daemon):
            _end(process)
        self._code_server = self._daemon = None

    def _all(self) -> dict[int, str]:
        """Every process that works for this facility and its command line: also orphaned run workers."""
        mark = f"DAGSTER_HOME={self.environment['DAGSTER_HOME']}".encode()
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found[int(process.name)] = (process / "cmdline").read_text(errors="replace")
        return found


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.kill()
        process.wait()


@dataclass
class Facility:
    """Everything that runs."""

    directory: Path
    store: Store
    faults: Faults
    fault_plan: Random
    broker: LoopbackBroker | None
    announcements: Announcements
    processes: DagsterProcesses
    instance: dg.DagsterInstance

    @property
    def data_directory(self) -> Path:
        """Where the file writer writes."""
        return self.directory / "data"


@contextmanager
def running_facility(directory: Path, seed_: int, broker_address: str | None) -> Iterator[Facility]:
    """Start everything below ``directory`` and stop every process of it in the end."""
    lay_out(directory)
    password = "soak"  # noqa: S105 - guards nothing
    accounts = Accounts(replace(account, password=password) for account in demo_accounts())
    fault_plan = Random(seed_, FAULTS, most_in_a_row=_MOST_FAULTS_IN_A_ROW)
    with ExitStack() as stack:
        store = stack.enter_context(Store(directory / "catalogue.sqlite"))
        seed(store)
        faults = Faults(create_app(store, accounts), fault_plan, store, slow_seconds=_SLOW_SECONDS)
        server = stack.enter_context(CatalogueServer(store, accounts, app=faults))
        stack.enter_context(faults)
        broker = None if broker_address else stack.enter_context(LoopbackBroker())
        address = broker.bootstrap_servers if broker else str(broker_address)
        _create_topics(broker, address)
        _shorten(directory, address, begin="earliest" if broker else "latest")
        environment = {
            "DAGSTER_HOME": str(directory / "dagster"),
            CONFIGURATION_VARIABLE: str(directory / "config.yml"),
            "SCICAT_DEMO_PASSWORD": password,
            "SCICAT_DEMO_DATA_DIRECTORY": str(directory / "data"),
            "SCICAT_DEMO_SCICAT_PORT": str(server.port),
        }
        instance = stack.enter_context(dg.DagsterInstance.from_config(str(directory / "dagster")))
        processes = DagsterProcesses(directory, environment, _free_port())
        stack.callback(processes.stop)
        processes.start()
        yield Facility(
            directory, store, faults, fault_plan, broker, Announcements(address), processes, instance
        )


def _create_topics(broker: LoopbackBroker | None, address: str) -> None:
    topics = [instrument.topic for instrument in people.INSTRUMENTS]
    if broker is not None:
        for topic in topics:
            broker.create_topic(topic, _PARTITIONS)
        return
    admin = AdminClient({"bootstrap.servers": address})
    for future in admin.create_topics([NewTopic(topic, _PARTITIONS, 1) for topic in topics]).values():
        try:
            future.result(_START_SECONDS)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise SoakError(f"Kafka at {address} is of no use: {error.args[0].str()}.") from error


def _shorten(directory: Path, address: str, *, begin: str) -> None:
    """Let the configuration name the broker, and shorten every time for which a soak would have to wait."""
    config = directory / "config.yml"
    settings = yaml.safe_load(config.read_text())
    settings["scicat"]["timeout"] = _SCICAT_TIMEOUT_SECONDS
    settings["kafka"] |= {"bootstrap_servers": address, "auto_offset_reset": begin}
    config.write_text(yaml.safe_dump(settings))
    instance = directory / "dagster" / "dagster.yaml"
    settings = yaml.safe_load(instance.read_text())
    for place, names in _SHORT.items():
        section = settings
        for key in place:
            section = section[key]
        # Only what the project sets: what it leaves to Dagster is left to Dagster here, too.
        section |= {name: seconds for name, seconds in names.items() if name in section}
    instance.write_text(yaml.safe_dump(settings))


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


# What Dagster and the catalogue say at one moment.


@dataclass(frozen=True)
class Look:
    """What became of the files so far, by Dagster's account."""

    green: frozenset[str]
    failed: Mapping[str, FailedFile]
    unfinished: int
    runs: int
    is_behind: bool
    """Whether the sensor has messages left to read."""

    @property
    def fingerprint(self) -> tuple[object, ...]:
        """Equal for two looks between which nothing happened."""
        return len(self.green), self.runs, self.unfinished, self.is_behind, frozenset(self.failed)


def look(facility: Facility) -> Look:
    """Look at Dagster's instance."""
    instance = facility.instance
    return Look(
        green=frozenset(instance.get_materialized_partitions(dg.AssetKey("raw_dataset"))),
        failed={file.path: file for file in failed_files(instance)},
        unfinished=len(instance.get_run_ids(dg.RunsFilter(statuses=UNFINISHED))),
        runs=instance.get_runs_count(),
        is_behind=_is_behind(facility),
    )


def _is_behind(facility: Facility) -> bool:
    cursor = _cursor(facility.instance)
    return any(
        cursor.offsets.get(topic, {}).get(partition, -1) < end
        for (topic, partition), end in facility.announcements.ends.items()
    )


def _cursor(instance: dg.DagsterInstance) -> Cursor:
    for state in instance.all_instigator_state():
        if state.instigator_name == "wrdn_sensor":
            return Cursor.parse(getattr(state.instigator_data, "cursor", None))
    return Cursor()


# The storm: files, faults, kills and the outage.


@dataclass
class Storm:
    """Carries a plan out."""

    facility: Facility
    plan: Plan
    chance: random.Random
    say: Callable[[str], None]
    kills: Counter[Victim] = field(default_factory=Counter)
    outages: int = 0

    def rage(self, deadline: float) -> None:
        """Do everything that is planned; kills for which nothing is left are left out.

        Raises
        ------
        SoakError
            A part ended by itself.
        DeliveryError
            The broker does not take messages.
        """
        began = time.monotonic()
        agenda = self._agenda()
        kills = list(self.plan.kills)
        while (agenda or kills) and time.monotonic() < deadline:
            seconds = time.monotonic() - began
            while agenda and agenda[0][0] <= seconds:
                agenda.pop(0)[1]()
            if kills and self._is_due(kills[0], seconds) and self._killed(kills[0]):
                kills.pop(0)
            if kills and not agenda and self._is_over():
                self.say(f"nothing is left to kill: {len(kills)} kills left out")
                return
            self.facility.processes.check()
            time.sleep(0.2)

    def _agenda(self) -> list[tuple[float, Callable[[], None]]]:
        """What has its time, in the order of time."""
        agenda: list[tuple[float, Callable[[], None]]] = []
        for burst in self.plan.bursts:
            agenda.append((burst.at, lambda burst=burst: self._announce(burst)))  # type: ignore[misc]
            for late in burst.files:
                if late.fault is FileFault.LATE:
                    moment = burst.at + late.late_seconds
                    agenda.append((moment, lambda late=late: self._write(late)))  # type: ignore[misc]
        if self.facility.broker is not None:
            agenda.append((self.plan.outage_at - 0.01, self._broker_down))
            agenda.append((self.plan.outage_at + _OUTAGE_SECONDS, self.facility.broker.set_up))
        return sorted(agenda, key=lambda item: item[0])

    def _broker_down(self) -> None:
        assert self.facility.broker is not None  # noqa: S101 - planned only where there is one
        self.facility.broker.set_down()
        self.outages += 1
        self.say(f"the broker is down for {_OUTAGE_SECONDS:g} s")

    def _announce(self, burst: Burst) -> None:
        facility = self.facility
        healthy = [file.file for file in burst.files if file.fault is FileFault.NONE]
        write_files(healthy, facility.data_directory, facility.announcements, extras=burst.extras)
        for file in burst.files:
            if file.fault is FileFault.NONE:
                continue
            if file.fault.permanent:
                self._write(file)
            message = written_message(file.file, file.file.path(facility.data_directory))
            topic = file.file.proposal.instrument.topic
            facility.announcements.send(topic, MessageKind.WRITTEN, message, key=file.file.job_id)
        self.say(f"{len(burst.files)} files announced")

    def _write(self, file: SoakFile) -> None:
        path = file.file.path(self.facility.data_directory)
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.fault is FileFault.NOT_HDF5:
            path.write_text("This is no HDF5 file.\n" * 100)
        else:
            with h5py.File(path, "x") as content:
                write_beginning(content, file.file)
                write_end(content, file.file)
        if file.fault is FileFault.TRUNCATED:
            os.truncate(path, path.stat().st_size // 2)
        if file.fault.permanent:
            # A broken file of the last minute might still be in the making.
            os.utime(path, (time.time() - 3600, time.time() - 3600))
        path.chmod(READ_ONLY)

    def _is_due(self, kill: Kill, seconds: float) -> bool:
        registered = self.facility.store.count_origdatablocks() >= kill.after_files
        return registered or seconds > _LATEST_SECONDS_PER_FILE * (kill.after_files + 5)

    def _killed(self, kill: Kill) -> bool:
        time.sleep(kill.delay)
        if not self.facility.processes.kill(kill.victim, self.chance):
            return False
        self.kills[kill.victim] += 1
        self.say(f"killed: {kill.victim}")
        return True

    def _is_over(self) -> bool:
        now = look(self.facility)
        return not now.is_behind and now.unfinished == 0


# Settling: nothing fails any more, and a person requests what is still failed.


@dataclass
class Settling:
    """Waits until nothing changes any more."""

    facility: Facility
    files: Mapping[str, SoakFile]
    say: Callable[[str], None]
    requests: Counter[str] = field(default_factory=Counter)
    _requested: set[str] = field(default_factory=set)

    def settle(self, deadline: float) -> tuple[Look, bool]:
        """The last look, and whether everything settled in time."""
        self.facility.fault_plan.stop()
        self.facility.faults.release()
        last = look(self.facility)
        since = time.monotonic()
        while time.monotonic() < deadline:
            self._request_by_hand(last)
            time.sleep(_LOOK_SECONDS)
            self.facility.processes.check()
            now = look(self.facility)
            if now.fingerprint != last.fingerprint:
                since = time.monotonic()
                self.say(_progress(now, len(self.files)))
            last = now
            if time.monotonic() - since > (_QUIET_SECONDS if self._is_settled(now) else _PATIENCE_SECONDS):
                return now, self._is_settled(now)
        return last, False

    def _is_settled(self, now: Look) -> bool:
        return (
            not now.is_behind and now.unfinished == 0 and self.files.keys() <= now.green | now.failed.keys()
        )

    def _request_by_hand(self, now: Look) -> None:
        """What a person does about failures that were not the file's fault."""
        for path, failed in now.failed.items():
            tired = self.requests[path] >= _MOST_REQUESTS_BY_HAND
            if failed.kind == "permanent" or failed.run_id in self._requested or tired:
                continue
            self._requested.add(failed.run_id)
            self.requests[path] += 1
            execute_launch_command(
                instance=self.facility.instance,
                workspace_opts=WorkspaceOpts(workspace=[str(self.facility.processes.workspace)]),
                job_name="ingest_file",
                config_json=json.dumps(failed.run_config),
                tags=json.dumps({"dagster/partition": path}),
            )


def _progress(now: Look, files: int) -> str:
    return (
        f"{len(now.green)} of {files} files green, {len(now.failed)} failed, {now.unfinished} runs unfinished"
    )


# The account.


@dataclass(frozen=True)
class Report:
    """What became of everything; printed as JSON."""

    files: int
    seed: int
    seconds: float
    settled: bool
    """Nothing was in flight any more at the end, and every file was accounted for."""
    announced: int
    registered: int
    """Announced files that are in the catalogue with their file list."""
    failed_visible: dict[str, int]
    """Files whose latest run failed, by reason."""
    failed_without_fault: list[str]
    """Those of them that had nothing wrong with them."""
    lost: list[str]
    """Announced files that are neither in the catalogue nor failed."""
    not_green: list[str]
    """Files in the catalogue of which Dagster does not know."""
    unannounced: int
    """Files in the catalogue that nobody announced."""
    differing: dict[str, str]
    """Files whose entry is not what is built from them when nothing fails, and what is different."""
    duplicate_datasets: int
    duplicate_blocks: int
    datasets: int
    origdatablocks: int
    rejected: int
    rejected_expected: int
    runs: int
    unfinished_runs: int
    messages: dict[str, int]
    file_faults: dict[str, int]
    kills: dict[str, int]
    broker_outages: int
    faults: dict[str, int]
    re_executed_by_hand: int

    @property
    def is_good(self) -> bool:
        """Whether the project kept what it promises."""
        return (
            self.settled
            and not (self.lost or self.not_green or self.failed_without_fault or self.unannounced)
            and not self.differing
            and self.duplicate_datasets == self.duplicate_blocks == 0
            and self.datasets == self.origdatablocks == self.registered
            and self.rejected == self.rejected_expected
        )


def listed_files(store: Store) -> tuple[Counter[str], Counter[str]]:
    """How many datasets, and how many origdatablocks, of the catalogue list each file."""
    datasets: Counter[str] = Counter()
    blocks: Counter[str] = Counter()
    for dataset in store.datasets():
        folder = Path(str(dataset["sourceFolder"]))
        found = store.origdatablocks(str(dataset["pid"]))
        listed = [str(folder / block["dataFileList"][0]["path"]) for block in found]
        blocks.update(listed)
        datasets.update(set(listed))
    return datasets, blocks


def _differing(facility: Facility) -> Iterator[tuple[str, str]]:
    """Build every registered file anew, now that nothing fails, and compare what could have been spoilt."""
    environment = facility.processes.environment
    config = Path(environment[CONFIGURATION_VARIABLE])
    for dataset in facility.store.datasets():
        for block in facility.store.origdatablocks(str(dataset["pid"])):
            path = Path(str(dataset["sourceFolder"])) / str(block["dataFileList"][0]["path"])
            built = preview_file(path, config, environment)
            ours = _comparable(built.dataset or {}, built.origdatablock or {"dataFileList": [{}]})
            theirs = _comparable(dataset, block)
            different = [key for key, value in ours.items() if theirs[key] != value]
            different += [error.reason for error in built.errors]
            if different:
                yield str(path), ", ".join(different)


def _comparable(dataset: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """What is the same in a body that is posted and in the document that the server makes of it."""
    found = {key: dataset.get(key) for key in _COMPARED}
    # The server adds units to the values.
    found["metadata"] = sorted(dataset.get("scientificMetadata", {}))
    return found | {key: block["dataFileList"][0].get(key) for key in ("size", "chk")}


def account(
    facility: Facility, plan: Plan, storm: Storm, settling: Settling, last: Look, **measured: Any
) -> Report:
    """Compare what was announced with what is in the catalogue."""
    files = settling.files
    datasets, blocks = listed_files(facility.store)
    failed = last.failed.keys() & files.keys()
    sent = facility.announcements.sent
    return Report(
        files=len(files),
        announced=len(files),
        registered=len(files.keys() & datasets.keys()),
        failed_visible=dict(Counter(_reason(facility, last.failed[path]) for path in sorted(failed))),
        failed_without_fault=sorted(path for path in failed if not files[path].fault.permanent),
        lost=sorted(files.keys() - datasets.keys() - failed),
        not_green=sorted((files.keys() & datasets.keys()) - last.green),
        unannounced=len(datasets.keys() - files.keys()),
        differing=dict(_differing(facility)),
        duplicate_datasets=datasets.total() - len(datasets),
        duplicate_blocks=blocks.total() - datasets.total(),
        datasets=facility.store.count_datasets(),
        origdatablocks=facility.store.count_origdatablocks(),
        rejected=sum(1 for _ in rejections(facility.instance)),
        rejected_expected=sent.get(MessageKind.BROKEN, 0) + sent.get(MessageKind.FAILED, 0),
        runs=last.runs,
        unfinished_runs=last.unfinished,
        messages={str(kind): number for kind, number in sorted(sent.items())},
        file_faults=dict(Counter(str(file.fault) for file in plan.files if file.fault)),
        kills={str(victim): storm.kills[victim] for victim in Victim},
        broker_outages=storm.outages,
        faults={kind.name.lower(): facility.faults.counts[kind] for kind in FaultKind},
        re_executed_by_hand=settling.requests.total(),
        **measured,
    )


def _reason(facility: Facility, failed: FailedFile) -> str:
    """Why it failed, without what is different for each file."""
    reason, _ = reason_of(facility.instance, failed.run_id)
    return re.sub(r"\S*/\S+", "…", reason)


def soak(
    directory: Path,
    *,
    files: int,
    seed: int,
    kills: int,
    timeout_seconds: float,
    broker_address: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """One soak below ``directory``, which keeps everything that the processes wrote.

    Raises
    ------
    SoakError
        A part could not be started, or ended by itself.
    DeliveryError
        The broker does not take messages.
    """
    began = time.monotonic()
    deadline = began + timeout_seconds
    plan = make_plan(seed, files, kills)
    with running_facility(directory, seed, broker_address) as facility:
        storm = Storm(facility, plan, random.Random(f"kills/{seed}"), say)  # noqa: S311 - no secret
        if broker_address:
            _wait_for_first_tick(facility)
        storm.rage(deadline)
        say("the storm is over")
        by_path = {str(file.file.path(facility.data_directory)): file for file in plan.files}
        settling = Settling(facility, by_path, say)
        last, settled = settling.settle(deadline)
        seconds = round(time.monotonic() - began, 1)
        return account(facility, plan, storm, settling, last, seed=seed, seconds=seconds, settled=settled)


def _wait_for_first_tick(facility: Facility) -> None:
    """A broker with older messages is read from its end, which therefore has to be found first."""
    deadline = time.monotonic() + _START_SECONDS
    while not _cursor(facility.instance).offsets:
        if time.monotonic() > deadline:
            raise SoakError("The sensor did not find the broker.")
        time.sleep(_LOOK_SECONDS)


def _as_interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


@click.command()
@click.option("--files", type=click.IntRange(3), default=40, show_default=True, help="Files to announce.")
@click.option("--seed", type=int, default=7, show_default=True, help="Decides faults, kills and moments.")
@click.option("--kills", type=click.IntRange(0), default=None, help="By default one for 10 files.")
@click.option("--timeout", type=float, default=None, help="Seconds; by default 180 and 12 for each file.")
@click.option(
    "--directory", type=click.Path(path_type=Path), default=None,
    help="Where everything is written and stays; by default a temporary one, which stays after a failure.",
)  # fmt: skip
@click.option("--broker", default="mock", show_default=True, help="HOST:PORT of a Kafka that runs already.")
def main(
    files: int, seed: int, kills: int | None, timeout: float | None, directory: Path | None, broker: str
) -> None:
    """Announce files to a facility that fails and is killed, and account for every one of them.

    Prints one JSON object. Exits with 1 if a file was lost or registered twice, or failed without its own
    fault, or if the facility did not come to rest; with 2 if the soak itself failed.
    """
    signal.signal(signal.SIGTERM, _as_interrupt)
    # A connection that a fault cuts off is no news.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    began = time.monotonic()
    place = (directory or Path(tempfile.mkdtemp(prefix="soak-"))).absolute()
    try:
        report = soak(
            place,
            files=files,
            seed=seed,
            kills=max(1, files // 10) if kills is None else kills,
            timeout_seconds=timeout or 180 + 12 * files,
            broker_address=None if broker == "mock" else broker,
            say=lambda line: click.echo(f"{time.monotonic() - began:6.0f} s  {line}", err=True),
        )
    except (SoakError, DeliveryError, DemoError) as error:
        click.echo(f"{error}", err=True)
        sys.exit(2)
    if directory is None and report.is_good:
        shutil.rmtree(place)
    else:
        click.echo(f"Everything that was written is in {place}.", err=True)
    click.echo(json.dumps(asdict(report), indent=2, ensure_ascii=False))
    sys.exit(0 if report.is_good else 1)


if __name__ == "__main__":
    main()
