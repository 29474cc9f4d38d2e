"""The one resource of all ops and sensors: a facility's configuration and the connections made from it.

It is a plain object, not a configurable resource: nothing of it, secrets least of all, appears in run
configuration or in the launchpad. Connections are made on first use in each process.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field

from scicat_dagster.kafka import AnnouncementReader
from scicat_dagster.schemas.loading import SchemaCollection, load_schemas
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.settings import Configuration, Settings


@dataclass
class _Connections:
    process: int
    catalogue: ScicatClient
    announcements: AnnouncementReader


@dataclass
class Facility:
    """A facility: its settings, schemas, catalogue and announcements."""

    configuration: Configuration
    wait_seconds: float = 4.0
    """How long a tick waits for a first message: shorter than the sensor daemon's interval of 5 s."""
    op_pauses: tuple[float, ...] = (2.0, 4.0, 8.0)
    """Seconds before each retry of an op: few and short, because a run keeps its place meanwhile."""
    finding_seconds: float = 3600.0
    """How long what an asset check found stays in sight."""
    lag_reported_at: float = field(default=-math.inf, repr=False)
    """When this process last said how many messages wait, by the monotonic clock."""
    reported_lag: dict[str, int] = field(default_factory=dict, repr=False)
    found_good_at: dict[str, float] = field(default_factory=dict, repr=False)
    """When this process last saw whether to say that an asset check passed, by the monotonic clock."""
    _connections: _Connections | None = field(default=None, repr=False)

    @property
    def settings(self) -> Settings:
        """The configuration file's content."""
        return self.configuration.settings

    def schemas(self) -> SchemaCollection:
        """The schema files as they are on disk now."""
        return load_schemas(self.configuration.schemas_directory, self.configuration.fallback_schema)

    @property
    def catalogue(self) -> ScicatClient:
        """The client of the facility's SciCat; one per process."""
        return self._connected().catalogue

    @property
    def announcements(self) -> AnnouncementReader:
        """The connection to the facility's brokers; one per process."""
        return self._connected().announcements

    def close(self) -> None:
        """Close whatever this process opened."""
        if self._connections is not None and self._connections.process == os.getpid():
            self._connections.catalogue.close()
            self._connections.announcements.close()
        self._connections = None

    def _connected(self) -> _Connections:
        # A forked worker must not use its parent's sockets.
        if self._connections is None or self._connections.process != os.getpid():
            self._connections = _Connections(
                os.getpid(), ScicatClient(self.settings.scicat), AnnouncementReader(self.settings.kafka)
            )
        return self._connections
