"""``scicat-dagster schema``: what a facility's own files may hold, for editors and as a sample."""

from __future__ import annotations

import json
from typing import Any

import click


@click.group()
def schema() -> None:
    """Print what the configuration and the metadata schemas may hold.

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


def _print(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
