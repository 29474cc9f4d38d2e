"""``scicat-dagster init``: a folder for a new facility."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Write a facility's FOLDER: configuration, dagster.yaml, workspace.yaml, schemas and tests.

    A file that is there is left as it is. FOLDER can be kept in git, and be DAGSTER_HOME.
    """
    from scicat_dagster.errors import IngestionError
    from scicat_dagster.usecases.facility_folder import start_facility

    place = Path(os.path.abspath(folder))  # noqa: PTH100 - a link stays the name that was given
    try:
        files = start_facility(place)
    except IngestionError as error:
        raise click.ClickException(str(error)) from None
    click.echo(place)
    for file in files:
        click.echo(f"  {'written' if file.is_new else 'kept   '}  {file.path}")
    click.echo(_next_commands(place))


def _next_commands(place: Path) -> str:
    def of(name: str) -> str:
        return shlex.quote(str(place / name))

    ours, dagster = map(_command, ("scicat-dagster", "dagster"))
    return f"""
Edit config.yml, and set SCICAT_PASSWORD in the environment. Then, with a NeXus file of your instrument:

  {ours} schema draft FILE > {of("schemas/INSTRUMENT.imsc.yml")}
  {ours} validate {of("config.yml")} --live --against FILE
  DAGSTER_HOME={shlex.quote(str(place))} \\
    SCICAT_INGESTOR_CONFIG={of("config.yml")} \\
    {dagster} dev -w {of("workspace.yaml")}"""


def _command(name: str) -> str:
    """How a command of this installation is called: by its path where its name finds none, or another."""
    here = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    is_ours = found is not None and Path(found).parent == here.parent
    return name if is_ours or not here.exists() else shlex.quote(str(here))
