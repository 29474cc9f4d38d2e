"""``scicat-dagster schema``: what a facility's own files may hold, a first draft of one, and its tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.group()
def schema() -> None:
    """Print what the configuration and the metadata schemas may hold; draft a schema, and test schemas.

    Editors complete, explain and check a YAML file by its JSON Schema. Save it, and begin your file with

    \b
    # yaml-language-server: $schema=config.schema.json
    """


@schema.command()
def config() -> None:
    """Print the JSON Schema of the configuration file."""
    from scicat_dagster.config.json_schema import configuration_schema

    _print(configuration_schema())


@schema.command()
def imsc() -> None:
    """Print the JSON Schema of metadata schema files (*.imsc.yml)."""
    from scicat_dagster.schemas.json_schema import imsc_schema

    _print(imsc_schema())


@schema.command("sample-config")
def sample_config() -> None:
    """Print a configuration file with every key, its meaning and its default."""
    from scicat_dagster.config.sample import sample_configuration

    click.echo(sample_configuration(), nl=False)


@schema.command()
@click.argument("file", type=click.Path(path_type=Path))
def draft(file: Path) -> None:
    """Print a first metadata schema (*.imsc.yml) for files such as the NeXus file FILE.

    What is mandatory in SciCat and cannot be told from the file is marked <FILL_IN>; a comment says where it
    may come from. Then `scicat-dagster validate CONFIG --against FILE` says what is left to do.
    """
    from scicat_dagster.errors import IngestionError
    from scicat_dagster.usecases.schema_draft import draft_schema, gaps_in

    try:
        text = draft_schema(file)
    except IngestionError as error:
        raise click.ClickException(str(error)) from None
    click.echo(text, nl=False)
    lines = ", ".join(map(str, gaps_in(text)))
    click.echo(f"To be filled in: line {lines}." if lines else "Nothing is to be filled in.", err=True)


def _print(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
