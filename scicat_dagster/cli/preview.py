"""``scicat-dagster preview``: what would be posted for one file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scicat_dagster.cli.options import config_option

if TYPE_CHECKING:
    from scicat_dagster.config.overrides import Overrides


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for scripts.")
def preview(file: Path, config: Path, overrides: Overrides, *, as_json: bool) -> None:
    """Show what would be posted for FILE. Asks SciCat what the schema needs, and posts nothing.

    Exits with 0 when the file could be registered, and with 1 when not.
    """
    from scicat_dagster.usecases.preview import preview_file

    shown = preview_file(file, config, os.environ, overrides)
    click.echo(shown.model_dump_json(by_alias=True, indent=2) if as_json else shown.as_text())
    sys.exit(1 if shown.errors else 0)
