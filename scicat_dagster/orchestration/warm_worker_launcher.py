"""Dagster's launcher of runs on warm workers, but for one race. Named in ``deploy/dagster.yaml``.

What the workers do with a run is in ``warm_worker``; nothing else belongs here.
"""

from __future__ import annotations

import uuid
from typing import Any

import dagster as dg
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import (
    DAGSTER_CELERY_QUEUE_TAG,
    DAGSTER_CELERY_RUN_PRIORITY_TAG,
    DAGSTER_CELERY_TASK_ID_TAG,
)


class WarmWorkerLauncher(CeleryRunLauncher):
    """Names the task of a run on the run *before* a worker can have it.

    Dagster reads a run, adds a tag and writes it back. Its own launcher adds the name while a worker already
    starts the run, which is written back, too, and the later of the two wins. Without the name Dagster cannot
    ask after the worker, and a run whose worker dies is then never ended.
    """

    def _launch_celery_task_run(self, run: dg.DagsterRun, task_signature: Any, routing_key: str) -> None:  # noqa: ARG002 - Celery routes by the queue
        task_id = str(uuid.uuid4())
        queue = run.tags.get(DAGSTER_CELERY_QUEUE_TAG, self.default_queue)
        self._instance.add_run_tags(run.run_id, {DAGSTER_CELERY_TASK_ID_TAG: task_id})
        self._instance.report_engine_event(
            f"Handing the run to the workers of the queue {queue} as task {task_id}.", run, cls=type(self)
        )
        task_signature.apply_async(task_id=task_id, priority=_priority(run), queue=queue)


def _priority(run: dg.DagsterRun) -> int:
    try:
        return int(run.tags.get(DAGSTER_CELERY_RUN_PRIORITY_TAG, ""))
    except ValueError:
        return 0
