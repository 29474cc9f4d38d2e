"""The job that registers one file, and what a run of a partition is a run of."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import dagster as dg
from pydantic import ValidationError

from scicat_dagster.dagster_internals import UnresolvedAssetJobDefinition
from scicat_dagster.kafka.messages import FileWritten
from scicat_dagster.orchestration.ingest.assets import raw_dataset
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.partitions import is_ours, is_sample_key
from scicat_dagster.orchestration.tags import (
    INGEST_FILE,
    INGESTION,
    JOB_TAG,
    MAKE_SAMPLE,
    OWNERS,
    PARTITION_TAG,
    POSTED,
    PURPOSE_RUN_TAG,
    RAW_DATASET,
    REQUESTED_BY_TAG,
)


@cache
def ingest_file(names: Names) -> UnresolvedAssetJobDefinition:
    """The job."""
    return dg.define_asset_job(
        names.name(INGEST_FILE),
        # Its ops evaluate the checks themselves.
        selection=dg.AssetSelection.assets(raw_dataset(names)).without_checks(),
        # One process per file: the multiprocess executor would start five more.
        executor_def=dg.in_process_executor,
        owners=OWNERS,
        tags=INGESTION,
        run_tags={PURPOSE_RUN_TAG: names.name(INGESTION["purpose"])},
        description="Register the NeXus file of one partition as a raw dataset in SciCat.",
    )


def job_of(key: str, names: Names = UNPREFIXED) -> str:
    """The name of the job that works on a partition."""
    return names.name(MAKE_SAMPLE if is_sample_key(key) else INGEST_FILE)


_NOT_FAILED = [
    status
    for status in dg.DagsterRunStatus
    if status not in {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
]

_LATELY = timedelta(days=1)

_MOST_POSTED = 2000


def has_run(instance: dg.DagsterInstance, key: str, job_id: str, names: Names = UNPREFIXED) -> bool:
    """Whether a run has registered a file for a job, or is about to do so."""
    wanted = dg.RunsFilter(statuses=_NOT_FAILED, tags={PARTITION_TAG: key, JOB_TAG: job_id})
    return any(is_ours(run, names) for run in instance.get_runs(wanted))


def posted_lately(instance: dg.DagsterInstance, names: Names = UNPREFIXED) -> set[tuple[str, str]]:
    """The partition and job of what was announced by ``POST /announce`` within a day, and has not failed."""
    wanted = dg.RunsFilter(
        statuses=_NOT_FAILED,
        tags={REQUESTED_BY_TAG: names.name(POSTED)},
        created_after=datetime.now(UTC) - _LATELY,
    )
    runs = instance.get_runs(wanted, limit=_MOST_POSTED)
    return {(run.tags.get(PARTITION_TAG, ""), run.tags.get(JOB_TAG, "")) for run in runs}


def announced_at(run_config: Mapping[str, Any], names: Names = UNPREFIXED) -> datetime | None:
    """When Kafka got the message that a run is about; None where there was none, or it has no time."""
    match _settings_in(run_config, names):
        case {"announcement": str(text)}:
            with suppress(ValidationError):
                milliseconds = FileWritten.model_validate_json(text).announced_at_ms
                return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
    return None


def with_writes(run_config: Mapping[str, Any], names: Names = UNPREFIXED) -> dict[str, Any]:
    """The configuration of a run that is repeated to register its file, also where it was a dry run."""
    found = _settings_in(run_config, names)
    if "dry_run" not in found:
        return dict(run_config)
    return config_of(names, **{name: value for name, value in found.items() if name != "dry_run"})


def config_of(names: Names = UNPREFIXED, **settings: str | bool) -> dict[str, Any]:
    """The configuration of a run with these settings of its first op (``AnnouncementConfig``)."""
    found: dict[str, Any] = dict(settings)
    for place in reversed(_place_of_settings(names)):
        found = {place: found}
    return found


def _settings_in(run_config: Mapping[str, Any], names: Names) -> Mapping[str, Any]:
    """The settings of the first op; none where the configuration has none."""
    found: Any = run_config
    for place in _place_of_settings(names):
        found = found.get(place) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _place_of_settings(names: Names) -> tuple[str, ...]:
    """Where in the configuration of a run the settings of its first op are."""
    graph, op = names.name(RAW_DATASET.path[-1]), names.name("wait_for_file")
    return "ops", graph, "ops", op, "config"
