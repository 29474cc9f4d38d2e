"""Dagster's run queue with the facility's own limit. Named in ``dagster.yaml``; nothing else belongs here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._serdes import ConfigurableClassData

from scicat_dagster.settings import CONFIGURATION_VARIABLE, load_configuration

_LOOK_SECONDS = 0.4
"""The daemon rounds up to the next half second."""


class FacilityRunCoordinator(QueuedRunCoordinator[Any]):
    """The queued coordinator, limited to ``ingestion.max_offline_ingestors`` runs at once.

    A ``max_concurrent_runs`` given in ``dagster.yaml`` takes precedence; without a configuration file in the
    environment Dagster's default of 10 holds, which is the key's default, too.
    """

    @property
    def dequeue_interval_seconds(self) -> float:  # type: ignore[override]
        """Twice a second, because a file waits for it; ``dagster.yaml`` can say whole seconds only."""
        return _LOOK_SECONDS

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """Called by Dagster with the ``config`` of ``run_coordinator``."""
        return cls(inst_data=inst_data, **{**_facility_limit(), **config_value})


def _facility_limit() -> dict[str, Any]:
    path = os.environ.get(CONFIGURATION_VARIABLE)
    if not path:
        return {}
    settings = load_configuration(Path(path), os.environ).settings
    return {"max_concurrent_runs": settings.ingestion.max_offline_ingestors}
