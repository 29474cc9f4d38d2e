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

"Later" is ``ingest.retry_sensor``, which requests anew what failed and is not permanent, for some five days.
Run retries are stopped by a tag on the run; ``Failure(allow_retries=False)`` would stop op retries only.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import dagster as dg

from scicat_dagster.errors import IngestionError, PermanentError, TransientError, with_name_only
from scicat_dagster.files.access import NotReadyError
from scicat_dagster.files.identity import FileChangedError
from scicat_dagster.limits import tag_value
from scicat_dagster.orchestration.metadata import problem_metadata
from scicat_dagster.orchestration.partitions import file_key_of
from scicat_dagster.orchestration.tags import (
    FAILED_RUN_TAG,
    FAILURE_TAG,
    PARTITION_TAG,
    REASON_TAG,
    RETRY_RUN_TAG,
    RETRY_STRATEGY_TAG,
)
from scicat_dagster.scicat.session import LoginRefusedError

LOGIN = "login"
"""A kind of failure, which is about every file alike."""

LONGEST_PAUSE_SECONDS = 60.0
"""The most that an op waits before it is retried; a server that wants more time gets it from the sensor."""


@contextmanager
def explained(context: dg.OpExecutionContext, pauses: Sequence[float]) -> Iterator[None]:
    """Turn the domain's failures into Dagster's, with the reason and the remedy as metadata.

    An expected failure is its reason and remedy, without the traceback of how it was found.

    ``pauses`` are the seconds to wait before each retry of the op after a transient failure, with a jitter of
    ±50 %, so that many files do not come back at once. A retry policy would lose the failure's metadata in
    the end, and could not wait as long as the server asks.
    """
    try:
        yield
    except FileChangedError as error:
        _tag(context, error, "changed", {RETRY_STRATEGY_TAG: "ALL_STEPS"})
        raise _failure(error, kind="changed") from None
    except LoginRefusedError as error:
        _tag(context, error, LOGIN, {RETRY_RUN_TAG: "false"})
        raise _failure(error, kind=LOGIN) from None
    except PermanentError as error:
        _tag(context, error, "permanent", {RETRY_RUN_TAG: "false"})
        raise _failure(error, kind="permanent") from None
    except TransientError as error:
        waiting = isinstance(error, NotReadyError)
        kind = "waiting" if waiting else "transient"
        # Too long to keep a place meanwhile: the retry sensor comes after minutes.
        is_later = waiting or _wanted(error) > LONGEST_PAUSE_SECONDS
        # Said also when it is true, because the parent's tag may say otherwise.
        _tag(context, error, kind, {RETRY_RUN_TAG: "false" if is_later else "true"})
        if is_op_retried(context, pauses, error):
            pause = pauses[context.retry_number] * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
            pause = max(pause, _wanted(error))
            context.log.warning("%s Tried again in %.1f s.", error, pause)
            raise dg.RetryRequested(max_retries=len(pauses), seconds_to_wait=pause) from None
        raise _failure(error, kind=kind) from None


def is_op_retried(context: dg.OpExecutionContext, pauses: Sequence[float], error: TransientError) -> bool:
    """Whether ``explained`` has the op retried after a transient failure, and not only the run."""
    return context.retry_number < len(pauses) and _wanted(error) <= LONGEST_PAUSE_SECONDS


def _wanted(error: TransientError) -> float:
    """The seconds that the server, or the situation, asks for."""
    return error.retry_after_seconds or 0.0


def repeat_whole_run(
    instance: dg.DagsterInstance, run_id: str, what: str, details: dict[str, str]
) -> dg.Failure:
    """The failure of a run that cannot use what its ops have stored: all of them are executed again."""
    tags = {FAILURE_TAG: "transient", FAILED_RUN_TAG: run_id, REASON_TAG: tag_value(what)}
    instance.add_run_tags(run_id, {**tags, RETRY_RUN_TAG: "true", RETRY_STRATEGY_TAG: "ALL_STEPS"})
    remedy = "Re-execute the whole run, not from the failed op; Dagster's retry does so by itself."
    return _failure(TransientError(what, remedy=remedy, details=details), kind="transient")


def kind_of(run: dg.DagsterRun) -> str | None:
    """The kind of a run's own failure; None where its process died without reporting one."""
    return run.tags.get(FAILURE_TAG) if run.tags.get(FAILED_RUN_TAG) == run.run_id else None


def _tag(context: dg.OpExecutionContext, error: IngestionError, kind: str, retries: dict[str, str]) -> None:
    tags = {
        FAILURE_TAG: kind,
        FAILED_RUN_TAG: context.run_id,
        REASON_TAG: tag_value(with_name_only(error.what, _file_of(context))),
        **retries,
    }
    context.instance.add_run_tags(context.run_id, tags)


def _file_of(context: dg.OpExecutionContext) -> str:
    """The file that a run is about; empty where it is about none, or about many."""
    return file_key_of(context.run.tags.get(PARTITION_TAG, ""))


def _failure(error: IngestionError, *, kind: str) -> dg.Failure:
    return dg.Failure(
        description=str(error),
        metadata={**problem_metadata(error.problem), "kind": dg.MetadataValue.text(kind)},
        allow_retries=False,
    )
