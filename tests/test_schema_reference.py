"""The reference of the imsc language is what the package does: the page is made of it, and complete."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from docs.describe_schemas import (
    BUILT_IN,
    OPERATOR_EXAMPLES,
    PAGE,
    TYPE_EXAMPLES,
    VESPA,
    WHOLE_SCHEMA,
    page,
)
from docs.write_vespa_file import write
from scicat_dagster.cli import main
from scicat_dagster.files.reading import read_members
from scicat_dagster.schemas.conversion import VALUE_TYPES
from scicat_dagster.schemas.models import BUILT_IN_VARIABLES
from scicat_dagster.schemas.operators import OPERATORS


def test_the_page_is_made_of_the_package() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), f"run `python docs/describe_schemas.py > {PAGE}`"


def test_every_operator_has_an_example() -> None:
    assert OPERATOR_EXAMPLES.keys() == OPERATORS.keys(), "add it to docs/describe_schemas.py"


@pytest.mark.parametrize("name", sorted(OPERATOR_EXAMPLES))
def test_an_example_has_the_arguments_that_its_operator_needs(name: str) -> None:
    given = vars(OPERATOR_EXAMPLES[name].arguments)

    assert all(given[argument] is not None for argument in OPERATORS[name].needs)


def test_every_type_and_built_in_variable_is_explained() -> None:
    assert TYPE_EXAMPLES.keys() == set(VALUE_TYPES)
    assert BUILT_IN.keys() == set(BUILT_IN_VARIABLES)


def test_the_whole_schema_registers_the_tutorials_file(tmp_path: Path) -> None:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "vespa.imsc.yml").write_text(WHOLE_SCHEMA)
    config = tmp_path / "config.yml"
    config.write_text(
        "scicat: {host: 'https://scicat.invalid', token: x}\ningestion: {schemas_directory: schemas}\n"
    )

    result = CliRunner().invoke(main, ["validate", str(config), "--against", str(VESPA)])

    assert result.exit_code == 0, result.output
    assert "the schema VESPA is for it; it could be registered." in result.output


def test_the_tutorials_file_is_what_its_program_writes(tmp_path: Path) -> None:
    write(tmp_path / "again.nxs")

    assert read_members(tmp_path / "again.nxs") == read_members(VESPA)
