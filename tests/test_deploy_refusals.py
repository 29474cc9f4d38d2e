"""What the programs of ``deploy/`` say to a person who calls them for the first time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[1] / "deploy"


def call(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run([str(DEPLOY / program), *arguments], env=given, capture_output=True, text=True)


def folder(tmp_path: Path, config: str, bin_folder: Path = Path(sys.executable).parent) -> Path:
    """As ``deploy/prepare`` leaves it, as far as it is looked at before anything is started."""
    (tmp_path / "config.yml").write_text(config)
    (tmp_path / "environment").write_text(
        "DATABASE_BIN=/nowhere\n"
        f"SCICAT_DAGSTER_STATE={tmp_path}\nSCICAT_DAGSTER_BIN={bin_folder}\n"
        f"SCICAT_INGESTOR_CONFIG={tmp_path / 'config.yml'}\n"
    )
    return tmp_path


@pytest.mark.parametrize("program", ["prepare", "prepare-worker", "start", "init-database", "ctl"])
def test_help_says_how_it_is_called(program: str) -> None:
    done = call(program, "--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert "FOLDER" in done.stdout


@pytest.mark.parametrize("program", ["prepare", "prepare-worker", "start", "init-database"])
def test_without_a_folder_the_usage_is_an_error(program: str) -> None:
    done = call(program)

    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


@pytest.mark.parametrize("program", ["start", "init-database"])
def test_a_folder_that_is_not_prepared_is_named(program: str, tmp_path: Path) -> None:
    done = call(program, str(tmp_path / "wrong"))

    assert done.returncode == 1
    assert done.stderr.startswith(f"{tmp_path}/wrong/environment is not there")
    assert "deploy/prepare" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_configuration_that_cannot_be_used_is_not_started_with(tmp_path: Path) -> None:
    state = folder(tmp_path, "scicat: {password: '${SCICAT_PASSWORD_OF_TEST}'}")

    done = call("start", str(state))

    assert done.returncode == 1
    assert "SCICAT_PASSWORD_OF_TEST is not set" in done.stderr
    assert f"{state}/environment" in done.stderr
    assert "Traceback" not in done.stderr


def test_programs_that_nobody_here_can_execute_are_refused(tmp_path: Path) -> None:
    state = folder(tmp_path, "{}", tmp_path / "gone")

    started = call("start", str(state))
    prepared = call("prepare", str(tmp_path / "new"), SCICAT_DAGSTER_BIN=str(tmp_path / "gone"))

    assert (started.returncode, prepared.returncode) == (1, 1)
    assert f"{tmp_path}/gone/supervisord cannot be executed" in started.stderr
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written_is_no_traceback(tmp_path: Path) -> None:
    state = folder(tmp_path, "{}")

    done = call("ctl", str(state), "backup", str(state / "environment" / "backup"))

    assert done.returncode == 1
    assert "cannot be made" in done.stderr
    assert len(done.stderr.splitlines()) == 1
