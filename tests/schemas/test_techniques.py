"""Techniques by the names that PaNET has for them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from scicat_dagster.cli import main
from scicat_dagster.schemas.models import Schema
from scicat_dagster.schemas.operators import OPERATORS, Arguments
from scicat_dagster.schemas.techniques import PANET, technique

POWDER = {"pid": "http://purl.org/pan-science/PaNET/PaNET01100", "name": "neutron powder diffraction"}


@pytest.mark.parametrize(
    "name",
    [
        "neutron powder diffraction", "Neutron Powder-Diffraction", " neutron  powder diffraction ", "NPD",
        "PaNET01100", POWDER["pid"], POWDER["pid"].replace("http", "https"),
    ],
)  # fmt: skip
def test_a_technique_is_found_by_label_synonym_and_identifier(name: str) -> None:
    assert technique(name) == POWDER


@pytest.mark.parametrize(
    "name", ["x-ray diffraction", "xray diffraction", "X Ray Diffraction", "Xray-diffraction"]
)
def test_x_rays_are_written_in_several_ways(name: str) -> None:
    assert technique(name)["name"] == "x-ray diffraction"


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(LookupError, match=r"did you mean neutron powder diffraction\?"):
        technique("neutron powder difraction")


@given(st.text())
def test_whatever_a_name_is_it_is_a_technique_or_none(name: str) -> None:
    try:
        found = technique(name)
    except LookupError:
        return
    assert technique(found["name"])["name"] == found["name"]


def searched(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["schema", "techniques", *arguments])


@pytest.mark.parametrize(
    "words", [["small", "Neutron"], ["small-angle neutron"], ["SANS"], ["paNET01189"], [f"{PANET}PaNET01189"]]
)
def test_techniques_are_looked_up_by_words_of_their_names(words: list[str]) -> None:
    assert "PaNET01189  small angle neutron scattering (SANS)" in searched(*words).stdout.splitlines()


def test_what_is_found_is_what_the_operator_takes() -> None:
    found = json.loads(searched("--json").stdout)

    assert len(found) > 300
    assert all(technique(each["pid"]) == each for each in found)
    assert {each["name"] for each in json.loads(searched("powder", "neutron", "--json").stdout)} >= {
        POWDER["name"]
    }


def test_where_no_technique_is_found_the_nearest_is_named() -> None:
    nothing = searched("neutron powder difraction")

    assert nothing.exit_code == 1
    assert "did you mean neutron powder diffraction?" in nothing.stderr


def test_the_operator_makes_a_list_of_one_or_of_several() -> None:
    panet = OPERATORS["panet"].apply

    assert panet("NPD", Arguments()) == [POWDER]
    assert [found["name"] for found in panet(["NPD", "tomography"], Arguments())] == [
        "neutron powder diffraction",
        "tomography",
    ]
    with pytest.raises(TypeError):
        panet([1], Arguments())


def test_a_label_in_a_schema_is_checked_before_any_file_comes(schema_document: dict[str, object]) -> None:
    def schema(value: object) -> Schema:
        variable = {"source": "VALUE", "operator": "panet", "value": value, "value_type": "list"}
        return Schema.model_validate({**schema_document, "variables": {"techniques": variable}})

    assert schema(["NPD", "<from_file>"]).mistakes() == ()
    (mistake,) = schema(["NPD", "tomografy"]).mistakes()
    assert mistake.place.startswith("variables.techniques")
    assert "did you mean tomography?" in mistake.what


ROOT = Path(__file__).parents[2]
WRITTEN = [
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("scicat_dagster/**/*.imsc.yml"),
    *ROOT.glob("scicat_dagster/demo/**/*.py"),
]
_NAMED = re.compile(r"(PaNET\d{5})\W+name\W+([a-z][^\"'}\n]*)", re.IGNORECASE)


def named_techniques() -> list[tuple[str, str]]:
    return [found for path in WRITTEN for found in _NAMED.findall(path.read_text(encoding="utf-8"))]


def test_identifiers_in_the_documentation_have_the_names_that_panet_gives_them() -> None:
    named = named_techniques()

    assert len(named) >= 2
    for identifier, name in named:
        assert technique(identifier)["name"] == name.strip()
