"""Reports for people: assets without partitions whose materialization is a table."""

from functools import cache

import dagster as dg

from scicat_dagster.dagster_internals import UnresolvedAssetJobDefinition
from scicat_dagster.orchestration.failures.failed_files import FailedFile, failed_files, problem_of
from scicat_dagster.orchestration.metadata import table
from scicat_dagster.orchestration.names import Names
from scicat_dagster.orchestration.tags import FAILED_FILES_REPORT, GROUP, OVERSIGHT, OWNERS


@cache
def failed_files_report(names: Names) -> dg.AssetsDefinition:
    """The asset of a facility."""

    @dg.asset(
        key=names.key(FAILED_FILES_REPORT),
        group_name=names.name(GROUP),
        kinds={"table"},
        owners=OWNERS,
        tags=OVERSIGHT,
        description="The files that failed and are not repaired: since when, why, what to do, and how many "
        "runs. Materialized each morning; `scicat-dagster failures` shows the same at any time.",
    )
    def failed_files_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        failed = failed_files(context.instance, names=names)
        return dg.MaterializeResult(
            metadata={
                "failed files": len(failed),
                "need manual intervention": sum(file.needs_manual_intervention for file in failed),
                "table": table(
                    ("file", "since", "kind", "reason", "what to do", "runs"),
                    (_row(context.instance, file) for file in failed),
                ),
            }
        )

    return failed_files_report


def _row(instance: dg.DagsterInstance, file: FailedFile) -> tuple[str | int, ...]:
    problem = problem_of(instance, file)
    since = file.since.isoformat(timespec="seconds")
    return file.path, since, file.kind, problem.what, problem.remedy, file.runs


@cache
def report_failures(names: Names) -> UnresolvedAssetJobDefinition:
    """The job."""
    return dg.define_asset_job(
        names.name("report_failures"),
        selection=dg.AssetSelection.assets(failed_files_report(names)),
        executor_def=dg.in_process_executor,
        owners=OWNERS,
        tags=OVERSIGHT,
        run_tags={},
        description="Bring the report of failed files up to date.",
    )


def every_morning(names: Names) -> dg.ScheduleDefinition:
    """The schedule."""
    return dg.ScheduleDefinition(
        name=names.name("report_failures_daily"),
        job=report_failures(names),
        cron_schedule="0 6 * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        owners=OWNERS,
        tags=OVERSIGHT,
        description="The report of failed files, at six (UTC) each morning.",
    )
