"""What Dagster's daemon makes of our run queue; other tests follow the limit and the login gate."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._daemon import controller, sensor
from dagster._daemon.backfill import execute_backfill_iteration, execute_backfill_iteration_loop
from dagster._daemon.controller import create_daemon_of_type
from dagster._daemon.daemon import IntervalDaemon
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from scicat_dagster.config.loading import CONFIGURATION_VARIABLE
from scicat_dagster.dagster_internals import (
    BACKFILL_SECONDS,
    SENSOR_SECONDS,
    SensorInstigatorData,
    SubmitRunContext,
)
from scicat_dagster.instance import run_coordinator
from scicat_dagster.instance.run_coordinator import FacilityRunCoordinator
from scicat_dagster.orchestration.past_files.backfills import start_backfills
from tests.brokers import free_ports
from tests.small_facility import SmallFacility, instance_in

COORDINATOR = {"module": FacilityRunCoordinator.__module__, "class": FacilityRunCoordinator.__name__}


@pytest.fixture(autouse=True)
def dagsters_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give Dagster back what a coordinator changes in the process of the daemon."""
    monkeypatch.setattr(sensor, "MIN_INTERVAL_LOOP_TIME", sensor.MIN_INTERVAL_LOOP_TIME)
    interval = controller.DEFAULT_DAEMON_INTERVAL_SECONDS
    monkeypatch.setattr(controller, "DEFAULT_DAEMON_INTERVAL_SECONDS", interval)
    monkeypatch.setattr(sensor, "is_under_min_interval", sensor.is_under_min_interval)
    monkeypatch.setattr(QueuedRunCoordinatorDaemon, "run_iteration", QueuedRunCoordinatorDaemon.run_iteration)


@dataclass
class Context:
    """What the daemon of the queue asks of its workspace while no run is launched."""

    instance: Any


def queue_daemon(instance: dg.DagsterInstance) -> QueuedRunCoordinatorDaemon:
    daemon = create_daemon_of_type(QueuedRunCoordinatorDaemon.daemon_type(), instance)
    assert isinstance(daemon, QueuedRunCoordinatorDaemon)
    return daemon


def test_the_queue_is_evaluated_when_a_run_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that nothing but the submission ends the wait.
    monkeypatch.setattr(run_coordinator, "_IDLE_SECONDS", 3600.0)
    # No place for a run, so that none is launched.
    none = {**COORDINATOR, "config": {"max_concurrent_runs": 0}}
    with instance_in(tmp_path, run_coordinator=none) as instance:
        daemon: Any = queue_daemon(instance)
        evaluation = daemon.run_iteration(Context(instance))
        evaluated = Thread(target=lambda: list(evaluation), daemon=True)
        evaluated.start()
        origin = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "repository")
        run = dg.DagsterRun("ingest_file", remote_job_origin=RemoteJobOrigin(origin, "ingest_file"))
        instance.add_run(run)

        instance.run_coordinator.submit_run(SubmitRunContext(run, workspace=None))  # type: ignore[arg-type]

        evaluated.join(60)
        assert not evaluated.is_alive()


def test_the_daemon_itself_does_not_pause(tmp_path: Path) -> None:
    with instance_in(tmp_path, run_coordinator=COORDINATOR) as instance:
        assert queue_daemon(instance).interval_seconds == 0


def test_a_dagster_without_that_step_evaluates_the_queue_twice_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(QueuedRunCoordinatorDaemon, "run_iteration")
    monkeypatch.delattr(IntervalDaemon, "run_iteration")
    monkeypatch.delattr(sensor, "MIN_INTERVAL_LOOP_TIME")
    with instance_in(tmp_path, run_coordinator=COORDINATOR) as instance:
        coordinator = instance.run_coordinator
        assert isinstance(coordinator, FacilityRunCoordinator)
        assert 0 < coordinator.dequeue_interval_seconds <= 0.5


def test_the_sensor_daemon_begins_ticks_twice_a_second(tmp_path: Path) -> None:
    with instance_in(tmp_path, run_coordinator=COORDINATOR) as instance:
        queue_daemon(instance)

    # Where Dagster has no such constant any more, files wait for up to five seconds.
    assert sensor.MIN_INTERVAL_LOOP_TIME == SENSOR_SECONDS


class WaitedError(Exception):
    """How long the loop of a daemon would have waited."""


class Waiting(Event):
    """Ends a loop where it waits."""

    def wait(self, timeout: float | None = None) -> bool:
        raise WaitedError(timeout)


def test_the_backfill_daemon_looks_every_ten_seconds(tmp_path: Path) -> None:
    with instance_in(tmp_path, run_coordinator=COORDINATOR) as instance:
        queue_daemon(instance)
        context: Any = Context(instance)
        loop = execute_backfill_iteration_loop(context, logging.getLogger("backfills"), Waiting())

        with pytest.raises(WaitedError) as waited:
            list(loop)

    assert 0 < waited.value.args[0] <= BACKFILL_SECONDS


def test_a_backfill_that_is_evaluated_while_the_code_server_is_away_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR", raising=False)
    (port,) = free_ports(1)
    nobody = GrpcServerTarget(host="127.0.0.1", port=port, socket=None, location_name="scicat_dagster")
    # With our coordinator, and with Dagster's own.
    for settings, expected in (({"run_coordinator": COORDINATOR}, "REQUESTED"), ({}, "FAILING")):
        with instance_in(tmp_path / expected, **settings) as instance:
            # As Dagster's daemon begins.
            instance.get_required_daemon_types()
            (backfill,) = start_backfills(instance, ["raw/a.hdf"], "discover")
            with pytest.warns(UserWarning, match="Error loading repository location"):
                workspace = WorkspaceProcessContext(instance, nobody)
            with workspace:
                list(execute_backfill_iteration(workspace, logging.getLogger(__name__)))
            found = instance.get_backfill(backfill)
            assert found is not None
            assert found.status.value == expected
        monkeypatch.delenv("DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR", raising=False)


@pytest.mark.parametrize(("interval", "is_due"), [(1, True), (10, False)])
def test_a_sensor_with_the_least_interval_is_due_as_soon_as_its_tick_has_ended(
    tmp_path: Path, interval: int, is_due: bool
) -> None:
    with instance_in(tmp_path, run_coordinator=COORDINATOR) as instance:
        queue_daemon(instance)
    data = SensorInstigatorData(min_interval=interval, last_tick_timestamp=time.time())
    state: Any = SimpleNamespace(instigator_data=data)
    remote: Any = SimpleNamespace(min_interval_seconds=interval)

    assert sensor.is_under_min_interval(state, remote) is not is_due


def test_a_limit_in_dagster_yaml_takes_precedence(
    small: SmallFacility, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small.facility(max_offline_ingestors=3)
    monkeypatch.setenv(CONFIGURATION_VARIABLE, str(small.directory / "config.yml"))
    limited = {**COORDINATOR, "config": {"max_concurrent_runs": 5}}
    with instance_in(tmp_path / "home", run_coordinator=limited) as instance:
        config = instance.get_concurrency_config().run_queue_config

        assert config is not None
        assert config.max_concurrent_runs == 5
