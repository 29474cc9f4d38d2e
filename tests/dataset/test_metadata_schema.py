"""The JSON Schema of the scientific metadata: every dataset validates against that of its schema."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator  # type: ignore[import-untyped]
from pydantic import JsonValue

from docs.describe_schemas import VESPA, WHOLE_SCHEMA
from scicat_dagster.cli import main
from scicat_dagster.config.models import Settings
from scicat_dagster.dataset.build import plain
from scicat_dagster.dataset.metadata_schema import complete_metadata_schema, metadata_schema
from scicat_dagster.dataset.rebuild import build_again, extract_again
from scicat_dagster.schemas.conversion import ValueType, convert
from scicat_dagster.schemas.loading import load_schemas, read_schema_file
from scicat_dagster.schemas.models import Schema
from scicat_dagster.usecases.expected_datasets import RecordedCatalogue

DATA = Path(__file__).parents[1] / "data"
NOWHERE = Settings.model_validate({"scicat": {"host": "https://scicat.invalid/api/v3"}})
PROPOSAL: JsonValue = {"pi_firstname": "Ada", "pi_lastname": "Lovelace", "pi_email": "ada@example.org"}
INSTRUMENTS = "instruments?filter=%7B%22where%22%3A%7B%22name%22%3A%7B%22ilike%22%3A%22odin%22%7D%7D%7D"

Entries = dict[str, dict[str, Any]]


def entry(name: str, kind: str, value: Any, **others: Any) -> dict[str, Any]:
    return {
        "field_type": "scientific_metadata", "machine_name": name, "value": value, "type": kind, **others,
    }  # fmt: skip


def metadata_of(file: Path, schema: Path, folder: Path) -> Entries:
    """The scientific metadata of the dataset that is built from a real file."""
    (folder / "raw").mkdir()
    (folder / "schemas").mkdir()
    shutil.copy(schema, folder / "schemas")
    catalogue = RecordedCatalogue({"proposals/443503": PROPOSAL, INSTRUMENTS: [{"id": "odin-1"}]})
    path = str(shutil.copy(file, folder / "raw"))
    (built,) = build_again(extract_again(path, load_schemas(folder / "schemas"), catalogue, NOWHERE), NOWHERE)
    entries: Any = built.dataset["scientificMetadata"]
    assert entries
    return dict(entries)


def is_valid(schema: dict[str, Any], entries: Any) -> bool:
    """Whether metadata validates, by the newest and by an older validator, which SciCat's is like."""
    newest, older = (bool(one(schema).is_valid(entries)) for one in (Draft202012Validator, Draft7Validator))
    assert newest == older
    return newest


@pytest.fixture
def vespa(tmp_path: Path) -> Path:
    """The reference's schema with an entry of each kind, for the tutorial's file."""
    document = yaml.safe_load(WHOLE_SCHEMA)
    document["selector"] = "*"
    paths = {
        "title": ("/entry/title", "string"),
        "mass": ("/entry/sample/mass", "float"),
        "users": ("/entry/^user_.*/name", "string[]"),
        "temperatures": ("/entry/sample/temperature_log/value", "float[]"),
        "began": ("/entry/start_time", "date"),
    }
    for name, (place, kind) in paths.items():
        document["variables"][name] = {"source": "NXS", "path": place, "value_type": kind}
        document["schema"][f"entry {name}"] = entry(name, kind, f"<{name}>")
    document["schema"] |= {
        "number": entry("number", "integer", 27),
        "pair": entry("a.pair of", "integer[]", [1, 2], human_name="A pair", unit="mm"),
        "sample": entry("sample", "dict", {"name": "<title>"}),
        "any": entry("any", "list", [1, "a"]),
        "mail": entry("mail", "email", "ada@example.org"),
        "page": entry("page", "link", "https://example.org"),
    }
    path = tmp_path / "vespa.imsc.yml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def schema_in(path: Path) -> Schema:
    found = read_schema_file(path).schema
    assert found is not None
    return found


def test_the_dataset_of_the_facilitys_file_validates(tmp_path: Path) -> None:
    path = DATA / "small-coda.imsc.yml"
    entries = metadata_of(DATA / "small-coda.hdf", path, tmp_path)

    assert is_valid(metadata_schema(schema_in(path)), entries)
    assert is_valid(complete_metadata_schema(schema_in(path)), entries)


def test_the_dataset_of_the_tutorials_file_validates_and_each_change_does_not(
    tmp_path: Path, vespa: Path
) -> None:
    schema = complete_metadata_schema(schema_in(vespa))
    Draft202012Validator.check_schema(schema)
    entries = metadata_of(VESPA, vespa, tmp_path)

    assert is_valid(schema, entries)
    assert set(entries) == {
        "title", "mass", "users", "temperatures", "began", "number", "a.pair of", "sample", "any", "mail",
        "page",
    }  # fmt: skip
    for name, made in entries.items():
        assert not is_valid(schema, {key: other for key, other in entries.items() if key != name})
        for part in made:
            assert not is_valid(schema, entries | {name: {k: v for k, v in made.items() if k != part}})
        for part in ("human_name", "type"):
            assert not is_valid(schema, entries | {name: {**made, part: "another"}})
        wrong = 1 if isinstance(made["value"], str) else "text"
        assert not is_valid(schema, entries | {name: {**made, "value": wrong}})
        # What the server adds.
        assert is_valid(schema, entries | {name: {**made, "valueSI": 1, "unitSI": "m"}})
    assert not is_valid(schema, entries | {"a.pair of": {**entries["a.pair of"], "unit": "m"}})
    assert is_valid(schema, entries | {"of somebody else": 7})


def test_an_entry_may_fail_unless_all_are_required(tmp_path: Path, vespa: Path) -> None:
    entries = metadata_of(VESPA, vespa, tmp_path)
    for name in entries:
        fewer = {key: made for key, made in entries.items() if key != name}
        assert is_valid(metadata_schema(schema_in(vespa)), fewer)


def test_an_entry_validates_under_the_name_that_scicat_writes_before_it_validates(
    tmp_path: Path, vespa: Path
) -> None:
    schema = complete_metadata_schema(schema_in(vespa))
    entries = metadata_of(VESPA, vespa, tmp_path)
    pair = entries.pop("a.pair of")

    assert is_valid(schema, entries | {"a%2Epair%20of": pair})
    assert not is_valid(schema, entries | {"a%2Epair%20of": {**pair, "value": "text"}})


def test_an_entry_that_two_fields_fill_is_as_either(schema_document: dict[str, Any]) -> None:
    schema_document["schema"] |= {"a": entry("x", "integer", "<n>"), "b": entry("x", "string", "<t>")}
    schema = metadata_schema(Schema.model_validate(schema_document))
    made = {"unit": "", "human_name": "x"}

    assert is_valid(schema, {"x": {**made, "value": 1, "type": "integer"}})
    assert is_valid(schema, {"x": {**made, "value": "1", "type": "string"}})
    assert not is_valid(schema, {"x": {**made, "value": 1, "type": "string"}})


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.dates()
    | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=5,
)


@given(st.sampled_from(get_args(ValueType)), values)
def test_whatever_is_converted_to_a_type_validates_as_this_type(kind: ValueType, value: Any) -> None:
    document = {"id": "1", "name": "x", "order": 1, "selector": "*", "schema": {"x": entry("x", kind, "")}}
    schema = metadata_schema(Schema.model_validate(document))
    try:
        made = plain(convert(value, kind))
    except (ValueError, TypeError, ArithmeticError):
        return

    assert is_valid(schema, {"x": {"value": made, "unit": "", "human_name": "x", "type": kind}})


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["schema", "metadata", *arguments])


def test_the_command_prints_it(vespa: Path) -> None:
    printed, complete = run(str(vespa)), run(str(vespa), "--all-required")

    assert (printed.exit_code, complete.exit_code) == (0, 0)
    assert json.loads(printed.stdout) == metadata_schema(schema_in(vespa))
    assert json.loads(complete.stdout) == complete_metadata_schema(schema_in(vespa))
    assert json.loads(printed.stdout)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_command_names_what_is_wrong(tmp_path: Path, schema_document: dict[str, Any]) -> None:
    path = tmp_path / "odin.imsc.yml"
    document = copy.deepcopy(schema_document)
    document["schema"] |= {"good": entry("good", "string", "x"), "bad": entry("bad", "strin", "x")}
    path.write_text(yaml.safe_dump(document))
    usable = run(str(path))
    path.write_text(yaml.safe_dump({**document, "id": None}))
    broken = run(str(path))
    absent = run(str(tmp_path / "nowhere.imsc.yml"))

    assert usable.exit_code == 0
    assert list(json.loads(usable.stdout)["properties"]) == ["good"]
    assert "Left out: schema.bad: type: 'strin' is not known; did you mean string?" in usable.stderr
    assert (broken.exit_code, absent.exit_code) == (1, 1)
    assert "id: is missing." in broken.stderr
    assert "nowhere.imsc.yml" in absent.stderr


def test_a_link_that_is_none_is_left_out_with_a_notice(tmp_path: Path, vespa: Path) -> None:
    document = yaml.safe_load(vespa.read_text())
    link = {"field_type": "high_level", "machine_name": "scientificMetadataSchema", "type": "link"}
    (tmp_path / "raw").mkdir()
    (tmp_path / "schemas").mkdir()
    path = str(shutil.copy(VESPA, tmp_path / "raw"))

    def built(value: str) -> Any:
        document["schema"]["link"] = {**link, "value": value}
        (tmp_path / "schemas" / "vespa.imsc.yml").write_text(yaml.safe_dump(document, sort_keys=False))
        schemas = load_schemas(tmp_path / "schemas")
        return build_again(extract_again(path, schemas, RecordedCatalogue({}), NOWHERE), NOWHERE)[0]

    good = built("https://schemas.example.org/<ingestor_metadata_schema_id>.json")
    assert good.dataset["scientificMetadataSchema"] == "https://schemas.example.org/6a1f5d3e-vespa.json"
    bad = built("vespa.json")
    assert "scientificMetadataSchema" not in bad.dataset
    assert any("'vespa.json' is not a web address" in notice.reason for notice in bad.notices)
