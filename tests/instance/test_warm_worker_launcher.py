"""Handing runs to warm workers: Dagster can ask after a run's worker from its first moment."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from celery import signals
from dagster._check import CheckError
from dagster_celery.config import TASK_EXECUTE_JOB_NAME

from scicat_dagster.instance.run_process import at_work
from tests.instance.waiting_runs import cancel, found, launch, monitor
from tests.small_facility import instance_in


@dg.job
def waiting() -> None:
    """Handed over; nobody executes it here."""


LAUNCHER = {
    "module": "scicat_dagster.instance.warm_worker_launcher",
    "class": "WarmWorkerLauncher",
    "config": {"broker": "memory://", "backend": "cache+memory://"},
}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with instance_in(tmp_path, run_launcher=LAUNCHER) as opened:
        yield opened


def test_a_run_is_handed_over_as_the_task_of_the_same_id(instance: dg.DagsterInstance) -> None:
    origin = dg.reconstructable(waiting).get_python_origin()
    run = instance.create_run_for_job(
        waiting,
        job_code_origin=origin,
        tags={"dagster-celery/queue": "fast", "dagster-celery/run_priority": "3"},
    )
    published: list[dict[str, Any]] = []

    def look(
        body: tuple[Any, dict[str, Any], Any],
        headers: dict[str, Any],
        routing_key: str,
        properties: dict[str, Any],
        **_: Any,
    ) -> None:
        published.append(
            {
                "task": headers["id"],
                "name": headers["task"],
                "arguments": list(body[1]),
                "queue": routing_key,
                "priority": properties["priority"],
            }
        )

    signals.before_task_publish.connect(look)
    try:
        launch(instance, run.run_id)
    finally:
        signals.before_task_publish.disconnect(look)

    (task,) = published
    # So that nobody has to write it down.
    assert task["task"] == run.run_id
    assert task["name"] == TASK_EXECUTE_JOB_NAME
    # The parameter of the task in celery_app.
    assert task["arguments"] == ["execute_job_args_packed"]
    assert task["queue"] == "fast"
    assert task["priority"] == 3


def test_dagsters_monitoring_fails_a_run_whose_process_is_gone(instance: dg.DagsterInstance) -> None:
    run_id = instance.create_run_for_job(waiting, status=dg.DagsterRunStatus.STARTED).run_id

    with at_work(instance, run_id):
        monitor(instance)
        assert found(instance, run_id).status is dg.DagsterRunStatus.STARTED
    monitor(instance)

    assert found(instance, run_id).status is dg.DagsterRunStatus.FAILURE


def test_a_run_that_no_worker_has_is_cancelled_at_once(instance: dg.DagsterInstance) -> None:
    run_id = instance.create_run_for_job(waiting, status=dg.DagsterRunStatus.STARTING).run_id

    assert cancel(instance, run_id)

    assert found(instance, run_id).status is dg.DagsterRunStatus.CANCELED


def test_a_setting_by_which_runs_would_be_resumed_is_refused(tmp_path: Path) -> None:
    monitoring = {"enabled": True, "max_resume_run_attempts": 1}

    with (
        pytest.raises(CheckError, match="does not support resuming runs"),
        instance_in(tmp_path, run_launcher=LAUNCHER, run_monitoring=monitoring),
    ):
        pass
