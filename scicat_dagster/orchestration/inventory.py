"""Which files failed and are not repaired, read from Dagster's own runs: for the asset, the sensor, the CLI.

What a failure is, and what Dagster does with it at once, belongs to ``failures``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from scicat_dagster.orchestration.failures import REPEATED_CRASH, kind_of
from scicat_dagster.orchestration.partitions import PARTITION_TAG

ROUND_TAG = "scicat/retry_round"

LOOK_BACK = timedelta(days=30)
"""Failures that nobody repaired for longer are no longer listed here; the partitions stay failed."""

PROMISE = timedelta(minutes=1)
"""How long Dagster's own retry may take to begin."""

_PAGE = 500
_FAILED = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


@dataclass(frozen=True)
class FailedFile:
    """A file whose latest run failed. ``since`` and ``last`` are when its runs first and last failed."""

    path: str
    since: datetime
    last: datetime
    runs: int
    run_id: str
    kind: str
    """``permanent``, ``transient``, ``waiting`` or ``changed``; ``cancelled`` by a person;
    ``crash`` where the run ended without words, ``repeated crash`` where it did so again at the same op."""
    round: int
    """How many times it was requested anew because its failure was not permanent."""
    run_config: dict[str, Any]

    @property
    def waits_for_a_person(self) -> bool:
        """Whether trying again without anybody doing anything is useless, or unwanted."""
        return self.kind in {"permanent", "cancelled", REPEATED_CRASH}


def failed_files(instance: dg.DagsterInstance, now: datetime | None = None) -> list[FailedFile]:
    """The files that failed and are neither repaired nor being worked on, longest-standing first."""
    now = now or datetime.now(UTC)
    histories: dict[str, list[dg.RunRecord]] = {}
    for record in _failed_runs(instance, now - LOOK_BACK):
        histories.setdefault(record.dagster_run.tags[PARTITION_TAG], []).append(record)
    found = [
        _failed_file(path, records)
        for path, records in histories.items()
        if _is_still_failed(instance, path, records[0], now)
    ]
    return sorted(found, key=lambda file: file.since)


def reason_of(instance: dg.DagsterInstance, run_id: str) -> tuple[str, str]:
    """Why a run failed, and what a person can do."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        data = entry.get_dagster_event().step_failure_data
        if data.user_failure_data is not None:
            said = {name: str(value.value) for name, value in data.user_failure_data.metadata.items()}
            return said.get("reason", data.user_failure_data.description or ""), said.get("what to do", "")
        if data.error is not None:
            return data.error.message.strip(), "Report this: it is a bug."
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE):
        return (
            f"The run ended without a word: {entry.get_dagster_event().message}",
            "See whether its process was killed, for instance for lack of memory; then re-execute the run.",
        )
    return "The run was cancelled.", "Re-execute the run."


def _failed_runs(instance: dg.DagsterInstance, after: datetime) -> Iterator[dg.RunRecord]:
    """Failed and cancelled runs of single files, newest first."""
    cursor = None
    while True:
        page: Sequence[dg.RunRecord] = instance.get_run_records(
            dg.RunsFilter(statuses=_FAILED, created_after=after), limit=_PAGE, cursor=cursor
        )
        yield from (record for record in page if PARTITION_TAG in record.dagster_run.tags)
        if len(page) < _PAGE:
            return
        cursor = page[-1].dagster_run.run_id


def _is_still_failed(
    instance: dg.DagsterInstance, path: str, latest_failure: dg.RunRecord, now: datetime
) -> bool:
    # Dagster writes a run first and then what it is found by: a kill in between leaves a run that no
    # question for its file finds.
    found = instance.get_run_records(dg.RunsFilter(tags={PARTITION_TAG: path}), limit=1)
    if any(record.storage_id > latest_failure.storage_id for record in found):
        return False
    tags = latest_failure.dagster_run.tags
    promised = tags.get("dagster/will_retry") == "true" and "dagster/auto_retry_run_id" not in tags
    # A daemon that is killed at the wrong moment forgets its promise.
    return not promised or now - _failed_at(latest_failure) > PROMISE


def _failed_file(path: str, records: Sequence[dg.RunRecord]) -> FailedFile:
    latest = records[0].dagster_run
    return FailedFile(
        path=path,
        since=_failed_at(records[-1]),
        last=_failed_at(records[0]),
        runs=len(records),
        run_id=latest.run_id,
        kind=_kind(latest),
        round=int(latest.tags.get(ROUND_TAG, "0")),
        run_config=dict(latest.run_config),
    )


def _kind(run: dg.DagsterRun) -> str:
    if run.status is dg.DagsterRunStatus.CANCELED:
        return "cancelled"
    return kind_of(run) or "crash"


def _failed_at(record: dg.RunRecord) -> datetime:
    if record.end_time is None:
        return record.create_timestamp.astimezone(UTC)
    return datetime.fromtimestamp(record.end_time, UTC)
