"""The Celery application of the warm workers: processes that have loaded everything before a run comes.

Started as ``celery --app scicat_dagster.orchestration.warm_worker worker``. The broker and every setting are
those of the ``run_launcher`` in ``dagster.yaml``, so that they are said in one place. Which runs there are,
and in what order, is Dagster's business; nothing else belongs here.
"""

from __future__ import annotations

from typing import Any

import dagster as dg
from celery import Celery, signals
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tasks import create_execute_job_task, create_resume_job_task

import scicat_dagster.definitions as loaded_before_the_fork
from scicat_dagster.errors import PermanentError


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
    create_execute_job_task(launcher.celery)
    create_resume_job_task(launcher.celery)
    return launcher.celery


def _load(**_: Any) -> None:
    """Before the worker forks, so that its processes share what was loaded and are ready at once."""
    loaded_before_the_fork.build_definitions(loaded_before_the_fork.configuration_from_environment())


signals.worker_init.connect(_load)

app = worker_app(dg.DagsterInstance.get())
