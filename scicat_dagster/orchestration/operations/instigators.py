"""Sensors and schedules with their latest ticks, as Dagster records them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import dagster as dg

from scicat_dagster.dagster_internals import InstigatorState, InstigatorTick, InstigatorType, TickStatus

_LONGEST_INTERVAL = timedelta(days=1)
"""Between two ticks of any sensor."""

_LONGEST_QUOTE = 500


@dataclass(frozen=True)
class Instigator:
    """A sensor or schedule; of several by one name, as after a code location was renamed, the latest."""

    state: InstigatorState
    latest: InstigatorTick | None
    failed: InstigatorTick | None
    """The latest finished tick, if it failed: the next one may be under way for most of the time."""


def instigators(instance: dg.DagsterInstance) -> list[Instigator]:
    latest: dict[tuple[InstigatorType, str], Instigator] = {}
    for state in instance.all_instigator_state():
        found = _instigator(instance, state)
        key = (state.instigator_type, state.name)
        if key not in latest or _begun(latest[key]) <= _begun(found):
            latest[key] = found
    return sorted(latest.values(), key=lambda found: found.state.name)


def _instigator(instance: dg.DagsterInstance, state: InstigatorState) -> Instigator:
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=2)
    finished = next((tick for tick in ticks if tick.status is not TickStatus.STARTED), None)
    failed = finished if finished is not None and finished.status is TickStatus.FAILURE else None
    return Instigator(state, ticks[0] if ticks else None, failed)


def _begun(found: Instigator) -> float:
    return found.latest.timestamp if found.latest is not None else 0.0


def is_gone(found: Instigator, now: float) -> bool:
    """Whether it is a sensor of an earlier version: Dagster keeps its state, and it ticks no more."""
    is_sensor = found.state.instigator_type is InstigatorType.SENSOR
    return is_sensor and now - _begun(found) > _LONGEST_INTERVAL.total_seconds()


def failure_of_tick(found: Instigator) -> str:
    assert found.failed is not None  # noqa: S101 - asked of those only that failed
    return f"The last tick of {found.state.name} failed: {_error_of(found.failed)}"


def last_sign(tick: InstigatorTick) -> float:
    return max(tick.timestamp, tick.end_timestamp or 0.0)


def _error_of(tick: InstigatorTick) -> str:
    error = tick.error
    while error is not None and error.cause is not None:
        error = error.cause
    text = error.message.strip().partition("\n")[0] if error is not None else "it does not say why."
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}…"
