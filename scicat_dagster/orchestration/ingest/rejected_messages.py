"""Messages that led to no run, as observations of ``rejected_messages``: written and read back here."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from scicat_dagster.kafka.batch import Gap
from scicat_dagster.kafka.messages import FileWritten, Position, Rejected
from scicat_dagster.orchestration.tags import REJECTED_MESSAGES


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


def superseded_event(written: FileWritten) -> dg.AssetObservation:
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


def gap_event(gap: Gap) -> dg.AssetObservation:
    return dg.AssetObservation(
        REJECTED_MESSAGES,
        description=gap_in_words(gap),
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


def gap_in_words(gap: Gap) -> str:
    place = f"{gap.topic}:{gap.partition}"
    if gap.lost is None:
        return f"{place}: messages from offset {gap.expected} on may never have been read. {gap.reason}"
    return f"{place}: {gap.lost} messages from offset {gap.expected} on were never read. {gap.reason}"


_PAGE = 200


@dataclass(frozen=True)
class RejectedMessage:
    """A message that led to no file, as it was reported."""

    position: Position
    reported_at: datetime
    reason: str
    remedy: str
    value: bytes
    """At most the beginning of it; ``length`` is that of all."""
    length: int


def rejections(instance: dg.DagsterInstance) -> Iterator[RejectedMessage]:
    """The rejected messages, newest first. A tick that was repeated may have reported one twice."""
    cursor = None
    seen: set[Position] = set()
    while True:
        page = instance.fetch_observations(REJECTED_MESSAGES, limit=_PAGE, cursor=cursor)
        for record in page.records:
            message = _message(record)
            if message is not None and message.position not in seen:
                seen.add(message.position)
                yield message
        if not page.has_more:
            return
        cursor = page.cursor


def _message(record: dg.EventLogRecord) -> RejectedMessage | None:
    """None for an observation that is not about a message, but about messages that Kafka deleted."""
    observation = record.asset_observation
    if observation is None or "message (base64)" not in observation.metadata:
        return None
    said = {name: entry.value for name, entry in observation.metadata.items()}
    value = base64.b64decode(str(said["message (base64)"]))
    return RejectedMessage(
        Position(str(said["topic"]), int(str(said["partition"])), int(str(said["offset"]))),
        datetime.fromtimestamp(record.timestamp, UTC),
        str(said["reason"]),
        str(said["what to do"]),
        value,
        int(str(said.get("bytes in all", len(value)))),
    )
