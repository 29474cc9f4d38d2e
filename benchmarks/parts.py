"""Where the time of a run goes: by process of the service, and by part within the worker's process.

``python -m benchmarks.parts [--files N] [--layout production|laptop]`` prints Markdown tables. The first
two are of a burst through the whole service; the third of runs that this process executes as a warm worker
does, with a look at the stack every other millisecond. How fast the service is, is measured by
``benchmarks.service``.
"""

from __future__ import annotations

import json
import signal
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from types import FrameType

import click
import dagster as dg

from benchmarks.service import LAYOUTS, announce, facility, processor_seconds, wait_for_blocks, write
from benchmarks.soak.facility import Facility
from scicat_dagster.orchestration.partitions import nexus_files
from scicat_dagster.orchestration.tags import PARTITION_TAG

_WARM_UP = 20
_LOOK_SECONDS = 0.002


_PARTS = {
    "/requests/": "HTTP to SciCat",
    "/urllib3/": "HTTP to SciCat",
    "/http/client.py": "HTTP to SciCat",
    "/sqlalchemy/": "Dagster's database",
    "/psycopg2/": "Dagster's database",
    "/sqlite3/": "Dagster's database",
    "/dagster_postgres/": "Dagster's database",
    "/dagster/_core/storage/": "Dagster's database",
    "/dagster": "Dagster",
    "/h5py/": "our own",
    "/yaml/": "our own",
    "/scicat_dagster/": "our own",
}
"""A part of a module's path, and what it belongs to. The innermost function that is here counts."""


def by_process(running: Facility, first: int, files: int) -> Mapping[str, float]:
    """CPU seconds per file of a burst, by process; the planned files are counted from `first`."""
    announce(running, write(running, first, _WARM_UP))
    wait_for_blocks(running, first + _WARM_UP)
    planned = write(running, first + _WARM_UP, files)
    before = processor_seconds(running)
    ours = time.process_time()
    announce(running, planned)
    wait_for_blocks(running, first + _WARM_UP + files)
    spent = defaultdict(float, {"stand-in for SciCat": time.process_time() - ours})
    after = processor_seconds(running)
    for pid, (name, seconds) in after.items():
        spent[name] += seconds - before.get(pid, (name, 0.0))[1]
    return {name: seconds / files for name, seconds in _most_first(spent)}


def kept_bytes(running: Facility) -> dict[str, int]:
    """What lies on disk: in the database, and as files that the ops hand to each other."""
    home = Path(running.processes.environment["DAGSTER_HOME"])
    tables = running.directory / "state" / "database" / "data" / "base"
    database = tables if tables.exists() else home / "history"
    return {"database": _size(database), "between the ops": _size(home / "storage")}


def _size(folder: Path) -> int:
    # As many bytes as the disk gives for it: small files take a block each.
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


class Sampler:
    """Adds the time since its last look to what the main thread is at."""

    def __init__(self) -> None:
        self.wall: defaultdict[str, float] = defaultdict(float)
        self.processor: defaultdict[str, float] = defaultdict(float)
        self.functions: defaultdict[str, float] = defaultdict(float)
        self._last = (0.0, 0.0)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look regularly; a call that waits is looked at when it comes back, and gets all its time."""
        previous = signal.signal(signal.SIGALRM, self._look)
        self._last = (time.perf_counter(), time.thread_time())
        signal.setitimer(signal.ITIMER_REAL, _LOOK_SECONDS, _LOOK_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)

    def _look(self, _signal: int, frame: FrameType | None) -> None:
        now = (time.perf_counter(), time.thread_time())
        part, function = _part_of(frame)
        self.wall[part] += now[0] - self._last[0]
        self.processor[part] += now[1] - self._last[1]
        self.functions[function] += now[1] - self._last[1]
        self._last = now


def _part_of(frame: FrameType | None) -> tuple[str, str]:
    while frame is not None:
        path = frame.f_code.co_filename
        for word, part in _PARTS.items():
            if word in path:
                return part, f"{part}: {frame.f_code.co_qualname} ({'/'.join(Path(path).parts[-2:])})"
        frame = frame.f_back
    return "Python", "Python"


def within_a_run(running: Facility, first: int, files: int) -> Sampler:
    """Execute runs as a warm worker does, and look at what they are at."""
    # It reads the environment that the facility has set.
    from scicat_dagster.instance.celery_app import kept_instance
    from scicat_dagster.instance.run_execution import execute_run

    instance = running.instance
    (template,) = instance.get_runs(dg.RunsFilter(tags={"dagster/sensor_name": "wrdn_sensor"}), limit=1)
    planned = write(running, first, files)
    sampler = Sampler()
    for index, plan in enumerate(planned):
        key = str(plan.path(running.data_directory).relative_to(running.data_directory))
        instance.add_dynamic_partitions(str(nexus_files().name), [key])
        run = instance.add_run(
            template._replace(
                run_id=str(uuid.uuid4()),
                status=dg.DagsterRunStatus.NOT_STARTED,
                tags={PARTITION_TAG: key},
                run_config={},
            )
        )
        if index == 0:
            # What is cached later.
            execute_run(kept_instance(), run.run_id)
            continue
        with sampler.looking():
            execute_run(kept_instance(), run.run_id)
    return sampler


def _most_first(spent: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(spent.items(), key=itemgetter(1), reverse=True)


@click.command()
@click.option("--files", type=click.IntRange(2), default=100, show_default=True)
@click.option("--layout", type=click.Choice(list(LAYOUTS)), default="production", show_default=True)
@click.option("--functions", is_flag=True, help="Also the functions that take most, as JSON.")
def main(files: int, layout: str, functions: bool) -> None:  # noqa: FBT001 - what click hands over
    """Measure where the time of a run goes."""
    with facility(layout) as running:
        before = kept_bytes(running)
        processes = by_process(running, 0, files)
        kept = {name: after - before[name] for name, after in kept_bytes(running).items()}
        sampler = within_a_run(running, _WARM_UP + files, files)
    click.echo("| process | CPU ms per file |\n|---|---|")
    for name, seconds in processes.items():
        click.echo(f"| {name} | {seconds * 1000:.0f} |")
    click.echo(f"| together | {sum(processes.values()) * 1000:.0f} |")
    click.echo("\n| kept on disk | KiB per file |\n|---|---|")
    for name, number in kept.items():
        click.echo(f"| {name} | {number / (files + _WARM_UP) / 1024:.0f} |")
    click.echo("\n| part of a run | CPU ms | wall ms |\n|---|---|---|")
    runs = files - 1
    for part, seconds in _most_first(sampler.wall):
        click.echo(f"| {part} | {sampler.processor[part] / runs * 1000:.0f} | {seconds / runs * 1000:.0f} |")
    if functions:
        most = _most_first(sampler.functions)[:60]
        click.echo(json.dumps({name: round(seconds / runs * 1000, 2) for name, seconds in most}, indent=1))


if __name__ == "__main__":
    main()
