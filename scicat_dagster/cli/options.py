"""What several commands share: options about the configuration, the Dagster instance, lines of a terminal."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scicat_dagster.config.loading import CONFIGURATION_VARIABLE

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from scicat_dagster.config.overrides import Overrides
    from scicat_dagster.orchestration.names import Names

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


def _names(_: click.Context, __: click.Parameter, given: str) -> Names:
    from scicat_dagster.errors import PermanentError
    from scicat_dagster.orchestration.names import Names

    try:
        return Names.parse(given)
    except PermanentError as error:
        raise click.BadParameter(str(error)) from None


key_prefix_option = click.option(
    "--key-prefix", "names", default="", envvar="SCICAT_DAGSTER_KEY_PREFIX", show_envvar=True,
    metavar="PREFIX", callback=_names,
    help="The key_prefix of the facility's component, where several share the Dagster instance.",
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


_BARE_INDENT = 4

_GAP = re.compile(r" {2,}(?=\S)")


def say(text: str) -> None:
    """Print for a person: wrapped to the width of a terminal; as it is for a file or a program."""
    click.echo(wrapped(text, shutil.get_terminal_size().columns) if sys.stdout.isatty() else text)


def wrapped(text: str, width: int) -> str:
    """The lines of a text, within so many columns where a word is not longer.

    A line goes on below the beginning of its last column. JSON stays as it is: it may be copied.
    """
    lines: list[str] = []
    is_json = False
    for line in text.split("\n"):
        is_json = is_json or line in {"{", "["}
        lines += [line] if is_json else _wrapped_line(line, width)
        is_json = is_json and line not in {"}", "]"}
    return "\n".join(lines)


def _wrapped_line(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    # What is in the right half is not a column of a table.
    start = max((gap.end() for gap in _GAP.finditer(line[: width // 2])), default=0)
    indent = " " * (start or _BARE_INDENT)
    first, *others = textwrap.wrap(
        line[start:],
        width - start,
        subsequent_indent="" if start else indent,
        break_long_words=False,
        break_on_hyphens=False,
        expand_tabs=False,
        replace_whitespace=False,
    ) or [""]
    return [line[:start] + first, *(f"{indent}{other}" if start else other for other in others)]
