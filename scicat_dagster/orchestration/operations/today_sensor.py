"""The sensor that sees at once when Kafka, the storage or SciCat goes away, and reports the asset ``today``.

What fails for other reasons is the failure digest's; here is what stops all files alike, and is over by
itself. Since when is kept in the cursor, so that a restart of Dagster does not lose it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import BaseModel, ConfigDict, ValidationError

from scicat_dagster.diagnostics.checkup import Check, Checkup
from scicat_dagster.diagnostics.probes import facility_checks
from scicat_dagster.errors import IngestionError
from scicat_dagster.notifications.channels import Channel, channels
from scicat_dagster.notifications.message import Back, Condition, Digest
from scicat_dagster.orchestration.facility import Facility, facility_in
from scicat_dagster.orchestration.metadata import table
from scicat_dagster.orchestration.names import Names
from scicat_dagster.orchestration.operations.today import Registrations, Today, away_since, today
from scicat_dagster.orchestration.tags import GROUP, OVERSIGHT, OWNERS, STATUS, TODAY

REPORT_INTERVAL = timedelta(minutes=10)
"""How often ``today`` is reported where nothing changes."""

CHANGE_INTERVAL = timedelta(minutes=1)
"""How often it is reported at most while numbers change: each report stays in the database."""

today_asset = dg.AssetSpec(
    TODAY,
    group_name=GROUP,
    kinds={"table"},
    owners=OWNERS,
    tags=OVERSIGHT,
    description="How the service is doing today: files that are registered, queued, running, failed and why, "
    "messages that were rejected, seconds from message to dataset, and whether Kafka, the storage and SciCat "
    "answer. Reported each minute in which a number changes, at once when one of these goes away or is back, "
    "and otherwise every ten minutes; `scicat-dagster status` shows the same at any time.",
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=6 * REPORT_INTERVAL, warn_window=3 * REPORT_INTERVAL
    ),
)


class Seen(BaseModel):
    """What the sensor saw and said so far: its cursor."""

    model_config = ConfigDict(frozen=True)

    away: dict[str, datetime] = {}
    """Since when which dependencies are away."""
    told: dict[str, dict[str, datetime]] = {}
    """The same, as each channel was told."""
    reported_at: datetime | None = None
    """When ``today`` was reported last."""
    reported: str = ""
    """What it was then, as a checksum."""

    @classmethod
    def parse(cls, cursor: str | None) -> "Seen":
        """What a cursor holds; one that is not ours is that nothing was seen."""
        try:
            return cls.model_validate_json(cursor) if cursor else cls()
        except ValidationError:
            return cls()


class Dependencies:
    """Asks whether what the service needs answers, by a login that is kept from tick to tick."""

    def __init__(self) -> None:
        self._asked: tuple[Facility, Checkup] | None = None

    def __call__(self, facility: Facility) -> Sequence[Check]:
        """What each of them answers now."""
        if self._asked is None or self._asked[0] is not facility:
            self._asked = facility, Checkup(facility_checks(lambda: facility.settings))
        return self._asked[1].look().checks


def today_sensor(
    names: Names, look: Callable[[Facility], Sequence[Check]] | None = None
) -> dg.SensorDefinition:
    """The sensor; ``look`` asks the dependencies."""
    look, registrations = look or Dependencies(), Registrations(names)

    @dg.sensor(
        name=names.name("today_sensor"),
        required_resource_keys={names.facility},
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        owners=OWNERS,
        tags=OVERSIGHT,
        description="Asks every half minute whether Kafka, the storage and SciCat answer, and reports the "
        "asset `today`. When one goes away, and when it is back, the channels of the section `notifications` "
        "are told at once.",
    )
    def sensor(context: dg.SensorEvaluationContext, **_: Any) -> dg.SensorResult:
        facility = facility_in(context, names)
        now, before = datetime.now(UTC), Seen.parse(context.cursor)
        checks = look(facility)
        away = away_since(before.away, checks, now)
        path = str(facility.configuration.path)
        found = today(context.instance, checks, away, registrations, now, names, configuration=path)
        told: dict[str, dict[str, datetime]] = {}
        for channel in channels(facility.settings.notifications):
            known = before.told.get(channel.name, {})
            told[channel.name] = _tell(context, channel, known, found, facility)
        content = checksum(found)
        interval = REPORT_INTERVAL if content == before.reported else CHANGE_INTERVAL
        is_late = before.reported_at is None or now - before.reported_at >= interval
        is_due = is_late or away.keys() != before.away.keys()
        after = Seen(
            away=away,
            told=told,
            reported_at=now if is_due else before.reported_at,
            reported=content if is_due else before.reported,
        )
        return dg.SensorResult(
            asset_events=[_event(found, names)] if is_due else [],
            skip_reason=_summary(found),
            cursor=after.model_dump_json(),
        )

    return sensor


def _tell(
    context: dg.SensorEvaluationContext,
    channel: Channel,
    known: Mapping[str, datetime],
    found: Today,
    facility: Facility,
) -> dict[str, datetime]:
    """Tell a channel what it does not know, and say what it knows then."""
    message = news(known, found, facility)
    if message is None:
        return dict(known)
    try:
        channel.send(message)
    except IngestionError as error:
        context.log.warning("%s was not told, and is told at the next tick: %s", channel.name, error)
        return dict(known)
    return {each.name: each.away_since for each in found.dependencies if each.away_since is not None}


def news(known: Mapping[str, datetime], found: Today, facility: Facility) -> Digest | None:
    """The message about what went away and what is back, for a channel that knows what was away."""
    away = [each for each in found.dependencies if each.away_since is not None and each.name not in known]
    back = [each for each in found.dependencies if each.ok and each.name in known]
    if not (away or back):
        return None
    return Digest(
        facility=facility.settings.id,
        new=0,
        still_failed=0,
        repaired=0,
        away=tuple(
            Condition(name=each.name, what=each.what, what_to_do=each.what_to_do, since=each.away_since)
            for each in away
        ),
        back=tuple(Back(name=each.name, since=known[each.name], until=found.at) for each in back),
        waiting=found.waiting,
        dagster_url=facility.settings.notifications.dagster_url,
    )


def checksum(found: Today) -> str:
    """The same for what people would call the same: without the time, and without what servers say."""
    texts = {"dependencies": {"__all__": {"what", "what_to_do"}}}
    content = found.model_dump_json(exclude={"at": True, **texts})
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _summary(found: Today) -> str:
    away = [each.name for each in found.dependencies if not each.ok]
    numbers = f"{found.registered} registered today, {found.waiting} wait, {found.failed} failed"
    return f"{numbers}; away: {', '.join(away)}" if away else f"{numbers}; everything answers"


def _event(found: Today, names: Names) -> dg.AssetMaterialization:
    numbers = {
        "registered": found.registered,
        "queued": found.queued,
        "running": found.running,
        "waiting for retry": found.waiting_for_retry,
        "failed": found.failed,
        "rejected messages": found.rejected,
        "dry runs only": found.dry_runs,
        "runs that never ended": found.unended_runs,
        "unread messages": found.unread,
        "median seconds from message to dataset": found.median_seconds,
        "95th percentile of these seconds": found.p95_seconds,
    }
    oldest = found.oldest_unregistered
    return dg.AssetMaterialization(
        names.key(TODAY),
        metadata={
            **{name: value for name, value in numbers.items() if value is not None},
            **({"oldest unregistered": dg.MetadataValue.timestamp(oldest)} if oldest is not None else {}),
            "dependencies": table(
                ("name", "state", "what"), ((each.name, each.state, each.what) for each in found.dependencies)
            ),
            "why files failed": table(
                ("reason", "files", "of these waiting for retry"),
                ((each.reason, each.files, each.waiting_for_retry) for each in found.reasons),
            ),
            "instruments": table(
                ("instrument", "registered", "failed", "waiting for retry", "median seconds"),
                (
                    (
                        each.instrument,
                        each.registered,
                        each.failed,
                        each.waiting_for_retry,
                        str(each.median_seconds or ""),
                    )
                    for each in found.instruments
                ),
            ),
            STATUS: dg.MetadataValue.json(found.model_dump(mode="json")),
        },
    )
