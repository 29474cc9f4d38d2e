"""The JSON Schemas for editors: they take every file that is read, and find what people get wrong.

What they find has to be a mistake for the models, too, so that an editor never marks what works.
"""

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from scicat_dagster.cli import main
from scicat_dagster.config.json_schema import configuration_schema
from scicat_dagster.config.loading import ConfigurationError, load_configuration
from scicat_dagster.config.sample import sample_configuration
from scicat_dagster.demo import facility as demo_facility
from scicat_dagster.schemas.json_schema import base_schema, imsc_schema
from scicat_dagster.schemas.loading import read_schema_file, shipped_schemas
from scicat_dagster.schemas.operators import OPERATORS

DATA = Path(__file__).parents[1] / "data"
IMSC_FILES = [
    *sorted(DATA.glob("*.imsc.yml")),
    *sorted(demo_facility.CONFIG_FILE.parent.glob("schemas/*.imsc.yml")),
    *shipped_schemas().values(),
]
HOST = "https://scicat.example.org/api/v3"
CONFIGURATION = Draft202012Validator(configuration_schema())
IMSC = Draft202012Validator(imsc_schema())


def mistakes(validator: Draft202012Validator, document: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def put(document: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """The document with what is at a dotted path set, or removed where the value is ``...``."""
    changed = copy.deepcopy(document)
    *parents, last = place.split(".")
    inner = changed
    for part in parents:
        inner = inner.setdefault(part, {})
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return changed


def properties(schema: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key that a schema describes, with its place."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "properties" and "if" not in place and "then" not in place:
                yield from ((f"{place}.{name}", inner) for name, inner in value.items())
            yield from properties(value, f"{place}.{key}")
    elif isinstance(schema, list):
        for value in schema:
            yield from properties(value, place)


@pytest.mark.parametrize("command", ["config", "imsc", "imsc-base"])
def test_the_commands_print_the_schemas(command: str) -> None:
    result = CliRunner().invoke(main, ["schema", command])

    printed = json.loads(result.stdout)
    assert result.exit_code == 0
    made = {"config": configuration_schema, "imsc": imsc_schema, "imsc-base": base_schema}
    assert printed == made[command]()
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(printed)


@pytest.mark.parametrize("made", [configuration_schema(), imsc_schema()])
def test_every_key_is_explained(made: dict[str, Any]) -> None:
    made["$defs"].pop("Selector", None)
    found = list(properties(made))

    assert len(found) > 20
    assert [place for place, key in found if not key.get("title") or not key.get("description")] == []


@pytest.mark.parametrize("path", [demo_facility.CONFIG_FILE], ids=["demo"])
def test_a_configuration_that_works_is_accepted(path: Path) -> None:
    assert mistakes(CONFIGURATION, yaml.safe_load(path.read_text(encoding="utf-8"))) == []


def test_the_sample_configuration_is_accepted() -> None:
    assert mistakes(CONFIGURATION, yaml.safe_load(sample_configuration())) == []


@pytest.mark.parametrize("path", IMSC_FILES, ids=lambda path: path.name)
def test_a_schema_file_that_works_is_accepted(path: Path) -> None:
    assert mistakes(IMSC, yaml.safe_load(path.read_text(encoding="utf-8"))) == []


SPELLINGS: list[tuple[str, Any]] = [
    ("kafka.topics", "a, b"),
    ("kafka.topics", ["a", "${TOPIC}"]),
    ("kafka.topics", "${TOPIC}"),
    ("dataset.default_access_groups", 443503),
    ("dataset.default_access_groups", [443503, "staff"]),
    ("dataset.default_proposal_id", 443503),
    ("dataset.dataset_pid_prefix", 20.5),
    ("dataset.allow_dataset_pid", "${ALLOW:-true}"),
    ("dataset.allow_dataset_pid", "Yes"),
    ("dataset.allow_dataset_pid", 0),
    ("dataset.default_owner_group", None),
    ("dataset", None),
    ("ingestion.max_offline_ingestors", "4"),
    ("ingestion.max_offline_ingestors", "${MOST:-4}"),
    ("ingestion.max_offline_ingestors", 4.0),
    ("ingestion.file_handling.file_path_type", "${TYPE:-relative}"),
    ("ingestion.file_handling.data_directory", "${DATA:-/data}"),
    ("ingestion.file_handling.data_file_open_retry_delay", [1, "2.5", "${DELAY:-3}"]),
    ("ingestion.offline_ingestor_executable", ["python", "-m", "x"]),
    ("logging.graylog_port", "12201"),
    ("scicat.host", "${HOST:-https://scicat.example.org/api/v3}"),
    ("scicat.password", 1234),
    ("scicat.additional_headers", {"X-Key": "${KEY:-x}", "X-Number": 7}),
    ("scicat.timeout", "7.5"),
    ("health_check.port", "${PORT:-80}80"),
]
ENVIRONMENT = {"TOPIC": "c"}


@pytest.mark.parametrize(("place", "value"), SPELLINGS)
def test_every_spelling_that_is_read_is_accepted(tmp_path: Path, place: str, value: Any) -> None:
    document = {
        "scicat": {"host": HOST, "username": "u", "password": "p"},
        "kafka": {"bootstrap_servers": "h:1"},
    }
    document = put(document, place, value)
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")

    assert load_configuration(path, ENVIRONMENT).mistakes == ()
    assert mistakes(CONFIGURATION, document) == []


CONFIGURATION_MISTAKES: list[tuple[str, Any]] = [
    ("scicat", ...),
    ("scicat.host", ...),
    ("scicat.host", None),
    ("scicat.host", "scicat.example.org"),
    ("scicat.tokn", "x"),
    ("scicta", {"host": HOST}),
    ("scicat.verify", "perhaps"),
    ("scicat.timeout", -1),
    ("scicat.timeout", "soon"),
    ("scicat.additional_headers", ["x"]),
    ("scicat.api_endpoints.dataset", "x"),
    ("kafka", ["a"]),
    ("kafka.topics", {"a": 1}),
    ("kafka.auto_offset_reset", "middle"),
    ("ingestion.max_offline_ingestors", 0),
    ("ingestion.max_offline_ingestors", "many"),
    ("ingestion.schemas_directory", ["schemas"]),
    ("ingestion.file_handling.file_path_type", "absolut"),
    ("ingestion.file_handling.data_directory", "data"),
    ("ingestion.file_handling.data_file_open_retry_delay", "3"),
    ("health_check.port", -1),
]


@pytest.mark.parametrize(("place", "value"), CONFIGURATION_MISTAKES)
def test_a_typical_mistake_in_a_configuration_is_found(tmp_path: Path, place: str, value: Any) -> None:
    document = put({"scicat": {"host": HOST}}, place, value)
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")

    assert mistakes(CONFIGURATION, document)
    assert is_refused(path)


def is_refused(config: Path) -> bool:
    """Whether `validate` calls a configuration mistaken."""
    try:
        return load_configuration(config, {}).mistakes != ()
    except ConfigurationError:
        return True


SAMPLE = yaml.safe_load(sample_configuration())


@settings(max_examples=30)
@given(st.data())
def test_a_misspelt_key_is_found_wherever_it_is(data: st.DataObject) -> None:
    document = copy.deepcopy(SAMPLE)
    sections = {name: value for name, value in document.items() if isinstance(value, dict) and value}
    name = data.draw(st.sampled_from(sorted(sections)))
    key = data.draw(st.sampled_from(sorted(sections[name])))
    at = data.draw(st.integers(0, len(key) - 1))
    sections[name][f"{key[:at]}~{key[at + 1 :]}"] = sections[name].pop(key)

    assert any("was unexpected" in mistake for mistake in mistakes(CONFIGURATION, document))


SELECTORS: list[Any] = [
    "*",
    "filename:contains:/odin/",
    "nexusfile:starts-with:/data",
    "datafile:starts_with:/a:b",
    {"source": "filename", "operator": "contains", "operand_2": "odin"},
    {"operand_1": "filename", "operator": "starts-with", "operand_2": "/data"},
    {"and": ["filename:contains:a", {"or": ["filename:contains:b", "*"]}]},
    {"or": ["filename:contains:a"], "and": ["filename:contains:b"]},
    "nexus:/entry/instrument/name:equals:ODIN",
    " nexus : /entry/^user_.*/name : starts-with :a:b",
    {"source": "nexus", "path": "/entry/title", "operator": "contains", "operand_2": 42},
    {"and": ["filename:contains:a", {"or": ["nexus:/a:equals:b", "nexus:/c:equals:d"]}]},
]
NO_SELECTORS: list[Any] = [
    "",
    "odin",
    "filename:odin",
    "folder:contains:odin",
    "filename:resembles:odin",
    "filename:starts_with:data",
    {},
    [],
    7,
    {"or": []},
    {"xor": ["*"]},
    {"and": "*"},
    {"source": "filename", "operator": "contains"},
    {"source": "filename", "operator": "contains", "operand_2": ""},
    {"source": "folder", "operator": "contains", "operand_2": "odin"},
    {"operator": "contains", "operand_2": "odin"},
    {"source": "filename", "operator": "contains", "operand_2": "odin", "operand_3": "x"},
    {"and": ["filename:resembles:odin"]},
    "nexus:/entry/title",
    "nexus:entry/title:equals:a",
    "nexus:/entry/title:resembles:a",
    "filename:equals:/data/odin",
    {"source": "nexus", "operator": "equals", "operand_2": "a"},
    {"source": "nexus", "path": "entry/title", "operator": "equals", "operand_2": "a"},
    {"source": "filename", "path": "/entry/title", "operator": "contains", "operand_2": "a"},
]


@pytest.mark.parametrize(
    ("selector", "good"),
    [*((selector, True) for selector in SELECTORS), *((selector, False) for selector in NO_SELECTORS)],
)
def test_a_selector_is_checked_as_it_is_read(
    tmp_path: Path, schema_document: dict[str, Any], selector: Any, *, good: bool
) -> None:
    schema_document["selector"] = selector

    assert (mistakes(IMSC, schema_document) == []) == good
    assert (imsc_mistakes(tmp_path, schema_document) == ()) == good


def test_a_schema_with_a_base_may_leave_fields_to_it(tmp_path: Path, schema_document: dict[str, Any]) -> None:
    fields = schema_document.pop("schema")
    (tmp_path / "common.part.yml").write_text(yaml.safe_dump({"schema": fields}))
    leaving_all = schema_document | {"extends": "common.part.yml"}
    without_one = leaving_all | {"extends": ["common.part.yml"], "schema": {"owner": None}}

    for document in (leaving_all, without_one):
        assert mistakes(IMSC, document) == []
        assert imsc_mistakes(tmp_path, document) == ()
    assert mistakes(IMSC, leaving_all | {"extends": {"file": "common.part.yml"}})


def test_a_base_may_hold_any_of_the_sections(schema_document: dict[str, Any]) -> None:
    base = Draft202012Validator(base_schema())

    for part in ({}, {"schema": schema_document["schema"]}, {"extends": "more.part.yml"}):
        assert mistakes(base, part) == []
    assert mistakes(IMSC, {})
    assert mistakes(base, {"varaibles": {}})
    assert mistakes(base, {"variables": {"x": {"source": "VALUE", "valeu": "x"}}})


def imsc_mistakes(folder: Path, document: dict[str, Any]) -> tuple[str, ...]:
    path = folder / "one.imsc.yml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return read_schema_file(path).mistakes


@pytest.mark.parametrize("name", [*OPERATORS, *(name.replace("_", "-") for name in OPERATORS)])
def test_every_operator_is_known_with_what_it_needs(
    tmp_path: Path, schema_document: dict[str, Any], name: str
) -> None:
    arguments = {"field": 0, "pattern": "(a)", "replacement": ""}
    needs = OPERATORS[name.replace("-", "_")].needs
    good = put(
        schema_document, "variables.v",
        {"source": "VALUE", "value": "NPD", "operator": name, "value_type": "string", **arguments},
    )  # fmt: skip

    assert mistakes(IMSC, good) == []
    assert imsc_mistakes(tmp_path, good) == ()
    for needed in needs:
        bad = put(good, f"variables.v.{needed}", ...)
        assert mistakes(IMSC, bad)
        assert imsc_mistakes(tmp_path, bad)


GOOD_CHANGES: list[tuple[str, Any]] = [
    ("order", "10"),
    ("id", 7),
    ("instrument", None),
    ("variables", None),
    ("sample_attachment", {"query_sample_name": True}),
    ("schema.owner.value", None),
    ("schema.owner.unit", None),
    ("variables.n", {"source": "NXS", "path": "/a/b_.*/c", "value_type": "float[]", "unit": "mm"}),
    ("variables.s", {"source": "SC", "url": "x", "field": 0, "value_type": "dict"}),
    ("variables.v", {"source": "VALUE", "value": {"a": ["<now>", 1]}, "value_type": "dict", "operator": ""}),
]


@pytest.mark.parametrize(("place", "value"), GOOD_CHANGES)
def test_what_a_schema_file_may_hold_is_accepted(
    tmp_path: Path, schema_document: dict[str, Any], place: str, value: Any
) -> None:
    changed = put(schema_document, place, value)

    assert mistakes(IMSC, changed) == []
    assert imsc_mistakes(tmp_path, changed) == ()


IMSC_MISTAKES: list[tuple[str, Any]] = [
    ("id", ...),
    ("name", ...),
    ("order", ...),
    ("order", "first"),
    ("selector", ...),
    ("schema", ...),
    ("schema", {}),
    ("variables.v", {"source": "NEXUS", "path": "/a", "value_type": "string"}),
    ("variables.v", {"path": "/a", "value_type": "string"}),
    ("variables.v", {"source": "NXS", "value_type": "string"}),
    ("variables.v", {"source": "NXS", "path": "/a", "value_type": "text"}),
    ("variables.v", {"source": "SC", "value_type": "dict"}),
    ("variables.v", {"source": "VALUE", "value_type": "dict"}),
    ("variables.v", {"source": "VALUE", "value": 1, "operator": "get", "value_type": "dict"}),
    ("variables.v", {"source": "VALUE", "value": 1, "operater": "sum", "value_type": "dict"}),
    ("jobs", {"embargo": {"type": "embargo_period"}}),
    ("jobs", {"embargo": {"type": "x", "job_params": {}, "owner": "y"}}),
    ("schema.owner.field_type", "low_level"),
    ("schema.owner.machine_name", "owners"),
    ("schema.owner.machine_name", ""),
    ("schema.owner.type", "person"),
    ("schema.owner.value", ...),
]


@pytest.mark.parametrize(("place", "value"), IMSC_MISTAKES)
def test_a_typical_mistake_in_a_schema_file_is_found(
    tmp_path: Path, schema_document: dict[str, Any], place: str, value: Any
) -> None:
    changed = put(schema_document, place, value)

    assert mistakes(IMSC, changed)
    assert imsc_mistakes(tmp_path, changed)


@pytest.mark.parametrize("place", ["ordr", "schema.owner.unti", "sample_attachment.query"])
def test_a_key_without_effect_is_found(schema_document: dict[str, Any], place: str) -> None:
    assert mistakes(IMSC, put(schema_document, place, "x"))


def test_the_command_loads_neither_dagster_nor_the_demo() -> None:
    program = (
        "import sys; from click.testing import CliRunner; from scicat_dagster.cli import main;"
        "assert CliRunner().invoke(main, ['schema', 'config']).exit_code == 0;"
        "print([name for name in sys.modules if name == 'dagster' or 'scicat_dagster.demo' in name])"
    )

    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
