"""``scicat-dagster schema``: what a facility's own files may hold, a first draft of one, and its tests."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scicat_dagster.cli.options import say, set_option
from scicat_dagster.config.loading import CONFIGURATION_VARIABLE

if TYPE_CHECKING:
    from scicat_dagster.config.models import Settings
    from scicat_dagster.config.overrides import Overrides
    from scicat_dagster.schemas.loading import SchemaCollection


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


@schema.command("imsc-base")
def imsc_base() -> None:
    """Print the JSON Schema of the files that metadata schemas extend, such as common.part.yml."""
    from scicat_dagster.schemas.json_schema import base_schema

    _print(base_schema())


@schema.command()
def announcement() -> None:
    """Print the JSON Schema of an announcement: a JSON message on a topic, or the body of POST /announce."""
    from scicat_dagster.kafka.json_announcement import announcement_schema

    _print(announcement_schema())


@schema.command()
def event() -> None:
    """Print the JSON Schema of the event that is sent for each registered dataset."""
    from scicat_dagster.notifications.registered import event_schema

    _print(event_schema())


@schema.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--all-required", is_flag=True,
    help="Every entry is required, so that SciCat marks a dataset as invalid that lacks one.",
)  # fmt: skip
def metadata(file: Path, *, all_required: bool) -> None:
    """Print the JSON Schema of the scientific metadata that the metadata schema FILE produces.

    Publish it at an address that the SciCat server can read, and give each dataset this address in the field
    scientificMetadataSchema. SciCat then marks whether a dataset's metadata is valid.

    Exits with 0 when it was printed, and with 1 when FILE is broken. Fields that cannot be used are named on
    standard error.
    """
    from scicat_dagster.dataset.metadata_schema import complete_metadata_schema, metadata_schema
    from scicat_dagster.schemas.loading import SchemaError, read_schema_file

    found = read_schema_file(file.absolute())
    if found.schema is None:
        raise click.ClickException(str(SchemaError(file, found.mistakes)))
    for key, field in found.schema.unusable_fields.items():
        click.echo(f"Left out: schema.{key}: {field.reason}", err=True)
    _print((complete_metadata_schema if all_required else metadata_schema)(found.schema))


@schema.command("sample-config")
def sample_config() -> None:
    """Print a configuration file with every key, its meaning and its default."""
    from scicat_dagster.config.sample import sample_configuration

    click.echo(sample_configuration(), nl=False)


@schema.command()
@click.argument("words", nargs=-1, metavar="[WORD]...")
@click.option("--json", "as_json", is_flag=True, help="Pid and name of each, as a dataset has them.")
def techniques(words: tuple[str, ...], *, as_json: bool) -> None:
    """Print the techniques of PaNET that have each WORD in their name, a synonym or their identifier.

    What is printed is what the operator panet takes. Without WORD all are printed.

    Exits with 1 when there is none.
    """
    from scicat_dagster.schemas.techniques import techniques_with

    try:
        found = techniques_with(words)
    except LookupError as error:
        raise click.ClickException(str(error.args[0])) from None
    if as_json:
        listed = [{"pid": each.pid, "name": each.label} for each in found]
        click.echo(json.dumps(listed, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(each.as_text() for each in found))


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


@schema.command()
@click.argument("place", metavar="FOLDER|FILE", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--config", "-c", envvar=CONFIGURATION_VARIABLE, show_envvar=True, type=click.Path(path_type=Path),
    help="The facility's configuration file: its schemas and its defaults for datasets.",
)  # fmt: skip
@click.option(
    "--schemas", type=click.Path(path_type=Path), metavar="DIRECTORY",
    help="The folder of the schemas, instead of the configuration's. Without a configuration everything else "
    "has its default.",
)  # fmt: skip
@click.option("--update", is_flag=True, help="Write the expected datasets, instead of comparing with them.")
@set_option
def test(
    place: Path, config: Path | None, schemas: Path | None, overrides: Overrides, *, update: bool
) -> None:
    """Compare what the schemas make of data files below FOLDER, or of one FILE, with what is expected.

    The expected dataset of run.nxs is run.nxs.expected.json beside it. No server is asked: what SciCat would
    answer is in FOLDER/scicat.json, by the address that a schema asks for; for FILE the nearest folder above
    that has this file is FOLDER. Data files are those with a name as in ingestion.file_handling.file_names.

    Exits with 0 when every file is as expected, and with 1 when not, or when there is no data file.
    """
    from scicat_dagster.errors import IngestionError
    from scicat_dagster.usecases.expected_datasets import (
        ANSWERS,
        absolute,
        compare_with_expected,
        folder_of,
        without_data_files,
        write_expected,
    )

    act = write_expected if update else compare_with_expected
    try:
        collection, settings = _schemas_and_settings(config, schemas, overrides)
        results = act(absolute(place), collection, settings)
    except IngestionError as error:
        raise click.ClickException(str(error)) from None
    for result in results:
        say(result.as_text())
    if not results:
        raise click.ClickException(without_data_files(absolute(place), settings).as_text())
    good = sum(result.is_as_expected for result in results)
    if any(result.result == "failed" for result in results):
        answers = folder_of(absolute(place)) / ANSWERS
        found = "is read from there" if answers.exists() else "goes there; the file is not there yet"
        click.echo(f"{answers}: what SciCat would answer {found}.", err=True)
    click.echo(f"{good} of {len(results)} files {'written' if update else 'as expected'}")
    sys.exit(0 if good == len(results) else 1)


def _schemas_and_settings(
    config: Path | None, directory: Path | None, overrides: Overrides
) -> tuple[SchemaCollection, Settings]:
    from scicat_dagster.config.loading import load_configuration
    from scicat_dagster.config.models import ScicatSettings, Settings
    from scicat_dagster.schemas.loading import load_schemas

    if config is None:
        if directory is None or overrides:
            raise click.UsageError("Give --config, or --schemas without --set.")
        nowhere = Settings(scicat=ScicatSettings(host="https://scicat.invalid/api/v3"))
        return load_schemas(directory.absolute()), nowhere
    configuration = load_configuration(config, os.environ, overrides)
    place = directory.absolute() if directory else configuration.schemas_directory
    return load_schemas(place, configuration.fallback_schema), configuration.settings


def _print(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
