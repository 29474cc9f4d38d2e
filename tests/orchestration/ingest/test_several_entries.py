"""A file with several NXentry, of which its schema makes a dataset each."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import h5py
import pytest
from click.testing import CliRunner, Result

from scicat_dagster.cli import main
from scicat_dagster.dataset.ingestion import MOST_ENTRIES
from scicat_dagster.demo.catalogue import CatalogueServer, Dialect, create_app, demo_accounts
from scicat_dagster.demo.catalogue.accounts import Accounts
from scicat_dagster.demo.catalogue.faults import Call, FaultKind, Faults
from scicat_dagster.orchestration.tags import ENTRY, PID, RAW_DATASET
from scicat_dagster.usecases.reingest import Reingestion
from tests.several_entries import ENTRIES, entry_schema, write_entries, write_schema
from tests.small_facility import SmallFacility, instance_in


@pytest.fixture
def several(small: SmallFacility) -> SmallFacility:
    write_schema(small, entry_schema())
    write_entries(small.file)
    return small


def registered(small: SmallFacility) -> dict[str, float]:
    """The temperatures of the datasets by their names; each lists the file exactly once."""
    datasets = small.store.datasets()
    for dataset in datasets:
        (block,) = small.store.origdatablocks(str(dataset["pid"]))
        (first, *_) = block["dataFileList"]
        assert first["path"] == small.file.name
    return {
        dataset["datasetName"]: dataset["scientificMetadata"]["temperature"]["value"] for dataset in datasets
    }


LONG_AGO = "2020-01-01T00:00:00.000Z"

EXPECTED = {f"Measurement {number} ({name})": 10.0 * number for number, name in enumerate(ENTRIES)}


def command(small: SmallFacility, *arguments: str) -> Result:
    small.facility()
    return CliRunner(env={"DAGSTER_HOME": ""}).invoke(
        main, [*arguments, "--config", str(small.directory / "config.yml")]
    )


def validated(small: SmallFacility) -> list[dict[str, Any]]:
    """What ``validate`` says of the datasets of the file."""
    small.facility()
    config = str(small.directory / "config.yml")
    arguments = ["validate", config, "--against", str(small.file), "--json"]
    shown = json.loads(CliRunner(env={"DAGSTER_HOME": ""}).invoke(main, arguments).stdout)
    return list(shown["files"])


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    event = next(event for event in result.all_events if event.is_step_failure)
    said = event.step_failure_data.user_failure_data
    assert said is not None
    return str(said.description)


def test_each_entry_becomes_a_dataset_with_its_own_values(several: SmallFacility) -> None:
    assert several.ingest(several.facility()).success
    assert registered(several) == EXPECTED
    assert len({dataset["pid"] for dataset in several.store.datasets()}) == len(ENTRIES)


def test_each_dataset_has_its_own_preview(several: SmallFacility) -> None:
    several.ingest(several.facility())

    pictures = [
        attachment["thumbnail"]
        for dataset in several.store.datasets()
        for attachment in several.store.attachments(str(dataset["pid"]))
    ]
    assert len(set(pictures)) == len(ENTRIES)


def test_each_dataset_has_a_materialization_of_the_file_s_partition(several: SmallFacility) -> None:
    several.ingest(several.facility())

    records = several.instance.fetch_materializations(RAW_DATASET, limit=10).records
    shown = [record.asset_materialization for record in records]
    assert {record.partition_key for record in records} == {several.key()}
    assert {one.metadata[ENTRY].value for one in shown if one} == set(ENTRIES)
    pids = {one.metadata[PID].value for one in shown if one}
    assert pids == {dataset["pid"] for dataset in several.store.datasets()}


def test_a_second_run_registers_nothing_twice(several: SmallFacility) -> None:
    several.ingest(several.facility())
    before = several.store.datasets()

    assert several.ingest(several.facility()).success
    assert several.store.datasets() == before


class NoMorePosts:
    """A plan in which no further dataset is created after some."""

    def __init__(self, left: int) -> None:
        self.left = left

    def fault(self, call: Call) -> FaultKind | None:
        if (call.method, call.path) != ("POST", "datasets"):
            return None
        self.left -= 1
        return FaultKind.INTERNAL_ERROR if self.left < 0 else None


def let_requests_end(small: SmallFacility) -> None:
    """Let everything be so old that no request about it can be under way any more."""
    for dataset in small.store.datasets():
        small.store.change_dataset(dataset["pid"], lambda found: {**found, "createdAt": LONG_AGO})


@pytest.mark.parametrize("posts", range(len(ENTRIES)))
def test_where_a_run_ends_in_between_the_next_one_registers_what_is_missing(
    several: SmallFacility, posts: int
) -> None:
    accounts, store, good = Accounts(demo_accounts()), several.store, several.server
    with (
        Faults(create_app(store, accounts, Dialect.V4X), NoMorePosts(posts), store) as faults,
        CatalogueServer(store, accounts, app=faults) as several.server,
    ):
        several.ingest(several.facility(previews=False))
        assert store.count_datasets() == posts
    several.server = good
    let_requests_end(several)

    assert several.ingest(several.facility(previews=False)).success
    assert registered(several) == EXPECTED


def test_several_files_of_a_backfill(several: SmallFacility) -> None:
    other = write_entries(several.file.with_name("other.hdf"), ("raw_data_7",))

    assert several.ingest_range(several.facility(), [several.file, other]).success
    assert several.store.count_datasets() == len(ENTRIES) + 1


def test_datasets_with_the_same_pid_are_refused_before_anything_is_written(several: SmallFacility) -> None:
    schema = entry_schema()
    schema["schema"]["pid"] = {
        "field_type": "high_level", "machine_name": "pid", "value": "mine", "type": "string",
    }  # fmt: skip
    write_schema(several, schema)

    result = several.ingest(several.facility())

    assert "get the same pid" in failure_of(result)
    assert several.store.count_datasets() == 0
    assert [file["registrable"] for file in validated(several)] == [False] * len(ENTRIES)


def test_a_file_without_such_an_entry_is_refused_with_those_that_it_has(several: SmallFacility) -> None:
    write_entries(several.file, ("entry", "strange name"))

    result = several.ingest(several.facility())

    assert "called raw_data_*, and the file has entry, strange name." in failure_of(result)


def test_a_file_with_more_entries_than_a_run_can_register_is_refused(several: SmallFacility) -> None:
    write_entries(several.file, tuple(f"raw_data_{number}" for number in range(MOST_ENTRIES + 1)))

    assert f"each of {MOST_ENTRIES + 1} NXentry" in failure_of(several.ingest(several.facility()))
    assert several.store.count_datasets() == 0


def test_where_the_server_makes_the_pids_it_is_refused(several: SmallFacility) -> None:
    facility = several.facility()
    text = (several.directory / "config.yml").read_text()
    (several.directory / "config.yml").write_text(text + "dataset: {allow_dataset_pid: false}\n")
    del facility

    shown = CliRunner(env={"DAGSTER_HOME": ""}).invoke(
        main, ["preview", str(several.file), "--config", str(several.directory / "config.yml"), "--json"]
    )

    (error,) = json.loads(shown.stdout)["errors"]
    assert "allow_dataset_pid" in error["remedy"]


def test_reingest_changes_each_dataset(several: SmallFacility) -> None:
    several.ingest(several.facility())
    schema = entry_schema()
    schema["schema"]["temperature"]["unit"] = "°C"
    write_schema(several, schema)
    facility = several.facility()

    with closing(facility):
        reingestion = Reingestion(facility.settings, facility.schemas(), facility.catalogue)
        done = reingestion.updated(str(several.file))

    assert {(dataset.entry, dataset.state) for dataset in done} == {(name, "updated") for name in ENTRIES}
    units = {dataset["scientificMetadata"]["temperature"]["unit"] for dataset in several.store.datasets()}
    assert units == {"°C"}


def test_the_commands_show_each_dataset(several: SmallFacility) -> None:
    preview = json.loads(command(several, "preview", str(several.file), "--json").stdout)
    shown = [preview, *preview["others"]]
    assert {one["dataset"]["datasetName"] for one in shown} == EXPECTED.keys()
    assert {one["entry"] for one in shown} == set(ENTRIES)
    assert all("counts" in one["picture"] for one in shown)

    assert {(file["entry"], file["registrable"]) for file in validated(several)} == {
        (name, True) for name in ENTRIES
    }

    ingested = command(several, "ingest", str(several.file), "--json")
    files = json.loads(ingested.stdout)["files"]
    assert {(file["entry"], file["result"]) for file in files} == {(name, "registered") for name in ENTRIES}
    assert {file["pid"] for file in files} == {dataset["pid"] for dataset in several.store.datasets()}


def test_a_path_that_is_the_same_for_all_datasets_is_pointed_at(several: SmallFacility) -> None:
    schema = entry_schema()
    schema["variables"]["title"]["path"] = "/raw_data_2/title"
    write_schema(several, schema)
    several.facility()

    shown = CliRunner(env={"DAGSTER_HOME": ""}).invoke(
        main, ["validate", str(several.directory / "config.yml"), "--against", str(several.file), "--json"]
    )

    rows = [row["what"] for row in json.loads(shown.stdout)["checks"]]
    assert "variables.title reads /raw_data_2 for the datasets of all NXentry." in rows


def test_expected_datasets_are_by_entry(several: SmallFacility) -> None:
    place, schemas = str(several.file.parent), str(several.schema.parent)
    run = CliRunner(env={"DAGSTER_HOME": ""})
    assert run.invoke(main, ["schema", "test", place, "--schemas", schemas, "--update"]).exit_code == 0
    assert run.invoke(main, ["schema", "test", place, "--schemas", schemas]).exit_code == 0
    write_entries(several.file, (*ENTRIES[:2], "raw_data_3"))

    found = run.invoke(main, ["schema", "test", place, "--schemas", schemas])

    assert found.exit_code == 1
    assert "raw_data_3.datasetName" in found.output
    assert "raw_data_10.datasetName" in found.output


def without(file: Path, *places: str) -> None:
    with h5py.File(file, "r+") as opened:
        for place in places:
            del opened[place]


def test_what_holds_for_all_entries_is_said_once(several: SmallFacility) -> None:
    schema = entry_schema()
    schema["variables"]["lost"] = {"source": "NXS", "path": "/<entry>/nowhere", "value_type": "string"}
    schema["schema"]["lost"] = {
        "field_type": "scientific_metadata", "machine_name": "lost", "value": "<lost>", "type": "string",
    }  # fmt: skip
    write_schema(several, schema)
    without(several.file, "raw_data_2/sample", "raw_data_10/sample", "raw_data_10/title")
    several.facility()

    shown = CliRunner(env={"DAGSTER_HOME": ""}).invoke(
        main, ["validate", str(several.directory / "config.yml"), "--against", str(several.file), "--json"]
    )

    rows = [row for row in json.loads(shown.stdout)["checks"] if row["check"] == "file"]
    about: dict[str, str] = {}
    for row in rows:
        about[row["file"]] = about.get(row["file"], "") + row["what"]
    all_of_them, two, one = about.items()
    assert all_of_them[0] == f"{several.file} (all 3 NXentry)"
    assert all_of_them[1].count("/<entry>/nowhere") == 1
    assert two[0] == f"{several.file} (raw_data_10, raw_data_2)"
    assert two[1].count("/<entry>/sample/temperature") == 1
    assert one[0] == f"{several.file} (raw_data_10)"
    assert "/raw_data_10/title" in one[1]
    assert shown.exit_code == 0


def with_mandatory_title(several: SmallFacility) -> None:
    """The title is the dataset's owner, without which it cannot be built."""
    schema = entry_schema()
    schema["schema"]["owner"]["value"] = "<title>"
    write_schema(several, schema)


@pytest.mark.parametrize("failing", [ENTRIES[0], ENTRIES[1]])
def test_a_preview_shows_the_datasets_beside_an_entry_that_fails(
    several: SmallFacility, failing: str
) -> None:
    with_mandatory_title(several)
    without(several.file, f"{failing}/title")

    in_json = command(several, "preview", str(several.file), "--json")
    in_text = command(several, "preview", str(several.file))

    assert (in_json.exit_code, in_text.exit_code) == (1, 1)
    first = json.loads(in_json.stdout)
    shown = {each["entry"]: each for each in (first, *first["others"])}
    assert shown.keys() == set(ENTRIES)
    for entry, each in shown.items():
        is_failing = entry == failing
        assert (each["dataset"] is None, bool(each["errors"])) == (is_failing, is_failing)
        assert first.keys() == each.keys()
    assert in_text.stdout.count("It could not be registered.") == 1
    assert in_text.stdout.count("if its others could") == len(ENTRIES) - 1


def test_a_preview_of_datasets_with_the_same_pid_is_one_error(several: SmallFacility) -> None:
    schema = entry_schema()
    schema["schema"]["pid"] = {
        "field_type": "high_level", "machine_name": "pid", "value": "mine", "type": "string",
    }  # fmt: skip
    write_schema(several, schema)

    shown = json.loads(command(several, "preview", str(several.file), "--json").stdout)

    (error,) = shown["errors"]
    assert "get the same pid" in error["reason"]
    assert (shown["dataset"], shown["others"]) == (None, [])


def discovered(small: SmallFacility, home: str = "") -> dict[str, str]:
    """The state of the file, and what more is known of it."""
    small.facility(previews=False)
    config = str(small.directory / "config.yml")
    given = ["discover", str(small.file.parent), "--config", config, "--json"]
    shown = CliRunner(env={"DAGSTER_HOME": home}).invoke(main, given)
    (found,) = json.loads(shown.stdout)["files"]
    return {found["state"]: found["reason"]}


def delete_one(small: SmallFacility) -> None:
    small.store.delete_dataset(str(small.store.datasets()[0]["pid"]))


def test_a_file_of_whose_datasets_one_is_gone_is_discovered(several: SmallFacility) -> None:
    several.ingest(several.facility(previews=False))
    before = discovered(several)
    delete_one(several)

    assert (before, discovered(several)) == (
        {"registered": ""},
        {"missing": "2 of its 3 datasets are registered."},
    )
    several.ingest(several.facility(previews=False))
    assert discovered(several) == {"registered": ""}


def test_a_file_is_not_opened_that_a_run_of_ours_registered_whole(
    several: SmallFacility, tmp_path: Path
) -> None:
    with instance_in(tmp_path / "home") as home, instance_in(tmp_path / "empty") as empty:
        several.instance = home
        several.ingest(several.facility(previews=False))
        delete_one(several)

        assert discovered(several, home.root_directory) == {"registered": ""}
        assert set(discovered(several, empty.root_directory)) == {"missing"}


def test_a_file_that_failed_with_some_of_its_datasets_is_a_failed_one(
    several: SmallFacility, tmp_path: Path
) -> None:
    accounts, store, good = Accounts(demo_accounts()), several.store, several.server
    with instance_in(tmp_path / "home") as several.instance:
        home = several.instance.root_directory
        with (
            Faults(create_app(store, accounts, Dialect.V4X), NoMorePosts(2), store) as faults,
            CatalogueServer(store, accounts, app=faults) as several.server,
        ):
            several.ingest(several.facility(previews=False))
        several.server = good
        assert store.count_datasets() == 2

        (state,) = discovered(several, home)

    assert state == "failed"


def test_a_file_that_cannot_be_opened_any_more_stays_registered_and_says_so(several: SmallFacility) -> None:
    several.ingest(several.facility(previews=False))
    size = several.file.stat().st_size
    several.file.write_bytes(bytes(size))

    found = discovered(several)

    assert "Whether all its datasets are registered is not known" in found["registered"]
