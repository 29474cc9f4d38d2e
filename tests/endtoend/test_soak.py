"""A small soak: files, faults, an outage and kills, and every file accounted for.

On the layout of ``deploy/`` where the machine has what it needs: there a group of workers is killed, too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.soak.plan import DeedKind, FileFault, Hostile, Plan, make_plan
from benchmarks.soak.processes import Laptop, Production

pytestmark = pytest.mark.endtoend

SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin"

FILES = 60
SEED = 7
KILLS = 5
LAYOUT = (
    Production if all(shutil.which(name, path=SBIN) for name in ("redis-server", "pgbouncer")) else Laptop
)


def plan(seed: int) -> Plan:
    return make_plan(seed, FILES, KILLS, victims=LAYOUT.victims, seconds_per_file=1.0)


def test_nothing_is_lost_or_registered_twice_whatever_fails() -> None:
    finished = subprocess.run(
        [
            sys.executable, "-m", "benchmarks.soak", "--layout", LAYOUT.__name__.lower(),
            "--timeout", "240", "--files", str(FILES), "--seed", str(SEED), "--kills", str(KILLS),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=280,
    )  # fmt: skip

    assert finished.returncode == 0, finished.stdout + finished.stderr
    report = json.loads(finished.stdout)
    broken = [file for file in plan(SEED).files if file.fault.permanent]
    assert report["settled"]
    assert report["announced"] == FILES
    assert report["lost"] == report["not_green"] == report["failed_without_fault"] == []
    assert report["differing"] == {}
    assert report["registered"] == report["datasets"] == report["origdatablocks"] == FILES - len(broken)
    assert report["duplicate_datasets"] == report["duplicate_blocks"] == report["unannounced"] == 0
    assert sum(report["failed_visible"].values()) == len(broken)
    assert report["rejected"] == report["rejected_expected"] > 0
    # It did happen.
    assert sum(report["kills"].values()) == KILLS
    assert all(report["kill_manners"].values())
    assert all(report["deeds"].values())
    assert all(report["hostile_messages"].values())
    assert sum(report["faults"].values()) > 0
    assert report["broker_outages"] == 1


def test_a_seed_stands_for_one_plan() -> None:
    planned = plan(SEED)

    assert planned == plan(SEED)
    assert planned != plan(SEED + 1)
    assert len(planned.files) == FILES
    assert {file.fault for file in planned.files} == set(FileFault)
    assert {deed.kind for deed in planned.deeds} == set(DeedKind)
    assert {kind for burst in planned.bursts for kind in burst.hostile} == set(Hostile)
    assert {kill.victim for kill in planned.kills} == set(LAYOUT.victims)
