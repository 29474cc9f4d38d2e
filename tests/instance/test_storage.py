"""Dagster's storage with kept connections, on a real PostgreSQL."""

import multiprocessing
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest
import sqlalchemy
from dagster_postgres import PostgresEventLogStorage, PostgresRunStorage
from dagster_postgres.event_log.event_log import CHANNEL_NAME
from sqlalchemy.pool import QueuePool

from scicat_dagster.orchestration.ingest.per_file import log_materializations
from tests.databases import kept_connections, statements
from tests.small_facility import instance_in


@pytest.fixture
def instance(postgres_url: str, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with instance_in(tmp_path, storage=kept_connections(postgres_url)) as opened:
        yield opened


@dg.op
def speak(context: dg.OpExecutionContext) -> None:
    context.log.info("One word.")
    context.log_event(dg.AssetMaterialization("spoken", partition="one"))


@dg.job
def speaking() -> None:
    speak()


@dg.op
def whisper(context: dg.OpExecutionContext) -> None:
    context.log.info("Nothing about an asset.")


@dg.job
def whispering() -> None:
    whisper()


def test_a_run_leaves_the_same_events_as_with_dagsters_own_storage(instance: dg.DagsterInstance) -> None:
    run = speaking.execute_in_process(instance=instance)
    with dg.DagsterInstance.ephemeral() as usual:
        expected = speaking.execute_in_process(instance=usual)

        assert _kinds(instance, run.run_id) == _kinds(usual, expected.run_id)

    assert instance.get_materialized_partitions(dg.AssetKey("spoken")) == {"one"}
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    assert found.status is dg.DagsterRunStatus.SUCCESS


def _kinds(instance: dg.DagsterInstance, run_id: str) -> Counter[str]:
    return Counter(
        entry.dagster_event.event_type_value if entry.dagster_event else entry.message
        for entry in instance.all_logs(run_id)
    )


@dg.op
def hand_on() -> int:
    return 1


@dg.op
def look(context: dg.OpExecutionContext, number: int) -> None:
    """Put into words what others know of the run while its op is under way."""
    context.log.info(f"{number}: {' '.join(_story(context.instance, context.run_id))}")


@dg.op(ins={"after": dg.In(dg.Nothing)})
def give_up() -> None:
    raise ValueError("It was to fail.")


@dg.job(executor_def=dg.in_process_executor)
def giving_up() -> None:
    give_up(look(hand_on()))


def _story(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    return [
        f"{entry.dagster_event.event_type_value}:{entry.step_key or ''}"
        for entry in instance.all_logs(run_id)
        if entry.dagster_event
    ]


def test_what_accompanies_a_run_is_stored_in_order_with_what_counts(
    instance: dg.DagsterInstance, postgres_url: str
) -> None:
    run = giving_up.execute_in_process(instance=instance, raise_on_error=False)
    with dg.DagsterInstance.ephemeral() as usual:
        expected = giving_up.execute_in_process(instance=usual, raise_on_error=False)
        assert _story(instance, run.run_id) == _story(usual, expected.run_id)

    # The start, three ops that begin, what one of them logs, one that fails, the end of the run.
    assert sum(_commits(postgres_url, run.run_id, "%").values()) == 7


def test_an_op_that_is_under_way_is_known_to_others(instance: dg.DagsterInstance) -> None:
    """Whoever finds its process dead has to know where that was."""
    run = giving_up.execute_in_process(instance=instance, raise_on_error=False)

    (seen,) = [entry.user_message for entry in instance.all_logs(run.run_id) if not entry.dagster_event]
    assert "STEP_SUCCESS:hand_on STEP_START:look" in seen


def test_what_could_not_be_stored_is_stored_with_the_next_event(
    instance: dg.DagsterInstance, postgres_url: str
) -> None:
    run = whispering.execute_in_process(instance=instance)
    entries = {
        entry.dagster_event.event_type: entry
        for entry in instance.all_logs(run.run_id)
        if entry.dagster_event
    }
    storage = instance.event_log_storage
    again = str(uuid.uuid4())
    kinds = (
        dg.DagsterEventType.RUN_START, dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.RUN_SUCCESS
    )  # fmt: skip
    start, success, end = (entries[kind]._replace(run_id=again) for kind in kinds)

    storage.store_event(start)
    storage.store_event(success)
    _execute(postgres_url, "ALTER TABLE event_logs RENAME TO away")
    with pytest.raises(sqlalchemy.exc.DBAPIError):
        storage.store_event(end)
    _execute(postgres_url, "ALTER TABLE away RENAME TO event_logs")
    storage.store_event(end)

    assert _story(instance, again) == ["PIPELINE_START:", "STEP_SUCCESS:whisper", "PIPELINE_SUCCESS:"]


many = dg.DynamicPartitionsDefinition(name="many")


@dg.asset(partitions_def=many)
def told(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(metadata={"partitions": len(context.partition_keys)})


def test_what_a_run_of_many_partitions_will_do_and_does_is_stored_together(
    instance: dg.DagsterInstance, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "100")
    keys = [f"file {number}" for number in range(5)]
    ends = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
    with dg.DagsterInstance.ephemeral() as usual:
        for each in (instance, usual):
            each.add_dynamic_partitions("many", keys)
        run = dg.materialize([told], instance=instance, tags=ends)
        expected = dg.materialize([told], instance=usual, tags=ends)

        assert _kinds(instance, run.run_id) == _kinds(usual, expected.run_id)

    assert instance.get_materialized_partitions(told.key) == set(keys)
    assert _commits(postgres_url, run.run_id, "ASSET_MATERIALIZATION_PLANNED") == {5: 1}
    assert _commits(postgres_url, run.run_id, "ASSET_MATERIALIZATION") == {5: 1}


@dg.op
def speak_of_many(context: dg.OpExecutionContext) -> None:
    spoken = [dg.AssetMaterialization("spoken", partition=str(number)) for number in range(5)]
    log_materializations(context, spoken)


@dg.job
def speaking_of_many() -> None:
    speak_of_many()


def test_what_an_op_materializes_of_many_files_is_stored_together(
    instance: dg.DagsterInstance, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "100")

    run = speaking_of_many.execute_in_process(instance=instance)

    assert _commits(postgres_url, run.run_id, "ASSET_MATERIALIZATION") == {5: 1}


def _commits(url: str, run_id: str, kind: str) -> dict[int, int]:
    """How many transactions wrote how many of a run's events of this kind."""
    with psycopg2.connect(url.replace("+psycopg2", "")) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM event_logs WHERE run_id = %s AND coalesce(dagster_event_type, '') LIKE %s"
            " GROUP BY xmin::text",
            (run_id, kind),
        )
        return Counter(row[0] for row in cursor.fetchall())


@pytest.mark.parametrize("is_webserver", [False, True], ids=["daemon", "webserver"])
def test_connections_that_the_server_closed_are_made_anew(
    instance: dg.DagsterInstance, postgres_url: str, is_webserver: bool
) -> None:
    if is_webserver:
        # As Dagster's webserver does when it starts: other pools than those of before.
        instance.optimize_for_webserver(statement_timeout=60_000, pool_recycle=600, max_overflow=20)
    instance.all_instigator_state()
    first = speaking.execute_in_process(instance=instance)

    _end_every_connection(postgres_url)

    assert instance.all_instigator_state() == []
    second = speaking.execute_in_process(instance=instance)
    assert {first.run_id, second.run_id} <= set(instance.get_run_ids())
    assert _kinds(instance, first.run_id) == _kinds(instance, second.run_id)


@pytest.mark.parametrize("is_webserver", [False, True], ids=["daemon", "webserver"])
def test_what_threads_opened_at_the_same_moment_is_kept(
    instance: dg.DagsterInstance, is_webserver: bool
) -> None:
    if is_webserver:
        instance.optimize_for_webserver(statement_timeout=60_000, pool_recycle=600, max_overflow=20)
    runs, events = instance.run_storage, instance.event_log_storage
    assert isinstance(runs, PostgresRunStorage)
    assert isinstance(events, PostgresEventLogStorage)

    def ask_at_the_same_moment() -> None:
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(runs.connect())
                stack.enter_context(events.index_connection())

    ask_at_the_same_moment()
    with _opened() as opened:
        ask_at_the_same_moment()

    assert opened == []


@contextmanager
def _opened() -> Iterator[list[object]]:
    """The connections that any pool of the process opens."""
    opened: list[object] = []

    def note(connection: Any, _record: Any) -> None:
        opened.append(connection)

    sqlalchemy.event.listen(QueuePool, "connect", note)
    try:
        yield opened
    finally:
        sqlalchemy.event.remove(QueuePool, "connect", note)


def test_instances_of_a_process_share_their_connections(
    instance: dg.DagsterInstance, postgres_url: str, tmp_path: Path
) -> None:
    speaking.execute_in_process(instance=instance)

    # As each tick of a sensor in the code server has its own.
    with (
        instance_in(tmp_path / "next", storage=kept_connections(postgres_url)) as following,
        _opened() as opened,
    ):
        speaking.execute_in_process(instance=following)

    assert opened == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_has_connections_of_its_own(
    instance: dg.DagsterInstance, postgres_url: str, tmp_path: Path
) -> None:
    speaking.execute_in_process(instance=instance)
    here = _connections(postgres_url)
    storage = kept_connections(postgres_url)

    def ask(answer: Connection) -> None:
        with instance_in(tmp_path / "child", storage=storage) as child:
            number = child.get_runs_count()
            answer.send((number, _connections(postgres_url)))

    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=ask, args=(theirs,))
    process.start()
    number, together = ours.recv()
    process.join(30)

    assert process.exitcode == 0
    assert number == instance.get_runs_count()
    assert here < together
    assert here <= _connections(postgres_url)


def test_another_pool_of_the_process_is_left_alone(instance: dg.DagsterInstance) -> None:
    """Its connections need not be sockets."""
    other = sqlalchemy.create_engine("sqlite://", poolclass=QueuePool)
    for _ in range(2):
        with other.connect() as connection:
            assert connection.execute(sqlalchemy.text("SELECT 1")).scalar() == 1
    other.dispose()


@dg.asset(deps=["heard"])
def answer() -> None:
    """Of an asset that depends on another one, Dagster looks up what that one was."""


def test_a_process_asks_once_which_tables_and_columns_there_are(
    instance: dg.DagsterInstance, postgres_url: str, tmp_path: Path
) -> None:
    def work(where: dg.DagsterInstance) -> None:
        speaking.execute_in_process(instance=where)
        dg.materialize([answer], instance=where)
        where.add_dynamic_partitions("many", ["one"])
        where.all_instigator_state()
        where.get_run_records(limit=1)

    work(instance)

    # As each tick of a sensor in the code server has its own.
    with (
        instance_in(tmp_path / "next", storage=kept_connections(postgres_url)) as following,
        statements() as asked,
    ):
        work(following)

    assert asked
    looks = ("pg_catalog", "secondary_indexes")
    assert [statement for statement in asked if any(look in statement for look in looks)] == []


@pytest.mark.parametrize(
    ("deleted", "added"),
    [
        ([], ["d"]),
        (["c"], []),
        (["a"], ["d"]),
        (["c"], ["d"]),
        (["c"], ["c"]),
        (["a", "b", "c"], []),
        (["a", "b", "c"], ["a", "b", "c"]),
    ],
    ids=str,
)
def test_partitions_are_as_another_process_left_them(
    instance: dg.DagsterInstance, postgres_url: str, tmp_path: Path, deleted: list[str], added: list[str]
) -> None:
    name = str(uuid.uuid4())
    instance.add_dynamic_partitions(f"not {name}", ["z"])
    instance.add_dynamic_partitions(name, ["a", "b", "c"])
    assert instance.get_dynamic_partitions(name) == ["a", "b", "c"]

    with instance_in(tmp_path / "other", storage=kept_connections(postgres_url)) as other:
        for key in deleted:
            other.delete_dynamic_partition(name, key)
        other.add_dynamic_partitions(name, added)

    assert instance.get_dynamic_partitions(name) == [key for key in "abc" if key not in deleted] + added


def test_partitions_that_have_not_changed_are_not_read_again(
    instance: dg.DagsterInstance, postgres_url: str, tmp_path: Path
) -> None:
    name = str(uuid.uuid4())
    keys = [f"key {number}" for number in range(100)]
    instance.add_dynamic_partitions(name, keys)
    instance.get_dynamic_partitions(name).clear()  # type: ignore[attr-defined] # Whoever asks may do so.

    with (
        instance_in(tmp_path / "next", storage=kept_connections(postgres_url)) as following,
        statements() as asked,
    ):
        assert following.get_dynamic_partitions(name) == keys

    assert len([statement for statement in asked if "dynamic_partitions" in statement]) == 1


def test_nobody_is_notified_of_events_that_are_not_about_assets(
    instance: dg.DagsterInstance, postgres_url: str
) -> None:
    listener = psycopg2.connect(postgres_url.replace("+psycopg2", ""))
    listener.autocommit = True
    with listener.cursor() as cursor:
        cursor.execute(f"LISTEN {CHANNEL_NAME}")

    whispering.execute_in_process(instance=instance)
    listener.poll()
    of_whispering = len(listener.notifies)
    speaking.execute_in_process(instance=instance)
    listener.poll()

    # Those that are, are left to Dagster's own storage.
    assert (of_whispering, len(listener.notifies)) == (0, 1)
    listener.close()


def test_operations_share_a_connection(instance: dg.DagsterInstance, postgres_url: str) -> None:
    speaking.execute_in_process(instance=instance)
    before = _connections(postgres_url)

    speaking.execute_in_process(instance=instance)

    # One that Dagster closed at the start may still be about to end.
    assert not _connections(postgres_url) - before
    assert before


def _connections(postgres_url: str) -> set[int]:
    """The server processes that serve others than the one who asks."""
    return {pid for (pid,) in _asked(postgres_url, "SELECT pid FROM pg_stat_activity WHERE " + _OTHERS)}


_OTHERS = "datname = current_database() AND pid <> pg_backend_pid()"


def _end_every_connection(postgres_url: str) -> None:
    ended = _asked(
        postgres_url, f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {_OTHERS}"
    )
    assert ended
    assert all(is_gone for (is_gone,) in ended)


def _execute(postgres_url: str, statement: str) -> None:
    with (
        psycopg2.connect(postgres_url.replace("+psycopg2", "")) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
    connection.close()


def _asked(postgres_url: str, question: str) -> list[tuple[int]]:
    connection = psycopg2.connect(postgres_url.replace("+psycopg2", ""))
    try:
        with connection.cursor() as cursor:
            cursor.execute(question)
            answers: list[tuple[int]] = cursor.fetchall()
            return answers
    finally:
        connection.close()
