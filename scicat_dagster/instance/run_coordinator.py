"""Dagster's run queue with the facility's own limit. Named in ``dagster.yaml``; nothing else belongs here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

import dagster as dg

from scicat_dagster.config.current import CurrentConfiguration
from scicat_dagster.config.loading import CONFIGURATION_VARIABLE, ConfigurationError
from scicat_dagster.dagster_internals import ConfigurableClassData, RunQueueConfig
from scicat_dagster.instance.login_gate import LoginGate
from scicat_dagster.orchestration.shared_configuration import shared_configuration

_LOOK_SECONDS = 0.4
"""The daemon rounds up to the next half second."""


class FacilityRunCoordinator(dg.QueuedRunCoordinator[Any]):
    """The queued coordinator, limited to ``ingestion.max_offline_ingestors`` runs at once.

    A ``max_concurrent_runs`` given in ``dagster.yaml`` takes precedence; without a configuration file in the
    environment Dagster's default of 10 holds, which is the key's default, too.
    """

    _has_own_limit = False

    @property
    def dequeue_interval_seconds(self) -> float:  # type: ignore[override]
        """Twice a second, because a file waits for it; ``dagster.yaml`` can say whole seconds only."""
        return _LOOK_SECONDS

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
        coordinator = cls(inst_data=inst_data, **config_value)
        coordinator._has_own_limit = "max_concurrent_runs" in config_value
        return coordinator


@cache
def _in_force(path: Path) -> tuple[CurrentConfiguration, LoginGate]:
    """The process's own: Dagster makes a coordinator for each instance that it opens."""
    current = shared_configuration(path)
    return current, LoginGate(current)
