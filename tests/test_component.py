"""Two facilities in one code location and one instance, as *Several facilities in one Dagster* says."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from streaming_data_types import serialise_wrdn

from scicat_dagster import IngestComponent
from scicat_dagster.cli import main
from scicat_dagster.definitions import build_definitions
from scicat_dagster.demo.broker import LoopbackBroker
from scicat_dagster.errors import PermanentError
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.failures.failed_files import failed_files
from scicat_dagster.orchestration.ingest.retry_sensor import LONGEST_PAUSE, retries
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.operations.today import Registrations, today
from scicat_dagster.orchestration.partitions import prefix_of
from scicat_dagster.orchestration.past_files.in_flight import files_in_flight
from scicat_dagster.orchestration.past_files.requests import request_events
from scicat_dagster.orchestration.tags import RAW_DATASET
from tests.small_facility import SmallFacility, instance_in, small_facility

PACKAGE = Path(__file__).parents[1] / "scicat_dagster"
EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "two-facilities"
ODIN, LOKI = Names(("odin",)), Names(("loki",))


@dataclass
class Both:
    """Two facilities whose files have the same partition keys, and what Dagster loads of them."""

    small: dict[Names, SmallFacility]
    facilities: dict[Names, Facility]
    definitions: dg.Definitions
    instance: dg.DagsterInstance

    @property
    def key(self) -> str:
        """The partition key of the file of either."""
        return self.small[ODIN].key()

    def ingest(self, names: Names) -> dg.ExecuteInProcessResult:
        """Run the job of one of them for its file."""
        self.instance.add_dynamic_partitions(names.name("nexus_files"), [self.key])
        return self.definitions.resolve_job_def(names.name("ingest_file")).execute_in_process(
            instance=self.instance,
            partition_key=self.key,
            tags={"dagster/max_retries": "0"},
            raise_on_error=False,
        )

    def tick(self, sensor: str) -> dg.SensorResult:
        """One tick, as the code server evaluates it; with the cursor that Dagster has of the sensor."""
        repository = self.definitions.get_repository_def()
        definition = repository.get_sensor_def(sensor)
        context = dg.build_sensor_context(
            instance=self.instance, repository_def=repository, resources=self._resources(sensor)
        )
        result = definition(context)
        assert isinstance(result, dg.SensorResult)
        return result

    def _resources(self, sensor: str) -> dict[str, Facility]:
        return {names.facility: each for names, each in self.facilities.items() if names.has(sensor)}


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    with (
        small_facility(tmp_path / "odin") as odin,
        small_facility(tmp_path / "loki") as loki,
        instance_in(tmp_path / "home") as instance,
    ):
        small = {ODIN: odin, LOKI: loki}
        facilities = {names: each.facility() for names, each in small.items()}
        for names, facility in facilities.items():
            facility.names = names
        merged = dg.Definitions.merge(
            *(build_definitions(each.configuration, each) for each in facilities.values())
        )
        yield Both(small, facilities, merged, instance)
        for facility in facilities.values():
            facility.close()


def registered(both: Both, names: Names) -> set[str]:
    return set(both.instance.get_materialized_partitions(names.key(RAW_DATASET)))


def test_a_file_of_one_facility_is_not_one_of_the_other(both: Both) -> None:
    assert both.ingest(ODIN).success

    assert (registered(both, ODIN), registered(both, LOKI)) == ({both.key}, set())
    assert both.instance.get_dynamic_partitions("loki__nexus_files") == []
    assert len(both.small[ODIN].store.datasets()) == 1
    assert both.small[LOKI].store.datasets() == []

    assert both.ingest(LOKI).success

    assert registered(both, LOKI) == {both.key}
    assert len(both.small[LOKI].store.datasets()) == 1
    assert len(both.small[ODIN].store.datasets()) == 1


def test_a_failure_is_that_of_its_facility(both: Both) -> None:
    shutil.rmtree(both.small[LOKI].schema.parent)
    assert not both.ingest(LOKI).success
    assert both.ingest(ODIN).success

    assert [file.path for file in failed_files(both.instance, names=LOKI)] == [both.key]
    assert failed_files(both.instance, names=ODIN) == []
    assert failed_files(both.instance, names=UNPREFIXED) == []
    runner = CliRunner(env={"DAGSTER_HOME": both.instance.root_directory})
    assert both.key in runner.invoke(main, ["failures", "--key-prefix", "loki"]).stdout
    assert runner.invoke(main, ["failures", "--key-prefix", "odin"]).stdout == "No failed files.\n"
    assert runner.invoke(main, ["failures"]).stdout == "No failed files.\n"
    counts = {
        names: today(both.instance, (), {}, Registrations(names), names=names) for names in (ODIN, LOKI)
    }
    assert {names: (each.registered, each.failed) for names, each in counts.items()} == {
        ODIN: (1, 0),
        LOKI: (0, 1),
    }


def test_dismissing_a_file_leaves_that_of_the_other(both: Both) -> None:
    for names in (ODIN, LOKI):
        shutil.rmtree(both.small[names].schema.parent)
        assert not both.ingest(names).success
    runner = CliRunner(env={"DAGSTER_HOME": both.instance.root_directory})

    assert runner.invoke(main, ["failures", "--key-prefix", "odin", "--dismiss", both.key]).exit_code == 0

    assert failed_files(both.instance, names=ODIN) == []
    assert [file.path for file in failed_files(both.instance, names=LOKI)] == [both.key]


def test_a_request_starts_the_run_of_its_facility(both: Both) -> None:
    for event in request_events([both.key], "discover", names=LOKI):
        both.instance.report_runless_asset_event(event)

    assert (files_in_flight(both.instance, ODIN), files_in_flight(both.instance, LOKI)) == (set(), {both.key})
    assert both.tick("odin__reconcile_sensor").run_requests == []
    (request,) = both.tick("loki__reconcile_sensor").run_requests or []
    assert (request.job_name, request.partition_key) == ("loki__ingest_file", both.key)


def test_each_sensor_reads_its_own_topic_from_its_own_cursor(
    tmp_path: Path, both: Both, loopback_broker: LoopbackBroker
) -> None:
    producer = Producer({"bootstrap.servers": loopback_broker.bootstrap_servers, "log_level": 0})
    for names, small in both.small.items():
        loopback_broker.create_topic(names.name("files"), 1)
        small.kafka.update(topics=names.name("files"), bootstrap_servers=loopback_broker.bootstrap_servers)
        both.facilities[names] = small.facility()
        both.facilities[names].names, both.facilities[names].wait_seconds = names, 10.0
        producer.produce(names.name("files"), bytes(serialise_wrdn("w", "job", False, str(small.file))))
    assert producer.flush(30) == 0

    for names in (ODIN, LOKI):
        result = both.tick(names.name("wrdn_sensor"))
        (request,) = result.run_requests or []
        assert (request.job_name, request.partition_key) == (names.name("ingest_file"), both.key)
        assert [each.partitions_def_name for each in result.dynamic_partitions_requests or []] == [
            names.name("nexus_files")
        ]
        assert names.name("files") in str(result.cursor)
        for event in result.asset_events:
            assert event.asset_key.path[0] == names.prefix[0]
        # The run takes the announcement from there.
        job = both.definitions.resolve_job_def(str(request.job_name))
        both.instance.add_dynamic_partitions(names.name("nexus_files"), [both.key])
        assert job.execute_in_process(
            instance=both.instance, partition_key=both.key, run_config=request.run_config
        ).success


def test_a_retry_is_requested_from_the_job_of_its_facility(both: Both) -> None:
    run = both.instance.create_run_for_job(
        both.definitions.resolve_job_def("loki__ingest_file"),
        tags={"dagster/partition": both.key},
    )
    both.instance.add_dynamic_partitions("loki__nexus_files", [both.key])
    both.instance.report_run_failed(run)
    (failed,) = failed_files(both.instance, names=LOKI)

    result = retries(both.instance, failed.last + LONGEST_PAUSE, LOKI)

    assert isinstance(result, dg.SensorResult)
    assert [each.job_name for each in result.run_requests or []] == ["loki__ingest_file"]
    assert isinstance(retries(both.instance, failed.last + LONGEST_PAUSE, ODIN), dg.SkipReason)
    assert prefix_of(run) == ("loki",)


def test_nothing_of_a_facility_has_a_name_without_its_prefix(both: Both) -> None:
    repository = both.definitions.get_repository_def()

    assert {key.path[0] for key in repository.asset_graph.get_all_asset_keys()} == {"odin", "loki"}
    named = [
        *(job.name for job in repository.get_all_jobs() if not job.name.startswith("__")),
        *(sensor.name for sensor in repository.sensor_defs),
        *(schedule.name for schedule in repository.schedule_defs),
        *(key for key in both.definitions.resources or {}),
    ]
    assert len(named) == len(set(named)) > 40
    assert {name.partition("__")[0] for name in named} == {"odin", "loki"}


def test_one_without_a_prefix_may_stand_beside(both: Both, tmp_path: Path) -> None:
    with small_facility(tmp_path / "third") as third:
        facility = third.facility()
        merged = dg.Definitions.merge(both.definitions, build_definitions(facility.configuration, facility))
        facility.close()

    dg.Definitions.validate_loadable(merged)


@pytest.mark.parametrize("prefix", ["", "ess/odin", "beer_2"])
def test_a_prefix_is_read_as_it_is_written(prefix: str) -> None:
    assert str(Names.parse(prefix)) == prefix


@pytest.mark.parametrize("prefix", ["odin/", "a__b", "my-odin", "_odin", "odin_", "ödin", "a b"])
def test_a_prefix_that_could_be_that_of_another_is_refused(prefix: str) -> None:
    with pytest.raises(PermanentError, match="key_prefix"):
        Names.parse(prefix)


TOKENS = {"SCICAT_TOKEN_ODIN": "one", "SCICAT_TOKEN_LOKI": "another"}


def in_example(tmp_path: Path, *command: str) -> str:
    """What `dg` prints in a copy of the documentation's example."""
    project = shutil.copytree(EXAMPLE, tmp_path / "project")
    programs = Path(sys.executable).parent
    if not (programs / "dg").exists():
        pytest.skip("It needs dg, of the extra dg.")
    done = subprocess.run(
        [programs / "dg", *command],
        cwd=project,
        env={"PYTHONPATH": str(project / "src"), "PATH": str(programs), "HOME": str(tmp_path), **TOKENS},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_dg_lists_the_component(tmp_path: Path) -> None:
    assert '"scicat_dagster.IngestComponent"' in in_example(tmp_path, "list", "components", "--json")


def test_dg_loads_both_facilities_of_the_example(tmp_path: Path) -> None:
    assert "All definitions loaded successfully." in in_example(tmp_path, "check", "defs")
    shutil.rmtree(tmp_path / "project")

    listed = in_example(tmp_path, "list", "defs", "--json")

    assert {'"odin/raw_dataset"' in listed, '"loki/raw_dataset"' in listed} == {True}


def test_the_attributes_are_explained_to_who_writes_them() -> None:
    schema = IngestComponent.model().model_json_schema()

    assert set(schema["properties"]) == {"config", "key_prefix"}
    assert all(each["description"] for each in schema["properties"].values())


def test_whoever_takes_names_is_given_them() -> None:
    """The default is for people and tests. Left out in the package, it is one facility's data in another."""
    trees = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    takes = {
        (_module(path), found.name): [each.arg for each in found.args.args].index("names")
        for path, tree in trees.items()
        if _module(path).startswith(ROOMS)
        for found in tree.body
        if isinstance(found, ast.FunctionDef) and "names" in [each.arg for each in found.args.args]
    }
    takes[f"{ROOMS}.operations.today", "Registrations"] = 0
    takes[f"{ROOMS}.operations.measures", "Counts"] = 1
    # The demo has one facility.
    left_out = [
        f"{path.name}:{call.lineno}"
        for path, tree in trees.items()
        if "demo" not in path.parts
        for call, place in _calls(path, tree, takes)
        if len(call.args) <= place and not any(word.arg == "names" for word in call.keywords)
    ]

    assert len(takes) > 40
    assert left_out == []


ROOMS = "scicat_dagster.orchestration"


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def _calls(path: Path, tree: ast.Module, takes: dict[tuple[str, str], int]) -> Iterator[tuple[ast.Call, int]]:
    """The calls of functions that take names, and which of the positional arguments these are."""
    known = {name: place for (module, name), place in takes.items() if module == _module(path)}
    for found in ast.walk(tree):
        if isinstance(found, ast.ImportFrom):
            for each in found.names:
                if (place := takes.get((found.module or "", each.name))) is not None:
                    known[each.asname or each.name] = place
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in known:
            yield call, known[call.func.id]
