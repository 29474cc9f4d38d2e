"""Every name of Dagster that is not public, and the only module that may import one.

Dagster may change them in any release, which is why its version is bounded below the next minor one; a name
that is gone fails here, at import, and is replaced here. Ruff (TID251) refuses them anywhere else, as does
``tests/test_dagster_internals.py``, which also lists what else is in use and not public: overridden methods,
tags, attributes of the instance and of the records that it returns.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from dagster import AssetKey, DagsterEventType, DagsterInstance

# What Dagster's own commands and tasks call, which make a Dagster instance anew for each run.
from dagster._cli.api import _execute_run_command_body
from dagster._config.config_schema import UserConfigSchema
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.events import AssetKeyPartitionKey

# What `define_asset_job` returns.
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

# The batch metadata is what Dagster itself stores the materializations of an output's partitions with.
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, DagsterEventBatchMetadata
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.instance import InstanceRef
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.run_coordinator.queued_run_coordinator import RunQueueConfig
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorTick,
    InstigatorType,
    SensorInstigatorData,
    TickStatus,
)
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.config import pg_config
from dagster._core.storage.event_log import EventLogStorage, SqlEventLogStorage, SqlEventLogStorageTable
from dagster._core.storage.event_log.schema import DynamicPartitionsTable
from dagster._core.storage.runs import RunStorage
from dagster._core.storage.schedules import ScheduleStorage
from dagster._core.storage.sql import AlembicVersion, check_alembic_revision

# How a code server finds the definitions of the module that it is given.
from dagster._core.workspace.autodiscovery import loadable_targets_from_loaded_module
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, unpack_value
from dagster._utils.interrupts import setup_interrupt_handlers
from sqlalchemy import Connection, Engine, create_engine, exists, select

PRELOADED_MODULES = ("dagster._cli.api", "dagster._daemon.cli", "upath.core")
"""What a process loads before runs are forked from it, because each run does.

One that is gone would only make each run slower.
"""

__all__ = [
    "ASSET_CHECK_EVENTS",
    "ASSET_EVENTS",
    "BACKFILL_SECONDS",
    "PRELOADED_MODULES",
    "SENSOR_SECONDS",
    "AlembicVersion",
    "AssetCheckExecutionRecordStatus",
    "AssetGraph",
    "AssetGraphSubset",
    "AssetKeyPartitionKey",
    "BulkActionStatus",
    "BulkActionsFilter",
    "CheckRunHealthResult",
    "ConfigurableClass",
    "ConfigurableClassData",
    "DagsterEventBatchMetadata",
    "DagsterStorage",
    "DynamicPartitionsTable",
    "EventLogStorage",
    "ExecuteRunArgs",
    "InstanceRef",
    "InstigatorState",
    "InstigatorTick",
    "InstigatorType",
    "LaunchRunContext",
    "PartitionBackfill",
    "RunLauncher",
    "RunQueueConfig",
    "RunStorage",
    "ScheduleStorage",
    "SensorInstigatorData",
    "SqlEventLogStorage",
    "SqlEventLogStorageTable",
    "SubmitRunContext",
    "TickStatus",
    "UnresolvedAssetJobDefinition",
    "UserConfigSchema",
    "WorkerStatus",
    "_execute_run_command_body",
    "before_each_evaluation",
    "check_alembic_revision",
    "hasten_backfill_daemon",
    "hasten_sensor_daemon",
    "keep_backfills_without_code_server",
    "keep_sqlite_engines",
    "loadable_targets_from_loaded_module",
    "once_found",
    "pg_config",
    "runs_without_materialization",
    "setup_interrupt_handlers",
    "unpack_value",
]


SENSOR_SECONDS = 0.5
"""How often the sensor daemon evaluates which sensors are due."""


def hasten_sensor_daemon() -> bool:
    """Let the sensor daemon begin ticks every half second, where it is in this process.

    A tick ends with the first message that it polls, and nobody polls until the next one begins; Dagster
    begins one every five seconds, and none within a second of the last one's beginning. Where Dagster has no
    such constant or function any more, files wait longer and nothing breaks.
    """
    daemon: Any = sys.modules.get("dagster._daemon.sensor")
    if not (hasattr(daemon, "MIN_INTERVAL_LOOP_TIME") and hasattr(daemon, "is_under_min_interval")):
        return False
    daemon.MIN_INTERVAL_LOOP_TIME = SENSOR_SECONDS
    # Once, however often the daemon asks.
    if not hasattr(daemon.is_under_min_interval, "__wrapped__"):
        daemon.is_under_min_interval = _always_due_if_least(daemon.is_under_min_interval)
    return True


BACKFILL_SECONDS = 4
"""How often the backfill daemon looks for new backfills and goes on with those that it has."""


def hasten_backfill_daemon() -> bool:
    """Let the backfill daemon look every four seconds, where it is in this process and has not begun.

    Dagster's looks every half minute, for which a person who launched a backfill sees nothing happen. Where
    Dagster has no such constant any more, it stays so.
    """
    controller: Any = sys.modules.get("dagster._daemon.controller")
    if not hasattr(controller, "DEFAULT_DAEMON_INTERVAL_SECONDS"):
        return False
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = BACKFILL_SECONDS
    return True


def _always_due_if_least(is_under_min_interval: Callable[..., bool]) -> Callable[..., bool]:
    @wraps(is_under_min_interval)
    def is_not_due(state: Any, sensor: Any, *args: Any, **options: Any) -> bool:
        # Dagster takes whole seconds, and 0 for its default.
        is_least = (sensor.min_interval_seconds or 0) <= 1
        return not is_least and is_under_min_interval(state, sensor, *args, **options)

    return is_not_due


def keep_backfills_without_code_server() -> None:
    """Let a backfill wait while its code server is away, instead of failing for good.

    The daemon that evaluates one at that moment takes its asset for one that is gone; Dagster has a variable,
    and no setting, by which it looks again.
    """
    os.environ.setdefault("DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR", "1")


_SQLITE_STORAGES = (
    "dagster._core.storage.runs.sqlite.sqlite_run_storage",
    "dagster._core.storage.event_log.sqlite.sqlite_event_log",
    "dagster._core.storage.schedules.sqlite.sqlite_schedule_storage",
)

_KEPT_ENGINES = 64
"""Each run has a database of its own."""


def keep_sqlite_engines() -> bool:
    """Let what Dagster stores in SQLite be asked through engines that are kept.

    Dagster makes one for each of its questions, and each compiles the same statements again; a sensor's tick
    opens an instance, which looks for the newest revision of its tables. Together that is most of what an
    installation on one machine does when nothing comes. Where Dagster has no such functions any more, it
    stays so.
    """
    replacements = {"create_engine": _kept_engine, "check_alembic_revision": _kept_revision}
    modules = [sys.modules.get(name) for name in _SQLITE_STORAGES]
    is_complete = all(hasattr(module, name) for module in modules for name in replacements)
    if is_complete:
        for module in modules:
            for name, replacement in replacements.items():
                setattr(module, name, replacement)
        _look_once(getattr(modules[-1], "SqliteScheduleStorage", None))
    return is_complete


_LOOKS = ("has_instigators_table", "_has_instigators_table", "has_secondary_index_table", "has_built_index")
"""What a storage of ticks looks for in its database."""


def _look_once(storage: Any) -> None:
    """Have a storage look once: the daemon asks twice a second for the states of all sensors."""
    for name in _LOOKS:
        look = getattr(storage, name, None)
        # Once, however often this is called.
        if look is not None and not hasattr(look, "__wrapped__"):
            setattr(storage, name, once_found("_conn_string")(look))


Look = TypeVar("Look", bound=Callable[..., bool])


def once_found(address: str) -> Callable[[Look], Look]:
    """Have a method of a storage that looks for something not look again once it was there.

    For tables, columns and migrations of data, none of which goes away while a process lives. What was found
    is known to all storages of the process with the same address, which is the attribute of that name.
    """

    def decorated(look: Look) -> Look:
        @wraps(look)
        def is_there(self: Any, *asked: Any, **named: Any) -> bool:
            # What is asked for is a name; a connection may be given, too.
            names = (each for each in (*asked, *named.values()) if isinstance(each, str))
            place = getattr(self, address), look.__qualname__, *names
            if place not in _found and look(self, *asked, **named):
                _found.add(place)
            return place in _found

        return cast("Look", is_there)

    return decorated


_found: set[tuple[str, ...]] = set()
"""In which database which method has found what."""


def _kept_engine(url: str, *, connect_args: Mapping[str, Any] | None = None, **options: Any) -> Engine:
    return _engine(url, tuple((connect_args or {}).items()), tuple(options.items()))


@lru_cache(_KEPT_ENGINES)
def _engine(
    url: str, connect_args: tuple[tuple[str, Any], ...], options: tuple[tuple[str, Any], ...]
) -> Engine:
    # Dagster's option is a pool that keeps no connection: one of SQLite must not be used after a fork.
    return create_engine(url, connect_args=dict(connect_args), **dict(options))


def _kept_revision(configuration: Any, connection: Connection) -> AlembicVersion:
    """The revisions of a database and of Dagster, asked once where there are tables."""
    database = connection.engine.url.database or ""
    known = configuration.config_file_name, database
    if known in _revisions and Path(database).stat().st_size:
        return _revisions[known]
    found = check_alembic_revision(configuration, connection)
    if all(found):
        _revisions[known] = found
    return found


_revisions: dict[tuple[str, str], AlembicVersion] = {}


def before_each_evaluation(wait: Callable[[DagsterInstance], None]) -> bool:
    """Have the daemon of the run queue call this before each evaluation, where it is in this process.

    Where Dagster's daemon has no such step any more, this says so, and the queue is evaluated at fixed times.
    """
    module = sys.modules.get("dagster._daemon.run_coordinator.queued_run_coordinator_daemon")
    daemon: Any = getattr(module, "QueuedRunCoordinatorDaemon", None)
    evaluate = getattr(daemon, "run_iteration", None)
    if evaluate is None:
        return False

    @wraps(evaluate)
    def run_iteration(self: Any, context: Any, *args: Any, **options: Any) -> Iterator[Any]:
        wait(context.instance)
        yield from evaluate(self, context, *args, **options)

    # Once, however many instances a process opens.
    if not hasattr(evaluate, "__wrapped__"):
        daemon.run_iteration = run_iteration
    return True


def runs_without_materialization(storage: EventLogStorage, asset: AssetKey) -> dict[str, str]:
    """By partition: the latest run that was to materialize it, where it was not materialized after that.

    Dagster's own function reads the latest events of all partitions to find the few; here the database
    compares them. With a storage of another kind, Dagster's own is asked.
    """
    if not isinstance(storage, SqlEventLogStorage):
        found = storage.get_latest_asset_partition_materialization_attempts_without_materializations(asset)
        return {partition: run_id for partition, (run_id, _) in found.items()}
    events, later = SqlEventLogStorageTable, SqlEventLogStorageTable.alias()
    question = (
        select(events.c.partition, events.c.run_id)
        .where(
            events.c.asset_key == asset.to_string(),
            events.c.partition.is_not(None),
            events.c.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value,
            ~exists().where(
                later.c.asset_key == events.c.asset_key,
                later.c.partition == events.c.partition,
                later.c.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION.value,
                later.c.id > events.c.id,
            ),
        )
        .order_by(events.c.id)
    )
    wiped = storage._get_assets_details([asset])
    question = storage._add_assets_wipe_filter_to_query(question, wiped, [asset])
    with storage.index_connection() as connection:
        return {row.partition: row.run_id for row in connection.execute(question)}
