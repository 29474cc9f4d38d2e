"""``scicat-dagster health``: whether everything is alive, once or as an HTTP endpoint."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scicat_dagster.cli.options import config_option, dagster_instance, key_prefix_option, say

if TYPE_CHECKING:
    from scicat_dagster.config.overrides import Overrides
    from scicat_dagster.orchestration.names import Names


@click.command()
@click.option("--json", "how", flag_value="json", help="One JSON object on standard output, for scripts.")
@click.option(
    "--serve", "how", flag_value="serve",
    help="Answer over HTTP at health_check.host and health_check.port, until it is stopped.",
)  # fmt: skip
@key_prefix_option
@config_option
def health(how: str | None, names: Names, config: Path, overrides: Overrides) -> None:
    """Ask Kafka, the storage, SciCat and the Dagster instance in DAGSTER_HOME whether they are alive.

    Nothing is written. Exits with 0 when all are well, and with 1 when not.

    With --serve, /health answers 200 when all are well and 503 when not, with the same JSON as --json; /live
    answers 200 as long as this process does; /metrics is for Prometheus. POST /announce announces a file,
    where the configuration has health_check.announce_token.
    """
    from scicat_dagster.config.current import CurrentConfiguration
    from scicat_dagster.config.loading import load_configuration
    from scicat_dagster.diagnostics.announce import announce_route
    from scicat_dagster.diagnostics.checkup import Checkup
    from scicat_dagster.diagnostics.endpoint import create_app, listen, serve
    from scicat_dagster.diagnostics.probes import facility_checks
    from scicat_dagster.errors import IngestionError
    from scicat_dagster.orchestration.integration.posted_announcements import store
    from scicat_dagster.orchestration.operations.health import Home, dagster_checks
    from scicat_dagster.orchestration.operations.measures import dagster_measures

    if not os.environ.get("DAGSTER_HOME"):
        raise click.ClickException("DAGSTER_HOME is not set. Set it to the folder of your Dagster instance.")
    home = Home(dagster_instance)
    try:
        current = CurrentConfiguration(load_configuration(config, os.environ, overrides))
        settings = current.read().settings
        checkup = Checkup(
            {**facility_checks(lambda: current.read().settings), **dagster_checks(home, current, names)}
        )
        if how == "serve":
            with listen(settings.health_check) as listener:
                host, port = listener.getsockname()[:2]
                address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
                click.echo(f"{address}/health  {address}/live  {address}/metrics")
                announce = announce_route(lambda: current.read().settings, partial(store, home, names=names))
                serve(create_app(checkup, dagster_measures(home, names), [announce]), listener)
            return
    except IngestionError as error:
        raise click.ClickException(str(error)) from None
    found = checkup.look()
    if how == "json":
        click.echo(found.model_dump_json(indent=2))
    else:
        say(found.as_text())
    sys.exit(0 if found.ok else 1)
