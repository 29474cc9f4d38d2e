"""Runs whose process is gone: they have failed, for good where one file crashed twice at the same op."""

from __future__ import annotations

import dagster as dg

from scicat_dagster.dagster_internals import CheckRunHealthResult, WorkerStatus
from scicat_dagster.orchestration.partitions import prefix_of
from scicat_dagster.orchestration.tags import FAILED_RUN_TAG, FAILURE_TAG, MAX_RETRIES_TAG, PARTITION_TAG

REPEATED_CRASH = "repeated crash"
"""A kind of failure, noted by who finds the second process of a file dead."""

_BEGINNINGS = {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED}

_RUNS_OF_A_PARTITION = 20
"""Among which the run before is found: projects downstream may have runs of the same partition."""

_ENDS = {
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.STEP_UP_FOR_RETRY,
}


def lost_run_health(instance: dg.DagsterInstance, run: dg.DagsterRun, reason: str) -> CheckRunHealthResult:
    """What a launcher answers of a run whose process is gone: Dagster's monitoring reports it as failed."""
    note_crash(instance, run)
    return CheckRunHealthResult(WorkerStatus.FAILED, reason)


def note_crash(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """See to it that one file does not kill worker after worker; before its run is reported as failed.

    A second crash in a row at the same op is not retried, neither by Dagster nor later.
    """
    op = _unfinished_op(instance, run)
    before = _run_before(instance, run)
    if op is None or before is None or before.status is not dg.DagsterRunStatus.FAILURE:
        return
    if _unfinished_op(instance, before) == op:
        tags = {FAILURE_TAG: REPEATED_CRASH, FAILED_RUN_TAG: run.run_id, MAX_RETRIES_TAG: "0"}
        instance.add_run_tags(run.run_id, tags)


def _unfinished_op(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str | None:
    """The op that a run was at when its process ended; none where every op that began had an end."""
    at_work: str | None = None
    for entry in instance.all_logs(run.run_id, of_type={*_BEGINNINGS, *_ENDS}):
        event = entry.get_dagster_event()
        at_work = event.step_key if event.event_type in _BEGINNINGS else None
    return at_work


def _run_before(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun | None:
    """The run that a run re-executes, or else the one that its file had before."""
    if run.parent_run_id is not None:
        return instance.get_run_by_id(run.parent_run_id)
    if PARTITION_TAG not in run.tags:
        return None
    same = dg.RunsFilter(tags={PARTITION_TAG: run.tags[PARTITION_TAG]})
    latest = instance.get_runs(same, limit=_RUNS_OF_A_PARTITION)
    others = (found for found in latest if found.run_id != run.run_id)
    return next((found for found in others if prefix_of(found) == prefix_of(run)), None)
