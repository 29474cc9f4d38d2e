"""Dagster's PostgreSQL storage with connections that are kept; named in ``deploy/dagster.yaml``.

Dagster's own opens a connection for each of its operations, some ninety in the run of one file, and asks
the database for the columns of its tables again and again; both cost more than what it has to say.
"""

from __future__ import annotations

import os
import select
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Self

import dagster as dg
import sqlalchemy
from dagster_postgres import PostgresEventLogStorage, PostgresRunStorage, PostgresScheduleStorage
from dagster_postgres.utils import create_pg_engine, pg_url_from_config, set_pg_statement_timeout
from sqlalchemy import Connection, Engine, event, func
from sqlalchemy.exc import DisconnectionError

from scicat_dagster.dagster_internals import (
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    ConfigurableClass,
    ConfigurableClassData,
    DagsterStorage,
    DynamicPartitionsTable,
    EventLogStorage,
    RunStorage,
    ScheduleStorage,
    SqlEventLogStorageTable,
    UserConfigSchema,
    once_found,
    pg_config,
)

_STATEMENT_MILLISECONDS = 60_000
_KEPT_SECONDS = 600
_KEPT_CONNECTIONS = 8
"""At most, per process, and no more than threads asked at the same moment: a worker has one."""
_MORE_CONNECTIONS = 16
"""Beside those that are kept, for a moment in which more threads of a process ask."""

_seen_complete: set[str] = set()
"""The addresses of databases in which this process has seen, or made, all tables."""

_partitions: dict[tuple[str, str], tuple[object, Sequence[str]]] = {}
"""By the address of their database and the name of their definition: the keys as this process read them last,
and the state that they were in. The code server opens an instance, with storages, for each tick of a sensor.
"""


_INDEXED = ASSET_EVENTS | ASSET_CHECK_EVENTS
"""Events that are also kept in other tables than that of all events."""

_ACCOMPANYING = {
    dg.DagsterEventType.ENGINE_EVENT,
    dg.DagsterEventType.RESOURCE_INIT_STARTED,
    dg.DagsterEventType.RESOURCE_INIT_SUCCESS,
    dg.DagsterEventType.LOGS_CAPTURED,
    dg.DagsterEventType.LOADED_INPUT,
    dg.DagsterEventType.STEP_INPUT,
    dg.DagsterEventType.STEP_OUTPUT,
    dg.DagsterEventType.HANDLED_OUTPUT,
    dg.DagsterEventType.STEP_SUCCESS,
}
"""Events that nobody waits for: the beginning of the next op, or the end of the run, follows at once."""

_ENDS = {
    dg.DagsterEventType.RUN_SUCCESS,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.RUN_CANCELED,
}


_once_found = once_found("postgres_url")


class _Runs(PostgresRunStorage):
    """Looks once which columns there are."""

    def optimize_for_webserver(self, statement_timeout: int, pool_recycle: int, max_overflow: int) -> None:
        self._engine = _keeping_engine(self.postgres_url, statement_timeout, pool_recycle, max_overflow)

    @_once_found
    def has_run_stats_index_cols(self) -> bool:
        return super().has_run_stats_index_cols()

    @_once_found
    def has_backfill_id_column(self) -> bool:
        return super().has_backfill_id_column()

    @_once_found
    def has_built_index(self, migration_name: str) -> bool:
        return super().has_built_index(migration_name)


class _Events(PostgresEventLogStorage):
    """Looks once which tables and columns there are, and stores what accompanies a run with the next event.

    Each insertion is a transaction, and most of what a run costs its worker and the database.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._pending: dict[str, list[dg.EventLogEntry]] = {}
        """By run that this process executes: what is not yet stored."""

    def optimize_for_webserver(self, statement_timeout: int, pool_recycle: int, max_overflow: int) -> None:
        self._engine = _keeping_engine(self.postgres_url, statement_timeout, pool_recycle, max_overflow)

    @_once_found
    def has_table(self, table_name: str) -> bool:
        return super().has_table(table_name)

    @_once_found
    def has_secondary_index(self, name: str) -> bool:
        return super().has_secondary_index(name)

    def get_dynamic_partitions(self, partitions_def_name: str) -> Sequence[str]:
        """Read again only when they have changed: a page of the UI asks for all of them several times."""
        before = self._state_of_partitions(partitions_def_name)
        place = self.postgres_url, partitions_def_name
        known, keys = _partitions.get(place, (None, ()))
        if known != before:
            keys = super().get_dynamic_partitions(partitions_def_name)
            if self._state_of_partitions(partitions_def_name) == before:
                _partitions[place] = before, keys
        return list(keys)

    def _state_of_partitions(self, partitions_def_name: str) -> object:
        """What changes with each that is added or deleted: no id is given twice, most are in order."""
        columns = DynamicPartitionsTable.c
        ids = sqlalchemy.select(*(of(columns.id) for of in (func.count, func.max, func.sum)))
        question = ids.where(columns.partitions_def_name == partitions_def_name)
        with self.index_connection() as connection:
            return tuple(connection.execute(question).one())

    @_once_found
    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:
        return super()._has_asset_key_col_on_connection(conn, column_name)

    def store_event(self, event: dg.EventLogEntry) -> None:
        kind = event.dagster_event.event_type if event.dagster_event is not None else None
        if kind is dg.DagsterEventType.RUN_START:
            self._pending[event.run_id] = []
        if kind in _ACCOMPANYING and event.run_id in self._pending:
            self._pending[event.run_id].append(event)
            return
        if kind in _INDEXED:
            self._insert(self._pending.get(event.run_id, []))
            super().store_event(event)
        else:
            self._insert([*self._pending.get(event.run_id, []), event])
        # Not before all of it is stored: until then the run may fail, and say so.
        if kind in _ENDS:
            self._pending.pop(event.run_id, None)
        elif event.run_id in self._pending:
            self._pending[event.run_id] = []

    def _insert(self, events: Sequence[dg.EventLogEntry]) -> None:
        if not events:
            return
        # Without a NOTIFY, which doubles what is sent and to which no version of Dagster in use listens.
        with self.index_connection() as connection:
            # One statement whose text is the same for any number of them, so that it is compiled once.
            connection.execute(
                SqlEventLogStorageTable.insert(), [self._event_to_row(event) for event in events]
            )

    def store_event_batch(self, events: Sequence[dg.EventLogEntry]) -> None:
        """What a batch run is going to materialize, stored together as what it then materializes.

        Dagster does so with the latter only.
        """
        for run_id in {entry.run_id for entry in events} & self._pending.keys():
            self._insert(self._pending[run_id])
            self._pending[run_id] = []
        told = [entry.get_dagster_event() for entry in events]
        is_planned = {event.event_type for event in told} == {
            dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
        }
        if not is_planned or len({event.asset_key for event in told}) != 1:
            super().store_event_batch(events)
            return
        insertion = self.prepare_insert_event_batch(events).returning(SqlEventLogStorageTable.c.id)
        with self.index_transaction() as connection:
            identifiers = [row[0] for row in connection.execute(insertion)]
            self._store_asset_event_tags(connection, events, identifiers)
            self._store_asset_event(connection, events[-1], identifiers[-1])


class _Schedules(PostgresScheduleStorage):
    """Looks once which tables there are; the daemon asks for the states of all sensors twice a second."""

    @_once_found
    def has_instigators_table(self) -> bool:
        return super().has_instigators_table()

    @_once_found
    def _has_instigators_table(self, conn: Connection) -> bool:
        return super()._has_instigators_table(conn)

    @_once_found
    def has_secondary_index_table(self) -> bool:
        return super().has_secondary_index_table()

    @_once_found
    def has_built_index(self, migration_name: str) -> bool:
        return super().has_built_index(migration_name)

    def optimize_for_webserver(self, statement_timeout: int, pool_recycle: int, max_overflow: int) -> None:
        self._engine = _keeping_engine(self.postgres_url, statement_timeout, pool_recycle, max_overflow)


class KeptConnections(DagsterStorage, ConfigurableClass):
    """PostgreSQL with kept connections for the runs, the events and the ticks of each process.

    Its configuration is that of Dagster's own ``postgres`` storage, but that a host may be a folder.
    """

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        # The code server opens an instance for each tick of a sensor. Looking for the tables takes a
        # connection for each of the three, and most of what a tick costs that finds nothing.
        may_lack_tables = postgres_url not in _seen_complete
        self._runs = _Runs(postgres_url, may_lack_tables)
        self._events = _Events(postgres_url, may_lack_tables)
        self._schedules = _Schedules(postgres_url, may_lack_tables)
        _seen_complete.add(postgres_url)
        super().__init__()  # type: ignore[no-untyped-call]
        for storage in (self._runs, self._events, self._schedules):
            # What Dagster's webserver does with its own.
            storage.optimize_for_webserver(_STATEMENT_MILLISECONDS, _KEPT_SECONDS, _MORE_CONNECTIONS)

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """Where Dagster found this class and its configuration."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """The configuration that ``dagster.yaml`` may hold."""
        return pg_config()

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """Called by Dagster with the ``config`` of ``storage``."""
        return cls(pg_url_from_config(_by_socket(config_value)), inst_data)

    @property
    def run_storage(self) -> RunStorage:
        """Where the runs are."""
        return self._runs

    @property
    def event_log_storage(self) -> EventLogStorage:
        """Where the events, the assets and the partitions are."""
        return self._events

    @property
    def schedule_storage(self) -> ScheduleStorage:
        """Where the ticks and cursors are."""
        return self._schedules


def _by_socket(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where the host is a folder, name the Unix socket in it as PostgreSQL's URLs do; Dagster would not."""
    server = config.get("postgres_db") or {}
    folder = server.get("hostname", "")
    if not folder.startswith("/"):
        return config
    return {**config, "postgres_db": {**server, "hostname": "", "params": {"host": folder}}}


def _keeping_engine(url: str, statement_timeout: int, pool_recycle: int, max_overflow: int) -> Engine:
    """The engine of all storages of a process, with a pool that keeps what threads open.

    Dagster's keeps one connection and closes each further one after its first use: threads that ask at the
    same moment, as those of the daemon in a burst, opened one for every second question. Its pool opens a
    connection anew that its server closed while nobody used it.
    """
    # A process must not use the connections of the one that it was forked from.
    return _engine_of_process(os.getpid(), url, statement_timeout, pool_recycle, max_overflow)


@cache
def _engine_of_process(
    _pid: int, url: str, statement_timeout: int, pool_recycle: int, max_overflow: int
) -> Engine:
    engine = create_pg_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=_KEPT_CONNECTIONS,
        pool_recycle=pool_recycle,
        max_overflow=max_overflow,
    )

    def limit_statements(connection: Any, _record: Any) -> None:
        set_pg_statement_timeout(connection, statement_timeout)

    event.listen(engine, "connect", limit_statements)
    event.listen(engine, "checkout", _refuse_if_closed)
    return engine


def _refuse_if_closed(connection: Any, _record: Any, _proxy: Any) -> None:
    # An idle connection has nothing to read, but for its end; looking costs no round trip.
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    if waiting.poll(0):
        raise DisconnectionError("The server has closed this connection.")
