"""The module that runs are executed from, and what is loaded of it before they come."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scicat_dagster.config.loading import CONFIGURATION_VARIABLE
from scicat_dagster.errors import PermanentError
from scicat_dagster.instance.code_location import MODULE_VARIABLE, facilities, load_definitions

MODULE = "definitions_of_a_project"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that the environment names, to be written."""
    monkeypatch.setenv(MODULE_VARIABLE, MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return tmp_path / f"{MODULE}.py"


@pytest.mark.parametrize("given", ["", None])
def test_without_a_project_it_is_the_facility_of_the_environment(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(MODULE_VARIABLE, raising=False)
    monkeypatch.delenv(CONFIGURATION_VARIABLE, raising=False)
    if given is not None:
        monkeypatch.setenv(MODULE_VARIABLE, given)

    with pytest.raises(PermanentError, match=CONFIGURATION_VARIABLE):
        load_definitions()


@pytest.mark.parametrize(
    "text", ["defs = dg.Definitions()", "@dg.definitions\ndef made(): return dg.Definitions()"]
)
def test_definitions_are_found_in_either_form(module: Path, text: str) -> None:
    module.write_text(f"import dagster as dg\n{text}\n")

    assert list(load_definitions().get_repository_def().get_all_jobs()) == []


@pytest.mark.parametrize("text", ["raise SystemError('theirs')", "import no_such_module", "(", "other = 1"])
def test_whatever_is_wrong_with_it_is_said_of_the_module(module: Path, text: str) -> None:
    module.write_text(text)

    with pytest.raises(PermanentError, match=f"The module {MODULE}"):
        load_definitions()


def test_a_project_without_a_facility_has_none(module: Path) -> None:
    module.write_text("import dagster as dg\ndefs = dg.Definitions(resources={'facility': 1})\n")

    with pytest.raises(PermanentError, match="has no facility"):
        facilities()


def test_what_runs_are_forked_from_loads_it_and_outlives_it(module: Path) -> None:
    module.write_text("print('loaded', flush=True)\nraise RuntimeError\n")
    program = "import scicat_dagster.instance.fork_preload; print('alive')"

    done = subprocess.run(
        [sys.executable, "-c", program],
        env={MODULE_VARIABLE: MODULE, "PYTHONPATH": str(module.parent)},
        capture_output=True,
        text=True,
    )

    assert done.stdout.split() == ["loaded", "alive"], done.stderr
