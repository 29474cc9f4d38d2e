"""The sweep: an asset that compares folders with the catalogue and requests what is missing."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache

import dagster as dg

from scicat_dagster.config.models import ReconcileSettings
from scicat_dagster.dagster_internals import UnresolvedAssetJobDefinition
from scicat_dagster.orchestration.facility import Facility, facility_in
from scicat_dagster.orchestration.failures.failed_files import failed_files
from scicat_dagster.orchestration.failures.policy import explained
from scicat_dagster.orchestration.names import Names
from scicat_dagster.orchestration.partitions import keys_of, paths_of
from scicat_dagster.orchestration.past_files.in_flight import files_in_flight, known_pids, registered_by_us
from scicat_dagster.orchestration.past_files.plan import plan_sweep, roots_of, sweep_criteria
from scicat_dagster.orchestration.past_files.requests import request_events
from scicat_dagster.orchestration.past_files.tables import found_metadata, sweep_table
from scicat_dagster.orchestration.tags import GROUP, MAX_RUNTIME_TAG, OWNERS, PAST_FILES, RECONCILIATION
from scicat_dagster.usecases.discover import Discovery, count_datasets, discover, with_empty_folders
from scicat_dagster.usecases.walk import Criteria, walk

LONGEST_SWEEP_TAGS = {MAX_RUNTIME_TAG: str(6 * 3600)}
"""Run monitoring ends other runs after minutes."""


@cache
def reconciliation(names: Names) -> dg.AssetsDefinition:
    """The asset of a facility."""

    @dg.asset(
        key=names.key(RECONCILIATION),
        required_resource_keys={names.facility},
        group_name=names.name(GROUP),
        kinds={"table", "scicat"},
        owners=OWNERS,
        tags=PAST_FILES,
        description="What lies on disk, and which of it is in the catalogue. Each materialization is a sweep "
        "of the folders in the configuration's `reconcile` section; it requests runs for the files that are "
        "neither registered nor in flight nor failed. Requests are observations of this asset, and "
        "`reconcile_sensor` turns them into runs.",
    )
    def reconciliation(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        facility = facility_in(context, names)
        instance = context.instance
        instance.add_run_tags(context.run.run_id, LONGEST_SWEEP_TAGS)
        settings = facility.settings
        data_directory = settings.ingestion.file_handling.data_directory
        with explained(context.op_execution_context, facility.op_pauses):
            criteria = sweep_criteria(settings.reconcile, datetime.now(UTC))
            found = compare(instance, facility, roots_of(settings), criteria)
        plan = plan_sweep(
            [file.path for file in found.of("missing")],
            paths_of(files_in_flight(instance, names), data_directory),
            paths_of((file.path for file in failed_files(instance, names=names)), data_directory),
        )
        # A dry run registers nothing, so that the same files would be requested again each night.
        requested = () if settings.ingestion.dry_run else plan.wanted
        for event in request_events(keys_of(requested, data_directory), "reconcile", names=names):
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

    return reconciliation


def compare(
    instance: dg.DagsterInstance, facility: Facility, roots: Sequence[str], criteria: Criteria
) -> Discovery:
    """What lies on disk, compared with the catalogue; raises as ``walk`` and ``discover``."""
    handling = facility.settings.ingestion.file_handling

    def pids(paths: Sequence[str]) -> Mapping[str, str]:
        return known_pids(instance, paths, handling.data_directory, facility.names)

    def settled(paths: Sequence[str]) -> set[str]:
        return registered_by_us(instance, paths, handling.data_directory, facility.names)

    def datasets(paths: Sequence[str]) -> Mapping[str, int | str]:
        return count_datasets(paths, facility.configuration, settled)

    entries = walk(roots, criteria, handling)
    found = discover(entries, facility.catalogue, known_pids=pids, datasets_of=datasets)
    return with_empty_folders(found, roots, criteria, handling)


@cache
def reconcile_files(names: Names) -> UnresolvedAssetJobDefinition:
    """The job."""
    return dg.define_asset_job(
        names.name("reconcile_files"),
        selection=dg.AssetSelection.assets(reconciliation(names)),
        executor_def=dg.in_process_executor,
        owners=OWNERS,
        tags=PAST_FILES,
        run_tags={},
        description="Sweep the folders of the `reconcile` section for files that the catalogue does not "
        "hold.",
    )


def reconcile_schedule(settings: ReconcileSettings, names: Names) -> dg.ScheduleDefinition:
    """The schedule of the sweep; off until somebody turns it on, because it may find years of files."""
    return dg.ScheduleDefinition(
        name=names.name("reconcile"),
        job=reconcile_files(names),
        cron_schedule=settings.cron,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        owners=OWNERS,
        tags=PAST_FILES,
        description="The sweep for files that no announcement has brought into the catalogue. Turn it on "
        "when its first materialization shows what you expect.",
    )
