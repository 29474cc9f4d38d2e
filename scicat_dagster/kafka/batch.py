"""What one poll of the brokers yielded: messages, gaps, and what could not be read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from scicat_dagster.kafka.cursor import Cursor
from scicat_dagster.kafka.messages import KafkaMessage


@dataclass(frozen=True)
class Gap:
    """Messages that Kafka no longer has, so that they were never read."""

    topic: str
    partition: int
    expected: int
    continued_at: int
    reason: str
    lost: int | None
    """How many offsets were passed over; None where the topic was re-created, and nobody can tell."""


@dataclass
class Batch:
    """What one poll of Kafka returned, and where the next one begins."""

    messages: list[KafkaMessage]
    cursor: Cursor
    gaps: list[Gap] = field(default_factory=list)
    missing_topics: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Why a topic cannot be read, or not on; the others were."""
    begun_at: dict[str, str] = field(default_factory=dict)
    """Of topics that were not read before: where they begin, and why there."""
    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    """The offset after the last message of each topic and partition, as it was before they were read."""

    def first(self, number: int) -> Batch:
        """The same with its first messages only; the cursor is before the others."""
        left: dict[tuple[str, int], int] = {}
        for message in self.messages[number:]:
            place = message.position
            left.setdefault((place.topic, place.partition), place.offset)
        return replace(self, messages=self.messages[:number], cursor=self.cursor.moved(left))

    def lag(self) -> dict[str, int]:
        """How many messages of each topic are still to be read."""
        lag: dict[str, int] = dict.fromkeys((topic for topic, _ in self.ends), 0)
        for (topic, partition), end in self.ends.items():
            lag[topic] += max(0, end - self.cursor.offsets.get(topic, {}).get(partition, end))
        return lag
