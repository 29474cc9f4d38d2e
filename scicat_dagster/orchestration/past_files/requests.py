"""Requests for runs, as observations of the asset ``reconciliation``, and the position in them.

An asset cannot launch runs, and a run for each of a hundred thousand files must not lie in the queue before
the live ones. So a request is an observation that names files; ``request_sensor`` takes its position in these
observations for its cursor. Dagster stores a tick's run requests and cursor together, so that a crash loses
nothing: who crashes before the observation is written leaves nothing behind, and the next sweep finds the
same files; who crashes afterwards finds it there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import dagster as dg
from pydantic import BaseModel, ConfigDict

from scicat_dagster.dagster_internals import InstigatorType, SensorInstigatorData
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.partitions import in_parts
from scicat_dagster.orchestration.tags import (
    BY_HAND,
    PRIORITY_TAG,
    RECONCILE_SENSOR,
    RECONCILIATION,
    REQUESTED_BY_TAG,
    REQUESTED_FILES,
    RETRY,
    file_tags,
)
from scicat_dagster.wording import numbered

_FILES_IN_AN_OBSERVATION = 500


_PRIORITIES = {BY_HAND: "1", RETRY: "0"}
"""Somebody waits for these; all other past files come after live ones."""


def tags_of(requester: str, names: Names = UNPREFIXED) -> dict[str, str]:
    """The tags of runs for past files: live announcements go first."""
    return {PRIORITY_TAG: _PRIORITIES.get(requester, "-1"), REQUESTED_BY_TAG: names.name(requester)}


def tags_for(path: str, requester: str, names: Names = UNPREFIXED) -> dict[str, str]:
    """The tags of a run for one past file."""
    return {**tags_of(requester, names), **file_tags(path)}


class Position(BaseModel):
    """How far the requests were turned into runs: the cursor of the sensor."""

    model_config = ConfigDict(frozen=True)

    event: int = 0
    """The storage id of an observation."""
    files: int = 0
    """How many of its files are done."""

    @classmethod
    def parse(cls, cursor: str | None) -> "Position":
        """The position that a cursor holds; the beginning where there is none."""
        return cls.model_validate_json(cursor) if cursor else cls()


@dataclass(frozen=True)
class RequestedFile:
    """A file that somebody requested; ``after`` is the position behind it."""

    path: str
    requester: str
    after: Position
    failed_run: str | None = None
    """The run whose configuration, the announcement, its run gets."""

    @property
    def run_key(self) -> str:
        """Another one for each request, so that a file can be requested again some day."""
        return f"{self.after.event}:{self.after.files}"


def request_events(
    paths: Sequence[str],
    requester: str,
    failed_runs: Mapping[str, str] = MappingProxyType({}),
    names: Names = UNPREFIXED,
) -> Iterator[dg.AssetObservation]:
    """The observations that request runs for files; ``failed_runs`` are those that are to be repeated."""
    for part in in_parts(paths, _FILES_IN_AN_OBSERVATION):
        repeated = {path: failed_runs[path] for path in part if path in failed_runs}
        yield dg.AssetObservation(
            names.key(RECONCILIATION),
            description=f"{numbered(len(part), 'file')} requested by {requester}",
            metadata={
                "requested by": requester,
                REQUESTED_FILES: dg.MetadataValue.json(
                    {"files": part, "requester": requester, "failed_runs": repeated}
                ),
            },
        )


def requested_files(
    instance: dg.DagsterInstance, position: Position, names: Names = UNPREFIXED
) -> Iterator[RequestedFile]:
    """What was requested behind a position, in order."""
    after = position.event - 1
    while True:
        wanted = dg.AssetRecordsFilter(names.key(RECONCILIATION), after_storage_id=after)
        page = instance.fetch_observations(wanted, limit=10, ascending=True)
        for record in page.records:
            after = record.storage_id
            event = record.asset_observation
            done = position.files if after == position.event else 0
            yield from _files_of(event, after, done) if event else ()
        if not page.has_more:
            return


def _files_of(event: dg.AssetObservation, storage_id: int, done: int) -> Iterator[RequestedFile]:
    if REQUESTED_FILES not in event.metadata:
        return
    requested: Any = event.metadata[REQUESTED_FILES].value
    for number, path in enumerate(requested["files"][done:], done + 1):
        after = Position(event=storage_id, files=number)
        # Those that were stored before there were any have none.
        failed_run = requested.get("failed_runs", {}).get(path)
        yield RequestedFile(path, requested["requester"], after, failed_run)


def sensor_position(instance: dg.DagsterInstance, names: Names = UNPREFIXED) -> Position:
    """Where the sensor is; the beginning before its first tick, and where no sensors can be."""
    if instance.schedule_storage is None:
        return Position()
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        if state.instigator_name == names.name(RECONCILE_SENSOR):
            data = state.instigator_data
            return Position.parse(data.cursor if isinstance(data, SensorInstigatorData) else None)
    return Position()
