"""``scicat-dagster validate``: the configuration and its schemas, checked before they are used."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scicat_dagster.cli.options import say, set_option
from scicat_dagster.config.loading import CONFIGURATION_VARIABLE

if TYPE_CHECKING:
    from scicat_dagster.config.overrides import Overrides


@click.command()
@click.argument("config", envvar=CONFIGURATION_VARIABLE, type=click.Path(path_type=Path))
@click.option(
    "--against", multiple=True, metavar="FILE", type=click.Path(path_type=Path),
    help="A NeXus file: say which schema is for it, what fails, and whether it could be registered. "
    "May be given several times. What SciCat knows is asked only with --live.",
)  # fmt: skip
@click.option(
    "--live", is_flag=True,
    help="Ask Kafka for its topics and SciCat for its health, our account, and the instruments and proposals "
    "that are named; look at the folders. Nothing is written.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for scripts.")
@set_option
def validate(
    config: Path, overrides: Overrides, *, against: tuple[Path, ...], live: bool, as_json: bool
) -> None:
    """Check the configuration file CONFIG and all its schemas, then real files and servers if you like.

    Without CONFIG it is the file that the environment variable SCICAT_INGESTOR_CONFIG names.

    Each row says what was looked at and what came of it: ok, warning, mistake (to be corrected), or unchecked
    (a server or storage did not answer, so that nobody can say now).

    Exits with 0 when nothing is wrong (there may be warnings), with 1 when there is a mistake, and with 2
    when there is none, but something could not be checked.
    """
    from scicat_dagster.diagnostics.facility import validate_facility, validate_live_facility
    from scicat_dagster.diagnostics.report import EXIT_CODES

    look = validate_live_facility if live else validate_facility
    report = look(config, os.environ, against, overrides)
    if as_json:
        click.echo(report.as_json())
    else:
        say(report.as_text())
    sys.exit(EXIT_CODES[report.result])
