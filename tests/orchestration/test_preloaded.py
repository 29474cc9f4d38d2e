"""Runs as forks of a process that has loaded everything: that they end, are interrupted, and are missed."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.launcher import LaunchRunContext, WorkerStatus

from scicat_dagster.orchestration.preloaded import PROCESS_TAG

_SECONDS = 60.0


@dg.op(config_schema={"until": str})
def wait(context: dg.OpExecutionContext) -> None:
    while not Path(context.op_config["until"]).exists():
        time.sleep(0.05)


@dg.job(executor_def=dg.in_process_executor)
def waiting() -> None:
    wait()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    settings = {
        "telemetry": {"enabled": False},
        "run_launcher": {
            "module": "scicat_dagster.orchestration.preloaded",
            "class": "PreloadedRunLauncher",
        },
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


@pytest.fixture
def end(tmp_path: Path) -> Iterator[Path]:
    """Runs go on until this file exists."""
    path = tmp_path / "end"
    yield path
    path.touch()


def launched(instance: dg.DagsterInstance, end: Path) -> str:
    run = instance.create_run_for_job(
        waiting,
        job_code_origin=dg.reconstructable(waiting).get_python_origin(),
        run_config={"ops": {"wait": {"config": {"until": str(end)}}}},
    )
    instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    return run.run_id


def found(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def started(instance: dg.DagsterInstance, end: Path) -> tuple[str, int]:
    """A run whose op is under way, and the process that executes it."""
    run_id = launched(instance, end)
    step_start = dg.DagsterEventType.STEP_START
    wait_for(lambda: bool(instance.all_logs(run_id, of_type=step_start)))
    return run_id, int(found(instance, run_id).tags[PROCESS_TAG].split()[1])


def health(instance: dg.DagsterInstance, run: dg.DagsterRun) -> WorkerStatus:
    return instance.run_launcher.check_run_worker_health(run).status


def test_a_run_is_executed_in_a_process_of_its_own_that_ends_with_it(
    instance: dg.DagsterInstance, end: Path
) -> None:
    run_id, process = started(instance, end)
    assert process != os.getpid()
    assert health(instance, found(instance, run_id)) is WorkerStatus.RUNNING

    end.touch()

    wait_for(lambda: found(instance, run_id).status is dg.DagsterRunStatus.SUCCESS)
    wait_for(lambda: health(instance, found(instance, run_id)) is WorkerStatus.FAILED)


def test_two_runs_are_executed_at_the_same_time(instance: dg.DagsterInstance, end: Path) -> None:
    (_, first), (_, second) = started(instance, end), started(instance, end)

    assert first != second


def test_a_killed_process_is_missed(instance: dg.DagsterInstance, end: Path) -> None:
    run_id, process = started(instance, end)

    os.kill(process, signal.SIGKILL)

    wait_for(lambda: health(instance, found(instance, run_id)) is WorkerStatus.FAILED)


def test_another_process_with_the_same_number_is_not_the_runs(
    instance: dg.DagsterInstance, end: Path
) -> None:
    run_id, _ = started(instance, end)
    run = found(instance, run_id)
    host, process, _ = run.tags[PROCESS_TAG].split()
    instance.add_run_tags(run_id, {PROCESS_TAG: f"{host} {process} 1"})

    assert health(instance, found(instance, run_id)) is WorkerStatus.FAILED
    assert not instance.run_launcher.terminate(run_id)


def test_nothing_is_said_of_a_process_on_another_machine(instance: dg.DagsterInstance, end: Path) -> None:
    run_id, process = started(instance, end)
    instance.add_run_tags(run_id, {PROCESS_TAG: f"elsewhere.example.org {process} 1"})

    assert health(instance, found(instance, run_id)) is WorkerStatus.RUNNING
    assert not instance.run_launcher.terminate(run_id)


def test_a_run_can_be_interrupted(instance: dg.DagsterInstance, end: Path) -> None:
    run_id, _ = started(instance, end)

    assert instance.run_launcher.terminate(run_id)

    wait_for(lambda: found(instance, run_id).status is dg.DagsterRunStatus.CANCELED)
    assert not instance.run_launcher.terminate(run_id)
