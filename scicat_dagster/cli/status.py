"""``scicat-dagster status``: how the service is doing today, in one place."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scicat_dagster.cli.options import config_option, key_prefix_option, records, say

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from scicat_dagster.config.loading import Configuration
    from scicat_dagster.config.overrides import Overrides
    from scicat_dagster.orchestration.names import Names
    from scicat_dagster.orchestration.operations.today import Today

_WATCH_SECONDS = 5.0


@click.command()
@click.option("--watch", is_flag=True, help="Show it again every five seconds, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for scripts.")
@key_prefix_option
@config_option
def status(names: Names, config: Path, overrides: Overrides, *, watch: bool, as_json: bool) -> None:
    """Show how the service is doing today: files by state, reasons of failures, times, and what is away.

    Above everything else stands when Dagster's daemons or wrdn_sensor do not work, and then which
    configuration and which DAGSTER_HOME it is about.
    The numbers of the day begin at midnight, local time. They come from the Dagster instance in DAGSTER_HOME;
    Kafka, the storage and SciCat are asked now.

    Exits with 0, whatever is shown, and with 2 when Dagster's records cannot be read. `scicat-dagster health`
    exits with 1 when something is not well.
    """
    from scicat_dagster.config.loading import load_configuration
    from scicat_dagster.errors import IngestionError
    from scicat_dagster.orchestration.operations.today import as_text

    try:
        configuration = load_configuration(config, os.environ, overrides)
    except IngestionError as error:
        raise click.ClickException(str(error)) from None
    with records() as instance:
        ask = _question(instance, configuration, names)
        while True:
            found = ask()
            if watch:
                click.clear()
            if as_json:
                click.echo(found.model_dump_json(indent=2))
            else:
                say(as_text(found))
            if not watch:
                return
            time.sleep(_WATCH_SECONDS)


def _question(instance: DagsterInstance, configuration: Configuration, names: Names) -> Callable[[], Today]:
    from scicat_dagster.diagnostics.checkup import Checkup
    from scicat_dagster.diagnostics.probes import facility_checks
    from scicat_dagster.orchestration.operations.health import work_checks
    from scicat_dagster.orchestration.operations.today import Registrations, reported_away, today

    checkup = Checkup(facility_checks(lambda: configuration.settings))
    workers = Checkup(work_checks(lambda: instance, names))
    registrations = Registrations(names)
    return lambda: today(
        instance,
        checkup.look().checks,
        reported_away(instance, names),
        registrations,
        names=names,
        dagster=workers.look().checks,
        configuration=str(configuration.path),
    )
