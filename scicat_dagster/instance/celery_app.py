"""The Celery application of the warm workers: processes that have loaded everything before a run comes.

Started as ``celery --app scicat_dagster.instance.celery_app worker``. The broker and every setting are
those of the ``run_launcher`` in ``dagster.yaml``, so that they are said in one place. Which runs there are,
and in what order, is Dagster's business; nothing else belongs here.
"""

from __future__ import annotations

import gc
from contextlib import suppress
from functools import cache
from typing import Any

import dagster as dg
from celery import Celery, current_task, signals
from dagster_celery.config import TASK_EXECUTE_JOB_NAME
from dagster_celery.launcher import CeleryRunLauncher

from scicat_dagster.dagster_internals import ExecuteRunArgs, unpack_value
from scicat_dagster.errors import PermanentError
from scicat_dagster.instance.code_location import load_definitions
from scicat_dagster.instance.run_execution import execute_run
from scicat_dagster.instance.run_process import (
    NOT_BEGUN,
    at_work,
    is_at_work,
    is_on_this_machine,
    report_lost,
)
from scicat_dagster.instance.worker_monitor import watch
from scicat_dagster.isolation import start
from scicat_dagster.orchestration.tags import GROUP_TAG


def worker_app(instance: dg.DagsterInstance) -> Celery:
    """The application that takes what the instance's launcher sends.

    Raises
    ------
    PermanentError
        The instance launches its runs in another way.
    """
    launcher = instance.run_launcher
    if not isinstance(launcher, CeleryRunLauncher):
        raise PermanentError(
            f"This instance launches its runs with {type(launcher).__name__}, not with CeleryRunLauncher.",
            remedy="Use deploy/dagster.yaml as DAGSTER_HOME/dagster.yaml.",
        )
    application = launcher.celery
    application.task(_execute, name=TASK_EXECUTE_JOB_NAME, track_started=True)
    return application


def _execute(execute_job_args_packed: Any) -> int:
    run_id = unpack_value(execute_job_args_packed, as_type=ExecuteRunArgs).run_id
    instance = kept_instance()
    run = instance.get_run_by_id(run_id)
    if run is None or run.status not in NOT_BEGUN or is_at_work(run):
        return _delivered_again(instance, run)
    with at_work(instance, run_id, _group()):
        return execute_run(instance, run_id)


def _delivered_again(instance: dg.DagsterInstance, run: dg.DagsterRun | None) -> int:
    """Say what became of a run whose task comes a second time, or after the run was cancelled.

    It comes when its first worker process died, but also after a restart of Redis, or when Redis has not
    heard for half a minute that it is done: the first worker may well be at work. That of another machine is
    its own monitor's to judge.
    """
    if run is not None and is_on_this_machine(run):
        report_lost(instance, run.run_id)
    return 0


def _group() -> dict[str, str]:
    return {GROUP_TAG: current_task.request.hostname}


@cache
def kept_instance() -> dg.DagsterInstance:
    """The process's own, with its connections and the statements that were compiled for them."""
    return dg.DagsterInstance.get()


def _load(sender: Any, **_: Any) -> None:
    """Before the worker forks, so that its processes share what was loaded and are ready at once."""
    # What cannot be used yet is loaded by each run, which says why.
    with suppress(PermanentError):
        load_definitions()
    start()
    # What is here stays; looking through it for garbage would copy it into each process.
    gc.freeze()
    watch(sender.hostname)


signals.worker_init.connect(_load)

app = worker_app(dg.DagsterInstance.get())
