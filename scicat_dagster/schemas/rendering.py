"""Rendering: putting variables' values where a schema writes ``<name>``.

A text that is exactly ``<name>`` becomes the value itself, unit included; inside a longer text each
``<name>`` becomes the value's text, and there is no unit. Lists and dictionaries are rendered element by
element.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_REFERENCE = re.compile(r"<([^<>]+)>")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


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


def render(template: Any, variables: Mapping[str, Value]) -> Value:
    """A template with the values of its variables.

    Raises
    ------
    UnresolvedError
        It refers to a name that is not among ``variables``.
    """
    if isinstance(template, str):
        return _render_text(template, variables)
    if isinstance(template, list):
        items = [render(item, variables) for item in template]
        return Value([item.value for item in items], _common_unit(items))
    if isinstance(template, dict):
        entries = {key: render(item, variables) for key, item in template.items()}
        return Value({key: item.value for key, item in entries.items()}, _common_unit(list(entries.values())))
    return Value(template)


def references(template: Any, known: Collection[str]) -> Iterator[str]:
    """The names that a template refers to, in order; text in angle brackets that is no name is text."""
    if isinstance(template, str):
        for match in _REFERENCE.finditer(template):
            if match[1] in known or _NAME.fullmatch(match[1]):
                yield match[1]
    elif isinstance(template, list | dict):
        for item in template.values() if isinstance(template, dict) else template:
            yield from references(item, known)


def _render_text(template: str, variables: Mapping[str, Value]) -> Value:
    whole = _REFERENCE.fullmatch(template)
    if whole and whole[1] in variables:
        return variables[whole[1]]

    def text_of(match: re.Match[str]) -> str:
        name = match[1]
        if name in variables:
            return str(variables[name].value)
        if _NAME.fullmatch(name):
            raise UnresolvedError(name)
        return match[0]

    return Value(_REFERENCE.sub(text_of, template))


def _common_unit(items: list[Value]) -> str:
    units = {item.unit for item in items}
    return units.pop() if len(units) == 1 else ""
