"""What ``deploy/`` installs, as it is installed: everything comes back, nothing is open to others.

One layout for all tests, because it takes long to start; each leaves it as it found it.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import h5py
import numpy as np
import psycopg2
import pytest
import requests
from streaming_data_types import serialise_wrdn

from benchmarks.soak.facility import Facility, running_facility
from benchmarks.soak.plan import Manner
from benchmarks.soak.processes import Production
from scicat_dagster.demo import people
from scicat_dagster.demo.catalogue import Dialect
from scicat_dagster.demo.file_writer import MessageKind, write_files
from scicat_dagster.demo.measurement import plan_file
from scicat_dagster.orchestration.failures.policy import kind_of
from scicat_dagster.orchestration.partitions import key_of
from scicat_dagster.orchestration.tags import GROUP_TAG, PROCESS_TAG
from tests.brokers import free_ports

SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin"
DEPLOY = Path(__file__).parents[2] / "deploy"
DATA = Path(__file__).parents[1] / "data"

pytestmark = [
    pytest.mark.endtoend,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        not all(shutil.which(name, path=SBIN) for name in ("redis-server", "pgbouncer")),
        reason="No Redis or pgbouncer here.",
    ),
]

PROGRAMS = (
    "database", "pooler", "queue", "code_server", "daemon", "webserver", "health",
    "worker:worker0", "worker:worker1",
)  # fmt: skip
BACK_SECONDS = 60
NOTICED_SECONDS = 30
REGISTERED_SECONDS = 120


@dataclass
class Layout:
    """The service, with everything that it works with."""

    facility: Facility
    files: int = 0

    @property
    def environment(self) -> dict[str, str]:
        return dict(self.facility.processes.environment)

    @property
    def state(self) -> Path:
        return Path(self.environment["SCICAT_DAGSTER_STATE"])

    @property
    def instance(self) -> dg.DagsterInstance:
        return self.facility.instance

    def supervisorctl(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(DEPLOY / "supervisord.conf")]
        environment = {**os.environ, **self.environment}
        done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True)
        return done.stdout

    def pid(self, program: str) -> int:
        """The process of a program; 0 where it is none at the moment."""
        with suppress(ValueError):
            return int(self.supervisorctl("pid", program))
        return 0

    def write(self) -> str:
        """Announce a new file."""
        self.files += 1
        plan = plan_file(29, self.files)
        (path,) = write_files([plan], self.facility.data_directory, self.facility.announcements).files
        return str(path)

    def announce(self, name: str, content: bytes) -> str:
        """Write a file of any content, and announce it as the file writer does."""
        path = self.facility.data_directory / name
        path.write_bytes(content)
        topic = next(iter(people.TOPICS))
        message = bytes(serialise_wrdn("writer", name, False, str(path)))
        self.facility.announcements.send(topic, MessageKind.WRITTEN, message, key=name)
        return str(path)

    def runs_of(self, path: str, *statuses: dg.DagsterRunStatus) -> list[dg.DagsterRun]:
        key = key_of(path, str(self.facility.data_directory))
        found = dg.RunsFilter(tags={"dagster/partition": key}, statuses=list(statuses) or None)
        return list(self.instance.get_runs(found))

    def is_registered(self, file: str) -> bool:
        registered = self.instance.get_materialized_partitions(dg.AssetKey("raw_dataset"))
        return key_of(file, str(self.facility.data_directory)) in registered


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"Not within {seconds:.0f} s: {what}")
        time.sleep(0.2)


@pytest.fixture(scope="module")
def layout() -> Iterator[Layout]:
    before = dict(os.environ)
    # Unix sockets have short names only.
    folder = Path(tempfile.mkdtemp(prefix="layout-", dir="/tmp"))
    folder.chmod(0o711)
    (health_port,) = free_ports(1)
    os.environ["SCICAT_DEMO_HEALTH_PORT"] = str(health_port)
    try:
        with running_facility(folder, 1, None, Production, Dialect.V4X, "v3", chances={}) as facility:
            layout = Layout(facility)
            # The first file shows that everything is up.
            file = layout.write()
            wait_for(lambda: layout.is_registered(file), "the first file", seconds=REGISTERED_SECONDS)
            yield layout
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder)


def end(layout: Layout, program: str, manner: Manner) -> None:
    """By a signal, or in the way in which the program exits with 0."""
    pid = layout.pid(program)
    assert pid, f"{program} is not up"
    if manner is Manner.KILL:
        os.kill(pid, signal.SIGKILL)
    elif manner is Manner.EXIT and program == "code_server":
        layout.facility.processes.code_server.shutdown_server()
    elif manner is Manner.EXIT and program in ("database", "pooler"):
        os.kill(pid, signal.SIGINT)
    else:
        os.kill(pid, signal.SIGTERM)


@pytest.mark.parametrize("manner", list(Manner))
def test_whatever_ends_is_started_again_and_the_next_file_is_registered(
    layout: Layout, manner: Manner
) -> None:
    before = {program: layout.pid(program) for program in PROGRAMS}

    for program in PROGRAMS:
        end(layout, program, manner)

    def is_back(program: str) -> bool:
        return layout.pid(program) not in (0, before[program])

    wait_for(lambda: all(map(is_back, PROGRAMS)), "every program again", seconds=BACK_SECONDS)
    file = layout.write()
    wait_for(lambda: layout.is_registered(file), "the next file", seconds=REGISTERED_SECONDS)


def paused_run(layout: Layout, file: str) -> tuple[dg.DagsterRun, int]:
    """The run of a file, whose worker process is stopped where it is."""

    def of_a_worker() -> list[dg.DagsterRun]:
        started = layout.runs_of(file, dg.DagsterRunStatus.STARTED)
        return [run for run in started if PROCESS_TAG in run.tags]

    deadline = time.monotonic() + REGISTERED_SECONDS
    while not (runs := of_a_worker()):
        assert time.monotonic() < deadline, "no run of the file"
    pid = int(runs[0].tags[PROCESS_TAG].split()[1])
    os.kill(pid, signal.SIGSTOP)
    return runs[0], pid


@pytest.fixture
def paused(layout: Layout) -> tuple[dg.DagsterRun, int, str]:
    """A run that has been stopped in the middle, its process, and its file."""
    for _ in range(5):
        file = layout.write()
        run, pid = paused_run(layout, file)
        found = layout.instance.get_run_by_id(run.run_id)
        if found is not None and found.status is dg.DagsterRunStatus.STARTED:
            return run, pid, file
        os.kill(pid, signal.SIGCONT)
    pytest.fail("The runs were too fast to be stopped.")


def test_the_run_of_a_killed_worker_is_retried_however_long_it_may_take(
    layout: Layout, paused: tuple[dg.DagsterRun, int, str]
) -> None:
    run, pid, file = paused
    # As for a file of 1 TB.
    layout.instance.add_run_tags(run.run_id, {"dagster/max_runtime": "100000"})

    os.kill(pid, signal.SIGKILL)

    wait_for(lambda: len(layout.runs_of(file)) == 2, "the retry", seconds=NOTICED_SECONDS)
    wait_for(lambda: layout.is_registered(file), "the file", seconds=REGISTERED_SECONDS)


def test_a_run_whose_worker_does_not_react_is_cancelled_in_the_ui(
    layout: Layout, paused: tuple[dg.DagsterRun, int, str]
) -> None:
    run, pid, _ = paused
    port = layout.environment["WEBSERVER_PORT"]
    query = """mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"""

    answer = requests.post(
        f"http://127.0.0.1:{port}/graphql",
        json={"query": query, "variables": {"run": run.run_id}},
        timeout=60,
    )

    assert answer.json()["data"]["terminateRun"]["__typename"] == "TerminateRunSuccess"
    found = layout.instance.get_run_by_id(run.run_id)
    assert found is not None
    assert found.status is dg.DagsterRunStatus.CANCELED
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of the process", seconds=NOTICED_SECONDS)


def lost_sector(content: bytes) -> bytes:
    """Of a small file with one sector zeroed: libhdf5 never comes to an end with it."""
    return content[: 5 * 512] + bytes(512) + content[6 * 512 :]


def with_nul(folder: Path, content: bytes) -> bytes:
    """Of a small file whose instrument's name is followed by what a C program left in its memory."""
    path = folder / "nul.hdf"
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        group = file.require_group("/entry/instrument")
        if "name" in group:
            del group["name"]
        group.create_dataset("name", data=np.bytes_(b"CODA\0garbage"))
        del file["/entry/entry_identifier_uuid"]
        file["/entry/entry_identifier_uuid"] = "another-job"
    return path.read_bytes()


def test_files_that_no_library_survives_take_no_worker(layout: Layout, tmp_path: Path) -> None:
    facility = layout.facility
    shutil.copy(DATA / "small-coda.imsc.yml", facility.directory / "schemas")
    facility.store.add_proposal(
        "443503", title="CODA", pi_firstname="Ada", pi_lastname="Lovelace", pi_email="ada@example.org",
        owner_group="ess_proposal_443503",
    )  # fmt: skip
    content = (DATA / "small-coda.hdf").read_bytes()
    damaged = [layout.announce(f"small-coda-{number}.hdf", lost_sector(content)) for number in range(3)]
    odd = layout.announce("small-coda-nul.hdf", with_nul(tmp_path, content))
    good = [layout.write() for _ in range(3)]

    # There are as many damaged files as workers, and more.
    wait_for(
        lambda: all(map(layout.is_registered, [odd, *good])), "the good files", seconds=REGISTERED_SECONDS
    )
    wait_for(
        lambda: all(layout.runs_of(file, dg.DagsterRunStatus.FAILURE) for file in damaged),
        "the end of the damaged ones",
        seconds=3 * REGISTERED_SECONDS,
    )
    (run,) = layout.runs_of(odd)
    assert run.tags["instrument"] == "CODA"
    for file in damaged:
        (run,) = layout.runs_of(file)
        assert kind_of(run) == "permanent"


def test_nobody_else_can_read_or_reach_anything(layout: Layout) -> None:
    open_to_others = [
        path
        for path in layout.state.rglob("*")
        if not path.is_symlink() and not path.is_socket() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    assert open_to_others == []
    sockets = [path for path in layout.state.rglob("*") if path.is_socket()]
    assert len(sockets) == 4
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in sockets} == {0o700}
    assert stat.S_IMODE(layout.state.stat().st_mode) & 0o066 == 0


def test_another_user_of_the_machine_cannot_connect(layout: Layout) -> None:
    if os.geteuid() != 0:
        pytest.skip("Only root can try as somebody else.")
    program = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for path in sys.argv[1:]:\n"
        "    try: socket.socket(socket.AF_UNIX).connect(path)\n"
        "    except PermissionError: continue\n"
        "    sys.exit(f'{path} can be reached')\n"
    )
    names = ("CODE_SERVER_SOCKET", "POOLER_SOCKET", "DATABASE_SOCKET")

    tried = subprocess.run(
        ["/usr/bin/env", "python3", "-c", program, *(layout.environment[name] for name in names)],
        capture_output=True,
        text=True,
    )

    assert tried.returncode == 0, tried.stderr


def test_a_worker_is_killed_for_lack_of_memory_before_anything_else(layout: Layout) -> None:
    def score(program: str) -> int:
        return int(Path(f"/proc/{layout.pid(program)}/oom_score_adj").read_text())

    others = max(score(program) for program in PROGRAMS if not program.startswith("worker"))
    assert min(score(program) for program in PROGRAMS if program.startswith("worker")) > others
    assert score("database") <= others


def test_only_the_webserver_the_health_and_the_queue_listen_at_ports(layout: Layout) -> None:
    pids = {layout.pid(program) for program in PROGRAMS}
    inodes = {
        str(descriptor.readlink())
        for pid in pids
        for descriptor in Path(f"/proc/{pid}/fd").iterdir()
    }  # fmt: skip
    listening = {
        int(line.split()[1].rpartition(":")[2], 16)
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and f"socket:[{line.split()[9]}]" in inodes
    }
    expected = {layout.environment["WEBSERVER_PORT"], layout.environment["REDIS_PORT"]}
    assert listening == {int(port) for port in expected} | {int(os.environ["SCICAT_DEMO_HEALTH_PORT"])}


def test_the_service_is_no_superuser_of_its_database(layout: Layout) -> None:
    environment = layout.environment
    connection = psycopg2.connect(
        host=environment["DAGSTER_POSTGRES_HOST"],
        port=environment["DAGSTER_POSTGRES_PORT"],
        user=environment["DAGSTER_POSTGRES_USER"],
        password=environment["DAGSTER_POSTGRES_PASSWORD"],
        dbname=environment["DAGSTER_POSTGRES_DB"],
    )
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls "
                "FROM pg_roles WHERE rolname = current_user"
            )
            assert cursor.fetchone() == (False,)
    finally:
        connection.close()


def test_the_health_is_served(layout: Layout) -> None:
    answer = requests.get(f"http://127.0.0.1:{os.environ['SCICAT_DEMO_HEALTH_PORT']}/health", timeout=30)

    assert answer.json()["ok"] is (answer.status_code == 200)


def test_the_unit_keeps_the_service_in_its_place() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("No systemd here.")
    unit = str(DEPLOY / "scicat-dagster.service")

    analyzed = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", unit],
        capture_output=True,
        text=True,
    )

    # 2.0 of 10; systemd takes tenths here.
    assert analyzed.returncode == 0, analyzed.stdout[-500:]


@contextmanager
def worker_machine(layout: Layout, folder: Path) -> Iterator[Path]:
    """A further machine, as ``deploy/prepare --worker`` lays it out; it has this one's name and its disk."""
    pooler = layout.state / "database" / "pgbouncer.ini"
    before = pooler.read_text()
    of_the_first = layout.state / "environment"
    command = [str(DEPLOY / "prepare"), "--worker", str(folder), str(of_the_first), "127.0.0.1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_")}
    environment["SCICAT_DAGSTER_BIN"] = str(Path(sys.executable).parent)
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "listen_addr = 127.0.0.1" in done.stdout
    pooler.write_text(before.replace("listen_addr =\n", "listen_addr = 127.0.0.1\n"))
    layout.supervisorctl("restart", "pooler")
    layout.supervisorctl("stop", "worker:*")
    machine = subprocess.Popen([DEPLOY / "start", folder], env={**environment, **of_the_facility(layout)})
    try:
        yield folder
    finally:
        machine.terminate()
        machine.wait(BACK_SECONDS)
        pooler.write_text(before)
        layout.supervisorctl("restart", "pooler")
        layout.supervisorctl("start", "worker:*")


def of_the_facility(layout: Layout) -> dict[str, str]:
    """What the configuration file takes from the environment."""
    return {name: text for name, text in layout.environment.items() if name.startswith("SCICAT_DEMO_")}


def test_a_machine_that_only_executes_runs_does_so(layout: Layout) -> None:
    # Unix sockets have short names only.
    with worker_machine(layout, layout.state.with_name("worker")) as folder:
        file = layout.write()

        wait_for(lambda: layout.is_registered(file), "the file", seconds=REGISTERED_SECONDS)

        (run,) = layout.runs_of(file)
        assert run.tags[GROUP_TAG].startswith("worker")
        status = subprocess.run([DEPLOY / "ctl", folder, "status"], capture_output=True, text=True)
        assert "RUNNING" in status.stdout
        refused = subprocess.run([DEPLOY / "ctl", folder, "backup"], capture_output=True, text=True)
        assert refused.returncode == 1
        assert "on the first machine" in refused.stderr
