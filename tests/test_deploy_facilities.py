"""``deploy/`` with a project of several facilities: what is loaded, checked and served of each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
EXAMPLE = ROOT / "docs" / "examples" / "two-facilities"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The documentation's example, with a schema and a port for each facility."""
    copied = shutil.copytree(EXAMPLE, tmp_path / "project")
    for port, name in enumerate(("odin", "loki"), start=8081):
        schemas = configuration(copied, name).parent / "schemas"
        schemas.mkdir()
        (schemas / f"{name}.imsc.yml").write_text("{}")
        set_port(copied, name, port)
    return copied


def configuration(project: Path, name: str) -> Path:
    return project / "src" / "two_facilities" / "defs" / name / "facility.yml"


def set_port(project: Path, name: str, port: int) -> None:
    file = configuration(project, name)
    text = file.read_text().partition("health_check:")[0]
    file.write_text(f"{text}health_check: {{port: {port}}}\n")


def call(project: Path, *command: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """One of the programs, as the service calls it."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(project / "src"),
        "DAGSTER_HOME": str(project),
        "SCICAT_DAGSTER_STATE": str(project),
        "SCICAT_DAGSTER_BIN": str(project / "bin"),
        "SCICAT_DAGSTER_MODULE": "two_facilities.definitions",
        "SCICAT_INGESTOR_CONFIG": "",
        "SCICAT_TOKEN_ODIN": "one",
        "SCICAT_TOKEN_LOKI": "another",
        **more,
    }
    return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)


def load(project: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return call(project, sys.executable, DEPLOY / "load-configuration", **more)


def test_the_facilities_of_a_project_are_found_with_all_their_files(project: Path) -> None:
    done = load(project)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    files = {name: configuration(project, name) for name in ("loki", "odin")}
    assert found["facilities"] == [{"key_prefix": name, "config": str(file)} for name, file in files.items()]
    assert found["files"] == [
        str(path)
        for name, file in files.items()
        for path in (file, file.parent / "schemas" / f"{name}.imsc.yml")
    ]


def test_two_health_endpoints_at_one_port_are_refused(project: Path) -> None:
    set_port(project, "loki", 8081)

    done = load(project)

    assert done.returncode == 1
    assert "loki and odin both have health_check.port 8081" in done.stderr


def test_a_module_that_is_not_there_is_named(project: Path) -> None:
    done = load(project, SCICAT_DAGSTER_MODULE="no_such_project.definitions")

    assert done.returncode == 1
    assert "The module no_such_project.definitions cannot be loaded" in done.stderr
    assert "SCICAT_DAGSTER_MODULE" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_project_a_configuration_file_is_needed(project: Path) -> None:
    done = load(project, SCICAT_DAGSTER_MODULE="")

    assert done.returncode == 1
    assert done.stderr.startswith("SCICAT_INGESTOR_CONFIG is empty.")


def test_a_facility_whose_secret_is_not_there_is_not_started_with(project: Path) -> None:
    (project / "environment").write_text(f"SCICAT_DAGSTER_BIN={Path(sys.executable).parent}\n")

    done = call(project, DEPLOY / "start", project, SCICAT_TOKEN_ODIN="")

    assert done.returncode == 1
    assert "SCICAT_TOKEN_ODIN is not set" in done.stderr


def program(project: Path, name: str, text: str) -> None:
    """Instead of one that is installed with the package."""
    path = project / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("given", "loaded"),
    [("two_facilities.definitions", "two_facilities.definitions"), ("", "scicat_dagster.definitions")],
)
def test_the_code_server_is_given_the_module(project: Path, given: str, loaded: str) -> None:
    program(project, "dagster", 'echo "$@"')

    done = call(project, DEPLOY / "code-server", SCICAT_DAGSTER_MODULE=given, CODE_SERVER_SOCKET="/a/socket")

    assert done.stdout.split() == ["api", "grpc", "--module-name", loaded, "--socket", "/a/socket"]


def test_the_health_of_each_facility_is_served_until_one_ends(project: Path) -> None:
    # The pipe is closed when nobody holds it any more: the other process was ended, too.
    program(project, "scicat-dagster", 'echo "$@"\n[ "$4" = odin ] || exec sleep 600')

    done = call(project, sys.executable, DEPLOY / "health")

    assert sorted(done.stdout.splitlines()) == [
        f"health --serve --key-prefix {name} --config {configuration(project, name)}"
        for name in ("loki", "odin")
    ]


def test_the_health_of_one_facility_is_served_as_ever(project: Path) -> None:
    program(project, "scicat-dagster", 'echo "$@"')

    assert call(project, sys.executable, DEPLOY / "health", SCICAT_DAGSTER_MODULE="").stdout == (
        "health --serve\n"
    )
