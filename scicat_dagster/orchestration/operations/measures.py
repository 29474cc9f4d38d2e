"""Measures of Dagster for Prometheus: runs by status, lag, ages, failed files."""

from __future__ import annotations

from time import time
from typing import Any

import dagster as dg
from prometheus_client.core import Metric

from scicat_dagster.diagnostics.checkup import Question
from scicat_dagster.diagnostics.endpoint import gauge
from scicat_dagster.orchestration.failures.failed_files import failed_files
from scicat_dagster.orchestration.ingest.sensor import wrdn_sensor
from scicat_dagster.orchestration.operations.health import Home
from scicat_dagster.orchestration.operations.instigators import instigators, last_sign
from scicat_dagster.orchestration.tags import KAFKA_LAG, LAG_BY_TOPIC, RAW_DATASET

MEASURES_KEPT_SECONDS = 15.0

FAILED_FILES_KEPT_SECONDS = 60.0
"""The failed files cost a query for each failed file."""

_UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


def dagster_measures(home: Home) -> list[Question[list[Metric]]]:
    """What Prometheus gets of Dagster."""
    return [
        Question(lambda: measures(home.instance()), MEASURES_KEPT_SECONDS),
        Question(lambda: failed_file_measures(home.instance()), FAILED_FILES_KEPT_SECONDS),
    ]


def measures(instance: dg.DagsterInstance, now: float | None = None) -> list[Metric]:
    """What Dagster's records tell at the cost of a few queries."""
    now = time() if now is None else now
    found = [
        gauge(
            "unfinished_runs", "Runs that are queued or under way.",
            {
                status.value.lower(): instance.get_runs_count(dg.RunsFilter(statuses=[status]))
                for status in _UNFINISHED
            },
            label="status",
        ),
    ]  # fmt: skip
    lag = instance.get_latest_materialization_event(KAFKA_LAG)
    if (
        lag is not None
        and lag.asset_materialization is not None
        and (LAG_BY_TOPIC in lag.asset_materialization.metadata)
    ):
        waiting: Any = lag.asset_materialization.metadata[LAG_BY_TOPIC].value
        meaning = "Messages still to be read, as wrdn_sensor last said."
        found.append(gauge("kafka_lag_messages", meaning, waiting, label="topic"))
    ages = {}
    for sensor in instigators(instance):
        if sensor.state.name == wrdn_sensor.name and sensor.latest is not None:
            ages["tick"] = now - last_sign(sensor.latest)
    registered = instance.get_latest_materialization_event(RAW_DATASET)
    if registered is not None:
        ages["registration"] = now - registered.timestamp
    meaning = "Seconds since the last tick of wrdn_sensor, and since the last file was registered."
    return [*found, gauge("age_seconds", meaning, ages, label="of")]


def failed_file_measures(instance: dg.DagsterInstance) -> list[Metric]:
    """How many files failed and are not repaired."""
    failed = failed_files(instance)
    person = sum(file.needs_manual_intervention for file in failed)
    counts = {"person": person, "retry": len(failed) - person}
    meaning = "Files that failed and are not repaired, by what they wait for."
    return [gauge("failed_files", meaning, counts, label="waits_for")]
