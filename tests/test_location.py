"""Dagster finds the code location under one name, whoever starts it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
NAME, MODULE = "scicat_dagster", "scicat_dagster.definitions"


@pytest.mark.parametrize("place", ["workspace.yaml", "scicat_dagster/demo/data/workspace.yaml"])
def test_a_workspace_names_the_location(place: str) -> None:
    (location,) = yaml.safe_load((ROOT / place).read_text())["load_from"]

    assert location == {"python_module": {"module_name": MODULE, "location_name": NAME}}


def test_both_command_lines_of_dagster_load_the_same() -> None:
    tools: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]

    assert tools["dagster"] == {"module_name": MODULE, "code_location_name": NAME}
    project = tools["dg"]["project"]
    assert (project["code_location_target_module"], project["code_location_name"]) == (MODULE, NAME)


@pytest.mark.parametrize(
    "place", ["dagster.yaml", "deploy/dagster.yaml", "scicat_dagster/demo/data/dagster.yaml"]
)
def test_no_page_asks_for_a_newsletter(place: str) -> None:
    assert yaml.safe_load((ROOT / place).read_text())["nux"] == {"enabled": False}
