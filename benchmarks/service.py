"""How fast the whole service is: bursts, lone files and backfills through real processes.

``python -m benchmarks.service burst|lone|written|steady|backfill|idle [--files N] [--layout NAME]`` prints
one JSON object. Everything is on this machine and as it is installed, the catalogue is the demo's
stand-in, the broker the in-memory one. ``--slots`` is ``max_offline_ingestors``, and ``--late`` how much
later the catalogue gives each answer. Previews are switched off, as no ingestor that this one is compared
with has them; ``--previews`` shows what they cost. The domain alone is measured by ``benchmarks.domain``.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import dagster as dg
import yaml

from benchmarks.soak.facility import Facility, cursor_of, running_facility
from benchmarks.soak.processes import Laptop, Processes, Production
from scicat_dagster.config.models import IngestionSettings
from scicat_dagster.demo.catalogue import Dialect
from scicat_dagster.demo.file_writer import (
    MessageKind,
    write_and_announce,
    write_past_file,
    written_message,
)
from scicat_dagster.demo.measurement import PlannedFile, plan_file
from scicat_dagster.orchestration.tags import (
    RAW_DATASET,
    SECONDS_AT_WORK,
    SECONDS_IN_QUEUE,
    SECONDS_UNTIL_REQUESTED,
)


class AsPrepared(Production):
    """As ``deploy/prepare`` lays it out, without the second group of workers that a soak kills."""

    workers: Mapping[str, str] = {}


LAYOUTS: dict[str, type[Processes]] = {"laptop": Laptop, "production": AsPrepared}

_DEFAULT_SLOTS = IngestionSettings.model_fields["max_offline_ingestors"].default

_SEED = 3
_WARM_UP = 20
_BARE_FILES = 100
"""Enough for the time of a process for each file, which does not depend on how many there are."""
_LOOK_SECONDS = 0.005
_START_SECONDS = 120.0
_LONGEST_SECONDS = 1800.0
_PAUSE_SECONDS = (1.0, 8.0)
"""Between lone files: nothing of the one before is under way, and the sensor's tick is at any moment."""
_AT_ONCE = 4
"""How many files the loop without Dagster works on at once: as many as there are workers."""
_STEADY_SECONDS = 1.0
"""From one file to the next, on average, where they come at random times."""
_IDLE_SECONDS = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PROCESSES = {
    "files.isolated.process": "isolated readers",
    "celery --app": "workers",
    "forkserver": "workers",
    "api grpc": "code server",
    "dagster-daemon": "daemon",
    "dagster._daemon": "daemon",
    "dagster-webserver": "webserver",
    "postgres": "database",
    "pgbouncer": "pooler",
    "redis": "queue",
}
"""A word of the command line, and what to call the process."""


@contextmanager
def facility(
    layout: str, slots: int = _DEFAULT_SLOTS, late_seconds: float = 0.0, *, previews: bool = False
) -> Iterator[Facility]:
    """A facility in which nothing fails, once its sensor has looked at Kafka."""
    chosen = type("Chosen", (LAYOUTS[layout],), {"most_at_once": slots})
    place = Path(tempfile.mkdtemp(prefix="benchmark-"))
    place.chmod(0o711)
    try:
        with running_facility(
            place, _SEED, None, chosen, Dialect.V4X, "v3", {}, late_seconds=late_seconds
        ) as running:
            _switch_previews(running, on=previews)
            _wait(lambda: bool(cursor_of(running.instance).offsets), _START_SECONDS)
            yield running
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _switch_previews(running: Facility, *, on: bool) -> None:
    config = running.directory / "config.yml"
    settings = yaml.safe_load(config.read_text())
    settings["ingestion"]["previews"] = on
    config.write_text(yaml.safe_dump(settings))


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
    """Files announced at once, one run each; and some of them without Dagster, a process each."""
    announce(running, write(running, 0, _WARM_UP))
    wait_for_blocks(running, _WARM_UP)
    planned = write(running, _WARM_UP, files)
    began, before = time.monotonic(), processor_seconds(running)
    announce(running, planned)
    wait_for_blocks(running, _WARM_UP + files)
    seconds = time.monotonic() - began
    spent = _spent(before, processor_seconds(running))
    others = write(running, _WARM_UP + files, min(files, _BARE_FILES))
    began, children = time.monotonic(), _children_seconds()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda plan: _in_a_process(plan.path(running.data_directory)), others))
    wait_for_blocks(running, _WARM_UP + files + len(others))
    bare, alone = (time.monotonic() - began) / len(others), (_children_seconds() - children) / len(others)
    whole, ours = seconds / files, sum(spent.values()) / files
    return {
        "files per minute": round(60 / whole),
        "a process per file, files per minute": round(60 / bare),
        "ratio": round(bare / whole, 2),
        "CPU seconds per file": round(ours, 3),
        "of it": {name: round(seconds / files, 3) for name, seconds in spent.items()},
        "of a process per file": round(alone, 3),
        "CPU ratio": round(ours / alone, 2),
    }


def _children_seconds() -> float:
    """CPU seconds of the processes that this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _spent(
    before: Mapping[int, tuple[str, float]], after: Mapping[int, tuple[str, float]]
) -> dict[str, float]:
    """CPU seconds by the name of the processes."""
    spent: defaultdict[str, float] = defaultdict(float)
    for pid, (name, seconds) in after.items():
        spent[name] += seconds - before.get(pid, (name, 0.0))[1]
    return spent


def _in_a_process(path: Path) -> None:
    subprocess.run([sys.executable, "-m", "benchmarks.one_file", str(path)], check=True)  # noqa: S603


def lone(running: Facility, files: int) -> dict[str, Any]:
    """Seconds from a message to its last POST, of files that were finished long ago, one at a time."""

    def announced(index: int) -> float:
        (plan,) = write(running, index, 1)
        began = time.monotonic()
        announce(running, [plan])
        return began

    return _one_at_a_time(running, files, announced)


def written(running: Facility, files: int) -> dict[str, Any]:
    """The same of files as file writers announce them: before they are closed, a moment later."""

    def announced(index: int) -> float:
        began = time.monotonic()
        write_and_announce(plan_file(_SEED, index), running.data_directory, running.announcements)
        return began

    return _one_at_a_time(running, files, announced)


def _one_at_a_time(running: Facility, files: int, announced: Callable[[int], float]) -> dict[str, Any]:
    """Files at random times, when nothing else is under way; ``announced`` says when it began with one."""
    announce(running, write(running, 0, _WARM_UP))
    wait_for_blocks(running, _WARM_UP)
    chance = random.Random(_SEED)  # noqa: S311 - nothing to guess
    taken = []
    for index in range(_WARM_UP, _WARM_UP + files):
        time.sleep(chance.uniform(*_PAUSE_SECONDS))
        began = announced(index)
        wait_for_blocks(running, index + 1)
        taken.append(time.monotonic() - began)
    return _figures(taken) | _stages(running, files)


def steady(running: Facility, files: int) -> dict[str, Any]:
    """Seconds from a message to its file list in the catalogue, of files that come at random times."""
    announce(running, write(running, 0, _WARM_UP))
    wait_for_blocks(running, _WARM_UP)
    planned = write(running, _WARM_UP, files)
    chance = random.Random(_SEED)  # noqa: S311 - nothing to guess
    announced = {}
    due = time.monotonic()
    for plan in planned:
        due += chance.expovariate(1 / _STEADY_SECONDS)
        time.sleep(max(0.0, due - time.monotonic()))
        announced[str(plan.path(running.data_directory))] = time.time()
        announce(running, [plan])
    wait_for_blocks(running, _WARM_UP + files)
    listed = _listed_at(running)
    waited = _figures([listed[path] - moment for path, moment in announced.items()])
    return waited | _stages(running, files)


def _figures(seconds: list[float]) -> dict[str, Any]:
    return {
        "median seconds": round(statistics.median(seconds), 2),
        "95th percentile": round(statistics.quantiles(seconds, n=20, method="inclusive")[-1], 2),
        "slowest": round(max(seconds), 2),
    }


def _stages(running: Facility, files: int) -> dict[str, Any]:
    """The medians of the stages that the latest files' metadata show."""
    _wait(lambda: len(_registered(running)) >= _WARM_UP + files, _START_SECONDS)
    latest = _registered(running)[:files]
    return {
        name: round(statistics.median(float(str(shown[name].value)) for shown in latest), 2)
        for name in (SECONDS_UNTIL_REQUESTED, SECONDS_IN_QUEUE, SECONDS_AT_WORK)
    }


def _registered(running: Facility) -> list[Mapping[str, dg.MetadataValue]]:
    """The metadata of the materializations, the latest first."""
    records = running.instance.fetch_materializations(RAW_DATASET, limit=1000).records
    found = [record.asset_materialization for record in records]
    return [materialization.metadata for materialization in found if materialization is not None]


def _listed_at(running: Facility) -> dict[str, float]:
    """When the catalogue got each data file, in seconds since the epoch."""
    return {
        str(Path(str(dataset["sourceFolder"])) / file["path"]): datetime.fromisoformat(
            str(block["createdAt"])
        ).timestamp()
        for dataset in running.store.datasets()
        for block in running.store.origdatablocks(str(dataset["pid"]))
        for file in block["dataFileList"]
    }


def idle(running: Facility, files: int) -> dict[str, Any]:
    """What all processes take when nothing comes, after some files: a part of a core, and memory."""
    announce(running, write(running, 0, files))
    wait_for_blocks(running, files)
    time.sleep(_IDLE_SECONDS / 4)
    before = processor_seconds(running)
    time.sleep(_IDLE_SECONDS)
    after = processor_seconds(running)
    spent = _spent(before, after)
    return {
        "percent of a core": round(100 * sum(spent.values()) / _IDLE_SECONDS, 1),
        "of it": {name: round(100 * seconds / _IDLE_SECONDS, 1) for name, seconds in spent.items()},
        "MB, proportional": round(sum(map(_proportional_bytes, after)) / 1e6),
    }


def _proportional_bytes(pid: int) -> int:
    """The memory of a process, what it shares with others in equal parts (Pss of proc_pid_smaps(5))."""
    with suppress(OSError):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(rollup.partition("\nPss:")[2].split()[0]) * 1024
    return 0


def processor_seconds(running: Facility) -> dict[int, tuple[str, float]]:
    """Name and CPU seconds so far of each process, with those of its children that have ended."""
    named = {}
    for pid, command in running.processes.found_with_readers().items():
        name = next((name for word, name in _PROCESSES.items() if word in command), None)
        if name is not None:
            named[pid] = name
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            counters = (process / "stat").read_text().rpartition(")")[2].split()
            # A server process of the database is known by its parent: it has overwritten its environment.
            name = named.get(int(process.name)) or named.get(int(counters[1]))
            if name is not None:
                found[int(process.name)] = (name, sum(map(int, counters[11:15])) / _TICKS)
    return found


def backfill(running: Facility, files: int) -> dict[str, Any]:
    """Past files, found and backfilled by ``scicat-dagster discover --backfill``."""
    found, seconds = backfilled(running, 0, files)
    return {
        "files per minute": round(files / seconds * 60),
        "seconds": round(seconds, 1),
        "of these until it was launched": round(found, 1),
    }


def backfilled(running: Facility, first: int, files: int) -> tuple[float, float]:
    """Seconds until a backfill of so many further files was launched, and until they were registered."""
    before = running.store.count_origdatablocks()
    write(running, first, files)
    began = time.monotonic()
    command = [
        str(Path(sys.executable).parent / "scicat-dagster"), "discover", str(running.data_directory),
        "--config", str(running.directory / "config.yml"), "--backfill",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    found = time.monotonic() - began
    wait_for_blocks(running, before + files)
    return found, time.monotonic() - began


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
    "written": (written, 20),
    "backfill": (backfill, 5000),
    "steady": (steady, 120),
    "idle": (idle, 20),
}


@click.command()
@click.argument("what", type=click.Choice(list(MEASUREMENTS)))
@click.option("--files", type=click.IntRange(2), help="As many as the figure needs, by default.")
@click.option("--layout", type=click.Choice(list(LAYOUTS)), default="production", show_default=True)
@click.option("--slots", type=click.IntRange(1), default=_DEFAULT_SLOTS, show_default=True)
@click.option("--late", type=click.FloatRange(0), default=0.0, show_default=True, help="Seconds.")
@click.option("--previews", is_flag=True, help="Attach them.")
def main(
    what: str,
    files: int | None,
    layout: str,
    slots: int,
    late: float,
    previews: bool,  # noqa: FBT001 - what click hands over
) -> None:
    """Measure one thing and print it as JSON, with the load of the machine before."""
    measure, usual = MEASUREMENTS[what]
    load = round(os.getloadavg()[0], 2)
    number = files or usual
    with facility(layout, slots, late, previews=previews) as running:
        figures = measure(running, number)
    circumstances = {"what": what, "layout": layout, "files": number, "slots": slots, "late": late}
    circumstances["previews"] = previews
    click.echo(json.dumps(circumstances | {"load before": load} | figures))


if __name__ == "__main__":
    main()
