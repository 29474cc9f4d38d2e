"""What several commands share: the options about the configuration, and the Dagster instance."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scicat_dagster.config.loading import CONFIGURATION_VARIABLE

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from scicat_dagster.config.overrides import Overrides

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _overrides(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> Overrides:
    if not given:
        return {}
    from scicat_dagster.config.overrides import parse_override

    try:
        return dict(parse_override(text) for text in given)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", callback=_overrides,
    help="Use this value for a key of the configuration, such as ingestion.dry_run=true, in this command "
    "only. May be given several times. For a secret give ${NAME}, which is taken from the environment.",
)  # fmt: skip


def config_option(command: _Command) -> _Command:
    """``--config``, which the environment may give as well, and ``--set``."""
    config = click.option(
        "--config", "-c", required=True, envvar=CONFIGURATION_VARIABLE, show_envvar=True,
        type=click.Path(path_type=Path), help="The facility's configuration file.",
    )  # fmt: skip
    return config(set_option(command))


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
