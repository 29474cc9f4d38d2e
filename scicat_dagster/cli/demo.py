"""``scicat-dagster demo``: a facility on this machine."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from scicat_dagster.demo.laptop import Laptop


@click.command()
@click.option("--files", default=30, show_default=True, type=click.IntRange(1), help="How many to write.")
@click.option(
    "--past",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Past files that nobody announces, for discover and backfills.",
)
@click.option(
    "--services-only", is_flag=True,
    help="Only Kafka and the SciCat stand-in, for a rehearsal with a Dagster and files of your own.",
)  # fmt: skip
@click.option("--exit-when-done", is_flag=True, help="No waiting for you: print a JSON summary and end.")
@click.option("--pause", default=2.0, show_default=True, help="Seconds from one file to the next.")
@click.option(
    "--outage", default=0.0, metavar="SECONDS",
    help="Let SciCat be away for so long, once three files are registered.",
)  # fmt: skip
@click.option("--port", default=3000, show_default=True, help="Dagster's; another when it is taken.")
@click.option(
    "--directory", type=click.Path(path_type=Path, file_okay=False),
    help="Where to keep everything; a temporary folder, removed in the end, when not given.",
)  # fmt: skip
@click.option(
    "--api", type=click.Choice(["v3", "v4"]), default="v3", show_default=True,
    help="The version of SciCat's API by which datasets, origdatablocks and jobs are posted.",
)  # fmt: skip
@click.option("--timeout", default=900.0, show_default=True, help="With --exit-when-done, in seconds.")
def demo(
    files: int,
    *,
    past: int,
    services_only: bool,
    exit_when_done: bool,
    pause: float,
    outage: float,
    port: int,
    directory: Path | None,
    api: str,
    timeout: float,
) -> None:
    """Run a facility on this machine: Kafka, a SciCat stand-in, a file writer, and Dagster with its UI.

    One more file than --files fails on purpose, because no schema is for its instrument; `scicat-dagster
    failures` says what to do. One more run starts and never ends; the check of the asset `run_starts` names
    it after some two minutes. One more dataset, a tomography, has several files. None of that is so with
    --exit-when-done. Ctrl-C ends all of it.

    With --services-only there are only Kafka and the SciCat stand-in; what to change in a copy of your
    configuration, and how to announce a file, are printed.
    """
    from scicat_dagster.demo.laptop import DemoError, run_headless, run_with_pages, running_laptop

    for number in _ENDING:
        signal.signal(number, _interrupt)
    if services_only and exit_when_done:
        raise click.UsageError("--services-only writes no files that could be done.")
    place = directory or Path(tempfile.mkdtemp(prefix="scicat-dagster-demo-"))
    try:
        if services_only:
            _serve(place, port, api)
        click.echo("Starting Kafka, SciCat and Dagster …", err=True)
        with running_laptop(place, port, api=api) as laptop:
            click.echo(f"Dagster  {laptop.dagster_url}/runs", err=True)
            _introduce(laptop)
            laptop.write_past(past)
            if exit_when_done:
                account, agrees = run_headless(laptop, files, timeout_seconds=timeout, report=_progress)
                click.echo(json.dumps(asdict(account)))
                sys.exit(0 if agrees else 1)
            run_with_pages(laptop, files, pause_seconds=pause, outage_seconds=outage, report=_progress)
    except DemoError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)
    finally:
        if directory is None:
            shutil.rmtree(place, ignore_errors=True)


def _serve(place: Path, port: int, api: str) -> NoReturn:
    """Run Kafka and the SciCat stand-in until Ctrl-C."""
    from scicat_dagster.demo.laptop import LOOPBACK, running_services
    from scicat_dagster.demo.people import INSTRUMENTS

    with running_services(place, f"http://{LOOPBACK}:{port}", api=api) as services:
        # Only what a configuration of your own needs: which one, and DAGSTER_HOME, are yours.
        services.keep({"SCICAT_PASSWORD": services.password, "SCICAT_DEMO_PASSWORD": services.password})
        servers = services.broker.bootstrap_servers
        topics = ", ".join(instrument.topic for instrument in INSTRUMENTS)
        click.echo(f"SciCat   {services.catalogue.url}", err=True)
        click.echo(f"Outage   touch {services.outage}   SciCat is away until you remove it", err=True)
        click.echo("In the copy of your configuration:", err=True)
        click.echo(f"  scicat.host              {services.catalogue.api_root}", err=True)
        click.echo("  scicat.username          ingestor", err=True)
        click.echo("  scicat.password          ${SCICAT_PASSWORD}", err=True)
        click.echo(f"  kafka.bootstrap_servers  {servers}", err=True)
        click.echo(f"  kafka.topics             some of [{topics}]", err=True)
        click.echo(f"In each other shell: set -a; . {shlex.quote(str(services.settings))}; set +a", err=True)
        click.echo(
            "Announce a complete file, which lies in the data_directory of your configuration:", err=True
        )
        click.echo(f"  {_announcing(servers, INSTRUMENTS[0].topic)} YOUR_DATA_DIRECTORY/FILE.nxs", err=True)
        click.echo("Ctrl-C ends both.", err=True)
        while True:
            signal.pause()


def _announcing(servers: str, topic: str) -> str:
    """A command that announces the file that is its argument, by what is installed with us."""
    program = (
        "import json, os, sys, uuid, confluent_kafka; "
        f'kafka = confluent_kafka.Producer({{"bootstrap.servers": "{servers}"}}); '
        "told = dict(file_path=os.path.abspath(sys.argv[1]), job_id=uuid.uuid4().hex); "
        f'kafka.produce("{topic}", json.dumps(told)); kafka.flush(); print("announced", *told.values())'
    )
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}"


def _introduce(laptop: Laptop) -> None:
    click.echo(f"SciCat   {laptop.catalogue.url}", err=True)
    click.echo(f"Files    {laptop.data_directory}", err=True)
    click.echo(f"Outage   touch {laptop.outage}   SciCat is away until you remove it", err=True)
    click.echo(f"Commands in another shell: set -a; . {laptop.settings}; set +a", err=True)


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupt(*_: Any) -> None:
    # Once only: an impatient second Ctrl-C must not end the clearing up before all processes are gone.
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _progress(line: str) -> None:
    click.echo(f"         {line}", err=True)
