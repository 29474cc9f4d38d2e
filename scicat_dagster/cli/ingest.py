"""``scicat-dagster ingest`` and ``preview``: files registered now, in this process, or only shown."""

from __future__ import annotations

import json
import logging
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from scicat_dagster.cli.options import config_option, dagster_instance, key_prefix_option, say

if TYPE_CHECKING:
    from dagster import DagsterInstance, EventLogEntry

    from scicat_dagster.config.loading import Configuration
    from scicat_dagster.config.overrides import Overrides
    from scicat_dagster.orchestration.names import Names
    from scicat_dagster.orchestration.past_files.by_hand import IngestedFile, Order


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option(
    "--message", type=click.Path(path_type=Path, dir_okay=False), metavar="JSON",
    help="The message that announced FILE, as JSON: that beside a registered file, or as scicat-ingestor "
    "saves it. Without it, the one that lies beside FILE is taken, where there is one.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Write nothing; show what would be posted.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for scripts.")
@key_prefix_option
@config_option
def ingest(
    files: tuple[Path, ...],
    message: Path | None,
    names: Names,
    config: Path,
    overrides: Overrides,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Register FILE... now, one after the other, in this process. No daemon has to run.

    A file that is registered already stays as it is. Where DAGSTER_HOME is set, each file is a run in that
    Dagster instance and is seen in the UI like any other; a file that another run is at work on is refused.

    Exits with 0 when all files are registered (with --dry-run: could be), and with 1 when not.
    """
    from scicat_dagster.config.loading import load_configuration
    from scicat_dagster.errors import IngestionError

    if message is not None and len(files) > 1:
        raise click.UsageError("--message is about one file; give one FILE with it.")
    try:
        configuration = load_configuration(config, os.environ, overrides)
    except IngestionError as error:
        raise click.ClickException(str(error)) from None
    done = []
    for file in _ingested(files, message, configuration, names, dry_run=dry_run):
        done.append(file)
        if not as_json:
            say(_as_text(file))
    if as_json:
        shown = {"files": [file.model_dump(mode="json") for file in done]}
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
    sys.exit(0 if all(file.is_well for file in done) else 1)


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
    if as_json:
        click.echo(shown.model_dump_json(by_alias=True, indent=2))
    else:
        say(shown.as_text())
    sys.exit(0 if shown.is_well else 1)


def _ingested(
    files: Sequence[Path],
    message: Path | None,
    configuration: Configuration,
    names: Names,
    *,
    dry_run: bool,
) -> Iterator[IngestedFile]:
    from scicat_dagster.config.current import CurrentConfiguration
    from scicat_dagster.definitions import build_definitions
    from scicat_dagster.errors import IngestionError
    from scicat_dagster.instance.facility_log import logged_as
    from scicat_dagster.instance.run_process import known_as
    from scicat_dagster.orchestration.facility import Facility
    from scicat_dagster.orchestration.past_files.by_hand import refused, register_now
    from scicat_dagster.orchestration.tags import INGEST_FILE

    facility = Facility(CurrentConfiguration(configuration), names=names)
    try:
        job = build_definitions(configuration, facility).resolve_job_def(names.name(INGEST_FILE))
        with _instance(configuration) as instance, logged_as(configuration):
            for file in files:
                # Not resolved: a symbolic link is the path that a message would name.
                path = os.path.abspath(file)  # noqa: PTH100
                click.echo(path, err=True)
                try:
                    order = _order(path, message, configuration, dry_run=dry_run)
                except IngestionError as error:
                    yield refused(path, error.what, error.remedy)
                    continue
                run_id = str(uuid.uuid4())
                with known_as(run_id) as tags, _quiet(names) as watch:
                    ingested = register_now(order, job, instance, run_id, tags, watch, names)
                yield from ingested
    finally:
        facility.close()


def _order(path: str, message: Path | None, configuration: Configuration, *, dry_run: bool) -> Order:
    from scicat_dagster.dataset.rebuild import saved_announcement
    from scicat_dagster.errors import PermanentError
    from scicat_dagster.files.paths import canonical_path
    from scicat_dagster.kafka.message_file import announcement_of
    from scicat_dagster.orchestration.partitions import key_of
    from scicat_dagster.orchestration.past_files.by_hand import Order

    handling = configuration.settings.ingestion.file_handling
    try:
        file = canonical_path(path, handling.data_directory)
    except ValueError as error:
        raise PermanentError(str(error), remedy="Give the path of a file in the data directory.") from None
    # A run would wait for it, and be tried again for days.
    if not Path(file).is_file():
        raise PermanentError(f"{file} is not there, or not a file.", remedy="Give the path of a NeXus file.")
    announcement = (
        saved_announcement(Path(file), handling)
        if message is None
        else announcement_of(message, file, handling.data_directory)
    )
    return Order(file, key_of(file, handling.data_directory), announcement, dry_run=dry_run)


@contextmanager
def _instance(configuration: Configuration) -> Iterator[DagsterInstance]:
    """The instance in DAGSTER_HOME, or else one that is gone in the end."""
    from dagster import DagsterInstance

    if os.environ.get("DAGSTER_HOME"):
        with dagster_instance() as instance:
            yield instance
    else:
        settings = {"telemetry": {"enabled": False}, "python_logs": _logs(configuration)}
        with DagsterInstance.ephemeral(settings=settings) as instance:
            yield instance


def _logs(configuration: Configuration) -> dict[str, object]:
    """What `dagster.yaml` says of logs; nothing where the configuration wants none."""
    from scicat_dagster.diagnostics.log_handlers import log_handlers
    from scicat_dagster.instance.facility_log import FacilityLog

    if not log_handlers(configuration.settings.logging, configuration.path.parent):
        return {}
    handler = {"class": f"{FacilityLog.__module__}.{FacilityLog.__name__}"}
    return {"python_log_level": "INFO", "dagster_handler_config": {"handlers": {"facility": handler}}}


@contextmanager
def _quiet(names: Names) -> Iterator[_Progress]:
    """A line for each op instead of what Dagster prints of each of its events."""
    terminal = sys.stderr
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        yield _Progress(terminal, names)


class _Progress:
    """Prints what a run is at."""

    def __init__(self, terminal: TextIO, names: Names) -> None:
        self._terminal = terminal
        self._prefix = names.name("")

    def __call__(self, entry: EventLogEntry) -> None:
        from dagster import DagsterEventType

        event = entry.dagster_event
        if event is not None and event.event_type is DagsterEventType.STEP_START:
            self._print(f"  {(event.step_key or '').rpartition('.')[2].removeprefix(self._prefix)}")
        elif event is None and entry.level == logging.WARNING:
            self._print(f"    {entry.user_message}")

    def _print(self, line: str) -> None:
        click.echo(line, file=self._terminal)


def _as_text(file: IngestedFile) -> str:
    lines = [file.as_text()]
    if file.result == "dry run":
        bodies = (("dataset", file.dataset), ("origdatablock", file.origdatablock))
        lines += [f"\n{title}\n{json.dumps(body, indent=2, ensure_ascii=False)}" for title, body in bodies]
        lines.append("\nNothing was registered.")
    return "\n".join(lines)
