"""The sensor that finds files on disk within minutes; :mod:`scicat_dagster.usecases.folder_watch` has how."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import BaseModel, ConfigDict

from scicat_dagster.config.models import ReconcileSettings, Settings
from scicat_dagster.diagnostics.checkup import Question
from scicat_dagster.errors import TransientError
from scicat_dagster.orchestration.facility import Facility, facility_in
from scicat_dagster.orchestration.failures.failed_files import failed_files
from scicat_dagster.orchestration.ingest.jobs import ingest_file
from scicat_dagster.orchestration.names import Names
from scicat_dagster.orchestration.partitions import add_requests, key_of, paths_of
from scicat_dagster.orchestration.past_files.in_flight import UNFINISHED, files_in_flight, known_pids
from scicat_dagster.orchestration.past_files.plan import roots_of
from scicat_dagster.orchestration.tags import OWNERS, PAST_FILES, REQUESTED_BY_TAG, WATCH, file_tags
from scicat_dagster.usecases.discover import discover
from scicat_dagster.usecases.folder_watch import MARGIN_SECONDS, FolderWatch
from scicat_dagster.usecases.walk import Criteria, FoundFile, printable, walks
from scicat_dagster.wording import numbered

LOOK_SECONDS = 5.0
"""Of a tick: what is not looked at by then is for the next one."""

MOST_FILES_PER_TICK = 100

MOST_UNFINISHED = 200
"""Of the runs that were requested here."""

CAUGHT_UP_SECONDS = 60.0
"""How long ago ``wrdn_sensor`` may have had nothing left to request; it polls every few seconds."""

_STORAGE_SECONDS = 20.0

_MINUTE = 60.0


class WatchCursor(BaseModel):
    """From when on files are new, in seconds since 1970; ``number`` tells two ticks apart."""

    model_config = ConfigDict(frozen=True)

    since: float
    number: int = 0


class Watched:
    """The watch of the folders that the configuration names, looked at in a thread of its own.

    A storage that hangs holds up that thread, however often it is asked, and no tick.
    """

    def __init__(self, settings: Settings, cursor: WatchCursor) -> None:
        self.cursor = cursor
        self._handed_out: list[FoundFile] = []
        handling = settings.ingestion.file_handling
        self.of = _what_is_watched(settings)
        self.watch = FolderWatch(walks(roots_of(settings), Criteria(), handling), cursor.since)
        settled_after = settings.reconcile.watch_minutes * _MINUTE
        self._question = Question(lambda: self.watch.look(LOOK_SECONDS, settled_after), kept_seconds=0.0)

    def look(self) -> list[FoundFile]:
        """The files that are complete, as far as can be seen.

        Raises
        ------
        TransientError
            The storage does not answer.
        """
        self._question.begin()
        found = self._question.answer(_STORAGE_SECONDS)
        if found is None:
            raise TransientError(
                "The storage does not answer, so that nobody knows which files are new.",
                remedy="See that the folders of reconcile.roots can be read.",
            )
        return found

    def handed_out(self, files: Sequence[FoundFile]) -> WatchCursor:
        """The cursor of a tick that is about these files."""
        self._handed_out = list(files)
        self.cursor = WatchCursor(since=self.watch.position, number=self.cursor.number + 1)
        return self.cursor

    def stored(self, cursor: WatchCursor) -> None:
        """Forget what was handed out, if the tick that did so was stored; else it is handed out again."""
        if cursor == self.cursor:
            self.watch.done(self._handed_out)
        self._handed_out = []


def _what_is_watched(settings: Settings) -> object:
    return roots_of(settings), settings.ingestion.file_handling, settings.reconcile.watch_minutes


def folder_watch_sensor(settings: ReconcileSettings, names: Names) -> dg.SensorDefinition:
    """The sensor, with what it knows of the folders; on from the start where the configuration wants it."""
    is_wanted = settings.watch_minutes > 0
    kept: list[Watched] = []

    @dg.sensor(
        name=names.name("folder_watch_sensor"),
        job=ingest_file(names),
        required_resource_keys={names.facility},
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING if is_wanted else dg.DefaultSensorStatus.STOPPED,
        owners=OWNERS,
        tags=PAST_FILES,
        description="Looks for new files in the folders of the section `reconcile` and requests a run for "
        "each that is neither registered nor in flight nor failed, when it was not written to for "
        "`reconcile.watch_minutes`. Its cursor is the time from which on files are new.",
    )
    def sensor(context: dg.SensorEvaluationContext, **_: Any) -> dg.SensorResult | dg.SkipReason:
        facility = facility_in(context, names)
        now = facility.settings
        if not now.reconcile.watch_minutes:
            return dg.SkipReason("The configuration has no reconcile.watch_minutes.")
        if _may_be_announced(facility):
            return dg.SkipReason(
                "wrdn_sensor has not yet requested all files whose announcements wait in Kafka, or has not "
                "polled within the last minute: new files are left to their announcements until then."
            )
        before = _cursor(context.cursor)
        if not kept or kept[0].of != _what_is_watched(now):
            kept[:] = [Watched(now, before)]
        kept[0].stored(before)
        found = kept[0].look()[: _room(context.instance, names)]
        unseen = _words(kept[0].watch.unseen)
        if unseen and not found:
            raise TransientError(unseen, remedy="See that the storage is mounted and healthy.")
        if unseen:
            context.log.warning(unseen)
        missing = _missing(context.instance, facility, found)
        data_directory = now.ingestion.file_handling.data_directory
        requests = [_run_request(file, key_of(file.path, data_directory), names) for file in missing]
        return dg.SensorResult(
            run_requests=requests,
            dynamic_partitions_requests=add_requests(
                [str(request.partition_key) for request in requests], names
            ),
            cursor=kept[0].handed_out(found).model_dump_json(),
            skip_reason=None
            if requests
            else f"{numbered(len(found), 'file')} new, none of them needs a run. {unseen}".rstrip(),
        )

    return sensor


def _words(unseen: Mapping[str, str]) -> str:
    """What the storage does not show now; empty where that is nothing."""
    if not unseen:
        return ""
    place, reason = next(iter(unseen.items()))
    more = f" (and {numbered(len(unseen) - 1, 'other place')})" if len(unseen) > 1 else ""
    return f"Not everything can be looked at: {printable(place)}{more}: {reason}"


def _may_be_announced(facility: Facility) -> bool:
    """Whether the message about a new file may wait in Kafka, or its run is not requested yet."""
    if not facility.settings.kafka.topics:
        return False
    return not facility.caught_up.was_within(CAUGHT_UP_SECONDS, time.monotonic())


def _cursor(text: str | None) -> WatchCursor:
    return WatchCursor.model_validate_json(text) if text else WatchCursor(since=time.time() - MARGIN_SECONDS)


def _room(instance: dg.DagsterInstance, names: Names) -> int:
    unfinished = dg.RunsFilter(statuses=UNFINISHED, tags={REQUESTED_BY_TAG: names.name(WATCH)})
    return min(MOST_FILES_PER_TICK, max(0, MOST_UNFINISHED - instance.get_runs_count(unfinished)))


def _missing(instance: dg.DagsterInstance, facility: Facility, found: Sequence[FoundFile]) -> list[FoundFile]:
    """The files that need a run; raises where the catalogue does not answer, and they are asked for again."""
    if not found:
        return []
    data_directory, names = facility.settings.ingestion.file_handling.data_directory, facility.names
    failed = {file.path for file in failed_files(instance, names=names)}
    looked_after = files_in_flight(instance, names) | failed
    others = paths_of(looked_after, data_directory)
    asked = [file for file in found if file.path not in others]
    states = discover(
        asked,
        facility.catalogue,
        known_pids=lambda paths: known_pids(instance, paths, data_directory, names),
    )
    wanted = {file.path for file in states.of("missing")}
    return [file for file in asked if file.path in wanted]


def _run_request(file: FoundFile, key: str, names: Names) -> dg.RunRequest:
    return dg.RunRequest(
        # Once for each time that it was written to.
        run_key=f"{key}:{file.modified}",
        partition_key=key,
        tags={REQUESTED_BY_TAG: names.name(WATCH), **file_tags(key)},
    )
