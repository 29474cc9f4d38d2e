"""Reading announcements from a cursor on, so that no jump of the offsets is silent.

Before each poll the cursor is compared with the topic's id and with the first and last offset of each
partition: deleted messages, re-created topics and lost tails become gaps, and new partitions are read from
their first message on. What the messages say is ``messages``' business.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import (
    OFFSET_INVALID,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from scicat_dagster.config.models import KafkaSettings
from scicat_dagster.kafka.batch import Batch, Gap
from scicat_dagster.kafka.client import (
    PROBE_SECONDS,
    BrokerAwayError,
    client_configuration,
    consumer_configuration,
    unusable,
)
from scicat_dagster.kafka.cursor import Cursor, Incarnation
from scicat_dagster.kafka.messages import KafkaMessage, Position
from scicat_dagster.limits import LARGEST_TICK_BYTES

_FIRST_LOOK = 0.05

_AT_ONCE = 100
"""Messages that are asked for together: as many of the largest ones have to fit into memory."""

_NO_ID = "A" * 22
"""Base64 of zeros: what a broker that knows no topic ids is taken to say."""

_MISSING = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID})

_NO_LEADER = frozenset({KafkaError.LEADER_NOT_AVAILABLE, KafkaError._NOENT})  # noqa: SLF001 - librdkafka names its own codes so

_EVERYTHING = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT,  # noqa: SLF001 - librdkafka names its own codes so
        KafkaError._TIMED_OUT, KafkaError._RESOLVE,  # noqa: SLF001 - librdkafka names its own codes so
        KafkaError._AUTHENTICATION, KafkaError._SSL,  # noqa: SLF001 - librdkafka names its own codes so
        KafkaError._DESTROY, KafkaError.REQUEST_TIMED_OUT,  # noqa: SLF001 - librdkafka names its own codes so
    }
)  # fmt: skip
"""Failures that are not about one topic."""

_NO_IDS = _MISSING | {
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError._UNSUPPORTED_FEATURE,  # noqa: SLF001 - librdkafka names its own codes so
}


class AnnouncementReader:
    """A connection to the facility's brokers, kept open from one look to the next; threads may share it."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._last_error = ""
        self._consumer: Consumer | None = None
        self._admin: Any = None
        self._positions: dict[tuple[str, int], int] = {}
        self._unreadable: set[str] = set()

    def close(self) -> None:
        """Close the connection; the next poll opens another."""
        with self._lock:
            if self._consumer is not None:
                self._consumer.close()
            self._consumer, self._admin, self._positions = None, None, {}

    def read(self, cursor: Cursor, *, most: int, wait_seconds: float) -> Batch:
        """Read from ``cursor`` on: up to ``most`` messages, waiting ``wait_seconds`` for the first one.

        Raises
        ------
        BrokerAwayError
            The brokers cannot be reached. The cursor stays good.
        PermanentError
            The settings cannot be used.
        """
        with self._lock:
            if self._consumer is None:
                self._consumer = self._connect()
            batch = self._prepared(self._consumer, cursor)
            self._drain(self._consumer, batch, most, wait_seconds)
            # Not what was just read, which nobody has stored yet: this replaces a cursor that was lost.
            self._commit(self._consumer, cursor)
            return batch

    def _connect(self) -> Consumer:
        self._positions = {}
        try:
            self._admin = AdminClient(client_configuration(self._settings))
            return Consumer(consumer_configuration(self._settings) | {"error_cb": self._remember_error})
        except (KafkaException, ValueError, TypeError) as error:
            raise unusable(error, self._settings) from None

    def _remember_error(self, error: KafkaError) -> None:
        self._last_error = error.str()

    def _prepared(self, consumer: Consumer, cursor: Cursor) -> Batch:
        """Look which partitions there are, and put the consumer on its offsets."""
        batch = Batch(messages=[], cursor=cursor)
        wanted: dict[tuple[str, int], int] = {}
        found = self._looked_up(consumer, batch)
        ids = self._topic_ids(found, batch)
        ranges = self._ranges(found, batch)
        committed = self._committed(consumer, found, batch)
        for topic, metadata in found.items():
            if topic in batch.unreadable:
                continue
            partitions = sorted(metadata.topics[topic].partitions)
            if not partitions:
                batch.missing_topics.append(topic)
                # Stored as known and empty: when it appears, it is read from its first message on.
                batch.cursor = batch.cursor.with_topic(topic)
                continue
            there = {partition: ranges[topic, partition] for partition in partitions}
            batch.ends |= {(topic, partition): high for partition, (_, high) in there.items()}
            self._recognise(topic, ids.get(topic, ""), there, batch)
            for partition, (low, high) in there.items():
                known = batch.cursor.offsets.get(topic)
                if known is None:
                    wanted[topic, partition] = self._beginning(
                        topic, partition, (low, high), committed, batch
                    )
                else:
                    wanted[topic, partition] = self._start(topic, partition, low, known, batch)
        self._unreadable = set(batch.unreadable)
        if self._unreadable.issuperset(self._settings.topics):
            raise self._away_because("; ".join(sorted(set(batch.unreadable.values()))))
        if wanted != self._positions:
            consumer.assign([TopicPartition(topic, part, offset) for (topic, part), offset in wanted.items()])
            self._positions = dict(wanted)
        batch.cursor = batch.cursor.moved(wanted)
        return batch

    def _looked_up(self, consumer: Consumer, batch: Batch) -> dict[str, Any]:
        """What the brokers say of each topic; one that they do not let us see is for itself."""
        found: dict[str, Any] = {}
        for topic in self._settings.topics:
            try:
                metadata = consumer.list_topics(topic, timeout=PROBE_SECONDS)
            except KafkaException as error:
                raise self._away(error) from None
            failure = metadata.topics[topic].error
            if failure is not None and failure.code() not in _MISSING:
                batch.unreadable[topic] = failure.str()
            else:
                found[topic] = metadata
        return found

    def _topic_ids(self, found: dict[str, Any], batch: Batch) -> dict[str, str]:
        """The ids of the topics; without those whose broker gives none.

        The question goes to the controller. A cluster whose controller is none of its brokers (librdkafka's
        in-memory one; for a moment also one that elects a new controller) is not asked: it would not answer.
        """
        there = [
            topic
            for topic, metadata in found.items()
            if metadata.topics[topic].partitions and metadata.controller_id in metadata.brokers
        ]
        if not there:
            return {}
        ids: dict[str, str] = {}
        answers = self._admin.describe_topics(TopicCollection(there), request_timeout=PROBE_SECONDS)
        for topic, answer in answers.items():
            try:
                ids[topic] = str(answer.result().topic_id)
            except KafkaException as error:
                if error.args[0].code() not in _NO_IDS:
                    self._note(topic, error, batch)
        return {topic: given for topic, given in ids.items() if given != _NO_ID}

    def _ranges(self, found: dict[str, Any], batch: Batch) -> dict[tuple[str, int], tuple[int, int]]:
        """The first offset that each partition still has, and the one after its last.

        Asked over a connection of its own: the consumer's would answer behind its waiting fetches, some tenth
        of a second for each partition.
        """
        left = [
            TopicPartition(topic, partition)
            for topic, metadata in found.items()
            for partition in metadata.topics[topic].partitions
        ]
        deadline = time.monotonic() + PROBE_SECONDS
        ranges: dict[tuple[str, int], tuple[int, int]] = {}
        while left:
            first, last = (
                self._admin.list_offsets(dict.fromkeys(left, which), request_timeout=PROBE_SECONDS)
                for which in (OffsetSpec.earliest(), OffsetSpec.latest())
            )
            again = []
            for place in left:
                try:
                    low, high = first[place].result().offset, last[place].result().offset
                    ranges[place.topic, place.partition] = low, high
                except KafkaException as error:
                    # A broker that has just come back says for a moment that nobody leads its partitions.
                    if error.args[0].code() in _NO_LEADER and place.topic not in self._unreadable:
                        again.append(place)
                    if place not in again or time.monotonic() > deadline:
                        self._note(place.topic, error, batch)
            left = [] if time.monotonic() > deadline else again
            if left:
                time.sleep(_FIRST_LOOK)
        return ranges

    def _committed(
        self, consumer: Consumer, found: dict[str, Any], batch: Batch
    ) -> dict[tuple[str, int], int]:
        """Where the group is in the topics that the cursor does not know: a cursor may have been lost."""
        unknown = [
            TopicPartition(topic, partition)
            for topic, metadata in found.items()
            if topic not in batch.cursor.offsets and topic not in batch.unreadable
            for partition in metadata.topics[topic].partitions
        ]
        if not unknown:
            return {}
        try:
            answers = consumer.committed(unknown, timeout=PROBE_SECONDS)
        except KafkaException as error:
            raise self._away(error) from None
        return {(place.topic, place.partition): place.offset for place in answers if place.offset >= 0}

    def _note(self, topic: str, error: KafkaException, batch: Batch) -> None:
        """A failure that is about one topic is no reason not to read the others."""
        if error.args[0].code() in _EVERYTHING:
            raise self._away(error) from None
        batch.unreadable[topic] = error.args[0].str()

    def _recognise(self, topic: str, topic_id: str, there: dict[int, tuple[int, int]], batch: Batch) -> None:
        """Say which incarnation of the topic it is; one that was not read yet begins at its first message."""
        known = batch.cursor.incarnation(topic)
        read = batch.cursor.offsets.get(topic, {})
        shorter = [partition for partition, (_, high) in there.items() if read.get(partition, 0) > high]
        if topic_id and known.topic_id and topic_id != known.topic_id:
            now = Incarnation(topic_id=topic_id)
            reason = "The topic was re-created."
            restarted = list(read)
        elif shorter and topic_id and known.topic_id:
            now = known.restarted(shorter)
            reason = "Kafka lost messages of this partition: it ends before what was read."
            restarted = shorter
        elif shorter:
            now = Incarnation(topic_id=topic_id or known.topic_id, number=known.number + 1)
            ends = ", ".join(f"partition {partition} at {there[partition][1]}" for partition in shorter)
            reason = f"The topic was re-created, or its brokers lost messages: it ends before that ({ends})."
            restarted = list(read)
        else:
            # Where the broker did not say the id this time, it is the one that it was.
            same = known.model_copy(update={"topic_id": topic_id or known.topic_id})
            batch.cursor = batch.cursor.about(topic, same)
            return
        # Assigned anew, so that the consumer keeps nothing of the topic that it knew.
        self._positions = {}
        batch.gaps += [
            Gap(topic, partition, expected, there.get(partition, (0, 0))[0], reason, lost=None)
            for partition, expected in read.items()
            if partition in restarted
        ]
        batch.cursor = batch.cursor.without(topic, restarted).about(topic, now)

    def _beginning(
        self,
        topic: str,
        partition: int,
        range_: tuple[int, int],
        committed: Mapping[tuple[str, int], int],
        batch: Batch,
    ) -> int:
        """Where a topic begins that no cursor knows: where the group is, or as the configuration says."""
        low, high = range_
        group = committed.get((topic, partition))
        if group is not None and low <= group <= high:
            batch.begun_at[f"{topic}:{partition}"] = f"offset {group}, where the consumer group is"
            return group
        reset = self._settings.auto_offset_reset
        begin = high if reset == "latest" else low
        batch.begun_at[f"{topic}:{partition}"] = f"offset {begin}, because auto_offset_reset is {reset}"
        return begin

    def _start(self, topic: str, partition: int, low: int, known: Mapping[int, int], batch: Batch) -> int:
        """The offset to read next, corrected where Kafka no longer has it."""
        # A partition that was added later holds messages that nobody has read.
        expected = known.get(partition, low)
        if expected < low:
            reason = "Kafka has deleted them (retention)."
            batch.gaps.append(Gap(topic, partition, expected, low, reason, lost=low - expected))
            return low
        return expected

    def _drain(self, consumer: Consumer, batch: Batch, most: int, wait_seconds: float) -> None:
        deadline = time.monotonic() + wait_seconds
        read: dict[tuple[str, int], int] = {}
        failed: set[tuple[str, int]] = set()
        for message in _messages(consumer, most, wait_seconds, deadline):
            place = (str(message.topic()), int(message.partition() or 0))
            failure = message.error()
            if failure is not None:
                # Seeked anew at the next poll, from the cursor; what was read so far is good.
                self._positions = {}
                self._last_error = failure.str()
                if message.topic() is None:
                    break
                failed.add(place)
                batch.unreadable[place[0]] = failure.str()
            elif place not in failed:
                # Not behind a message that could not be read, which would be passed over in silence.
                batch.messages.append(_kafka_message(message))
                read[place] = int(message.offset() or 0) + 1
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
        return self._away_because(error.args[0].str() if error.args else str(error))

    def _away_because(self, reason: str) -> BrokerAwayError:
        servers = ", ".join(self._settings.bootstrap_servers)
        details = {"last error": self._last_error} if self._last_error else {}
        return BrokerAwayError(
            f"Kafka at {servers} does not answer: {reason}.",
            remedy="It is asked again; see that the brokers run and that the kafka section is right.",
            details=details,
        )


def read_value(settings: KafkaSettings, position: Position) -> bytes | None:
    """The value of one message, from Kafka itself.

    Raises
    ------
    BrokerAwayError
        It did not come in time: the brokers are away, or have deleted the message.
    """
    consumer = Consumer(consumer_configuration(settings))
    try:
        consumer.assign([TopicPartition(position.topic, position.partition, position.offset)])
        for message in consumer.consume(1, 2 * PROBE_SECONDS):
            if message.error() is None and message.offset() == position.offset:
                value: bytes | None = message.value()
                return value
    finally:
        consumer.close()
    raise BrokerAwayError(
        f"Kafka does not give the message {position}.",
        remedy="See that the brokers run; a message that they have deleted is gone.",
    )


def _messages(consumer: Consumer, most: int, wait_seconds: float, deadline: float) -> Iterator[Message]:
    """Wait for the first message, then take what is there, up to a number and a size."""
    left, room, wait = most, LARGEST_TICK_BYTES, wait_seconds
    while left > 0 and room > 0:
        found = consumer.consume(1 if left == most else min(left, _AT_ONCE), wait)
        yield from found
        left -= len(found)
        room -= sum(len(message.value() or b"") for message in found)
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
