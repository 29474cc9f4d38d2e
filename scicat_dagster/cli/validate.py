"""``scicat-dagster validate``: the configuration and its schemas, checked before they are used."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


@click.command()
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
