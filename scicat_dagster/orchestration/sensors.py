"""The sensor that reads announcements from Kafka and requests one run per written file.

The rule what becomes of a batch of messages is :func:`plan_tick`, a pure function; the sensor itself only
reads, asks it, and wraps the answer.
"""

import base64
import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import dagster as dg

from scicat_dagster.errors import IngestionError, bounded
from scicat_dagster.kafka import Batch, Cursor, Gap, send
from scicat_dagster.limits import LARGEST_TICK_BYTES
from scicat_dagster.messages import FileWritten, Ignored, KafkaMessage, Position, Rejected, read_message
from scicat_dagster.orchestration.assets import KAFKA_LAG, LAG_INTERVAL
from scicat_dagster.orchestration.configuration_versions import changes
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.jobs import ingest_file
from scicat_dagster.orchestration.kafka_checks import evaluations as kafka_evaluations
from scicat_dagster.orchestration.labels import INGESTION, OWNERS
from scicat_dagster.orchestration.partitions import REJECTED_MESSAGES, nexus_files
from scicat_dagster.settings import KafkaSettings

JOB_TAG = "scicat/job_id"
"""On a run: the job of the file writer that wrote the file."""

MOST_MESSAGES_PER_TICK = 1000
"""Bounds the partition keys of one request, each of which Dagster looks up (some 2 ms with SQLite)."""

_ROOM_FOR_AN_EVENT = 1000
"""Bytes of an observation beside its texts and the message."""

_CHANGED_LAG_INTERVAL = timedelta(seconds=30)


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
        request = _run_request(found, announcement, cursor)
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


@dg.sensor(
    job=ingest_file,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=OWNERS,
    tags=INGESTION,
    description="Reads wrdn messages from Kafka and requests one run of ingest_file per written file. Its "
    "cursor is the position in each topic and partition; runs are identified by topic, partition, offset and "
    "the topic's id, so that a tick which is repeated requests nothing twice.",
)
def wrdn_sensor(
    context: dg.SensorEvaluationContext, facility: dg.ResourceParam[Facility]
) -> dg.SensorResult | dg.SkipReason:
    if not facility.settings.kafka.topics:
        return dg.SensorResult(
            asset_events=list(changes(facility)), skip_reason="The configuration names no Kafka topics."
        )
    batch = facility.announcements.read(
        Cursor.parse(context.cursor), most=MOST_MESSAGES_PER_TICK, wait_seconds=facility.wait_seconds
    )
    handling = facility.settings.ingestion.file_handling
    plan = plan_tick(batch.messages, batch.cursor, handling.data_directory)
    batch = batch.first(plan.taken)
    summary = _summary(batch, plan)
    context.log.info(summary)
    try:
        _send_dead_letters(facility.settings.kafka, plan.rejected)
    except IngestionError as error:
        # They are kept in Dagster all the same; a tick that fails would read the same messages again.
        context.log.warning("The dead letters were not sent. %s", error)
    return dg.SensorResult(
        run_requests=list(plan.requests.values()),
        dynamic_partitions_requests=_partitions(list(plan.requests)),
        asset_events=[
            *(rejected_event(rejected) for rejected in plan.rejected),
            *(_superseded_event(written) for written in plan.superseded if _is_of_another_job(written, plan)),
            *(_gap_event(gap) for gap in batch.gaps),
            *_lag_events(facility, batch.lag()),
            *kafka_evaluations(facility, batch.unreadable, batch.lag()),
            *changes(facility),
        ],
        cursor=batch.cursor.model_dump_json(),
        skip_reason=None if plan.requests else summary,
    )


def _send_dead_letters(settings: KafkaSettings, rejected: Sequence[Rejected]) -> None:
    if settings.dead_letter_topic and rejected:
        send(settings, settings.dead_letter_topic, [message.value for message in rejected])


def _summary(batch: Batch, plan: TickPlan) -> str:
    parts = [f"{len(batch.messages)} messages, {len(plan.requests)} files to register"]
    if plan.rejected:
        parts.append(f"{len(plan.rejected)} rejected (see the asset rejected_messages)")
    parts += [
        f"{later.position} repeats {later.file_path}: only the last message of a tick counts"
        for later in plan.superseded
    ]
    if plan.ignored:
        foreign = ", ".join(f"{count} {schema}" for schema, count in sorted(plan.ignored.items()))
        parts.append(f"foreign: {foreign}")
    parts += [f"topic {topic} does not exist yet" for topic in batch.missing_topics]
    parts += [f"topic {topic} cannot be read: {why}" for topic, why in batch.unreadable.items()]
    parts += [f"{place} begins at {where}" for place, where in batch.begun_at.items()]
    parts += [_in_words(gap) for gap in batch.gaps]
    return "; ".join(parts)


def _partitions(keys: Sequence[str]) -> list[dg.AddDynamicPartitionsRequest]:
    return [nexus_files.build_add_request(keys)] if keys else []


def _run_request(written: FileWritten, announcement: str, cursor: Cursor) -> dg.RunRequest:
    return dg.RunRequest(
        # Dagster never requests a key twice, and a topic that was re-created counts from 0 again.
        run_key=cursor.name_of(written.position),
        partition_key=written.file_path,
        run_config={
            "ops": {"raw_dataset": {"ops": {"wait_for_file": {"config": {"announcement": announcement}}}}}
        },
        tags={
            JOB_TAG: written.job_id,
            "kafka/topic": written.topic,
            "kafka/partition": str(written.partition),
            "kafka/offset": str(written.offset),
        },
    )


def position_metadata(position: Position) -> dict[str, dg.MetadataValue[Any]]:
    """Where in Kafka a message is, as the UI shows it and ``messages`` reads it."""
    return {
        "topic": dg.MetadataValue.text(position.topic),
        "partition": dg.MetadataValue.int(position.partition),
        "offset": dg.MetadataValue.int(position.offset),
    }


def rejected_event(rejected: Rejected) -> dg.AssetObservation:
    """What the UI keeps of a rejected message, so that it can be looked at and sent again."""
    position = rejected.position
    metadata = {
        "reason": dg.MetadataValue.text(rejected.reason),
        "what to do": dg.MetadataValue.text(rejected.remedy),
        **position_metadata(position),
        "message (base64)": dg.MetadataValue.text(base64.b64encode(rejected.kept_value).decode()),
        "bytes in all": dg.MetadataValue.int(len(rejected.value or b"")),
    }
    if len(rejected.value or b"") > len(rejected.kept_value):
        metadata["SHA-256 of all"] = dg.MetadataValue.text(hashlib.sha256(rejected.value or b"").hexdigest())
    if rejected.file_path:
        metadata["file"] = dg.MetadataValue.text(rejected.file_path)
    return dg.AssetObservation(
        REJECTED_MESSAGES, description=f"{position}: {rejected.reason}", metadata=metadata
    )


def _is_of_another_job(superseded: FileWritten, plan: TickPlan) -> bool:
    """Whether it is more than the same message once more, as a producer that tries again sends it."""
    return plan.requests[superseded.file_path].tags[JOB_TAG] != superseded.job_id


def _superseded_event(written: FileWritten) -> dg.AssetObservation:
    """What the UI keeps of a message that another one for the same file came after, in one tick."""
    return dg.AssetObservation(
        REJECTED_MESSAGES,
        description=f"{written.position}: another message for {written.file_path} came right after it",
        metadata={
            "reason": dg.MetadataValue.text("Another message for the same file came right after it."),
            "what to do": dg.MetadataValue.text("Nothing: the file has a run, with the later message."),
            **position_metadata(written.position),
            "file": dg.MetadataValue.text(written.file_path),
            "job id": dg.MetadataValue.text(written.job_id),
        },
    )


def _lag_events(facility: Facility, lag: dict[str, int]) -> list[dg.AssetMaterialization]:
    """The lag, if it is time to say it: few events while nothing happens, enough of them to plot a burst."""
    now = time.monotonic()
    interval = LAG_INTERVAL if lag == facility.reported_lag else _CHANGED_LAG_INTERVAL
    if now - facility.lag_reported_at < interval.total_seconds():
        return []
    facility.lag_reported_at, facility.reported_lag = now, lag
    topics = {f"messages waiting in {topic}": dg.MetadataValue.int(count) for topic, count in lag.items()}
    total = dg.MetadataValue.int(sum(lag.values()))
    return [dg.AssetMaterialization(KAFKA_LAG, metadata={"messages waiting": total, **topics})]


def _gap_event(gap: Gap) -> dg.AssetObservation:
    return dg.AssetObservation(
        REJECTED_MESSAGES,
        description=_in_words(gap),
        metadata={
            "reason": dg.MetadataValue.text(gap.reason),
            "what to do": dg.MetadataValue.text("Find the files of that time on disk and backfill them."),
            "topic": dg.MetadataValue.text(gap.topic),
            "partition": dg.MetadataValue.int(gap.partition),
            "offset": dg.MetadataValue.int(gap.expected),
            "continued at": dg.MetadataValue.int(gap.continued_at),
            "lost messages": dg.MetadataValue.text("unknown") if gap.lost is None else gap.lost,
        },
    )


def _in_words(gap: Gap) -> str:
    place = f"{gap.topic}:{gap.partition}"
    if gap.lost is None:
        return f"{place}: messages from offset {gap.expected} on may never have been read. {gap.reason}"
    return f"{place}: {gap.lost} messages from offset {gap.expected} on were never read. {gap.reason}"
