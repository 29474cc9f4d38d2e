"""Runs that are under way until the test says otherwise, for the tests of both launchers."""

import fcntl
import itertools
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus
from dagster._core.origin import JobPythonOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration

from scicat_dagster.orchestration.tags import PROCESS_TAG


@dg.op(config_schema={"begun": str, "end": str})
def wait(context: dg.OpExecutionContext) -> None:
    """Until the lock of a file is given up; interrupted like any Python code."""
    Path(context.op_config["begun"]).write_text("")
    with Path(context.op_config["end"]).open() as end:
        fcntl.flock(end, fcntl.LOCK_SH)


@dg.job(name="ingest_file", executor_def=dg.in_process_executor)
def waiting() -> None:
    wait()


@dg.op(config_schema={"begun": str, "end": str})
def loop(context: dg.OpExecutionContext) -> None:
    """Loop in C indefinitely, as a library that reads a damaged file does: no Python signal handler runs."""
    Path(context.op_config["begun"]).write_text("")
    sum(itertools.repeat(0))


@dg.job(name="ingest_file", executor_def=dg.in_process_executor)
def looping() -> None:
    loop()


def slow_to_load(begun: str, end: str, launched_by: int) -> dg.JobDefinition:
    """A job that is found only when the lock of a file is given up: its runs are starting until then."""
    if os.getpid() != launched_by:
        Path(begun).write_text("")
        with Path(end).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
    return waiting


def starting(
    instance: dg.DagsterInstance, folder: Path, tags: dict[str, str] | None = None
) -> tuple[str, int]:
    """A run whose process has begun, but not yet the run, and this process."""
    places = {"begun": str(_pipe(folder)), "end": str(folder / "end"), "launched_by": os.getpid()}
    origin = dg.build_reconstructable_job(
        __name__, "slow_to_load", reconstructable_kwargs=places
    ).get_python_origin()
    run_id = launched(instance, folder, waiting, tags, origin)
    _pipe(folder).read_text()
    assert found(instance, run_id).status is dg.DagsterRunStatus.STARTING
    return run_id, process_of(instance, run_id)


def _pipe(folder: Path) -> Path:
    """Both ends of it wait for the other."""
    begun = folder / "begun"
    if not begun.exists():
        os.mkfifo(begun)
    return begun


def launched(
    instance: dg.DagsterInstance,
    folder: Path,
    job: dg.JobDefinition,
    tags: dict[str, str] | None = None,
    origin: JobPythonOrigin | None = None,
) -> str:
    """A run that is handed to the launcher; its op waits at the pipe ``begun`` until somebody reads it."""
    places = {"begun": str(_pipe(folder)), "end": str(folder / "end")}
    (op,) = job.nodes
    run = instance.create_run_for_job(
        job,
        job_code_origin=origin or dg.reconstructable(job).get_python_origin(),
        run_config={"ops": {op.name: {"config": places}}},
        tags=tags,
    )
    launch(instance, run.run_id)
    return run.run_id


def launch(instance: dg.DagsterInstance, run_id: str) -> None:
    """As Dagster's daemon does with a run whose turn it is."""
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as workspace:
        instance.launch_run(run_id, workspace.create_request_context())


def monitor(instance: dg.DagsterInstance) -> None:
    """Look once after all runs, as Dagster's daemon does."""
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as workspace:
        errors = execute_run_monitoring_iteration(workspace, logging.getLogger(__name__))
        assert not any(errors)


def cancel(instance: dg.DagsterInstance, run_id: str) -> bool:
    """As Dagster does when a person cancels a run."""
    return instance.run_coordinator.cancel_run(run_id)


def started(
    instance: dg.DagsterInstance,
    folder: Path,
    job: dg.JobDefinition = waiting,
    tags: dict[str, str] | None = None,
) -> tuple[str, int]:
    """A run whose op is under way, and the process that executes it."""
    run_id = launched(instance, folder, job, tags)
    _pipe(folder).read_text()
    return run_id, process_of(instance, run_id)


def process_of(instance: dg.DagsterInstance, run_id: str) -> int:
    return int(found(instance, run_id).tags[PROCESS_TAG].split()[1])


def found(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run


def health(instance: dg.DagsterInstance, run_id: str) -> WorkerStatus:
    return instance.run_launcher.check_run_worker_health(found(instance, run_id)).status


def is_running(process: int) -> bool:
    """Whether a process still does anything; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"Not within {seconds:.0f} s: {what}")
        time.sleep(0.1)
