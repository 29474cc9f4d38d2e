"""Which files failed and are not repaired, from Dagster's own records: for the asset, the sensors, the CLI.

The sample of a file fails for itself, and stands here under its own partition key.

A file has failed while the latest attempt to register it failed, was cancelled or crashed, and its partition
was not materialized since, by whichever run. A person who deletes the partition dismisses the failure. A file
of which there were dry runs only has not failed, and is not registered, either. What a failure is, and what
Dagster does with it at once, belongs to ``policy``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from scicat_dagster.dagster_internals import runs_without_materialization
from scicat_dagster.errors import Problem
from scicat_dagster.orchestration.failures.crashes import REPEATED_CRASH
from scicat_dagster.orchestration.failures.policy import kind_of
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.partitions import (
    asset_of,
    file_key_of,
    is_ours,
    is_sample_key,
    partitions_of,
    path_of,
)
from scicat_dagster.orchestration.tags import (
    AUTO_RETRY_RUN_TAG,
    DEFERRED_FILES,
    INSTRUMENT_TAG,
    PARTITION_TAG,
    PROBLEM,
    REASON_TAG,
    ROUND_TAG,
    WILL_RETRY_TAG,
)

MOST_ROUNDS = 24
"""Of requesting a file anew: some five days. After that it needs manual intervention."""

PROMISE = timedelta(minutes=1)
"""How long Dagster's own retry may take to begin."""

BATCH_GRACE = timedelta(minutes=10)
"""How long a file of a failed batch run is left to the sensor that gives it a run of its own."""

_UNPLANNED = timedelta(days=30)
"""A run that was killed while it was created has no planned materialization: its failure is found by its
tags, for so long."""

INTERRUPTION = "DagsterExecutionInterruptedError"
"""The error of an op whose process got SIGTERM or SIGINT."""

DRY_RUN = "dry run"
"""The kind of a file that has not failed, and is not registered because its runs wrote nothing."""

_PAGE = 500

FAILED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
"""A run that has ended so has not registered its file."""


@dataclass(frozen=True)
class FailedFile:
    """A file whose latest run failed. ``since`` and ``last`` are when its runs first and last failed."""

    path: str
    """The partition key."""
    since: datetime
    last: datetime
    runs: int
    run_id: str
    kind: str
    """``permanent``, ``transient``, ``waiting``, ``changed`` or ``login``; ``cancelled`` by a person;
    ``crash`` where the process died without reporting an error, ``repeated crash`` where it did so again at
    the same op."""
    round: int
    """How many times it was requested anew because its failure was not permanent."""
    told_run_id: str
    """Its latest run that had a configuration: with the announcement, if there was one."""
    run_config: dict[str, Any]
    """That configuration."""
    reason: str = ""
    """Why the latest run failed, in brief; empty where its process died without saying so."""
    instrument: str = ""
    """The name of the instrument, where a run got so far."""

    @property
    def is_sample(self) -> bool:
        """Whether it is the sample of a file that failed, and not the file."""
        return is_sample_key(self.path)

    @property
    def file(self) -> str:
        """The file that it is about, as texts name it."""
        return file_key_of(self.path)

    @property
    def needs_manual_intervention(self) -> bool:
        """Whether trying again without anybody doing anything is useless, unwanted, or given up."""
        return self.kind in {"permanent", "cancelled", REPEATED_CRASH} or self.round >= MOST_ROUNDS


@dataclass(frozen=True)
class Unregistered:
    """The files that runs of ours did not register and that nobody is working on, longest-standing first."""

    failed: list[FailedFile]
    dry_runs: list[FailedFile]
    """Those of which there were dry runs only, as while ``ingestion.dry_run`` was set."""


def unregistered_files(
    instance: dg.DagsterInstance, now: datetime | None = None, names: Names = UNPREFIXED
) -> Unregistered:
    """The files that are neither registered, dismissed nor being worked on.

    The number of queries grows with the number of these files by one for each few hundred of them.
    """
    now = now or datetime.now(UTC)
    attempts = _attempts(instance, now, names)
    registered = _registered_at(instance, attempts, names)
    failed = [
        _failed_file(path, runs)
        for path, records in attempts.items()
        if (runs := _unrepaired(records, registered.get(path))) and not _is_worked_on(runs[0], now)
    ]
    dry_runs = [
        _failed_file(path, records)
        for path, records in attempts.items()
        if path not in registered and _are_dry_runs(records) and not is_sample_key(path)
    ]
    return Unregistered(*(sorted(found, key=lambda file: file.since) for found in (failed, dry_runs)))


def failed_files(
    instance: dg.DagsterInstance, now: datetime | None = None, names: Names = UNPREFIXED
) -> list[FailedFile]:
    """The files that failed and are neither repaired, dismissed nor being worked on, oldest failure first."""
    return unregistered_files(instance, now, names).failed


def reasons_by_path(failed: Iterable[FailedFile], data_directory: str) -> dict[str, str]:
    """Why each file failed, in brief, by its path."""
    return {
        path_of(file.path, data_directory): file.reason or file.kind for file in failed if not file.is_sample
    }


def problem_of(instance: dg.DagsterInstance, file: FailedFile) -> Problem:
    """Why the latest run of a file failed, and what a person can do."""
    if file.kind == DRY_RUN:
        return Problem(
            what="It was a dry run: nothing was registered.",
            remedy="When ingestion.dry_run is off: `scicat-dagster failures --dry-runs --retry`.",
        )
    if file.kind == "cancelled":
        return Problem(
            what="The run was cancelled.",
            remedy="Re-execute the run, or delete the partition to dismiss the file.",
        )
    return problem_of_run(instance, file.run_id, file.path)


def problem_of_run(instance: dg.DagsterInstance, run_id: str, path: str) -> Problem:
    """Why a failed run did not register a file, and what a person can do."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        data = entry.get_dagster_event().step_failure_data
        if data.user_failure_data is not None:
            said: dict[str, Any] = {
                name: value.value for name, value in data.user_failure_data.metadata.items()
            }
            # A batch run has one for each of its files.
            problem = (said.get(DEFERRED_FILES) or {}).get(path) or said.get(PROBLEM)
            if problem is not None:
                return Problem.model_validate(problem)
            return Problem(what=data.user_failure_data.description or "")
        if data.error is not None and data.error.cls_name == INTERRUPTION:
            return Problem(
                what="The run's process was asked to end while it was at work.",
                remedy="Nothing, if Dagster or the machine was restarted: the file is tried again.",
            )
        if data.error is not None:
            return Problem(what=data.error.message.strip(), remedy="Report this: it is a bug.")
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE):
        return Problem(
            what=f"The run's process died without reporting an error: {entry.get_dagster_event().message}",
            remedy="See whether its process was killed, for instance for lack of memory; then re-execute "
            "the run.",
        )
    return Problem(what="The run ended without reporting an error.", remedy="Re-execute the run.")


def _attempts(instance: dg.DagsterInstance, now: datetime, names: Names) -> dict[str, list[dg.RunRecord]]:
    """The runs, newest first, of each file whose latest run did not register it and that has a partition."""
    unregistered = _latest_runs_without_registration(instance, names)
    failed = _failed_runs(instance, now - _UNPLANNED, names)
    recent = {record.dagster_run.tags[PARTITION_TAG] for record in failed}
    paths = sorted(_existing(instance, unregistered.keys() | recent, names))
    found: dict[str, dict[int, dg.RunRecord]] = {path: {} for path in paths}
    for record in _runs_of(instance, paths, names):
        found[record.dagster_run.tags[PARTITION_TAG]][record.storage_id] = record
    # Those of a batch are not found by a file's path, nor is one whose tags were lost by a kill.
    latest = _runs_by_id(instance, {unregistered[path] for path in paths if path in unregistered})
    for path in paths:
        if (own := latest.get(unregistered.get(path, ""))) is not None:
            found[path][own.storage_id] = own
    return {path: [runs[key] for key in sorted(runs, reverse=True)] for path, runs in found.items()}


def _latest_runs_without_registration(instance: dg.DagsterInstance, names: Names) -> dict[str, str]:
    """By partition: the latest run that was to materialize it and did not, whatever became of that run."""
    found: dict[str, str] = {}
    for asset in partitions_of(names):
        found |= runs_without_materialization(instance.event_log_storage, asset)
    return found


def _existing(instance: dg.DagsterInstance, paths: Iterable[str], names: Names) -> set[str]:
    """Those of the files that have a partition: deleting it dismisses the file."""
    partitions = partitions_of(names)
    return {
        path
        for asset, keys in _by_asset(paths, names).items()
        for path in set(keys).intersection(instance.get_dynamic_partitions(str(partitions[asset].name)))
    }


def _failed_runs(instance: dg.DagsterInstance, after: datetime, names: Names) -> Iterator[dg.RunRecord]:
    """Failed and cancelled runs of single files, newest first."""
    failed = dg.RunsFilter(statuses=list(FAILED), created_after=after)
    return (record for record in _ours(instance, failed, names) if PARTITION_TAG in record.dagster_run.tags)


def _runs_of(instance: dg.DagsterInstance, paths: Sequence[str], names: Names) -> Iterator[dg.RunRecord]:
    for part in _parts(paths):
        yield from _ours(instance, dg.RunsFilter(tags={PARTITION_TAG: part}), names)


def _runs_by_id(instance: dg.DagsterInstance, run_ids: set[str]) -> dict[str, dg.RunRecord]:
    return {
        record.dagster_run.run_id: record
        for part in _parts(sorted(run_ids))
        for record in _pages(instance, dg.RunsFilter(run_ids=part))
    }


def _ours(instance: dg.DagsterInstance, wanted: dg.RunsFilter, names: Names) -> Iterator[dg.RunRecord]:
    return (record for record in _pages(instance, wanted) if is_ours(record.dagster_run, names))


def _pages(instance: dg.DagsterInstance, wanted: dg.RunsFilter) -> Iterator[dg.RunRecord]:
    cursor = None
    while True:
        page: Sequence[dg.RunRecord] = instance.get_run_records(wanted, limit=_PAGE, cursor=cursor)
        yield from page
        if len(page) < _PAGE:
            return
        cursor = page[-1].dagster_run.run_id


def _registered_at(instance: dg.DagsterInstance, paths: Iterable[str], names: Names) -> dict[str, float]:
    """When those of the files that were ever registered were so last, in seconds since the epoch."""
    latest: dict[str, float] = {}
    for asset, keys in _by_asset(paths, names).items():
        for part in _parts(keys):
            cursor = None
            while True:
                wanted = dg.AssetRecordsFilter(asset, asset_partitions=part)
                page = instance.fetch_materializations(wanted, limit=_PAGE, cursor=cursor)
                for record in page.records:
                    latest.setdefault(record.partition_key or "", record.timestamp)
                if not page.has_more:
                    break
                cursor = page.cursor
    return latest


def _by_asset(paths: Iterable[str], names: Names) -> dict[dg.AssetKey, list[str]]:
    """The partitions of each asset, of those that have any."""
    found: dict[dg.AssetKey, list[str]] = {}
    for path in paths:
        found.setdefault(asset_of(path, names), []).append(path)
    return found


def _unrepaired(records: Sequence[dg.RunRecord], registered_at: float | None) -> list[dg.RunRecord]:
    """The runs since the file was registered last; a successful one that registered nothing was a dry run."""
    return [
        record
        for record in records
        if record.dagster_run.status is not dg.DagsterRunStatus.SUCCESS
        and (registered_at is None or record.create_timestamp.timestamp() > registered_at)
    ]


def _are_dry_runs(records: Sequence[dg.RunRecord]) -> bool:
    return {record.dagster_run.status for record in records} == {dg.DagsterRunStatus.SUCCESS}


def _is_worked_on(latest: dg.RunRecord, now: datetime) -> bool:
    """Whether a run is under way, or is about to be without anybody doing anything."""
    if latest.dagster_run.status not in FAILED:
        return True
    tags, age = latest.dagster_run.tags, now - _failed_at(latest)
    if PARTITION_TAG not in tags:
        return age <= BATCH_GRACE
    promised = tags.get(WILL_RETRY_TAG) == "true" and AUTO_RETRY_RUN_TAG not in tags
    # A daemon that is killed at the wrong moment forgets its promise.
    return promised and age <= PROMISE


def _failed_file(path: str, records: Sequence[dg.RunRecord]) -> FailedFile:
    latest = records[0].dagster_run
    # A backfill in between knew nothing of the announcement.
    told = next((run for record in records if (run := record.dagster_run).run_config), latest)
    return FailedFile(
        path=path,
        since=_failed_at(records[-1]),
        last=_failed_at(records[0]),
        runs=len(records),
        run_id=latest.run_id,
        kind=failure_kind(latest),
        round=int(latest.tags.get(ROUND_TAG, "0")),
        told_run_id=told.run_id,
        run_config=dict(told.run_config),
        reason=latest.tags.get(REASON_TAG, "") if kind_of(latest) else "",
        instrument=latest.tags.get(INSTRUMENT_TAG, ""),
    )


def failure_kind(run: dg.DagsterRun) -> str:
    """The kind of a run that did not register its file, as of a :class:`FailedFile`."""
    if run.status is dg.DagsterRunStatus.SUCCESS:
        return DRY_RUN
    if run.status is dg.DagsterRunStatus.CANCELED:
        return "cancelled"
    return kind_of(run) or "crash"


def _failed_at(record: dg.RunRecord) -> datetime:
    if record.end_time is None:
        return record.create_timestamp.astimezone(UTC)
    return datetime.fromtimestamp(record.end_time, UTC)


def _parts(items: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(items), _PAGE):
        yield list(items[start : start + _PAGE])
