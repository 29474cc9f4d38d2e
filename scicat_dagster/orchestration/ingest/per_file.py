"""Ops that do the same with each file of a run: with the one file of most runs, or the many of a backfill's.

A run of one file fails as a whole, at the op that failed, and is retried. In a batch run a file that
fails is deferred with its reason while the others go on; in the end it gets a run of its own
(``past_files.deferred_files``), so that every failed file is looked at, retried and repaired in the same way.
"""

import inspect
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any, Concatenate, Generic, TypeVar, get_type_hints

import dagster as dg
from pydantic import BaseModel, ConfigDict

from scicat_dagster.dagster_internals import DagsterEventBatchMetadata
from scicat_dagster.errors import IngestionError, Problem, TransientError
from scicat_dagster.isolation import NoAnswerError, SharedChild, shared_child
from scicat_dagster.orchestration.facility import facility_in
from scicat_dagster.orchestration.failures.policy import explained, is_op_retried
from scicat_dagster.orchestration.metadata import problem_metadata
from scicat_dagster.orchestration.names import Names
from scicat_dagster.orchestration.tags import (
    DEFERRED_FILES,
    MAX_RUNTIME_TAG,
    PARTITION_TAG,
    RETRY_RUN_TAG,
    TOPIC_TAG,
    kinds,
)
from scicat_dagster.patience import SilentStorageError
from scicat_dagster.scicat.cache import CachedAnswers

T = TypeVar("T")

R = TypeVar("R")

_SLOWEST_STORAGE = 10_000_000
"""Bytes in a second."""
_UNREMARKABLE_SECONDS = 60


class PerFile(BaseModel, Generic[T]):
    """What was made of a run's files so far, by partition key, and why nothing was made of the others."""

    model_config = ConfigDict(frozen=True)

    made: dict[str, T]
    deferred: dict[str, Problem] = {}


class FileRun:
    """What the work on a file needs of the run that it is done in."""

    def __init__(self, context: dg.OpExecutionContext, names: Names) -> None:
        self.context = context
        self.names = names
        self.facility = facility_in(context, names)
        # Asked without looking at the partitions in the database.
        self.is_batch = PARTITION_TAG not in context.run.tags
        """Whether the run is about the many files of a backfill."""
        self.is_first = TOPIC_TAG in context.run.tags and context.run.parent_run_id is None
        """Whether its file was just announced. A re-execution may follow a correction in the catalogue."""
        self._bytes_to_read = 0

    @cached_property
    def answers(self) -> CachedAnswers:
        """What the catalogue says to schemas, asked once for all files of the run."""
        return CachedAnswers(self.facility.answers if self.is_first else self.facility.catalogue)

    def keys(self) -> Sequence[str]:
        """The partitions of the run's files."""
        # Asking for all keys of a run costs the database some answers.
        return self.context.partition_keys if self.is_batch else [self.context.partition_key]

    def is_tried_again(self, error: TransientError) -> bool:
        """Whether the file comes again after a transient failure, by itself and within minutes."""
        return self.is_batch or is_op_retried(self.context, self.facility.op_pauses, error)

    def allow_time_for(self, size: int) -> None:
        """Let a run that is going to read so many more bytes take longer: it would count as hanging."""
        self._bytes_to_read += size
        allowed = self.context.instance.run_monitoring_max_runtime_seconds
        before, longer = seconds_to_read(self._bytes_to_read - size), seconds_to_read(self._bytes_to_read)
        if allowed and longer > max(before, _UNREMARKABLE_SECONDS):
            tag = {MAX_RUNTIME_TAG: str(allowed + longer)}
            self.context.instance.add_run_tags(self.context.run_id, tag)

    def each(self, kind: type[PerFile[T]], files: PerFile[R], work: Callable[[str, R], T]) -> PerFile[T]:
        """Call ``work`` with each file's key and what is known of it; what was deferred before stays so.

        ``kind`` is what comes out, as Dagster checks it.
        """
        if self.is_batch:
            with shared_child() as child:
                return _of_batch(kind, files, work, child)
        with explained(self.context, self.facility.op_pauses):
            return kind(made={key: work(key, known) for key, known in files.made.items()})


def per_file_op(
    *, description: str, of: Sequence[str], after: Callable[[FileRun, PerFile[Any]], None] | None = None
) -> Callable[[Callable[Concatenate[FileRun, ...], T]], Callable[[Names], dg.OpDefinition]]:
    """Make an op of a function of one file; the answer is the op by its facility's names.

    The function gets the run and, for each of its other parameters, what the op upstream has made of the
    file. It is called for the files that all of them have something of.

    ``of`` is what it works on, as Dagster shows it; ``after`` gets the run and what was made of all files.
    """

    def decorated(work: Callable[Concatenate[FileRun, ...], T]) -> Callable[[Names], dg.OpDefinition]:
        types = get_type_hints(work)
        inputs = {name: _per_file(types[name]) for name in list(inspect.signature(work).parameters)[1:]}
        made = _per_file(types["return"])

        @cache
        def op(names: Names) -> dg.OpDefinition:
            def compute(context: dg.OpExecutionContext, **upstream: PerFile[Any]) -> PerFile[T]:
                run = FileRun(context, names)
                found = run.each(made, _together(upstream), lambda _, known: work(run, **known))
                if after is not None:
                    after(run, found)
                return found

            return dg.op(
                name=names.name(work.__name__),
                description=description,
                ins={name: dg.In(kind) for name, kind in inputs.items()},
                out=dg.Out(made, io_manager_key=names.io_manager),
                required_resource_keys={names.facility},
                tags=kinds(*of),
            )(compute)

        return op

    return decorated


def _per_file(kind: Any) -> type[PerFile[Any]]:
    return PerFile[kind]


def _together(inputs: Mapping[str, PerFile[Any]]) -> PerFile[dict[str, Any]]:
    """What several ops have made of each file, by the names of the inputs, where all of them have."""
    first, *others = inputs.values()
    keys = [key for key in first.made if all(key in other.made for other in others)]
    made = {key: {name: given.made[key] for name, given in inputs.items()} for key in keys}
    deferred = {key: why for given in inputs.values() for key, why in given.deferred.items()}
    # As it is: judging what was judged takes time.
    return PerFile[dict[str, Any]].model_construct(made=made, deferred=deferred)


def _of_batch(
    kind: type[PerFile[T]], files: PerFile[R], work: Callable[[str, R], T], child: SharedChild
) -> PerFile[T]:
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
        if key in deferred:
            child.end()
    return kind(made=made, deferred=deferred)


def seconds_to_read(size: int) -> int:
    """How long reading so many bytes may take on a slow storage; a checksum reads the whole file."""
    return size // _SLOWEST_STORAGE


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
