"""Past files: the job, the sweep and its sensor, and the command, from files on disk to their runs."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import h5py
import pytest
from click.testing import CliRunner, Result
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from scicat_dagster.cli import main
from scicat_dagster.definitions import build_definitions
from scicat_dagster.orchestration.ingest.assets import raw_dataset
from scicat_dagster.orchestration.names import UNPREFIXED
from scicat_dagster.orchestration.partitions import nexus_files
from scicat_dagster.orchestration.past_files.backfills import MOST_FILES_IN_A_BACKFILL, start_backfills
from scicat_dagster.orchestration.past_files.in_flight import files_in_flight
from scicat_dagster.orchestration.past_files.plan import Plan, plan_sweep
from scicat_dagster.orchestration.past_files.request_sensor import MOST_UNFINISHED, reconcile_sensor
from scicat_dagster.orchestration.past_files.requests import request_events, tags_of
from scicat_dagster.orchestration.past_files.sweep import reconciliation
from scicat_dagster.orchestration.tags import PRIORITY_TAG, REQUESTED_BY_TAG
from tests.small_facility import SmallFacility

HOURS = 3600


def add_files(small: SmallFacility, count: int, hours_old: float = 2) -> list[str]:
    """Files that no message announced, each with a job id of its own."""
    paths = []
    for number in range(count):
        path = small.file.with_name(f"small-coda-{number:03}.hdf")
        shutil.copy(small.file, path)
        with h5py.File(path, "r+") as file:
            del file["entry/entry_identifier_uuid"]
            file["entry/entry_identifier_uuid"] = f"00000000-0000-4000-8000-{number:012}"
        moment = time.time() - hours_old * HOURS
        os.utime(path, (moment, moment))
        paths.append(str(path))
    return paths


def key(path: str) -> str:
    """The partition key of one of these files."""
    return f"raw/{Path(path).name}"


def sweep(small: SmallFacility, **ingestion: object) -> dict[str, object]:
    """One materialization of the asset; what it says."""
    facility = small.facility(**ingestion)
    try:
        result = dg.materialize(
            [reconciliation(UNPREFIXED)], instance=small.instance, resources={"facility": facility}
        )
    finally:
        facility.close()
    (event,) = result.asset_materializations_for_node("reconciliation")
    return {name: value.value for name, value in event.metadata.items()}


def numbers(shown: dict[str, object]) -> dict[str, object]:
    """The numbers that are not zero."""
    return {name: value for name, value in shown.items() if isinstance(value, int) and value}


def rows(table: object) -> list[dict[str, object]]:
    """The rows of a table in metadata."""
    assert isinstance(table, dg.TableMetadataValue)
    return [dict(row.data) for row in table.records]


def tick(small: SmallFacility, cursor: str | None = None) -> dg.SensorResult:
    """One tick of the sensor that was there at once or has had nothing to do so far."""
    result = reconcile_sensor(UNPREFIXED)(dg.build_sensor_context(instance=small.instance, cursor=cursor))
    assert isinstance(result, dg.SensorResult)
    return result


def requests(result: dg.SensorResult) -> list[dg.RunRequest]:
    return list(result.run_requests or ())


def keys(result: dg.SensorResult) -> list[str]:
    return [str(request.partition_key) for request in requests(result)]


def unfinished_run(instance: dg.DagsterInstance, path: str, **tags: str) -> dg.DagsterRun:
    """A run of a file that is under way."""
    return instance.create_run_for_job(
        job, tags={"dagster/partition": path, **tags}, status=dg.DagsterRunStatus.STARTED
    )


@dg.job(name="ingest_file")
def job() -> None:
    pass


# The sweep and its sensor


def test_files_without_messages_are_requested_registered_and_then_left_alone(small: SmallFacility) -> None:
    paths = add_files(small, 10)

    assert numbers(sweep(small)) == {"on disk": 10, "missing": 10, "requested": 10}
    result = tick(small)
    assert keys(result) == [key(path) for path in paths]
    facility = small.facility()
    for path, request in zip(paths, requests(result), strict=True):
        name = Path(path).name
        assert request.tags == {PRIORITY_TAG: "-1", REQUESTED_BY_TAG: "reconcile", "file": name}
        assert small.ingest(facility, Path(path), request.run_config).success

    assert small.store.count_datasets() == 10
    assert numbers(sweep(small)) == {"on disk": 10, "registered": 10}
    assert keys(tick(small, result.cursor)) == []


def test_the_numbers_are_in_a_table_by_instrument(small: SmallFacility) -> None:
    add_files(small, 2)

    (row,) = rows(sweep(small)["table"])

    assert row == {
        "root": str(small.directory / "data"),
        "instrument": "raw",
        "on disk": 2,
        "registered": 0,
        "changed": 0,
        "missing": 2,
        "in flight": 0,
        "failed": 0,
        "requested": 2,
    }


def test_a_file_that_was_just_written_is_left_to_its_announcement(small: SmallFacility) -> None:
    add_files(small, 2, hours_old=0.5)

    assert numbers(sweep(small)) == {}


def test_a_file_older_than_the_configured_days_is_not_looked_at(small: SmallFacility) -> None:
    add_files(small, 2, hours_old=24 * 31)

    assert numbers(sweep(small)) == {}


def test_a_second_sweep_requests_nothing_that_is_requested(small: SmallFacility) -> None:
    add_files(small, 3)
    sweep(small)

    assert numbers(sweep(small)) == {"on disk": 3, "missing": 3, "in flight": 3}


def test_a_file_in_flight_is_not_requested(small: SmallFacility) -> None:
    first, second = add_files(small, 2)
    unfinished_run(small.instance, key(first))

    assert numbers(sweep(small)) == {"on disk": 2, "missing": 2, "in flight": 1, "requested": 1}
    assert keys(tick(small)) == [key(second)]


def test_a_file_that_failed_is_left_to_whoever_looks_after_it(small: SmallFacility) -> None:
    first, second = add_files(small, 2)
    small.store.clear()
    assert not small.ingest(small.facility(), Path(first)).success

    assert numbers(sweep(small)) == {"on disk": 2, "missing": 2, "failed": 1, "requested": 1}
    assert keys(tick(small)) == [key(second)]


def test_a_file_that_changed_since_is_shown_and_not_requested(small: SmallFacility) -> None:
    (path,) = add_files(small, 1)
    small.ingest(small.facility(), Path(path))
    with Path(path).open("ab") as file:
        file.write(b"more")
    os.utime(path, (time.time() - 2 * HOURS,) * 2)

    shown = sweep(small)

    assert numbers(shown) == {"on disk": 1, "changed": 1}
    assert rows(shown["files that changed since they were registered"]) == [{"file": path}]


def test_a_file_that_a_run_registered_under_another_folder_is_known_by_its_pid(small: SmallFacility) -> None:
    (path,) = add_files(small, 1)
    text = small.schema.read_text()
    assert "value: <source_folder>" in text
    small.schema.write_text(text.replace("value: <source_folder>", "value: /archive/443503"))
    assert small.ingest(small.facility(), Path(path)).success

    assert numbers(sweep(small)) == {"on disk": 1, "registered": 1}


def test_a_dry_run_requests_nothing(small: SmallFacility) -> None:
    add_files(small, 2)

    assert numbers(sweep(small, dry_run=True)) == {"on disk": 2, "missing": 2}
    assert keys(tick(small)) == []


def test_a_catalogue_that_is_away_fails_the_sweep_with_a_remedy(small: SmallFacility) -> None:
    add_files(small, 1)
    small.password = "wrong"
    facility = small.facility()

    result = dg.materialize(
        [reconciliation(UNPREFIXED)],
        instance=small.instance,
        resources={"facility": facility},
        raise_on_error=False,
    )
    facility.close()

    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    said = failure.step_failure_data.user_failure_data
    assert said is not None
    assert "password" in str(said.metadata["what to do"].value)
    assert keys(tick(small)) == []


def test_a_request_is_turned_into_runs_bit_by_bit_and_no_file_is_lost(small: SmallFacility) -> None:
    paths = [f"/data/{number}.nxs" for number in range(MOST_UNFINISHED + 700)]
    for event in request_events(paths, "discover"):
        small.instance.report_runless_asset_event(event)

    cursor: str | None = None
    seen: list[dg.RunRequest] = []
    while requests(result := tick(small, cursor)):
        assert len(requests(result)) <= MOST_UNFINISHED
        # A tick that is repeated asks for the same.
        assert requests(tick(small, cursor)) == requests(result)
        seen += requests(result)
        cursor = result.cursor

    assert [request.partition_key for request in seen] == paths
    assert len({request.run_key for request in seen}) == len(paths)
    assert cursor == result.cursor


def test_as_many_runs_are_requested_as_there_is_room_for(small: SmallFacility) -> None:
    paths = [f"/data/{number}.nxs" for number in range(3)]
    for event in request_events(paths, "discover"):
        small.instance.report_runless_asset_event(event)
    others = [
        unfinished_run(small.instance, f"/other/{number}.nxs", **tags_of("reconcile"))
        for number in range(MOST_UNFINISHED)
    ]

    full = reconcile_sensor(UNPREFIXED)(dg.build_sensor_context(instance=small.instance))
    assert isinstance(full, dg.SkipReason)
    for run in others[:2]:
        small.instance.report_run_canceled(run)
    result = tick(small)

    assert keys(result) == paths[:2]
    assert keys(tick(small, result.cursor)) == paths[2:]


def test_a_file_that_is_requested_twice_or_in_flight_has_one_run(small: SmallFacility) -> None:
    unfinished_run(small.instance, "/data/1.nxs")
    for _ in range(2):
        for event in request_events(["/data/1.nxs", "/data/2.nxs"], "discover"):
            small.instance.report_runless_asset_event(event)

    result = tick(small)

    assert keys(result) == ["/data/2.nxs"]
    assert keys(tick(small, result.cursor)) == []


def test_what_a_sweep_does_about_each_missing_file() -> None:
    plan = plan_sweep(["a", "b", "c", "d"], in_flight={"a", "b"}, failed={"b", "c"})

    assert plan == Plan(in_flight=["a", "b"], failed=["c"], wanted=["d"])


def test_the_sweep_is_scheduled_as_configured_and_off(small: SmallFacility) -> None:
    definitions = build_definitions(small.facility().configuration)

    schedule = definitions.resolve_schedule_def("reconcile")

    assert schedule.cron_schedule == "0 3 * * *"
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    assert schedule.job_name == "reconcile_files"


# The job in the launchpad


def discover_files(small: SmallFacility, **config: object) -> dg.ExecuteInProcessResult:
    facility = small.facility()
    definitions = build_definitions(facility.configuration, facility)
    try:
        return definitions.resolve_job_def("discover_files").execute_in_process(
            instance=small.instance,
            run_config={"ops": {"find_missing_files": {"config": config}}},
            raise_on_error=False,
        )
    finally:
        facility.close()


def found_by(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    (output,) = [event for event in result.all_events if event.is_successful_output]
    metadata = output.step_output_data.metadata
    return {name: value.value for name, value in metadata.items()}


def test_the_job_adds_partitions_for_the_missing_files_and_says_what_to_do(small: SmallFacility) -> None:
    paths = add_files(small, 3)
    small.ingest(small.facility(), Path(paths[0]))

    shown = found_by(discover_files(small, glob=["small-coda-*.hdf"]))

    assert numbers(shown) == {"on disk": 3, "registered": 1, "missing": 2}
    assert set(small.instance.get_dynamic_partitions("nexus_files")) == set(map(key, paths))
    assert str(shown["what next"]).startswith("2 files are not in the catalogue")
    assert rows(shown["missing files"]) == [{"file": path} for path in paths[1:]]
    # And again, with the partitions there.
    assert numbers(found_by(discover_files(small, glob=["small-coda-*.hdf"]))) == numbers(shown)


def test_the_job_says_what_a_folder_has_in_which_it_finds_nothing(small: SmallFacility) -> None:
    shown = found_by(discover_files(small, glob=["*.raw"]))

    (row,) = rows(shown["folders without a data file"])
    assert row["folder"] == str(small.directory / "data")
    assert "*.raw" in str(row["what there is"])


def test_the_job_looks_only_where_and_when_it_is_told(small: SmallFacility) -> None:
    add_files(small, 2)

    def on_disk(**config: object) -> object:
        return found_by(discover_files(small, **config))["on disk"]

    assert on_disk() == 3
    assert on_disk(until="2025-01-01") == 1
    assert on_disk(since="2025-01-01") == 2
    assert on_disk(since="2025-01-01T12:00:00+00:00", instrument=["RAW"]) == 2
    assert on_disk(instrument=["loki"]) == 0
    assert on_disk(roots=[str(small.directory / "data" / "raw")], glob=["*-001.hdf"]) == 1


@pytest.mark.parametrize(
    ("config", "remedy"),
    [({"roots": ["/elsewhere"]}, "data_directory"), ({"since": "yesterday"}, "2026-01-31")],
)
def test_a_wrong_configuration_fails_the_job_with_a_remedy(
    small: SmallFacility, config: dict[str, object], remedy: str
) -> None:
    result = discover_files(small, **config)

    (failure,) = [event for event in result.all_events if event.is_step_failure]
    said = failure.step_failure_data.user_failure_data
    assert said is not None
    assert remedy in str(said.metadata["what to do"].value)


# The command


@pytest.fixture
def home(small: SmallFacility, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance in a folder, as the command finds it; the small facility's runs go there."""
    directory = tmp_path / "home"
    directory.mkdir()
    (directory / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(directory)) as instance:
        small.instance = instance
        yield instance


def invoke(small: SmallFacility, *arguments: str, home: str = "") -> Result:
    small.facility()
    config = str(small.directory / "config.yml")
    given = ["discover", str(small.directory / "data"), "--config", config, *arguments]
    return CliRunner(env={"DAGSTER_HOME": home}).invoke(main, given)


def backfills(home: dg.DagsterInstance) -> dict[str, set[str]]:
    """The files of each backfill."""
    graph = AssetGraph.from_assets([raw_dataset(UNPREFIXED)])
    return {
        backfill.backfill_id: {
            str(partition.partition_key)
            for partition in backfill.get_asset_backfill_data(graph).target_subset.iterate_asset_partitions()
        }
        for backfill in home.get_backfills()
    }


def test_the_command_says_what_a_folder_has_in_which_it_finds_nothing(small: SmallFacility) -> None:
    shown = invoke(small, "--glob", "*.raw")

    assert (shown.exit_code, shown.stdout) == (0, "")
    assert "Looked for *.raw" in shown.stderr
    listed = json.loads(invoke(small, "--glob", "*.raw", "--json").stdout)
    assert listed["nothing_found"][0]["looked_for"] == ["*.raw"]


def test_the_command_takes_a_mount_point_for_no_folder_in_which_all_is_well(small: SmallFacility) -> None:
    data = small.directory / "data"
    data.rename(data.with_name("on the storage"))
    data.mkdir()

    shown = invoke(small)

    assert (shown.exit_code, shown.stdout) == (1, "")
    assert f"Not looked at: {data}  It is empty. See that the storage is mounted." in shown.stderr


def test_the_command_lists_files_with_their_states(small: SmallFacility) -> None:
    paths = add_files(small, 2)
    small.ingest(small.facility(), Path(paths[0]))

    shown = invoke(small, "--glob", "small-coda-*.hdf")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines() == [f"registered  {paths[0]}", f"missing     {paths[1]}"]
    assert "raw: 2 on disk, 1 registered, 0 changed, 1 missing, 0 failed" in shown.stderr
    shown = invoke(small, "--glob", "small-coda-*.hdf", "--missing-only")
    assert shown.stdout.splitlines() == [f"missing     {paths[1]}"]


def test_the_commands_answer_for_scripts(small: SmallFacility) -> None:
    add_files(small, 2)
    (small.directory / "data" / "raw" / "link.hdf").symlink_to(small.file)

    shown = json.loads(invoke(small, "--json", "--since", "2025-01-01").stdout)

    assert [file["state"] for file in shown["files"]] == ["missing", "missing"]
    assert shown["counts"][0]["on_disk"] == 2
    assert shown["unreadable"] == []
    assert [place["path"] for place in shown["refused"]] == [
        str(small.directory / "data" / "raw" / "link.hdf")
    ]


def test_a_place_that_cannot_be_looked_at_makes_the_answer_incomplete(small: SmallFacility) -> None:
    (small.directory / "data" / "raw").rename(small.directory / "data" / "gone")
    small.facility()
    config = str(small.directory / "config.yml")

    shown = CliRunner().invoke(main, ["discover", str(small.file.parent), "--config", config])

    assert shown.exit_code == 1
    assert "No such file or directory" in shown.stderr


def test_a_root_outside_the_data_directory_is_said_to_be_so(small: SmallFacility) -> None:
    small.facility()

    shown = CliRunner().invoke(main, ["discover", "/", "--config", str(small.directory / "config.yml")])

    assert shown.exit_code == 1
    assert "cannot be searched" in shown.output


def test_a_backfill_has_exactly_the_missing_files_that_are_not_in_flight(
    small: SmallFacility, home: dg.DagsterInstance
) -> None:
    paths = add_files(small, 4)
    small.ingest(small.facility(), Path(paths[0]))
    unfinished_run(home, key(paths[1]))
    only = ("--glob", "small-coda-*.hdf", "--backfill")

    shown = invoke(small, *only, home=home.root_directory)

    assert shown.exit_code == 0, shown.output
    ((identifier, wanted),) = backfills(home).items()
    assert wanted == set(map(key, paths[2:]))
    assert identifier in shown.stdout
    backfill = home.get_backfill(identifier)
    assert isinstance(backfill, PartitionBackfill)
    assert backfill.status is BulkActionStatus.REQUESTED
    assert backfill.asset_selection == [raw_dataset(UNPREFIXED).key]
    assert dict(backfill.tags) == {PRIORITY_TAG: "-1", REQUESTED_BY_TAG: "discover"}
    assert set(home.get_dynamic_partitions("nexus_files")) == set(map(key, (paths[0], *paths[2:])))


def test_a_second_backfill_of_the_same_files_is_not_started(
    small: SmallFacility, home: dg.DagsterInstance
) -> None:
    paths = add_files(small, 2)
    only = ("--glob", "small-coda-*.hdf", "--backfill")
    invoke(small, *only, home=home.root_directory)

    shown = invoke(small, *only, home=home.root_directory)

    assert shown.exit_code == 0
    assert "2 missing files have a run under way already.\nNothing to do." in shown.stdout
    assert len(backfills(home)) == 1
    # One that somebody cancelled will start nothing.
    (backfill,) = home.get_backfills()
    home.update_backfill(backfill._replace(status=BulkActionStatus.CANCELED))
    assert files_in_flight(home) == set()
    invoke(small, *only, home=home.root_directory)
    assert list(backfills(home).values()) == [set(map(key, paths))] * 2


def test_many_files_are_several_backfills(home: dg.DagsterInstance) -> None:
    paths = [f"/data/{number}.nxs" for number in range(MOST_FILES_IN_A_BACKFILL + 1)]

    ids = start_backfills(home, paths, "discover")

    assert sorted(len(files) for files in backfills(home).values()) == [1, len(paths) - 1]
    assert files_in_flight(home) == set(paths)
    titles = [backfill.title for identifier in ids if (backfill := home.get_backfill(identifier))]
    assert titles == [f"{len(paths) - 1} past files, part 1 of 2", "1 past files, part 2 of 2"]


def test_single_runs_are_requested_of_the_sensor(small: SmallFacility, home: dg.DagsterInstance) -> None:
    paths = add_files(small, 2)
    only = ("--glob", "small-coda-*.hdf", "--run")

    shown = invoke(small, *only, home=home.root_directory)
    again = invoke(small, *only, home=home.root_directory)

    assert shown.exit_code == 0, shown.output
    assert "2 files requested" in shown.stdout
    assert "Nothing to do." in again.stdout
    result = tick(small)
    assert keys(result) == [key(path) for path in paths]
    assert requests(result)[0].tags[REQUESTED_BY_TAG] == "discover"
    assert home.get_backfills() == []


def test_a_file_that_failed_is_shown_with_its_reason_and_left_to_failures(
    small: SmallFacility, home: dg.DagsterInstance
) -> None:
    paths = add_files(small, 2)
    small.store.clear()
    assert not small.ingest(small.facility(), Path(paths[0])).success
    only = ("--glob", "small-coda-*.hdf")

    shown = invoke(small, *only, "--missing-only", home=home.root_directory)
    failed, missing = shown.stdout.splitlines()
    assert failed.startswith(f"failed      {paths[0]}  Mandatory fields cannot be built")
    assert missing == f"missing     {paths[1]}"
    assert "1 missing, 1 failed" in shown.stderr

    shown = invoke(small, *only, "--backfill", home=home.root_directory)
    assert "1 file failed" in shown.stdout
    assert "failures --retry" in shown.stdout
    assert list(backfills(home).values()) == [{key(paths[1])}]


def test_the_job_leaves_failed_files_to_failures(small: SmallFacility) -> None:
    paths = add_files(small, 2)
    small.store.clear()
    assert not small.ingest(small.facility(), Path(paths[0])).success

    shown = found_by(discover_files(small, glob=["small-coda-*.hdf"]))

    assert (shown["missing"], shown["failed"]) == (2, 1)
    assert rows(shown["missing files"]) == [{"file": paths[1]}]
    assert "failures --retry" in str(shown["what next"])


def test_a_backfill_needs_a_home(small: SmallFacility) -> None:
    shown = invoke(small, "--backfill")

    assert shown.exit_code == 1
    assert "DAGSTER_HOME is not set" in shown.output


def test_the_partitions_are_those_of_the_asset() -> None:
    assert raw_dataset(UNPREFIXED).partitions_def == nexus_files()
