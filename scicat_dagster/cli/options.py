"""What several commands share: the options about the configuration, and the Dagster instance."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


optional_config_option = click.option(
    "--config", "-c", envvar=CONFIGURATION_VARIABLE, show_envvar=True, type=click.Path(path_type=Path),
    help="The facility's configuration file, for links to Dagster's pages.",
)  # fmt: skip


class CannotLookError(click.ClickException):
    """Nobody can say now: Dagster's records cannot be read."""

    exit_code = 2


@contextmanager
def records() -> Iterator[DagsterInstance]:
    """The instance in DAGSTER_HOME, for a command whose exit code says what it found there.

    Raises
    ------
    CannotLookError
        DAGSTER_HOME is not set, or what it holds cannot be opened or read.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from scicat_dagster.errors import TransientError
    from scicat_dagster.orchestration.operations.health import Home

    if not os.environ.get("DAGSTER_HOME"):
        raise CannotLookError("DAGSTER_HOME is not set. Set it to the folder of your Dagster instance.")
    try:
        with Home(dagster_instance).instance() as instance:
            yield instance
    except TransientError as error:
        raise CannotLookError(str(error)) from None
    except SQLAlchemyError as error:
        # Its own words may hold the database's address with a password.
        what = f"Dagster's database cannot be read ({type(error).__name__})."
        raise CannotLookError(f"{what} See that it is there and answers.") from None


def run_link(dagster_url: str, run_id: str) -> str:
    """The page of a run; its id where nobody says where Dagster's pages are."""
    return f"{dagster_url}/runs/{run_id}" if dagster_url else f"run {run_id}"


def dagster_pages(config: Path | None) -> str:
    """Where the configuration says that Dagster's pages are; nothing where it does not, or is broken."""
    from scicat_dagster.config.loading import ConfigurationError, load_configuration

    if config is None:
        return ""
    try:
        return load_configuration(config, os.environ).settings.notifications.dagster_url
    except ConfigurationError as error:
        click.echo(f"There are no links: {error.what}", err=True)
        return ""


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
