"""What every Kafka client of ours is made with, and the failure that stands for brokers that are away.

Source: librdkafka, *Configuration properties*.
"""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError

from scicat_dagster.config.models import KafkaSettings
from scicat_dagster.errors import PermanentError, TransientError

PROBE_SECONDS = 5.0
"""How long the broker may take to say which topics there are; only this call notices that it is away."""

_DEFAULT_GROUP = "scicat-dagster"


class BrokerAwayError(TransientError):
    """Kafka cannot be reached, or does not let us in."""


def consumer_configuration(settings: KafkaSettings) -> dict[str, Any]:
    return client_configuration(settings) | {
        "group.id": settings.group_id or _DEFAULT_GROUP,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "allow.auto.create.topics": False,
        # We compare with the watermarks ourselves; a jump must never happen silently.
        "auto.offset.reset": "error",
        "fetch.wait.max.ms": 100,
    }


def client_configuration(settings: KafkaSettings) -> dict[str, Any]:
    """What every client of the brokers is made with; the facility's own options win."""
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
    given = {name: value.get_secret_value() for name, value in settings.options.items()}
    return configuration | {name: value for name, value in optional.items() if value} | given


def unusable(error: Exception, settings: KafkaSettings) -> PermanentError:
    """The failure that librdkafka's refusal of our settings stands for; it may quote a value, we do not."""
    reason = error.args[0] if error.args else error
    text = reason.str() if isinstance(reason, KafkaError) else str(reason)
    for secret in (settings.sasl_password, *settings.options.values()):
        if value := secret.get_secret_value():
            text = text.replace(value, "…")
    return PermanentError(
        f"The kafka section cannot be used: {text.rstrip('.')}.", remedy="Correct the kafka section."
    )
