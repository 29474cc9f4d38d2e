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
from typing import TYPE_CHECKING, Any

import click

from scicat_dagster.settings import CONFIGURATION_VARIABLE

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from scicat_dagster.orchestration.rejections import RejectedMessage


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
@click.option("--json", "as_json", is_flag=True, help="A JSON list on standard output, for scripts.")
def failures(*, as_json: bool) -> None:
    """List the files that failed and are not repaired, from the Dagster instance in DAGSTER_HOME.

    Exits with 1 when there is one.
    """
    from scicat_dagster.orchestration.inventory import failed_files, reason_of

    with _instance() as instance:
        rows = []
        for file in failed_files(instance):
            reason, remedy = reason_of(instance, file.run_id)
            rows.append(
                {
                    "file": file.path,
                    "since": file.since.isoformat(timespec="seconds"),
                    "kind": file.kind,
                    "reason": reason,
                    "remedy": remedy,
                    "runs": file.runs,
                    "run_id": file.run_id,
                }
            )
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    for row in [] if as_json else rows:
        click.echo(f"{row['file']}\n  since {row['since']}, {row['runs']} runs, {row['kind']}")
        click.echo(f"  {row['reason']}\n  {row['remedy']}")
    sys.exit(1 if rows else 0)


@main.group()
def messages() -> None:
    """Look at the messages that were rejected, in the Dagster instance in DAGSTER_HOME."""


@messages.command("list")
def list_messages() -> None:
    """List rejected messages, newest first: position, time and reason."""
    from scicat_dagster.orchestration.rejections import rejections

    with _instance() as instance:
        for message in rejections(instance):
            when = message.reported_at.isoformat(timespec="seconds")
            click.echo(f"{message.position}  {when}  {message.reason}")


@messages.command()
@click.argument("position", metavar="TOPIC:PARTITION:OFFSET")
def show(position: str) -> None:
    """Show one rejected message whole: the reason, what to do, and its bytes."""
    message = _rejected(position)
    click.echo(f"position  {message.position}\nreported  {message.reported_at.isoformat()}")
    click.echo(f"reason    {message.reason}\nto do     {message.remedy}\nbytes     {message.value!r}")


@messages.command()
@click.argument("position", metavar="TOPIC:PARTITION:OFFSET")
@click.option(
    "--config", "-c", required=True, envvar=CONFIGURATION_VARIABLE, type=click.Path(path_type=Path),
    help="The facility's configuration file.",
)  # fmt: skip
def retry(position: str, config: Path) -> None:
    """Send a rejected message to its topic again, for instance after its cause was corrected."""
    from scicat_dagster.errors import IngestionError
    from scicat_dagster.kafka import send
    from scicat_dagster.settings import load_configuration

    message = _rejected(position)
    try:
        send(load_configuration(config, os.environ).settings.kafka, message.position.topic, [message.value])
    except IngestionError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"Sent to {message.position.topic} again.")


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


def _instance() -> DagsterInstance:
    from dagster import DagsterInstance

    if not os.environ.get("DAGSTER_HOME"):
        raise click.ClickException("DAGSTER_HOME is not set. Set it to the folder of your Dagster instance.")
    return DagsterInstance.get()


def _rejected(position: str) -> RejectedMessage:
    from scicat_dagster.orchestration.rejections import rejections

    with _instance() as instance:
        for message in rejections(instance):
            if str(message.position) == position:
                return message
    raise click.ClickException(f"No rejected message {position}; see `scicat-dagster messages list`.")


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupt(*_: Any) -> None:
    # Once only: an impatient second Ctrl-C must not end the clearing up before all processes are gone.
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _progress(line: str) -> None:
    click.echo(f"         {line}", err=True)
