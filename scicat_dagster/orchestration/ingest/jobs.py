"""The job that registers one file, and what a run of a partition is a run of."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import ValidationError

from scicat_dagster.kafka.messages import FileWritten
from scicat_dagster.orchestration.ingest.assets import raw_dataset
from scicat_dagster.orchestration.partitions import is_sample_key
from scicat_dagster.orchestration.run_starts.jobs import make_sample
from scicat_dagster.orchestration.tags import (
    INGEST_FILE,
    INGESTION,
    JOB_TAG,
    OWNERS,
    PARTITION_TAG,
    POSTED,
    PURPOSE_RUN_TAG,
    REQUESTED_BY_TAG,
)

ingest_file = dg.define_asset_job(
    INGEST_FILE,
    # Its ops evaluate the checks themselves.
    selection=dg.AssetSelection.assets(raw_dataset).without_checks(),
    # One process per file: the multiprocess executor would start five more.
    executor_def=dg.in_process_executor,
    owners=OWNERS,
    tags=INGESTION,
    run_tags={PURPOSE_RUN_TAG: INGESTION["purpose"]},
    description="Register the NeXus file of one partition as a raw dataset in SciCat.",
)


def job_of(key: str) -> str:
    """The name of the job that works on a partition."""
    return make_sample.name if is_sample_key(key) else ingest_file.name


_NOT_FAILED = [
    status
    for status in dg.DagsterRunStatus
    if status not in {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
]

_LATELY = timedelta(days=1)

_MOST_POSTED = 2000


def has_run(instance: dg.DagsterInstance, key: str, job_id: str) -> bool:
    """Whether a run has registered a file for a job, or is about to do so."""
    wanted = dg.RunsFilter(statuses=_NOT_FAILED, tags={PARTITION_TAG: key, JOB_TAG: job_id})
    return instance.get_runs_count(wanted) > 0


def posted_lately(instance: dg.DagsterInstance) -> set[tuple[str, str]]:
    """The partition and job of what was announced by ``POST /announce`` within a day, and has not failed."""
    wanted = dg.RunsFilter(
        statuses=_NOT_FAILED, tags={REQUESTED_BY_TAG: POSTED}, created_after=datetime.now(UTC) - _LATELY
    )
    runs = instance.get_runs(wanted, limit=_MOST_POSTED)
    return {(run.tags.get(PARTITION_TAG, ""), run.tags.get(JOB_TAG, "")) for run in runs}


def announced_at(run_config: Mapping[str, Any]) -> datetime | None:
    """When Kafka got the message that a run is about; None where there was none, or it has no time."""
    match run_config:
        case {"ops": {"raw_dataset": {"ops": {"wait_for_file": {"config": {"announcement": str(text)}}}}}}:
            with suppress(ValidationError):
                milliseconds = FileWritten.model_validate_json(text).announced_at_ms
                return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
    return None


def config_of(**settings: str | bool) -> dict[str, Any]:
    """The configuration of a run with these settings of its first op (``AnnouncementConfig``)."""
    return {"ops": {"raw_dataset": {"ops": {"wait_for_file": {"config": settings}}}}}
