"""The job ``discover_files``: the same comparison from the launchpad; it only adds partitions."""

from datetime import datetime
from functools import cache

import dagster as dg
from pydantic import Field

from scicat_dagster.errors import PermanentError
from scicat_dagster.orchestration.facility import facility_in
from scicat_dagster.orchestration.failures.failed_files import failed_files, reasons_by_path
from scicat_dagster.orchestration.failures.policy import explained
from scicat_dagster.orchestration.names import Names
from scicat_dagster.orchestration.partitions import keys_of, paths_of
from scicat_dagster.orchestration.past_files.backfills import add_partitions
from scicat_dagster.orchestration.past_files.in_flight import files_in_flight
from scicat_dagster.orchestration.past_files.plan import plan_sweep, roots_of
from scicat_dagster.orchestration.past_files.sweep import LONGEST_SWEEP_TAGS, compare
from scicat_dagster.orchestration.past_files.tables import files_table, found_metadata, sweep_table
from scicat_dagster.orchestration.tags import OWNERS, PAST_FILES, PRIORITY_TAG, RAW_DATASET, kinds
from scicat_dagster.usecases.walk import Criteria


class DiscoverConfig(dg.Config):
    """Where to look for files, and which ones count."""

    roots: list[str] = Field(
        default=[], description="Absolute folders; empty: those that the nightly sweep looks at."
    )
    since: str = Field(default="", description="Modified at this time or later, such as 2026-01-31.")
    until: str = Field(default="", description="Modified before this time, such as 2026-02-28T12:00.")
    instrument: list[str] = Field(
        default=[], description="Only files with a folder of this name on their way; empty: all."
    )
    glob: list[str] = Field(
        default=[],
        description="Patterns of file names; empty: those of ingestion.file_handling.file_names.",
    )

    def criteria(self) -> Criteria:
        """The same for the domain.

        Raises
        ------
        PermanentError
            A time cannot be read.
        """
        return Criteria(
            patterns=self.glob,
            since=_time(self.since),
            until=_time(self.until),
            instruments=self.instrument,
        )


def find_missing_files(names: Names) -> dg.OpDefinition:
    """The op of the job."""

    @dg.op(
        name=names.name("find_missing_files"),
        required_resource_keys={names.facility},
        out=dg.Out(dg.Nothing),
        tags=kinds("scicat"),
        description="Walk folders, ask the catalogue which files it holds, and add partitions for the "
        "others.",
    )
    def find_missing_files(context: dg.OpExecutionContext, config: DiscoverConfig) -> None:
        facility = facility_in(context, names)
        instance = context.instance
        instance.add_run_tags(context.run_id, LONGEST_SWEEP_TAGS)
        data_directory = facility.settings.ingestion.file_handling.data_directory
        with explained(context, facility.op_pauses):
            roots = config.roots or roots_of(facility.settings)
            found = compare(instance, facility, roots, config.criteria())
        missing = [file.path for file in found.of("missing")]
        plan = plan_sweep(
            missing,
            paths_of(files_in_flight(instance, names), data_directory),
            reasons_by_path(failed_files(instance, names=names), data_directory).keys(),
        )
        add_partitions(instance, keys_of(plan.wanted, data_directory), names)
        what_next = (
            f"{len(plan.wanted)} files are not in the catalogue and have no run under way. To register them, "
            f"open Catalog → {names.key(RAW_DATASET).to_user_string()} → Partitions → Materialize, choose "
            f"the missing partitions only, and give the tag {PRIORITY_TAG}: -1, so that live files go first."
        )
        if plan.failed:
            what_next += f" {len(plan.failed)} failed; `scicat-dagster failures --retry` tries them again."
        context.log.info(what_next)
        context.add_output_metadata(
            {
                **found_metadata(found),
                "in flight": len(plan.in_flight),
                "failed": len(plan.failed),
                "what next": what_next,
                "table": sweep_table(found, plan, ()),
                "missing files": files_table(plan.wanted),
            }
        )

    return find_missing_files


@cache
def discover_files(names: Names) -> dg.JobDefinition:
    """The job."""

    @dg.job(
        name=names.name("discover_files"),
        executor_def=dg.in_process_executor,
        owners=OWNERS,
        tags=PAST_FILES,
        run_tags={},
        description="Find files on disk that the catalogue does not hold, and add a partition for each, so "
        "that they can be registered from the partitions page of `raw_dataset`. Registers nothing itself.",
    )
    def discover_files() -> None:
        find_missing_files(names)()

    return discover_files


def _time(text: str) -> datetime | None:
    if not text:
        return None
    try:
        # A time without an offset is this machine's.
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise PermanentError(
            f"{text!r} is not a time.", remedy="Write it like 2026-01-31 or 2026-01-31T12:00."
        ) from None
