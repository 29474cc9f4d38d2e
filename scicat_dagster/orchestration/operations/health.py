"""Is Dagster alive? Its database, daemons, sensors, schedules, queue and disk.

Everything is read from Dagster's own records, in few queries that do not grow with the number of files.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import time

import dagster as dg

from scicat_dagster.config.current import CurrentConfiguration
from scicat_dagster.dagster_internals import TickStatus
from scicat_dagster.diagnostics.checkup import Check
from scicat_dagster.errors import TransientError
from scicat_dagster.orchestration.configuration_versions import reported_version
from scicat_dagster.orchestration.ingest.kafka_checks import failing_checks
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.operations.instigators import (
    failure_of_tick,
    instigators,
    is_gone,
    last_sign,
)
from scicat_dagster.orchestration.tags import WRDN_SENSOR
from scicat_dagster.wording import numbered

LONGEST_SILENCE = timedelta(minutes=10)
"""Of a daemon: a busy one does not find the time to say that it lives. Dagster itself waits half an hour."""

LONGEST_PAUSE = timedelta(minutes=2)
"""Between two ticks of the sensor, which come every few seconds, and between two signs of any daemon."""

LONGEST_TICK = timedelta(minutes=10)
"""Of the sensor: requesting 1000 files in a large instance takes some minutes."""

LONGEST_STANDSTILL = timedelta(minutes=5)
"""While runs wait and none is begun or ended."""

LEAST_FREE_BYTES = 1_000_000_000
"""Below that a burst may fill the disk within minutes, and the database with it."""

_START_DAEMON = (
    "Start dagster-daemon and the code server (`dagster dev`, or `deploy/ctl FOLDER start`), or see in their "
    "output why they ended; Deployment → Daemons shows the daemons."
)

_RESTART = "Restart Dagster: `deploy/ctl FOLDER restart`, or end `dagster dev` and start it again."

_FAILED_TICK = "It is tried again by itself. Its ticks in Dagster, under Automation, tell more."

_WAITING = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]

_BEGUN = [
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]


class Home:
    """The Dagster instance, opened on first use: its database may be away when we start."""

    def __init__(self, opened: Callable[[], dg.DagsterInstance]) -> None:
        self._open = opened
        self._lock = threading.Lock()
        self._instance: dg.DagsterInstance | None = None

    def instance(self) -> dg.DagsterInstance:
        """The instance.

        Raises
        ------
        TransientError
            It cannot be opened.
        """
        with self._lock:
            if self._instance is None:
                try:
                    self._instance = self._open()
                except Exception as error:  # noqa: BLE001 - a database that is away may raise anything
                    # The words of a database may hold its address with a password.
                    raise TransientError(
                        f"The Dagster instance cannot be opened: {type(error).__name__}.",
                        remedy="See that dagster.yaml in DAGSTER_HOME is right and its database answers.",
                    ) from None
            return self._instance


def dagster_checks(
    home: Home, current: CurrentConfiguration, names: Names = UNPREFIXED
) -> dict[str, Callable[[], Check]]:
    """The checks of Dagster, and of what it works with."""
    return {
        "configuration": lambda: configuration_check(home.instance(), current, names=names),
        **work_checks(home.instance, names),
        "topics": lambda: topics_check(home.instance(), names=names),
        "automation": lambda: automation_check(home.instance(), names=names),
        "runs": lambda: runs_check(home.instance()),
        "disk": lambda: disk_check(Path(home.instance().root_directory)),
    }


def work_checks(
    instance: Callable[[], dg.DagsterInstance], names: Names = UNPREFIXED
) -> dict[str, Callable[[], Check]]:
    """The checks of what reads announcements and starts runs; without these nothing works on files."""
    return {
        "daemons": lambda: daemons_check(instance()),
        "sensor": lambda: sensor_check(instance(), names=names),
    }


def daemons_check(instance: dg.DagsterInstance, now: float | None = None) -> Check:
    """Whether every daemon that the instance needs has said lately that it lives."""
    now = time() if now is None else now
    silent = []
    failing = []
    statuses = instance.get_daemon_statuses()
    beats = [status.last_heartbeat.timestamp for status in statuses.values() if status.last_heartbeat]
    if _none_lives(beats, now):
        last = f"the last one was heard of {_ago(now - max(beats))} ago" if beats else "none has ever run"
        words = f"No daemon lives ({last}): nothing works on files."
        return Check(name="daemons", ok=False, words=words, remedy=_START_DAEMON)
    for name, status in sorted(statuses.items()):
        heartbeat = status.last_heartbeat
        if heartbeat is None:
            silent.append(f"{name} has never run")
        elif now - heartbeat.timestamp > LONGEST_SILENCE.total_seconds():
            silent.append(f"{name} was last heard of {_ago(now - heartbeat.timestamp)} ago")
        elif heartbeat.errors:
            failing.append(name)
    if silent:
        return Check(name="daemons", ok=False, words=f"{'; '.join(silent)}.", remedy=_START_DAEMON)
    words = f"All {len(statuses)} daemons live."
    if failing:
        words += f" Errors of {', '.join(failing)} are under Deployment → Daemons."
    return Check(name="daemons", ok=True, words=words)


def _none_lives(beats: Sequence[float], now: float) -> bool:
    """Of the daemons that were last heard of then: one may be busy, all of them are not at once."""
    return not beats or now - max(beats) > LONGEST_PAUSE.total_seconds()


def _of_daemons(check: Check, instance: dg.DagsterInstance, now: float) -> Check:
    """The same, and that it follows of the daemons where none lives."""
    statuses = instance.get_daemon_statuses().values()
    beats = [status.last_heartbeat.timestamp for status in statuses if status.last_heartbeat]
    return check.model_copy(update={"cause": "daemons"}) if _none_lives(beats, now) else check


def sensor_check(instance: dg.DagsterInstance, now: float | None = None, names: Names = UNPREFIXED) -> Check:
    """Whether the sensor that reads Kafka is turned on, and its last tick was lately and well."""
    now = time() if now is None else now
    name = names.name(WRDN_SENSOR)
    found = next((one for one in instigators(instance) if one.state.name == name), None)
    if found is None or found.latest is None:
        never = Check(name="sensor", ok=False, words=f"{name} has never run.", remedy=_START_DAEMON)
        return _of_daemons(never, instance, now)
    if not found.state.is_running:
        remedy = "Turn it on in Dagster under Automation."
        return Check(name="sensor", ok=False, words=f"{name} is turned off.", remedy=remedy)
    words = f"{name} is turned on; its last tick began {_ago(now - found.latest.timestamp)} ago"
    if found.latest.status is TickStatus.STARTED:
        late = now - found.latest.timestamp > LONGEST_TICK.total_seconds()
        words += " and is not finished."
    else:
        late = now - last_sign(found.latest) > LONGEST_PAUSE.total_seconds()
        words += "."
    if late:
        words += " New announcements are not read."
        silent = Check(name="sensor", ok=False, words=words, remedy=_START_DAEMON)
        return _of_daemons(silent, instance, now)
    if found.failed is not None:
        return Check(name="sensor", ok=False, words=failure_of_tick(found), remedy=_FAILED_TICK)
    return Check(name="sensor", ok=True, words=words)


def topics_check(instance: dg.DagsterInstance, now: float | None = None, names: Names = UNPREFIXED) -> Check:
    """Whether the sensor can read every topic, and messages do not wait for long.

    What it said last is worth nothing when it does not work.
    """
    failing = failing_checks(instance, names)
    if failing:
        remedy = "See the checks of kafka_lag; `scicat-dagster messages skip` passes a message over."
        return Check(name="topics", ok=False, words=" ".join(failing.values()), remedy=remedy)
    for work in (daemons_check(instance, now), sensor_check(instance, now, names)):
        if not work.ok:
            words = f"Whether topics are read is not known. {work.words}"
            return Check(name="topics", ok=False, words=words, remedy=work.remedy, cause=work.name)
    return Check(name="topics", ok=True, words="Every topic is read.")


def automation_check(
    instance: dg.DagsterInstance, now: float | None = None, names: Names = UNPREFIXED
) -> Check:
    """Whether the last ticks of all other sensors and schedules that are turned on were well."""
    now = time() if now is None else now
    others = [
        found
        for found in instigators(instance)
        if found.state.is_running
        and names.has(found.state.name)
        and found.state.name != names.name(WRDN_SENSOR)
    ]
    failing = [found for found in others if found.failed is not None and not is_gone(found, now)]
    if failing:
        words = " ".join(failure_of_tick(found) for found in failing)
        return Check(name="automation", ok=False, words=words, remedy=_FAILED_TICK)
    return Check(name="automation", ok=True, words=f"{len(others)} other sensors and schedules are well.")


def runs_check(instance: dg.DagsterInstance, now: float | None = None) -> Check:
    """Whether runs that wait are begun: a file that is announced now would wait as well."""
    now = time() if now is None else now
    oldest = instance.get_run_records(dg.RunsFilter(statuses=_WAITING), limit=1, ascending=True)
    if not oldest:
        return Check(name="runs", ok=True, words="No run waits.")
    waited = now - oldest[0].create_timestamp.timestamp()
    number = instance.get_runs_count(dg.RunsFilter(statuses=_WAITING))
    words = f"Waiting: {numbered(number, 'run')}, the oldest for {_ago(waited)}"
    # A long queue takes its time; what matters is that it moves.
    since = datetime.fromtimestamp(now - LONGEST_STANDSTILL.total_seconds(), UTC)
    moving = instance.get_run_records(dg.RunsFilter(statuses=_BEGUN, updated_after=since), limit=1)
    if moving or waited < LONGEST_STANDSTILL.total_seconds():
        return Check(name="runs", ok=True, words=f"{words}.")
    words += f", and none was begun or ended for {_ago(LONGEST_STANDSTILL.total_seconds())}."
    remedy = "See that the workers run, that SciCat accepts our login, and what the running ones are at."
    return _of_daemons(Check(name="runs", ok=False, words=words, remedy=remedy), instance, now)


def disk_check(folder: Path, least_free_bytes: int = LEAST_FREE_BYTES) -> Check:
    """Whether there is room where Dagster keeps its records."""
    usage = shutil.disk_usage(folder)
    words = f"{usage.free / 1e9:.1f} GB are free for {folder}."
    is_enough = usage.free > least_free_bytes
    return Check(name="disk", ok=is_enough, words=words, remedy="Make room there; see retention.days.")


def configuration_check(
    instance: dg.DagsterInstance,
    current: CurrentConfiguration,
    now: float | None = None,
    names: Names = UNPREFIXED,
) -> Check:
    """Whether the code server works with the configuration file as it is on disk."""
    now = time() if now is None else now
    name, version = "configuration", current.read().version
    if (broken := current.broken) is not None:
        words = f"{broken.what} The last good version stays in force."
        return Check(name=name, ok=False, words=words, remedy=broken.remedy)
    reported = reported_version(instance, names)
    if reported is None:
        return Check(name=name, ok=True, words=f"{current.read().path} can be used.")
    if reported.hash != version.hash:
        words = f"On disk is the version {version}; Dagster works with {reported.hash}."
        late = now - version.modified_at.timestamp() > LONGEST_PAUSE.total_seconds()
        return Check(name=name, ok=not late, words=words, remedy=_START_DAEMON)
    if not reported.is_as_on_disk:
        return Check(name=name, ok=False, words=reported.description, remedy=_RESTART)
    return Check(name=name, ok=True, words=f"The version {version} is in force.")


def _ago(seconds: float) -> str:
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
