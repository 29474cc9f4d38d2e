"""``scicat-dagster validate --against`` says what would become of real files, without a server.

How metadata is made is for the tests of schemas and datasets; here it is that each file gets its account, and
that what only SciCat or an announcement knows is told apart from what failed.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import pytest
import yaml
from click.testing import CliRunner, Result

from scicat_dagster.cli import main

DATA = Path(__file__).parents[1] / "data"
MANDATORY = {
    "owner", "contactEmail", "sourceFolder", "creationTime", "principalInvestigator", "creationLocation",
    "ownerGroup",
}  # fmt: skip

CONFIGURATION = """\
dataset: {default_owner_group: ingestor}
ingestion: {schemas_directory: schemas}
kafka: {topics: [files], bootstrap_servers: "127.0.0.1:1"}
scicat: {host: "http://127.0.0.1:1/api/v3", token: secret-nobody-may-see}
"""

Change = Callable[[dict[str, Any]], None]


@dataclass
class Facility:
    """A configuration, one schema for every file, and a file of a facility."""

    folder: Path
    schema: dict[str, Any]

    @property
    def file(self) -> Path:
        return self.folder / "small-coda.hdf"

    def run(self, *options: str) -> Result:
        path = self.folder / "schemas" / "one.imsc.yml"
        path.write_text(yaml.safe_dump(self.schema, sort_keys=False), encoding="utf-8")
        arguments = ["validate", str(self.folder / "config.yml"), "--against", str(self.file), *options]
        result = CliRunner().invoke(main, arguments)
        assert "secret-nobody-may-see" not in result.output
        assert isinstance(result.exception, SystemExit | None)
        return result

    def report(self) -> dict[str, Any]:
        """What ``--json`` prints of the file; nothing is written while it is made."""
        before = sorted(self.folder.rglob("*"))
        result = self.run("--json")
        shown = json.loads(result.stdout)
        assert list(shown) == ["result", "config", "checks", "files", "schemas"]
        assert result.exit_code == {"ok": 0, "warning": 0, "mistake": 1, "unchecked": 2}[shown["result"]]
        (file,) = shown["files"]
        assert list(file) == ["file", "schema", "registrable", "fields", "unresolved", "unknown", "entry"]
        assert sorted(self.folder.rglob("*")) == sorted({*before, self.folder / "schemas" / "one.imsc.yml"})
        assert isinstance(file, dict)
        return file

    def assign(self, key: str, name: str, value: Any, kind: str = "high_level") -> None:
        self.schema["schema"][key] = {
            "field_type": kind, "machine_name": name, "value": value, "type": "string",
        }  # fmt: skip

    def define(self, name: str, **definition: Any) -> None:
        self.schema["variables"][name] = {"value_type": "string", **definition}


@pytest.fixture
def facility(
    tmp_path: Path, schema_document: dict[str, Any], aged: Callable[[Path, float], Path]
) -> Facility:
    made = Facility(tmp_path, schema_document)
    (tmp_path / "schemas").mkdir()
    (tmp_path / "config.yml").write_text(CONFIGURATION, encoding="utf-8")
    shutil.copyfile(DATA / "small-coda.hdf", made.file)
    aged(made.file, 3600)
    for name in ("datasetName", "description", "proposalId", "instrumentId"):
        made.assign(name, name, "given")
    made.assign("folder", "sourceFolder", str(tmp_path))
    made.assign("job", "job_id", "given", "scientific_metadata")
    return made


def states(report: dict[str, Any]) -> dict[str, str]:
    return {field["field"]: field["state"] for field in report["fields"]}


def test_a_file_that_could_be_registered_has_every_field(facility: Facility) -> None:
    report = facility.report()

    assert report["file"] == str(facility.file)
    assert report["schema"] == {"id": "schema-1", "name": "Odin"}
    assert report["registrable"] is True
    assert set(states(report).values()) == {"filled"}
    assert states(report).keys() > MANDATORY
    assert (report["unresolved"], report["unknown"]) == ([], [])
    shown = facility.run().stdout.splitlines()
    assert f"           file           {facility.file}" in shown
    assert "ok         file           the schema Odin is for it; it could be registered." in shown


def test_a_file_whose_schema_has_mistakes_is_not_said_to_be_fine(facility: Facility) -> None:
    facility.define("temperature", source="VALUE", value="a", operatr="to-upper")

    report = facility.report()

    assert report["registrable"] is True
    shown = facility.run()
    assert shown.exit_code == 1
    assert (
        "warning    file           the schema Odin is for it; it would be registered without" in shown.stdout
    )
    assert "it could be registered" not in shown.stdout


def test_a_variable_and_a_field_that_fail_are_warnings_with_their_reasons(facility: Facility) -> None:
    facility.define("lost", source="NXS", path="/entry/nowhere")
    facility.assign("lost", "comment", "<lost>")

    report = facility.report()

    assert report["registrable"] is True
    subjects = {notice["subject"]: notice["reason"] for notice in report["unresolved"]}
    assert "/entry/nowhere" in subjects["variables.lost"]
    assert "/entry/nowhere" in subjects["schema.lost (comment)"]
    shown = facility.run().stdout
    assert "Also affected: schema.lost (comment)." in shown
    assert "0 mistakes, 1 warning" in shown


def test_one_cause_is_one_row_whatever_needs_it(facility: Facility) -> None:
    facility.define("lost", source="NXS", path="/entry/nowhere")
    facility.define("person", source="VALUE", value="Dr <lost>")
    facility.assign("owner", "owner", "<person>")
    facility.assign("pi", "principalInvestigator", "<person>")
    facility.assign("description", "description", "<lost>")

    shown = facility.run()

    assert shown.exit_code == 1
    assert "1 mistake, 0 warnings" in shown.stdout
    assert "mandatory fields cannot be built: owner, principalInvestigator: variables.lost: " in shown.stdout
    assert shown.stdout.count("/entry/nowhere") == 1
    affected = shown.stdout.partition("Also affected: ")[2].splitlines()[0]
    assert "variables.person" in affected
    assert "description (recommended)" in affected or "schema.description (description)" in affected


def test_a_gap_is_the_schemas_mistake_and_not_the_files_as_well(facility: Facility) -> None:
    for name in ("owner", "contactEmail"):
        facility.assign("owner" if name == "owner" else "contact", name, "<FILL_IN>")

    shown = facility.run()

    assert shown.exit_code == 1
    assert "2 mistakes, 1 warning" in shown.stdout
    assert "by the mistakes of the schema it lacks owner, contactEmail." in shown.stdout


def test_an_identifier_is_missed_only_where_there_could_be_one(facility: Facility) -> None:
    del facility.schema["schema"]["job"]
    with h5py.File(facility.file, "a") as file:
        for name in ("entry_identifier_uuid", "entry_identifier"):
            file["entry"].pop(name, None)
    os.utime(facility.file, (0, 0))

    assert "scientificMetadata.job_id" not in states(facility.report())
    (facility.folder / "config.yml").write_text(
        CONFIGURATION.replace("dataset: {", "dataset: {allow_dataset_pid: false, "), encoding="utf-8"
    )
    assert states(facility.report())["scientificMetadata.job_id"] == "missing"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("owner", None, "the schema does not assign it"),
        ("owner", "<lost>", "/entry/nowhere"),
        ("owner", "", "is empty"),
        ("contactEmail", "ada", "is not an e-mail address"),
        ("pid", "<lost>", "/entry/nowhere"),
        ("type", "", "is empty"),
    ],
)
def test_a_mandatory_field_that_cannot_be_built_is_a_mistake(
    facility: Facility, name: str, value: str | None, reason: str
) -> None:
    facility.define("lost", source="NXS", path="/entry/nowhere")
    assignments = facility.schema["schema"]
    for key in [key for key, field in assignments.items() if field["machine_name"] == name]:
        del assignments[key]
    if value is not None:
        facility.assign("changed", name, value)

    report = facility.report()
    text = facility.run()

    assert report["registrable"] is False
    assert {field for field, state in states(report).items() if state == "missing"} == {name}
    assert [reason in field["reason"] for field in report["fields"] if field["field"] == name] == [True]
    assert text.exit_code == 1
    assert f"{name}: " in text.stdout
    assert "1 mistake, " in text.stdout


def test_all_mandatory_fields_that_lack_are_named(facility: Facility) -> None:
    for key in ("owner", "contact", "folder"):
        del facility.schema["schema"][key]

    missing = {field for field, state in states(facility.report()).items() if state == "missing"}

    assert missing == {"owner", "contactEmail", "sourceFolder"}


def test_a_field_that_only_the_settings_give_is_filled(facility: Facility) -> None:
    del facility.schema["schema"]["group"]

    assert states(facility.report())["ownerGroup"] == "filled"


@pytest.mark.parametrize("name", ["datasetName", "description", "proposalId", "instrumentId", "job"])
def test_a_recommended_field_that_is_not_assigned_is_a_warning(facility: Facility, name: str) -> None:
    del facility.schema["schema"][name]

    report = facility.report()

    missing = [field for field in report["fields"] if field["state"] == "missing"]
    assert [field["importance"] for field in missing] == ["recommended"]
    assert missing[0]["field"] in {name, "scientificMetadata.job_id"}
    assert report["registrable"] is True
    assert "is recommended: the schema does not assign it" in facility.run().stdout


def test_what_only_scicat_knows_is_neither_there_nor_missing(facility: Facility) -> None:
    facility.define("pi", source="SC", url="proposals/1", field="pi")
    facility.define("person", source="VALUE", value="Dr <pi>")
    facility.assign("owner", "owner", "<person>")
    facility.assign("keywords", "comment", "<pi>")

    report = facility.report()
    text = facility.run()

    assert report["registrable"] is None
    assert states(report)["owner"] == "unknown"
    assert [notice["subject"] for notice in report["unknown"]] == [
        "variables.pi", "variables.person", "schema.keywords (comment)",
    ]  # fmt: skip
    assert report["unresolved"] == []
    assert text.exit_code == 0
    assert "--live asks SciCat" in text.stdout


def test_a_mistake_is_told_although_other_fields_are_unknown(facility: Facility) -> None:
    facility.define("pi", source="SC", url="proposals/1", field="pi")
    facility.assign("owner", "owner", "<pi>")
    facility.assign("contact", "contactEmail", "nobody")

    report = facility.report()

    assert report["registrable"] is False
    assert (states(report)["owner"], states(report)["contactEmail"]) == ("unknown", "missing")


def test_what_only_an_announcement_brings_is_unknown(facility: Facility) -> None:
    facility.define("job", source="VALUE", value="<message_job_id>")
    facility.assign("pid", "pid", "20.500/<job>")

    report = facility.report()

    assert report["registrable"] is None
    assert states(report)["pid"] == "unknown"


def test_a_sample_that_scicat_would_look_up_is_unknown(facility: Facility) -> None:
    facility.schema["sample_attachment"] = {
        "query_sample_name": True, "sample_name_path": "/entry/title",
    }  # fmt: skip

    report = facility.report()

    assert [notice["subject"] for notice in report["unknown"]] == ["sample_attachment"]
    assert report["registrable"] is True


def no_schema(facility: Facility) -> None:
    facility.schema["selector"] = "filename:contains:/nowhere/"


@pytest.mark.parametrize("name", ["owner", "pid"])
def test_a_field_that_the_schema_misdefines_is_missing_with_its_mistake(
    facility: Facility, name: str
) -> None:
    facility.assign("owner" if name == "owner" else "changed", name, "x")
    facility.schema["schema"]["owner" if name == "owner" else "changed"]["type"] = "person"

    report = facility.report()

    assert report["registrable"] is False
    (reason,) = [field["reason"] for field in report["fields"] if field["state"] == "missing"]
    assert "'person' is not known" in reason


def test_an_unknown_key_of_a_schema_is_told_once(facility: Facility) -> None:
    facility.schema["jobz"] = {}

    assert facility.report()["unresolved"] == []
    assert facility.run().stdout.count("did you mean jobs?") == 1


def broken_schema(facility: Facility) -> None:
    del facility.schema["id"]


def no_nexus_file(facility: Facility) -> None:
    facility.file.write_bytes(b"not HDF5")
    os.utime(facility.file, (0, 0))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_schema, "No schema is for"),
        (broken_schema, "cannot be used"),
        (no_nexus_file, "small-coda.hdf"),
    ],
)
def test_why_nothing_can_become_of_a_file_is_a_mistake(
    facility: Facility, spoil: Callable[[Facility], None], words: str
) -> None:
    spoil(facility)

    report = facility.report()
    text = facility.run()

    assert (report["schema"], report["registrable"], report["fields"]) == (None, False, [])
    assert text.exit_code == 1
    assert words in text.stdout


def test_a_file_that_is_not_there_could_not_be_checked(facility: Facility) -> None:
    facility.file.unlink()

    report = facility.report()
    text = facility.run()

    assert report["registrable"] is None
    assert text.exit_code == 2
    assert "0 mistakes, 0 warnings, 1 could not be checked" in text.stdout


def test_each_of_several_files_is_reported(facility: Facility) -> None:
    other = shutil.copy(facility.file, facility.folder / "other.hdf")

    result = facility.run("--against", str(other), "--json")

    assert [file["file"] for file in json.loads(result.stdout)["files"]] == [str(facility.file), str(other)]
    assert facility.run("--against", str(other)).stdout.splitlines()[-1].endswith("1 schema and 2 files")


def test_no_file_is_looked_at_with_a_configuration_that_cannot_be_read(facility: Facility) -> None:
    (facility.folder / "config.yml").write_text("scicat: {}", encoding="utf-8")

    shown = json.loads(facility.run("--json").stdout)

    assert (shown["result"], shown["files"]) == ("mistake", [])


@pytest.mark.parametrize(
    ("source", "doubt"),
    [
        ("/tmp", "which holds far more than this dataset"),
        ("/", "which holds far more than this dataset"),
        ("/data/odin/raw", "which is not in "),
        ("", ""),
    ],
)
@pytest.mark.parametrize("owner", ["Ada Lovelace", "<lost>"])
def test_a_folder_that_is_hardly_the_datasets_is_warned_of(
    facility: Facility, source: str, doubt: str, owner: str
) -> None:
    configuration = yaml.safe_load(CONFIGURATION)
    configuration["ingestion"]["file_handling"] = {"data_directory": str(facility.folder)}
    (facility.folder / "config.yml").write_text(yaml.safe_dump(configuration))
    facility.define("lost", source="NXS", path="/entry/nowhere")
    facility.assign("owner", "owner", owner)
    facility.assign("folder", "sourceFolder", source or str(facility.folder))

    shown = facility.run().stdout

    assert (f"sourceFolder would be {source}, {doubt}" in shown) == bool(doubt)
    assert ("sourceFolder would be" in shown) == bool(doubt)


def test_a_default_of_the_configuration_is_named_where_it_steps_in(facility: Facility) -> None:
    key = next(
        key for key, field in facility.schema["schema"].items() if field["machine_name"] == "ownerGroup"
    )
    before = facility.run().stdout
    del facility.schema["schema"][key]

    shown = facility.run()

    row = 'ownerGroup is "ingestor", from dataset.default_owner_group of the configuration.'
    assert row not in before
    assert row in shown.stdout
    assert "0 mistakes, 0 warnings" in shown.stdout
