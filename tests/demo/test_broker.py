"""The loopback broker, as clients see it; where it stands in for Apache Kafka, both are asked the same."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from scicat_dagster.demo.broker import LOOPBACK, BrokerError, LoopbackBroker, Request
from tests.brokers import free_ports, read_topic, unique_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.brokers import ApacheKafka, Broker

_QUIET_AND_QUICK = {"log_level": 0, "reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 50}


def producer_at(bootstrap_servers: str) -> Any:
    return Producer({"bootstrap.servers": bootstrap_servers, **_QUIET_AND_QUICK})


def consumer_at(bootstrap_servers: str) -> Any:
    return Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": unique_name("group"),
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 10,
            **_QUIET_AND_QUICK,
        }
    )


def produce(producer: Any, topic: str, *values: bytes, partition: int = 0) -> list[Any]:
    """Send and wait; returns one error, or None, for each message."""
    outcomes: list[Any] = []
    for value in values:
        producer.produce(
            topic, value, partition=partition, on_delivery=lambda error, _: outcomes.append(error)
        )
    assert producer.flush(20) == 0
    return outcomes


def consume(consumer: Any, count: int, *, timeout: float = 20.0) -> list[Any]:
    """Wait for the next messages, or errors, of an assigned consumer."""
    deadline = time.monotonic() + timeout
    messages: list[Any] = []
    while len(messages) < count and time.monotonic() < deadline:
        messages += consumer.consume(count - len(messages), timeout=0.2)
    return messages


@pytest.fixture(params=["any free port", "a fixed port"])
def loopback_at(request: pytest.FixtureRequest) -> Iterator[LoopbackBroker]:
    """The broker with and without the forwarder that gives it a port of our choice."""
    port = free_ports(1)[0] if request.param == "a fixed port" else 0
    with LoopbackBroker(port) as broker:
        assert port == 0 or broker.bootstrap_servers == f"{LOOPBACK}:{port}"
        yield broker


def test_a_consumer_gets_each_message_from_its_offset_on(any_broker: Broker) -> None:
    topic = unique_name("topic")
    any_broker.create_topic(topic, 2)
    producer = producer_at(any_broker.bootstrap_servers)
    produce(producer, topic, b"a", b"b", b"c", partition=0)
    produce(producer, topic, b"d", partition=1)

    with closing(consumer_at(any_broker.bootstrap_servers)) as consumer:
        consumer.assign([TopicPartition(topic, 0, 1), TopicPartition(topic, 1, 0)])
        messages = consume(consumer, 3)

    found = sorted((message.partition(), message.offset(), message.value()) for message in messages)
    assert found == [(0, 1, b"b"), (0, 2, b"c"), (1, 0, b"d")]


def test_a_topic_has_the_partitions_asked_for(any_broker: Broker) -> None:
    topic = unique_name("topic")
    any_broker.create_topic(topic, 3)

    known = producer_at(any_broker.bootstrap_servers).list_topics(timeout=10).topics

    assert sorted(known[topic].partitions) == [0, 1, 2]


def test_an_offset_past_its_retention_is_an_error_and_not_a_jump(any_broker: Broker) -> None:
    topic = unique_name("topic")
    any_broker.create_topic(topic)
    produce(producer_at(any_broker.bootstrap_servers), topic, *(b"%d" % number for number in range(10)))
    any_broker.delete_records(topic, 0, before_offset=4)

    with closing(consumer_at(any_broker.bootstrap_servers)) as consumer:
        marks = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
        consumer.assign([TopicPartition(topic, 0, 1)])
        first = consume(consumer, 1)[0]
        consumer.assign([TopicPartition(topic, 0, 4)])
        remaining = consume(consumer, 6)

    assert marks == (4, 10)
    assert first.error().code() == KafkaError._AUTO_OFFSET_RESET
    assert [message.value() for message in remaining] == [b"4", b"5", b"6", b"7", b"8", b"9"]


def test_a_large_topic_passes_the_forwarder_unharmed(loopback_at: LoopbackBroker) -> None:
    loopback_at.create_topic("large")
    values = [bytes([number]) * 500_000 for number in range(8)]

    outcomes = produce(producer_at(loopback_at.bootstrap_servers), "large", *values)

    assert outcomes == [None] * 8
    assert [record.value for record in read_topic(loopback_at.bootstrap_servers, "large")] == values


def test_clients_outlive_a_broker_that_goes_down_and_comes_up(loopback_at: LoopbackBroker) -> None:
    loopback_at.create_topic("topic")
    producer = producer_at(loopback_at.bootstrap_servers)
    with closing(consumer_at(loopback_at.bootstrap_servers)) as consumer:
        consumer.assign([TopicPartition("topic", 0, 0)])
        produce(producer, "topic", b"before")
        before = consume(consumer, 1)

        loopback_at.set_down()
        with pytest.raises(KafkaException):
            producer.list_topics(timeout=1)
        while_down = consume(consumer, 1, timeout=0.5)
        loopback_at.set_up()

        assert produce(producer, "topic", b"after") == [None]
        after = consume(consumer, 1)

    assert [message.value() for message in before] == [b"before"]
    assert while_down == []
    assert [message.value() for message in after] == [b"after"]


def test_a_rebuilt_broker_is_found_at_its_port_and_is_empty() -> None:
    port = free_ports(1)[0]
    producer = producer_at(f"{LOOPBACK}:{port}")
    with LoopbackBroker(port) as broker:
        broker.create_topic("topic")
        produce(producer, "topic", b"lost", b"lost too")

    with LoopbackBroker(port) as rebuilt:
        rebuilt.create_topic("topic")
        assert produce(producer, "topic", b"new") == [None]
        records = read_topic(rebuilt.bootstrap_servers, "topic")

    assert [(record.offset, record.value) for record in records] == [(0, b"new")]


def test_pushed_errors_refuse_that_many_requests(loopback_broker: LoopbackBroker) -> None:
    loopback_broker.create_topic("topic")
    producer = producer_at(loopback_broker.bootstrap_servers)
    loopback_broker.push_errors(Request.PRODUCE, KafkaError.POLICY_VIOLATION)

    [refused] = produce(producer, "topic", b"refused")
    [accepted] = produce(producer, "topic", b"accepted")

    assert refused.code() == KafkaError.POLICY_VIOLATION
    assert accepted is None
    assert [record.value for record in read_topic(loopback_broker.bootstrap_servers, "topic")] == [
        b"accepted"
    ]


def test_orders_that_make_no_sense_are_refused_by_name(loopback_broker: LoopbackBroker) -> None:
    loopback_broker.create_topic("topic")

    with pytest.raises(BrokerError, match=r"create topic 'topic' .*already exists"):
        loopback_broker.create_topic("topic")
    with pytest.raises(BrokerError, match="create topic 'none' with 0 partitions"):
        loopback_broker.create_topic("none", 0)
    with pytest.raises(BrokerError, match="records of absent:0 before 1"):
        loopback_broker.delete_records("absent", 0, 1)


def test_only_the_loopback_address_is_served(loopback_at: LoopbackBroker) -> None:
    port = int(loopback_at.bootstrap_servers.partition(":")[2])

    socket.create_connection((LOOPBACK, port), timeout=5).close()
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on the operating system
        socket.create_connection(("127.0.0.2", port), timeout=5).close()


def test_a_taken_port_is_said_and_costs_nothing_else() -> None:
    with LoopbackBroker(free_ports(1)[0]) as broker:
        port = int(broker.bootstrap_servers.partition(":")[2])
        with pytest.raises(OSError, match=str(port)):
            LoopbackBroker(port)
        assert producer_at(broker.bootstrap_servers).list_topics(timeout=10).brokers


def test_after_closing_nobody_answers(loopback_at: LoopbackBroker) -> None:
    host, _, port = loopback_at.bootstrap_servers.partition(":")
    loopback_at.close()
    loopback_at.close()

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5).close()


def broker_program(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "scicat_dagster.demo.broker", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
def test_the_program_serves_other_processes_until_it_is_told_to_stop(stop_signal: signal.Signals) -> None:
    port = free_ports(1)[0]
    with broker_program("--port", str(port), "--topic", "one:2", "--topic", "two") as program:
        try:
            assert program.stdout is not None
            line = program.stdout.readline()
            producer = producer_at(f"{LOOPBACK}:{port}")
            known = producer.list_topics(timeout=10).topics
            assert produce(producer, "one", b"message", partition=1) == [None]
            program.send_signal(stop_signal)
            _, complaints = program.communicate(timeout=20)
        finally:
            program.kill()

    assert line == f"Kafka broker ready on {LOOPBACK}:{port}\n"
    assert {name: len(topic.partitions) for name, topic in known.items()} == {"one": 2, "two": 1}
    assert program.returncode == 0
    assert complaints == ""


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--topic", ":2"), "':2' is not NAME or NAME:PARTITIONS"),
        (("--topic", "one:0"), "'one:0' is not NAME or NAME:PARTITIONS"),
        (("--topic", "one:many"), "'one:many' is not NAME or NAME:PARTITIONS"),
        (("--topic", "one", "--topic", "one"), "already exists"),
    ],
)
def test_the_program_refuses_topics_it_cannot_make(arguments: tuple[str, ...], reason: str) -> None:
    with broker_program(*arguments) as program:
        _, complaints = program.communicate(timeout=20)

    assert program.returncode != 0
    assert reason in re.sub(r"\s+", " ", complaints)
    assert "Traceback" not in complaints


def test_the_program_says_that_its_port_is_taken() -> None:
    with LoopbackBroker() as broker:
        port = broker.bootstrap_servers.partition(":")[2]
        with broker_program("--port", port) as program:
            _, complaints = program.communicate(timeout=20)

    assert program.returncode == 1
    assert complaints.startswith(f"Error: Cannot listen on {LOOPBACK}:{port}:")


def test_apache_kafka_keeps_its_address_and_messages_over_a_stop_and_a_crash(
    own_apache_kafka: ApacheKafka,
) -> None:
    own_apache_kafka.create_topic("topic")
    producer = producer_at(own_apache_kafka.bootstrap_servers)
    produce(producer, "topic", b"first")
    own_apache_kafka.restart()
    produce(producer, "topic", b"second")
    own_apache_kafka.kill()
    with pytest.raises(KafkaException):
        producer.list_topics(timeout=1)
    own_apache_kafka.start()
    produce(producer, "topic", b"third")

    values = [record.value for record in read_topic(own_apache_kafka.bootstrap_servers, "topic")]

    assert values == [b"first", b"second", b"third"]
