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

from benchmarks.soak.plan import Victim
from scicat_dagster.demo.broker import LOOPBACK

START_SECONDS = 90.0
_STOP_SECONDS = 10.0
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
        self.environment = environment

    code_server_port: int

    @property
    @abstractmethod
    def workspace(self) -> Path:
        """The file that says where the code server is."""

    @property
    def is_up(self) -> bool:
        """Whether the code server takes requests."""
        try:
            with socket.create_connection((LOOPBACK, self.code_server_port), timeout=1):
                return True
        except OSError:
            return False

    @abstractmethod
    def start(self) -> None:
        """Start what does not run."""

    @abstractmethod
    def kill(self, victim: Victim, chance: random.Random) -> bool:
        """Kill it without warning; it comes up again. False where there is none at the moment."""

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
        mark = f"DAGSTER_HOME={self.environment['DAGSTER_HOME']}".encode()
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    command = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(process.name)] = command.decode(errors="replace")
        return found

    def kill_every(self, *words: str) -> int:
        """Kill the processes whose command line holds one of the words; how many there were."""
        victims = [pid for pid, command in self.found().items() if any(word in command for word in words)]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(victims)

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
        self.code_server_port = free_port()
        self._code_server: subprocess.Popen[bytes] | None = None
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def workspace(self) -> Path:
        """The file that says where the code server is."""
        return self.directory / "workspace.yaml"

    def start(self) -> None:
        """Start what does not run; a daemon that finds no code server would look again a minute later."""
        location = f"{{host: {LOOPBACK}, port: {self.code_server_port}, location_name: scicat}}"
        self.workspace.write_text(f"load_from: [{{grpc_server: {location}}}]\n")
        if self._code_server is None:
            arguments = ("api", "grpc", "-m", "scicat_dagster.definitions", "-p", str(self.code_server_port))
            self._code_server = self._started("code_server", "dagster", *arguments)
            self.wait_until_up()
        if self._daemon is None:
            self._daemon = self._started("daemon", "dagster._daemon", "run", "-w", str(self.workspace))

    def kill(self, victim: Victim, chance: random.Random) -> bool:
        """Kill it without warning and start it again; False where there is none at the moment."""
        match victim:
            case Victim.RUN_WORKER:
                return _kill_one(self._children("forkserver"), chance)
            case Victim.CODE_SERVER:
                _end(self._code_server)
                self._code_server = None
            case Victim.DAEMON:
                _end(self._daemon)
                self._daemon = None
            case _:
                self._kill_all()
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
        running = [process for process in (self._daemon, self._code_server) if process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        while self.found() and time.monotonic() < deadline:
            for process in running:
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

    def _kill_all(self) -> None:
        self.kill_every("")
        for process in (self._code_server, self._daemon):
            _end(process)
        self._code_server = self._daemon = None


class Production(Processes):
    """What ``deploy/prepare`` lays out and ``deploy/start`` runs: warm workers, PostgreSQL, Redis.

    The supervisor that is part of it starts again what is killed. There are two groups of workers, as if they
    were two machines.
    """

    most_at_once = 16
    victims = (
        Victim.RUN_WORKER, Victim.WORKER_GROUP, Victim.CODE_SERVER, Victim.DAEMON, Victim.EVERYTHING,
    )  # fmt: skip

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        super().__init__(directory, environment)
        self._supervisor: subprocess.Popen[bytes] | None = None
        self.code_server_port = int(environment["CODE_SERVER_PORT"])

    @staticmethod
    def prepare(state: Path, environment: Mapping[str, str]) -> dict[str, str]:
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
        text = settings.read_text().replace("WORKER_GROUPS=1", "WORKER_GROUPS=2")
        settings.write_text(text.replace(f"WORKERS={os.cpu_count()}", "WORKERS=6"))
        return dict(line.split("=", 1) for line in settings.read_text().splitlines())

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

    def kill(self, victim: Victim, chance: random.Random) -> bool:
        """Kill it without warning; False where there is none at the moment."""
        match victim:
            case Victim.RUN_WORKER:
                return _kill_one(self._children("celery --app"), chance)
            case Victim.WORKER_GROUP:
                return self.kill_every(f"group{chance.randint(0, 1)}@") > 0
            case Victim.CODE_SERVER:
                return self.kill_every("api grpc") > 0
            case Victim.DAEMON:
                return self.kill_every("dagster-daemon run") > 0
            case _:
                return self.kill_every("celery --app", "api grpc", "dagster-daemon", "dagster-webserver") > 0

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


def _kill_one(candidates: list[int], chance: random.Random) -> bool:
    if not candidates:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(chance.choice(candidates), signal.SIGKILL)
        return True
    return False


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.kill()
        process.wait()
