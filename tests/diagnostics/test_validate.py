"""``scicat-dagster validate`` names file, place and remedy of each mistake in a configuration and schemas.

Which values each key allows is for the tests of settings and schema models; here it is that each kind of
mistake comes out of the command, all of them at once, and no secret with them.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from scicat_dagster.cli import main
from scicat_dagster.demo import facility as demo_facility
from scicat_dagster.wording import numbered

DATA = Path(__file__).parents[1] / "data"
PASSWORD = "pa55word-nobody-may-see"
VARIABLE = "VALIDATION_TEST_PASSWORD"
CONFIGURATION: dict[str, Any] = {
    "dataset": {"default_owner_group": "ingestor"},
    "ingestion": {"schemas_directory": "schemas"},
    "kafka": {"topics": ["files"], "bootstrap_servers": ["localhost:9092"]},
    "scicat": {
        "host": "https://scicat.example.org/api/v3",
        "username": "ingestor",
        "password": f"${{{VARIABLE}}}",
    },
}

Change = Callable[[dict[str, Any]], None]


@dataclass
class Facility:
    """A configuration file and a folder of schemas, to be spoiled."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yml"

    @property
    def schema(self) -> Path:
        return self.folder / "schemas" / "small-coda.imsc.yml"

    def configure(self, change: Change) -> None:
        self._change(self.config, deepcopy(CONFIGURATION), change)

    def change_schema(self, change: Change) -> None:
        self._change(self.schema, yaml.safe_load(self.schema.read_text(encoding="utf-8")), change)

    def run(self, **environment: str) -> Result:
        """The command; whatever it prints holds no secret, and it never fails itself."""
        result = CliRunner().invoke(
            main, ["validate", str(self.config)], env={VARIABLE: PASSWORD, **environment}
        )
        assert PASSWORD not in result.output
        assert isinstance(result.exception, SystemExit | None)
        return result

    def mistakes(self) -> list[str]:
        """The mistakes that it names, each with its remedy, with which it exits with 1."""
        result = self.run()
        found = rows(result, "mistake")
        assert result.exit_code == 1
        assert f"{numbered(len(found), 'mistake')}, " in result.stdout.splitlines()[-1]
        return found

    @staticmethod
    def _change(path: Path, document: dict[str, Any], change: Change) -> None:
        change(document)
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def rows(result: Result, kind: str) -> list[str]:
    """The rows of the printed table with a result, each with its remedy and the file that it is about."""
    found: list[list[str]] = []
    file = ""
    *table, _ = result.stdout.splitlines()
    for line in table:
        if heading := re.fullmatch(r" {11}(?:file|schema) +(\S.*)", line):
            file = heading[1]
        elif line.startswith(" "):
            found[-1].append(line.strip())
        else:
            found.append([line, file])
    return [" ".join(row) for row in found if row[0].split()[0] == kind]


@pytest.fixture
def facility(tmp_path: Path) -> Facility:
    made = Facility(tmp_path)
    made.schema.parent.mkdir()
    shutil.copyfile(DATA / "small-coda.imsc.yml", made.schema)
    made.configure(lambda _: None)
    return made


def put(path: str, value: Any) -> Change:
    """Set, or with None remove, what is at a dotted path."""

    def change(document: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for part in parents:
            document = document.setdefault(part, {})
        if value is None:
            document.pop(last)
        else:
            document[last] = value

    return change


def test_a_facility_without_mistakes_exits_with_zero(facility: Facility) -> None:
    unused = ["instruments_data", "instrument_data", "instrument_name", "instrument_id"]

    result = facility.run()

    assert result.stdout.splitlines() == [
        f"ok         configuration  {facility.config}",
        f"           schema         {facility.schema}",
        "ok         schema         Test Coda Metadata Schema",
        f"ok         schema         not used by any field: {', '.join(unused)}",
        "0 mistakes, 0 warnings; checked the configuration and 1 schema",
    ]
    assert (result.exit_code, result.stderr) == (0, "")


def test_the_demo_facilitys_own_configuration_has_no_mistake(tmp_path: Path) -> None:
    environment = {"SCICAT_DEMO_PASSWORD": PASSWORD, "SCICAT_DEMO_DATA_DIRECTORY": str(tmp_path)}

    result = CliRunner().invoke(main, ["validate", str(demo_facility.CONFIG_FILE)], env=environment)

    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("0 mistakes, ")
    assert "4 schemas" in result.stdout
    assert PASSWORD not in result.output


def test_what_is_odd_but_usable_is_a_warning(facility: Facility) -> None:
    facility.configure(put("scicat.verify", value=False))

    result = facility.run()

    assert result.exit_code == 0
    assert f"{facility.config}: scicat.verify is false" in rows(result, "warning")[0]
    assert "0 mistakes, 1 warning" in result.stdout


CONFIGURATION_MISTAKES: list[tuple[str, Any, str]] = [
    ("scicat", None, "scicat: is missing"),
    ("scicat.host", None, "scicat.host: is missing"),
    ("scicat.host", "scicat.example.org", "scicat.host: must begin with https://"),
    ("scicat.host", f"https://i:{PASSWORD}@example.org/api/v3", "use scicat.username and scicat.password"),
    ("scicat.password", None, "scicat.password: is missing"),
    ("scicat.password", [PASSWORD], "scicat.password: "),
    ("scicat.token", {"value": PASSWORD}, "scicat.token: "),
    ("scicat.timeout", "soon", "scicat.timeout: "),
    ("scicat.additional_headers", [PASSWORD], "scicat.additional_headers: "),
    ("scicat.tokn", PASSWORD, "scicat.tokn is not a known key and has no effect; did you mean token?"),
    ("scicta", {"token": PASSWORD}, "scicta is not a known key"),
    ("scicat", PASSWORD, "scicat: "),
    ("kafka.bootstrap_servers", None, "kafka.bootstrap_servers: is missing"),
    ("kafka.auto_offset_reset", "middle", "kafka.auto_offset_reset: Input should be 'earliest' or 'latest'"),
    ("ingestion.max_offline_ingestors", 0, "ingestion.max_offline_ingestors: "),
    ("ingestion.file_handling.file_hash_algorithm", "crc", "file_handling.file_hash_algorithm: is not a"),
    ("ingestion.file_handling.data_directory", "data", "data_directory: must be an absolute path"),
    ("ingestion.file_handling.file_path_type", "short", "file_path_type is neither relative nor absolute"),
    ("ingestion.schemas_directory", "nowhere", "Correct ingestion.schemas_directory"),
    ("ingestion.fallback_schema_file_path", "nowhere", "ess-fallback"),
    (
        "id",
        "${VALIDATION_TEST_NEVER_SET}",
        "id: the environment variable VALIDATION_TEST_NEVER_SET is not set",
    ),
]


@pytest.mark.parametrize(("place", "value", "words"), CONFIGURATION_MISTAKES)
def test_a_mistake_in_the_configuration_is_named(
    facility: Facility, place: str, value: Any, words: str
) -> None:
    facility.configure(put(place, value))

    (mistake,) = facility.mistakes()

    assert str(facility.config) in mistake
    assert words in mistake


TEXT_MISTAKES = {
    "no yaml": f"scicat: {{password: '{PASSWORD}'",
    "an alias for a secret": f"scicat:\n  host: https://example.org\n  password: *{PASSWORD}\n",
    "a tag for a secret": f"scicat:\n  host: https://example.org\n  password: !{PASSWORD}\n",
    "a tab": f"scicat:\n\tpassword: {PASSWORD}\n",
    "an impossible date": "id: 2026-13-01\nscicat: {host: 'https://example.org'}\n",
    "too deep": "[" * 3000,
    "a text": PASSWORD,
    "nothing": "",
}


@pytest.mark.parametrize("name", TEXT_MISTAKES)
def test_a_configuration_that_cannot_be_read_is_named(facility: Facility, name: str) -> None:
    facility.config.write_text(TEXT_MISTAKES[name], encoding="utf-8")

    (mistake,) = facility.mistakes()

    assert str(facility.config) in mistake


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_configuration_that_is_no_text_or_not_there_is_named(
    facility: Facility, content: bytes | None
) -> None:
    facility.config.unlink()
    if content is not None:
        facility.config.write_bytes(content)

    (mistake,) = facility.mistakes()

    assert str(facility.config) in mistake


SCHEMA_MISTAKES: list[tuple[str, Any, str]] = [
    ("id", None, "id: is missing"),
    ("name", None, "name: is missing"),
    ("order", None, "order: is missing"),
    ("order", "first", "order: "),
    ("selector", None, "selector: is missing"),
    ("selector", "folder:contains:coda", "folder"),
    ("selector", "filename:resembles:coda", "resembles"),
    ("selector", "filename", "selector: "),
    ("selector", {"or": []}, "selector: "),
    ("schema", None, "schema: is missing"),
    ("schema", {}, "schema: "),
    ("variables.job_id.source", "NEXUS", "variables.job_id: unknown source 'NEXUS'; use NXS, SC or VALUE"),
    ("variables.job_id.source", None, "variables.job_id: needs `source: NXS`, `SC` or `VALUE`"),
    ("variables.job_id.path", None, "variables.job_id.path: is missing"),
    ("variables.job_id.value_type", "text", "variables.job_id.value_type: "),
    ("variables.acquisition_team_members_list.path", "/entry/(*", "is not a regular expression"),
    ("variables.instrument_id.operator", "get", "variables.instrument_id.operator: unknown operator 'get'"),
    ("variables.instrument_id.field", None, "the operator getitem needs `field`"),
    ("variables.pid.value", "<nothing>", "variables.pid: uses <nothing>, which is not defined"),
    ("variables.pid.value", "<pid>", "variables.pid: uses itself (<pid>), which is circular"),
    ("variables.pid.value", "<owner_group>", "variables.pid: uses <owner_group>, which is defined after it"),
    ("variables.pi_email.url", "proposals/<propsal>", "variables.pi_email: uses <propsal>"),
    (
        "variables.pid.operatr",
        "urlsafe",
        "variables.pid.operatr: is not a known key and has no effect; did you",
    ),
    ("jobs", {"embargo": {}}, "jobs.embargo: type: is missing"),
    ("jobs", "embargo", "jobs.jobs: "),
    ("variables.instrument_id.operator", "str-replace", "pattern: is missing, so that str_replace leaves"),
    ("selector", {"or": ["*", "file_name:contains:a"]}, "unknown source 'file_name'; did you mean filename?"),
    ("schema.owner.machine_name", "owners", "did you mean owner?"),
    (
        "schema.owner.units",
        "K",
        "schema.owner.units: is not a known key and has no effect; did",
    ),
    ("schema.owner.field_type", "low_level", "schema.owner.field_type: "),
    ("schema.owner.machine_name", "owners", "'owners' is not a field of a SciCat dataset"),
    ("schema.owner.type", "person", "schema.owner.type: "),
    ("schema.owner.value", "<nobody>", "schema.owner: uses <nobody>, which is not defined"),
    ("schema.job_id.machine_name", "", "schema.job_id.machine_name: "),
]


@pytest.mark.parametrize(("place", "value", "words"), SCHEMA_MISTAKES)
def test_a_mistake_in_a_schema_is_named(facility: Facility, place: str, value: Any, words: str) -> None:
    facility.change_schema(put(place, value))

    mistakes = facility.mistakes()

    assert all(str(facility.schema) in mistake for mistake in mistakes)
    assert any(words in mistake for mistake in mistakes)


SLIPS: list[tuple[str, str, int, list[str]]] = [
    (
        "  instrument_data:\n    source: VALUE\n    operator: getitem",
        "  instrument_data:\n    source: VALUE\n    operatr: getitem",
        2,
        ["variables.instrument_data.operatr: is not", "did you mean operator?", "Write `operator:`"],
    ),
    (
        "  dataset_name:\n    source: NXS\n    path:",
        "  dataset_name:\n    source: NXS\n    pth:",
        0,
        ["variables.dataset_name: path: is missing. pth: is not", "Add `path:` there. Write `path:`"],
    ),
    (
        "    value: raw",
        "    value: raw\n    colour: red",
        1,
        ["schema.type.colour: is not", "are field_type, "],
    ),
    ("schema:\n", "schemes: {}\nschema:\n", 0, ["schemes: is not", "Write `schema:` instead of `schemes:`."]),
    (
        "  owner_group:\n    field_type",
        "  own_group:\n    feld_type",
        0,
        ["schema.own_group: field_type: is"],
    ),
    ("value: <dataset_name>", "value: <dataset_nam>", 0, ["uses <dataset_nam>", "mean dataset_name?"]),
]
"""What is written, what instead, how many lines below the first of it the mistake is, and what is said."""


@pytest.mark.parametrize(("written", "instead", "below", "expected"), SLIPS)
def test_a_slip_is_one_row_with_its_line_and_what_to_write(
    facility: Facility, written: str, instead: str, below: int, expected: list[str]
) -> None:
    text = facility.schema.read_text(encoding="utf-8")
    line = text[: text.index(written)].count("\n") + 1 + below
    facility.schema.write_text(text.replace(written, instead, 1), encoding="utf-8")

    (row,) = [row for row in facility.mistakes() if expected[0] in row]

    assert str(facility.schema) in row
    assert f" line {line}: " in row
    assert [text for text in expected if text not in row] == []


@pytest.mark.parametrize(
    "text", ["a: [", "- 1", "", "id: 2026-13-01\n", "[" * 3000, "a: &a [*a]\nb: *c\n", "\tid: x"]
)
def test_a_schema_that_cannot_be_read_is_named(facility: Facility, text: str) -> None:
    facility.schema.write_text(text, encoding="utf-8")

    mistakes = facility.mistakes()

    assert mistakes
    assert all(str(facility.schema) in mistake for mistake in mistakes)


def test_two_schemas_of_one_id_are_named(facility: Facility) -> None:
    shutil.copyfile(facility.schema, facility.schema.with_name("other.imsc.yml"))

    (mistake,) = facility.mistakes()

    assert str(facility.schema.parent) in mistake
    assert "small-coda.imsc.yml and other.imsc.yml" in mistake or "other.imsc.yml and small-coda" in mistake
    assert "give each its own" in mistake


def test_a_folder_without_schemas_is_named(facility: Facility) -> None:
    facility.schema.rename(facility.schema.with_name("small-coda.yml"))

    (mistake,) = facility.mistakes()

    assert str(facility.schema.parent) in mistake
    assert "*.imsc.yml" in mistake


def test_a_broken_fallback_is_named(facility: Facility) -> None:
    fallback = facility.folder / "fallback.imsc.yml"
    shutil.copyfile(facility.schema, fallback)
    facility.configure(put("ingestion.fallback_schema_file_path", "fallback.imsc.yml"))
    text = fallback.read_text(encoding="utf-8")
    fallback.write_text(text.replace("operator: getitem", "operator: get-nothing"), encoding="utf-8")

    mistakes = facility.mistakes()

    assert all(str(fallback) in mistake for mistake in mistakes)


def test_the_shipped_fallback_has_no_mistake(facility: Facility) -> None:
    facility.configure(put("ingestion.fallback_schema_file_path", "ess-fallback"))

    result = facility.run()

    assert result.exit_code == 0
    assert "2 schemas" in result.stdout


def test_all_mistakes_are_named_at_once(facility: Facility) -> None:
    shutil.copyfile(facility.schema, facility.schema.with_name("other.imsc.yml"))
    facility.configure(put("dataset.unknown", "x"))
    facility.change_schema(put("schema.owner.value", "<nobody>"))
    facility.schema.with_name("broken.imsc.yml").write_text("a: [", encoding="utf-8")

    mistakes = facility.mistakes()

    assert len(mistakes) == 4
    for part in ("dataset.unknown", "<nobody>", "broken.imsc.yml", "have the same id"):
        assert sum(part in mistake for mistake in mistakes) == 1


def test_the_command_as_a_process(facility: Facility) -> None:
    command = [str(Path(sys.executable).with_name("scicat-dagster")), "validate", str(facility.config)]
    environment = {**os.environ, VARIABLE: PASSWORD}

    good = subprocess.run(command, env=environment, timeout=60, capture_output=True, text=True)
    facility.change_schema(put("order", "first"))
    bad = subprocess.run(command, env=environment, timeout=60, capture_output=True, text=True)

    assert (good.returncode, good.stderr) == (0, "")
    assert (bad.returncode, bad.stderr) == (1, "")
    assert f"{facility.schema}\nmistake    schema         line 5: order" in bad.stdout


def test_variables_that_nothing_needs_are_named_and_no_mistake(facility: Facility) -> None:
    def add(schema: dict[str, Any]) -> None:
        text = {"source": "VALUE", "value_type": "string"}
        schema["variables"] |= {
            "in_a_field": {**text, "value": "1"},
            "left": {**text, "value": "1"},
            "left_too": {**text, "value": "<left>"},
            "for_files": {**text, "value": "log"},
        }
        schema["schema"]["noted"] = {
            "field_type": "scientific_metadata", "machine_name": "noted", "value": {"x": ["<in_a_field>"]},
            "type": "dict",
        }  # fmt: skip
        schema["files"] = ["*_<for_files>.txt"]

    facility.change_schema(add)

    result = facility.run()

    assert result.exit_code == 0, result.stdout
    (row,) = [line for line in result.stdout.splitlines() if "not used by any field" in line]
    assert row.startswith("ok ")
    assert row.endswith(", instrument_id, left, left_too")
    assert "0 mistakes, 0 warnings" in result.stdout


def test_variables_of_a_base_may_be_unused(facility: Facility) -> None:
    base = {"variables": {"left": {"source": "VALUE", "value": "1", "value_type": "string"}}}
    (facility.schema.parent / "common.part.yml").write_text(yaml.safe_dump(base))
    facility.change_schema(lambda schema: schema.update(extends="common.part.yml"))

    result = facility.run()

    assert result.exit_code == 0, result.stdout
    assert "left" not in result.stdout
