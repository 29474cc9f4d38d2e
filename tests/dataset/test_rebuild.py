"""A dataset made from disk once more is the one that was registered, also with a pid from its message."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner

from scicat_dagster.cli import main
from scicat_dagster.kafka.messages import FileWritten
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.ingest.quality_checks import latest_files
from scicat_dagster.orchestration.names import UNPREFIXED
from scicat_dagster.usecases.reingest import Reingestion
from tests.small_facility import SmallFacility

JOB = "4c9a7f5e-job-of-the-message"


@pytest.fixture
def registered(small: SmallFacility) -> Facility:
    """The facility whose file was announced, registered, and has its pid from the announcement.

    Only the content of the file says which of its two schemas is the one.
    """
    schema = yaml.safe_load(small.schema.read_text())
    schema["variables"]["pid"] = {"source": "VALUE", "value": "<message_job_id>", "value_type": "string"}
    for name, order in (("DREAM", 1), ("ODIN", 2)):
        selector = {"and": ["filename:contains:/raw/", f"nexus:/entry/instrument/name:equals:{name}"]}
        document = {**schema, "id": name, "name": name, "order": order, "selector": selector}
        small.schema.with_name(f"{name}.imsc.yml").write_text(yaml.safe_dump(document, sort_keys=False))
    small.schema.unlink()
    announcement = FileWritten(file_path=str(small.file), job_id=JOB, topic="odin", partition=0, offset=7)
    waiting = {"config": {"announcement": announcement.model_dump_json()}}
    facility = small.facility()
    small.ingest(facility, run_config={"ops": {"raw_dataset": {"ops": {"wait_for_file": waiting}}}})
    assert JOB in pid(small)
    return facility


def pid(small: SmallFacility) -> str:
    (dataset,) = small.store.datasets()
    return str(dataset["pid"])


def run(small: SmallFacility, *arguments: str) -> dict[str, object]:
    configuration = Path(small.directory / "config.yml")
    result = CliRunner().invoke(main, [argument.format(configuration) for argument in arguments])
    # The sample schema names an instrument that nobody knows, which is a mistake to validate.
    assert result.exit_code in {0, 1}, result.output
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def test_a_preview_has_the_pid_of_what_is_registered(small: SmallFacility, registered: Facility) -> None:
    shown = run(small, "preview", str(small.file), "--config", "{}", "--json")

    assert isinstance(shown["dataset"], dict)
    assert shown["dataset"]["pid"] == pid(small)
    assert isinstance(shown["difference"], dict)
    assert [change for change in shown["difference"]["changes"] if change["kind"] == "change"] == []


def test_what_an_earlier_version_kept_is_found(small: SmallFacility, registered: Facility) -> None:
    kept = small.file.parents[1] / "ingestor" / f"{small.file.name}.message.json"
    kept.rename(kept.with_name(f"{small.file.stem}.message.json"))

    shown = run(small, "preview", str(small.file), "--config", "{}", "--json")

    assert isinstance(shown["dataset"], dict)
    assert shown["dataset"]["pid"] == pid(small)


def test_validate_knows_what_the_announcement_said(small: SmallFacility, registered: Facility) -> None:
    shown = run(small, "validate", "{}", "--against", str(small.file), "--live", "--json")

    assert isinstance(shown["files"], list)
    (file,) = shown["files"]
    assert file["registrable"] is True
    assert file["unknown"] == []


def test_reingest_finds_the_dataset_up_to_date(small: SmallFacility, registered: Facility) -> None:
    found = Reingestion(registered.settings, registered.schemas(), registered.catalogue)

    assert found.compared(str(small.file))[0].state == "up to date"
    registered.close()


def test_a_file_is_of_the_schema_that_its_content_selects(small: SmallFacility, registered: Facility) -> None:
    files = Reingestion(registered.settings, registered.schemas(), registered.catalogue)

    assert files.is_for(str(small.file), "ODIN")
    assert not files.is_for(str(small.file), "DREAM")
    small.file.unlink()
    assert files.is_for(str(small.file), "DREAM"), "nobody knows: it is looked at, and says why"
    registered.close()


def test_a_changed_base_is_a_difference(small: SmallFacility, registered: Facility) -> None:
    schema = small.schema.with_name("ODIN.imsc.yml")
    document = yaml.safe_load(schema.read_text())
    fields = document.pop("schema")
    schema.write_text(yaml.safe_dump({**document, "extends": "common.part.yml"}, sort_keys=False))
    base = small.schema.with_name("common.part.yml")

    def state() -> str:
        base.write_text(yaml.safe_dump({"schema": fields}, sort_keys=False))
        files = Reingestion(registered.settings, registered.schemas(), registered.catalogue)
        return files.compared(str(small.file))[0].state

    assert state() == "up to date"
    (key,) = (key for key, field in fields.items() if field["machine_name"] == "run_number")
    fields[key]["human_name"] = "Number of the run"
    assert state() == "differs"
    registered.close()


def test_a_check_of_the_latest_files_finds_nothing(small: SmallFacility, registered: Facility) -> None:
    definitions = dg.Definitions(
        asset_checks=[latest_files(UNPREFIXED)],
        jobs=[dg.define_asset_job("check", selection=dg.AssetSelection.checks(latest_files(UNPREFIXED)))],
        resources={"facility": registered},
    )

    result = definitions.resolve_job_def("check").execute_in_process(instance=small.instance)

    found = {one.check_name: one.passed for one in result.get_asset_check_evaluations()}
    assert found["catalogue_agrees"]
    assert found["variables_resolved"]
    registered.close()
