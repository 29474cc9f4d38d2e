"""The sensor that tells people what needs them: one message for all that is new, never one for each file.

What a channel was told is in the sensor's cursor, for each channel by itself. When one of two channels fails,
the other is not told again, and the one that failed gets everything later. A channel may be told twice only
if Dagster is killed between sending and storing the cursor.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import BaseModel, ConfigDict, ValidationError

from scicat_dagster.errors import IngestionError, PermanentError
from scicat_dagster.health import Checkup, facility_checks
from scicat_dagster.notifications import Condition, Digest, FailedEntry, channels, digest
from scicat_dagster.orchestration.discovery import files_in_flight
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.failures import LOGIN
from scicat_dagster.orchestration.health import Home, dagster_checks
from scicat_dagster.orchestration.inventory import FailedFile, failed_files, reason_of
from scicat_dagster.orchestration.labels import OVERSIGHT, OWNERS
from scicat_dagster.orchestration.partitions import PARTITION_TAG, REJECTED_MESSAGES
from scicat_dagster.settings import NotificationSettings

PATIENCE = timedelta(hours=1)
"""How long a file may fail and be tried again by itself before anybody is told."""

MOST_REMEMBERED = 1000
"""Files in the cursor of each channel. Of those that are more, only when they failed tells whether they are
news."""

MOST_LOOKED_UP = 200
"""New files whose reasons are read for one message: a tick has a minute."""

_PROMISE = timedelta(hours=1)
_MOST_REJECTED = 1000


class Told(BaseModel):
    """What a channel was told, as far as it is still so."""

    model_config = ConfigDict(frozen=True)

    files: frozenset[str] = frozenset()
    """Short names of the files, at most ``MOST_REMEMBERED``."""
    count: int = 0
    """How many there are, also of those that are not in ``files``."""
    at: datetime | None = None
    """When it was told, if there are more than are in ``files``."""
    repaired: int = 0
    """How many it was told about that were repaired since, which it was not told."""
    conditions: frozenset[str] = frozenset()
    """The names of what is not well."""
    rejected: int | None = None
    """The storage id of the last rejected message; None before anything was looked at."""


class DigestCursor(BaseModel):
    """What each channel was told, by its name."""

    model_config = ConfigDict(frozen=True)

    version: int = 2
    channels: dict[str, Told] = {}

    @classmethod
    def parse(cls, text: str | None) -> "DigestCursor":
        """A cursor as it was stored; nothing stored is that nobody was told anything.

        Raises
        ------
        PermanentError
            The text is none of ours.
        """
        if not text:
            return cls()
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            raise PermanentError(
                "The sensor's cursor is not one that it stored.",
                remedy="Reset it; everybody is then told about all failed files once more.",
            ) from None


@dataclass(frozen=True)
class News:
    """What a channel has to be told."""

    new: tuple[FailedFile, ...]
    still_failed: int
    repaired: int
    if_told: Told
    """What is to be remembered when it is told."""
    if_not: Told
    """What is to be remembered when it is not."""

    @property
    def is_due(self) -> bool:
        """Whether there is something new, or everything is repaired; what is between can wait."""
        return bool(self.new) or (self.repaired > 0 and self.still_failed == 0)


def news(failed: Sequence[FailedFile], under_way: Iterable[str], told: Told, now: datetime) -> News:
    """What is new for a channel that was told this before.

    A file that is worked on is neither repaired nor new: it was failed a moment ago and may be so again.
    """
    was_told = {
        short_name(file.path): file
        for file in failed
        if short_name(file.path) in told.files or _was_due(file, told.at)
    }
    names = {short_name(path) for path in under_way}
    flying = {name for name in told.files if name in names and name not in was_told}
    new = tuple(file for file in failed if _due_at(file) <= now and short_name(file.path) not in was_told)
    still_failed = len(was_told) + len(flying)
    repaired = told.repaired + max(0, told.count - still_failed)
    return News(
        new=new,
        still_failed=still_failed,
        repaired=repaired,
        if_told=_remembered([*was_told.values(), *new], flying, at=now, repaired=0),
        if_not=_remembered(list(was_told.values()), flying, at=told.at, repaired=repaired),
    )


def _remembered(
    files: Sequence[FailedFile], flying: Iterable[str], at: datetime | None, repaired: int
) -> Told:
    # Those first whose time tells less about whether they were told.
    ordered = sorted(files, key=lambda file: file.waits_for_a_person)
    named = list(dict.fromkeys([*sorted(flying), *(short_name(file.path) for file in ordered)]))
    is_too_much = len(named) > MOST_REMEMBERED
    return Told(
        files=frozenset(named[:MOST_REMEMBERED]),
        count=len(named),
        at=at if is_too_much else None,
        repaired=repaired,
    )


def _due_at(file: FailedFile) -> datetime:
    """From when on people are told about a file."""
    is_for_people = file.waits_for_a_person or file.kind == LOGIN
    return file.last if is_for_people else file.since + PATIENCE


def _was_due(file: FailedFile, at: datetime | None) -> bool:
    return at is not None and _due_at(file) <= at


def short_name(path: str) -> str:
    """Eight characters for a file in a cursor, which may not become long."""
    digest_of_path = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return base64.urlsafe_b64encode(digest_of_path).decode()


@dataclass(frozen=True)
class Around:
    """What there is to tell beside failed files."""

    conditions: tuple[Condition, ...]
    rejected: int
    """Messages that led to no file since the channel was told."""
    last_rejected: int
    """The storage id of the last of them."""

    def is_due(self, told: Told) -> bool:
        """Whether a channel that was told this before has to be told something."""
        return self.rejected > 0 or {each.name for each in self.conditions} != told.conditions

    def told(self, told: Told) -> Told:
        """What is to be remembered when it is told."""
        names = frozenset(each.name for each in self.conditions)
        return told.model_copy(update={"conditions": names, "rejected": self.last_rejected})


def not_well(facility: Facility, instance: dg.DagsterInstance) -> tuple[Condition, ...]:
    """What ``health`` would say of the facility, as far as a sensor that ticks can be told by it."""
    checks = {
        **facility_checks(lambda: facility.settings),
        **dagster_checks(Home(lambda: instance), facility.current),
    }
    return tuple(
        Condition(name=check.name, what=check.words, what_to_do=check.remedy)
        for check in Checkup(checks).look().checks
        if not check.ok
    )


def _around(instance: dg.DagsterInstance, conditions: tuple[Condition, ...], told: Told) -> Around:
    if told.rejected is None:
        # What was rejected before anybody was to be told is in the list of messages.
        latest = instance.fetch_observations(REJECTED_MESSAGES, limit=1).records
        return Around(conditions, 0, latest[0].storage_id if latest else 0)
    wanted = dg.AssetRecordsFilter(REJECTED_MESSAGES, after_storage_id=told.rejected)
    records = instance.fetch_observations(wanted, limit=_MOST_REJECTED, ascending=True).records
    return Around(conditions, len(records), records[-1].storage_id if records else told.rejected)


def digest_sensor(
    settings: NotificationSettings,
    look: Callable[[Facility, dg.DagsterInstance], tuple[Condition, ...]] = not_well,
) -> dg.SensorDefinition:
    """The sensor; on from the start where the configuration says whom to tell.

    ``look`` says what is not well.
    """
    is_wanted = bool(channels(settings))

    @dg.sensor(
        name="failure_digest_sensor",
        minimum_interval_seconds=60 * settings.every_minutes,
        default_status=dg.DefaultSensorStatus.RUNNING if is_wanted else dg.DefaultSensorStatus.STOPPED,
        owners=OWNERS,
        tags=OVERSIGHT,
        description="Reports to the channels of the section `notifications` what needs manual intervention, "
        "in one message: files that failed and that are repaired, messages that led to no file, servers "
        "that are away, sensors that fail. Files that are retried are reported after an hour.",
    )
    def failure_digest_sensor(
        context: dg.SensorEvaluationContext, facility: dg.ResourceParam[Facility]
    ) -> dg.SensorResult | dg.SkipReason:
        configured = channels(facility.settings.notifications)
        if not configured:
            return dg.SkipReason("The configuration names no channel in the section notifications.")
        now = datetime.now(UTC)
        before = DigestCursor.parse(context.cursor)
        # Before and after, because files go from one of these to the other while they are read.
        under_way = _under_way(context.instance, now)
        failed = failed_files(context.instance, now)
        under_way |= _under_way(context.instance, now)
        conditions = look(facility, context.instance)
        after: dict[str, Told] = {}
        said: list[str] = []
        failures: list[IngestionError] = []
        for channel in configured:
            told = before.channels.get(channel.name, Told())
            found = news(failed, under_way, told, now)
            around = _around(context.instance, conditions, told)
            kept = {"conditions": told.conditions, "rejected": told.rejected}
            if told.rejected is None:
                kept["rejected"] = around.last_rejected
            after[channel.name] = found.if_not.model_copy(update=kept)
            if not (found.is_due or around.is_due(told)):
                continue
            message = _digest(context.instance, facility.settings.id, found).model_copy(
                update={
                    "conditions": tuple(each for each in conditions if each.name not in told.conditions),
                    "well_again": tuple(sorted(told.conditions - {each.name for each in conditions})),
                    "rejected": around.rejected,
                }
            )
            try:
                channel.send(message)
            except IngestionError as error:
                failures.append(error)
                said.append(f"{channel.name} was not told: {error}")
            else:
                after[channel.name] = around.told(found.if_told)
                said.append(f"{channel.name} was told: {message.subject}")
        for failure in failures:
            context.log.error(str(failure))
        if failures and len(failures) == len(said):
            # Nobody was told, so that the tick may fail for all to see.
            raise failures[0]
        return dg.SensorResult(
            skip_reason="; ".join(said) or f"{len(failed)} failed files, none of them news.",
            cursor=DigestCursor(channels=after).model_dump_json(),
        )

    return failure_digest_sensor


def _digest(instance: dg.DagsterInstance, facility: str, found: News) -> Digest:
    return digest(
        facility,
        [_entry(instance, file) for file in found.new[:MOST_LOOKED_UP]],
        more=max(0, len(found.new) - MOST_LOOKED_UP),
        still_failed=found.still_failed,
        repaired=found.repaired,
    )


def _entry(instance: dg.DagsterInstance, file: FailedFile) -> FailedEntry:
    reason, remedy = reason_of(instance, file)
    return FailedEntry(
        file=file.path, since=file.since, kind=file.kind, reason=reason, what_to_do=remedy, runs=file.runs
    )


def _under_way(instance: dg.DagsterInstance, now: datetime) -> set[str]:
    """Files that are worked on or will be, also those that Dagster has promised to retry right away."""
    runs = instance.get_runs(
        dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.FAILURE],
            tags={"dagster/will_retry": "true"},
            updated_after=now - _PROMISE,
        )
    )
    return files_in_flight(instance) | {
        run.tags[PARTITION_TAG]
        for run in runs
        if PARTITION_TAG in run.tags and "dagster/auto_retry_run_id" not in run.tags
    }
