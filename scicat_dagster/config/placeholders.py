"""Placeholders: any string of the configuration may hold ``${NAME}`` or ``${NAME:-default}``.

What ``init`` writes as ``<FILL_IN>`` only a person knows; nothing is read with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PLACEHOLDER = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<fallback>:-(?P<default>[^}]*))?\}")

GAP = "<FILL_IN>"
"""Stands where only a person knows the value."""


def fill_placeholders(value: Any, environment: Mapping[str, str], *, place: str, mistakes: list[str]) -> Any:
    """The value with its ``${NAME}`` replaced; keys without a value are left out and get their defaults."""
    if isinstance(value, dict):
        return {
            str(key): fill_placeholders(
                inner, environment, place=f"{place}.{key}".lstrip("."), mistakes=mistakes
            )
            for key, inner in value.items()
            if inner is not None
        }
    if isinstance(value, list):
        return [fill_placeholders(inner, environment, place=place, mistakes=mistakes) for inner in value]
    if not isinstance(value, str):
        return value
    if GAP in value:
        mistakes.append(f"{place}: is still {GAP}; write the value, which only you know.")

    def from_environment(match: re.Match[str]) -> str:
        name = match["name"]
        if environment.get(name):
            return environment[name]
        if match["fallback"]:
            return match["default"]
        mistakes.append(f"{place}: the environment variable {name} is not set.")
        return ""

    return _PLACEHOLDER.sub(from_environment, value)
