"""Which message of each topic and partition comes next: the position that the sensor keeps.

It names the incarnation of each topic, because a re-created topic counts from offset 0 again.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from scicat_dagster.errors import PermanentError
from scicat_dagster.kafka.messages import Position


class Incarnation(BaseModel):
    """Which of the topics that have had one name it is. ``topic_id`` is empty where the broker gives none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic_id: str = ""
    number: int = 1
    """One more whenever a topic without an id turned out shorter than what was read."""
    restarts: dict[int, int] = {}
    """How often a partition turned out shorter than what was read, though the topic is the same."""

    def name_of(self, partition: int) -> str:
        """What tells a partition's offsets from those that had the same topic and number before."""
        restarts = self.restarts.get(partition, 0)
        parts = [
            self.topic_id,
            str(self.number) if self.number > 1 else "",
            f"r{restarts}" if restarts else "",
        ]
        return ":".join(part for part in parts if part)

    def restarted(self, partitions: Sequence[int]) -> Incarnation:
        """The same topic, of which these partitions begin anew."""
        more = {partition: self.restarts.get(partition, 0) + 1 for partition in partitions}
        return self.model_copy(update={"restarts": {**self.restarts, **more}})


class Cursor(BaseModel):
    """The next offset to read, by topic and partition, and which topic each offset is about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    offsets: dict[str, dict[int, int]] = {}
    incarnations: dict[str, Incarnation] = {}

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """A cursor as it was stored; nothing stored is the beginning.

        Raises
        ------
        PermanentError
            The text is none of ours.
        """
        if not text:
            return cls()
        try:
            cursor = cls.model_validate_json(text)
        except ValidationError:
            raise PermanentError(
                "The sensor's cursor is not one that it stored.",
                remedy="Set it to the offsets to go on at, as JSON like "
                '{"version": 1, "offsets": {"topic": {"0": 17}}}, or reset it to begin anew.',
            ) from None
        if cursor.version != 1:
            raise PermanentError(
                f"The sensor's cursor has version {cursor.version}, written by a newer scicat_dagster.",
                remedy="Update scicat_dagster, or set the cursor by hand.",
            )
        return cursor

    def moved(self, positions: dict[tuple[str, int], int]) -> Cursor:
        """The cursor with some of its offsets replaced."""
        offsets = {topic: dict(partitions) for topic, partitions in self.offsets.items()}
        for (topic, partition), offset in positions.items():
            offsets.setdefault(topic, {})[partition] = offset
        return self.model_copy(update={"offsets": offsets})

    def with_topic(self, topic: str) -> Cursor:
        """The cursor with a topic that is known, though nothing of it was read yet."""
        return self.model_copy(update={"offsets": {topic: {}, **self.offsets}})

    def without(self, topic: str, partitions: Sequence[int]) -> Cursor:
        """The cursor with partitions of which nothing was read yet, because they are not those that were."""
        kept = {
            part: offset for part, offset in self.offsets.get(topic, {}).items() if part not in partitions
        }
        return self.model_copy(update={"offsets": {**self.offsets, topic: kept}})

    def about(self, topic: str, incarnation: Incarnation) -> Cursor:
        """The cursor with offsets of this incarnation of a topic."""
        return self.model_copy(update={"incarnations": {**self.incarnations, topic: incarnation}})

    def incarnation(self, topic: str) -> Incarnation:
        """Which of the topics of this name the offsets are about."""
        return self.incarnations.get(topic, Incarnation())

    def name_of(self, position: Position) -> str:
        """A name that no other message ever has, not even one of another topic of the same name."""
        incarnation = self.incarnation(position.topic).name_of(position.partition)
        return f"{position}:{incarnation}" if incarnation else str(position)
