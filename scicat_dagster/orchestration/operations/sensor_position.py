"""Where the sensor that reads Kafka goes on: passing a message over by hand.

The sensor moves its own cursor; this is for a message that it can neither read nor reject.
"""

from __future__ import annotations

import time

import dagster as dg

from scicat_dagster.dagster_internals import InstigatorState, InstigatorType, SensorInstigatorData, TickStatus
from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.kafka.cursor import Cursor
from scicat_dagster.kafka.messages import Position
from scicat_dagster.orchestration.ingest.rejected_messages import skipped_event
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.tags import WRDN_SENSOR

_TRIES = 20
_PAUSE_SECONDS = 1.0


def skip(instance: dg.DagsterInstance, position: Position, names: Names = UNPREFIXED) -> None:
    """Let the sensor go on behind a message, and keep a note of that in ``rejected_messages``.

    Raises
    ------
    PermanentError
        The sensor is not at this message, or has never run.
    TransientError
        A tick that was under way moved the cursor back each time.
    """
    cursor = _cursor(_state(instance, names))
    at = cursor.offsets.get(position.topic, {}).get(position.partition)
    if at != position.offset:
        raise PermanentError(
            f"The sensor is not at {position}: "
            + (f"it goes on at offset {at} there." if at is not None else "it does not read this partition."),
            remedy="Give the position at which it goes on; only one message is passed over at a time.",
        )
    instance.report_runless_asset_event(skipped_event(position, names))
    for _ in range(_TRIES):
        _move(instance, position, names)
        # A tick that was under way meanwhile stores where it was itself.
        _wait_for_tick(instance, names)
        now = _cursor(_state(instance, names)).offsets.get(position.topic, {}).get(position.partition, 0)
        if now > position.offset:
            return
    raise TransientError(
        "A tick that was under way moved the sensor back each time.",
        remedy="Turn the sensor off in Dagster under Automation, repeat this, and turn it on again.",
    )


def _move(instance: dg.DagsterInstance, position: Position, names: Names) -> None:
    state = _state(instance, names)
    data = state.instigator_data
    cursor = _cursor(state).moved({(position.topic, position.partition): position.offset + 1})
    assert isinstance(data, SensorInstigatorData)  # noqa: S101 - _cursor has looked
    instance.update_instigator_state(state.with_data(data._replace(cursor=cursor.model_dump_json())))


def _wait_for_tick(instance: dg.DagsterInstance, names: Names) -> None:
    """Wait until no tick is under way that began before now."""
    for _ in range(int(60 / _PAUSE_SECONDS)):
        state = _state(instance, names)
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
        if not ticks or ticks[0].status is not TickStatus.STARTED:
            return
        time.sleep(_PAUSE_SECONDS)


def _state(instance: dg.DagsterInstance, names: Names) -> InstigatorState:
    states = [
        state
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        if state.name == names.name(WRDN_SENSOR) and isinstance(state.instigator_data, SensorInstigatorData)
    ]
    if not states:
        raise PermanentError(
            f"{names.name(WRDN_SENSOR)} has never run in this instance.",
            remedy="See that DAGSTER_HOME is the running installation's.",
        )
    return max(states, key=_last_tick)


def _last_tick(state: InstigatorState) -> float:
    data = state.instigator_data
    return (data.last_tick_timestamp or 0.0) if isinstance(data, SensorInstigatorData) else 0.0


def _cursor(state: InstigatorState) -> Cursor:
    data = state.instigator_data
    return Cursor.parse(data.cursor if isinstance(data, SensorInstigatorData) else None)
