"""What Dagster does with each kind of failure. Which situation is which kind is the domain's business.

=========  ==============================  ===========================================  =====================
kind       examples                        what happens                                 what a person does
=========  ==============================  ===========================================  =====================
transient  network, 5xx, 429, storage      exponential backoff for the op, then         nothing
                                           the run from the failed op; then later
waiting    the file is not there, or       exponential backoff for the op; then         nothing; see that the
           still being written             later: other files need the place            file is written
changed    the file was modified while     the run is retried from its beginning        nothing
           work on it was under way
permanent  schema, mandatory field, 400,   no retries; the partition stays failed with  what the remedy says,
           403 with a valid login, a pid   the reason and the remedy                    then re-execute
           of another file, a file on
           which HDF5 crashes or loops
login      SciCat refuses our password or  no run is started until a login succeeds     correct the login
           token, or it has expired        (``login_gate``); then later
crash      a bug, a killed process         the run is retried from the failed op         report a bug
repeated   the process died, or hung,      no retries; the partition stays failed       see what the file or
crash      twice in a row at the same op                                                the machine has
=========  ==============================  ===========================================  =====================

"Later" is the sensor in ``later``, which requests anew what failed and is not permanent, for some five days.
Run retries are stopped by a tag on the run; ``Failure(allow_retries=False)`` would stop op retries only.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import dagster as dg

from scicat_dagster.errors import IngestionError, PermanentError, TransientError
from scicat_dagster.nexus import FileChangedError, NotReadyError
from scicat_dagster.orchestration.dagster_internals import CheckRunHealthResult, WorkerStatus
from scicat_dagster.orchestration.partitions import PARTITION_TAG
from scicat_dagster.scicat.client import LoginRefusedError

RETRY_RUN_TAG = "dagster/retry_on_asset_or_op_failure"
RETRY_STRATEGY_TAG = "dagster/retry_strategy"
MAX_RETRIES_TAG = "dagster/max_retries"

FAILURE_TAG = "scicat/failure"
"""On a failed run: the kind of its failure."""

FAILED_RUN_TAG = "scicat/failed_run"
"""Which run the kind is about: a run that is re-executed carries the tags of its parent."""

LOGIN = "login"
"""A kind of failure, which is about every file alike."""

REPEATED_CRASH = "repeated crash"
"""A kind of failure, noted by who finds the second process of a file dead."""

LONGEST_PAUSE_SECONDS = 60.0
"""The most that an op waits before it is retried; a server that wants more time gets it from the sensor."""

_BEGINNINGS = {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED}
_ENDS = {
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.STEP_UP_FOR_RETRY,
}


@contextmanager
def explained(context: dg.OpExecutionContext, pauses: Sequence[float]) -> Iterator[None]:
    """Turn the domain's failures into Dagster's, with the reason and the remedy as metadata.

    ``pauses`` are the seconds to wait before each retry of the op after a transient failure, give or take a
    half, so that many files do not come back at once. A retry policy would lose the failure's metadata in
    the end, and could not wait as long as the server asks.
    """
    try:
        yield
    except FileChangedError as error:
        _tag(context, "changed", {RETRY_STRATEGY_TAG: "ALL_STEPS"})
        raise _failure(error, kind="changed") from error
    except LoginRefusedError as error:
        _tag(context, LOGIN, {RETRY_RUN_TAG: "false"})
        raise _failure(error, kind=LOGIN) from error
    except PermanentError as error:
        _tag(context, "permanent", {RETRY_RUN_TAG: "false"})
        raise _failure(error, kind="permanent") from error
    except TransientError as error:
        waiting = isinstance(error, NotReadyError)
        kind = "waiting" if waiting else "transient"
        wanted = error.retry_after_seconds or 0.0
        # Too long to keep a place meanwhile: the retry sensor comes after minutes.
        is_later = waiting or wanted > LONGEST_PAUSE_SECONDS
        # Said also when it is true, because the parent's tag may say otherwise.
        _tag(context, kind, {RETRY_RUN_TAG: "false" if is_later else "true"})
        if context.retry_number < len(pauses) and wanted <= LONGEST_PAUSE_SECONDS:
            pause = pauses[context.retry_number] * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
            pause = max(pause, wanted)
            context.log.warning("%s Tried again in %.1f s.", error, pause)
            raise dg.RetryRequested(max_retries=len(pauses), seconds_to_wait=pause) from error
        raise _failure(error, kind=kind) from error


def repeat_whole_run(
    instance: dg.DagsterInstance, run_id: str, what: str, details: dict[str, str]
) -> dg.Failure:
    """The failure of a run that cannot use what its ops have stored: all of them are executed again."""
    tags = {FAILURE_TAG: "transient", FAILED_RUN_TAG: run_id}
    instance.add_run_tags(run_id, {**tags, RETRY_RUN_TAG: "true", RETRY_STRATEGY_TAG: "ALL_STEPS"})
    remedy = "Re-execute the whole run, not from the failed op; Dagster's retry does so by itself."
    return _failure(TransientError(what, remedy=remedy, details=details), kind="transient")


def kind_of(run: dg.DagsterRun) -> str | None:
    """The kind of a run's own failure; None where its process died without reporting one."""
    return run.tags.get(FAILURE_TAG) if run.tags.get(FAILED_RUN_TAG) == run.run_id else None


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
    latest = instance.get_runs(dg.RunsFilter(tags={PARTITION_TAG: run.tags[PARTITION_TAG]}), limit=2)
    return next((found for found in latest if found.run_id != run.run_id), None)


def _tag(context: dg.OpExecutionContext, kind: str, retries: dict[str, str]) -> None:
    tags = {FAILURE_TAG: kind, FAILED_RUN_TAG: context.run_id, **retries}
    context.instance.add_run_tags(context.run_id, tags)


def _failure(error: IngestionError, *, kind: str) -> dg.Failure:
    return dg.Failure(
        description=str(error),
        metadata={
            "reason": dg.MetadataValue.text(error.what),
            "what to do": dg.MetadataValue.text(error.remedy),
            "kind": dg.MetadataValue.text(kind),
            **{name: dg.MetadataValue.text(text) for name, text in error.details.items()},
        },
        allow_retries=False,
    )
