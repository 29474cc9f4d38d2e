"""``scicat-dagster reingest``: datasets brought up to date after their schema was corrected."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from scicat_dagster.cli.options import config_option

if TYPE_CHECKING:
    from scicat_dagster.config.overrides import Overrides
    from scicat_dagster.usecases.reingest import Reingested
    from scicat_dagster.usecases.walk import NothingFound, Refused, Unreadable

FAILED = 1
DIFFERS = 3


@click.command()
@click.argument("places", nargs=-1, metavar="[FILE|FOLDER]...", type=click.Path(path_type=Path))
@click.option(
    "--from", "listed", type=click.File(encoding="utf-8"), metavar="LIST",
    help="A text with one file or folder in each line; - is standard input.",
)  # fmt: skip
@click.option(
    "--update", is_flag=True, help="Change the datasets. Without it, only the differences are shown."
)
@click.option(
    "--also", multiple=True, metavar="FIELD",
    help="Change this field, too, although it is left alone otherwise; scientificMetadata.NAME that the "
    "schema no longer defines is removed. May be given several times.",
)  # fmt: skip
@click.option("--schema", metavar="ID", help="Only files whose schema has this id or name.")
@click.option(
    "--instrument", "instruments", multiple=True, metavar="NAME",
    help="Of FOLDER, only files with a folder of this name on their way. May be given several times.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for scripts.")
@config_option
def reingest(
    places: tuple[Path, ...],
    listed: TextIO | None,
    also: tuple[str, ...],
    schema: str | None,
    instruments: tuple[str, ...],
    config: Path,
    overrides: Overrides,
    *,
    update: bool,
    as_json: bool,
) -> None:
    """Compare the datasets of registered files with what their corrected schemas make of them today.

    Each difference is shown as "in the catalogue → from the file". With --update the datasets are changed,
    and nothing but these differences. Left alone, but shown, are fields that people edit in SciCat
    (datasetName, description, keywords, …), owner and access groups, non-deterministic values (such
    as <now>), and metadata that the schema does not define. A file that has changed since it was registered
    fails.

    Exits with 0 when nothing differs or everything was updated, with 1 when a file failed or could not be
    looked at, and with 3 when something differs and --update was not given.
    """
    from scicat_dagster.config.loading import load_configuration
    from scicat_dagster.errors import IngestionError
    from scicat_dagster.schemas.loading import load_schemas
    from scicat_dagster.scicat.client import ScicatClient
    from scicat_dagster.usecases.reingest import Reingestion, listed_files
    from scicat_dagster.usecases.walk import Criteria, nothing_found_in

    named = [str(place) for place in places]
    named += [line.strip() for line in listed or () if line.strip()]
    if not named:
        raise click.UsageError("Give a file or folder, or --from.")
    done: list[Reingested] = []
    left_out: list[Unreadable | Refused] = []
    empty: tuple[NothingFound, ...] = ()
    try:
        configuration = load_configuration(config, os.environ, overrides)
        settings = configuration.settings
        handling, criteria = settings.ingestion.file_handling, Criteria(instruments=instruments)
        schemas = load_schemas(configuration.schemas_directory, configuration.fallback_schema)
        with closing(ScicatClient(settings.scicat)) as client:
            reingestion = Reingestion(settings, schemas, client, also)
            work = reingestion.updated if update else reingestion.compared
            # Not resolved: a symbolic link is the path that a message would name.
            paths = [os.path.abspath(name) for name in named]  # noqa: PTH100
            seen: list[str] = []
            for entry in listed_files(paths, criteria, handling):
                seen.append(entry if isinstance(entry, str) else entry.path)
                if not isinstance(entry, str):
                    left_out.append(entry)
                elif schema is None or reingestion.is_for(entry, schema):
                    datasets = work(entry)
                    done.extend(datasets)
                    for dataset in datasets if not as_json else ():
                        click.echo(dataset.as_text())
            empty = nothing_found_in(filter(os.path.isdir, paths), seen, criteria, handling)
    except IngestionError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(_as_json(done, left_out, empty))
    differing = {change.field for file in done for change in file.changes}
    for name in also:
        if name not in differing:
            click.echo(f"--also {name}: no dataset differs in it.", err=True)
    _finish(done, left_out, empty)


def _as_json(
    done: Sequence[Reingested], left_out: Sequence[Unreadable | Refused], empty: Sequence[NothingFound]
) -> str:
    shown = {
        "files": [file.model_dump(mode="json") for file in done],
        "left_out": [{"path": place.path, "reason": place.reason} for place in left_out],
        "nothing_found": [folder.model_dump(mode="json") for folder in empty],
    }
    return json.dumps(shown, indent=2, ensure_ascii=False)


def _finish(
    done: Sequence[Reingested], left_out: Sequence[Unreadable | Refused], empty: Sequence[NothingFound]
) -> None:
    from scicat_dagster.usecases.reingest import counted
    from scicat_dagster.usecases.walk import Unreadable

    for folder in empty:
        click.echo(folder.as_text(), err=True)
    for place in left_out:
        click.echo(f"Not looked at: {place.path}  {place.reason}", err=True)
    counts = counted(done)
    click.echo(", ".join(f"{number} {state}" for state, number in counts.items()), err=True)
    if counts["differs"]:
        click.echo("Nothing was changed; --update does it.", err=True)
    if counts["failed"] or any(isinstance(place, Unreadable) for place in left_out):
        sys.exit(FAILED)
    sys.exit(DIFFERS if counts["differs"] else 0)
