"""Where the runs are stored that have started and whose end was not announced.

They are values in Dagster's database, beside the cursors of its daemons, so that they survive restarts and do
not grow with the number of runs there ever were: an event for each would stay, and the sensor's own cursor is
stored anew with every tick. Only ``wrdn_sensor`` writes the runs, before its tick ends; a tick that is
repeated makes the same of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

import dagster as dg
from pydantic import TypeAdapter, ValidationError

from scicat_dagster.kafka.messages import RunStarted
from scicat_dagster.kafka.started_runs import StartedRuns
from scicat_dagster.orchestration.names import UNPREFIXED, Names

_RUNS = "scicat_dagster/open_runs"

SETTLED = "scicat_dagster/settled_runs"
"""Jobs whose file was registered by another way, which ``run_starts_sensor`` has seen: the file's partition
may be deleted before its run is no longer followed."""

DISMISSED = "scicat_dagster/dismissed_runs"
"""Jobs of which a person does not want to hear again."""

_JOBS = TypeAdapter(frozenset[str])


def follow(
    instance: dg.DagsterInstance,
    started: Sequence[RunStarted],
    ended: Collection[str],
    now: datetime,
    names: Names = UNPREFIXED,
) -> None:
    """Store what has become of the runs; nothing is asked or written where nothing has."""
    if not (started or ended):
        return
    before = started_runs(instance, names)
    after = before.after(started, ended, now)
    if after != before:
        instance.daemon_cursor_storage.set_cursor_values({names.name(_RUNS): after.model_dump_json()})


def started_runs(instance: dg.DagsterInstance, names: Names = UNPREFIXED) -> StartedRuns:
    """The runs that are followed; none where nothing is stored, or it is not ours."""
    text = instance.daemon_cursor_storage.get_cursor_values({names.name(_RUNS)}).get(names.name(_RUNS))
    try:
        return StartedRuns.model_validate_json(text) if text else StartedRuns()
    except ValidationError:
        return StartedRuns()


def noted(instance: dg.DagsterInstance, key: str, names: Names = UNPREFIXED) -> frozenset[str]:
    """The jobs that are noted under a key."""
    text = instance.daemon_cursor_storage.get_cursor_values({names.name(key)}).get(names.name(key))
    try:
        return _JOBS.validate_json(text) if text else frozenset()
    except ValidationError:
        return frozenset()


def note(instance: dg.DagsterInstance, key: str, jobs: Iterable[str], names: Names = UNPREFIXED) -> None:
    """Note jobs under a key, beside those of it whose runs are still followed."""
    before = noted(instance, key, names)
    followed = {run.job_id for run in started_runs(instance, names).open}
    after = frozenset((before | set(jobs)) & followed)
    if after != before:
        instance.daemon_cursor_storage.set_cursor_values({names.name(key): _JOBS.dump_json(after).decode()})
