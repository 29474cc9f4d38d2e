"""The module that Dagster loads, and the facilities in it: ours, or a project's that the environment names.

The code server is given the module on its command line. Whoever executes its runs loads it before they come,
and whoever starts the service asks which facilities and files it has; nothing else belongs here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import cast

import dagster as dg

from scicat_dagster.dagster_internals import loadable_targets_from_loaded_module
from scicat_dagster.errors import PermanentError
from scicat_dagster.orchestration.facility import Facility

MODULE_VARIABLE = "SCICAT_DAGSTER_MODULE"
"""The environment variable that names the module of a project, where that is not ours."""

OUR_MODULE = "scicat_dagster.definitions"
"""The one facility of ``SCICAT_INGESTOR_CONFIG``."""


def module_name() -> str:
    """The module that Dagster loads."""
    return os.environ.get(MODULE_VARIABLE) or OUR_MODULE


def load_definitions() -> dg.Definitions:
    """What the module defines, made as the code server makes it.

    Raises
    ------
    PermanentError
        It cannot be loaded, whatever the reason, or has not one ``dg.Definitions``.
    """
    module = module_name()
    try:
        targets = loadable_targets_from_loaded_module(import_module(module))
        made = [_made(each.target_definition) for each in targets]
    except Exception as error:
        # Somebody else's code may raise anything; a component's error is within one of Dagster's.
        if (reason := _own(error)) is not None:
            raise reason from None
        raise _unusable(module, f"cannot be loaded: {_described(error)}.") from error
    if len(made) != 1 or not isinstance(made[0], dg.Definitions):
        raise _unusable(module, "has not one function with @dg.definitions, or one dg.Definitions.")
    return made[0]


def facilities() -> tuple[Facility, ...]:
    """The facilities that the module defines, in the order of their key prefixes.

    Raises
    ------
    PermanentError
        It cannot be loaded, or has none.
    """
    resources = (load_definitions().resources or {}).values()
    # One whose definitions were merged into those of a project stands among resources of its own.
    found = {str(each.names): each for each in resources if isinstance(each, Facility)}
    if not found:
        raise _unusable(module_name(), "has no facility: no scicat_dagster.IngestComponent is in it.")
    return tuple(found[prefix] for prefix in sorted(found))


def _made(target: object) -> object:
    """A function with ``@dg.definitions`` is found as what makes them."""
    return cast("Callable[[], object]", target)() if callable(target) else target


def _own(error: BaseException | None) -> PermanentError | None:
    """What this package has said of a configuration file, within what Dagster made of it."""
    while error is not None and not isinstance(error, PermanentError):
        error = error.__cause__
    return error


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(". \n")


def _unusable(module: str, why: str) -> PermanentError:
    return PermanentError(
        f"The module {module} {why}",
        remedy=f"Set {MODULE_VARIABLE} to the module of your project that `dg dev` loads, such as "
        "two_facilities.definitions, and install the project into the environment of the service with "
        "`pip install -e`: Dagster looks for its pyproject.toml.",
    )
