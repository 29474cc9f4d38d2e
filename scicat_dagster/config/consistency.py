"""What each key alone cannot tell: keys that contradict each other, unknown keys, and doubtful settings.

What prevents the use of a file is a mistake; everything else is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from pydantic import BaseModel

from scicat_dagster.config.field_types import PATH_TYPES
from scicat_dagster.config.models import Settings, version_of
from scicat_dagster.nearest import suggestion

_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})

SHORTEST_TOKEN = 16

_OWN_KAFKA_OPTIONS = {
    "bootstrap.servers": "; use kafka.bootstrap_servers",
    "group.id": "; use kafka.group_id",
    "auto.offset.reset": "; use kafka.auto_offset_reset",
    "enable.auto.commit": ": positions are kept by the sensor",
    "enable.auto.offset.store": ": positions are kept by the sensor",
    "allow.auto.create.topics": ": reading must not create topics",
}


def contradictions(settings: Settings) -> list[str]:
    found = []
    scicat = settings.scicat
    if scicat.username and not scicat.password.get_secret_value():
        found.append("scicat.password: is missing, and scicat.username is given.")
    if scicat.login == "oidc" and not scicat.oidc_token_file.startswith("/"):
        found.append("scicat.oidc_token_file: must be an absolute path, because scicat.login is oidc.")
    if scicat.login == "ldap" and not scicat.username:
        found.append("scicat.username: is missing, and scicat.login is ldap.")
    found += [
        f"scicat.api_endpoints.{name}: begins with v{version}, and SciCat's API has v3 and v4 only."
        for name, path in scicat.api_endpoints
        if (version := version_of(path)) not in {None, 3, 4}
    ]
    found += [
        f"scicat.api_endpoints.{name}: must be a path on the server of scicat.host, which our token is for."
        for name, path in scicat.api_endpoints
        if name != "health" and "://" in path
    ]
    if scicat.api == "v4" and not scicat.has_versions:
        found.append("scicat.host: must end with /api or /api/v3, so that the v4 API is found beside it.")
    handling = settings.ingestion.file_handling
    if handling.data_directory and not handling.data_directory.startswith("/"):
        found.append("ingestion.file_handling.data_directory: must be an absolute path.")
    found += [
        f"reconcile.roots: {root} must be an absolute path."
        for root in settings.reconcile.roots
        if not root.startswith("/")
    ]
    token = settings.health_check.announce_token.get_secret_value()
    if 0 < len(token) < SHORTEST_TOKEN:
        found.append(
            f"health_check.announce_token: has fewer than {SHORTEST_TOKEN} characters and can be guessed."
        )
    if settings.kafka.dead_letter_topic in settings.kafka.topics:
        found.append(
            "kafka.dead_letter_topic: is one of kafka.topics, so that it would be read indefinitely."
        )
    if settings.events.topic and settings.events.topic in settings.kafka.topics:
        found.append("events.topic: is one of kafka.topics, so that events would be read as announcements.")
    if settings.events.topic and not settings.kafka.bootstrap_servers:
        found.append("kafka.bootstrap_servers: is missing, and events.topic is given.")
    found += [
        f"kafka.options.{name}: cannot be set here{instead}."
        for name, instead in _OWN_KAFKA_OPTIONS.items()
        if name in settings.kafka.options
    ]
    if settings.kafka.topics and not settings.kafka.bootstrap_servers:
        found.append("kafka.bootstrap_servers: is missing, and kafka.topics are given.")
    email = settings.notifications.email
    if email.host:
        found += [
            f"notifications.email.{key}: is missing, and notifications.email.host is given."
            for key in ("sender", "recipients")
            if not getattr(email, key)
        ]
    if email.username and not email.password.get_secret_value():
        found.append("notifications.email.password: is missing, and notifications.email.username is given.")
    return found


def unknown_words(raw: dict[str, Any]) -> Iterator[str]:
    yield from _unknown(raw, Settings, "")
    handling = raw.get("ingestion", {}).get("file_handling", {})
    if (path_type := handling.get("file_path_type", "relative")) not in PATH_TYPES:
        meant = suggestion(path_type, PATH_TYPES) or "."
        yield (
            "ingestion.file_handling.file_path_type is neither relative nor absolute, and is taken for "
            f"absolute{meant}"
        )


def doubtful_settings(raw: dict[str, Any], settings: Settings) -> list[str]:
    found = []
    if settings.logging.graylog and not settings.logging.graylog_host:
        found.append("logging.graylog_host is empty: no Graylog server gets our messages.")
    for name in ("proposals", "instruments", "samples"):
        path = str(raw.get("scicat", {}).get("api_endpoints", {}).get(name, ""))
        if version_of(path) == 4:
            asked = getattr(settings.scicat.api_endpoints, name)
            found.append(f"scicat.api_endpoints.{name}: {path} is not there; {asked} is asked instead.")
    if not settings.scicat.verify:
        found.append("scicat.verify is false: anybody between here and the catalogue can read our token.")
    if not (settings.scicat.token.get_secret_value() or settings.scicat.logs_in):
        found.append("scicat: neither token nor username is given, so nothing can be registered.")
    found += _readable_by_others(settings)
    if not settings.kafka.topics:
        found.append("kafka.topics is empty: no announcement will be read.")
    email = settings.notifications.email
    if email.host and email.username and email.security == "none":
        found.append("notifications.email.security is none: anybody on the way can read its password.")
    return found


def _readable_by_others(settings: Settings) -> Iterator[str]:
    """Where a password or token travels so that others can read it, or is not used at all."""
    kafka, scicat = settings.kafka, settings.scicat
    protocol = kafka.security_protocol.lower()
    if kafka.sasl_password.get_secret_value() and protocol == "sasl_plaintext":
        yield "kafka.security_protocol is sasl_plaintext: anybody on the way to Kafka can read the password."
    if kafka.sasl_username and not protocol.startswith("sasl"):
        yield (
            f"kafka.sasl_username is given, and security_protocol is {protocol or 'empty'}: there is no "
            "login, and everything can be read on the way. Use sasl_ssl."
        )
    health = settings.health_check
    if health.announce_token.get_secret_value() and health.host not in _THIS_MACHINE:
        yield (
            f"health_check.host is {health.host}: anybody on the way can read announce_token. Let it be "
            "127.0.0.1, with a reverse proxy that speaks https."
        )
    receiver = urlsplit(settings.events.webhook.get_secret_value())
    has_token = settings.events.webhook_token.get_secret_value()
    if has_token and receiver.scheme == "http" and receiver.hostname not in _THIS_MACHINE:
        yield "events.webhook begins with http://: anybody on the way to it can read events.webhook_token."
    host = urlsplit(scicat.host)
    has_login = scicat.token.get_secret_value() or scicat.logs_in
    if has_login and host.scheme == "http" and host.hostname not in _THIS_MACHINE:
        yield "scicat.host begins with http://: anybody on the way to SciCat can read our token."


def _unknown(raw: dict[str, Any], model: type[BaseModel], place: str) -> Iterator[str]:
    if model.model_config.get("extra") == "allow":
        return
    for key, value in raw.items():
        where = f"{place}.{key}".lstrip(".")
        field = model.model_fields.get(key)
        if field is None:
            meant = suggestion(key, model.model_fields) or "."
            yield f"{where} is not a known key and has no effect{meant}"
        elif isinstance(value, dict) and _is_section(field.annotation):
            yield from _unknown(value, field.annotation, where)


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
