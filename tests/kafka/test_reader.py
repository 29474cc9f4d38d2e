"""Reading announcements: positions, what Kafka no longer has, topics that come later, brokers that are away.

Against the in-memory broker and against Apache Kafka itself, by the fixture ``any_broker``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from scicat_dagster.config.models import KafkaSettings
from scicat_dagster.demo.broker import LoopbackBroker
from scicat_dagster.errors import PermanentError
from scicat_dagster.kafka.client import BrokerAwayError
from scicat_dagster.kafka.cursor import Cursor, Incarnation
from scicat_dagster.kafka.messages import Position
from scicat_dagster.kafka.reader import AnnouncementReader
from tests.brokers import ApacheKafka, Broker, KafkaCluster, unique_name


@contextmanager
def reader(broker: Broker, *topics: str, reset: str = "earliest") -> Iterator[AnnouncementReader]:
    settings = KafkaSettings.model_validate(
        {
            "topics": list(topics),
            "bootstrap_servers": broker.bootstrap_servers,
            "auto_offset_reset": reset,
        }
    )
    made = AnnouncementReader(settings)
    try:
        yield made
    finally:
        made.close()


def produce(broker: Broker, topic: str, *values: bytes | None, partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(30) == 0


def make_anew(kafka: KafkaCluster, topic: str, partitions: int) -> None:
    """Delete a topic with all its messages, and create another of the same name."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    admin.delete_topics([topic], operation_timeout=10)[topic].result(10)
    kafka.create_topic(topic, partitions)


@pytest.fixture
def topic(any_broker: Broker) -> str:
    name = unique_name("files")
    any_broker.create_topic(name, 2)
    return name


def test_messages_are_read_once_and_in_order(any_broker: Broker, topic: str) -> None:
    produce(any_broker, topic, b"a", b"b", b"c")
    with reader(any_broker, topic) as announcements:
        first = announcements.read(Cursor(), most=2, wait_seconds=10)
        second = announcements.read(first.cursor, most=10, wait_seconds=10)
        third = announcements.read(second.cursor, most=10, wait_seconds=0)

    assert [message.value for message in first.messages] == [b"a", b"b"]
    assert [message.value for message in second.messages] == [b"c"]
    assert third.messages == []
    assert second.cursor.offsets == {topic: {0: 3, 1: 0}}
    assert [str(message.position) for message in first.messages] == [f"{topic}:0:0", f"{topic}:0:1"]


def test_a_repeated_look_at_the_same_cursor_reads_the_same(any_broker: Broker, topic: str) -> None:
    produce(any_broker, topic, b"a", b"b")
    beginning = Cursor(offsets={topic: {0: 0, 1: 0}})
    with reader(any_broker, topic) as announcements:
        first = announcements.read(beginning, most=10, wait_seconds=10)
        again = announcements.read(beginning, most=10, wait_seconds=10)

    assert first.messages == again.messages
    assert first.cursor == again.cursor


def test_another_process_goes_on_where_the_cursor_says(any_broker: Broker, topic: str) -> None:
    produce(any_broker, topic, b"a", b"b")
    with reader(any_broker, topic) as one:
        cursor = one.read(Cursor(), most=1, wait_seconds=10).cursor
    with reader(any_broker, topic) as other:
        stored = Cursor.parse(cursor.model_dump_json())
        assert [m.value for m in other.read(stored, most=10, wait_seconds=10).messages] == [b"b"]


def test_a_tombstone_is_a_message(any_broker: Broker, topic: str) -> None:
    produce(any_broker, topic, None)
    with reader(any_broker, topic) as announcements:
        (message,) = announcements.read(Cursor(), most=10, wait_seconds=10).messages

    assert message.value is None


def test_the_first_start_can_be_at_the_end(any_broker: Broker, topic: str) -> None:
    produce(any_broker, topic, b"old")
    with reader(any_broker, topic, reset="latest") as announcements:
        start = announcements.read(Cursor(), most=10, wait_seconds=0)
        produce(any_broker, topic, b"new")
        then = announcements.read(start.cursor, most=10, wait_seconds=10)

    assert start.messages == []
    assert [message.value for message in then.messages] == [b"new"]


def test_messages_that_kafka_deleted_are_reported_as_a_gap(any_broker: Broker, topic: str) -> None:
    produce(any_broker, topic, b"a", b"b", b"c", b"d")
    any_broker.delete_records(topic, 0, 3)
    with reader(any_broker, topic) as announcements:
        batch = announcements.read(Cursor(offsets={topic: {0: 1, 1: 0}}), most=10, wait_seconds=10)

    (gap,) = batch.gaps
    assert (gap.partition, gap.expected, gap.continued_at, gap.lost) == (0, 1, 3, 2)
    assert "retention" in gap.reason
    assert [message.value for message in batch.messages] == [b"d"]


def test_a_topic_that_is_shorter_than_what_was_read_is_read_from_its_beginning(
    any_broker: Broker, topic: str
) -> None:
    produce(any_broker, topic, b"a")
    produce(any_broker, topic, b"b", partition=1)
    with reader(any_broker, topic) as announcements:
        batch = announcements.read(Cursor(offsets={topic: {0: 99, 1: 1}}), most=2, wait_seconds=10)
        # Partitions are fetched one after the other: the first batch need not hold what is in both.
        last, messages = batch, list(batch.messages)
        while len(messages) < 2 and last.messages:
            last = announcements.read(last.cursor, most=2, wait_seconds=10)
            messages += last.messages

    assert [(gap.partition, gap.expected, gap.continued_at, gap.lost) for gap in batch.gaps] == [
        (0, 99, 0, None),
        (1, 1, 0, None),
    ]
    assert all("re-created" in gap.reason for gap in batch.gaps)
    assert sorted(message.value or b"" for message in messages) == [b"a", b"b"]
    assert last.cursor.offsets == {topic: {0: 1, 1: 1}}
    # Its messages are not those that had these offsets before.
    assert batch.cursor.incarnation(topic).number == 2
    assert batch.cursor.incarnation(topic).name_of(0).endswith("2")


def test_only_the_partition_that_lost_messages_is_read_again(apache_kafka: KafkaCluster) -> None:
    topic = unique_name("shorter")
    apache_kafka.create_topic(topic, 2)
    produce(apache_kafka, topic, b"a", b"b")
    produce(apache_kafka, topic, b"c", b"d", partition=1)
    with reader(apache_kafka, topic) as announcements:
        read = announcements.read(Cursor(), most=4, wait_seconds=10).cursor
        further = read.moved({(topic, 0): 5})
        again = announcements.read(further, most=4, wait_seconds=10)

    assert [message.value for message in again.messages] == [b"a", b"b"]
    assert [(gap.partition, gap.expected, gap.continued_at) for gap in again.gaps] == [(0, 5, 0)]
    assert again.cursor.name_of(Position(topic, 0, 1)) != read.name_of(Position(topic, 0, 1))
    assert again.cursor.name_of(Position(topic, 1, 1)) == read.name_of(Position(topic, 1, 1))


def test_without_a_cursor_it_goes_on_where_the_group_is(any_broker: Broker, topic: str) -> None:
    """A cursor may be lost with its database, and the group may be that of another program before us."""
    produce(any_broker, topic, b"a", b"b", b"c")
    with reader(any_broker, topic) as announcements:
        stored = announcements.read(Cursor(), most=2, wait_seconds=10).cursor
        announcements.read(stored, most=1, wait_seconds=10)
    with reader(any_broker, topic, reset="latest") as announcements:
        batch = announcements.read(Cursor(), most=10, wait_seconds=10)

    assert [message.value for message in batch.messages] == [b"c"]
    assert "consumer group" in batch.begun_at[f"{topic}:0"]


def test_what_nobody_has_stored_is_read_again_without_a_cursor(any_broker: Broker, topic: str) -> None:
    """A first tick whose process dies before its cursor is stored."""
    produce(any_broker, topic, b"a", b"b")
    with reader(any_broker, topic) as announcements:
        announcements.read(Cursor(), most=10, wait_seconds=10)
    with reader(any_broker, topic) as announcements:
        again = announcements.read(Cursor(), most=10, wait_seconds=10)

    assert [message.value for message in again.messages] == [b"a", b"b"]


def test_a_topic_that_was_made_anew_and_is_longer_already_is_read_from_its_beginning(
    apache_kafka: KafkaCluster,
) -> None:
    topic = unique_name("anew")
    apache_kafka.create_topic(topic, 2)
    produce(apache_kafka, topic, b"old 0", b"old 1")
    with reader(apache_kafka, topic) as announcements:
        before = announcements.read(Cursor(), most=10, wait_seconds=10)
        make_anew(apache_kafka, topic, 1)
        produce(apache_kafka, topic, b"new 0", b"new 1", b"new 2")
        cursor = Cursor.parse(before.cursor.model_dump_json())
        after = announcements.read(cursor, most=3, wait_seconds=10)
        then = announcements.read(after.cursor, most=1, wait_seconds=0)
    with reader(apache_kafka, topic) as another_process:
        again = another_process.read(cursor, most=3, wait_seconds=10)

    assert [(gap.partition, gap.expected, gap.continued_at, gap.lost) for gap in after.gaps] == [
        (0, 2, 0, None),
        (1, 0, 0, None),
    ]
    assert {gap.reason for gap in after.gaps} == {"The topic was re-created."}
    assert [message.value for message in after.messages] == [b"new 0", b"new 1", b"new 2"]
    assert after.cursor.offsets == {topic: {0: 3}}
    # Read once, and the same again from the same cursor.
    assert (then.messages, then.gaps) == ([], [])
    assert (again.messages, again.cursor, again.gaps) == (after.messages, after.cursor, after.gaps)
    # Each message has a name of its own, though both topics have the same offsets.
    (old, new) = (batch.cursor.name_of(batch.messages[0].position) for batch in (before, after))
    assert old.startswith(f"{topic}:0:0:")
    assert new.startswith(f"{topic}:0:0:")
    assert old != new


def test_a_topic_keeps_its_id_over_a_restart_of_its_broker(own_apache_kafka: ApacheKafka) -> None:
    topic = unique_name("kept")
    own_apache_kafka.create_topic(topic, 1)
    produce(own_apache_kafka, topic, b"a")
    with reader(own_apache_kafka, topic) as announcements:
        before = announcements.read(Cursor(), most=1, wait_seconds=10)
        own_apache_kafka.restart()
        produce(own_apache_kafka, topic, b"b")
        after = announcements.read(before.cursor, most=1, wait_seconds=10)

    assert before.cursor.incarnation(topic).topic_id
    assert after.cursor.incarnation(topic) == before.cursor.incarnation(topic)
    assert (after.gaps, [message.value for message in after.messages]) == ([], [b"b"])


def test_a_cursor_that_names_no_ids_yet_goes_on_where_it_was(apache_kafka: KafkaCluster) -> None:
    topic = unique_name("older")
    apache_kafka.create_topic(topic, 1)
    produce(apache_kafka, topic, b"a", b"b")
    with reader(apache_kafka, topic) as announcements:
        stored = Cursor.parse(f'{{"version": 1, "offsets": {{"{topic}": {{"0": 1}}}}}}')
        batch = announcements.read(stored, most=1, wait_seconds=10)

    assert (batch.gaps, [message.value for message in batch.messages]) == ([], [b"b"])
    assert batch.cursor.incarnation(topic).topic_id


def test_a_broker_that_gives_no_topic_ids_leaves_the_one_that_is_known(
    loopback_broker: LoopbackBroker,
) -> None:
    topic = unique_name("unnamed")
    loopback_broker.create_topic(topic, 1)
    with reader(loopback_broker, topic) as announcements:
        unknown = announcements.read(Cursor(), most=1, wait_seconds=0).cursor
        known = Cursor(offsets={topic: {0: 0}}, incarnations={topic: Incarnation(topic_id="an-id")})
        kept = announcements.read(known, most=1, wait_seconds=0)

    assert unknown.name_of(Position(topic, 0, 7)) == f"{topic}:0:7"
    assert (kept.gaps, kept.cursor) == ([], known)
    assert kept.cursor.name_of(Position(topic, 0, 7)) == f"{topic}:0:7:an-id"


def test_a_missing_topic_is_named_and_read_from_its_beginning_once_it_is_there(any_broker: Broker) -> None:
    name = unique_name("later")
    with reader(any_broker, name, reset="latest") as announcements:
        before = announcements.read(Cursor(), most=10, wait_seconds=0)
        any_broker.create_topic(name, 1)
        produce(any_broker, name, b"first")
        after = announcements.read(before.cursor, most=10, wait_seconds=10)

    assert before.missing_topics == [name]
    assert [message.value for message in after.messages] == [b"first"]


def test_a_partition_that_was_added_is_read_from_its_beginning(any_broker: Broker, topic: str) -> None:
    produce(any_broker, topic, b"in the new one", partition=1)
    with reader(any_broker, topic, reset="latest") as announcements:
        batch = announcements.read(Cursor(offsets={topic: {0: 0}}), most=10, wait_seconds=10)

    assert [message.value for message in batch.messages] == [b"in the new one"]


def test_several_topics_are_read_together(any_broker: Broker, topic: str) -> None:
    other = unique_name("other")
    any_broker.create_topic(other, 1)
    produce(any_broker, topic, b"a")
    produce(any_broker, other, b"b")
    found: set[bytes | None] = set()
    with reader(any_broker, topic, other) as announcements:
        cursor = Cursor()
        while len(found) < 2:
            batch = announcements.read(cursor, most=10, wait_seconds=10)
            assert batch.messages
            found |= {message.value for message in batch.messages}
            cursor = batch.cursor

    assert cursor.offsets == {topic: {0: 1, 1: 0}, other: {0: 1}}


def test_a_burst_of_5000_messages_is_read_whole(any_broker: Broker, topic: str) -> None:
    produce(any_broker, topic, *(str(number).encode() for number in range(5000)))
    with reader(any_broker, topic) as announcements:
        cursor = Cursor()
        values: list[bytes | None] = []
        while len(values) < 5000:
            batch = announcements.read(cursor, most=1000, wait_seconds=10)
            assert 0 < len(batch.messages) <= 1000
            values += [message.value for message in batch.messages]
            cursor = batch.cursor

    assert values == [str(number).encode() for number in range(5000)]


def test_a_broker_that_is_away_is_said_so_and_the_reader_recovers(loopback_broker: LoopbackBroker) -> None:
    name = unique_name("away")
    loopback_broker.create_topic(name, 1)
    with reader(loopback_broker, name) as announcements:
        cursor = announcements.read(Cursor(), most=10, wait_seconds=0).cursor
        loopback_broker.set_down()
        with pytest.raises(BrokerAwayError, match=r"does not answer.*asked again"):
            announcements.read(cursor, most=10, wait_seconds=0)
        loopback_broker.set_up()
        produce(loopback_broker, name, b"after")
        batch = announcements.read(cursor, most=10, wait_seconds=10)

    assert [message.value for message in batch.messages] == [b"after"]


@pytest.mark.parametrize("text", ["17", "{", '{"offsets": {"t": {"x": 1}}}', '{"version": 1, "more": 2}'])
def test_a_cursor_that_is_not_ours_is_refused(text: str) -> None:
    with pytest.raises(PermanentError, match="reset it"):
        Cursor.parse(text)


def test_a_cursor_of_a_newer_version_is_refused() -> None:
    with pytest.raises(PermanentError, match="newer scicat_dagster"):
        Cursor.parse('{"version": 2, "offsets": {}}')


def test_an_empty_topic_that_was_made_anew_is_read_by_a_reader_that_waits_at_its_beginning(
    apache_kafka: KafkaCluster,
) -> None:
    topic = unique_name("empty")
    apache_kafka.create_topic(topic, 1)
    with reader(apache_kafka, topic) as announcements:
        before = announcements.read(Cursor(), most=1, wait_seconds=0)
        make_anew(apache_kafka, topic, 1)
        produce(apache_kafka, topic, b"new")
        after = announcements.read(before.cursor, most=1, wait_seconds=10)

    assert [message.value for message in after.messages] == [b"new"]
    assert [(gap.expected, gap.lost) for gap in after.gaps] == [(0, None)]
