"""Measures of Dagster for Prometheus: runs by status, lag, ages, failed files, and counters since the start.

What is counted is read from Dagster's records, of which each scrape reads only those that are new: the
processes that register files end with each run, and have nothing that could be scraped. Source: Prometheus,
*Metric types* and *Writing exporters*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from time import time
from typing import Any

import dagster as dg
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import Metric

from scicat_dagster.dagster_internals import InstigatorType
from scicat_dagster.diagnostics.checkup import Question
from scicat_dagster.diagnostics.endpoint import gauge
from scicat_dagster.kafka.started_runs import StartedRuns
from scicat_dagster.orchestration.events import events_after
from scicat_dagster.orchestration.failures.failed_files import FAILED, failed_files, failure_kind
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.operations.health import Home
from scicat_dagster.orchestration.operations.instigators import instigators, last_sign
from scicat_dagster.orchestration.run_starts.open_runs import started_runs
from scicat_dagster.orchestration.run_starts.unended import reported_unended
from scicat_dagster.orchestration.tags import (
    FILE_SIZE,
    INGESTION,
    INSTRUMENT,
    INSTRUMENT_TAG,
    KAFKA_LAG,
    LAG_BY_TOPIC,
    PURPOSE_RUN_TAG,
    RAW_DATASET,
    REJECTED_MESSAGE,
    REJECTED_MESSAGES,
    RETRY_NUMBER_TAG,
    ROUND_TAG,
    SECONDS_AT_WORK,
    SECONDS_IN_QUEUE,
    SECONDS_SINCE_MESSAGE,
    SECONDS_UNTIL_REQUESTED,
    WRDN_SENSOR,
)

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


MOST_INSTRUMENTS = 50
"""Values of the label ``instrument``, because a file may name any; all others are ``other``."""

_UNKNOWN = "unknown"

_SECONDS = (0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200, 86400)

_STAGE_SECONDS = (0.05, 0.1, 0.25, *_SECONDS)

_STAGES = {
    SECONDS_UNTIL_REQUESTED: "message_to_requested",
    SECONDS_IN_QUEUE: "requested_to_begun",
    SECONDS_AT_WORK: "begun_to_registered",
}
"""What a file waited for, by the key of its metadata: the sensor, a place in the queue, the worker."""

_BYTES = tuple(10**power for power in range(4, 13))

_PAGE = 500

_LATE_SECONDS = 60.0
"""Runs are asked for once more for so long: clocks differ, and records are stored a moment later."""


def dagster_measures(home: Home, names: Names = UNPREFIXED) -> list[Question[list[Metric]]]:
    """What Prometheus gets of Dagster."""
    counts = Counts(time(), names)
    return [
        Question(lambda: measures(home.instance(), names=names), MEASURES_KEPT_SECONDS),
        Question(lambda: counts.measures(home.instance()), MEASURES_KEPT_SECONDS),
        Question(lambda: failed_file_measures(home.instance(), names), FAILED_FILES_KEPT_SECONDS),
    ]


def measures(
    instance: dg.DagsterInstance, now: float | None = None, names: Names = UNPREFIXED
) -> list[Metric]:
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
    lag = instance.get_latest_materialization_event(names.key(KAFKA_LAG))
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
        if sensor.state.name == names.name(WRDN_SENSOR) and sensor.latest is not None:
            ages["tick"] = now - last_sign(sensor.latest)
    registered = instance.get_latest_materialization_event(names.key(RAW_DATASET))
    if registered is not None:
        ages["registration"] = now - registered.timestamp
    meaning = "Seconds since the last tick of wrdn_sensor, and since the last file was registered."
    return [
        *found,
        gauge("age_seconds", meaning, ages, label="of"),
        _started_runs(instance, names),
        _oldest_runs(instance, now),
        _heartbeats(instance, now, names),
    ]


def _started_runs(instance: dg.DagsterInstance, names: Names) -> Metric:
    runs = started_runs(instance, names)
    is_followed = runs != StartedRuns()
    counts = (
        {"open": len(runs.open), "overdue": len(reported_unended(instance, names))} if is_followed else {}
    )
    meaning = "Runs that started and whose file was not announced; those of them that their check names."
    return gauge("started_runs", meaning, counts, label="state")


def _oldest_runs(instance: dg.DagsterInstance, now: float) -> Metric:
    ages = {}
    for status in _UNFINISHED:
        for record in instance.get_run_records(dg.RunsFilter(statuses=[status]), limit=1, ascending=True):
            ages[status.value.lower()] = now - record.create_timestamp.timestamp()
    return gauge("oldest_run_seconds", "How long ago the oldest such run was created.", ages, label="status")


def _heartbeats(instance: dg.DagsterInstance, now: float, names: Names) -> Metric:
    ages = {
        name: now - status.last_heartbeat.timestamp
        for name, status in instance.get_daemon_statuses().items()
        if status.last_heartbeat is not None
    }
    ages |= {
        found.state.name: now - last_sign(found.latest)
        for found in instigators(instance)
        if found.latest is not None
        and found.state.is_running
        and names.has(found.state.name)
        # A schedule's ticks are hours apart.
        and found.state.instigator_type is InstigatorType.SENSOR
    }
    meaning = "Seconds since a daemon was heard of, and since the last tick of a sensor."
    return gauge("heartbeat_age_seconds", meaning, ages, label="of")


class Counts:
    """What happened since the endpoint began: counters and histograms, which begin at 0 with each process."""

    def __init__(self, since: float, names: Names = UNPREFIXED) -> None:
        self._since = since
        self._names = names
        self._read_until = {RAW_DATASET: 0, REJECTED_MESSAGES: 0}
        self._failed_runs: set[str] = set()
        self._retried_runs: set[str] = set()
        self._runs_until = since
        self._instruments: set[str] = set()
        self._registry = CollectorRegistry()
        self._registered = self._counter("registered_files", "Files that were registered.", "instrument")
        self._rejected = self._counter("rejected_messages", "Messages that led to no file.")
        self._failed = self._counter("failed_runs", "Runs that failed, by kind.", "instrument", "kind")
        self._retried = self._counter("retried_runs", "Runs that try a failed file again.", "instrument")
        self._seconds = self._histogram(
            "message_to_dataset_seconds", "From the message to the registration.", _SECONDS
        )
        self._stages = self._histogram(
            "stage_seconds", "The stages from the message to the registration.", _STAGE_SECONDS, "stage"
        )
        self._bytes = self._histogram("file_size_bytes", "Sizes of the NeXus files registered.", _BYTES)

    def measures(self, instance: dg.DagsterInstance) -> list[Metric]:
        """All of them, with what is new in Dagster's records."""
        self._count_registrations(instance)
        self._count_rejections(instance)
        self._count_runs(instance)
        return list(self._registry.collect())

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"scicat_dagster_{name}", meaning, labels, registry=self._registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        name, known = f"scicat_dagster_{name}", ["instrument", *labels]
        return Histogram(name, meaning, known, buckets=buckets, registry=self._registry)

    def _instrument(self, name: object) -> str:
        text = str(name or _UNKNOWN)
        if len(self._instruments) < MOST_INSTRUMENTS:
            self._instruments.add(text)
        return text if text in self._instruments else "other"

    def _count_registrations(self, instance: dg.DagsterInstance) -> None:
        for record in self._new(RAW_DATASET, instance.fetch_materializations):
            event = record.asset_materialization
            found: dict[str, Any] = {} if event is None else dict(event.metadata)
            value = {name: found[name].value for name in _COUNTED if name in found}
            instrument = self._instrument(value.get(INSTRUMENT))
            self._registered.labels(instrument).inc()
            if SECONDS_SINCE_MESSAGE in value:
                self._seconds.labels(instrument).observe(value[SECONDS_SINCE_MESSAGE])
            for key, stage in _STAGES.items():
                if key in value:
                    # Clocks of broker and machines differ.
                    self._stages.labels(instrument, stage).observe(max(value[key], 0))
            if FILE_SIZE in value:
                self._bytes.labels(instrument).observe(value[FILE_SIZE])

    def _count_rejections(self, instance: dg.DagsterInstance) -> None:
        for record in self._new(REJECTED_MESSAGES, instance.fetch_observations):
            event = record.asset_observation
            if event is not None and REJECTED_MESSAGE in event.metadata:
                self._rejected.inc()

    def _new(self, key: dg.AssetKey, fetch: Callable[..., Any]) -> Iterator[dg.EventLogRecord]:
        """The events of an asset that were not read before."""
        for record in events_after(self._names.key(key), self._read_until[key], self._since, fetch):
            self._read_until[key] = record.storage_id
            yield record

    def _count_runs(self, instance: dg.DagsterInstance) -> None:
        after = max(self._since, self._runs_until - _LATE_SECONDS)
        self._runs_until = time()
        failed, retried = set(), set()
        for record in _ingestion_runs(instance, after, self._names):
            run = record.dagster_run
            instrument = self._instrument(run.tags.get(INSTRUMENT_TAG))
            created = record.create_timestamp.timestamp()
            if run.status in FAILED and (record.end_time or created) >= after:
                failed.add(run.run_id)
                if run.run_id not in self._failed_runs:
                    self._failed.labels(instrument, failure_kind(run)).inc()
            if _is_retry(run) and created >= after:
                retried.add(run.run_id)
                if run.run_id not in self._retried_runs:
                    self._retried.labels(instrument).inc()
        # What happened before the next `after` is not asked for again.
        self._failed_runs, self._retried_runs = failed, retried


_COUNTED = (INSTRUMENT, SECONDS_SINCE_MESSAGE, *_STAGES, FILE_SIZE)


def _is_retry(run: dg.DagsterRun) -> bool:
    """Whether Dagster, or ``retry_sensor`` some time later, tries the file once more."""
    return RETRY_NUMBER_TAG in run.tags or ROUND_TAG in run.tags


def _ingestion_runs(instance: dg.DagsterInstance, after: float, names: Names) -> Iterator[dg.RunRecord]:
    """Runs that register files and have changed since."""
    wanted = dg.RunsFilter(
        tags={PURPOSE_RUN_TAG: names.name(INGESTION["purpose"])},
        updated_after=datetime.fromtimestamp(after, UTC),
    )
    cursor = None
    while True:
        page = instance.get_run_records(wanted, limit=_PAGE, cursor=cursor)
        yield from page
        if len(page) < _PAGE:
            return
        cursor = page[-1].dagster_run.run_id


def failed_file_measures(instance: dg.DagsterInstance, names: Names = UNPREFIXED) -> list[Metric]:
    """How many files failed and are not repaired."""
    failed = failed_files(instance, names=names)
    person = sum(file.needs_manual_intervention for file in failed)
    counts = {"person": person, "retry": len(failed) - person}
    meaning = "Files that failed and are not repaired, by what they wait for."
    return [gauge("failed_files", meaning, counts, label="waits_for")]
