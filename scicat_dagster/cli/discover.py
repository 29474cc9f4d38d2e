"""``scicat-dagster discover``: files on disk, which of them the catalogue holds, and runs for the others."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from scicat_dagster.cli.options import config_option, dagster_instance, key_prefix_option
from scicat_dagster.wording import numbered

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from scicat_dagster.config.loading import Configuration
    from scicat_dagster.config.overrides import Overrides
    from scicat_dagster.orchestration.names import Names
    from scicat_dagster.usecases.discover import Discovery
    from scicat_dagster.usecases.walk import Criteria

_TIME = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"])


@click.command()
@click.argument("roots", nargs=-1, required=True, metavar="ROOT...", type=click.Path(path_type=Path))
@click.option("--since", type=_TIME, help="Only files modified then or later (local time).")
@click.option("--until", type=_TIME, help="Only files modified before then (local time).")
@click.option(
    "--instrument", "instruments", multiple=True, metavar="NAME",
    help="Only files with a folder of this name on their way. May be given several times.",
)  # fmt: skip
@click.option(
    "--glob", "patterns", multiple=True, metavar="PATTERN",
    help="Only files with such a name. May be given several times.  [default: the configuration's "
    "ingestion.file_handling.file_names]",
)  # fmt: skip
@click.option("--missing-only", is_flag=True, help="List only the files that the catalogue does not hold.")
@click.option(
    "--backfill", "then", flag_value="backfill",
    help="Register the missing files in a backfill of raw_dataset, in the Dagster instance in DAGSTER_HOME.",
)  # fmt: skip
@click.option(
    "--run", "then", flag_value="run",
    help="Register the missing files by one run each, which reconcile_sensor starts bit by bit. A backfill "
    "puts many files into each run, and is faster.",
)  # fmt: skip
@click.option("--json", "then", flag_value="json", help="One JSON object on standard output, for scripts.")
@key_prefix_option
@config_option
def discover(
    roots: tuple[Path, ...],
    since: datetime | None,
    until: datetime | None,
    instruments: tuple[str, ...],
    patterns: tuple[str, ...],
    then: Literal["backfill", "run", "json"] | None,
    names: Names,
    config: Path,
    overrides: Overrides,
    *,
    missing_only: bool,
) -> None:
    """List the files below ROOT..., each with what the catalogue has of it.

    A file is registered, changed (registered with another size than it has now), failed (its run failed, as
    far as the Dagster instance in DAGSTER_HOME knows), or missing. Symbolic links are not followed.

    With --backfill or --run the missing files are registered by Dagster's daemon, after all live ones. Files
    with a run under way are left out, so that the command may be interrupted and given again. Failed files
    are left to `scicat-dagster failures --retry`, which has their messages.

    Exits with 1 when a folder or file could not be looked at: it may hold more.
    """
    from scicat_dagster.config.loading import load_configuration
    from scicat_dagster.errors import IngestionError
    from scicat_dagster.usecases.walk import Criteria

    criteria = Criteria(
        patterns=patterns,
        since=since.astimezone() if since else None,
        until=until.astimezone() if until else None,
        instruments=instruments,
    )
    with ExitStack() as stack:
        instance = None
        # Without a home, files that failed or were registered under other folders are listed as missing.
        if os.environ.get("DAGSTER_HOME") or then in {"backfill", "run"}:
            instance = stack.enter_context(dagster_instance())
        try:
            configuration = load_configuration(config, os.environ, overrides)
            found = _found(roots, criteria, configuration, instance, names)
        except IngestionError as error:
            raise click.ClickException(str(error)) from None
        shown = found.of("missing", "failed") if missing_only else found.files
        if then == "json":
            counts = [count.model_dump() for count in found.counts()]
            listed = found.model_copy(update={"files": tuple(shown)}).model_dump(mode="json")
            click.echo(json.dumps({"counts": counts, **listed}, indent=2, ensure_ascii=False))
        elif instance is not None and then is not None:
            data_directory = configuration.settings.ingestion.file_handling.data_directory
            if failed := found.of("failed"):
                click.echo(
                    f"{numbered(len(failed), 'file')} failed; `scicat-dagster failures` says why, and "
                    "`failures --retry` tries them again."
                )
            _register([file.path for file in found.of("missing")], data_directory, instance, then, names)
        else:
            for file in shown:
                click.echo(f"{file.state:<10}  {file.path}  {file.reason}".rstrip())
    for count in found.counts():
        click.echo(
            f"{count.root}  {count.instrument}: {count.on_disk} on disk, {count.registered} registered, "
            f"{count.changed} changed, {count.missing} missing, {count.failed} failed",
            err=True,
        )
    for folder in found.nothing_found:
        click.echo(folder.as_text(), err=True)
    for place in (*found.unreadable, *found.refused):
        click.echo(f"Not looked at: {place.path}  {place.reason}", err=True)
    sys.exit(1 if found.unreadable else 0)


def _found(
    roots: Sequence[Path],
    criteria: Criteria,
    configuration: Configuration,
    instance: DagsterInstance | None,
    names: Names,
) -> Discovery:
    from scicat_dagster.scicat.client import ScicatClient
    from scicat_dagster.usecases.discover import count_datasets, with_empty_folders
    from scicat_dagster.usecases.discover import discover as ask
    from scicat_dagster.usecases.walk import walk

    handling = configuration.settings.ingestion.file_handling

    def pids(paths: Sequence[str]) -> Mapping[str, str]:
        if instance is None:
            return {}
        from scicat_dagster.orchestration.past_files.in_flight import known_pids

        return known_pids(instance, paths, handling.data_directory, names)

    def settled(paths: Sequence[str]) -> Collection[str]:
        if instance is None:
            return ()
        from scicat_dagster.orchestration.past_files.in_flight import registered_by_us

        return registered_by_us(instance, paths, handling.data_directory, names)

    def datasets(paths: Sequence[str]) -> Mapping[str, int | str]:
        return count_datasets(paths, configuration, settled)

    # Not resolved: a root that is a link keeps its name.
    places = [os.path.normpath(root.absolute()) for root in roots]
    with closing(ScicatClient(configuration.settings.scicat)) as catalogue, _progress() as answered:
        entries = walk(places, criteria, handling)
        found = ask(entries, catalogue, known_pids=pids, datasets_of=datasets, answered=answered)
    if instance is not None:
        from scicat_dagster.orchestration.failures.failed_files import failed_files, reasons_by_path

        failed = failed_files(instance, names=names)
        found = found.with_failed(reasons_by_path(failed, handling.data_directory))
    return with_empty_folders(found, places, criteria, handling)


def _register(
    missing: Sequence[str],
    data_directory: str,
    instance: DagsterInstance,
    how: Literal["backfill", "run"],
    names: Names,
) -> None:
    from scicat_dagster.orchestration.partitions import keys_of, paths_of
    from scicat_dagster.orchestration.past_files.backfills import add_partitions, start_backfills
    from scicat_dagster.orchestration.past_files.in_flight import files_in_flight
    from scicat_dagster.orchestration.past_files.plan import plan_sweep
    from scicat_dagster.orchestration.past_files.requests import request_events

    plan = plan_sweep(missing, paths_of(files_in_flight(instance, names), data_directory), set())
    keys = keys_of(plan.wanted, data_directory)
    if plan.in_flight:
        click.echo(f"{len(plan.in_flight)} missing files have a run under way already.")
    if not keys:
        click.echo("Nothing to do.")
    elif how == "backfill":
        ids = start_backfills(instance, keys, "discover", names)
        click.echo(f"{numbered(len(keys), 'file')} in backfill {', '.join(ids)}; see Runs → Backfills.")
    else:
        add_partitions(instance, keys, names)
        for event in request_events(keys, "discover", names=names):
            instance.report_runless_asset_event(event)
        click.echo(f"{numbered(len(keys), 'file')} requested; reconcile_sensor starts their runs.")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar for a person who watches; nothing where the output goes into a file."""
    if not sys.stderr.isatty():
        yield lambda _done, _all: None
        return
    with click.progressbar(length=0, label="Asking SciCat", file=sys.stderr) as bar:

        def answered(done: int, all_: int) -> None:
            bar.length = all_
            bar.update(done - bar.pos)

        yield answered
