"""What a batch of messages leads to: a pure function of the messages, the cursor and the limits."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import dagster as dg

from scicat_dagster.errors import bounded
from scicat_dagster.kafka.cursor import Cursor
from scicat_dagster.kafka.messages import FileWritten, Ignored, KafkaMessage, Rejected, read_message
from scicat_dagster.limits import LARGEST_TICK_BYTES
from scicat_dagster.orchestration.ingest.jobs import config_of
from scicat_dagster.orchestration.partitions import key_of
from scicat_dagster.orchestration.tags import JOB_TAG, KAFKA_PARTITION_TAG, OFFSET_TAG, TOPIC_TAG, file_tags

_ROOM_FOR_AN_EVENT = 1000
"""Bytes of an observation beside its texts and the message."""


@dataclass
class TickPlan:
    """What one batch of messages leads to."""

    requests: dict[str, dg.RunRequest] = field(default_factory=dict)
    """By file."""
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
) -> TickPlan:
    """Sort messages into files to register, rejected ones and foreign ones. Never raises.

    Whatever Dagster would refuse is refused here, message by message: one that fails the tick would be read
    again and again, and with it all that come after. Of several messages for one file the last is kept: its
    partition may be requested only once in a tick. What it leads to is bounded by ``most_bytes``.
    """
    plan, cursor, room = TickPlan(), cursor or Cursor(), most_bytes
    latest: dict[str, FileWritten] = {}
    for message in messages:
        outcome = _requested(message, cursor, data_directory)
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
            case Rejected() as rejected:
                plan.rejected.append(rejected)
            case Ignored(schema_id):
                plan.ignored[schema_id] += 1
    return plan


@dataclass(frozen=True)
class _Outcome:
    """What one message leads to, and how many bytes of the tick's answer that is."""

    of: FileWritten | Ignored | Rejected
    size: int = 0
    request: dg.RunRequest | None = None


def _requested(message: KafkaMessage, cursor: Cursor, data_directory: str) -> _Outcome:
    found = read_message(message, data_directory)
    match found:
        case Ignored():
            return _Outcome(found)
        case Rejected():
            return _Outcome(found, size=_size_of(found))
    try:
        announcement = found.model_dump_json()
        # The run reads it back; and so that nothing is lost on the way, it has to be the same.
        if FileWritten.model_validate_json(announcement) != found:
            raise ValueError("it is read back as something else")
        request = _run_request(found, announcement, cursor, key_of(found.file_path, data_directory))
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


def _run_request(
    written: FileWritten, announcement: str, cursor: Cursor, partition_key: str
) -> dg.RunRequest:
    return dg.RunRequest(
        # Dagster never requests a key twice, and a topic that was re-created counts from 0 again.
        run_key=cursor.name_of(written.position),
        partition_key=partition_key,
        run_config=config_of(announcement=announcement),
        tags={
            JOB_TAG: written.job_id,
            TOPIC_TAG: written.topic,
            KAFKA_PARTITION_TAG: str(written.partition),
            OFFSET_TAG: str(written.offset),
            **file_tags(partition_key),
        },
    )
