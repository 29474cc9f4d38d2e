"""How the service is doing today, in one place: for the asset ``today`` and the command ``status``.

Numbers of the day begin at midnight, local time. Whether a dependency answers is asked when somebody wants to
know; since when it is away is what ``today_sensor`` has seen.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, takewhile
from typing import Any

import dagster as dg
from pydantic import BaseModel, ConfigDict

from scicat_dagster.diagnostics.checkup import Check
from scicat_dagster.errors import without_file
from scicat_dagster.orchestration.events import events_after
from scicat_dagster.orchestration.failures.failed_files import FailedFile, unregistered_files
from scicat_dagster.orchestration.ingest.assets import LAG_INTERVAL
from scicat_dagster.orchestration.ingest.jobs import announced_at
from scicat_dagster.orchestration.ingest.rejected_messages import rejections
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.operations.health import LONGEST_TICK
from scicat_dagster.orchestration.past_files.in_flight import AT_WORK, UNFINISHED
from scicat_dagster.orchestration.run_starts.unended import reported_unended
from scicat_dagster.orchestration.tags import (
    INGESTION,
    INSTRUMENT,
    KAFKA_LAG,
    LAG_BY_TOPIC,
    PURPOSE_RUN_TAG,
    RAW_DATASET,
    SECONDS_SINCE_MESSAGE,
    STATUS,
    TODAY,
)
from scicat_dagster.wording import local

_MOST_REJECTED = 1000
"""Messages that are counted; more of them mean that something is wrong with whoever writes them."""

_UNKNOWN = "unknown"

LONGEST_KNOWN_LAG = LAG_INTERVAL + LONGEST_TICK
"""How long what wrdn_sensor said of the lag is believed: a tick of its may be due, and a long one."""


class Dependency(BaseModel):
    """Something outside that the service needs, and since when it does not answer."""

    model_config = ConfigDict(frozen=True)

    name: str
    ok: bool
    what: str
    what_to_do: str = ""
    away_since: datetime | None = None

    @property
    def state(self) -> str:
        """Whether it answers, in a few words."""
        if self.away_since is None:
            return "ok"
        return f"away since {local(self.away_since)}"


class ReasonToday(BaseModel):
    """How many unregistered files have failed for a reason."""

    model_config = ConfigDict(frozen=True)

    reason: str
    files: int
    waiting_for_retry: int = 0
    """Those of the files that are tried again without anybody doing anything."""


class InstrumentToday(BaseModel):
    """The numbers of one instrument."""

    model_config = ConfigDict(frozen=True)

    instrument: str
    registered: int
    failed: int
    waiting_for_retry: int = 0
    median_seconds: float | None


class Today(BaseModel):
    """How the service is doing; facilities script its JSON, so its keys stay as they are."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    since: datetime
    """When the day began, for the numbers that are the day's: registered, rejected and seconds."""
    registered: int
    queued: int
    running: int
    failed: int
    """Files, and samples of files, that need manual intervention, since whenever."""
    waiting_for_retry: int
    """Files that failed and are tried again without anybody doing anything."""
    rejected: int
    """Messages that led to no file."""
    dry_runs: int = 0
    """Files that are not registered because their runs were dry runs, since whenever."""
    unended_runs: int = 0
    """Runs that started and never ended, as their check last found."""
    unread: int | None
    """Messages still to be read, as wrdn_sensor last said; None where it has not said so lately."""
    oldest_unregistered: datetime | None
    """When the oldest file was announced that is neither registered nor dismissed."""
    median_seconds: float | None
    """From the message to the registration, of the files that were registered today."""
    p95_seconds: float | None
    reasons: tuple[ReasonToday, ...] = ()
    instruments: tuple[InstrumentToday, ...] = ()
    dependencies: tuple[Dependency, ...] = ()
    dagster: tuple[Check, ...] = ()
    """Whether Dagster's daemons and its sensor work; only somebody outside of them can tell."""
    configuration: str = ""
    """The path of the configuration that this is about."""
    dagster_home: str = ""
    """The folder of the Dagster instance that it comes from."""

    @property
    def waiting(self) -> int:
        """Files that will be registered without anybody doing anything."""
        return self.queued + self.running + self.waiting_for_retry

    @property
    def is_read(self) -> bool:
        """Whether somebody reads the messages, as far as was asked."""
        return all(check.ok for check in self.dagster)


@dataclass(frozen=True)
class Registered:
    """One file that was registered."""

    instrument: str
    seconds: float | None


class Registrations:
    """The day's registrations, of which each call reads only those that are new."""

    def __init__(self, names: Names = UNPREFIXED) -> None:
        self._asset = names.key(RAW_DATASET)
        self._day: datetime | None = None
        self._read = 0
        self._found: dict[str, Registered] = {}

    def since(self, instance: dg.DagsterInstance, day: datetime) -> list[Registered]:
        """The files that were registered since the day began."""
        if day != self._day:
            # What was read is not of this day: reading goes on after it.
            self._day, self._found = day, {}
        new = events_after(self._asset, self._read, day.timestamp(), instance.fetch_materializations)
        for record in new:
            self._read = record.storage_id
            self._found[record.partition_key or ""] = _registered(record)
        return list(self._found.values())


def today(
    instance: dg.DagsterInstance,
    checks: Iterable[Check],
    away: Mapping[str, datetime],
    registrations: Registrations,
    now: datetime | None = None,
    names: Names = UNPREFIXED,
    dagster: Iterable[Check] = (),
    configuration: str = "",
) -> Today:
    """How the service is doing.

    Parameters
    ----------
    checks
        What the dependencies answer now.
    away
        Since when those that do not answer are known to be away.
    registrations
        Kept by whoever asks again and again.
    dagster
        What Dagster's daemons and its sensor are doing, where somebody else than these asks.
    configuration
        The path of the facility's configuration, to be shown.
    """
    now = now or datetime.now(UTC)
    day = now.astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    working = tuple(dagster)
    registered = registrations.since(instance, day)
    unregistered = unregistered_files(instance, now, names)
    failed = unregistered.failed
    for_people = [file for file in failed if file.needs_manual_intervention]
    running = _count(instance, AT_WORK, names)
    seconds = [file.seconds for file in registered if file.seconds is not None]
    return Today(
        at=now,
        since=day,
        registered=len(registered),
        queued=_count(instance, UNFINISHED, names) - running,
        running=running,
        failed=len(for_people),
        waiting_for_retry=len(failed) - len(for_people),
        rejected=_rejected(instance, day, names),
        dry_runs=len(unregistered.dry_runs),
        unended_runs=len(reported_unended(instance, names)),
        unread=_unread(instance, now, names) if all(check.ok for check in working) else None,
        oldest_unregistered=_oldest(instance, failed, names),
        median_seconds=_percentile(seconds, 50),
        p95_seconds=_percentile(seconds, 95),
        reasons=_reasons(failed),
        instruments=_instruments(registered, failed),
        dependencies=tuple(
            Dependency(
                name=check.name,
                ok=check.ok,
                what=check.words,
                what_to_do="" if check.ok else check.remedy,
                away_since=None if check.ok else away.get(check.name, now),
            )
            for check in checks
        ),
        dagster=working,
        configuration=configuration,
        dagster_home=instance.root_directory,
    )


def as_text(found: Today) -> str:
    """Everything for a person."""
    seconds = f"median {_duration(found.median_seconds)}, 95th percentile {_duration(found.p95_seconds)}"
    unread = "unknown" if found.unread is None else found.unread
    rows: list[tuple[str, object]] = [
        ("registered today", found.registered),
        ("message to dataset", seconds),
        ("queued", found.queued),
        ("running", found.running),
        ("waiting for retry", found.waiting_for_retry),
        ("failed", found.failed),
        ("oldest unregistered", _oldest_in_words(found)),
        ("unread messages", unread),
        ("rejected messages today", found.rejected),
    ]
    if found.dry_runs:
        rows.append(("dry runs only", f"{found.dry_runs} (not registered; see failures --dry-runs)"))
    if found.unended_runs:
        rows.append(("runs that never ended", found.unended_runs))
    lines = [local(found.at), "", *_not_working(found.dagster), *_about(found)]
    lines += [f"{name:<24}{value}" for name, value in rows]
    if found.instruments:
        lines += ["", f"{'instrument':<24}{'registered':>12}{'failed':>8}{'for retry':>11}{'median':>10}"]
    for each in found.instruments:
        numbers = f"{each.registered:>12}{each.failed:>8}{each.waiting_for_retry:>11}"
        lines.append(f"{each.instrument:<24}{numbers}{_duration(each.median_seconds):>10}")
    failed = [(each.files - each.waiting_for_retry, each.reason) for each in found.reasons]
    lines += _counts("why files failed", failed)
    waiting = [(each.waiting_for_retry, each.reason) for each in found.reasons]
    lines += _counts("why files wait for a retry", waiting)
    lines += ["", *(f"{each.name:<10}{each.state}\n{'':10}{each.what}" for each in found.dependencies)]
    return "\n".join(lines)


def _not_working(checks: Iterable[Check]) -> list[str]:
    """Above everything else: the numbers do not change while nobody works."""
    failing = [check for check in checks if not check.ok]
    lines = [line for check in failing for line in (f"NOT OK    {check.words}", f"{'':10}{check.remedy}")]
    return [*dict.fromkeys(lines), ""] if lines else []


def _about(found: Today) -> list[str]:
    """Which facility it is: on one machine there may be several, and rehearsals."""
    places = [("configuration", found.configuration), ("DAGSTER_HOME", found.dagster_home)]
    lines = [f"{name:<24}{place}" for name, place in places if place]
    return [*lines, ""] if lines else []


def _oldest_in_words(found: Today) -> str:
    if found.oldest_unregistered is not None:
        return f"announced {local(found.oldest_unregistered)}"
    # A message that nobody has read yet is about a file that is not registered.
    return "unknown" if found.unread or not found.is_read else "none"


def _counts(title: str, counts: Iterable[tuple[int, str]]) -> list[str]:
    lines = [f"{number:>6}  {reason}" for number, reason in counts if number]
    return ["", title, *lines] if lines else []


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def away_since(before: Mapping[str, datetime], checks: Iterable[Check], now: datetime) -> dict[str, datetime]:
    """Which dependencies are away, and since when that is known."""
    return {check.name: before.get(check.name, now) for check in checks if not check.ok}


def reported(instance: dg.DagsterInstance, names: Names = UNPREFIXED) -> Today | None:
    """What ``today_sensor`` reported last; None before its first tick."""
    event = instance.get_latest_materialization_event(names.key(TODAY))
    materialization = event.asset_materialization if event is not None else None
    if materialization is None or STATUS not in materialization.metadata:
        return None
    return Today.model_validate(materialization.metadata[STATUS].value)


def reported_away(instance: dg.DagsterInstance, names: Names = UNPREFIXED) -> dict[str, datetime]:
    """Since when which dependencies are away, as ``today_sensor`` reported it last."""
    last = reported(instance, names)
    known = last.dependencies if last is not None else ()
    return {each.name: each.away_since for each in known if each.away_since is not None}


def _registered(record: dg.EventLogRecord) -> Registered:
    metadata = record.asset_materialization.metadata if record.asset_materialization is not None else {}
    instrument = metadata[INSTRUMENT].value if INSTRUMENT in metadata else _UNKNOWN
    seconds: Any = metadata[SECONDS_SINCE_MESSAGE].value if SECONDS_SINCE_MESSAGE in metadata else None
    return Registered(str(instrument), seconds)


def _count(instance: dg.DagsterInstance, statuses: Sequence[dg.DagsterRunStatus], names: Names) -> int:
    """Runs that register files; a batch run counts as one."""
    return instance.get_runs_count(_ingestion(statuses, names))


def _ingestion(statuses: Sequence[dg.DagsterRunStatus], names: Names) -> dg.RunsFilter:
    return dg.RunsFilter(statuses=list(statuses), tags={PURPOSE_RUN_TAG: names.name(INGESTION["purpose"])})


def _rejected(instance: dg.DagsterInstance, day: datetime, names: Names) -> int:
    latest = islice(rejections(instance, names), _MOST_REJECTED)
    return sum(1 for _ in takewhile(lambda message: message.reported_at >= day, latest))


def _unread(instance: dg.DagsterInstance, now: datetime, names: Names) -> int | None:
    event = instance.get_latest_materialization_event(names.key(KAFKA_LAG))
    materialization = event.asset_materialization if event is not None else None
    if event is None or materialization is None or LAG_BY_TOPIC not in materialization.metadata:
        return None
    if now.timestamp() - event.timestamp > LONGEST_KNOWN_LAG.total_seconds():
        return None
    waiting: Any = materialization.metadata[LAG_BY_TOPIC].value
    return sum(map(int, waiting.values()))


def _oldest(instance: dg.DagsterInstance, failed: Sequence[FailedFile], names: Names) -> datetime | None:
    times = [announced_at(file.run_config, names) or file.since for file in failed if not file.is_sample]
    for record in instance.get_run_records(_ingestion(UNFINISHED, names), limit=1, ascending=True):
        announced = announced_at(record.dagster_run.run_config, names)
        times.append(announced or record.create_timestamp.astimezone(UTC))
    return min(times, default=None)


def _percentile(seconds: Sequence[float], percent: int) -> float | None:
    if len(seconds) < 2:
        return seconds[0] if seconds else None
    return round(statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1], 3)


def _reasons(failed: Sequence[FailedFile]) -> tuple[ReasonToday, ...]:
    waiting: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for file in failed:
        reason = without_file(file.reason, file.file) or file.kind
        counts[reason] += 1
        waiting[reason] += not file.needs_manual_intervention
    return tuple(
        ReasonToday(reason=reason, files=files, waiting_for_retry=waiting[reason])
        for reason, files in counts.most_common()
    )


def _instruments(
    registered: Sequence[Registered], failed: Sequence[FailedFile]
) -> tuple[InstrumentToday, ...]:
    failures: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    for file in failed:
        (failures if file.needs_manual_intervention else waiting)[file.instrument or _UNKNOWN] += 1
    seconds: dict[str, list[float]] = {name: [] for name in (*failures, *waiting)}
    counts: Counter[str] = Counter()
    for each in registered:
        counts[each.instrument] += 1
        seconds.setdefault(each.instrument, []).extend([] if each.seconds is None else [each.seconds])
    return tuple(
        InstrumentToday(
            instrument=name,
            registered=counts[name],
            failed=failures[name],
            waiting_for_retry=waiting[name],
            median_seconds=_percentile(found, 50),
        )
        for name, found in sorted(seconds.items())
    )
