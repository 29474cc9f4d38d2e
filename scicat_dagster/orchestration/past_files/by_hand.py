"""Registering files that a person names, one after the other in this process, without a daemon.

Each is a run of ``ingest_file`` like any other, recorded in the instance. Only one run works on a file at a
time: what a run is at work on is refused here, and the run queue lets other runs of the file wait for this
one, by the same limit that it has for all runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import dagster as dg
from pydantic import BaseModel, ConfigDict, JsonValue

from scicat_dagster.dataset.build import BuiltDataset
from scicat_dagster.errors import Notice, Problem
from scicat_dagster.kafka.messages import FileWritten
from scicat_dagster.orchestration.failures.failed_files import INTERRUPTION, problem_of_run
from scicat_dagster.orchestration.ingest.jobs import config_of
from scicat_dagster.orchestration.ingest.ops import Prepared
from scicat_dagster.orchestration.ingest.per_file import PerFile
from scicat_dagster.orchestration.metadata import entry_in
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.partitions import NEXUS_FILES
from scicat_dagster.orchestration.past_files.in_flight import AT_WORK, files_with_unfinished_runs
from scicat_dagster.orchestration.tags import (
    BY_HAND,
    IS_NEW,
    MAX_RETRIES_TAG,
    PAGE,
    PID,
    RAW_DATASET,
    REQUESTED_BY_TAG,
    file_tags,
)

Result = Literal["registered", "dry run", "failed", "refused"]
"""``refused``: no run was made."""


class IngestedFile(BaseModel):
    """What became of one file, or of one dataset of it; facilities script its JSON, so its keys stay as they
    are.

    ``dataset`` and ``origdatablock`` are the bodies that were posted, or would be.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    entry: str = ""
    """The name of the NXentry that the dataset is of, where the file is several datasets."""
    result: Result
    run_id: str | None = None
    pid: str | None = None
    page: str | None = None
    dataset: dict[str, JsonValue] | None = None
    origdatablock: dict[str, JsonValue] | None = None
    warnings: tuple[Notice, ...] = ()
    problem: Problem | None = None
    is_new: bool | None = None
    """Whether the dataset was created now; False where it was registered already, and left as it is. None
    where nothing is registered.
    """

    @property
    def is_well(self) -> bool:
        """Whether the file is registered, or could be."""
        return self.result in {"registered", "dry run"}

    def as_text(self) -> str:
        """The same for a person."""
        entry = f" ({self.entry})" if self.entry else ""
        lines = [f"{'unchanged' if self.is_new is False else self.result:<10}  {self.file}{entry}"]
        lines += [f"            {line}" for line in (self.pid, self.page) if line]
        if self.is_new is False:
            lines.append(f"            {_UNCHANGED}")
        if self.problem is not None:
            lines += [f"            {line}" for line in (self.problem.what, self.problem.remedy) if line]
        return "\n".join(lines)


_UNCHANGED = (
    "It was registered already, and its metadata stays as it is. `scicat-dagster reingest` shows what its "
    "schema makes of it today, and with --update changes the dataset."
)


def refused(file: str, what: str, remedy: str) -> IngestedFile:
    """A file that no run was made for."""
    return IngestedFile(file=file, result="refused", problem=Problem(what=what, remedy=remedy))


@dataclass(frozen=True)
class Order:
    """A file to register now."""

    file: str
    """Its canonical path."""
    key: str
    """Its partition key."""
    announcement: FileWritten | None = None
    dry_run: bool = False


def register_now(
    order: Order,
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    run_id: str,
    tags: Mapping[str, str],
    watch: Callable[[dg.EventLogEntry], None],
    names: Names = UNPREFIXED,
) -> Sequence[IngestedFile]:
    """Register a file by a run in this process, and say what became of each dataset of it, or of the file.

    It is said whatever may be wrong with the file.

    ``tags`` are added to the run; ``watch`` is called with each event while the run is at work.

    Raises
    ------
    KeyboardInterrupt
        The person has interrupted it; the run is cancelled.
    """
    if order.key in files_with_unfinished_runs(instance, AT_WORK, names):
        what = f"Another run is at work on {order.key}."
        remedy = "Wait for its end; if it hangs, terminate it in Dagster under Runs."
        return (refused(order.file, what, remedy),)
    instance.add_dynamic_partitions(names.name(NEXUS_FILES), [order.key])
    instance.add_event_listener(run_id, watch)
    announcement = order.announcement.model_dump_json() if order.announcement else ""
    done = job.execute_in_process(
        instance=instance,
        partition_key=order.key,
        run_config=config_of(names, announcement=announcement, dry_run=order.dry_run),
        run_id=run_id,
        # Dagster's daemon cannot retry what another process began; `retry_sensor` requests the file anew.
        tags={MAX_RETRIES_TAG: "0", REQUESTED_BY_TAG: names.name(BY_HAND), **file_tags(order.key), **tags},
        raise_on_error=False,
    )
    if _is_interrupted(done):
        # Dagster takes it for a failure, which would be tried again.
        instance.report_run_canceled(done.dagster_run, "Interrupted by the person who began it.")
        raise KeyboardInterrupt
    return _ingested(order, instance, done, names)


def _is_interrupted(done: dg.ExecuteInProcessResult) -> bool:
    failures = (event.step_failure_data for event in done.all_events if event.is_step_failure)
    return any(failed.error is not None and failed.error.cls_name == INTERRUPTION for failed in failures)


def _ingested(
    order: Order, instance: dg.DagsterInstance, done: dg.ExecuteInProcessResult, names: Names
) -> Sequence[IngestedFile]:
    shown = IngestedFile(file=order.file, result="failed", run_id=done.run_id)
    prepared = _prepared(order, done, names)
    datasets = [_posted(shown, built) for built in prepared.built] if prepared else [shown]
    if not done.success:
        problem = problem_of_run(instance, done.run_id, order.key)
        return [dataset.model_copy(update={"problem": problem}) for dataset in datasets]
    registered = {entry_in(metadata): metadata for metadata in _registrations(done, names)}
    return [_registered(dataset, registered.get(dataset.entry)) for dataset in datasets]


def _posted(shown: IngestedFile, built: BuiltDataset) -> IngestedFile:
    return shown.model_copy(
        update={
            "entry": built.entry,
            "dataset": built.dataset,
            "origdatablock": built.origdatablock,
            "warnings": built.notices,
        }
    )


def _registered(shown: IngestedFile, metadata: Mapping[str, dg.MetadataValue] | None) -> IngestedFile:
    if metadata is None:
        return shown.model_copy(update={"result": "dry run"})
    named = {
        "pid": str(metadata[PID].value), "page": str(metadata[PAGE].value), "is_new": metadata[IS_NEW].value
    }  # fmt: skip
    return shown.model_copy(update={"result": "registered", **named})


def _prepared(order: Order, done: dg.ExecuteInProcessResult, names: Names) -> Prepared | None:
    """What was, or would have been, posted."""
    step = f"{names.name(RAW_DATASET.path[-1])}.{names.name('build_dataset')}"
    if not any(event.is_step_success and event.step_key == step for event in done.all_events):
        return None
    prepared: PerFile[Prepared] = done.output_for_node(step)
    return prepared.made.get(order.key)


def _registrations(done: dg.ExecuteInProcessResult, names: Names) -> Iterator[Mapping[str, dg.MetadataValue]]:
    """The metadata of the file's materializations, one for each dataset."""
    for event in done.all_events:
        if event.is_step_materialization and event.asset_key == names.key(RAW_DATASET):
            yield event.step_materialization_data.materialization.metadata
