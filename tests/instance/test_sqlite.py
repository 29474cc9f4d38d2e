"""Dagster's SQLite storage, whose engines are kept."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy

from scicat_dagster import dagster_internals
from scicat_dagster.dagster_internals import keep_sqlite_engines
from tests.databases import statements
from tests.small_facility import instance_in


@dg.op
def speak(context: dg.OpExecutionContext) -> None:
    context.log_event(dg.AssetMaterialization("spoken", partition="one"))


@dg.job
def speaking() -> None:
    speak()


@pytest.fixture(autouse=True)
def _kept() -> None:
    assert keep_sqlite_engines(), "Dagster has changed: an idle installation costs twice as much"


@contextmanager
def engines() -> Iterator[set[sqlalchemy.Engine]]:
    """What any statement of the process is sent through."""
    used: set[sqlalchemy.Engine] = set()

    def note(connection: sqlalchemy.Connection) -> None:
        used.add(connection.engine)

    sqlalchemy.event.listen(sqlalchemy.Engine, "engine_connect", note)
    try:
        yield used
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "engine_connect", note)


def work_in(home: Path) -> str:
    with instance_in(home) as instance:
        run = speaking.execute_in_process(instance=instance)
        assert instance.get_materialized_partitions(dg.AssetKey("spoken")) == {"one"}
        assert [each.run_id for each in instance.get_runs(limit=1)] == [run.run_id]
        instance.all_instigator_state()
    return run.run_id


def test_each_database_has_one_engine(tmp_path: Path) -> None:
    with engines() as used:
        run_ids = {work_in(tmp_path) for _ in range(3)}

    names = [Path(str(engine.url.database)).stem for engine in used]
    assert sorted(names) == sorted({"index", "runs", "schedules", *run_ids})


def test_a_process_looks_once_for_the_revision_of_the_tables(tmp_path: Path) -> None:
    # The first makes the tables.
    for name in ("one", "two"):
        with instance_in(tmp_path) as instance:
            instance.add_dynamic_partitions("many", [name])

    with statements() as sent, instance_in(tmp_path) as instance:
        assert instance.get_dynamic_partitions("many") == ["one", "two"]

    assert [statement for statement in sent if "alembic_version" in statement] == []


def test_a_process_looks_once_for_the_tables_of_the_states(tmp_path: Path) -> None:
    with instance_in(tmp_path) as instance:
        instance.all_instigator_state()

        with statements() as sent:
            assert instance.all_instigator_state() == []

    assert sent
    assert [
        statement for statement in sent if "sqlite_master" in statement and "instigators" not in statement
    ] == []


def test_a_home_that_was_deleted_is_made_anew(tmp_path: Path) -> None:
    first = work_in(tmp_path / "home")
    shutil.rmtree(tmp_path / "home")

    second = work_in(tmp_path / "home")

    assert first != second


def test_no_connection_is_kept_that_a_fork_could_use(tmp_path: Path) -> None:
    work_in(tmp_path)

    opened = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert [path for path in opened if path.is_relative_to(tmp_path)] == []


def test_where_dagster_has_no_such_functions_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dagster_internals, "_SQLITE_STORAGES", ("json",))

    assert not keep_sqlite_engines()
