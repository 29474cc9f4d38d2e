"""The recipes of *Write a schema* make of the tutorial's file what is written below each of them."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from docs.describe_schemas import VESPA, WHOLE_SCHEMA
from scicat_dagster.cli import main
from scicat_dagster.schemas.operators import Arguments
from scicat_dagster.schemas.plugins import offered, operator_named

COOKBOOK = Path(__file__).parents[1] / "docs" / "how-to" / "write-a-schema.md"

_RECIPE = re.compile(
    r"^## ([^\n]*)\n(?:(?!^## ).)*?^```yaml\n(.*?)^```\n\n```json\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
RECIPES = {title: (part, result) for title, part, result in _RECIPE.findall(COOKBOOK.read_text("utf-8"))}

OF_SEVERAL_FILES = (
    "Share parts between schemas",
    "An operator of your own",
    "Let SciCat validate the metadata",
    "Test your schemas in your own CI",
)
"""Sections that are not a part of one schema."""

INSTRUMENTS = "instruments?filter=%7B%22where%22%3A%7B%22name%22%3A%7B%22ilike%22%3A%22VESPA%22%7D%7D%7D"
SCICAT = {
    "proposals/700123": {"pi_firstname": "Marie", "pi_lastname": "Curie"},
    INSTRUMENTS: [{"pid": "vespa-1", "name": "VESPA"}],
    "samples of proposal 700123": [{"sampleId": "sample-7", "sampleName": "Ice Ih, annealed"}],
}


def blocks(title: str, language: str) -> list[str]:
    """The code of a section."""
    section = COOKBOOK.read_text("utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def made_of(schema: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The dataset that a schema makes of the tutorial's file, without any warning."""
    files = folder / "vespa"
    for place in (folder / "schemas", files / "raw"):
        place.mkdir(parents=True, exist_ok=True)
    file = Path(shutil.copy(VESPA, files / "raw"))
    (folder / "schemas" / "vespa.imsc.yml").write_text(yaml.safe_dump(schema, sort_keys=False))
    (files / "scicat.json").write_text(json.dumps(SCICAT))
    arguments = ["schema", "test", str(files), "--schemas", str(folder / "schemas"), "--update"]
    result = CliRunner(env={"SCICAT_INGESTOR_CONFIG": ""}).invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "note: " not in result.output
    dataset = json.loads(file.with_name(f"{file.name}.expected.json").read_text())
    assert isinstance(dataset, dict)
    return dataset


def test_all_recipes_are_found() -> None:
    headings = re.findall(r"^## (.*)$", COOKBOOK.read_text("utf-8"), re.MULTILINE)

    assert [*RECIPES, *OF_SEVERAL_FILES] == headings


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_makes_what_is_written_below_it(tmp_path: Path, title: str) -> None:
    part, result = (yaml.safe_load(text) for text in RECIPES[title])
    schema = yaml.safe_load(WHOLE_SCHEMA)
    for section, content in part.items():
        is_several = isinstance(content, dict) and isinstance(schema.get(section, {}), dict)
        schema[section] = {**schema.get(section, {}), **content} if is_several else content

    dataset = made_of(schema, tmp_path)

    entries = result.pop("scientificMetadata", {})
    assert {name: dataset[name] for name in result} == result
    assert set(entries) == set(dataset["scientificMetadata"])
    for name, entry in entries.items():
        assert dataset["scientificMetadata"][name] == {**entry, "value": pytest.approx(entry["value"])}


def test_the_shared_part_and_the_schema_make_what_is_said(tmp_path: Path) -> None:
    part, own = blocks("Share parts between schemas", "yaml")
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "common.part.yml").write_text(part)
    schema = yaml.safe_load(WHOLE_SCHEMA)
    for replaced in ("group", "location"):
        del schema["schema"][replaced]
    written = yaml.safe_load(own)
    schema = {**schema, **written, "schema": {**schema["schema"], **written["schema"]}}

    dataset = made_of(schema, tmp_path)

    assert dataset["ownerGroup"] == "proposal_700123"
    assert dataset["creationLocation"] == "ESS:VESPA"
    assert "comment" not in dataset


def test_the_operators_of_the_package_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("An operator of your own", "python")
    project = tomllib.loads(blocks("An operator of your own", "toml")[0])["project"]
    (schema,) = blocks("An operator of your own", "yaml")
    site = tmp_path / "site"
    info = site / "vespa_operators-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "vespa_operators.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n")
    ((group, entries),) = project["entry-points"].items()
    (info / "entry_points.txt").write_text(
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in entries.items())
    )
    monkeypatch.syspath_prepend(str(site))
    offered.cache_clear()
    try:
        document = yaml.safe_load(WHOLE_SCHEMA)
        document["variables"] |= yaml.safe_load(schema)["variables"]
        document["schema"]["longest"] = {
            "field_type": "scientific_metadata",
            "machine_name": "longest",
            "value": "<longest>",
            "type": "float",
        }
        entry = made_of(document, tmp_path)["scientificMetadata"]["longest"]
        kept = operator_named("offset")
    finally:
        offered.cache_clear()
        sys.modules.pop("vespa_operators", None)

    assert entry["value"] == pytest.approx(4.0, abs=0.01)
    assert (kept.apply([1], Arguments(pattern="2")), kept.keeps_unit) == ([3.0], True)


def test_the_address_of_the_metadata_schema_is_in_the_dataset(tmp_path: Path) -> None:
    (part,) = blocks("Let SciCat validate the metadata", "yaml")
    schema = yaml.safe_load(WHOLE_SCHEMA)
    schema["schema"] |= yaml.safe_load(part)["schema"]

    dataset = made_of(schema, tmp_path)

    assert dataset["scientificMetadataSchema"] == "https://schemas.example.org/vespa.schema.json"
