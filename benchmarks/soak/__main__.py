"""``python -m benchmarks.soak``: its command line, and one soak from beginning to end."""

from __future__ import annotations

import json
import logging
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import click

from benchmarks.soak.account import Report, account
from benchmarks.soak.facility import Facility, cursor_of, running_facility
from benchmarks.soak.operator import Operator
from benchmarks.soak.plan import make_plan
from benchmarks.soak.processes import START_SECONDS, Laptop, Processes, Production, SoakError
from benchmarks.soak.settling import Settling
from benchmarks.soak.storm import Storm
from scicat_dagster.demo.catalogue import Dialect
from scicat_dagster.demo.file_writer import DeliveryError
from scicat_dagster.demo.laptop import DemoError

_LOOK_SECONDS = 1.0

LAYOUTS: dict[str, type[Processes]] = {"laptop": Laptop, "production": Production}
SECONDS_PER_FILE: dict[type[Processes], float] = {Laptop: 1.35, Production: 0.4}
"""How fast two cores are, about."""


def soak(
    directory: Path,
    *,
    files: int,
    seed: int,
    kills: int,
    timeout_seconds: float,
    layout: type[Processes] = Laptop,
    dialect: Dialect = Dialect.V4X,
    api: str = "v3",
    broker_address: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """One soak below ``directory``, which keeps everything that the processes wrote.

    Raises
    ------
    SoakError
        A part could not be started, or ended by itself.
    DeliveryError
        The broker does not take messages.
    """
    began = time.monotonic()
    deadline = began + timeout_seconds
    plan = make_plan(seed, files, kills, victims=layout.victims, seconds_per_file=SECONDS_PER_FILE[layout])
    with running_facility(directory, seed, broker_address, layout, dialect, api) as facility:
        operator = Operator(facility, random.Random(f"operator/{seed}"), say)  # noqa: S311 - no secret
        storm = Storm(facility, plan, random.Random(f"kills/{seed}"), say, operator)  # noqa: S311 - no secret
        if broker_address:
            _wait_for_first_tick(facility)
        storm.rage(deadline)
        say("the storm is over")
        by_path = {str(file.file.path(facility.data_directory)): file for file in plan.files}
        settling = Settling(facility, by_path, say, set(operator.dismissed))
        last, settled = settling.settle(deadline)
        seconds = round(time.monotonic() - began, 1)
        return account(facility, plan, storm, settling, last, seed=seed, seconds=seconds, settled=settled)


def _wait_for_first_tick(facility: Facility) -> None:
    """A broker with older messages is read from its end, which therefore has to be found first."""
    deadline = time.monotonic() + START_SECONDS
    while not cursor_of(facility.instance).offsets:
        if time.monotonic() > deadline:
            raise SoakError("The sensor did not find the broker.")
        time.sleep(_LOOK_SECONDS)


def _as_interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


@click.command()
@click.option("--files", type=click.IntRange(3), default=40, show_default=True, help="Files to announce.")
@click.option("--seed", type=int, default=7, show_default=True, help="Decides faults, kills and moments.")
@click.option("--kills", type=click.IntRange(0), default=None, help="By default one for 40 files.")
@click.option("--timeout", type=float, default=None, help="Seconds; by default 180 and 12 for each file.")
@click.option(
    "--directory", type=click.Path(path_type=Path), default=None,
    help="Where everything is written and stays; by default a temporary one, which stays after a failure.",
)  # fmt: skip
@click.option(
    "--layout", type=click.Choice(list(LAYOUTS)), default="laptop", show_default=True,
    help="A process for each run and SQLite, or what deploy/ installs: warm workers and PostgreSQL.",
)  # fmt: skip
@click.option(
    "--dialect", type=click.Choice([str(one) for one in Dialect]), default="4.x", show_default=True,
    help="Which generation of SciCat the catalogue answers like.",
)  # fmt: skip
@click.option(
    "--api", type=click.Choice(["v3", "v4"]), default="v3", show_default=True,
    help="The version of SciCat's API by which datasets and origdatablocks are posted.",
)  # fmt: skip
@click.option("--broker", default="mock", show_default=True, help="HOST:PORT of a Kafka that runs already.")
def main(
    files: int,
    seed: int,
    kills: int | None,
    timeout: float | None,
    directory: Path | None,
    layout: str,
    dialect: str,
    api: str,
    broker: str,
) -> None:
    """Announce files to a facility that fails and is killed, and account for every one of them.

    Prints one JSON object. Exits with 1 if a file was lost or registered twice, or failed without its own
    fault, or if the facility did not come to rest; with 2 if the soak itself failed.
    """
    signal.signal(signal.SIGTERM, _as_interrupt)
    # A connection that a fault cuts off is not news.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    began = time.monotonic()
    place = (directory or Path(tempfile.mkdtemp(prefix="soak-"))).absolute()
    place.mkdir(parents=True, exist_ok=True)
    # The database runs as a user of its own.
    place.chmod(0o711)
    try:
        report = soak(
            place,
            files=files,
            seed=seed,
            kills=max(1, files // 40) if kills is None else kills,
            timeout_seconds=timeout or 180 + 12 * files,
            layout=LAYOUTS[layout],
            dialect=Dialect(dialect),
            api=api,
            broker_address=None if broker == "mock" else broker,
            say=lambda line: click.echo(f"{time.monotonic() - began:6.0f} s  {line}", err=True),
        )
    except (SoakError, DeliveryError, DemoError) as error:
        click.echo(f"{error}", err=True)
        sys.exit(2)
    if directory is None and report.is_good:
        shutil.rmtree(place)
    else:
        click.echo(f"Everything that was written is in {place}.", err=True)
    click.echo(json.dumps(asdict(report), indent=2, ensure_ascii=False))
    sys.exit(0 if report.is_good else 1)


if __name__ == "__main__":
    main()
