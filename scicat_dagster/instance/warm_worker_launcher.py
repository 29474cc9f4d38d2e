"""Dagster's launcher of runs on warm workers, which misses the dead. Named in ``deploy/dagster.yaml``.

What the workers do with a run is in ``warm_worker``, and who looks after them in ``worker_monitor``.
"""

from __future__ import annotations

import time
from typing import Any

import dagster as dg
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import (
    DAGSTER_CELERY_QUEUE_TAG,
    DAGSTER_CELERY_RUN_PRIORITY_TAG,
)

from scicat_dagster.dagster_internals import CheckRunHealthResult, WorkerStatus
from scicat_dagster.instance.run_process import GRACE_SECONDS, NOT_BEGUN, is_at_work, is_on_this_machine
from scicat_dagster.instance.worker_monitor import Heartbeats
from scicat_dagster.orchestration.failures.crashes import lost_run_health
from scicat_dagster.orchestration.tags import GROUP_TAG, PROCESS_TAG

_END_SECONDS = 3 * GRACE_SECONDS
"""How long to wait for the end of a run: its group's monitor first asks, then kills."""
_LOOK_SECONDS = 0.5


class WarmWorkerLauncher(CeleryRunLauncher):
    """Knows the process of each run, where Dagster's own launcher asks Celery for its task.

    A task tells too little: it is finished when it was delivered twice, and unknown when Redis has forgotten
    it, whatever the run does; and Celery's ``revoke`` ends no process that hangs in C.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._heartbeats = Heartbeats()

    @property
    def supports_resume_run(self) -> bool:
        """It does not: Dagster's launcher names the task's argument in a way that its task refuses.

        A run whose process is gone is retried from the op that failed, as with the other launcher.
        """
        return False

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the process of a run is still at work, or else the heart of its group still beats."""
        if is_on_this_machine(run):
            if not is_at_work(run):
                return lost_run_health(self._instance, run, "The process of the run is gone.")
        elif GROUP_TAG in run.tags and self._heartbeats.is_silent(self._instance, run.tags[GROUP_TAG]):
            return lost_run_health(self._instance, run, "The machine of the run's workers is silent.")
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def get_run_worker_debug_info(
        self,
        run: dg.DagsterRun,
        include_container_logs: bool | None = True,  # noqa: ARG002, FBT001, FBT002 - there are no containers
    ) -> str | None:
        """Which process a run has, for the message with which Dagster's monitoring fails it."""
        return run.tags.get(PROCESS_TAG)

    def terminate(self, run_id: str) -> bool:
        """Let the monitor of the run's workers end it; False where nobody did so in time."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        if run.status in NOT_BEGUN:
            # The worker that gets its task leaves it alone.
            self._instance.report_run_canceled(run)
            return True
        return self._is_ended(run_id)

    def _is_ended(self, run_id: str) -> bool:
        deadline = time.monotonic() + _END_SECONDS
        while time.monotonic() < deadline:
            run = self._instance.get_run_by_id(run_id)
            if run is None or run.is_finished:
                return True
            time.sleep(_LOOK_SECONDS)
        return False

    def _launch_celery_task_run(self, run: dg.DagsterRun, task_signature: Any, routing_key: str) -> None:  # noqa: ARG002 - Celery routes by the queue
        # Dagster's own launcher tags the run with its task while a worker already starts it. Both read the
        # run and write it back, and the later of the two wins. With this name nothing has to be written.
        task_id = run.run_id
        queue = run.tags.get(DAGSTER_CELERY_QUEUE_TAG, self.default_queue)
        self._instance.report_engine_event(
            f"Handing the run to the workers of the queue {queue}.", run, cls=type(self)
        )
        task_signature.apply_async(task_id=task_id, priority=_priority(run), queue=queue)


def _priority(run: dg.DagsterRun) -> int:
    try:
        return int(run.tags.get(DAGSTER_CELERY_RUN_PRIORITY_TAG, ""))
    except ValueError:
        return 0
