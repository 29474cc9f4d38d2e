"""The job that brings registered datasets up to date after a schema was corrected.

What is compared and changed is :mod:`scicat_dagster.usecases.reingest`'s business.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import dagster as dg
from pydantic import Field

from scicat_dagster.errors import Problem
from scicat_dagster.orchestration.facility import Facility, facility_in
from scicat_dagster.orchestration.failures.policy import explained
from scicat_dagster.orchestration.metadata import difference_table, problem_metadata, table
from scicat_dagster.orchestration.names import Names
from scicat_dagster.orchestration.partitions import key_of
from scicat_dagster.orchestration.tags import (
    CORRECTION,
    MAX_RUNTIME_TAG,
    OWNERS,
    PID,
    RAW_DATASET,
    RETRY_RUN_TAG,
    kinds,
)
from scicat_dagster.usecases.reingest import Reingested, Reingestion, counted, listed_files
from scicat_dagster.usecases.walk import Criteria, Refused, Unreadable

_LONGEST_RUN = {MAX_RUNTIME_TAG: str(24 * 3600)}
"""Run monitoring ends other runs after minutes."""


class ReingestConfig(dg.Config):
    """Which files are looked at, and what is done."""

    files: list[str] = Field(description="Full paths of files, or of folders to be searched for files.")
    update: bool = Field(
        default=False, description="Change the datasets. Otherwise the differences are only shown."
    )
    also: list[str] = Field(
        default=[],
        description="Fields that are left alone otherwise, because people edit them, they decide who may see "
        "the dataset, or their value is non-deterministic. An entry scientificMetadata.NAME that the schema "
        "no longer defines is removed.",
    )
    only_schema: str = Field(default="", description="Only files whose schema has this id or name.")
    instrument: list[str] = Field(
        default=[], description="Of folders, only files with a folder of one of these names on their way."
    )


def reingest(names: Names) -> dg.OpDefinition:
    """The op of the job."""

    @dg.op(
        name=names.name("reingest"),
        required_resource_keys={names.facility},
        out=dg.Out(dg.Nothing),
        tags=kinds("hdf5", "scicat"),
        description="Build the dataset of each file anew, compare it with the catalogue's, and change what "
        "differs if `update` is set.",
    )
    def reingest(context: dg.OpExecutionContext, config: ReingestConfig) -> None:
        facility = facility_in(context, names)
        context.instance.add_run_tags(context.run_id, _LONGEST_RUN)
        done: list[Reingested] = []
        left_out: list[Unreadable | Refused] = []
        with explained(context, facility.op_pauses):
            reingestion = Reingestion(
                facility.settings, facility.schemas(), facility.catalogue, tuple(config.also)
            )
            work = reingestion.updated if config.update else reingestion.compared
            handling = facility.settings.ingestion.file_handling
            for entry in listed_files(config.files, Criteria(instruments=config.instrument), handling):
                if not isinstance(entry, str):
                    left_out.append(entry)
                elif not config.only_schema or reingestion.is_for(entry, config.only_schema):
                    datasets = work(entry)
                    done.extend(datasets)
                    for dataset in datasets:
                        _show(context, facility, dataset)
        summary = _summary(done, left_out)
        unlooked = [place for place in left_out if isinstance(place, Unreadable)]
        failed = [file for file in done if file.state == "failed"]
        if failed or unlooked:
            raise _failure(context, summary, failed, unlooked)
        context.add_output_metadata(summary)

    return reingest


@cache
def reingest_files(names: Names) -> dg.JobDefinition:
    """The job."""

    @dg.job(
        name=names.name("reingest_files"),
        executor_def=dg.in_process_executor,
        owners=OWNERS,
        tags=CORRECTION,
        run_tags={},
        description="Bring the datasets of registered files up to date after a schema was corrected. Without "
        "`update` it only shows what would be changed.",
    )
    def reingest_files() -> None:
        reingest(names)()

    return reingest_files


_SHOWN_AS = {"differs": "would be changed", "updated": "was changed"}


def _show(context: dg.OpExecutionContext, facility: Facility, file: Reingested) -> None:
    for notice in file.warnings:
        context.log.warning("%s: %s: %s", file.file, notice.subject, notice.reason)
    if file.state == "failed":
        context.log.error("%s: %s %s", file.file, file.reason, file.remedy)
    if file.state in _SHOWN_AS and file.pid is not None:
        what = _SHOWN_AS[file.state]
        number = sum(change.kind == "change" for change in file.changes)
        handling = facility.settings.ingestion.file_handling
        context.log_event(
            dg.AssetObservation(
                facility.names.key(RAW_DATASET),
                partition=key_of(file.file, handling.data_directory),
                description=f"{number} fields of the dataset: {what}",
                metadata={
                    PID: file.pid,
                    "SciCat": dg.MetadataValue.url(facility.catalogue.dataset_page(file.pid)),
                    what: difference_table(file.changes),
                },
            )
        )


def _summary(
    done: Sequence[Reingested], left_out: Sequence[Unreadable | Refused]
) -> dict[str, dg.MetadataValue | int]:
    summary: dict[str, dg.MetadataValue | int] = {"files": len(done)}
    summary |= {str(state): number for state, number in counted(done).items()}
    for state in ("differs", "updated", "not registered"):
        if found := [(file.file,) for file in done if file.state == state]:
            summary[f"files: {state}"] = table(("file",), found)
    if left_out:
        summary["left out"] = table(("file", "reason"), [(place.path, place.reason) for place in left_out])
    return summary


def _failure(
    context: dg.OpExecutionContext,
    summary: Mapping[str, Any],
    failed: Sequence[Reingested],
    unlooked: Sequence[Unreadable],
) -> dg.Failure:
    """The failure of the run after all other files are done; a retry looks at every file again."""
    may_help = bool(unlooked) or any(file.is_transient for file in failed)
    context.instance.add_run_tags(context.run_id, {RETRY_RUN_TAG: str(may_help).lower()})
    problem = Problem(
        what=f"{len(failed)} files failed, and {len(unlooked)} places could not be read.",
        remedy="See the table; the other files are done, and comparing them again does no harm.",
    )
    rows = [(file.file, file.reason, file.remedy) for file in failed]
    return dg.Failure(
        description=problem.what,
        metadata={
            **problem_metadata(problem),
            **({"files that failed": table(("file", "reason", "what to do"), rows)} if rows else {}),
            **summary,
        },
        allow_retries=False,
    )
