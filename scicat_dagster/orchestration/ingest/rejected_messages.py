"""Messages that led to no run, as observations of ``rejected_messages``: written and read back here."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import Base64Bytes, BaseModel, ConfigDict

from scicat_dagster.errors import Problem
from scicat_dagster.kafka.batch import Gap
from scicat_dagster.kafka.messages import FileWritten, Position, Rejected
from scicat_dagster.orchestration.metadata import problem_metadata
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.tags import PROBLEM, REJECTED_MESSAGE, REJECTED_MESSAGES

_PAGE = 200


class RejectedMessage(BaseModel):
    """A message that led to no file, as it was reported."""

    model_config = ConfigDict(frozen=True)

    topic: str
    partition: int
    offset: int
    problem: Problem
    value: Base64Bytes
    """At most the beginning of it; ``length`` is that of all."""
    length: int
    reported_at: datetime

    @property
    def position(self) -> Position:
        """Where in Kafka it is."""
        return Position(self.topic, self.partition, self.offset)


def rejected_event(rejected: Rejected, names: Names = UNPREFIXED) -> dg.AssetObservation:
    """What Dagster keeps of a rejected message, so that it can be looked at and sent again."""
    position, value = rejected.position, rejected.value or b""
    problem = Problem(what=rejected.reason, remedy=rejected.remedy)
    kept = {
        "topic": position.topic,
        "partition": position.partition,
        "offset": position.offset,
        "value": base64.b64encode(rejected.kept_value).decode("ascii"),
        "length": len(value),
    }
    metadata = {
        **problem_metadata(problem),
        **_position_metadata(position),
        "bytes in all": dg.MetadataValue.int(len(value)),
        REJECTED_MESSAGE: dg.MetadataValue.json(kept),
    }
    if len(value) > len(rejected.kept_value):
        metadata["SHA-256 of all"] = dg.MetadataValue.text(hashlib.sha256(value).hexdigest())
    if rejected.file_path:
        metadata["file"] = dg.MetadataValue.text(rejected.file_path)
    return dg.AssetObservation(
        names.key(REJECTED_MESSAGES), description=f"{position}: {rejected.reason}", metadata=metadata
    )


def superseded_event(written: FileWritten, names: Names = UNPREFIXED) -> dg.AssetObservation:
    """What Dagster keeps of a message that another one for the same file came after, in one tick."""
    problem = Problem(
        what="Another message for the same file came right after it.",
        remedy="Nothing: the file has a run, with the later message.",
    )
    return dg.AssetObservation(
        names.key(REJECTED_MESSAGES),
        description=f"{written.position}: another message for {written.file_path} came right after it",
        metadata={
            **problem_metadata(problem),
            **_position_metadata(written.position),
            "file": dg.MetadataValue.text(written.file_path),
            "job id": dg.MetadataValue.text(written.job_id),
        },
    )


def gap_event(gap: Gap, names: Names = UNPREFIXED) -> dg.AssetObservation:
    """What Dagster keeps of messages that Kafka deleted before they were read."""
    problem = Problem(what=gap.reason, remedy="Find the files of that time on disk and backfill them.")
    return dg.AssetObservation(
        names.key(REJECTED_MESSAGES),
        description=gap_as_text(gap),
        metadata={
            **problem_metadata(problem),
            **_position_metadata(Position(gap.topic, gap.partition, gap.expected)),
            "continued at": dg.MetadataValue.int(gap.continued_at),
            "lost messages": dg.MetadataValue.text("unknown") if gap.lost is None else gap.lost,
        },
    )


def skipped_event(position: Position, names: Names = UNPREFIXED) -> dg.AssetObservation:
    """What Dagster keeps of a message that a person skipped."""
    problem = Problem(
        what="It was skipped by hand, without being read.",
        remedy="Find the file that was meant and backfill it.",
    )
    return dg.AssetObservation(
        names.key(REJECTED_MESSAGES),
        description=f"{position}: skipped by hand",
        metadata={**problem_metadata(problem), **_position_metadata(position)},
    )


def gap_as_text(gap: Gap) -> str:
    """A gap as a sentence."""
    place = f"{gap.topic}:{gap.partition}"
    if gap.lost is None:
        return f"{place}: messages from offset {gap.expected} on may never have been read. {gap.reason}"
    return f"{place}: {gap.lost} messages from offset {gap.expected} on were never read. {gap.reason}"


def rejections(instance: dg.DagsterInstance, names: Names = UNPREFIXED) -> Iterator[RejectedMessage]:
    """The rejected messages, newest first. A tick that was repeated may have reported one twice."""
    cursor = None
    seen: set[Position] = set()
    while True:
        page = instance.fetch_observations(names.key(REJECTED_MESSAGES), limit=_PAGE, cursor=cursor)
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
    if observation is None or REJECTED_MESSAGE not in observation.metadata:
        return None
    kept: Any = observation.metadata[REJECTED_MESSAGE].value
    problem = observation.metadata[PROBLEM].value
    reported_at = datetime.fromtimestamp(record.timestamp, UTC)
    return RejectedMessage.model_validate({**kept, "problem": problem, "reported_at": reported_at})


def _position_metadata(position: Position) -> dict[str, dg.MetadataValue[Any]]:
    return {
        "topic": dg.MetadataValue.text(position.topic),
        "partition": dg.MetadataValue.int(position.partition),
        "offset": dg.MetadataValue.int(position.offset),
    }
