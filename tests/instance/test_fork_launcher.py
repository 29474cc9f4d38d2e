"""Runs as forks of a process that has loaded everything: that they end, are interrupted, and are missed."""

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus

from scicat_dagster.orchestration.failures.crashes import REPEATED_CRASH
from scicat_dagster.orchestration.failures.failed_files import failed_files
from scicat_dagster.orchestration.failures.policy import kind_of
from scicat_dagster.orchestration.tags import PARTITION_TAG, PROCESS_TAG
from tests.instance.waiting_runs import (
    cancel,
    found,
    health,
    is_running,
    looping,
    monitor,
    started,
    starting,
    wait_for,
    waiting,
)
from tests.small_facility import instance_in


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    launcher = {"module": "scicat_dagster.instance.fork_launcher", "class": "ForkLauncher"}
    with instance_in(tmp_path, run_launcher=launcher) as opened:
        yield opened


@pytest.fixture
def end(tmp_path: Path) -> Iterator[int]:
    """Runs go on until the lock of this file is given up."""
    with (tmp_path / "end").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def test_a_run_is_executed_in_a_process_of_its_own_that_ends_with_it(
    instance: dg.DagsterInstance, end: int, tmp_path: Path
) -> None:
    run_id, process = started(instance, tmp_path)
    assert process != os.getpid()
    assert health(instance, run_id) is WorkerStatus.RUNNING

    fcntl.flock(end, fcntl.LOCK_UN)
    instance.run_launcher.join()

    assert found(instance, run_id).status is dg.DagsterRunStatus.SUCCESS
    assert health(instance, run_id) is WorkerStatus.FAILED


def test_two_runs_are_executed_at_the_same_time(
    instance: dg.DagsterInstance, end: int, tmp_path: Path
) -> None:
    (_, first), (_, second) = started(instance, tmp_path), started(instance, tmp_path)

    assert first != second


def test_a_killed_process_is_missed(instance: dg.DagsterInstance, end: int, tmp_path: Path) -> None:
    run_id, process = started(instance, tmp_path)

    os.kill(process, signal.SIGKILL)
    instance.run_launcher.join()

    assert health(instance, run_id) is WorkerStatus.FAILED


def test_dagsters_monitoring_fails_the_run_of_a_killed_process_and_no_other(
    instance: dg.DagsterInstance, end: int, tmp_path: Path
) -> None:
    (lost, process), (alive, _) = started(instance, tmp_path), started(instance, tmp_path)

    os.kill(process, signal.SIGKILL)
    instance.run_launcher.join(timeout=1)
    monitor(instance)

    assert found(instance, lost).status is dg.DagsterRunStatus.FAILURE
    assert found(instance, alive).status is dg.DagsterRunStatus.STARTED


def test_a_run_whose_process_is_killed_before_it_begins_has_failed(
    instance: dg.DagsterInstance, end: int, tmp_path: Path
) -> None:
    run_id, process = starting(instance, tmp_path)

    os.kill(process, signal.SIGKILL)

    wait_for(lambda: found(instance, run_id).status is dg.DagsterRunStatus.FAILURE, "its failure", seconds=30)


def test_a_run_that_takes_long_to_begin_is_left_alone(
    instance: dg.DagsterInstance, end: int, tmp_path: Path
) -> None:
    run_id, _ = starting(instance, tmp_path)
    other, process = starting(instance, tmp_path)

    os.kill(process, signal.SIGKILL)
    wait_for(lambda: found(instance, other).is_finished, "the other one's failure", seconds=30)

    assert found(instance, run_id).status is dg.DagsterRunStatus.STARTING
    fcntl.flock(end, fcntl.LOCK_UN)
    (tmp_path / "begun").read_text()
    instance.run_launcher.join()
    assert found(instance, run_id).status is dg.DagsterRunStatus.SUCCESS


def test_another_process_with_the_same_number_is_not_the_runs(
    instance: dg.DagsterInstance, end: int, tmp_path: Path
) -> None:
    run_id, _ = started(instance, tmp_path)
    run = found(instance, run_id)
    host, process, *_ = run.tags[PROCESS_TAG].split()
    instance.add_run_tags(run_id, {PROCESS_TAG: f"{host} {process} 1 {run_id}"})

    assert health(instance, run_id) is WorkerStatus.FAILED
    assert instance.run_launcher.terminate(run_id)
    assert found(instance, run_id).status is dg.DagsterRunStatus.CANCELED
    assert is_running(int(process))


def test_nothing_is_said_of_a_process_on_another_machine(
    instance: dg.DagsterInstance, end: int, tmp_path: Path
) -> None:
    run_id, process = started(instance, tmp_path)
    instance.add_run_tags(run_id, {PROCESS_TAG: f"elsewhere.example.org {process} 1 {run_id}"})

    assert health(instance, run_id) is WorkerStatus.RUNNING
    assert not instance.run_launcher.terminate(run_id)


@pytest.mark.parametrize("job", [waiting, looping], ids=["in Python", "in C"])
def test_a_run_that_is_cancelled_ends_with_its_process(
    instance: dg.DagsterInstance, end: int, tmp_path: Path, job: dg.JobDefinition
) -> None:
    run_id, process = started(instance, tmp_path, job)

    assert cancel(instance, run_id)

    assert found(instance, run_id).status is dg.DagsterRunStatus.CANCELED
    wait_for(lambda: not is_running(process), "the end of the process", seconds=10)
    assert not instance.run_launcher.terminate(run_id)


def killed(instance: dg.DagsterInstance, folder: Path, file: str, job: dg.JobDefinition = waiting) -> str:
    """A run of a file whose process was killed, as Dagster's monitoring then reports it."""
    instance.add_dynamic_partitions("nexus_files", [file])
    run_id, process = started(instance, folder, job, {PARTITION_TAG: file})
    os.kill(process, signal.SIGKILL)
    wait_for(lambda: not is_running(process), "the end of the process", seconds=10)
    assert health(instance, run_id) is WorkerStatus.FAILED
    instance.report_run_failed(found(instance, run_id))
    return run_id


def test_a_file_whose_runs_crash_twice_at_the_same_op_needs_manual_intervention(
    instance: dg.DagsterInstance, end: int, tmp_path: Path
) -> None:
    first = killed(instance, tmp_path, "/data/a.hdf")
    assert [file.kind for file in failed_files(instance)] == ["crash"]

    second = killed(instance, tmp_path, "/data/a.hdf")

    (file,) = failed_files(instance)
    assert (file.run_id, file.kind) == (second, REPEATED_CRASH)
    assert file.needs_manual_intervention
    assert kind_of(found(instance, first)) is None


def test_crashes_of_two_files_or_at_two_ops_are_two_stories(
    instance: dg.DagsterInstance, end: int, tmp_path: Path
) -> None:
    killed(instance, tmp_path, "/data/a.hdf")
    killed(instance, tmp_path, "/data/b.hdf")
    killed(instance, tmp_path, "/data/b.hdf", looping)

    assert {file.kind for file in failed_files(instance)} == {"crash"}


def test_a_process_that_went_on_to_another_run_is_not_taken_for_the_first_ones(
    instance: dg.DagsterInstance, end: int, tmp_path: Path
) -> None:
    first, _ = started(instance, tmp_path)
    second, process = started(instance, tmp_path)
    tag = found(instance, second).tags[PROCESS_TAG].replace(second, first)
    instance.add_run_tags(first, {PROCESS_TAG: tag})

    assert health(instance, first) is WorkerStatus.FAILED
    assert instance.run_launcher.terminate(first)
    assert is_running(process)
    assert found(instance, second).status is dg.DagsterRunStatus.STARTED
