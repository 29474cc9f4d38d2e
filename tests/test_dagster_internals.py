"""What the project uses of Dagster that is not promised: each name, signature and tag is as we rely on it.

Whoever adds a private import, overrides another method or calls another undocumented one adds it here, too. A
change in Dagster then fails here, by name, instead of somewhere in a run, or unnoticed. That an override has
its effect is for the tests of the module that it is in.
"""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._annotations import is_public
from dagster._core.execution.asset_backfill import AssetBackfillData
from dagster._core.execution.plan.resume_retry import ReexecutionStrategy
from dagster._core.instance import MayHaveInstanceWeakref
from dagster._core.storage import tags as dagster_tags
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord
from dagster._core.storage.daemon_cursor import DaemonCursorStorage
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._daemon.types import DaemonHeartbeat, DaemonStatus
from dagster_postgres import PostgresEventLogStorage, PostgresRunStorage
from dagster_postgres.utils import create_pg_engine, pg_url_from_config, set_pg_statement_timeout
from dagster_shared.error import SerializableErrorInfo

from scicat_dagster import dagster_internals
from scicat_dagster.dagster_internals import (
    PRELOADED_MODULES,
    AssetCheckExecutionRecordStatus,
    AssetGraph,
    AssetGraphSubset,
    AssetKeyPartitionKey,
    BulkActionsFilter,
    BulkActionStatus,
    CheckRunHealthResult,
    DagsterEventBatchMetadata,
    DynamicPartitionsTable,
    EventLogStorage,
    ExecuteRunArgs,
    InstigatorState,
    InstigatorTick,
    InstigatorType,
    LaunchRunContext,
    PartitionBackfill,
    RunQueueConfig,
    SensorInstigatorData,
    SqlEventLogStorageTable,
    TickStatus,
    WorkerStatus,
    _execute_run_command_body,
    loadable_targets_from_loaded_module,
    pg_config,
    setup_interrupt_handlers,
    unpack_value,
)
from scicat_dagster.orchestration import tags

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "scicat_dagster"

OURS = {
    "BACKFILL_SECONDS", "PRELOADED_MODULES", "SENSOR_SECONDS", "before_each_evaluation",
    "hasten_backfill_daemon", "hasten_sensor_daemon",
    "keep_backfills_without_code_server", "keep_sqlite_engines", "once_found",
    "runs_without_materialization",
}  # fmt: skip
"""What the module adds: names in texts, what it changes in Dagster's daemon, what it asks in its place."""

PRIVATE_IMPORTS = {
    "dagster._cli.api": {"_execute_run_command_body"},
    "dagster._config.config_schema": {"UserConfigSchema"},
    "dagster._core.definitions.assets.graph.asset_graph": {"AssetGraph"},
    "dagster._core.definitions.assets.graph.asset_graph_subset": {"AssetGraphSubset"},
    "dagster._core.definitions.events": {"AssetKeyPartitionKey"},
    "dagster._core.definitions.unresolved_asset_job_definition": {"UnresolvedAssetJobDefinition"},
    "dagster._core.events": {"ASSET_CHECK_EVENTS", "ASSET_EVENTS", "DagsterEventBatchMetadata"},
    "dagster._core.execution.backfill": {"BulkActionStatus", "BulkActionsFilter", "PartitionBackfill"},
    "dagster._core.instance": {"InstanceRef"},
    "dagster._core.launcher": {"CheckRunHealthResult", "LaunchRunContext", "RunLauncher", "WorkerStatus"},
    "dagster._core.run_coordinator": {"SubmitRunContext"},
    "dagster._core.run_coordinator.queued_run_coordinator": {"RunQueueConfig"},
    "dagster._core.scheduler.instigation": {
        "InstigatorState", "InstigatorTick", "InstigatorType", "SensorInstigatorData", "TickStatus",
    },
    "dagster._core.storage.asset_check_execution_record": {"AssetCheckExecutionRecordStatus"},
    "dagster._core.storage.base_storage": {"DagsterStorage"},
    "dagster._core.storage.config": {"pg_config"},
    "dagster._core.storage.event_log": {"EventLogStorage", "SqlEventLogStorage", "SqlEventLogStorageTable"},
    "dagster._core.storage.event_log.schema": {"DynamicPartitionsTable"},
    "dagster._core.storage.runs": {"RunStorage"},
    "dagster._core.storage.schedules": {"ScheduleStorage"},
    "dagster._core.storage.sql": {"AlembicVersion", "check_alembic_revision"},
    "dagster._core.workspace.autodiscovery": {"loadable_targets_from_loaded_module"},
    "dagster._grpc.types": {"ExecuteRunArgs"},
    "dagster._serdes": {"ConfigurableClass", "ConfigurableClassData", "unpack_value"},
    "dagster._utils.interrupts": {"setup_interrupt_handlers"},
}  # fmt: skip
"""What ``dagster_internals`` imports, and nothing else does."""

LIBRARY_IMPORTS = {
    "dagster_celery.config": {"TASK_EXECUTE_JOB_NAME"},
    "dagster_celery.launcher": {"CeleryRunLauncher"},
    "dagster_celery.tags": {
        "DAGSTER_CELERY_QUEUE_TAG", "DAGSTER_CELERY_RUN_PRIORITY_TAG",
    },
    "dagster_postgres": {"PostgresEventLogStorage", "PostgresRunStorage", "PostgresScheduleStorage"},
    "dagster_postgres.utils": {
        "create_pg_engine", "pg_url_from_config", "set_pg_statement_timeout",
    },
}  # fmt: skip
"""What the package imports from Dagster's libraries, whose documentation knows ``dagster.yaml`` only."""

OVERRIDES = {
    "FacilityRunCoordinator.dequeue_interval_seconds": "property",
    "FacilityRunCoordinator.from_config_value": "cls, inst_data, config_value",
    "FacilityRunCoordinator.get_run_queue_config": "self",
    "FacilityRunCoordinator.submit_run": "self, context",
    "ForkLauncher.check_run_worker_health": "self, run",
    "ForkLauncher.config_type": "cls",
    "ForkLauncher.from_config_value": "cls, inst_data, config_value",
    "ForkLauncher.inst_data": "property",
    "ForkLauncher.join": "self, timeout",
    "ForkLauncher.launch_run": "self, context",
    "ForkLauncher.supports_check_run_worker_health": "property",
    "ForkLauncher.terminate": "self, run_id",
    "IngestComponent.build_defs": "self, context",
    "JsonBetweenOps.handle_output": "self, context, obj",
    "JsonBetweenOps.load_input": "self, context",
    "KeptConnections.config_type": "cls",
    "KeptConnections.event_log_storage": "property",
    "KeptConnections.from_config_value": "cls, inst_data, config_value",
    "KeptConnections.inst_data": "property",
    "KeptConnections.run_storage": "property",
    "KeptConnections.schedule_storage": "property",
    "WarmWorkerLauncher._launch_celery_task_run": "self, run, task_signature, routing_key",
    "WarmWorkerLauncher.check_run_worker_health": "self, run",
    "WarmWorkerLauncher.get_run_worker_debug_info": "self, run, include_container_logs",
    "WarmWorkerLauncher.supports_resume_run": "property",
    "WarmWorkerLauncher.terminate": "self, run_id",
    "_Events._has_asset_key_col_on_connection": "self, conn, column_name",
    "_Events.get_dynamic_partitions": "self, partitions_def_name",
    "_Events.has_table": "self, table_name",
    "_Events.optimize_for_webserver": "self, statement_timeout, pool_recycle, max_overflow",
    "_Events.store_event": "self, event",
    "_Events.store_event_batch": "self, events",
    "_Events.has_secondary_index": "self, name",
    "_Runs.has_backfill_id_column": "self",
    "_Runs.has_built_index": "self, migration_name",
    "_Runs.has_run_stats_index_cols": "self",
    "_Runs.optimize_for_webserver": "self, statement_timeout, pool_recycle, max_overflow",
    "_Schedules._has_instigators_table": "self, conn",
    "_Schedules.has_built_index": "self, migration_name",
    "_Schedules.has_instigators_table": "self",
    "_Schedules.has_secondary_index_table": "self",
    "_Schedules.optimize_for_webserver": "self, statement_timeout, pool_recycle, max_overflow",
}
"""Our methods that Dagster calls instead of its own, with the parameters of its own."""

INSTANCE_METHODS = {
    "add_backfill": "partition_backfill",
    "add_event_listener": "run_id, cb",
    "add_run_tags": "run_id, new_tags",
    "all_instigator_state": "*, instigator_type",
    "all_logs": "run_id, *, of_type",
    "daemon_cursor_storage": "property",
    "event_log_storage": "property",
    "from_config": "config_dir",
    "from_ref": "instance_ref",
    "get_backfills": "*, filters",
    "get_daemon_statuses": "",
    "get_latest_asset_check_evaluation_record": "asset_check_key",
    "get_latest_storage_id_by_partition": "asset_key, event_type",
    "get_materialized_partitions": "asset_key",
    "get_ref": "",
    "get_run_ids": "filters",
    "get_runs": "filters, *, limit, cursor",
    "get_runs_count": "filters",
    "get_ticks": "origin_id, selector_id, *, limit",
    "report_engine_event": "message, dagster_run, *, cls",
    "report_run_canceled": "dagster_run, message",
    "report_run_canceling": "run",
    "report_run_failed": "dagster_run, message",
    "root_directory": "property",
    "run_launcher": "property",
    "run_monitoring_max_runtime_seconds": "property",
    "schedule_storage": "property",
    "storage_directory": "",
    "update_instigator_state": "state",
}
"""What the package uses of an instance that is not public, with what it passes: by place, and by name."""

CALLS: list[tuple[Callable[..., Any], str]] = [
    (
        EventLogStorage.get_latest_asset_partition_materialization_attempts_without_materializations,
        "self, asset_key",
    ),
    (SqlEventLogStorage._add_assets_wipe_filter_to_query, "self, query, assets_details, asset_keys"),
    (SqlEventLogStorage._get_assets_details, "self, asset_keys"),
    (SqlEventLogStorage.index_connection, "self"),
    (DaemonCursorStorage.get_cursor_values, "self, keys"),
    (DaemonCursorStorage.set_cursor_values, "self, pairs"),
    (PostgresEventLogStorage.__init__, "self, postgres_url, should_autocreate_tables"),
    (PostgresEventLogStorage._event_to_row, "self, event"),
    (PostgresEventLogStorage._store_asset_event, "self, conn, event, event_id"),
    (PostgresEventLogStorage._store_asset_event_tags, "self, conn, events, event_ids"),
    (PostgresEventLogStorage.index_connection, "self"),
    (PostgresEventLogStorage.index_transaction, "self"),
    (PostgresEventLogStorage.prepare_insert_event_batch, "self, events"),
    (PostgresRunStorage.__init__, "self, postgres_url, should_autocreate_tables"),
    (create_pg_engine, "postgres_url, *, engine_kwargs"),
    (pg_config, ""),
    (pg_url_from_config, "config_value"),
    (_execute_run_command_body, "run_id, instance, write_stream_fn, *, set_exit_code_on_failure"),
    (loadable_targets_from_loaded_module, "module"),
    (set_pg_statement_timeout, "conn, millis"),
    (setup_interrupt_handlers, ""),
    (unpack_value, "val, *, as_type"),
    (CheckRunHealthResult, "status, msg"),
    (dg.OpExecutionContext.get_step_execution_context, "self"),
    (dg.DagsterEvent.asset_materialization, "step_context, materialization, batch_metadata"),
    (DagsterEventBatchMetadata, "id, *, is_end"),
    (dg.EventLogEntry.get_dagster_event, "self"),
    (AssetGraph.from_assets, "assets"),
    (AssetGraphSubset.from_asset_partition_set, "asset_partitions_set, asset_graph"),
    (AssetGraphSubset.iterate_asset_partitions, "self"),
    (AssetKeyPartitionKey, "asset_key, partition_key"),
    (
        PartitionBackfill.from_asset_graph_subset,
        (
            "*, backfill_id, backfill_timestamp, tags, title, description, run_config, asset_graph_subset, "
            "dynamic_partitions_store"
        ),
    ),
    (PartitionBackfill.get_asset_backfill_data, "self, asset_graph"),
    (InstigatorState.with_data, "self, instigator_data"),
]
"""Undocumented functions and methods elsewhere, with what is passed to them."""

ATTRIBUTES: dict[type, str] = {
    AssetBackfillData: "target_subset materialized_subset failed_and_downstream_subset",
    AssetCheckExecutionRecord: "status event create_timestamp",
    AssetCheckExecutionRecordStatus: "FAILED",
    AssetGraphSubset: "__or__ __sub__",
    AssetKeyPartitionKey: "asset_key partition_key",
    BulkActionStatus: "REQUESTED",
    BulkActionsFilter: "statuses",
    DaemonHeartbeat: "timestamp errors",
    DaemonStatus: "last_heartbeat",
    dg.DagsterEvent: "event_type step_key partition asset_key message step_failure_data "
    "asset_check_evaluation_data is_step_materialization step_materialization_data",
    dg.DagsterRun: "run_id status tags run_config parent_run_id is_finished",
    dg.EventLogEntry: "dagster_event timestamp asset_materialization",
    dg.EventLogRecord: "storage_id run_id timestamp partition_key asset_materialization asset_observation",
    dg.RunRecord: "storage_id dagster_run create_timestamp end_time",
    ExecuteRunArgs: "run_id",
    InstigatorState: "instigator_origin_id selector_id name instigator_name instigator_type instigator_data "
    "is_running",
    InstigatorTick: "status timestamp end_timestamp error",
    InstigatorType: "SENSOR",
    LaunchRunContext: "dagster_run",
    MayHaveInstanceWeakref: "_instance",
    PartitionBackfill: "backfill_id asset_selection",
    RunQueueConfig: "max_concurrent_runs _replace",
    SerializableErrorInfo: "cls_name message cause",
    SensorInstigatorData: "cursor last_tick_timestamp _replace",
    TickStatus: "STARTED FAILURE",
    WorkerStatus: "RUNNING FAILED",
}
"""What is read from Dagster's records."""

TAGS = {
    tags.PARTITION_TAG: dagster_tags.PARTITION_NAME_TAG,
    tags.RANGE_START_TAG: dagster_tags.ASSET_PARTITION_RANGE_START_TAG,
    tags.RANGE_END_TAG: dagster_tags.ASSET_PARTITION_RANGE_END_TAG,
    tags.PRIORITY_TAG: dagster_tags.PRIORITY_TAG,
    tags.MAX_RUNTIME_TAG: dagster_tags.MAX_RUNTIME_SECONDS_TAG,
    tags.RETRY_RUN_TAG: dagster_tags.RETRY_ON_ASSET_OR_OP_FAILURE_TAG,
    tags.RETRY_STRATEGY_TAG: dagster_tags.RETRY_STRATEGY_TAG,
    tags.RETRY_NUMBER_TAG: dagster_tags.RETRY_NUMBER_TAG,
    tags.MAX_RETRIES_TAG: dagster_tags.MAX_RETRIES_TAG,
    tags.WILL_RETRY_TAG: dagster_tags.WILL_RETRY_TAG,
    tags.AUTO_RETRY_RUN_TAG: dagster_tags.AUTO_RETRY_RUN_ID_TAG,
    "dagster/kind/": dagster_tags.KIND_PREFIX,
    # In deploy/ only.
    "dagster/backfill": dagster_tags.BACKFILL_ID_TAG,
}
"""The tags of Dagster's that we read or write, and where Dagster has them."""


def modules() -> Iterator[tuple[Path, ast.Module]]:
    """Every module of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE), ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Module and name of each import; an empty name where a module is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", name.name) for name in node.names)
        elif isinstance(node, ast.Import):
            yield from ((name.name, "") for name in node.names)


def imported(tree: ast.Module, beginning: str) -> dict[str, set[str]]:
    """The names that a module imports from others whose dotted name begins so."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, name in imports(tree):
        if f"{module}.{name}".startswith(beginning):
            found[module].add(name)
    return found


def test_one_module_imports_what_is_private() -> None:
    found = {str(path): names for path, tree in modules() if (names := imported(tree, "dagster._"))}

    assert found == {"dagster_internals.py": PRIVATE_IMPORTS}
    exported = {name for private in PRIVATE_IMPORTS.values() for name in private}
    assert set(dagster_internals.__all__) == exported | OURS


def test_what_is_imported_from_dagsters_libraries_is_known() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for _, tree in modules():
        for module, names in imported(tree, "dagster_").items():
            found[module] |= names

    assert found == LIBRARY_IMPORTS


def test_the_modules_that_are_named_in_texts_are_there() -> None:
    """Without one of them, the process that runs are forked from would say nothing."""
    named = [(module, "") for module in PRELOADED_MODULES]
    named += classes_in(yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text()))

    assert len(named) > len(PRELOADED_MODULES)
    for module, name in named:
        assert hasattr(import_module(module), name or "__name__"), f"{module}.{name}"


def classes_in(section: Any) -> list[tuple[str, str]]:
    """What a ``dagster.yaml`` names by ``module`` and ``class``."""
    if not isinstance(section, dict):
        return []
    own = [(section["module"], section["class"])] if {"module", "class"} <= section.keys() else []
    return own + [found for value in section.values() for found in classes_in(value)]


def test_every_override_is_known_and_has_the_parameters_of_dagsters_own() -> None:
    found = {}
    for ours in subclasses():
        for name in vars(ours):
            base = next((base for base in ours.__mro__[1:] if is_dagsters(base) and name in vars(base)), None)
            if base is not None and not name.startswith("__") and name not in {"_abc_impl", "model_config"}:
                found[f"{ours.__name__}.{name}"] = parameters(inspect.getattr_static(base, name))

    assert found == OVERRIDES


def subclasses() -> Iterator[type]:
    """Our classes that are one of Dagster's, but for configuration models."""
    for path, tree in modules():
        sources = ("dagster_", "scicat_dagster.dagster_internals")
        names = {name for module, name in imports(tree) if module.startswith(sources)}
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and any(is_of(base, names) for base in node.bases):
                module = import_module(".".join(("scicat_dagster", *path.with_suffix("").parts)))
                yield getattr(module, node.name)


def is_of(base: ast.expr, names: set[str]) -> bool:
    base = base.value if isinstance(base, ast.Subscript) else base
    if isinstance(base, ast.Attribute):
        return isinstance(base.value, ast.Name) and base.value.id == "dg" and base.attr != "Config"
    return isinstance(base, ast.Name) and base.id in names


def is_dagsters(base: type) -> bool:
    return base.__module__.partition(".")[0] in {"dagster", "dagster_celery", "dagster_postgres"}


def parameters(member: Any) -> str:
    if isinstance(member, property):
        return "property"
    function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
    return ", ".join(inspect.signature(function).parameters)


def test_every_use_of_an_instance_that_is_not_public_is_known() -> None:
    used = {name for _, tree in modules() for name in used_of_instances(tree)}

    private = {name for name in used if not is_public(member(dg.DagsterInstance, name))}
    assert private == INSTANCE_METHODS.keys()


def used_of_instances(tree: ast.Module) -> Iterator[str]:
    """The attributes of what is called an instance: a variable, an attribute, or what a method returns."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value.func if isinstance(node.value, ast.Call) else node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if name in {"instance", "_instance", "kept_instance", "DagsterInstance"}:
                yield node.attr


def member(owner: type, name: str) -> Any:
    found = inspect.getattr_static(owner, name)
    return found if isinstance(found, property) else getattr(owner, name)


@pytest.mark.parametrize("name", INSTANCE_METHODS)
def test_an_instance_takes_what_we_pass(name: str) -> None:
    found = inspect.getattr_static(dg.DagsterInstance, name)

    if INSTANCE_METHODS[name] == "property":
        assert isinstance(found, property)
    else:
        own = "" if isinstance(found, classmethod | staticmethod) else "self, "
        assert_takes(getattr(dg.DagsterInstance, name), own + INSTANCE_METHODS[name])


@pytest.mark.parametrize(("function", "passed"), CALLS, ids=[each.__qualname__ for each, _ in CALLS])
def test_a_function_takes_what_we_pass(function: Callable[..., Any], passed: str) -> None:
    assert_takes(function, passed)


def assert_takes(function: Callable[..., Any], passed: str) -> None:
    """``a, b, *, c``: ``a`` and ``b`` come first, there is ``c``, and nothing else is required."""
    by_place, _, by_name = passed.partition("*")
    places = [name.strip() for name in by_place.split(",") if name.strip()]
    names = [name.strip() for name in by_name.split(",") if name.strip()]
    found = inspect.signature(function).parameters
    open_ended = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    required = {
        name for name, each in found.items() if each.default is each.empty and each.kind not in open_ended
    }

    assert list(found)[: len(places)] == places
    assert set(names) <= set(found)
    assert required <= {*places, *names}


@pytest.mark.parametrize(("owner", "names"), ATTRIBUTES.items(), ids=[each.__name__ for each in ATTRIBUTES])
def test_a_record_has_what_we_read(owner: type, names: str) -> None:
    declared = {name for base in owner.__mro__ for name in (*vars(base), *inspect.get_annotations(base))}

    assert set(names.split()) <= declared


def test_partitions_have_what_we_read() -> None:
    assert {"id", "partitions_def_name"} <= set(DynamicPartitionsTable.c.keys())


def test_events_are_inserted_with_an_id() -> None:
    assert {"id", "run_id"} <= set(SqlEventLogStorageTable.c.keys())


@pytest.mark.parametrize(("ours", "theirs"), TAGS.items(), ids=list(TAGS))
def test_a_tag_is_dagsters(ours: str, theirs: str) -> None:
    assert ours == theirs


def test_the_whole_run_is_repeated_by_the_name_of_a_strategy() -> None:
    assert ReexecutionStrategy("ALL_STEPS") is ReexecutionStrategy.ALL_STEPS


def test_every_tag_of_dagsters_in_use_is_known() -> None:
    for path, tree in modules():
        texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        found = {text for text in texts if isinstance(text, str) and text.startswith("dagster/")}
        assert found <= (TAGS.keys() if path.name == "tags.py" else set()), path
    limits = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text())["run_coordinator"]["config"]
    assert {limit["key"] for limit in limits["tag_concurrency_limits"]} <= TAGS.keys()
