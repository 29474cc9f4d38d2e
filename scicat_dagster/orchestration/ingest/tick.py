"""What a batch of messages leads to: a pure function of the messages, the cursor and the limits."""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import dagster as dg

from scicat_dagster.errors import bounded
from scicat_dagster.kafka.cursor import Cursor
from scicat_dagster.kafka.messages import (
    WRDN,
    FileWritten,
    Ignored,
    KafkaMessage,
    Rejected,
    RunStarted,
    read_message,
)
from scicat_dagster.limits import LARGEST_TICK_BYTES
from scicat_dagster.orchestration.ingest.jobs import config_of, job_of
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.partitions import key_of, sample_key_of
from scicat_dagster.orchestration.tags import (
    JOB_TAG,
    KAFKA_PARTITION_TAG,
    OFFSET_TAG,
    TOPIC_TAG,
    file_tags,
    instrument_tags,
)

_ROOM_FOR_AN_EVENT = 1000
"""Bytes of an observation beside its texts and the message."""


@dataclass
class TickPlan:
    """What one batch of messages leads to."""

    requests: dict[str, dg.RunRequest] = field(default_factory=dict)
    """By file."""
    samples: dict[str, dg.RunRequest] = field(default_factory=dict)
    """For the sample of each run that started, by partition."""
    started: list[RunStarted] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    """The jobs of the runs that are over, whether a file came of them or not."""
    superseded: list[FileWritten] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    taken: int = 0
    """How many of the messages this is about; the others are for the next tick."""


def plan_tick(
    messages: Sequence[KafkaMessage],
    cursor: Cursor | None = None,
    data_directory: str = "",
    most_bytes: int = LARGEST_TICK_BYTES,
    schemas: Collection[str] = (WRDN,),
    names: Names = UNPREFIXED,
) -> TickPlan:
    """Sort messages into files to register, runs that started, rejected and foreign ones. Never raises.

    Whatever Dagster would refuse is refused here, message by message: one that fails the tick would be read
    again and again, and with it all that come after. Of several messages for one file the last is kept: its
    partition may be requested only once in a tick. What it leads to is bounded by ``most_bytes``.
    """
    plan, cursor, room = TickPlan(), cursor or Cursor(), most_bytes
    latest: dict[str, FileWritten] = {}
    for message in messages:
        found = read_message(message, data_directory, schemas)
        outcome = _requested(found, message, cursor, data_directory, names)
        room -= outcome.size
        if room < 0 and plan.taken:
            break
        plan.taken += 1
        match outcome.of:
            case FileWritten() as written if outcome.request is not None:
                if (earlier := latest.pop(written.file_path, None)) is not None:
                    plan.superseded.append(earlier)
                    del plan.requests[earlier.file_path]
                latest[written.file_path] = written
                plan.requests[written.file_path] = outcome.request
                plan.ended.add(written.job_id)
            case RunStarted() as started if outcome.request is not None:
                plan.started.append(started)
                plan.samples[str(outcome.request.partition_key)] = outcome.request
            case Rejected() as rejected:
                plan.rejected.append(rejected)
                plan.ended |= {rejected.ended_job_id} - {""}
            case Ignored(schema_id):
                plan.ignored[schema_id] += 1
    return plan


@dataclass(frozen=True)
class _Outcome:
    """What one message leads to, and how many bytes of the tick's answer that is."""

    of: FileWritten | RunStarted | Ignored | Rejected
    size: int = 0
    request: dg.RunRequest | None = None


def _requested(
    found: FileWritten | RunStarted | Ignored | Rejected,
    message: KafkaMessage,
    cursor: Cursor,
    data_directory: str,
    names: Names,
) -> _Outcome:
    match found:
        case Ignored():
            return _Outcome(found)
        case Rejected():
            return _Outcome(found, size=_size_of(found))
    try:
        key = key_of(found.file_path, data_directory)
        if isinstance(found, RunStarted):
            request = _sample_request(found, cursor, key, names)
        else:
            request = _run_request(found, cursor, key, names)
        size = len(json.dumps([request.run_config, request.tags]))
    except (ValueError, RecursionError) as error:
        rejected = Rejected(
            message.position,
            bounded(f"It cannot be turned into a run: {error}."),
            "Backfill the file, which needs no announcement; report the message.",
            message.value,
            found.file_path,
        )
        return _Outcome(rejected, size=_size_of(rejected))
    return _Outcome(found, size, request)


def _size_of(rejected: Rejected) -> int:
    # The reason is in the description as well; base64 makes four characters of three bytes.
    texts = (rejected.reason, rejected.reason, rejected.remedy, rejected.file_path or "")
    return len(json.dumps(texts)) + 4 * len(rejected.kept_value) // 3 + _ROOM_FOR_AN_EVENT


def _run_request(written: FileWritten, cursor: Cursor, partition_key: str, names: Names) -> dg.RunRequest:
    announcement = written.model_dump_json()
    # The run reads it back; and so that nothing is lost on the way, it has to be the same.
    if FileWritten.model_validate_json(announcement) != written:
        raise ValueError("it is read back as something else")
    return dg.RunRequest(
        # Dagster never requests a key twice, and a topic that was re-created counts from 0 again.
        run_key=cursor.name_of(written.position),
        job_name=job_of(partition_key, names),
        partition_key=partition_key,
        run_config=config_of(names, announcement=announcement),
        tags=_tags_of(written, partition_key),
    )


def _sample_request(started: RunStarted, cursor: Cursor, file_key: str, names: Names) -> dg.RunRequest:
    partition_key = sample_key_of(file_key)
    return dg.RunRequest(
        run_key=cursor.name_of(started.position),
        job_name=job_of(partition_key, names),
        partition_key=partition_key,
        tags=_tags_of(started, partition_key),
    )


def _tags_of(found: FileWritten | RunStarted, partition_key: str) -> dict[str, str]:
    return {
        JOB_TAG: found.job_id,
        TOPIC_TAG: found.topic,
        KAFKA_PARTITION_TAG: str(found.partition),
        OFFSET_TAG: str(found.offset),
        **file_tags(partition_key),
        **instrument_tags(found.instrument),
    }
