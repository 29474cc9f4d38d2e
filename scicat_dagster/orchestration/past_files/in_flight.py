"""Which files need no further run: one is not finished, or a backfill or request will start one."""

from collections.abc import Sequence

import dagster as dg

from scicat_dagster.dagster_internals import AssetGraph, BulkActionsFilter, BulkActionStatus
from scicat_dagster.orchestration.failures.failed_files import failed_files
from scicat_dagster.orchestration.ingest.assets import raw_dataset
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.partitions import NEXUS_FILES, in_parts, is_ours, key_of, path_of
from scicat_dagster.orchestration.past_files.requests import requested_files, sensor_position
from scicat_dagster.orchestration.tags import PARTITION_TAG, PID, RANGE_END_TAG, RANGE_START_TAG, RAW_DATASET

PAGE_SIZE = 500

_FINISHED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}

UNFINISHED = [status for status in dg.DagsterRunStatus if status not in _FINISHED]
"""The statuses of a run that may still register its files, also those that a later Dagster adds."""

AT_WORK = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
"""The statuses of a run that has a process."""


def files_in_flight(instance: dg.DagsterInstance, names: Names = UNPREFIXED) -> set[str]:
    """The files that need no further run: one is not finished, or a backfill or request will start one."""
    return (
        files_with_unfinished_runs(instance, names=names)
        | _in_backfills(instance, names)
        | {file.path for file in requested_files(instance, sensor_position(instance, names), names)}
    )


def known_pids(
    instance: dg.DagsterInstance, paths: Sequence[str], data_directory: str, names: Names = UNPREFIXED
) -> dict[str, str]:
    """The pids under which runs of ours registered files, for those that the catalogue lists elsewhere."""
    materialized = instance.get_materialized_partitions(names.key(RAW_DATASET))
    partitions = [key for path in paths if (key := key_of(path, data_directory)) in materialized]
    pids: dict[str, str] = {}
    for part in in_parts(partitions, PAGE_SIZE):
        wanted = dg.AssetRecordsFilter(names.key(RAW_DATASET), asset_partitions=part)
        cursor = None
        while True:
            page = instance.fetch_materializations(wanted, limit=PAGE_SIZE, cursor=cursor)
            for record in page.records:
                event = record.asset_materialization
                pid = event.metadata.get(PID) if event else None
                if event and event.partition and pid is not None:
                    # The newest comes first.
                    pids.setdefault(path_of(event.partition, data_directory), str(pid.value))
            if not page.has_more:
                break
            cursor = page.cursor
    return pids


def registered_by_us(
    instance: dg.DagsterInstance, paths: Sequence[str], data_directory: str, names: Names = UNPREFIXED
) -> set[str]:
    """Those of the files that a run of ours registered as a whole, and none has failed with since."""
    materialized = instance.get_materialized_partitions(names.key(RAW_DATASET))
    whole = materialized - {file.path for file in failed_files(instance, names=names)}
    return {path for path in paths if key_of(path, data_directory) in whole}


def files_with_unfinished_runs(
    instance: dg.DagsterInstance,
    statuses: Sequence[dg.DagsterRunStatus] = UNFINISHED,
    names: Names = UNPREFIXED,
) -> set[str]:
    """The files of runs with such a status, by default of all that are not finished."""
    unfinished = dg.RunsFilter(statuses=list(statuses))
    found: set[str] = set()
    ranges: list[tuple[str, str]] = []
    cursor = None
    while True:
        page = instance.get_runs(unfinished, limit=PAGE_SIZE, cursor=cursor)
        ours = [run for run in page if is_ours(run, names)]
        found.update(run.tags[PARTITION_TAG] for run in ours if PARTITION_TAG in run.tags)
        ranges += [(run.tags[RANGE_START_TAG], run.tags[RANGE_END_TAG]) for run in ours if _is_of_many(run)]
        if len(page) < PAGE_SIZE:
            return found | _within(instance, ranges, names)
        cursor = page[-1].run_id


def _is_of_many(run: dg.DagsterRun) -> bool:
    return RANGE_START_TAG in run.tags and RANGE_END_TAG in run.tags


def _within(instance: dg.DagsterInstance, ranges: Sequence[tuple[str, str]], names: Names) -> set[str]:
    """The files between the ends of these ranges, in the order in which Dagster has them."""
    if not ranges:
        return set()
    keys = list(instance.get_dynamic_partitions(names.name(NEXUS_FILES)))
    places = {key: place for place, key in enumerate(keys)}
    found: set[str] = set()
    for start, end in ranges:
        found.update(keys[places.get(start, 0) : places.get(end, len(keys) - 1) + 1])
    return found


def _in_backfills(instance: dg.DagsterInstance, names: Names) -> set[str]:
    """The files for which a backfill has not yet started a run, or not yet seen the end of it."""
    asset = names.key(RAW_DATASET)
    graph = AssetGraph.from_assets([raw_dataset(names)])
    found: set[str] = set()
    for backfill in instance.get_backfills(filters=BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED])):
        if asset in (backfill.asset_selection or ()):
            data = backfill.get_asset_backfill_data(graph)
            left = data.target_subset - (data.materialized_subset | data.failed_and_downstream_subset)
            found.update(
                partition.partition_key
                for partition in left.iterate_asset_partitions()
                if partition.asset_key == asset and partition.partition_key is not None
            )
    return found
