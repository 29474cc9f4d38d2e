"""Everything that Dagster loads, put together; the only module that assembles and reads the environment."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

from scicat_dagster.config.current import CurrentConfiguration
from scicat_dagster.config.loading import CONFIGURATION_VARIABLE, Configuration
from scicat_dagster.dagster_internals import keep_sqlite_engines
from scicat_dagster.errors import PermanentError
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.ingest.assets import (
    announcements,
    kafka_lag,
    rejected_messages,
    scicat,
    topic,
    with_freshness,
)
from scicat_dagster.orchestration.ingest.assets import configuration as configuration_asset
from scicat_dagster.orchestration.ingest.io_manager import JsonBetweenOps
from scicat_dagster.orchestration.ingest.jobs import ingest_file
from scicat_dagster.orchestration.ingest.kafka_checks import kafka_topics
from scicat_dagster.orchestration.ingest.quality_checks import latest_files
from scicat_dagster.orchestration.ingest.retry_sensor import retry_sensor
from scicat_dagster.orchestration.ingest.sensor import wrdn_sensor
from scicat_dagster.orchestration.integration.posted_announcements import posted_announcements_sensor
from scicat_dagster.orchestration.integration.registered_events import registered_events_sensor
from scicat_dagster.orchestration.operations.digest_sensor import digest_sensor
from scicat_dagster.orchestration.operations.failure_report import (
    every_morning,
    failed_files_report,
    report_failures,
)
from scicat_dagster.orchestration.operations.reingest import reingest_files
from scicat_dagster.orchestration.operations.retention import apply_retention, retention_schedule
from scicat_dagster.orchestration.operations.today_sensor import today_asset, today_sensor
from scicat_dagster.orchestration.past_files.deferred_files import deferred_files_sensor
from scicat_dagster.orchestration.past_files.discover_job import discover_files
from scicat_dagster.orchestration.past_files.folder_watch import folder_watch_sensor
from scicat_dagster.orchestration.past_files.ingest_job import ingest_files
from scicat_dagster.orchestration.past_files.request_sensor import reconcile_sensor
from scicat_dagster.orchestration.past_files.sweep import reconcile_files, reconcile_schedule, reconciliation
from scicat_dagster.orchestration.run_starts.assets import run_starts, sample
from scicat_dagster.orchestration.run_starts.jobs import make_sample
from scicat_dagster.orchestration.run_starts.unended import run_starts_sensor, unended_runs
from scicat_dagster.orchestration.shared_configuration import shared_configuration

_JSON_BETWEEN_OPS = JsonBetweenOps()
"""One for all facilities."""


def build_definitions(configuration: Configuration, facility: Facility | None = None) -> dg.Definitions:
    """The definitions of one facility, with its names; tests hand in their own ``facility``."""
    # The code server opens an instance for each tick.
    keep_sqlite_engines()
    settings = configuration.settings
    facility = facility or Facility(CurrentConfiguration(configuration))
    names = facility.names
    outside = [
        *(topic(name) for name in settings.kafka.topics),
        announcements(settings.kafka.topics),
        run_starts,
        scicat,
        today_asset,
        rejected_messages,
        kafka_lag,
        configuration_asset,
    ]
    return dg.Definitions(
        assets=[
            *map(names.spec, outside),
            with_freshness(settings.monitoring.freshness_hours, names),
            sample(names),
            failed_files_report(names),
            reconciliation(names),
        ],
        asset_checks=[latest_files(names), kafka_topics(names), unended_runs(names)],
        jobs=[
            ingest_file(names),
            make_sample(names),
            ingest_files(names),
            report_failures(names),
            discover_files(names),
            reconcile_files(names),
            reingest_files(names),
            apply_retention(names),
        ],
        sensors=[
            wrdn_sensor(names),
            retry_sensor(names),
            deferred_files_sensor(names),
            reconcile_sensor(names),
            today_sensor(names),
            run_starts_sensor(settings.monitoring, names),
            posted_announcements_sensor(settings.health_check, names),
            folder_watch_sensor(settings.reconcile, names),
            registered_events_sensor(settings.events, settings.kafka, names),
            digest_sensor(settings.notifications, names),
        ],
        schedules=[
            every_morning(names),
            reconcile_schedule(settings.reconcile, names),
            retention_schedule(settings.retention, names),
        ],
        resources={names.facility: facility, names.io_manager: _JSON_BETWEEN_OPS},
        executor=dg.in_process_executor,
    )


def current_configuration() -> CurrentConfiguration:
    """The configuration file that the environment names, as it is in force in this process.

    Raises
    ------
    PermanentError
        It names none, or the file cannot be used.
    """
    path = os.environ.get(CONFIGURATION_VARIABLE)
    if not path:
        raise PermanentError(
            f"The environment variable {CONFIGURATION_VARIABLE} is not set.",
            remedy="Set it to the path of the facility's configuration file.",
        )
    return shared_configuration(Path(path))


@dg.definitions
def defs() -> dg.Definitions:
    """What ``workspace.yaml`` loads."""
    current = current_configuration()
    return build_definitions(current.read(), Facility(current))
