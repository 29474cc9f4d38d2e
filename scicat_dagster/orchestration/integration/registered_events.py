"""The sensor that sends an event for each dataset that was registered.

The materializations of ``raw_dataset`` are the events, and the cursor says which of them each receiver has
got. So nothing is stored in vain, a registration never waits for a receiver, and whatever breaks between
sending and storing the cursor sends an event once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import BaseModel, ConfigDict

from scicat_dagster.config.models import EventSettings, KafkaSettings
from scicat_dagster.errors import IngestionError
from scicat_dagster.notifications.registered import Receiver, RegisteredEvent, receivers
from scicat_dagster.orchestration.facility import Facility, facility_in
from scicat_dagster.orchestration.integration.progress import Progress
from scicat_dagster.orchestration.metadata import entry_in
from scicat_dagster.orchestration.names import Names
from scicat_dagster.orchestration.partitions import path_of
from scicat_dagster.orchestration.tags import (
    INSTRUMENT,
    NO_INSTRUMENT,
    NO_PROPOSAL,
    NUMBER_OF_FILES,
    OVERSIGHT,
    OWNERS,
    PAGE,
    PID,
    PROPOSAL,
    RAW_DATASET,
    SCHEMA,
    SCHEMA_ID,
    SIZE,
)

MOST_EVENTS_PER_TICK = 200
"""For each receiver."""


class EventsCursor(BaseModel):
    """Which events each receiver has got, by its name."""

    model_config = ConfigDict(frozen=True)

    receivers: dict[str, Progress] = {}

    @classmethod
    def parse(cls, cursor: str | None) -> EventsCursor:
        """The progress that a cursor holds."""
        return cls.model_validate_json(cursor) if cursor else cls()


def registered_events_sensor(
    settings: EventSettings, kafka: KafkaSettings, names: Names
) -> dg.SensorDefinition:
    """The sensor; on from the start where the configuration has a receiver."""
    is_wanted = bool(receivers(settings, kafka))

    @dg.sensor(
        name=names.name("registered_events_sensor"),
        required_resource_keys={names.facility},
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING if is_wanted else dg.DefaultSensorStatus.STOPPED,
        owners=OWNERS,
        tags=OVERSIGHT,
        description="Sends an event for each registered dataset to the receivers of the section `events`, at "
        "least once. A receiver that is away gets them when it is back; one that is new gets those of "
        "datasets that are registered from then on.",
    )
    def sensor(context: dg.SensorEvaluationContext, **_: Any) -> dg.SensorResult | dg.SkipReason:
        facility = facility_in(context, names)
        found = receivers(facility.settings.events, facility.settings.kafka)
        if not found:
            return dg.SensorResult(
                skip_reason="The configuration names no receiver in the section events.",
                cursor=EventsCursor().model_dump_json(),
            )
        before = EventsCursor.parse(context.cursor)
        after: dict[str, Progress] = {}
        failures: list[IngestionError] = []
        said: list[str] = []
        for receiver in found:
            progress = before.receivers.get(receiver.name)
            if progress is None:
                after[receiver.name] = _from_now_on(context.instance, names)
                continue
            after[receiver.name], sent, failed = _told(context.instance, facility, receiver, progress)
            said.append(f"{receiver.name}: {sent} events")
            failures += failed
        for failure in failures:
            context.log.error(str(failure))
        if failures and after == before.receivers:
            # There is nothing to store, so that the tick may fail for all to see.
            raise failures[0]
        return dg.SensorResult(
            skip_reason="; ".join([*said, *map(str, failures[:3])]) or "From now on events are sent.",
            cursor=EventsCursor(receivers=after).model_dump_json(),
        )

    return sensor


def _from_now_on(instance: dg.DagsterInstance, names: Names) -> Progress:
    latest = instance.fetch_materializations(names.key(RAW_DATASET), limit=1).records
    return Progress(settled=latest[0].storage_id if latest else 0)


def _told(
    instance: dg.DagsterInstance, facility: Facility, receiver: Receiver, progress: Progress
) -> tuple[Progress, int, list[IngestionError]]:
    """Tell a receiver what it has not got: its progress, how many events it has got, and what went wrong."""
    asset = facility.names.key(RAW_DATASET)
    behind, records = progress.seen(asset, instance.fetch_materializations, MOST_EVENTS_PER_TICK)
    events = [(record, _event(record, facility)) for record in records]
    to_send = [(record, event) for record, event in events if event is not None]
    delivery = receiver.send([event for _, event in to_send]) if to_send else None
    # A materialization without a dataset was reported by a person.
    done = [record.storage_id for record, event in events if event is None]
    if delivery is None:
        return progress.after(behind, done), 0, []
    done += [to_send[place][0].storage_id for place in delivery.delivered]
    return progress.after(behind, done), len(delivery.delivered), delivery.failures


def _event(record: dg.EventLogRecord, facility: Facility) -> RegisteredEvent | None:
    """What a materialization says; None where it says of no dataset."""
    event, key = record.asset_materialization, record.partition_key
    if event is None or key is None or PID not in event.metadata:
        return None
    facts = event.metadata
    settings = facility.settings
    return RegisteredEvent(
        id="/".join(filter(None, (record.run_id, key, entry_in(facts)))),
        facility=settings.id,
        pid=str(facts[PID].value),
        file=path_of(key, settings.ingestion.file_handling.data_directory),
        partition_key=key,
        entry=entry_in(facts) or None,
        page=_text(facts, PAGE),
        instrument=_text(facts, INSTRUMENT, unless=NO_INSTRUMENT),
        proposal=_text(facts, PROPOSAL, unless=NO_PROPOSAL),
        number_of_files=_number(facts, NUMBER_OF_FILES),
        size_in_bytes=_number(facts, SIZE),
        schema_name=_text(facts, SCHEMA),
        schema_id=_text(facts, SCHEMA_ID),
        run_id=record.run_id,
        registered_at=datetime.fromtimestamp(record.timestamp, UTC),
    )


def _text(facts: Mapping[str, dg.MetadataValue], name: str, unless: str = "") -> str | None:
    value = str(facts[name].value) if name in facts else ""
    return None if value in {"", unless} else value


def _number(facts: Mapping[str, dg.MetadataValue], name: str) -> int | None:
    value: Any = facts[name].value if name in facts else None
    return value if isinstance(value, int) else None
