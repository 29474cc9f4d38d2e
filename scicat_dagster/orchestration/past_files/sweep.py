"""The sweep: an asset that compares folders with the catalogue and requests what is missing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from scicat_dagster.config.models import ReconcileSettings, Settings
from scicat_dagster.errors import PermanentError
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.failures.failed_files import failed_files
from scicat_dagster.orchestration.failures.policy import explained
from scicat_dagster.orchestration.past_files.in_flight import files_in_flight, known_pids
from scicat_dagster.orchestration.past_files.requests import request_events
from scicat_dagster.orchestration.past_files.tables import found_metadata, sweep_table
from scicat_dagster.orchestration.tags import GROUP, OWNERS, PAST_FILES
from scicat_dagster.usecases.discover import discover
from scicat_dagster.usecases.walk import Criteria, walk

SETTLED_AFTER = timedelta(hours=1)
"""The sweep leaves younger files to the announcement that is on its way."""

LONGEST_SWEEP_TAGS = {"dagster/max_runtime": str(6 * 3600)}
"""Run monitoring ends other runs after minutes."""


@dataclass(frozen=True)
class Plan:
    """What a sweep does about the files that the catalogue does not hold."""

    in_flight: Sequence[str]
    """Left out, because a run is under way or will be."""
    failed: Sequence[str]
    """Left out, because a person or `retry_later_sensor` looks after them."""
    wanted: Sequence[str]


def plan_sweep(missing: Iterable[str], in_flight: set[str], failed: set[str]) -> Plan:
    """Sort out which missing files need a run. What is in flight has not failed, whatever came before."""
    flying: list[str] = []
    left: list[str] = []
    wanted: list[str] = []
    for path in missing:
        (flying if path in in_flight else left if path in failed else wanted).append(path)
    return Plan(flying, left, wanted)


def roots_of(settings: Settings) -> Sequence[str]:
    """The folders that are searched when nobody names any.

    Raises
    ------
    PermanentError
        The configuration names none, either.
    """
    data_directory = settings.ingestion.file_handling.data_directory
    roots = settings.reconcile.roots or ((data_directory,) if data_directory else ())
    if not roots:
        raise PermanentError(
            "Nobody says where the facility's files are.",
            remedy="Set reconcile.roots or ingestion.file_handling.data_directory in the configuration.",
        )
    return roots


def sweep_criteria(settings: ReconcileSettings, now: datetime) -> Criteria:
    """Which files a sweep looks at."""
    since = now - timedelta(days=settings.since_days) if settings.since_days else None
    return Criteria(since=since, until=now - SETTLED_AFTER)


@dg.asset(
    group_name=GROUP,
    kinds={"table", "scicat"},
    owners=OWNERS,
    tags=PAST_FILES,
    description="What lies on disk, and which of it is in the catalogue. Each materialization is a sweep of "
    "the folders in the configuration's `reconcile` section; it requests runs for the files that are neither "
    "registered nor in flight nor failed. Requests are observations of this asset, and `reconcile_sensor` "
    "turns them into runs.",
)
def reconciliation(
    context: dg.AssetExecutionContext, facility: dg.ResourceParam[Facility]
) -> dg.MaterializeResult[None]:
    instance = context.instance
    instance.add_run_tags(context.run.run_id, LONGEST_SWEEP_TAGS)
    settings = facility.settings
    with explained(context.op_execution_context, facility.op_pauses):
        entries = walk(
            roots_of(settings),
            sweep_criteria(settings.reconcile, datetime.now(UTC)),
            settings.ingestion.file_handling,
        )
        found = discover(entries, facility.catalogue, known_pids=lambda paths: known_pids(instance, paths))
    plan = plan_sweep(
        [file.path for file in found.of("missing")],
        files_in_flight(instance),
        {file.path for file in failed_files(instance)},
    )
    # A dry run registers nothing, so that the same files would be requested again each night.
    requested = () if settings.ingestion.dry_run else plan.wanted
    for event in request_events(requested, "reconcile"):
        context.log_event(event)
    return dg.MaterializeResult(
        metadata={
            **found_metadata(found),
            "in flight": len(plan.in_flight),
            "failed": len(plan.failed),
            "requested": len(requested),
            "table": sweep_table(found, plan, requested),
        }
    )


reconcile_files = dg.define_asset_job(
    "reconcile_files",
    selection=dg.AssetSelection.assets(reconciliation),
    executor_def=dg.in_process_executor,
    owners=OWNERS,
    tags=PAST_FILES,
    run_tags={},
    description="Sweep the folders of the `reconcile` section for files that the catalogue does not hold.",
)


def reconcile_schedule(settings: ReconcileSettings) -> dg.ScheduleDefinition:
    """The schedule of the sweep; off until somebody turns it on, because it may find years of files."""
    return dg.ScheduleDefinition(
        name="reconcile",
        job=reconcile_files,
        cron_schedule=settings.cron,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        owners=OWNERS,
        tags=PAST_FILES,
        description="The sweep for files that no announcement has brought into the catalogue. Turn it on "
        "when its first materialization shows what you expect.",
    )
