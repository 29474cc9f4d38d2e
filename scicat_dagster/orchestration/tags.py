"""Names that Dagster stores: tags of runs and definitions, asset keys, keys of metadata that programs read.

Whatever is written under one of them and read back elsewhere has its name here, and nothing else does.
"""

from __future__ import annotations

import warnings
from pathlib import PurePosixPath

import dagster as dg

from scicat_dagster.limits import tag_value

# What people see of a run, in the order in which the UI sorts it.

FILE_TAG = "file"
"""On a run of one file: the file's name."""

INSTRUMENT_TAG = "instrument"

PROPOSAL_TAG = "proposal"

REASON_TAG = "reason"
"""On a failed run: why."""

NO_REASON = "none"
"""The reason of a run that re-executes a failed one and has not failed itself: tags cannot be removed."""

# What only programs need. The UI does not show tags with Dagster's hidden prefix; they can be searched.

_HIDDEN = ".dagster/scicat_"

TOPIC_TAG = f"{_HIDDEN}topic"

KAFKA_PARTITION_TAG = f"{_HIDDEN}kafka_partition"

OFFSET_TAG = f"{_HIDDEN}offset"
"""On a run that an announcement requested: where in Kafka that is."""

JOB_TAG = f"{_HIDDEN}job_id"
"""On a run: the job of the file writer that wrote the file."""


# Dagster may still change how owners of jobs and sensors are given: ours to follow, not a facility's to read
# at each start.
warnings.filterwarnings("ignore", message="Parameter `owners`", category=dg.BetaWarning)
# Likewise the handlers of python_logs, of which dagster.yaml names one.
warnings.filterwarnings("ignore", message="Handling yaml-defined logging", category=dg.BetaWarning)


OWNERS = ["team:data-catalogue"]
"""A facility may name itself here: ``team:...`` or an e-mail address."""

PURPOSE_RUN_TAG = f"{_HIDDEN}purpose"
"""On the runs of an asset job. Dagster gives them the visible tags of the job, unless they have their own."""

# On assets, jobs, sensors and schedules.
INGESTION = {"purpose": "ingestion"}

PAST_FILES = {"purpose": "past-files"}

SAMPLES = {"purpose": "samples"}

CORRECTION = {"purpose": "correction"}

OVERSIGHT = {"purpose": "oversight"}

UPKEEP = {"purpose": "upkeep"}


def file_tags(partition_key: str) -> dict[str, str]:
    """What people see of a run that was requested for a file."""
    return {FILE_TAG: tag_value(PurePosixPath(partition_key).name)}


def instrument_tags(instrument: str) -> dict[str, str]:
    """The same of its instrument, where the announcement names one; its schema may know better later."""
    cleaned = tag_value(instrument)
    return {INSTRUMENT_TAG: cleaned} if cleaned else {}


def kinds(*names: str) -> dict[str, str]:
    """The tags by which the UI shows what an op works with, as it does for an asset's ``kinds``."""
    return {f"dagster/kind/{name}": "" for name in names}


RAW_DATASET = dg.AssetKey("raw_dataset")
"""The asset that has these partitions."""

PARTITION_TAG = "dagster/partition"
"""On a run of one file: which."""

RANGE_START_TAG = "dagster/asset_partition_range_start"

RANGE_END_TAG = "dagster/asset_partition_range_end"
"""On a batch run, as of a backfill: the first and the last of them."""

ROUND_TAG = f"{_HIDDEN}retry_round"

PROCESS_TAG = f"{_HIDDEN}process"
"""On a run: the machine, the process that executes it, and when that process began."""

GROUP_TAG = f"{_HIDDEN}worker_group"
"""On a run: the group of workers that one of its processes executes it."""

# Metadata that programs read back: JSON of a model, beside the labels that people read.

PROBLEM = "problem"
"""Of a failure: a :class:`scicat_dagster.errors.Problem`."""

DEFERRED_FILES = "deferred_files"
"""Of the failure of a batch run: a problem for each file that it deferred, by partition key."""

REJECTED_MESSAGE = "rejected_message"
"""Of an observation of ``rejected_messages``: the message."""

LAG_BY_TOPIC = "lag_by_topic"
"""Of a materialization of ``kafka_lag``: the number of unread messages."""

REQUESTED_FILES = "requested_files"
"""Of an observation of ``reconciliation``: what is requested, and by whom."""

CONFIGURATION_IN_FORCE = "configuration_in_force"
"""Of an observation of ``configuration``: which version that is."""

PID = "pid"
"""Of a materialization of ``raw_dataset``."""

IS_NEW = "new in SciCat"
"""Of a materialization of ``raw_dataset``: whether its run created the dataset."""

JOBS = "jobs"
"""Of a materialization of ``raw_dataset``: a table of :class:`scicat_dagster.scicat.models.PostedJob`."""

PREVIEW = "preview"
"""Of a materialization of ``raw_dataset``: a picture of the data."""

PAGE = "SciCat"
"""Of a materialization of ``raw_dataset``: the address of the dataset's page."""

INSTRUMENT = "instrument"

NO_INSTRUMENT = "unknown"
"""Where the file does not tell."""

PROPOSAL = "proposal"

NO_PROPOSAL = "none"

SCHEMA = "schema"

SCHEMA_ID = "schema id"

ENTRY = "NXentry"
"""The name of the NXentry that a dataset is of, where its file is several datasets."""

NUMBER_OF_FILES = "number of files"

SIZE = "size in bytes"
"""Of a materialization of ``raw_dataset``, for people and programs alike: of all files of the dataset."""

SECONDS_SINCE_MESSAGE = "seconds from message to registration"
"""Of a materialization of ``raw_dataset``, for people and programs alike; Dagster plots it."""

# The parts of it, of a file that was registered by the run that its message requested.

SECONDS_UNTIL_REQUESTED = "seconds until its run was requested"

SECONDS_IN_QUEUE = "seconds until a worker began"

SECONDS_AT_WORK = "seconds of the worker"

FILE_SIZE = "file size in bytes"
"""Of a materialization of ``raw_dataset``, for people and programs alike: of the NeXus file."""

STATUS = "status"
"""Of a materialization of ``today``: a :class:`scicat_dagster.orchestration.operations.today.Today`."""

BY_HAND = "by hand"
"""Who requested a run: a person who named its file."""

RETRY = "retry"
"""Who requested a run: a person who wants failed files to be tried again."""

POSTED = "POST"
"""Who requested a run: a program that announced its file by ``POST /announce``."""

WATCH = "watch"
"""Who requested a run: the sensor that looks for new files in folders."""

POSTED_ANNOUNCEMENT = "posted_announcement"
"""Of an observation of ``announcements``: JSON of a :class:`scicat_dagster.kafka.messages.FileWritten`."""

REQUESTERS = ("reconcile", "discover", BY_HAND, RETRY)
"""Who may request runs by an observation of ``reconciliation``."""

GROUP = "ingestion"

KAFKA_LAG = dg.AssetKey("kafka_lag")

REQUESTED_BY_TAG = f"{_HIDDEN}requested_by"

PRIORITY_TAG = "dagster/priority"

MAX_RUNTIME_TAG = dg.MAX_RUNTIME_SECONDS_TAG

WILL_RETRY_TAG = "dagster/will_retry"
"""On a failed run: ``true`` where Dagster is going to retry it by itself."""

AUTO_RETRY_RUN_TAG = "dagster/auto_retry_run_id"
"""On a failed run: the run that Dagster retried it with."""

RETRY_RUN_TAG = "dagster/retry_on_asset_or_op_failure"

RETRY_STRATEGY_TAG = "dagster/retry_strategy"

RETRY_NUMBER_TAG = "dagster/retry_number"
"""On a run that is Dagster's own retry of a failed one."""

MAX_RETRIES_TAG = "dagster/max_retries"

FAILURE_TAG = f"{_HIDDEN}failure"
"""On a failed run: the kind of its failure."""

FAILED_RUN_TAG = f"{_HIDDEN}failed_run"
"""Which run the kind is about: a run that is re-executed carries the tags of its parent."""


RECONCILIATION = dg.AssetKey("reconciliation")
"""The asset whose observations request runs for past files."""

WRDN_SENSOR = "wrdn_sensor"
"""The sensor that polls Kafka; its cursor is the position in each topic."""

RECONCILE_SENSOR = "reconcile_sensor"
"""The sensor that turns these requests into runs; its cursor is the position in them."""

FAILED_FILES_REPORT = dg.AssetKey("failed_files_report")

TODAY = dg.AssetKey("today")
"""The asset whose materializations say how the service is doing today."""

ANNOUNCEMENTS = dg.AssetKey("announcements")
"""The messages of all topics, as the lineage has them between the topics and ``raw_dataset``."""

SCICAT = dg.AssetKey("scicat")
"""The catalogue, where the lineage ends."""


def topic_key(topic: str) -> dg.AssetKey:
    """The Kafka topic, where the lineage begins."""
    return dg.AssetKey(["kafka", topic])


REJECTED_MESSAGES = dg.AssetKey("rejected_messages")
"""The asset whose observations are messages that led to no run."""

CONFIGURATION = dg.AssetKey("configuration")
"""The asset whose observations are the versions of the configuration file that came into force."""


SAMPLE = dg.AssetKey("sample")
"""The asset whose partitions are the samples of runs that have started."""

RUN_STARTS = dg.AssetKey("run_starts")
"""The runs that have started, as the lineage has them: their check names those that never ended."""

UNENDED_RUNS = "unended_runs"
"""Of an evaluation of the check of ``run_starts``: a list of
:class:`scicat_dagster.usecases.unended_runs.UnendedRun`."""

SAMPLE_ID = "sample id"
"""Of a materialization of ``sample``."""

DATA_FILE = "file"
"""Of a materialization of ``raw_dataset``: the absolute path of the NeXus file, for projects downstream."""

INGEST_FILE = "ingest_file"

MAKE_SAMPLE = "make_sample"
"""The jobs whose runs are about one file or sample each. Other projects may use the same partitions."""
