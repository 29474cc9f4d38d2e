"""Operators of ``source: VALUE`` variables: pure functions from a rendered value to a value.

Each takes the value and the definition's arguments. Hyphen and underscore spellings are the same operator.
Conversion to the variable's type happens afterwards, in ``conversion``.
"""

from __future__ import annotations

import json
import os.path
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

from scicat_dagster.isolation import CrashedError, EndlessError, Limits, ask
from scicat_dagster.schemas.conversion import parse_collection
from scicat_dagster.schemas.techniques import technique

MOST_TEXT = 10_000
"""Texts longer than this (in characters) are not searched with regular expressions: the time of common
patterns grows with the square of the length.
"""

_SEARCH = Limits(seconds=5, memory_bytes=256 * 1024 * 1024)
"""A search takes milliseconds, or years."""


@dataclass(frozen=True)
class Arguments:
    """The arguments that a definition may give its operator."""

    field: str | int | None = None
    pattern: str | None = None
    replacement: str | None = None


@dataclass(frozen=True)
class Operator:
    """A function, whether its result is still in the value's unit, and the arguments that it needs.

    One that ``is_optional`` leaves the value as it is where an argument is missing.
    """

    apply: Callable[[Any, Arguments], Any]
    keeps_unit: bool = False
    needs: tuple[str, ...] = ()
    is_optional: bool = False


def canonical_name(name: str) -> str:
    """One spelling for the hyphen and the underscore form."""
    return name.replace("-", "_")


def _collection(value: Any) -> list[Any] | dict[Any, Any]:
    collection = parse_collection(value) if isinstance(value, str) else value
    if not isinstance(collection, list | dict):
        raise TypeError(f"needs a list, not {type(value).__name__}")
    return collection


def _items(value: Any) -> list[Any]:
    collection = _collection(value)
    return list(collection.values()) if isinstance(collection, dict) else collection


def _some_numbers(value: Any) -> list[int | float]:
    numbers = _numbers(value)
    if not numbers:
        raise ValueError("needs at least one number")
    return numbers


def _numbers(value: Any) -> list[int | float]:
    items = _items(value)
    while any(isinstance(item, list) for item in items):
        items = [inner for item in items for inner in (item if isinstance(item, list) else [item])]
    if any(isinstance(item, bool) or not isinstance(item, int | float) for item in items):
        raise TypeError("needs a list of numbers")
    return items


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"needs text, not {type(value).__name__}")
    return value


def _join(value: Any, _: Arguments) -> str:
    # The separator is a comma in spite of the name, and of a dict the keys are joined: catalogues already
    # hold values joined so.
    return ", ".join(str(item) for item in _collection(value))


def _get_item(value: Any, arguments: Arguments) -> Any:
    key = arguments.field
    if isinstance(value, str) and value[:1] in "[{(":
        value = parse_collection(value)
    if isinstance(value, dict):
        if key in value:
            return value[key]
        if str(key) in value:
            return value[str(key)]
        raise LookupError(f"has no key {key!r}")
    if isinstance(value, list):
        try:
            return value[int(key if key is not None else "")]
        except IndexError:
            raise LookupError(f"has no item {key} in a list of {len(value)}") from None
    raise TypeError(f"needs a list or dict, not {type(value).__name__}")


def _replace(value: Any, arguments: Arguments) -> str:
    return str(value).replace(arguments.pattern or "", arguments.replacement or "")


def _first(value: Any, _: Arguments) -> Any:
    items = _items(value)
    if not items:
        raise LookupError("is an empty list")
    return items[0]


def _last(value: Any, _: Arguments) -> Any:
    return _first(list(reversed(_items(value))), _)


def _length(value: Any, _: Arguments) -> int:
    if not isinstance(value, str | list | dict):
        raise TypeError(f"needs text, a list or a dict, not {type(value).__name__}")
    return len(value)


def _search(value: Any, arguments: Arguments) -> str:
    text = _text(value)
    if len(text) > MOST_TEXT:
        raise ValueError("is too long to be searched")
    groups = _groups(arguments.pattern or "", text)
    if groups is None:
        raise LookupError(f"does not match {arguments.pattern!r}")
    group = groups[1]
    if group is None:
        raise LookupError(f"group 1 of {arguments.pattern!r} matched nothing")
    return group


def _groups(pattern: str, text: str) -> list[str | None] | None:
    """The first match and its groups, None where there is none; in a child where it could take long."""
    expression = re.compile(pattern)
    # With one repetition the time is at most the square of the length; with two it may be exponential.
    if sum(pattern.count(repeats) for repeats in "*+?{") <= 1:
        found = expression.search(text)
        return None if found is None else [found.group(0), *found.groups()]
    request = json.dumps({"pattern": pattern, "text": text}).encode()
    try:
        groups = json.loads(ask("search", request, limits=_SEARCH))
    except (EndlessError, CrashedError):
        raise ValueError(f"cannot be searched for {pattern!r} within {_SEARCH.seconds:g} s") from None
    return groups if isinstance(groups, list) else None


def _techniques(value: Any, _: Arguments) -> list[dict[str, str]]:
    names = value if isinstance(value, list) else [value]
    return [technique(_text(name)) for name in names]


OPERATORS: dict[str, Operator] = {
    "join_with_space": Operator(_join),
    "filename": Operator(lambda value, _: os.path.basename(_text(value))),  # noqa: PTH119
    "dirname": Operator(lambda value, _: os.path.dirname(_text(value))),  # noqa: PTH120
    "dirname_2": Operator(lambda value, _: os.path.dirname(os.path.dirname(_text(value)))),  # noqa: PTH120
    "getitem": Operator(_get_item, keeps_unit=True, needs=("field",)),
    "str_replace": Operator(_replace, needs=("pattern", "replacement"), is_optional=True),
    "urlsafe": Operator(lambda value, _: quote_plus(str(value))),
    "to_lower": Operator(lambda value, _: str(value).lower()),
    "to_upper": Operator(lambda value, _: str(value).upper()),
    "sum": Operator(lambda value, _: sum(_numbers(value)), keeps_unit=True),
    "max": Operator(lambda value, _: max(_some_numbers(value)), keeps_unit=True),
    "min": Operator(lambda value, _: min(_some_numbers(value)), keeps_unit=True),
    "mean": Operator(lambda value, _: statistics.fmean(_some_numbers(value)), keeps_unit=True),
    "first": Operator(_first, keeps_unit=True),
    "last": Operator(_last, keeps_unit=True),
    "length": Operator(_length),
    "split": Operator(lambda value, arguments: _text(value).split(arguments.pattern), needs=("pattern",)),
    "regex": Operator(_search, needs=("pattern",)),
    "panet": Operator(_techniques),
}
"""By canonical name; ``dirname_2`` is the grandparent folder, ``urlsafe`` is ``quote_plus``,
``panet`` makes techniques of a label or a list of labels."""
