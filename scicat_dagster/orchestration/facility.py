"""The one resource of all ops and sensors: a facility's configuration and the connections made from it.

It is a plain object, not a configurable resource: nothing of it, secrets least of all, appears in run
configuration or in the launchpad. Connections are made on first use in each process.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

from scicat_dagster.config.current import CurrentConfiguration
from scicat_dagster.config.loading import Configuration
from scicat_dagster.config.models import KafkaSettings, ScicatSettings, Settings
from scicat_dagster.kafka.lag import CaughtUp, LagWatch
from scicat_dagster.kafka.reader import AnnouncementReader
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.schemas.loading import SchemaCollection, load_schemas
from scicat_dagster.scicat.cache import KeptAnswers
from scicat_dagster.scicat.client import ScicatClient


@dataclass
class Facility:
    """A facility: its settings, schemas, catalogue and announcements."""

    current: CurrentConfiguration
    wait_seconds: float = 4.0
    """How long a tick waits for a first message; the daemon waits as long for a tick when it is to end."""
    op_pauses: tuple[float, ...] = (2.0, 4.0, 8.0)
    """Seconds before each retry of an op: few and short, because a run keeps its place meanwhile."""
    names: Names = UNPREFIXED
    """How Dagster knows what belongs to this facility."""
    finding_seconds: float = 3600.0
    """How long what an asset check found stays in sight."""
    lag_reported_at: float = field(default=-math.inf, repr=False)
    """When this process last said how many messages wait, by the monotonic clock."""
    reported_lag: dict[str, int] = field(default_factory=dict, repr=False)
    found_good_at: dict[str, float] = field(default_factory=dict, repr=False)
    """When this process last saw whether to say that an asset check passed, by the monotonic clock."""
    lag_watch: LagWatch = field(default_factory=LagWatch, repr=False)
    """What this process saw of the lag so far."""
    caught_up: CaughtUp = field(default_factory=CaughtUp, repr=False)
    """When this process last had requested everything that was announced."""
    said_of_kafka: dict[str, tuple[set[str], float]] = field(default_factory=dict, repr=False)
    """By asset check: of which topics it said last that something is wrong, and when."""
    reported_configuration: str = field(default="", repr=False)
    """What this process last reported of the configuration that is in force."""
    _catalogue: tuple[int, ScicatSettings, ScicatClient, KeptAnswers] | None = field(default=None, repr=False)
    _announcements: tuple[int, KafkaSettings, AnnouncementReader] | None = field(default=None, repr=False)

    @property
    def configuration(self) -> Configuration:
        """The configuration file as it is in force now."""
        return self.current.read()

    @property
    def settings(self) -> Settings:
        """The content of the configuration file that is in force now."""
        return self.configuration.settings

    def schemas(self) -> SchemaCollection:
        """The schema files as they are on disk now."""
        return load_schemas(self.configuration.schemas_directory, self.configuration.fallback_schema)

    @property
    def catalogue(self) -> ScicatClient:
        """The client of the facility's SciCat; one per process, until the settings change."""
        return self._connected()[0]

    @property
    def answers(self) -> KeptAnswers:
        """What the client was told of proposals and instruments within the last minute, or is told now."""
        return self._connected()[1]

    def _connected(self) -> tuple[ScicatClient, KeptAnswers]:
        process, settings = os.getpid(), self.settings.scicat
        kept = self._catalogue
        if kept is None or kept[:2] != (process, settings):
            # A forked worker must not use its parent's sockets, nor close them.
            if kept is not None and kept[0] == process:
                kept[2].close()
            client = ScicatClient(settings)
            kept = self._catalogue = (process, settings, client, KeptAnswers(client, settings.api_endpoints))
        return kept[2], kept[3]

    @property
    def announcements(self) -> AnnouncementReader:
        """The connection to the facility's brokers; one per process, until the settings change."""
        process, settings = os.getpid(), self.settings.kafka
        kept = self._announcements
        if kept is None or kept[:2] != (process, settings):
            if kept is not None and kept[0] == process:
                kept[2].close()
            kept = self._announcements = (process, settings, AnnouncementReader(settings))
        return kept[2]

    def close(self) -> None:
        """Close whatever this process opened."""
        for kept in (self._catalogue, self._announcements):
            if kept is not None and kept[0] == os.getpid():
                kept[2].close()
        self._catalogue = self._announcements = None


def facility_in(context: Any, names: Names) -> Facility:
    """The facility with these names, of the resources that an op, asset, check or sensor has asked for.

    The key differs between facilities, so that it cannot be the name of a parameter. A sensor that is called
    directly, as in tests, gets its resources as keyword arguments all the same, and ignores them.
    """
    found: Facility = getattr(context.resources, names.facility)
    return found
