"""Past files that nobody announced: found, backfilled many in a run, and then found to be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scicat_dagster.demo.file_writer import write_past_file
from scicat_dagster.demo.measurement import plan_file
from tests.endtoend.conftest import Processes
from tests.endtoend.test_kills import check_exactly_once

pytestmark = [pytest.mark.endtoend, pytest.mark.timeout(300)]

FILES = 30


def discover(facility: Processes, *options: str) -> Any:
    finished = subprocess.run(
        [
            str(Path(sys.executable).parent / "scicat-dagster"), "discover", str(facility.data_directory),
            "--config", str(facility.directory / "config.yml"), *options,
        ],
        env={**os.environ, **facility.environment},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout) if "--json" in options else finished.stdout


def test_discover_backfills_what_is_missing_and_then_finds_nothing_to_do(on_loopback: Processes) -> None:
    facility = on_loopback
    files = {
        str(write_past_file(plan_file(seed=21, index=index), facility.data_directory))
        for index in range(FILES)
    }
    facility.start_dagster()

    discover(facility, "--backfill")
    facility.wait_for(lambda: facility.registered() == files, "every past file is green", seconds=200)

    check_exactly_once(facility, files)
    # Many in a run: that is what makes it fast.
    assert facility.instance.get_runs_count() <= 2
    (backfill,) = facility.instance.get_backfills()
    assert backfill.tags["dagster/priority"] == "-1"
    found = discover(facility, "--json")
    assert all(file["state"] == "registered" for file in found["files"])
    assert "Nothing to do" in discover(facility, "--backfill")
    assert len(facility.instance.get_backfills()) == 1
