"""Every name of Dagster that is not public, and the only module that may import one.

Dagster may change them in any release, which is why its version is bounded below the next minor one; a name
that is gone fails here, at import, and is replaced here. Ruff (TID251) refuses them anywhere else, as does
``tests/test_dagster_internals.py``, which also lists what else is in use and not public: overridden methods,
tags, attributes of the instance and of the records that it returns.
"""

# What Dagster's own commands and tasks call, which make a Dagster instance anew for each run.
from dagster._cli.api import _execute_run_command_body
from dagster._config.config_schema import UserConfigSchema
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.events import AssetKeyPartitionKey

# The batch metadata is what Dagster itself stores the materializations of an output's partitions with.
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, DagsterEventBatchMetadata
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.instance import InstanceRef
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
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
from dagster._core.storage.event_log import EventLogStorage, SqlEventLogStorageTable
from dagster._core.storage.runs import RunStorage
from dagster._core.storage.schedules import ScheduleStorage
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, unpack_value
from dagster._utils.interrupts import setup_interrupt_handlers

PRELOADED_MODULES = ("dagster._cli.api", "dagster._daemon.cli")
"""What a process loads before runs are forked from it; one that is gone would only make each run slower."""

__all__ = [
    "ASSET_CHECK_EVENTS",
    "ASSET_EVENTS",
    "PRELOADED_MODULES",
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
    "SqlEventLogStorageTable",
    "TickStatus",
    "UserConfigSchema",
    "WorkerStatus",
    "_execute_run_command_body",
    "pg_config",
    "setup_interrupt_handlers",
    "unpack_value",
]
