"""The sensor that turns requests into runs, as many as there is room for."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from scicat_dagster.orchestration.ingest.jobs import ingest_file, job_of, with_writes
from scicat_dagster.orchestration.names import Names
from scicat_dagster.orchestration.partitions import add_requests
from scicat_dagster.orchestration.past_files.in_flight import UNFINISHED, files_with_unfinished_runs
from scicat_dagster.orchestration.past_files.requests import (
    Position,
    RequestedFile,
    requested_files,
    tags_for,
)
from scicat_dagster.orchestration.run_starts.jobs import make_sample
from scicat_dagster.orchestration.tags import (
    OWNERS,
    PAST_FILES,
    RECONCILE_SENSOR,
    REQUESTED_BY_TAG,
    REQUESTERS,
)

MOST_UNFINISHED = 200
"""Of the runs that were requested here. Each one in the queue costs the daemon time at each iteration."""


def reconcile_sensor(names: Names) -> dg.SensorDefinition:
    """The sensor."""

    @dg.sensor(
        name=names.name(RECONCILE_SENSOR),
        jobs=[ingest_file(names), make_sample(names)],
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        owners=OWNERS,
        tags=PAST_FILES,
        description="Turns the files that `reconciliation`, `ingest_files`, `scicat-dagster discover --run` "
        f"and `failures --retry` request into runs, at most {MOST_UNFINISHED} at a time; those for past "
        "files come after all live files. Its cursor is the last request that is done.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        unfinished = dg.RunsFilter(
            statuses=UNFINISHED, tags={REQUESTED_BY_TAG: [names.name(requester) for requester in REQUESTERS]}
        )
        room = MOST_UNFINISHED - context.instance.get_runs_count(unfinished)
        if room <= 0:
            return dg.SkipReason(f"{MOST_UNFINISHED} requested files have runs that are not finished.")
        position = Position.parse(context.cursor)
        chosen: dict[str, RequestedFile] = {}
        in_flight: set[str] | None = None
        for file in requested_files(context.instance, position, names):
            if len(chosen) == room:
                break
            if in_flight is None:
                in_flight = files_with_unfinished_runs(context.instance, names=names)
            position = file.after
            if file.path not in in_flight:
                chosen.setdefault(file.path, file)
        if not chosen:
            return dg.SensorResult(
                skip_reason="Nothing more is requested.", cursor=position.model_dump_json()
            )
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    run_key=file.run_key,
                    job_name=job_of(file.path, names),
                    partition_key=file.path,
                    run_config=_config_of(context.instance, file, names),
                    tags=tags_for(file.path, file.requester, names),
                )
                for file in chosen.values()
            ],
            dynamic_partitions_requests=add_requests(list(chosen), names),
            cursor=position.model_dump_json(),
        )

    return sensor


def _config_of(instance: dg.DagsterInstance, file: RequestedFile, names: Names) -> Mapping[str, Any]:
    """The configuration of the run that is to be repeated; none where that is gone, or there was none."""
    failed = instance.get_run_by_id(file.failed_run) if file.failed_run else None
    return with_writes(failed.run_config, names) if failed is not None else {}
