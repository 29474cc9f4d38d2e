"""Which version of the configuration file is in force, as Dagster's records show it.

The code server, whose sensors tick every few seconds, reports each change as an observation of the asset
``configuration``; whoever asks for the health reads the latest one. Reading the file is
:mod:`scicat_dagster.config.current`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg

from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.metadata import notices_table
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.tags import CONFIGURATION, CONFIGURATION_IN_FORCE


@dataclass(frozen=True)
class ReportedVersion:
    """What the code server reported last: the hash of what is in force, and whether that is all there is."""

    hash: str
    is_as_on_disk: bool
    description: str


def changes(facility: Facility) -> Iterator[dg.AssetObservation]:
    """What this process has not yet reported of the configuration: at most one observation."""
    version, notices = facility.configuration.version, facility.current.notices()
    report = f"{version.hash} {notices}"
    if report == facility.reported_configuration:
        return
    facility.reported_configuration = report
    yield dg.AssetObservation(
        facility.names.key(CONFIGURATION),
        description=" ".join(notice.reason for notice in notices) or f"The version {version} is in force.",
        metadata={
            "version": dg.MetadataValue.text(version.hash),
            "modified": dg.MetadataValue.timestamp(version.modified_at),
            "file": dg.MetadataValue.path(facility.configuration.path),
            CONFIGURATION_IN_FORCE: dg.MetadataValue.json(
                {"hash": version.hash, "is_as_on_disk": not notices}
            ),
            **({"what to know": notices_table(notices)} if notices else {}),
        },
    )


def reported_version(instance: dg.DagsterInstance, names: Names = UNPREFIXED) -> ReportedVersion | None:
    """What the code server reported last; None before its first tick."""
    for record in instance.fetch_observations(names.key(CONFIGURATION), limit=1).records:
        observation = record.asset_observation
        if observation is not None and CONFIGURATION_IN_FORCE in observation.metadata:
            reported: Any = observation.metadata[CONFIGURATION_IN_FORCE].value
            return ReportedVersion(**reported, description=observation.description or "")
    return None
