"""What was to be materialized and was not, found by the database: as Dagster itself finds it."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent, StepMaterializationData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scicat_dagster.dagster_internals import runs_without_materialization
from tests.databases import kept_connections, statements
from tests.small_facility import instance_in

RUNS = ["11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"]
numbers = itertools.count()

what_happens = st.lists(
    st.one_of(
        st.tuples(st.just("planned"), st.sampled_from("abc"), st.sampled_from(RUNS)),
        st.tuples(st.just("made"), st.sampled_from("abc"), st.sampled_from(RUNS)),
        st.just(("wiped", "", "")),
    ),
    max_size=10,
)


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    storage: dict[str, object] = {}
    if request.param == "PostgreSQL":
        storage = {"storage": kept_connections(request.getfixturevalue("postgres_url"))}
    with instance_in(tmp_path, **storage) as opened:
        yield opened


def happen(instance: dg.DagsterInstance, asset: dg.AssetKey, what: str, partition: str, run_id: str) -> None:
    if what == "wiped":
        instance.wipe_assets([asset])
        return
    if what == "planned":
        event = DagsterEvent.build_asset_materialization_planned_event(
            "job", "op", AssetMaterializationPlannedData(asset, partition)
        )
    else:
        event = DagsterEvent(
            dg.DagsterEventType.ASSET_MATERIALIZATION.value,
            "job",
            event_specific_data=StepMaterializationData(dg.AssetMaterialization(asset, partition=partition)),
        )
    instance.report_dagster_event(event, run_id)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=what_happens)
def test_what_was_not_materialized_is_found_as_dagster_finds_it(
    instance: dg.DagsterInstance, history: list[tuple[str, str, str]]
) -> None:
    asset = dg.AssetKey(f"asset {next(numbers)}")
    for what, partition, run_id in history:
        happen(instance, asset, what, partition, run_id)

    found = runs_without_materialization(instance.event_log_storage, asset)

    storage = instance.event_log_storage
    attempts = storage.get_latest_asset_partition_materialization_attempts_without_materializations(asset)
    assert found == {path: run_id for path, (run_id, _) in attempts.items()}


def test_the_database_is_asked_once(instance: dg.DagsterInstance) -> None:
    asset = dg.AssetKey("many")
    for number in range(50):
        happen(instance, asset, "planned", f"{number}", RUNS[0])
        happen(instance, asset, "made", f"{number}", RUNS[0])
    happen(instance, asset, "planned", "failed", RUNS[1])

    with statements() as asked:
        assert runs_without_materialization(instance.event_log_storage, asset) == {"failed": RUNS[1]}

    assert len([statement for statement in asked if "event_logs" in statement]) == 1
