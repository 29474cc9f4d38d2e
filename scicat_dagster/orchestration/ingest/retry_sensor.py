"""Trying again later: a sensor that requests files anew whose failure was not permanent.

Op and run retries cover a minute or two. A catalogue that is down for an evening, or storage that is mounted
only in the morning, is what this is for; meanwhile nothing waits in a worker.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from scicat_dagster.orchestration.failures.failed_files import DRY_RUN, FailedFile, failed_files
from scicat_dagster.orchestration.ingest.jobs import ingest_file, job_of
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.run_starts.jobs import make_sample
from scicat_dagster.orchestration.tags import INGESTION, OWNERS, ROUND_TAG, file_tags

FIRST_PAUSE = timedelta(minutes=5)
FIRST_SHORT_PAUSE = timedelta(minutes=1)
"""For a file that was not ready and may be so any moment, and for a run that was killed."""

LONGEST_PAUSE = timedelta(hours=6)
MOST_REQUESTS_PER_TICK = 100


def due(failed: Sequence[FailedFile], now: datetime) -> list[FailedFile]:
    """The files to request anew now: they wait for no person, and their pause is over."""
    return [file for file in failed if (when := due_at(file)) is not None and now >= when]


def due_at(file: FailedFile) -> datetime | None:
    """When a file that failed is tried again by itself; None where it needs manual intervention."""
    return None if file.needs_manual_intervention or file.kind == DRY_RUN else file.last + pause(file)


def pause(file: FailedFile) -> timedelta:
    """How long to wait after the latest failure of a file."""
    first = FIRST_SHORT_PAUSE if file.kind in {"waiting", "crash"} else FIRST_PAUSE
    factor: int = 2 ** min(file.round, 16)
    return min(first * factor, LONGEST_PAUSE)


def retry_sensor(names: Names) -> dg.SensorDefinition:
    """The sensor."""

    @dg.sensor(
        name=names.name("retry_sensor"),
        jobs=[ingest_file(names), make_sample(names)],
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        owners=OWNERS,
        tags=INGESTION,
        description="Requests files anew whose failure was not permanent: 5 minutes after the last retry (1 "
        "when the file was not ready or the run was killed), then after twice as long, up to every 6 hours, "
        "for some five days.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return retries(context.instance, datetime.now(UTC), names)

    return sensor


def retries(
    instance: dg.DagsterInstance, now: datetime, names: Names = UNPREFIXED
) -> dg.SensorResult | dg.SkipReason:
    """What a tick requests at a time. A file whose partition was deleted is not among the failed ones:
    requesting it would fail the tick, and with it the retries of all others.
    """
    failed = failed_files(instance, now, names)
    wanted = due(failed, now)[:MOST_REQUESTS_PER_TICK]
    if not wanted:
        permanent = sum(file.needs_manual_intervention for file in failed)
        return dg.SkipReason(
            f"{len(failed)} failed files: {permanent} need manual intervention, none is due for a retry."
        )
    return dg.SensorResult(run_requests=[_run_request(file, names) for file in wanted])


def _run_request(file: FailedFile, names: Names) -> dg.RunRequest:
    return dg.RunRequest(
        # Once for each failed run, also when a tick is repeated; a batch run is about many files.
        run_key=f"{file.run_id}:{file.path}",
        job_name=job_of(file.path, names),
        partition_key=file.path,
        run_config=file.run_config,
        tags={ROUND_TAG: str(file.round + 1), **file_tags(file.path)},
    )
