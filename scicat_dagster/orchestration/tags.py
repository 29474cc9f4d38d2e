"""Names that Dagster stores: tags of runs and definitions, asset keys, keys of metadata that programs read.

Whatever is written under one of them and read back elsewhere has its name here, and nothing else does.
"""

from __future__ import annotations

import warnings

import dagster as dg

JOB_TAG = "scicat/job_id"
"""On a run: the job of the file writer that wrote the file."""


# Dagster may still change how owners of jobs and sensors are given: ours to follow, not a facility's to read
# at each start.
warnings.filterwarnings("ignore", message="Parameter `owners`", category=dg.BetaWarning)


OWNERS = ["team:data-catalogue"]
"""A facility may name itself here: ``team:...`` or an e-mail address."""

# On assets, jobs, sensors and schedules. A job with tags gets `run_tags={}` as well: Dagster would otherwise
# write the job's tags into the database for each run.
INGESTION = {"purpose": "ingestion"}

PAST_FILES = {"purpose": "past-files"}

CORRECTION = {"purpose": "correction"}

OVERSIGHT = {"purpose": "oversight"}

UPKEEP = {"purpose": "upkeep"}


def kinds(*names: str) -> dict[str, str]:
    """The tags by which the UI shows what an op works with, as it does for an asset's ``kinds``."""
    return {f"dagster/kind/{name}": "" for name in names}


RAW_DATASET = dg.AssetKey("raw_dataset")
"""The asset that has these partitions."""

PARTITION_TAG = "dagster/partition"
"""On a run of one file: which."""

RANGE_START_TAG = "dagster/asset_partition_range_start"

RANGE_END_TAG = "dagster/asset_partition_range_end"
"""On a run of many files, as of a backfill: the first and the last of them."""

ROUND_TAG = "scicat/retry_round"

PROCESS_TAG = "scicat/process"
"""On a run: the machine, the process that executes it, and when that process began."""

GROUP_TAG = "scicat/worker_group"
"""On a run: the group of workers that one of its processes executes it."""

FILES_PUT_ASIDE = "files put aside"
"""The metadata of a run's failure that holds them."""

GROUP = "ingestion"

KAFKA_LAG = dg.AssetKey("kafka_lag")

REQUESTED_BY_TAG = "scicat/requested_by"

PRIORITY_TAG = "dagster/priority"

MAX_RUNTIME_TAG = dg.MAX_RUNTIME_SECONDS_TAG

WILL_RETRY_TAG = "dagster/will_retry"
"""On a failed run: ``true`` where Dagster is going to retry it by itself."""

AUTO_RETRY_RUN_TAG = "dagster/auto_retry_run_id"
"""On a failed run: the run that Dagster retried it with."""

RETRY_RUN_TAG = "dagster/retry_on_asset_or_op_failure"

RETRY_STRATEGY_TAG = "dagster/retry_strategy"

MAX_RETRIES_TAG = "dagster/max_retries"

FAILURE_TAG = "scicat/failure"
"""On a failed run: the kind of its failure."""

FAILED_RUN_TAG = "scicat/failed_run"
"""Which run the kind is about: a run that is re-executed carries the tags of its parent."""


RECONCILIATION = dg.AssetKey("reconciliation")
"""The asset whose observations request runs for past files."""

RECONCILE_SENSOR = "reconcile_sensor"
"""The sensor that turns these requests into runs; its cursor is the position in them."""

REJECTED_MESSAGES = dg.AssetKey("rejected_messages")
"""The asset whose observations are messages that led to no run."""

CONFIGURATION = dg.AssetKey("configuration")
"""The asset whose observations are the versions of the configuration file that came into force."""
