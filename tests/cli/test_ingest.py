"""``scicat-dagster ingest``: files that are registered now, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner, Result

from scicat_dagster.cli import main
from scicat_dagster.orchestration.failures.failed_files import failed_files
from scicat_dagster.orchestration.tags import RAW_DATASET
from tests.small_facility import SmallFacility, instance_in


def ingest(small: SmallFacility, *arguments: str, home: str = "") -> Result:
    small.facility()
    config = str(small.directory / "config.yml")
    runner = CliRunner(env={"DAGSTER_HOME": home})
    return runner.invoke(main, ["ingest", *arguments, "--config", config])


def message_of(small: SmallFacility, **changes: object) -> Path:
    content = {"job_id": "4711", "service_id": "s", "file_name": str(small.file), "error_encountered": False}
    path = small.directory / "message.json"
    path.write_text(json.dumps({**content, **changes}))
    return path


def test_a_file_is_registered_without_a_home(small: SmallFacility) -> None:
    done = ingest(small, str(small.file))

    (dataset,) = small.store.datasets()
    assert done.exit_code == 0, done.output
    assert f"registered  {small.file}" in done.stdout
    assert str(dataset["pid"]) in done.stdout
    assert "register_dataset" in done.stderr


def test_a_registered_file_stays_as_it_is(small: SmallFacility) -> None:
    ingest(small, str(small.file))
    before = small.store.datasets()

    again = ingest(small, str(small.file))

    assert again.exit_code == 0
    assert again.stdout.startswith("unchanged   ")
    assert "scicat-dagster reingest" in again.stdout
    assert small.store.datasets() == before


def test_new_and_unchanged_are_told_apart_for_scripts(small: SmallFacility) -> None:
    shown = [json.loads(ingest(small, str(small.file), "--json").stdout)["files"][0] for _ in range(2)]

    assert [(file["result"], file["is_new"]) for file in shown] == [
        ("registered", True),
        ("registered", False),
    ]


def test_with_a_home_it_is_a_run_like_any_other(small: SmallFacility, tmp_path: Path) -> None:
    with instance_in(tmp_path / "home") as instance:
        done = ingest(small, str(small.file), "--json", home=instance.root_directory)

        (file,) = json.loads(done.stdout)["files"]
        run = instance.get_run_by_id(file["run_id"])
        assert run is not None
        assert (run.status, run.job_name) == (dg.DagsterRunStatus.SUCCESS, "ingest_file")
        assert run.tags["dagster/partition"] == small.key()
        assert run.tags["file"] == small.file.name
        assert instance.get_materialized_partitions(RAW_DATASET) == {small.key()}
        assert file["result"] == "registered"
        assert file["pid"] == small.store.datasets()[0]["pid"] == file["dataset"]["pid"]


def test_a_file_that_another_run_is_at_work_on_is_refused(small: SmallFacility, tmp_path: Path) -> None:
    with instance_in(tmp_path / "home") as instance:
        instance.add_run(
            dg.DagsterRun(
                job_name="ingest_file",
                status=dg.DagsterRunStatus.STARTED,
                tags={"dagster/partition": small.key()},
            )
        )
        done = ingest(small, str(small.file), home=instance.root_directory)

    assert done.exit_code == 1
    assert "Another run is at work on" in done.stdout
    assert small.store.count_datasets() == 0


def test_a_failure_says_why_and_is_among_the_failed_files(small: SmallFacility, tmp_path: Path) -> None:
    small.store.clear()
    with instance_in(tmp_path / "home") as instance:
        done = ingest(small, str(small.file), "--json", home=instance.root_directory)

        (file,) = json.loads(done.stdout)["files"]
        assert done.exit_code == 1
        assert file["result"] == "failed"
        assert "Mandatory fields cannot be built" in file["problem"]["what"]
        assert [failed.run_id for failed in failed_files(instance)] == [file["run_id"]]


def test_one_wrong_file_does_not_keep_the_others_from_being_registered(small: SmallFacility) -> None:
    outside = small.directory / "outside.hdf"
    outside.write_bytes(small.file.read_bytes())

    done = ingest(small, str(small.file.with_name("none.hdf")), str(outside), str(small.file), "--json")

    files = json.loads(done.stdout)["files"]
    assert done.exit_code == 1
    assert [file["result"] for file in files] == ["refused", "refused", "registered"]
    assert "is not there" in files[0]["problem"]["what"]
    assert "outside the data directory" in files[1]["problem"]["what"]


def test_a_dry_run_shows_what_would_be_posted_and_writes_nothing(small: SmallFacility) -> None:
    done = ingest(small, str(small.file), "--dry-run")

    assert done.exit_code == 0
    assert '"dataFileList"' in done.stdout
    assert small.store.count_datasets() == 0
    assert not (small.directory / "data" / "ingestor").exists()


def test_a_key_that_is_set_takes_precedence_over_the_file(small: SmallFacility) -> None:
    done = ingest(small, str(small.file), "--set", "ingestion.file_handling.compute_file_hash=false")

    (dataset,) = small.store.datasets()
    (block,) = small.store.origdatablocks(str(dataset["pid"]))
    assert done.exit_code == 0
    assert [file.get("chk") for file in block["dataFileList"]] == [None]


# pytest forgets what the package does about it.
@pytest.mark.filterwarnings("ignore:Handling yaml-defined logging")
@pytest.mark.parametrize("has_home", [True, False])
def test_what_becomes_of_a_file_is_in_the_log_of_the_configuration(
    small: SmallFacility, tmp_path: Path, *, has_home: bool
) -> None:
    settings = yaml.safe_load((Path(__file__).parents[2] / "dagster.yaml").read_text())
    with instance_in(tmp_path / "home", python_logs=settings["python_logs"]) as instance:
        home = instance.root_directory if has_home else ""
        done = ingest(small, str(small.file), "--set", "logging.file_log=true", home=home)

    assert done.exit_code == 0, done.output
    (line,) = (small.directory / "scicat_ingestor_log.log").read_text().splitlines()
    assert f"Registered {small.key()} as {small.store.datasets()[0]['pid']}." in line


def test_the_message_of_a_file_is_used(small: SmallFacility) -> None:
    schema = yaml.safe_load(small.schema.read_text())
    schema["variables"]["job_id"] = {"source": "VALUE", "value": "<message_job_id>", "value_type": "string"}
    small.schema.write_text(yaml.safe_dump(schema, sort_keys=False))

    done = ingest(small, str(small.file), "--message", str(message_of(small)))

    assert done.exit_code == 0, done.output
    assert (small.directory / "data" / "ingestor" / f"{small.file.name}.message.json").exists()
    assert str(small.store.datasets()[0]["pid"]).endswith("/4711")


def test_a_file_that_is_announced_after_it_was_registered_by_hand_stays_one_dataset(
    small: SmallFacility,
) -> None:
    schema = yaml.safe_load(small.schema.read_text())
    schema["variables"]["job_id"] = {"source": "VALUE", "value": "<message_job_id>", "value_type": "string"}
    schema["schema"] = {key: item for key, item in schema["schema"].items() if item["machine_name"] != "pid"}
    small.schema.write_text(yaml.safe_dump(schema, sort_keys=False))

    by_hand = ingest(small, str(small.file))
    announced = [
        ingest(small, str(small.file), "--message", str(message_of(small, job_id=job))) for job in "ab"
    ]

    assert [done.exit_code for done in (by_hand, *announced)] == [0, 0, 0]
    assert len(small.store.datasets()) == 1


def test_a_message_about_another_file_is_refused(small: SmallFacility) -> None:
    done = ingest(small, str(small.file), "--message", str(message_of(small, file_name="/elsewhere/a.hdf")))

    assert done.exit_code == 1
    assert "/elsewhere/a.hdf" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.hdf", "b.hdf", "--message", "m.json"], "--message is about one file"),
        (["a.hdf", "--set", "ingestion.dryrun=true"], "did you mean dry_run?"),
        ([], "Missing argument"),
    ],
)
def test_wrong_arguments_are_refused(small: SmallFacility, arguments: list[str], said: str) -> None:
    done = ingest(small, *arguments)

    assert done.exit_code == 2
    assert said in done.stderr
