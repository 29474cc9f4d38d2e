"""Producing messages: dead letters, and rejected messages that are sent again."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from scicat_dagster.config.models import KafkaSettings
from scicat_dagster.kafka.client import PROBE_SECONDS, BrokerAwayError, client_configuration

_LARGEST_SENT_BYTES = 100_000_000
"""The broker decides what is too large; librdkafka's own limit is smaller than a broker's."""


def send(
    settings: KafkaSettings, topic: str, values: Sequence[bytes | None], keys: Sequence[bytes] = ()
) -> None:
    """Put messages on a topic, with a key each or none at all, and return when the brokers have them.

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
    limits = {"message.timeout.ms": int(seconds * 1000), "message.max.bytes": _LARGEST_SENT_BYTES}
    producer = Producer(client_configuration(settings) | limits)
    keyed = zip(values, keys, strict=True) if keys else ((value, None) for value in values)
    for value, key in keyed:
        try:
            producer.produce(topic, value, key, on_delivery=note)
        except (KafkaException, BufferError) as error:
            failures.append(str(error))
        producer.poll(0)
    unanswered = producer.flush(seconds + 1)
    if unanswered or failures:
        number = len(failures) + unanswered
        raise BrokerAwayError(
            f"Kafka did not take {number} of {len(values)} messages for {topic}: "
            f"{(failures or ['no answer'])[0]}.",
            remedy="See that the brokers run and that the topic exists, then send them again.",
        )
