"""``scicat-dagster failures``: failed files by reason, tried again or dismissed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner, Result
from dagster._core.errors import DagsterExecutionInterruptedError

from scicat_dagster.cli import main
from scicat_dagster.orchestration.failures.failed_files import failed_files, problem_of, unregistered_files
from scicat_dagster.orchestration.ingest.jobs import config_of
from scicat_dagster.orchestration.names import UNPREFIXED
from scicat_dagster.orchestration.past_files.request_sensor import reconcile_sensor
from tests.orchestration.ingest.test_raw_dataset import announcement
from tests.small_facility import SmallFacility, instance_in


@pytest.fixture
def home(small: SmallFacility, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with instance_in(tmp_path / "home") as instance:
        small.instance = instance
        yield instance


@pytest.fixture
def failed(small: SmallFacility, home: dg.DagsterInstance) -> list[str]:
    """The names of two files that failed for one reason, and of one that failed for another."""
    facility = small.facility(
        file_handling={"data_file_open_max_tries": 1, "data_directory": str(small.directory / "data")}
    )
    alike = [small.file.with_name(name) for name in ("one.hdf", "two.hdf")]
    for file in alike:
        small.ingest(facility, file)
    small.store.clear()
    small.ingest(facility)
    return [*(file.name for file in alike), small.file.name]


def invoke(home: dg.DagsterInstance, *arguments: str, config: str | None = None) -> Result:
    runner = CliRunner(env={"DAGSTER_HOME": home.root_directory, "SCICAT_INGESTOR_CONFIG": config})
    return runner.invoke(main, ["failures", *arguments])


def requested(home: dg.DagsterInstance) -> list[dg.RunRequest]:
    result = reconcile_sensor(UNPREFIXED)(dg.build_sensor_context(instance=home))
    assert isinstance(result, dg.SensorResult)
    return list(result.run_requests or ())


def test_files_with_the_same_reason_are_listed_together(home: dg.DagsterInstance, failed: list[str]) -> None:
    shown = invoke(home)

    assert shown.exit_code == 1
    assert shown.stdout.startswith("2 files, waiting: … is not there")
    assert "1 file, permanent: Mandatory fields" in shown.stdout
    assert [shown.stdout.count(name) for name in failed] == [1, 1, 1]


def test_what_is_tried_again_by_itself_says_so_and_when(home: dg.DagsterInstance, failed: list[str]) -> None:
    rows = {
        Path(row["file"]).name: row["tried_again_at"] for row in json.loads(invoke(home, "--json").stdout)
    }
    shown = invoke(home).stdout

    one, two, permanent = failed
    assert rows[permanent] is None
    assert shown.count("tried again by itself, at 20") == 2
    last = {Path(file.path).name: file.last for file in failed_files(home)}
    assert all(datetime.fromisoformat(rows[name]) > last[name] for name in (one, two))


def test_the_files_that_are_requested_are_named(home: dg.DagsterInstance, failed: list[str]) -> None:
    shown = invoke(home, "--retry", "--reason", "is not there").stdout.splitlines()

    assert shown[0].startswith("2 files requested")
    assert sorted(Path(line.strip()).name for line in shown[1:]) == sorted(failed[:2])


def test_runs_are_linked_where_the_configuration_says_where_dagster_is(
    home: dg.DagsterInstance, failed: list[str], small: SmallFacility
) -> None:
    config = small.directory / "config.yml"
    settings = yaml.safe_load(config.read_text())
    settings["notifications"] = {"dagster_url": "https://dagster.example.org/"}
    config.write_text(yaml.safe_dump(settings))

    rows = json.loads(invoke(home, "--json", config=str(config)).stdout)

    assert [row["run_url"] for row in rows] == [
        f"https://dagster.example.org/runs/{row['run_id']}" for row in rows
    ]
    assert f"run {rows[0]['run_id']}" in invoke(home).stdout


def test_files_are_tried_again_by_their_reason(home: dg.DagsterInstance, failed: list[str]) -> None:
    done = invoke(home, "--retry", "--reason", "IS NOT THERE")

    assert done.exit_code == 0
    assert done.stdout.startswith("2 files requested")
    assert [Path(str(request.partition_key)).name for request in requested(home)] == failed[:2]


def test_a_file_is_tried_again_with_its_message(home: dg.DagsterInstance, small: SmallFacility) -> None:
    config = config_of(announcement="not one")
    small.ingest(small.facility(), run_config=config)

    invoke(home, "--retry")

    assert [request.run_config for request in requested(home)] == [config]


def test_a_file_is_tried_again_with_its_message_although_a_backfill_failed_since(
    home: dg.DagsterInstance, small: SmallFacility
) -> None:
    config = config_of(announcement="not one")
    small.ingest(small.facility(), run_config=config)
    small.schema.unlink()
    assert not small.ingest(small.facility()).success

    invoke(home, "--retry")

    assert [request.run_config for request in requested(home)] == [config]


def test_files_of_dry_runs_are_shown_apart_and_registered_with_their_message(
    home: dg.DagsterInstance, small: SmallFacility
) -> None:
    other = small.file.with_name("small-coda-other.hdf")
    other.write_bytes(small.file.read_bytes())
    announced = announcement(small.file)
    assert small.ingest(small.facility(dry_run=True), run_config=announced).success
    assert small.ingest(small.facility(), other, run_config=config_of(dry_run=True)).success

    shown = invoke(home)
    assert (shown.exit_code, "2 other files not registered" in shown.stdout) == (0, True)
    listed = invoke(home, "--dry-runs")
    assert listed.exit_code == 1
    assert small.file.name in listed.stdout
    assert "2 files requested" in invoke(home, "--dry-runs", "--retry").stdout

    first, second = requested(home)
    assert first.run_config == announced
    assert second.run_config == config_of()
    assert small.ingest(small.facility(), run_config=first.run_config).success
    assert "1 other file not registered" in invoke(home).stdout
    assert "Dismissed" in invoke(home, "--dismiss", str(other)).stdout
    assert invoke(home, "--dry-runs").stdout == "No files of which there were dry runs only.\n"


def test_a_registered_file_with_a_dry_run_since_is_registered(
    home: dg.DagsterInstance, small: SmallFacility
) -> None:
    assert small.ingest(small.facility()).success
    assert small.ingest(small.facility(dry_run=True)).success

    assert unregistered_files(home).dry_runs == []


def test_what_was_requested_is_not_requested_again(home: dg.DagsterInstance, failed: list[str]) -> None:
    invoke(home, "--retry")

    assert "3 files requested before" in invoke(home, "--retry").stdout
    assert len(requested(home)) == 3


def test_without_such_failures_nothing_is_requested(home: dg.DagsterInstance, failed: list[str]) -> None:
    done = invoke(home, "--retry", "--reason", "who knows")

    assert (done.exit_code, done.stdout) == (0, "No failed files with such a reason.\n")
    assert requested(home) == []


def test_a_file_is_dismissed_by_its_path_or_its_key(
    home: dg.DagsterInstance, failed: list[str], small: SmallFacility
) -> None:
    assert invoke(home, "--dismiss", str(small.file)).stdout == f"Dismissed: {small.key()}\n"
    assert invoke(home, "--dismiss", "raw/one.hdf").exit_code == 0

    assert [Path(file.path).name for file in failed_files(home)] == ["two.hdf"]


def test_only_a_failed_file_can_be_dismissed(home: dg.DagsterInstance, failed: list[str]) -> None:
    done = invoke(home, "--dismiss", "raw/none.hdf", "--dismiss", "raw/one.hdf")

    assert done.exit_code == 1
    assert "Not a failed file: raw/none.hdf" in done.stderr
    assert [Path(file.path).name for file in failed_files(home)] == ["two.hdf", "small-coda.hdf"]


def test_records_that_cannot_be_read_are_not_taken_for_no_failures(tmp_path: Path) -> None:
    with instance_in(tmp_path / "home") as instance:
        history = tmp_path / "home" / "history"
    shutil.rmtree(history, ignore_errors=True)
    history.write_text("not a folder")

    done = invoke(instance)

    assert done.exit_code == 2
    assert "No failed files" not in done.stdout


def test_a_run_whose_process_was_asked_to_end_is_not_called_a_bug(
    home: dg.DagsterInstance, small: SmallFacility
) -> None:
    facility = small.facility()

    def ended(*_: object) -> None:
        raise DagsterExecutionInterruptedError

    facility.schemas = ended  # type: ignore[method-assign, assignment]
    small.ingest(facility)

    (file,) = failed_files(home)
    assert file.kind == "crash"
    assert "bug" not in problem_of(home, file).remedy
