"""Dagster's run queue with the facility's own limit. Named in ``dagster.yaml``; nothing else belongs here."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

import dagster as dg

from scicat_dagster.config.current import CurrentConfiguration
from scicat_dagster.config.loading import CONFIGURATION_VARIABLE, ConfigurationError
from scicat_dagster.dagster_internals import (
    ConfigurableClassData,
    RunQueueConfig,
    SubmitRunContext,
    before_each_evaluation,
    hasten_backfill_daemon,
    hasten_sensor_daemon,
    keep_backfills_without_code_server,
    keep_sqlite_engines,
)
from scicat_dagster.instance.login_gate import LoginGate
from scicat_dagster.orchestration.shared_configuration import shared_configuration

_EVALUATION_SECONDS = 0.4
"""Between two evaluations of the queue where Dagster knows fixed times only; it rounds up to half seconds."""

_IDLE_SECONDS = 0.5
"""How long the daemon waits for a run to be submitted: those of other processes give no sign."""

_IDLE_LOOKS = 4
"""How often it looks for such a run before it evaluates the queue all the same, and gives a sign of life."""

_BUSY_SECONDS = 0.1
"""Between two evaluations while queued runs are launched: a place may become free at any moment."""

_submitted = threading.Event()
"""Set by whichever thread of this process submits a run: sensors are evaluated in the daemon's process."""


class FacilityRunCoordinator(dg.QueuedRunCoordinator[Any]):
    """The queued coordinator, limited to ``ingestion.max_offline_ingestors`` runs at once.

    A ``max_concurrent_runs`` given in ``dagster.yaml`` takes precedence; without a configuration file in the
    environment Dagster's default of 10 holds, which is the key's default, too.
    """

    _has_own_limit = False

    @property
    def dequeue_interval_seconds(self) -> float:  # type: ignore[override]
        """None, because the daemon waits for something to do before each evaluation.

        Dagster would evaluate the queue at fixed times, for each of which a file waits.
        """
        # Only the daemon asks, when it starts.
        hasten_sensor_daemon()
        hasten_backfill_daemon()
        return 0.0 if before_each_evaluation(_wait_for_runs) else _EVALUATION_SECONDS

    def submit_run(self, context: SubmitRunContext) -> dg.DagsterRun:
        """Queue a run, and have the queue evaluated where its daemon is in this process."""
        run = super().submit_run(context)
        _submitted.set()
        return run

    def get_run_queue_config(self) -> RunQueueConfig:
        """Dagster's, each time that it looks at the queue, with the limit that is in force.

        No run is started while SciCat refuses our login.
        """
        config = super().get_run_queue_config()
        path = os.environ.get(CONFIGURATION_VARIABLE)
        if not path:
            return config
        try:
            current, gate = _in_force(Path(path))
        except ConfigurationError:
            # Whoever has a version to go on with does so; each run that has none says why it cannot.
            return config
        if gate.is_closed(self._instance):
            return config._replace(max_concurrent_runs=0)
        if self._has_own_limit:
            return config
        return config._replace(max_concurrent_runs=current.read().settings.ingestion.max_offline_ingestors)

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """Called by Dagster with the ``config`` of ``run_coordinator``."""
        # In each process that opens the instance, before its daemons begin.
        keep_backfills_without_code_server()
        keep_sqlite_engines()
        coordinator = cls(inst_data=inst_data, **config_value)
        coordinator._has_own_limit = "max_concurrent_runs" in config_value
        return coordinator


class _Pace:
    """How long to pause while runs are queued: shortly after some were launched, longer while none can be."""

    def __init__(self) -> None:
        self._queued = 0
        self._seconds = _BUSY_SECONDS

    def seconds(self, queued: int) -> float:
        """The pause, now that so many runs are queued."""
        was_launched = queued < self._queued
        self._seconds = _BUSY_SECONDS if was_launched else min(2 * self._seconds, _IDLE_SECONDS)
        self._queued = queued
        return self._seconds


_pace = _Pace()


def _wait_for_runs(instance: dg.DagsterInstance) -> None:
    """Wait for a run to be submitted, or for a place to become free."""
    for _ in range(_IDLE_LOOKS):
        queued = _queued(instance)
        pause = _pace.seconds(queued)
        if queued:
            # One evaluation is about all that is submitted meanwhile.
            time.sleep(_BUSY_SECONDS)
            _submitted.wait(pause - _BUSY_SECONDS)
            break
        if _submitted.wait(_IDLE_SECONDS):
            break
    _submitted.clear()


def _queued(instance: dg.DagsterInstance) -> int:
    try:
        return instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
    except Exception:
        # The daemon reports a database that is away and goes on at once: not a thousand times a second.
        time.sleep(_IDLE_SECONDS)
        raise


@cache
def _in_force(path: Path) -> tuple[CurrentConfiguration, LoginGate]:
    """The process's own: Dagster makes a coordinator for each instance that it opens."""
    current = shared_configuration(path)
    return current, LoginGate(current)
