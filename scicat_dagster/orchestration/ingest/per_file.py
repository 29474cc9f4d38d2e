"""Doing the same with each file of a run: of the one file of most runs, or of the many of a backfill's.

A run of one file fails as a whole, at the op that failed, and is retried. In a batch run a file that
fails is deferred with its reason while the others go on; in the end it gets a run of its own
(``past_files.deferred_files``), so that every failed file is looked at, retried and repaired in the same way.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import dagster as dg
from pydantic import BaseModel, ConfigDict

from scicat_dagster.dagster_internals import DagsterEventBatchMetadata
from scicat_dagster.errors import IngestionError, Problem
from scicat_dagster.isolation import NoAnswerError
from scicat_dagster.orchestration.failures.policy import explained
from scicat_dagster.orchestration.metadata import problem_metadata
from scicat_dagster.orchestration.tags import DEFERRED_FILES, PARTITION_TAG, RETRY_RUN_TAG
from scicat_dagster.patience import SilentStorageError

T = TypeVar("T")

R = TypeVar("R")


class PerFile(BaseModel, Generic[T]):
    """What was made of a run's files so far, by partition key, and why nothing was made of the others."""

    model_config = ConfigDict(frozen=True)

    made: dict[str, T]
    deferred: dict[str, Problem] = {}


def is_batch_run(context: dg.OpExecutionContext) -> bool:
    """Whether the run is about a range of files; asked without looking at the partitions in the database."""
    return PARTITION_TAG not in context.run.tags


def each_file(
    context: dg.OpExecutionContext,
    kind: type[PerFile[T]],
    pauses: Sequence[float],
    files: PerFile[R],
    work: Callable[[str, R], T],
) -> PerFile[T]:
    """Call ``work`` with each file's key and what is known of it; what was deferred before stays so.

    ``kind`` is what comes out, as Dagster checks it; ``pauses`` are as for ``explained``.
    """
    if is_batch_run(context):
        return _of_batch(kind, files, work)
    with explained(context, pauses):
        return kind(made={key: work(key, known) for key, known in files.made.items()})


def _of_batch(kind: type[PerFile[T]], files: PerFile[R], work: Callable[[str, R], T]) -> PerFile[T]:
    made: dict[str, T] = {}
    deferred = dict(files.deferred)
    silent: Problem | None = None
    for key, known in files.made.items():
        if silent is not None:
            # Each is waited for by a run of its own: all of them together are more than a run may take.
            deferred[key] = silent
            continue
        try:
            made[key] = work(key, known)
        except (SilentStorageError, NoAnswerError) as error:
            silent = deferred[key] = error.problem
        except IngestionError as error:
            deferred[key] = error.problem
        except Exception as error:  # noqa: BLE001 - a defect of ours that one file hits must not stop the others
            deferred[key] = Problem(
                what=f"Unexpected {type(error).__name__}: {error}",
                remedy="See the traceback in the run that this file gets, and report it.",
            )
    return kind(made=made, deferred=deferred)


def log_materializations(
    context: dg.OpExecutionContext, materializations: Sequence[dg.AssetMaterialization]
) -> None:
    """As ``context.log_event`` with each, but as one batch.

    Dagster stores as many of a batch at once as ``DAGSTER_EVENT_BATCH_SIZE`` in its environment says, and one
    by one without it.
    """
    step, batch = context.get_step_execution_context(), str(uuid.uuid4())
    for number, materialization in enumerate(materializations, start=1):
        place = DagsterEventBatchMetadata(batch, is_end=number == len(materializations))
        dg.DagsterEvent.asset_materialization(step, materialization, place)


def failure_of(context: dg.OpExecutionContext, deferred: Mapping[str, Problem]) -> dg.Failure:
    """The failure of a batch run, which is not retried: its other files are registered."""
    context.instance.add_run_tags(context.run_id, {RETRY_RUN_TAG: "false"})
    problem = Problem(
        what=f"{len(deferred)} of {len(context.partition_keys)} files could not be registered.",
        remedy="Look at the runs of these files: each gets one of its own, which says why and is retried.",
    )
    return dg.Failure(
        description=f"{problem.what} {problem.remedy}",
        metadata={
            **problem_metadata(problem),
            DEFERRED_FILES: dg.MetadataValue.json(
                {key: why.model_dump(mode="json") for key, why in deferred.items()},
            ),
        },
        allow_retries=False,
    )
