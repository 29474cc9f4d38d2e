"""Runs as forks of a process that has loaded everything: that they end, are interrupted, and are missed."""

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.launcher import LaunchRunContext, WorkerStatus

from scicat_dagster.orchestration.fork_launcher import PROCESS_TAG
from tests.orchestration.conftest import instance_in


@dg.op(config_schema={"begun": str, "end": str})
def wait(context: dg.OpExecutionContext) -> None:
    Path(context.op_config["begun"]).write_text("")
    with Path(context.op_config["end"]).open() as end:
        fcntl.flock(end, fcntl.LOCK_SH)


@dg.job(executor_def=dg.in_process_executor)
def waiting() -> None:
    wait()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    launcher = {"module": "scicat_dagster.orchestration.fork_launcher", "class": "ForkLauncher"}
    with instance_in(tmp_path, run_launcher=launcher) as opened:
        yield opened


@pytest.fixture
def end(tmp_path: Path) -> Iterator[int]:
    """Runs go on until the lock of this file is given up."""
    with (tmp_path / "end").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def started(instance: dg.DagsterInstance, folder: Path) -> tuple[str, int]:
    """A run whose op is under way, and the process that executes it."""
    begun = folder / "begun"
    if not begun.exists():
        os.mkfifo(begun)
    run = instance.create_run_for_job(
        waiting,
        job_code_origin=dg.reconstructable(waiting).get_python_origin(),
        run_config={"ops": {"wait": {"config": {"begun": str(begun), "end": str(folder / "end")}}}},
    )
    instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    # Both ends of the pipe wait for the other.
    begun.read_text()
    return run.run_id, int(found(instance, run.run_id).tags[PROCESS_TAG].split()[1])


def found(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run


def health(instance: dg.DagsterInstance, run: dg.DagsterRun) -> WorkerStatus:
    return instance.run_launcher.check_run_worker_health(run).status


def test_a_run_is_executed_in_a_process_of_its_own_that_ends_with_it(
    instance: dg.DagsterInstance, end: int, tmp_path: Path
) -> None:
    run_id, process = started(instance, tmp_path)
    assert process != os.getpid()
    assert health(instance, found(instance, run_id)) is WorkerStatus.RUNNING

    fcntl.flock(end, fcntl.LOCK_UN)
    instance.run_launcher.join()

    assert found(instance, run_id).status is dg.DagsterRunStatus.SUCCESS
    assert health(instance, found(instance, run_id)) is WorkerStatus.FAILED


def test_two_runs_are_executed_at_the_same_time(
    instance: dg.DagsterInstance, end: int, tmp_path: Path
) -> None:
    (_, first), (_, second) = started(instance, tmp_path), started(instance, tmp_path)

    assert first != second


def test_a_killed_process_is_missed(instance: dg.DagsterInstance, end: int, tmp_path: Path) -> None:
    run_id, process = started(instance, tmp_path)

    os.kill(process, signal.SIGKILL)
    instance.run_launcher.join()

    assert health(instance, found(instance, run_id)) is WorkerStatus.FAILED


def test_another_process_with_the_same_number_is_not_the_runs(
    instance: dg.DagsterInstance, end: int, tmp_path: Path
) -> None:
    run_id, _ = started(instance, tmp_path)
    run = found(instance, run_id)
    host, process, _ = run.tags[PROCESS_TAG].split()
    instance.add_run_tags(run_id, {PROCESS_TAG: f"{host} {process} 1"})

    assert health(instance, found(instance, run_id)) is WorkerStatus.FAILED
    assert not instance.run_launcher.terminate(run_id)


def test_nothing_is_said_of_a_process_on_another_machine(
    instance: dg.DagsterInstance, end: int, tmp_path: Path
) -> None:
    run_id, process = started(instance, tmp_path)
    instance.add_run_tags(run_id, {PROCESS_TAG: f"elsewhere.example.org {process} 1"})

    assert health(instance, found(instance, run_id)) is WorkerStatus.RUNNING
    assert not instance.run_launcher.terminate(run_id)


def test_a_run_can_be_interrupted(instance: dg.DagsterInstance, end: int, tmp_path: Path) -> None:
    run_id, _ = started(instance, tmp_path)

    assert instance.run_launcher.terminate(run_id)
    instance.run_launcher.join()

    assert found(instance, run_id).status is dg.DagsterRunStatus.CANCELED
    assert not instance.run_launcher.terminate(run_id)
