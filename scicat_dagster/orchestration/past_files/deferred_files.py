"""What a batch run defers: each file that it did not register gets a run of its own.

So a failed file is looked at, retried and repaired in one way, whether it was announced or backfilled. A run
whose process died without reporting an error leaves all that it did not register.
"""

from collections.abc import Iterator, Sequence

import dagster as dg

from scicat_dagster.orchestration.ingest.jobs import ingest_file
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.partitions import NEXUS_FILES, is_ours
from scicat_dagster.orchestration.past_files.requests import tags_for
from scicat_dagster.orchestration.tags import (
    DEFERRED_FILES,
    PAST_FILES,
    RANGE_END_TAG,
    RANGE_START_TAG,
    WILL_RETRY_TAG,
)


def deferred_files_sensor(names: Names) -> dg.SensorDefinition:
    """The sensor."""

    @dg.run_failure_sensor(
        name=names.name("deferred_files_sensor"),
        request_job=ingest_file(names),
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        tags=PAST_FILES,
        description="Requests a run for each file that a batch run of a backfill did not register.",
    )
    def sensor(context: dg.RunFailureSensorContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        run = context.dagster_run
        if not is_ours(run, names):
            yield dg.SkipReason("The run is about something else.")
            return
        if RANGE_START_TAG not in run.tags:
            yield dg.SkipReason("A run of one file stands for itself.")
            return
        if run.tags.get(WILL_RETRY_TAG) == "true":
            yield dg.SkipReason("The run itself is retried.")
            return
        for path in deferred_files(context.instance, run, names):
            yield dg.RunRequest(
                run_key=f"{run.run_id}:{path}",
                partition_key=path,
                run_config=run.run_config,
                # Those of a backfill come after those that are announced now.
                tags=tags_for(path, "deferred", names),
            )

    return sensor


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
