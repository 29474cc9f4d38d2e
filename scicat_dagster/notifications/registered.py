"""The event ``registered``: what other programs are told of a dataset, and the receivers that get it.

Which datasets these are, and which of them a receiver has been told of, is kept by whoever sends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import GenerateJsonSchema

from scicat_dagster.config.attribute_docs import attribute_docs
from scicat_dagster.config.models import EventSettings, KafkaSettings
from scicat_dagster.errors import IngestionError, PermanentError
from scicat_dagster.kafka.producer import send
from scicat_dagster.notifications.posting import Destination

LONGEST_SECONDS = 20.0
"""Of sending by one receiver at a time: a sensor's tick has a minute."""

MOST_REFUSED = 20
"""Events that a receiver may refuse before it gets no others: they are tried first at each tick."""

_LATER = "It is sent again by itself; look at the network and the receiver if it goes on."

_REFUSED = frozenset({400, 413, 422})
"""Answers that are about the one event, and not about all."""


class RegisteredEvent(BaseModel):
    """A raw dataset that is in the catalogue with its file list."""

    model_config = ConfigDict(frozen=True)

    event: Literal["registered"] = "registered"
    """What has happened."""
    version: Literal[1] = 1
    """Of this form. Fields may be added to it; anything else would be another version."""
    id: str
    """The same whenever the event is sent again."""
    facility: str
    """The `id` of the ingestor's configuration."""
    pid: str
    """Of the dataset in SciCat."""
    file: str
    """The absolute path of the NeXus file."""
    partition_key: str
    """Of the file in Dagster."""
    entry: str | None
    """The name of the NXentry that the dataset is of; null where it is of the whole file."""
    page: str | None
    """The address of the dataset's page in SciCat."""
    instrument: str | None
    """The instrument's name; null where the file does not tell."""
    proposal: str | None
    """The proposal's id; null where there is none."""
    number_of_files: int | None
    """Of the dataset's file list."""
    size_in_bytes: int | None
    """Of all files of the list."""
    schema_name: str | None = Field(serialization_alias="schema")
    """The metadata schema that matched."""
    schema_id: str | None
    """Its id."""
    run_id: str
    """The run in Dagster that registered it."""
    registered_at: datetime
    """When that run recorded it (UTC)."""

    def as_json(self) -> dict[str, Any]:
        """The event as it is sent."""
        return self.model_dump(mode="json", by_alias=True)


def event_schema() -> dict[str, Any]:
    """The JSON Schema of the event."""
    made = RegisteredEvent.model_json_schema(mode="serialization")
    for name, text in attribute_docs(RegisteredEvent).items():
        made["properties"]["schema" if name == "schema_name" else name]["description"] = text
    made["title"] = "Event of scicat_dagster"
    return {"$schema": GenerateJsonSchema.schema_dialect, **made}


@dataclass
class Delivery:
    """What became of some events."""

    delivered: list[int] = field(default_factory=list)
    """By their place among those that were to be sent."""
    failures: list[IngestionError] = field(default_factory=list)


class Receiver(Protocol):
    """A place that events are sent to."""

    @property
    def name(self) -> str:
        """What it is called in the configuration, and in what is stored of it."""

    def send(self, events: Sequence[RegisteredEvent]) -> Delivery:
        """Send the events in their order, as far as that is possible now. Never raises for a receiver."""


def receivers(settings: EventSettings, kafka: KafkaSettings) -> list[Receiver]:
    """The receivers that are configured."""
    found: list[Receiver] = []
    if settings.webhook.get_secret_value():
        found.append(EventWebhook(settings))
    if settings.topic:
        found.append(EventTopic(settings.topic, kafka))
    return found


class EventWebhook:
    """A POST of each event as JSON."""

    name = "webhook"

    def __init__(self, settings: EventSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._destination = Destination(
            "events.webhook", settings.webhook, later=_LATER, token=settings.webhook_token
        )

    def send(self, events: Sequence[RegisteredEvent]) -> Delivery:
        """Send the events; one that the receiver refuses does not hold up the others."""
        made, deadline = Delivery(), self._clock() + LONGEST_SECONDS
        for place, event in enumerate(events):
            if self._clock() > deadline:
                break
            try:
                status = self._destination.post(event.as_json())
                if status in _REFUSED:
                    made.failures.append(_refused(event, status))
                    if len(made.failures) == MOST_REFUSED:
                        break
                    continue
                self._destination.judge(status)
            except IngestionError as error:
                made.failures.append(error)
                break
            made.delivered.append(place)
        return made


def _refused(event: RegisteredEvent, status: int) -> PermanentError:
    return PermanentError(
        f"The server of events.webhook refuses the event of {event.pid} ({status}).",
        remedy="Correct the receiver; `scicat-dagster schema event` prints what it gets. The event is sent "
        "again and again until it is taken.",
    )


class EventTopic:
    """A message for each event on a topic of the facility's brokers, with the pid as its key."""

    name = "topic"

    def __init__(self, topic: str, kafka: KafkaSettings) -> None:
        self._topic, self._kafka = topic, kafka

    def send(self, events: Sequence[RegisteredEvent]) -> Delivery:
        """Send the events; all or none count as delivered."""
        values = [event.model_dump_json(by_alias=True).encode() for event in events]
        try:
            send(self._kafka, self._topic, values, keys=[event.pid.encode() for event in events])
        except IngestionError as error:
            return Delivery(failures=[error])
        return Delivery(delivered=list(range(len(events))))
