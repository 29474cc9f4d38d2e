"""What Dagster does with each kind of failure. Which situation is which kind is the domain's business.

=========  ==============================  ===========================================  =====================
kind       examples                        what happens                                 what a person does
=========  ==============================  ===========================================  =====================
transient  network, 5xx, 429, file not     the op is retried with growing pauses, then  nothing; later,
           there or still being written,   the run from the failed op, then the         re-execute
           expired login                   partition stays failed
changed    the file was modified while     the run is retried from its beginning        nothing
           work on it was under way
permanent  schema, mandatory field, 400,   no retries; the partition stays failed with  what the remedy says,
           403 with a valid login, a pid   the reason and the remedy                    then re-execute
           of another file
other      a bug                           as transient                                 report it
=========  ==============================  ===========================================  =====================

``Failure(allow_retries=False)`` stops op retries only; run retries are stopped by a tag on the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from scicat_dagster.errors import IngestionError, PermanentError, TransientError
from scicat_dagster.nexus import FileChangedError

RETRY_RUN_TAG = "dagster/retry_on_asset_or_op_failure"
RETRY_STRATEGY_TAG = "dagster/retry_strategy"

OP_RETRIES = dg.RetryPolicy(
    max_retries=3, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
)
"""Some 2, 4 and 8 seconds: short, because the run keeps its place in the queue meanwhile."""


@contextmanager
def explained(context: dg.OpExecutionContext) -> Iterator[None]:
    """Turn the domain's failures into Dagster's, with the reason and the remedy as metadata."""
    try:
        yield
    except FileChangedError as error:
        context.instance.add_run_tags(context.run_id, {RETRY_STRATEGY_TAG: "ALL_STEPS"})
        raise _failure(error, kind="changed", retry_op=False) from error
    except PermanentError as error:
        context.instance.add_run_tags(context.run_id, {RETRY_RUN_TAG: "false"})
        raise _failure(error, kind="permanent", retry_op=False) from error
    except TransientError as error:
        # A run that a person re-executed carries the tags of the one before.
        if context.run.tags.get(RETRY_RUN_TAG) == "false":
            context.instance.add_run_tags(context.run_id, {RETRY_RUN_TAG: "true"})
        raise _failure(error, kind="transient", retry_op=True) from error


def _failure(error: IngestionError, *, kind: str, retry_op: bool) -> dg.Failure:
    return dg.Failure(
        description=error.what,
        metadata={
            "reason": dg.MetadataValue.text(error.what),
            "what to do": dg.MetadataValue.text(error.remedy),
            "kind": dg.MetadataValue.text(kind),
            **{name: dg.MetadataValue.text(text) for name, text in error.details.items()},
        },
        allow_retries=retry_op,
    )
