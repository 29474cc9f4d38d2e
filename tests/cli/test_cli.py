"""The command line itself: its commands, their arguments, and what happens when these are wrong.

What the commands do is for the tests of what they call: ``test_preview``, ``test_validation`` and the demo.
"""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from scicat_dagster.cli import main
from scicat_dagster.config.loading import CONFIGURATION_VARIABLE

COMMANDS = ("preview", "validate", "demo")
USAGE = 2
VERSION = version("scicat_dagster")


def test_the_help_names_every_command() -> None:
    result = CliRunner().invoke(main, ["--help"])

    assert result.exit_code == 0
    assert set(main.commands) >= set(COMMANDS)
    for name in main.commands:
        assert name in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_each_command_explains_itself(command: str, option: str) -> None:
    result = CliRunner().invoke(main, [command, option])

    assert result.exit_code == 0
    assert f"{command} [OPTIONS]" in result.stdout
    assert len(result.stdout.splitlines()) > 4


def test_the_version_is_the_packages() -> None:
    result = CliRunner().invoke(main, ["--version"])

    assert result.exit_code == 0
    assert VERSION in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["register"],
        ["preview"],
        ["preview", "one.nxs"],
        ["preview", "one.nxs", "--config", "c.yml", "--yaml"],
        ["validate"],
        ["validate", "one.yml", "two.yml"],
        ["demo", "--files", "0"],
        ["demo", "--port", "many"],
    ],
)
def test_wrong_arguments_are_refused_with_their_usage(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments, env={CONFIGURATION_VARIABLE: None})

    assert result.exit_code == USAGE
    assert result.stdout == ""
    assert "Error: " in result.stderr


@pytest.mark.parametrize("given", ["option", "short option", "variable"])
def test_the_configuration_is_given_by_option_or_variable(given: str, tmp_path: Path) -> None:
    config = str(tmp_path / "nowhere.yml")
    option = {"option": ["--config", config], "short option": ["-c", config], "variable": []}[given]
    environment = {CONFIGURATION_VARIABLE: config if given == "variable" else None}

    result = CliRunner().invoke(main, ["preview", "one.nxs", *option], env=environment)

    assert result.exit_code == 1
    assert config in result.stdout


def test_the_option_wins_over_the_variable(tmp_path: Path) -> None:
    chosen, other = str(tmp_path / "chosen.yml"), str(tmp_path / "other.yml")

    result = CliRunner().invoke(
        main, ["preview", "one.nxs", "-c", chosen], env={CONFIGURATION_VARIABLE: other}
    )

    assert chosen in result.stdout
    assert other not in result.stdout


PROGRAM = """
import sys
from click.testing import CliRunner
from scicat_dagster.cli import main
assert CliRunner().invoke(main, sys.argv[1:]).exit_code == int(sys.argv[1] != "--help")
print([name for name in sys.modules if name == "dagster" or name.startswith("scicat_dagster.demo")])
"""


@pytest.mark.parametrize("arguments", [["--help"], ["validate", "nowhere.yml"], ["preview", "x", "-c", "y"]])
def test_neither_dagster_nor_the_demo_is_loaded_where_it_is_not_needed(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], timeout=60, capture_output=True, text=True
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_the_command_is_installed() -> None:
    environment = {name: value for name, value in os.environ.items() if name != CONFIGURATION_VARIABLE}
    command = str(Path(sys.executable).with_name("scicat-dagster"))

    shown = subprocess.run([command, "--version"], timeout=60, capture_output=True, text=True)
    wrong = subprocess.run(
        [command, "preview", "x"], env=environment, timeout=60, capture_output=True, text=True
    )

    assert (shown.returncode, shown.stderr) == (0, "")
    assert VERSION in shown.stdout
    assert (wrong.returncode, wrong.stdout) == (USAGE, "")
