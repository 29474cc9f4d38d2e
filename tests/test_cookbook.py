"""The recipes of *Write a schema* make of the tutorial's file what is written below each of them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from docs.describe_schemas import VESPA, WHOLE_SCHEMA
from scicat_dagster.cli import main

COOKBOOK = Path(__file__).parents[1] / "docs" / "how-to" / "write-a-schema.md"

_RECIPE = re.compile(
    r"^## ([^\n]*)\n(?:(?!^## ).)*?^```yaml\n(.*?)^```\n\n```json\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
RECIPES = {title: (part, result) for title, part, result in _RECIPE.findall(COOKBOOK.read_text("utf-8"))}

INSTRUMENTS = "instruments?filter=%7B%22where%22%3A%7B%22name%22%3A%7B%22ilike%22%3A%22VESPA%22%7D%7D%7D"
SCICAT = {
    "proposals/700123": {"pi_firstname": "Marie", "pi_lastname": "Curie"},
    INSTRUMENTS: [{"pid": "vespa-1", "name": "VESPA"}],
    "samples of proposal 700123": [{"sampleId": "sample-7", "sampleName": "Ice Ih, annealed"}],
}


def made_of(schema: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The dataset that a schema makes of the tutorial's file, without any warning."""
    files = folder / "vespa"
    for place in (folder / "schemas", files / "raw"):
        place.mkdir(parents=True)
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

    assert [*RECIPES, "Test your schemas in your own CI"] == headings


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_makes_what_is_written_below_it(tmp_path: Path, title: str) -> None:
    part, result = (yaml.safe_load(text) for text in RECIPES[title])
    schema = yaml.safe_load(WHOLE_SCHEMA)
    for section, content in part.items():
        schema[section] = {**schema.get(section, {}), **content}

    dataset = made_of(schema, tmp_path)

    entries = result.pop("scientificMetadata", {})
    assert {name: dataset[name] for name in result} == result
    assert set(entries) == set(dataset["scientificMetadata"])
    for name, entry in entries.items():
        assert dataset["scientificMetadata"][name] == {**entry, "value": pytest.approx(entry["value"])}
