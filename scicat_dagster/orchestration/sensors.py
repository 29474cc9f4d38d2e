"""The sensor that reads announcements from Kafka and requests one run per written file.

The rule what becomes of a batch of messages is :func:`plan_tick`, a pure function; the sensor itself only
reads, asks it, and wraps the answer.
"""

import base64
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import dagster as dg

from scicat_dagster.kafka import Batch, Cursor, Gap, send
from scicat_dagster.messages import FileWritten, Ignored, KafkaMessage, Rejected, read_message
from scicat_dagster.orchestration.assets import LAG_INTERVAL, kafka_lag, rejected_messages
from scicat_dagster.orchestration.configuration_versions import changes
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.jobs import ingest_file
from scicat_dagster.orchestration.labels import INGESTION, OWNERS
from scicat_dagster.orchestration.partitions import nexus_files

MOST_MESSAGES_PER_TICK = 1000
"""Bounds the partition keys of one request, each of which Dagster looks up (some 2 ms with SQLite)."""

_CHANGED_LAG_INTERVAL = timedelta(seconds=30)


@dataclass
class TickPlan:
    """What one batch of messages leads to."""

    written: list[FileWritten] = field(default_factory=list)
    superseded: list[FileWritten] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def plan_tick(messages: Sequence[KafkaMessage], data_directory: str = "") -> TickPlan:
    """Sort messages into files to register, rejected ones and foreign ones.

    Of several messages for one file the last is kept: its partition may be requested only once in a tick.
    """
    plan = TickPlan()
    latest: dict[str, FileWritten] = {}
    for message in messages:
        match read_message(message, data_directory):
            case FileWritten() as written:
                if (earlier := latest.pop(written.file_path, None)) is not None:
                    plan.superseded.append(earlier)
                latest[written.file_path] = written
            case Rejected() as rejected:
                plan.rejected.append(rejected)
            case Ignored(schema_id):
                plan.ignored[schema_id] += 1
    plan.written = list(latest.values())
    return plan


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
    plan = plan_tick(batch.messages, facility.settings.ingestion.file_handling.data_directory)
    dead_letters = facility.settings.kafka.dead_letter_topic
    if dead_letters and plan.rejected:
        send(facility.settings.kafka, dead_letters, [rejected.value for rejected in plan.rejected])
    summary = _summary(batch, plan)
    context.log.info(summary)
    return dg.SensorResult(
        run_requests=[_run_request(written, batch.cursor) for written in plan.written],
        dynamic_partitions_requests=_partitions(plan.written),
        asset_events=[
            *(rejected_event(rejected) for rejected in plan.rejected),
            *(_gap_event(gap) for gap in batch.gaps),
            *_lag_events(facility, batch.lag()),
            *changes(facility),
        ],
        cursor=batch.cursor.model_dump_json(),
        skip_reason=None if plan.written else summary,
    )


def _summary(batch: Batch, plan: TickPlan) -> str:
    parts = [f"{len(batch.messages)} messages, {len(plan.written)} files to register"]
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
    parts += [_in_words(gap) for gap in batch.gaps]
    return "; ".join(parts)


def _partitions(written: Sequence[FileWritten]) -> list[dg.AddDynamicPartitionsRequest]:
    keys = [file.file_path for file in written]
    return [nexus_files.build_add_request(keys)] if keys else []


def _run_request(written: FileWritten, cursor: Cursor) -> dg.RunRequest:
    return dg.RunRequest(
        # Dagster never requests a key twice, and a topic that was made anew counts from 0 again.
        run_key=cursor.name_of(written.position),
        partition_key=written.file_path,
        run_config={
            "ops": {
                "raw_dataset": {
                    "ops": {"wait_for_file": {"config": {"announcement": written.model_dump_json()}}}
                }
            }
        },
        tags={
            "scicat/job_id": written.job_id,
            "kafka/topic": written.topic,
            "kafka/partition": str(written.partition),
            "kafka/offset": str(written.offset),
        },
    )


def rejected_event(rejected: Rejected) -> dg.AssetObservation:
    """What the UI keeps of a rejected message: everything, so that it can be looked at and sent again."""
    position = rejected.position
    metadata = {
        "reason": dg.MetadataValue.text(rejected.reason),
        "what to do": dg.MetadataValue.text(rejected.remedy),
        "topic": dg.MetadataValue.text(position.topic),
        "partition": dg.MetadataValue.int(position.partition),
        "offset": dg.MetadataValue.int(position.offset),
        "message (base64)": dg.MetadataValue.text(base64.b64encode(rejected.value or b"").decode()),
    }
    if rejected.file_path:
        metadata["file"] = dg.MetadataValue.text(rejected.file_path)
    return dg.AssetObservation(
        rejected_messages.key, description=f"{position}: {rejected.reason}", metadata=metadata
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
    return [dg.AssetMaterialization(kafka_lag.key, metadata={"messages waiting": total, **topics})]


def _gap_event(gap: Gap) -> dg.AssetObservation:
    return dg.AssetObservation(
        rejected_messages.key,
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
