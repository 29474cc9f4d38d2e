"""What a batch run defers: each file that it did not register gets a run of its own.

So a failed file is looked at, retried and repaired in one way, whether it was announced or backfilled. A run
whose process died without reporting an error leaves all that it did not register.
"""

import json
from collections.abc import Sequence

import dagster as dg

from scicat_dagster.orchestration.ingest.jobs import ingest_file
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.partitions import NEXUS_FILES, is_ours
from scicat_dagster.orchestration.past_files.requests import tags_for
from scicat_dagster.orchestration.tags import (
    DEFERRED_FILES,
    OWNERS,
    PAST_FILES,
    RANGE_END_TAG,
    RANGE_START_TAG,
    WILL_RETRY_TAG,
)

_POSITION = "record_id"
"""In the cursor: the event of the last failure that was looked at, as Dagster's own sensor names it."""

_MOST_RUNS_IN_A_TICK = 200
_ENOUGH_REQUESTS = 200
"""A run is looked at whole, so that there may be as many more."""


def deferred_files_sensor(names: Names) -> dg.SensorDefinition:
    """The sensor."""

    @dg.sensor(
        name=names.name("deferred_files_sensor"),
        job=ingest_file(names),
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        owners=OWNERS,
        tags=PAST_FILES,
        description="Requests a run for each file that a batch run of a backfill did not register.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return requests_for_deferred(context.instance, context.cursor, names)

    return sensor


def requests_for_deferred(
    instance: dg.DagsterInstance, cursor: str | None, names: Names = UNPREFIXED
) -> dg.SensorResult:
    """What a tick requests because of the runs that have failed since the last one.

    Dagster's own sensor of failed runs takes one in a tick, or five and adds an event to each: after an
    outage the deferred files would wait behind all runs that failed then. Without a cursor it begins with
    what fails from now on.
    """
    if cursor is None:
        latest = instance.fetch_run_status_changes(dg.DagsterEventType.RUN_FAILURE, limit=1).records
        return _seen(latest[0].storage_id if latest else 0, [])
    position = int(json.loads(cursor)[_POSITION])
    failures = instance.fetch_run_status_changes(
        dg.RunStatusChangeRecordsFilter(dg.DagsterEventType.RUN_FAILURE, after_storage_id=position),
        limit=_MOST_RUNS_IN_A_TICK,
        ascending=True,
    ).records
    if not failures:
        return _seen(position, [])
    runs = instance.get_runs(dg.RunsFilter(run_ids=[failure.run_id for failure in failures]))
    by_id = {run.run_id: run for run in runs if _has_deferred(run, names)}
    requests: list[dg.RunRequest] = []
    for failure in failures:
        if (run := by_id.get(failure.run_id)) is not None:
            requests += [_request(run, path, names) for path in deferred_files(instance, run, names)]
        position = failure.storage_id
        if len(requests) >= _ENOUGH_REQUESTS:
            break
    return _seen(position, requests)


def _has_deferred(run: dg.DagsterRun, names: Names) -> bool:
    """Whether it is a batch run of ours that failed for good; a run of one file stands for itself."""
    is_retried = run.tags.get(WILL_RETRY_TAG) == "true"
    return is_ours(run, names) and RANGE_START_TAG in run.tags and not is_retried


def _request(run: dg.DagsterRun, path: str, names: Names) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"{run.run_id}:{path}",
        partition_key=path,
        run_config=run.run_config,
        # Those of a backfill come after those that are announced now.
        tags=tags_for(path, "deferred", names),
    )


def _seen(position: int, requests: Sequence[dg.RunRequest]) -> dg.SensorResult:
    return dg.SensorResult(run_requests=requests, cursor=json.dumps({_POSITION: position}))


def deferred_files(instance: dg.DagsterInstance, run: dg.DagsterRun, names: Names = UNPREFIXED) -> list[str]:
    """The files that a failed batch run did not register, without those whose partition was deleted since:
    requesting one would fail the tick, again and again.
    """
    existing = instance.get_dynamic_partitions(names.name(NEXUS_FILES))
    left = _deferred(instance, run)
    if left is None:
        registered = set(_partitions_of(instance, run, dg.DagsterEventType.ASSET_MATERIALIZATION))
        left = [path for path in _files_of(instance, run, existing) if path not in registered]
    wanted = set(left)
    return [path for path in existing if path in wanted]


def _deferred(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[str] | None:
    """What the run itself says; None where its process died without saying anything."""
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        said = entry.get_dagster_event().step_failure_data.user_failure_data
        if said is not None and DEFERRED_FILES in said.metadata:
            files = said.metadata[DEFERRED_FILES].value
            return list(files) if isinstance(files, dict) else []
    return None


def _files_of(instance: dg.DagsterInstance, run: dg.DagsterRun, existing: Sequence[str]) -> list[str]:
    """The files that a run is about: those it planned or, where it was killed before that, its range."""
    planned = _partitions_of(instance, run, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
    if planned:
        return planned
    places = {path: place for place, path in enumerate(existing)}
    first, last = places.get(run.tags[RANGE_START_TAG]), places.get(run.tags[RANGE_END_TAG])
    # Without its ends nobody knows what the range was; its files are found by the next sweep.
    return [] if first is None or last is None else list(existing[first : last + 1])


def _partitions_of(instance: dg.DagsterInstance, run: dg.DagsterRun, kind: dg.DagsterEventType) -> list[str]:
    events = (entry.get_dagster_event() for entry in instance.all_logs(run.run_id, of_type=kind))
    return [event.partition for event in events if event.partition is not None]
