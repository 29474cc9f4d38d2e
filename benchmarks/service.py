"""How fast the whole service is: bursts, lone files and backfills through real processes.

``python -m benchmarks.service burst|lone|backfill [--files N] [--layout production|laptop]`` prints one JSON
object. Everything is on this machine, the catalogue is the demo's stand-in, the broker the in-memory one. The
domain alone is measured by ``benchmarks.domain``.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from benchmarks.soak.facility import Facility, cursor_of, running_facility
from benchmarks.soak.processes import Laptop, Processes, Production
from scicat_dagster.demo.catalogue import Dialect
from scicat_dagster.demo.file_writer import MessageKind, write_past_file, written_message
from scicat_dagster.demo.measurement import PlannedFile, plan_file

LAYOUTS: dict[str, type[Processes]] = {"laptop": Laptop, "production": Production}

_SEED = 3
_WARM_UP = 20
_LOOK_SECONDS = 0.005
_START_SECONDS = 120.0
_LONGEST_SECONDS = 1800.0
_PAUSE_SECONDS = (3.0, 13.0)
"""Between lone files: nothing of the one before is under way, and the sensor's tick is at any moment."""
_PROCESSES = 4
"""How many files the loop without Dagster works on at once: as many as there are workers."""


@contextmanager
def facility(layout: str) -> Iterator[Facility]:
    """A facility in which nothing fails, once its sensor has looked at Kafka."""
    place = Path(tempfile.mkdtemp(prefix="benchmark-"))
    place.chmod(0o711)
    try:
        with running_facility(place, _SEED, None, LAYOUTS[layout], Dialect.V4X, {}) as running:
            _wait(lambda: bool(cursor_of(running.instance).offsets), _START_SECONDS)
            yield running
    finally:
        shutil.rmtree(place, ignore_errors=True)


def write(running: Facility, first: int, files: int) -> list[PlannedFile]:
    """Write files that were finished long ago."""
    planned = [plan_file(_SEED, index) for index in range(first, first + files)]
    for plan in planned:
        write_past_file(plan, running.data_directory)
    return planned


def announce(running: Facility, planned: list[PlannedFile]) -> None:
    """Announce files one right after the other."""
    for plan in planned:
        message = written_message(plan, plan.path(running.data_directory))
        topic = plan.proposal.instrument.topic
        running.announcements.send(topic, MessageKind.WRITTEN, message, key=plan.job_id)


def burst(running: Facility, files: int) -> dict[str, Any]:
    """Files announced at once, one run each; and the same without Dagster, a process each."""
    announce(running, write(running, 0, _WARM_UP))
    wait_for_blocks(running, _WARM_UP)
    planned = write(running, _WARM_UP, files)
    began = time.monotonic()
    announce(running, planned)
    wait_for_blocks(running, _WARM_UP + files)
    seconds = time.monotonic() - began
    others = write(running, _WARM_UP + files, files)
    began = time.monotonic()
    with ThreadPoolExecutor(_PROCESSES) as pool:
        list(pool.map(lambda plan: _in_a_process(plan.path(running.data_directory)), others))
    wait_for_blocks(running, _WARM_UP + 2 * files)
    bare = time.monotonic() - began
    return {
        "files per minute": round(files / seconds * 60),
        "a process per file, files per minute": round(files / bare * 60),
        "ratio": round(bare / seconds, 2),
    }


def _in_a_process(path: Path) -> None:
    subprocess.run([sys.executable, "-m", "benchmarks.one_file", str(path)], check=True)  # noqa: S603


def lone(running: Facility, files: int) -> dict[str, Any]:
    """Seconds from a message to its last POST, when nothing else is under way."""
    announce(running, write(running, 0, _WARM_UP))
    wait_for_blocks(running, _WARM_UP)
    chance = random.Random(_SEED)  # noqa: S311 - nothing to guess
    taken = []
    for index in range(files):
        (plan,) = write(running, _WARM_UP + index, 1)
        time.sleep(chance.uniform(*_PAUSE_SECONDS))
        began = time.monotonic()
        announce(running, [plan])
        wait_for_blocks(running, _WARM_UP + index + 1)
        taken.append(time.monotonic() - began)
    return {
        "median seconds": round(statistics.median(taken), 2),
        "95th percentile": round(statistics.quantiles(taken, n=20, method="inclusive")[-1], 2),
        "slowest": round(max(taken), 2),
    }


def backfill(running: Facility, files: int) -> dict[str, Any]:
    """Past files, found and backfilled by ``scicat-dagster discover --backfill``."""
    write(running, 0, files)
    began = time.monotonic()
    command = [
        str(Path(sys.executable).parent / "scicat-dagster"), "discover", str(running.data_directory),
        "--config", str(running.directory / "config.yml"), "--backfill",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    found = time.monotonic() - began
    wait_for_blocks(running, files)
    seconds = time.monotonic() - began
    return {
        "files per minute": round(files / seconds * 60),
        "seconds": round(seconds, 1),
        "of these until it was launched": round(found, 1),
    }


def wait_for_blocks(running: Facility, number: int) -> None:
    """Wait until the catalogue has so many file lists."""
    _wait(lambda: running.store.count_origdatablocks() >= number, _LONGEST_SECONDS)


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise click.ClickException("Not done in time.")
        time.sleep(_LOOK_SECONDS)


MEASUREMENTS: dict[str, tuple[Callable[[Facility, int], dict[str, Any]], int]] = {
    "burst": (burst, 500),
    "lone": (lone, 20),
    "backfill": (backfill, 5000),
}


@click.command()
@click.argument("what", type=click.Choice(list(MEASUREMENTS)))
@click.option("--files", type=click.IntRange(2), help="By default 500, 20 or 5,000.")
@click.option("--layout", type=click.Choice(list(LAYOUTS)), default="production", show_default=True)
def main(what: str, files: int | None, layout: str) -> None:
    """Measure one thing and print it as JSON, with the load of the machine before."""
    measure, usual = MEASUREMENTS[what]
    load = round(os.getloadavg()[0], 2)
    with facility(layout) as running:
        number = files or usual
        figures = measure(running, number)
    click.echo(json.dumps({"what": what, "layout": layout, "files": number, "load before": load} | figures))


if __name__ == "__main__":
    main()
