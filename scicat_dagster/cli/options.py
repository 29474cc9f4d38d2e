"""What several commands share: the option that names the configuration, and the Dagster instance."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scicat_dagster.config.loading import CONFIGURATION_VARIABLE

if TYPE_CHECKING:
    from dagster import DagsterInstance

config_option = click.option(
    "--config", "-c", required=True, envvar=CONFIGURATION_VARIABLE, type=click.Path(path_type=Path),
    help="The facility's configuration file.",
)  # fmt: skip


def dagster_instance() -> DagsterInstance:
    """The instance in DAGSTER_HOME.

    Raises
    ------
    click.ClickException
        DAGSTER_HOME is not set.
    """
    from dagster import DagsterInstance

    if not os.environ.get("DAGSTER_HOME"):
        raise click.ClickException("DAGSTER_HOME is not set. Set it to the folder of your Dagster instance.")
    return DagsterInstance.get()
