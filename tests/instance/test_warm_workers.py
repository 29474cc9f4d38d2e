"""Warm workers as real processes: what dies is missed, what is cancelled ends, what comes twice is done once.

Redis and groups of workers run beside the test; one of them is on a machine of its own, as far as it knows.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
import yaml
from celery import Celery
from dagster._core.launcher import WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import pack_value
from dagster_celery.config import TASK_EXECUTE_JOB_NAME
from dagster_celery.launcher import CeleryRunLauncher

from scicat_dagster.config.loading import CONFIGURATION_VARIABLE
from tests.brokers import free_ports
from tests.instance.waiting_runs import (
    found,
    health,
    is_running,
    launched,
    looping,
    process_of,
    started,
    starting,
    wait_for,
    waiting,
)
from tests.small_facility import instance_in

pytestmark = [
    pytest.mark.endtoend,
    pytest.mark.timeout(200),
    # Dagster's launcher makes the same task anew for each run.
    pytest.mark.filterwarnings("ignore:Task name 'execute_job' is already registered"),
]

NOTICED_SECONDS = 30
"""Within so long a killed process has to be missed."""
MACHINE_SECONDS = 60
"""And a machine."""
ENDED_SECONDS = 30
START_SECONDS = 60

PRODUCTION = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "dagster.yaml").read_text())
CONFIGURATION = """
scicat: {host: "http://127.0.0.1:9/api/v3", username: ingestor, password: none}
kafka: {topics: none, group_id: none, bootstrap_servers: "127.0.0.1:9"}
ingestion: {file_handling: {data_directory: DATA}}
"""


@dataclass
class Workers:
    """An instance whose runs are executed by groups of warm workers."""

    instance: dg.DagsterInstance
    folder: Path
    lock: int
    start: Callable[..., subprocess.Popen[bytes]]

    @property
    def celery(self) -> Celery:
        launcher = self.instance.run_launcher
        assert isinstance(launcher, CeleryRunLauncher)
        return launcher.celery

    def unfinished_tasks(self) -> int:
        """How many tasks groups have taken and not acknowledged."""
        with self.celery.connection_for_read() as connection:
            return int(connection.default_channel.client.hlen("unacked"))

    def let_them_end(self) -> None:
        """What waits goes on."""
        fcntl.flock(self.lock, fcntl.LOCK_UN)

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        return found(self.instance, run_id).status

    def wait_until(self, run_id: str, status: dg.DagsterRunStatus, *, seconds: float) -> None:
        wait_for(lambda: self.status(run_id) is status, f"{status}", seconds=seconds)

    def started(self, job: dg.JobDefinition = waiting, queue: str = "here") -> tuple[str, int]:
        return started(self.instance, self.folder, job, {"dagster-celery/queue": queue})


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    """No group is started yet."""
    if shutil.which("redis-server") is None:
        pytest.skip("No Redis here.")
    (port,) = free_ports(1)
    config = tmp_path / "config.yml"
    config.write_text(CONFIGURATION.replace("DATA", str(tmp_path)))
    (tmp_path / "schemas").mkdir()
    launcher = {
        "module": "scicat_dagster.instance.warm_worker_launcher",
        "class": "WarmWorkerLauncher",
        "config": {
            "broker": f"redis://127.0.0.1:{port}/0",
            "backend": f"redis://127.0.0.1:{port}/1",
            "config_source": PRODUCTION["run_launcher"]["config"]["config_source"],
        },
    }
    home = tmp_path / "home"
    environment = {"DAGSTER_HOME": str(home), CONFIGURATION_VARIABLE: str(config)}
    with ExitStack() as stack:
        instance = stack.enter_context(instance_in(home, run_launcher=launcher))
        stack.enter_context(
            _running(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""])
        )

        def start(name: str, queue: str = "here", *, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
            command = [
                *prefix, sys.executable, "-m", "celery", "--app", "scicat_dagster.instance.celery_app",
                "worker", "--hostname", name, "--concurrency", "2", "--queues", queue,
                "--without-gossip", "--without-mingle", "--loglevel", "WARNING",
            ]  # fmt: skip
            return stack.enter_context(_running(command, environment))

        lock = stack.enter_context((tmp_path / "end").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        monkeypatch.setenv(CONFIGURATION_VARIABLE, str(config))
        yield Workers(instance, tmp_path, lock.fileno(), start)


@contextmanager
def _running(
    command: list[str], environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, none of which survives."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def monitor_of(group: subprocess.Popen[bytes]) -> int:
    """The process that looks after a group."""
    for name in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            is_ours = f" {group.pid} " in (name.parent / "stat").read_text()
            if is_ours and name.read_text() == "worker monitor\n":
                return int(name.parent.name)
    return 0


def test_a_run_whose_worker_process_is_killed_has_failed_at_once(workers: Workers) -> None:
    workers.start("group0@here")
    run_id, process = workers.started()

    os.kill(process, signal.SIGKILL)

    workers.wait_until(run_id, dg.DagsterRunStatus.FAILURE, seconds=NOTICED_SECONDS)


def test_a_run_whose_worker_process_is_killed_before_it_begins_is_begun_by_another(workers: Workers) -> None:
    workers.start("group0@here")
    run_id, process = starting(workers.instance, workers.folder, {"dagster-celery/queue": "here"})

    os.kill(process, signal.SIGKILL)

    # It waits for somebody who reads, as its first process did.
    (workers.folder / "begun").read_text()
    assert workers.status(run_id) is dg.DagsterRunStatus.STARTING
    assert process_of(workers.instance, run_id) != process


def test_a_run_that_had_not_begun_and_whose_task_redis_lost_has_failed(workers: Workers) -> None:
    group = workers.start("group0@here")
    run_id, _ = starting(workers.instance, workers.folder, {"dagster-celery/queue": "here"})

    kill_group(group)
    with workers.celery.connection_for_read() as connection:
        connection.default_channel.client.flushdb()
    workers.start("group0@here")

    workers.wait_until(run_id, dg.DagsterRunStatus.FAILURE, seconds=START_SECONDS)


def test_the_task_that_is_delivered_again_says_that_its_first_worker_is_gone(workers: Workers) -> None:
    group = workers.start("group0@here")
    run_id, process = workers.started()
    wait_for(lambda: monitor_of(group) > 0, "the monitor", seconds=START_SECONDS)
    # Nobody else looks: this process is not Dagster's daemon.
    os.kill(monitor_of(group), signal.SIGSTOP)

    os.kill(process, signal.SIGKILL)

    workers.wait_until(run_id, dg.DagsterRunStatus.FAILURE, seconds=NOTICED_SECONDS)


def test_a_group_that_is_started_again_says_what_became_of_its_runs(workers: Workers) -> None:
    group = workers.start("group0@here")
    run_id, process = workers.started()

    # The main process alone: its workers do not go on without it.
    group.kill()
    wait_for(lambda: not is_running(process), "the end of the orphan", seconds=ENDED_SECONDS)
    assert health(workers.instance, run_id) is WorkerStatus.FAILED
    workers.start("group0@here")

    workers.wait_until(run_id, dg.DagsterRunStatus.FAILURE, seconds=NOTICED_SECONDS)


def workers_of(group: subprocess.Popen[bytes]) -> list[int]:
    """The processes of a group that execute runs."""
    family = Path(f"/proc/{group.pid}/task/{group.pid}/children").read_text().split()
    return [int(pid) for pid in family if int(pid) != monitor_of(group)]


def test_a_run_that_had_not_begun_when_its_group_died_is_executed_by_another(workers: Workers) -> None:
    first = workers.start("group0@here")
    done, _ = workers.started()
    workers.let_them_end()
    workers.wait_until(done, dg.DagsterRunStatus.SUCCESS, seconds=ENDED_SECONDS)
    wait_for(lambda: workers.unfinished_tasks() == 0, "its acknowledgement", seconds=ENDED_SECONDS)
    # The group takes the task, and none of its workers begins.
    for pid in workers_of(first):
        os.kill(pid, signal.SIGSTOP)
    run_id = launched(workers.instance, workers.folder, waiting, {"dagster-celery/queue": "here"})
    wait_for(lambda: workers.unfinished_tasks() == 1, "the group to take it", seconds=ENDED_SECONDS)

    kill_group(first)
    workers.start("group1@here")
    # Its op waits for somebody who reads.
    wait_for(
        lambda: workers.status(run_id) is dg.DagsterRunStatus.STARTED, "the run", seconds=MACHINE_SECONDS
    )
    (workers.folder / "begun").read_text()

    workers.wait_until(run_id, dg.DagsterRunStatus.SUCCESS, seconds=ENDED_SECONDS)


def test_the_task_of_a_long_run_comes_again_and_leaves_it_alone(workers: Workers) -> None:
    workers.start("group0@here")
    run_id, process = workers.started()
    assert workers.unfinished_tasks() == 1

    # Redis gives it out once more, to the same group, and that one is acknowledged.
    wait_for(lambda: workers.unfinished_tasks() == 0, "the second delivery", seconds=MACHINE_SECONDS)

    assert workers.status(run_id) is dg.DagsterRunStatus.STARTED
    assert health(workers.instance, run_id) is WorkerStatus.RUNNING
    os.kill(process, signal.SIGKILL)
    workers.wait_until(run_id, dg.DagsterRunStatus.FAILURE, seconds=NOTICED_SECONDS)


def test_a_task_that_is_delivered_twice_is_executed_once(workers: Workers) -> None:
    workers.start("group0@here")
    run_id, process = workers.started()
    run = found(workers.instance, run_id)
    assert run.job_code_origin is not None
    arguments = ExecuteRunArgs(run.job_code_origin, run_id, workers.instance.get_ref())

    again = workers.celery.send_task(
        TASK_EXECUTE_JOB_NAME, kwargs={"execute_job_args_packed": pack_value(arguments)}, queue="here"
    )
    again.get(timeout=START_SECONDS)

    assert workers.status(run_id) is dg.DagsterRunStatus.STARTED
    assert process_of(workers.instance, run_id) == process
    assert health(workers.instance, run_id) is WorkerStatus.RUNNING
    workers.let_them_end()
    workers.wait_until(run_id, dg.DagsterRunStatus.SUCCESS, seconds=ENDED_SECONDS)
    steps = workers.instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_START)
    assert len(steps) == 1


@pytest.mark.parametrize("job", [waiting, looping], ids=["in Python", "in C"])
def test_a_run_that_is_cancelled_ends_and_its_worker_takes_the_next(
    workers: Workers, job: dg.JobDefinition
) -> None:
    workers.start("group0@here")
    run_id, process = workers.started(job)

    assert workers.instance.run_launcher.terminate(run_id)

    assert workers.status(run_id) is dg.DagsterRunStatus.CANCELED
    if job is looping:
        wait_for(lambda: not is_running(process), "the end of the process", seconds=ENDED_SECONDS)
    workers.let_them_end()
    # As many as there are workers, so that it was not only the other one's.
    for _ in range(2):
        after, _ = workers.started()
        workers.wait_until(after, dg.DagsterRunStatus.SUCCESS, seconds=ENDED_SECONDS)


def test_a_run_that_no_worker_has_yet_is_cancelled_and_never_executed(workers: Workers) -> None:
    queued = launched(workers.instance, workers.folder, waiting, {"dagster-celery/queue": "here"})

    assert workers.instance.run_launcher.terminate(queued)
    assert workers.status(queued) is dg.DagsterRunStatus.CANCELED
    workers.start("group0@here")
    after, _ = workers.started()

    assert workers.status(queued) is dg.DagsterRunStatus.CANCELED
    assert not list(workers.instance.all_logs(queued, of_type=dg.DagsterEventType.STEP_START))
    assert workers.status(after) is dg.DagsterRunStatus.STARTED


def test_another_machines_runs_are_cancelled_and_missed_with_it(workers: Workers) -> None:
    other = ("unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh")
    if subprocess.run([*other, "true"], capture_output=True).returncode != 0:
        pytest.skip("Only root can give a process a machine's name of its own.")
    group = workers.start("group0@elsewhere", "elsewhere", prefix=other)
    cancelled, _ = workers.started(looping, "elsewhere")
    lost, process = workers.started(waiting, "elsewhere")

    assert workers.instance.run_launcher.terminate(cancelled)
    assert workers.status(cancelled) is dg.DagsterRunStatus.CANCELED
    assert health(workers.instance, lost) is WorkerStatus.RUNNING

    kill_group(group)
    wait_for(lambda: not is_running(process), "the end of that machine", seconds=ENDED_SECONDS)
    wait_for(
        lambda: health(workers.instance, lost) is WorkerStatus.FAILED, "that somebody misses it",
        seconds=MACHINE_SECONDS,
    )  # fmt: skip


def test_a_container_with_the_name_of_this_machine_is_not_taken_for_it(workers: Workers) -> None:
    container = ("unshare", "--pid", "--fork", "--mount-proc")
    if subprocess.run([*container, "true"], capture_output=True).returncode != 0:
        pytest.skip("Only root can give a process numbers of its own.")
    workers.start("group0@here", prefix=container)
    run_id, _ = workers.started()

    assert health(workers.instance, run_id) is WorkerStatus.RUNNING
    assert workers.instance.run_launcher.terminate(run_id)
    assert workers.status(run_id) is dg.DagsterRunStatus.CANCELED


def test_a_machine_whose_monitor_is_killed_is_not_missed(workers: Workers) -> None:
    group = workers.start("group0@here")
    run_id, _ = workers.started()
    wait_for(lambda: monitor_of(group) > 0, "the monitor", seconds=START_SECONDS)
    first = monitor_of(group)

    os.kill(first, signal.SIGKILL)

    wait_for(lambda: monitor_of(group) not in (0, first), "another monitor", seconds=ENDED_SECONDS)
    assert workers.status(run_id) is dg.DagsterRunStatus.STARTED
    assert workers.instance.run_launcher.terminate(run_id)
