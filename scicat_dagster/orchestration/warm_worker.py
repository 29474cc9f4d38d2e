"""The Celery application of the warm workers: processes that have loaded everything before a run comes.

Started as ``celery --app scicat_dagster.orchestration.warm_worker worker``. The broker and every setting are
those of the ``run_launcher`` in ``dagster.yaml``, so that they are said in one place. Which runs there are,
and in what order, is Dagster's business; nothing else belongs here.
"""

from __future__ import annotations

import gc
from functools import cache
from typing import Any

import dagster as dg
from celery import Celery, signals
from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs
from dagster._serdes import unpack_value
from dagster_celery.config import TASK_EXECUTE_JOB_NAME, TASK_RESUME_JOB_NAME
from dagster_celery.launcher import CeleryRunLauncher

import scicat_dagster.definitions as loaded_before_the_fork
from scicat_dagster.errors import PermanentError
from scicat_dagster.isolation.client import start
from scicat_dagster.orchestration.executing import execute_run, resume_run


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
    application.task(_resume, name=TASK_RESUME_JOB_NAME, track_started=True)
    return application


def _execute(execute_job_args_packed: Any) -> int:
    run = unpack_value(execute_job_args_packed, as_type=ExecuteRunArgs)
    return execute_run(kept_instance(), run.run_id)


def _resume(resume_job_args_packed: Any) -> int:
    run = unpack_value(resume_job_args_packed, as_type=ResumeRunArgs)
    return resume_run(kept_instance(), run.run_id)


@cache
def kept_instance() -> dg.DagsterInstance:
    """The process's own, with its connections and the statements that were compiled for them."""
    return dg.DagsterInstance.get()


def _load(**_: Any) -> None:
    """Before the worker forks, so that its processes share what was loaded and are ready at once."""
    loaded_before_the_fork.build_definitions(loaded_before_the_fork.current_configuration().read())
    start()
    # What is here stays; looking through it for garbage would copy it into each process.
    gc.freeze()


signals.worker_init.connect(_load)

app = worker_app(dg.DagsterInstance.get())
