"""Selectors: which data files a schema is for.

A selector is ``"*"``, a condensed ``source:operator:argument``, an expanded
``{source, operator, operand_2}``, or ``{and: […]}`` and ``{or: […]}`` of selectors; all keys of one such
dictionary must hold. Reading the files that hold selectors belongs to ``loading``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Selector = Callable[[str], bool]
"""Whether a data file, given by its canonical path, is meant."""

SOURCES = frozenset({"filename", "datafile", "nexusfile"})
"""All of them are the full path of the data file."""

OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "starts_with": lambda path, argument: path.startswith(argument),
    "contains": lambda path, argument: argument in path,
}


def parse_selector(raw: Any) -> Selector:
    """The selector that a schema file writes.

    Raises
    ------
    ValueError
        It is malformed, names an unknown source or operator, or can never match a file.
    """
    if raw == "*":
        return _everything
    if isinstance(raw, str):
        parts = raw.split(":", 2)
        if len(parts) != 3:
            raise ValueError(f"selector {raw!r} is not of the form source:operator:argument")
        return _condition(*parts)
    if isinstance(raw, dict) and raw:
        if "operator" in raw or "source" in raw or "operand_1" in raw:
            return _expanded(raw)
        return _All(tuple(_combination(key, parts) for key, parts in raw.items()))
    raise ValueError(f'selector {raw!r} selects nothing; use "*" for every file')


@dataclass(frozen=True)
class _Condition:
    operator: str
    argument: str

    def __call__(self, path: str) -> bool:
        return OPERATORS[self.operator](path, self.argument)


@dataclass(frozen=True)
class _All:
    parts: tuple[Selector, ...]

    def __call__(self, path: str) -> bool:
        return all(part(path) for part in self.parts)


@dataclass(frozen=True)
class _Any:
    parts: tuple[Selector, ...]

    def __call__(self, path: str) -> bool:
        return any(part(path) for part in self.parts)


def _everything(path: str) -> bool:  # noqa: ARG001
    return True


def _expanded(raw: dict[Any, Any]) -> _Condition:
    known = {"source", "operand_1", "operator", "operand_2"}
    if unknown := set(raw) - known:
        raise ValueError(f"selector has the unknown keys {sorted(map(str, unknown))}")
    if raw.get("operand_2") in (None, ""):
        raise ValueError("selector lacks operand_2, the text that the path is compared with")
    return _condition(
        str(raw.get("source", raw.get("operand_1", ""))),
        str(raw.get("operator", "")),
        str(raw.get("operand_2", "")),
    )


def _condition(source: str, operator: str, argument: str) -> _Condition:
    source, operator = source.strip(), operator.strip().replace("-", "_")
    if source not in SOURCES:
        raise ValueError(f"selector has the unknown source {source!r}; use one of {sorted(SOURCES)}")
    if operator not in OPERATORS:
        raise ValueError(f"selector has the unknown operator {operator!r}; use one of {sorted(OPERATORS)}")
    if operator == "starts_with" and argument and not argument.startswith("/"):
        raise ValueError(
            f"selector starts_with:{argument} can never match, because paths are absolute; begin it with /"
        )
    return _Condition(operator, argument)


def _combination(key: Any, parts: Any) -> Selector:
    if key not in {"and", "or"}:
        raise ValueError(f"selector has the unknown key {key!r}; use and, or, or source with operator")
    if not isinstance(parts, list) or not parts:
        raise ValueError(f"selector {key!r} needs a list of selectors")
    selectors = tuple(parse_selector(part) for part in parts)
    if key == "or":
        return _Any(selectors)
    starts = [part.argument for part in selectors if _is_start(part)]  # type: ignore[attr-defined]
    for one in starts:
        for other in starts:
            if not (one.startswith(other) or other.startswith(one)):
                raise ValueError(f"selector can never match: no path starts with both {one} and {other}")
    return _All(selectors)


def _is_start(selector: Selector) -> bool:
    return isinstance(selector, _Condition) and selector.operator == "starts_with"
