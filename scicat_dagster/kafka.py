"""Reading announcements from Kafka at a position that we keep ourselves.

A reader is assigned to exact offsets and never joins a consumer group; where it goes on is a :class:`Cursor`
that the caller stores. Offsets are committed to the group as well, but only so that the usual lag tools see
them. What the messages say belongs to :mod:`scicat_dagster.messages`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import (
    OFFSET_INVALID,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from pydantic import BaseModel, ConfigDict, ValidationError

from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.messages import KafkaMessage, Position
from scicat_dagster.settings import KafkaSettings

PROBE_SECONDS = 5.0
"""How long the broker may take to say which topics there are; only this call notices that it is away."""

_FIRST_LOOK = 0.05
_DEFAULT_GROUP = "scicat-dagster"


class BrokerAwayError(TransientError):
    """Kafka cannot be reached, or does not let us in."""


class Cursor(BaseModel):
    """The next offset to read, by topic and partition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    offsets: dict[str, dict[int, int]] = {}

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
        return Cursor(offsets=offsets)

    def with_topic(self, topic: str) -> Cursor:
        """The cursor with a topic that is known, though nothing of it was read yet."""
        return Cursor(offsets={topic: {}, **self.offsets})


@dataclass(frozen=True)
class Gap:
    """Messages that Kafka no longer has, so that they were never read."""

    topic: str
    partition: int
    expected: int
    continued_at: int
    reason: str

    @property
    def lost(self) -> int:
        """How many offsets were passed over; 0 where the topic was made anew and nobody can tell."""
        return max(0, self.continued_at - self.expected)


@dataclass
class Batch:
    """What one look at Kafka found, and where the next one begins."""

    messages: list[KafkaMessage]
    cursor: Cursor
    gaps: list[Gap] = field(default_factory=list)
    missing_topics: list[str] = field(default_factory=list)


class AnnouncementReader:
    """A connection to the facility's brokers, kept open from one look to the next; threads may share it."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._last_error = ""
        self._consumer: Consumer | None = None
        self._positions: dict[tuple[str, int], int] = {}

    def close(self) -> None:
        """Close the connection; the next look opens another."""
        with self._lock:
            if self._consumer is not None:
                self._consumer.close()
            self._consumer, self._positions = None, {}

    def read(self, cursor: Cursor, *, most: int, wait_seconds: float) -> Batch:
        """Read from ``cursor`` on: up to ``most`` messages, waiting ``wait_seconds`` for the first one.

        Raises
        ------
        BrokerAwayError
            The brokers cannot be reached. The cursor stays good.
        """
        with self._lock:
            if self._consumer is None:
                self._consumer = self._connect()
            batch = self._prepared(self._consumer, cursor)
            self._drain(self._consumer, batch, most, wait_seconds)
            self._commit(self._consumer, batch.cursor)
            return batch

    def _connect(self) -> Consumer:
        self._positions = {}
        return Consumer(_consumer_configuration(self._settings) | {"error_cb": self._remember_error})

    def _remember_error(self, error: KafkaError) -> None:
        self._last_error = error.str()

    def _prepared(self, consumer: Consumer, cursor: Cursor) -> Batch:
        """Look which partitions there are, and put the consumer on its offsets."""
        batch = Batch(messages=[], cursor=cursor)
        wanted: dict[tuple[str, int], int] = {}
        for topic in self._settings.topics:
            partitions = self._partitions(consumer, topic)
            if not partitions:
                batch.missing_topics.append(topic)
                # Remembered as known and empty: when it appears, it is read from its first message on.
                batch.cursor = batch.cursor.with_topic(topic)
            for partition in partitions:
                wanted[topic, partition] = self._start(consumer, topic, partition, batch)
        if wanted != self._positions:
            consumer.assign([TopicPartition(topic, part, offset) for (topic, part), offset in wanted.items()])
            self._positions = dict(wanted)
        batch.cursor = batch.cursor.moved(wanted)
        return batch

    def _partitions(self, consumer: Consumer, topic: str) -> list[int]:
        try:
            metadata = consumer.list_topics(topic, timeout=PROBE_SECONDS).topics[topic]
        except KafkaException as error:
            raise self._away(error) from None
        missing = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID}
        if metadata.error is not None and metadata.error.code() not in missing:
            raise self._away(KafkaException(metadata.error))
        return sorted(metadata.partitions)

    def _start(self, consumer: Consumer, topic: str, partition: int, batch: Batch) -> int:
        """The offset to read next, corrected where Kafka no longer has it."""
        try:
            low: int
            high: int
            low, high = consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=PROBE_SECONDS
            )
        except KafkaException as error:
            raise self._away(error) from None
        known = batch.cursor.offsets.get(topic)
        if known is None:
            return high if self._settings.auto_offset_reset == "latest" else low
        # A partition that was added later holds messages that nobody has read.
        expected = known.get(partition, low)
        if expected < low:
            batch.gaps.append(Gap(topic, partition, expected, low, "Kafka has deleted them (retention)."))
            return low
        if expected > high:
            reason = f"The topic was made anew: it ends at {high}."
            batch.gaps.append(Gap(topic, partition, expected, low, reason))
            return low
        return expected

    def _drain(self, consumer: Consumer, batch: Batch, most: int, wait_seconds: float) -> None:
        deadline = time.monotonic() + wait_seconds
        read: dict[tuple[str, int], int] = {}
        for message in _messages(consumer, most, wait_seconds, deadline):
            failure = message.error()
            if failure is not None:
                # Seeked anew at the next look, from the cursor; what was read so far is good.
                self._positions = {}
                self._last_error = failure.str()
                break
            batch.messages.append(_kafka_message(message))
            read[str(message.topic()), int(message.partition() or 0)] = int(message.offset() or 0) + 1
        self._positions |= read if self._positions else {}
        batch.cursor = batch.cursor.moved(read)

    def _commit(self, consumer: Consumer, cursor: Cursor) -> None:
        offsets = [
            TopicPartition(topic, partition, offset)
            for topic, partitions in cursor.offsets.items()
            if topic in self._settings.topics
            for partition, offset in partitions.items()
            if offset != OFFSET_INVALID
        ]
        if offsets:
            # Asynchronous: a broker that goes away now would block us for its session time-out.
            consumer.commit(offsets=offsets, asynchronous=True)

    def _away(self, error: KafkaException) -> BrokerAwayError:
        reason = error.args[0].str() if error.args else str(error)
        servers = ", ".join(self._settings.bootstrap_servers)
        details = {"last error": self._last_error} if self._last_error else {}
        return BrokerAwayError(
            f"Kafka at {servers} does not answer: {reason}.",
            remedy="It is asked again; see that the brokers run and that the kafka section is right.",
            details=details,
        )


def send(settings: KafkaSettings, topic: str, values: Sequence[bytes | None]) -> None:
    """Put messages on a topic, and return when the brokers have them.

    Raises
    ------
    BrokerAwayError
        They did not confirm all of them in time.
    """
    failures: list[str] = []

    def note(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures.append(error.str())

    seconds = 2 * PROBE_SECONDS
    producer = Producer(_client_configuration(settings) | {"message.timeout.ms": int(seconds * 1000)})
    for value in values:
        producer.produce(topic, value, on_delivery=note)
    if producer.flush(seconds + 1) or failures:
        raise BrokerAwayError(
            f"Kafka did not take {len(values)} messages for {topic}: {(failures or ['no answer'])[0]}.",
            remedy="See that the brokers run and that the topic exists, then send them again.",
        )


def _consumer_configuration(settings: KafkaSettings) -> dict[str, Any]:
    return _client_configuration(settings) | {
        "group.id": settings.group_id or _DEFAULT_GROUP,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "allow.auto.create.topics": False,
        # We compare with the watermarks ourselves; a jump must never happen silently.
        "auto.offset.reset": "error",
        "fetch.wait.max.ms": 100,
    }


def _client_configuration(settings: KafkaSettings) -> dict[str, Any]:
    configuration: dict[str, Any] = {
        "bootstrap.servers": ",".join(settings.bootstrap_servers),
        "reconnect.backoff.ms": 1000,
        "reconnect.backoff.max.ms": 10000,
        "log_level": 2,
    }
    optional = {
        "security.protocol": settings.security_protocol,
        "sasl.mechanism": settings.sasl_mechanism,
        "sasl.username": settings.sasl_username,
        "sasl.password": settings.sasl_password.get_secret_value(),
        "ssl.ca.location": settings.ssl_ca_location,
    }
    return configuration | {name: value for name, value in optional.items() if value}


def _messages(consumer: Consumer, most: int, wait_seconds: float, deadline: float) -> Iterator[Message]:
    """Wait for the first message, then take what is there."""
    left, wait = most, wait_seconds
    while left > 0:
        found = consumer.consume(1 if left == most else left, wait)
        yield from found
        left -= len(found)
        if not found and (left < most or time.monotonic() >= deadline):
            return
        wait = _FIRST_LOOK if left < most else max(0.0, deadline - time.monotonic())


def _kafka_message(message: Message) -> KafkaMessage:
    kind, milliseconds = message.timestamp()
    return KafkaMessage(
        Position(str(message.topic()), int(message.partition() or 0), int(message.offset() or 0)),
        message.value(),
        None if kind == TIMESTAMP_NOT_AVAILABLE else milliseconds,
    )
