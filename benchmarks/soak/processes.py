"""Dagster's processes, in the two ways in which it is installed: started, killed, and started again.

Linux only: processes are found by their environment in /proc.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._grpc.client import DagsterGrpcClient

from benchmarks.soak.plan import Manner, Victim
from scicat_dagster.demo.broker import LOOPBACK

START_SECONDS = 90.0
_STOP_SECONDS = 10.0
_READERS_MARK = "HDF5_OF_FACILITY"
"""A variable that means nothing, with a prefix that the processes that read files in isolation inherit."""
_DEPLOY = Path(__file__).parents[2] / "deploy"


class SoakError(Exception):
    """The soak itself cannot go on; this says nothing about the project."""


class Processes(ABC):
    """Everything of Dagster; ``environment`` is what its processes have beside our own."""

    victims: tuple[Victim, ...]
    """What can be killed here."""

    most_at_once: int
    """How many files are worked on at once; most of the time they wait for what failed to come back."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.environment = {**environment, _READERS_MARK: environment["DAGSTER_HOME"]}

    @staticmethod
    @abstractmethod
    def configure(home: Path) -> None:
        """Put the ``dagster.yaml`` that a facility uses into its home."""

    @property
    @abstractmethod
    def code_server(self) -> DagsterGrpcClient:
        """Whoever asks the code server something."""

    @property
    @abstractmethod
    def workspace(self) -> Path:
        """The file that says where the code server is."""

    @property
    def is_up(self) -> bool:
        """Whether the code server takes requests."""
        try:
            self.code_server.ping("")
        except DagsterUserCodeUnreachableError:
            return False
        return True

    @abstractmethod
    def start(self) -> None:
        """Start what does not run."""

    @abstractmethod
    def kill(self, victim: Victim, manner: Manner, chance: random.Random) -> bool:
        """End it; it comes up again. False where there is none at the moment."""

    @abstractmethod
    def check(self) -> None:
        """Make sure that nothing ended by itself.

        Raises
        ------
        SoakError
            Something did.
        """

    @abstractmethod
    def stop(self) -> None:
        """End every process, first with a word and then without."""

    def found(self) -> dict[int, str]:
        """Every process that works for this facility and its command line: also orphaned run workers."""
        return self._having("DAGSTER_HOME")

    def found_with_readers(self) -> dict[int, str]:
        """The same with the processes that read files in isolation, which know nothing of the facility."""
        return self._having(_READERS_MARK)

    def _having(self, variable: str) -> dict[int, str]:
        mark = f"{variable}={self.environment[variable]}".encode()
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    command = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(process.name)] = command.decode(errors="replace")
        return found

    def kill_every(self, *words: str, manner: Manner = Manner.KILL) -> int:
        """End the processes whose command line holds one of the words; how many there were."""
        victims = [pid for pid, command in self.found().items() if any(word in command for word in words)]
        for pid in victims:
            _send(pid, manner)
        return len(victims)

    def shut_code_server_down(self, manner: Manner) -> int:
        """End the code server, which can also be asked to end; whether there was one."""
        if manner is not Manner.EXIT:
            return self.kill_every("api grpc", manner=manner)
        if not self.is_up:
            return 0
        self.code_server.shutdown_server()
        return 1

    def _children(self, word: str) -> list[int]:
        """The processes that execute runs: their parent has the same word in its command line."""
        family = [pid for pid, command in self.found().items() if word in command]
        return sorted(pid for pid in family if _parent(pid) in family)

    def wait_until_up(self) -> None:
        """Wait until the code server takes requests."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.check()
            if self.is_up:
                return
            if time.monotonic() > deadline:
                raise SoakError(f"The code server did not come up; see the logs in {self.directory}.")
            time.sleep(0.1)


class Laptop(Processes):
    """A code server and a daemon with the project's ``dagster.yaml``; each run is a process of its own."""

    most_at_once = 4
    victims = (Victim.RUN_WORKER, Victim.CODE_SERVER, Victim.DAEMON, Victim.EVERYTHING)

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        super().__init__(directory, environment)
        self._code_server_port = free_port()
        self._code_server: subprocess.Popen[bytes] | None = None
        self._daemon: subprocess.Popen[bytes] | None = None

    @staticmethod
    def configure(home: Path) -> None:
        """The project's own."""
        shutil.copy(_DEPLOY.parent / "dagster.yaml", home)

    @property
    def code_server(self) -> DagsterGrpcClient:
        """Whoever asks the code server something."""
        return DagsterGrpcClient(host=LOOPBACK, port=self._code_server_port)

    @property
    def workspace(self) -> Path:
        """The file that says where the code server is."""
        return self.directory / "workspace.yaml"

    def start(self) -> None:
        """Start what does not run; a daemon that finds no code server would look again a minute later."""
        location = f"{{host: {LOOPBACK}, port: {self._code_server_port}, location_name: scicat}}"
        self.workspace.write_text(f"load_from: [{{grpc_server: {location}}}]\n")
        if self._code_server is None:
            arguments = ("api", "grpc", "-m", "scicat_dagster.definitions", "-p", str(self._code_server_port))
            self._code_server = self._started("code_server", "dagster", *arguments)
            self.wait_until_up()
        if self._daemon is None:
            self._daemon = self._started("daemon", "dagster._daemon", "run", "-w", str(self.workspace))

    def kill(self, victim: Victim, manner: Manner, chance: random.Random) -> bool:
        """End it and start it again; False where there is none at the moment."""
        match victim:
            case Victim.RUN_WORKER:
                return _kill_one(self._children("forkserver"), manner, chance)
            case Victim.CODE_SERVER:
                self.shut_code_server_down(manner)
                _wait(self._code_server)
                self._code_server = None
            case Victim.DAEMON:
                self.kill_every("dagster._daemon run", manner=manner)
                _wait(self._daemon)
                self._daemon = None
            case _:
                self.kill_every("", manner=manner)
                self._wait_for_the_end()
        time.sleep(chance.uniform(0, 2))
        self.start()
        return True

    def check(self) -> None:
        """Make sure that nothing ended by itself."""
        for name, process in (("code server", self._code_server), ("daemon", self._daemon)):
            if process is not None and process.poll() is not None:
                raise SoakError(f"The {name} ended by itself; see the logs in {self.directory}.")

    def stop(self) -> None:
        """End every process, first with a word and then without."""
        for process in (self._daemon, self._code_server):
            if process is not None:
                process.terminate()
        self._wait_for_the_end()

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

    def _wait_for_the_end(self) -> None:
        """Of all processes, the runs' too; what takes long is killed."""
        deadline = time.monotonic() + _STOP_SECONDS
        while self.found() and time.monotonic() < deadline:
            for process in (self._daemon, self._code_server):
                if process is not None:
                    process.poll()
            time.sleep(0.1)
        self.kill_every("")
        for process in (self._code_server, self._daemon):
            _wait(process)
        self._code_server = self._daemon = None


class Production(Processes):
    """What ``deploy/prepare`` lays out and ``deploy/start`` runs: warm workers, PostgreSQL, Redis.

    The supervisor that is part of it starts again what is killed. There are two groups of workers, as if they
    were two machines.
    """

    most_at_once = 16
    workers: Mapping[str, str] = {"SCICAT_DAGSTER_WORKER_GROUPS": "2", "SCICAT_DAGSTER_WORKERS": "6"}
    """What is changed in the environment that ``deploy/prepare`` writes."""
    victims = (
        Victim.RUN_WORKER, Victim.WORKER_GROUP, Victim.CODE_SERVER, Victim.DAEMON, Victim.EVERYTHING,
    )  # fmt: skip

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        super().__init__(directory, environment)
        self._supervisor: subprocess.Popen[bytes] | None = None

    @classmethod
    def prepare(cls, state: Path, environment: Mapping[str, str]) -> dict[str, str]:
        """Lay the service out below ``state``, and say what its processes find in their environment."""
        missing = [name for name in ("redis-server", "pgbouncer") if not _which(name)]
        if missing:
            raise SoakError(f"Not installed: {', '.join(missing)}; see deploy/README.md.")
        port = _free_ports(4)
        prepared = subprocess.run(  # noqa: S603 - our own script
            [str(_DEPLOY / "prepare"), str(state), str(port)],
            env={
                **os.environ,
                **environment,
                "SCICAT_DAGSTER_BIN": str(Path(sys.executable).parent),
                "WEBSERVER_PORT": str(free_port()),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if prepared.returncode:
            raise SoakError(f"deploy/prepare failed: {prepared.stderr}")
        settings = state / "environment"
        written: dict[str, str] = dict(line.split("=", 1) for line in settings.read_text().splitlines())
        written.update(cls.workers)
        settings.write_text("".join(f"{name}={value}\n" for name, value in written.items()))
        return written

    @staticmethod
    def configure(home: Path) -> None:
        """``deploy/prepare`` has done so."""

    @property
    def code_server(self) -> DagsterGrpcClient:
        """Whoever asks the code server something."""
        return DagsterGrpcClient(socket=self.environment["CODE_SERVER_SOCKET"])

    @property
    def workspace(self) -> Path:
        """The file that says where the code server is."""
        return Path(self.environment["DAGSTER_HOME"]) / "workspace.yaml"

    def start(self) -> None:
        """Start the supervisor."""
        state = self.environment["SCICAT_DAGSTER_STATE"]
        with (self.directory / "supervisor.log").open("ab") as log:
            self._supervisor = subprocess.Popen(  # noqa: S603 - our own script
                [str(_DEPLOY / "start"), state],
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_until_up()

    def kill(self, victim: Victim, manner: Manner, chance: random.Random) -> bool:
        """End it; False where there is none at the moment."""
        match victim:
            case Victim.RUN_WORKER:
                return _kill_one(self._children("celery --app"), manner, chance)
            case Victim.WORKER_GROUP:
                return self._kill_group(f"group{chance.randint(0, 1)}@", manner)
            case Victim.CODE_SERVER:
                return self.shut_code_server_down(manner) > 0
            case Victim.DAEMON:
                return self.kill_every("dagster-daemon run", manner=manner) > 0
            case _:
                everything = ("celery --app", "api grpc", "dagster-daemon", "dagster-webserver")
                return self.kill_every(*everything, manner=manner) > 0

    def _kill_group(self, name: str, manner: Manner) -> bool:
        """With a machine die all of its processes; whoever asks it to end asks the main process."""
        if manner is Manner.KILL:
            return self.kill_every(name) > 0
        family = [pid for pid, command in self.found().items() if name in command]
        mains = [pid for pid in family if _parent(pid) not in family]
        for pid in mains:
            _send(pid, manner)
        return bool(mains)

    def check(self) -> None:
        """Make sure that the supervisor lives."""
        if self._supervisor is not None and self._supervisor.poll() is not None:
            raise SoakError(f"The supervisor ended; see {self.directory / 'supervisor.log'}.")

    def stop(self) -> None:
        """End every process, first with a word and then without."""
        if self._supervisor is not None:
            self._supervisor.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._supervisor.wait(3 * _STOP_SECONDS)
        self.kill_every("")


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server((LOOPBACK, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _free_ports(number: int) -> int:
    """The first of so many free ports one after the other."""
    while True:
        first = free_port()
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + number):
                stack.enter_context(socket.create_server((LOOPBACK, port)))
            return first


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _kill_one(candidates: list[int], manner: Manner, chance: random.Random) -> bool:
    return bool(candidates) and _send(chance.choice(candidates), manner)


def _send(pid: int, manner: Manner) -> bool:
    """On SIGTERM our processes exit with 0."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL if manner is Manner.KILL else signal.SIGTERM)
        return True
    return False


def _wait(process: subprocess.Popen[bytes] | None) -> None:
    """Until it ended; it is killed where that takes long."""
    if process is None:
        return
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
