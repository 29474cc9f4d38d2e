"""Operators that other Python packages offer, beside the built-in ones of ``operators``.

A package declares a function by an entry point of the group ``scicat_dagster.operators``. It gets the value
as plain JSON, and those of ``field``, ``pattern`` and ``replacement`` that the schema gives as keywords; what
it returns has to be JSON, or numpy's numbers and arrays. Its attribute ``keeps_unit`` says whether the result
is in the value's unit. The functions of scicat-ingestor's group are of this kind, too, and are offered
likewise.

The code is the facility's own and runs in this process. What goes wrong in it, at import or at work, costs
the variable that uses it. Installed packages are looked up once per process, when a schema first names an
operator that is not built in. Source: *importlib.metadata*, entry points.
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from scicat_dagster.schemas.operators import OPERATORS, Arguments, Operator, canonical_name

GROUP = "scicat_dagster.operators"

INGESTOR_GROUP = "scicat_ingestor.metadata_extractor"
"""scicat-ingestor's own, whose functions take a value and nothing else."""


def is_operator(name: str) -> bool:
    """Whether there is an operator of this canonical name; its package is not imported for that.

    Raises
    ------
    ValueError
        It is not built in, and what the installed packages declare cannot be read.
    """
    return name in OPERATORS or name in offered()


def operator_names() -> tuple[str, ...]:
    """The canonical names of all operators: the built-in ones, then those of packages that can be read."""
    try:
        return (*OPERATORS, *sorted(offered()))
    except ValueError:
        return tuple(OPERATORS)


def operator_named(name: str) -> Operator:
    """The operator of a canonical name.

    Raises
    ------
    ValueError
        No package or several offer it, its package cannot be imported, or it is not a function; the text
        names the package.
    """
    built_in = OPERATORS.get(name)
    return built_in if built_in is not None else _loaded(offered().get(name, ()))


def names_taken() -> list[str]:
    """Sentences about operators that are not used, because a built-in one has their name.

    Raises
    ------
    ValueError
        What the installed packages declare cannot be read.
    """
    return [
        f"The operator {name} of the package {_package(entry)} is not used, because there is a built-in one "
        "of this name."
        for name, entries in _declared(GROUP).items()
        for entry in entries
        if name in OPERATORS
    ]


@cache
def offered() -> Mapping[str, tuple[EntryPoint, ...]]:
    """The operators of installed packages that are not built in, by their canonical names.

    Raises as :func:`is_operator`.
    """
    declared = _declared(INGESTOR_GROUP) | _declared(GROUP)
    return {name: entries for name, entries in declared.items() if name not in OPERATORS}


def _declared(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    try:
        entries = entry_points(group=group)
    except Exception as error:
        raise ValueError(f"what the installed packages declare cannot be read: {_words(error)}") from error
    by_name: dict[str, list[EntryPoint]] = defaultdict(list)
    for entry in entries:
        by_name[canonical_name(entry.name)].append(entry)
    return {name: tuple(found) for name, found in by_name.items()}


def _loaded(entries: Sequence[EntryPoint]) -> Operator:
    if not entries:
        raise ValueError("no installed package offers it")
    if len(entries) > 1:
        packages = ", ".join(sorted(map(_package, entries)))
        raise ValueError(f"several packages offer it: {packages}; uninstall all but one")
    entry, package = entries[0], _package(entries[0])
    try:
        function = entry.load()
    except (Exception, SystemExit) as error:
        raise ValueError(f"the package {package} cannot be imported: {_words(error)}") from error
    if not callable(function):
        raise ValueError(f"{entry.value} of the package {package} is not a function")  # noqa: TRY004
    return Operator(
        lambda value, arguments: _applied(function, package, value, arguments),
        keeps_unit=bool(getattr(function, "keeps_unit", False)),
    )


def _applied(function: Callable[..., Any], package: str, value: Any, arguments: Arguments) -> Any:
    given = {name: argument for name, argument in vars(arguments).items() if argument is not None}
    try:
        # A copy: other variables have the same value.
        result = function(copy.deepcopy(value), **given)
    except (Exception, SystemExit) as error:
        raise ValueError(f"the package {package} failed: {_words(error)}") from error
    try:
        return _as_json(result)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the package {package} returned what is not JSON: {error}") from error


def _as_json(result: Any) -> Any:
    text = json.dumps(result, default=_of_numpy, ensure_ascii=False)
    # Half a surrogate pair could be stored nowhere.
    text.encode()
    return json.loads(text)


def _of_numpy(value: Any) -> Any:
    if not hasattr(value, "tolist"):
        raise TypeError(f"a value of the type {type(value).__name__}")
    return value.tolist()


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
