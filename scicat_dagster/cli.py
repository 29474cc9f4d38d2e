"""The command line. Each command reads its arguments, calls the package and prints; nothing else is here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from scicat_dagster.settings import CONFIGURATION_VARIABLE


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="scicat_dagster")
def main() -> None:
    """Register a facility's NeXus files as SciCat datasets, by Dagster runs that anyone can look at."""


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--config", "-c", required=True, envvar=CONFIGURATION_VARIABLE, type=click.Path(path_type=Path),
    help="The facility's configuration file.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for scripts.")
def preview(file: Path, config: Path, *, as_json: bool) -> None:
    """Show what would be posted for FILE. Asks SciCat what the schema needs, and posts nothing.

    Exits with 0 when the file could be registered, and with 1 when not.
    """
    from scicat_dagster.preview import preview_file

    shown = preview_file(file, config, os.environ)
    click.echo(shown.model_dump_json(by_alias=True, indent=2) if as_json else shown.as_text())
    sys.exit(1 if shown.errors else 0)


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
def validate(config: Path) -> None:
    """Check the configuration file CONFIG and all its schemas.

    Names file, place and remedy of each mistake; exits with 1 when there is one.
    """
    from scicat_dagster.validation import validate_facility

    report = validate_facility(config, os.environ)
    for mistake in report.mistakes:
        click.echo(f"mistake  {mistake}")
    for warning in report.warnings:
        click.echo(f"warning  {warning}")
    click.echo(f"{len(report.mistakes)} mistakes, {len(report.warnings)} warnings; checked {report.checked}")
    sys.exit(1 if report.mistakes else 0)


@main.command()
@click.option("--files", default=30, show_default=True, type=click.IntRange(1), help="How many to write.")
@click.option("--exit-when-done", is_flag=True, help="No waiting for you: print a JSON summary and end.")
@click.option("--pause", default=2.0, show_default=True, help="Seconds from one file to the next.")
@click.option("--port", default=3000, show_default=True, help="Dagster's; another when it is taken.")
@click.option(
    "--directory", type=click.Path(path_type=Path, file_okay=False),
    help="Where to keep everything; a temporary folder, removed in the end, when not given.",
)  # fmt: skip
@click.option("--timeout", default=900.0, show_default=True, help="With --exit-when-done, in seconds.")
def demo(
    files: int, *, exit_when_done: bool, pause: float, port: int, directory: Path | None, timeout: float
) -> None:
    """Run a facility on this machine: Kafka, a SciCat stand-in, a file writer, and Dagster with its UI.

    Ctrl-C ends all of it.
    """
    from scicat_dagster.demo.laptop import DemoError, run_headless, run_with_pages, running_laptop

    for number in _ENDING:
        signal.signal(number, _interrupt)
    place = directory or Path(tempfile.mkdtemp(prefix="scicat-dagster-demo-"))
    click.echo("Starting Kafka, SciCat and Dagster …", err=True)
    try:
        with running_laptop(place, port) as laptop:
            click.echo(f"Dagster  {laptop.dagster_url}/locations/", err=True)
            click.echo(f"SciCat   {laptop.catalogue.url}", err=True)
            click.echo(f"Files    {laptop.data_directory}", err=True)
            if exit_when_done:
                account, agrees = run_headless(laptop, files, timeout_seconds=timeout, report=_progress)
                click.echo(json.dumps(asdict(account)))
                sys.exit(0 if agrees else 1)
            run_with_pages(laptop, files, pause_seconds=pause, report=_progress)
    except DemoError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)
    finally:
        if directory is None:
            shutil.rmtree(place, ignore_errors=True)


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupt(*_: Any) -> None:
    # Once only: an impatient second Ctrl-C must not end the clearing up before all processes are gone.
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _progress(line: str) -> None:
    click.echo(f"         {line}", err=True)
