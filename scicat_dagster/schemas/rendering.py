"""Rendering: putting variables' values where a schema writes ``<name>``.

A text that is exactly ``<name>`` becomes the value itself, unit included; inside a longer text each
``<name>`` becomes the value's text, and there is no unit. Lists and dictionaries are rendered element by
element, the keys of dictionaries as text.

What stands between ``<`` and ``>`` is a reference when it neither begins nor ends with a blank, or when the
schema has a variable of that name. Everything else is text, such as ``1 < 2 and 3 > 2``. A reference without
a value is always an error: its text would otherwise be catalogued, or name a group.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

_REFERENCE = re.compile(r"<([^<>]+)>")


@dataclass(frozen=True)
class Value:
    """A value and its unit (empty where it has none)."""

    value: Any
    unit: str = ""


class UnresolvedError(LookupError):
    """A ``<name>`` for which there is no value."""

    def __init__(self, name: str) -> None:
        super().__init__(f"<{name}> has no value")
        self.name = name


def render(template: Any, variables: Mapping[str, Value], names: Collection[str] = ()) -> Value:
    """A template with the values of its variables.

    Parameters
    ----------
    names
        The schema's variables, also those that have no value.

    Raises
    ------
    UnresolvedError
        It refers to a name that is not among ``variables``.
    """
    # A constant true or false is text in JSON's spelling, as in catalogues that hold such values already.
    if isinstance(template, bool):
        return Value(json.dumps(template))
    return _render(template, variables, names)


def render_address(
    template: Any, variables: Mapping[str, Value], names: Collection[str], quoted: Collection[str] = ()
) -> str:
    """A template of a web address, in which each value is quoted: it never is more than one part of a path.

    A template that is one single reference is that value, which is an address already.

    Parameters
    ----------
    quoted
        The names of values that were quoted before.

    Raises
    ------
    UnresolvedError
        It refers to a name that is not among ``variables``.
    """
    if isinstance(template, str) and not _REFERENCE.fullmatch(template):
        variables = {
            name: value if name in quoted else Value(quote(str(value.value), safe=""))
            for name, value in variables.items()
        }
    return str(render(template, variables, names).value)


def references(template: Any, known: Collection[str]) -> Iterator[str]:
    """The names that a template refers to, in order; other text in angle brackets is text."""
    if isinstance(template, str):
        for match in _REFERENCE.finditer(template):
            if match[1] in known or _looks_like_a_name(match[1]):
                yield match[1]
    elif isinstance(template, list):
        for item in template:
            yield from references(item, known)
    elif isinstance(template, dict):
        for key, item in template.items():
            yield from references(key, known)
            yield from references(item, known)


def _render(template: Any, variables: Mapping[str, Value], names: Collection[str]) -> Value:
    if isinstance(template, str):
        return _render_text(template, variables, names)
    if isinstance(template, list):
        items = [_render(item, variables, names) for item in template]
        return Value([item.value for item in items], _common_unit(items))
    if isinstance(template, dict):
        entries = {
            _render_key(key, variables, names): _render(item, variables, names)
            for key, item in template.items()
        }
        return Value({key: item.value for key, item in entries.items()}, _common_unit(list(entries.values())))
    return Value(template)


def _render_key(key: Any, variables: Mapping[str, Value], names: Collection[str]) -> Any:
    return str(_render_text(key, variables, names).value) if isinstance(key, str) else key


def _render_text(template: str, variables: Mapping[str, Value], names: Collection[str]) -> Value:
    whole = _REFERENCE.fullmatch(template)
    if whole and whole[1] in variables:
        return variables[whole[1]]

    def text_of(match: re.Match[str]) -> str:
        name = match[1]
        if name in variables:
            return str(variables[name].value)
        if name in names or _looks_like_a_name(name):
            raise UnresolvedError(name)
        return match[0]

    return Value(_REFERENCE.sub(text_of, template))


def _looks_like_a_name(text: str) -> bool:
    return text == text.strip()


def _common_unit(items: list[Value]) -> str:
    units = {item.unit for item in items}
    return units.pop() if len(units) == 1 else ""
