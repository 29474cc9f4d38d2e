"""Retention of old files: Dagster is the workshop, the catalogue is the record.

A file that is registered, older than the configuration says, and not being worked on loses its partition key
and its runs with their logs. Nothing is taken from the catalogue or from disk, and a file that failed is
never deleted. Without this every run would pay for all the files there ever were.
"""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from pathlib import Path

import dagster as dg

from scicat_dagster.config.models import RetentionSettings
from scicat_dagster.orchestration.facility import facility_in
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.partitions import delete_partition, is_ours, partitions_of
from scicat_dagster.orchestration.past_files.in_flight import files_in_flight
from scicat_dagster.orchestration.tags import OWNERS, PARTITION_TAG, UPKEEP, kinds

MOST_FILES = 5000
"""In one run of the job: it is done in minutes, and the next one goes on."""

_PAGE = 1000


def delete_old_files(names: Names) -> dg.OpDefinition:
    """The op of the job."""

    @dg.op(
        name=names.name("delete_old_files"),
        required_resource_keys={names.facility},
        tags=kinds("dagster"),
        description="Delete the records of files that are registered and older than retention.days.",
    )
    def delete_old_files(context: dg.OpExecutionContext) -> None:
        facility = facility_in(context, names)
        days = facility.settings.retention.days
        if not days:
            context.log.info("retention.days is 0: nothing is ever deleted.")
            return
        files, runs = delete_registered(context.instance, datetime.now(UTC) - timedelta(days=days), names)
        context.add_output_metadata({"files": files, "deleted runs": runs})

    return delete_old_files


@cache
def apply_retention(names: Names) -> dg.JobDefinition:
    """The job."""

    @dg.job(
        name=names.name("apply_retention"),
        executor_def=dg.in_process_executor,
        owners=OWNERS,
        tags=UPKEEP,
        run_tags={},
        description="Delete the partitions, runs and logs of files that were registered long ago.",
    )
    def apply_retention() -> None:
        delete_old_files(names)()

    return apply_retention


def retention_schedule(settings: RetentionSettings, names: Names) -> dg.ScheduleDefinition:
    """When to delete; on from the start where the configuration says how old is old."""
    status = dg.DefaultScheduleStatus.RUNNING if settings.days else dg.DefaultScheduleStatus.STOPPED
    return dg.ScheduleDefinition(
        name=names.name("retention"),
        job=apply_retention(names),
        cron_schedule=settings.cron,
        default_status=status,
        owners=OWNERS,
        tags=UPKEEP,
        description="Deletes the partitions, runs and logs of files that are registered and older than "
        "retention.days. Failed files are kept.",
    )


def delete_registered(
    instance: dg.DagsterInstance, before: datetime, names: Names = UNPREFIXED
) -> tuple[int, int]:
    """Delete the records of files last registered before; how many, and how many runs went with them."""
    files = runs = 0
    for path, of_file in deletable(instance, before, names=names):
        # The key first: what a crash leaves is then found again by its materialization.
        delete_partition(instance, path, names)
        for run_id in of_file:
            _delete(instance, run_id)
        files, runs = files + 1, runs + len(of_file)
    return files, runs


def _delete(instance: dg.DagsterInstance, run_id: str) -> None:
    # What its ops handed to each other; Dagster never removes it.
    folder = Path(instance.storage_directory()) / run_id
    if folder.exists():
        shutil.rmtree(folder)
    instance.delete_run(run_id)


def deletable(
    instance: dg.DagsterInstance, before: datetime, most: int = MOST_FILES, names: Names = UNPREFIXED
) -> Iterator[tuple[str, list[str]]]:
    """Files and samples that were last registered before, and the runs that can go with each."""
    # Also of a backfill that has not come to them yet.
    in_flight = files_in_flight(instance, names)
    everything = (
        found
        for asset in partitions_of(names)
        for found in _deletable(instance, before, most, asset, in_flight, names)
    )
    yield from islice(everything, most)


def _deletable(
    instance: dg.DagsterInstance,
    before: datetime,
    most: int,
    asset: dg.AssetKey,
    in_flight: set[str],
    names: Names,
) -> Iterator[tuple[str, list[str]]]:
    latest = dict(
        instance.get_latest_storage_id_by_partition(asset, dg.DagsterEventType.ASSET_MATERIALIZATION)
    )
    found = 0
    for record in _materializations(instance, before, asset):
        path = record.partition_key or ""
        if latest.get(path) != record.storage_id or path in in_flight:
            continue
        found_runs = instance.get_runs(dg.RunsFilter(tags={PARTITION_TAG: path}))
        runs = [run for run in found_runs if is_ours(run, names)]
        if not all(run.is_finished for run in runs):
            continue
        if runs and runs[0].status is not dg.DagsterRunStatus.SUCCESS:
            # Registered once, and failed since: somebody has to look at it.
            continue
        found += 1
        yield path, [run.run_id for run in runs] + _run_of_many(instance, record, latest)
        latest.pop(path)
        if found == most:
            return


def _materializations(
    instance: dg.DagsterInstance, before: datetime, asset: dg.AssetKey
) -> Iterator[dg.EventLogRecord]:
    cursor = None
    wanted = dg.AssetRecordsFilter(asset, before_timestamp=before.timestamp())
    while True:
        page = instance.fetch_materializations(wanted, limit=_PAGE, cursor=cursor, ascending=True)
        yield from page.records
        if not page.has_more:
            return
        cursor = page.cursor


def _run_of_many(
    instance: dg.DagsterInstance, record: dg.EventLogRecord, latest: dict[str, int]
) -> list[str]:
    """The backfill's run that registered the file, if this was the last file that is known by it."""
    run = instance.get_run_by_id(record.run_id)
    if run is None or PARTITION_TAG in run.tags:
        return []
    events = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    others = {entry.get_dagster_event().partition for entry in events} - {record.partition_key}
    return [] if others & latest.keys() else [run.run_id]
