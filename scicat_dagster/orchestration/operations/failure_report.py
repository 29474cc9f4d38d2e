"""Reports for people: assets without partitions whose materialization is a table."""

import dagster as dg

from scicat_dagster.orchestration.failures.failed_files import failed_files, reason_of
from scicat_dagster.orchestration.tags import GROUP, OVERSIGHT, OWNERS

MOST_ROWS = 500


@dg.asset(
    group_name=GROUP,
    kinds={"table"},
    owners=OWNERS,
    tags=OVERSIGHT,
    description="The files that failed and are not repaired: since when, why, what to do, and how many runs. "
    "Materialized each morning; `scicat-dagster failures` shows the same at any time.",
)
def failed_files_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    failed = failed_files(context.instance)
    records = []
    for file in failed[:MOST_ROWS]:
        reason, remedy = reason_of(context.instance, file)
        records.append(
            dg.TableRecord(
                {
                    "file": file.path,
                    "since": file.since.isoformat(timespec="seconds"),
                    "kind": file.kind,
                    "reason": reason,
                    "what to do": remedy,
                    "runs": file.runs,
                }
            )
        )
    return dg.MaterializeResult(
        metadata={
            "failed files": len(failed),
            "waiting for a person": sum(file.waits_for_a_person for file in failed),
            "table": dg.MetadataValue.table(records, schema=_SCHEMA),
        }
    )


_SCHEMA = dg.TableSchema(
    [
        dg.TableColumn("file", "string"),
        dg.TableColumn("since", "string"),
        dg.TableColumn("kind", "string"),
        dg.TableColumn("reason", "string"),
        dg.TableColumn("what to do", "string"),
        dg.TableColumn("runs", "int"),
    ]
)

report_failures = dg.define_asset_job(
    "report_failures",
    selection=dg.AssetSelection.assets(failed_files_report),
    executor_def=dg.in_process_executor,
    owners=OWNERS,
    tags=OVERSIGHT,
    run_tags={},
    description="Bring the report of failed files up to date.",
)

every_morning = dg.ScheduleDefinition(
    name="report_failures_daily",
    job=report_failures,
    cron_schedule="0 6 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    owners=OWNERS,
    tags=OVERSIGHT,
    description="The report of failed files, at six (UTC) each morning.",
)
