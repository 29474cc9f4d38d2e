"""The rejected messages that Dagster keeps: reading them back from the observations of ``rejected_messages``.

Writing them is the sensor's; sending one again is :func:`scicat_dagster.kafka.send`'s.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from scicat_dagster.messages import Position
from scicat_dagster.orchestration.partitions import REJECTED_MESSAGES

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
