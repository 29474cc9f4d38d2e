"""Selectors: which data files a schema is for.

A selector is ``"*"``, a condensed ``source:operator:argument``, an expanded
``{source, operator, operand_2}``, or ``{and: […]}`` and ``{or: […]}`` of selectors; all keys of one such
dictionary must hold. Reading the files that hold selectors belongs to ``loading``.

A mistake in one branch neither voids the whole selector nor hands its files to a less fitting schema. The
branch is false where that decides nothing else; a file that the selector seems to mean (the other branches of
an ``and`` hold, or a misspelt word is like a known one) is claimed, to fail with the mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

from scicat_dagster.nearest import nearest, suggestion

SOURCES = frozenset({"filename", "datafile", "nexusfile"})
"""All of them are the full path of the data file."""

OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "starts_with": lambda path, argument: path.startswith(argument),
    "contains": lambda path, argument: argument in path,
}

_LIKENESS_OF_A_SLIP = 0.75
"""``file_name`` and ``startswith`` are slips; ``ends_with`` is another operator."""


class Match(Enum):
    """Whether a data file is selected."""

    YES = auto()
    NO = auto()
    MEANT = auto()
    """As far as the selector can be read, the file is meant."""
    UNREADABLE = auto()


class Selector(Protocol):
    """Which data files are meant, as far as that can be read."""

    def match(self, path: str) -> Match:
        """Whether a data file, given by its canonical path, is meant."""
        ...

    def mistakes(self) -> Iterator[str]:
        """What is wrong with it, as sentences."""
        ...


def read_selector(raw: Any) -> Selector:
    """The selector that a schema file writes, with all its mistakes."""
    if raw == "*":
        return _Everything()
    if isinstance(raw, str):
        parts = raw.split(":", 2)
        if len(parts) != 3:
            return _Unreadable(f"{raw!r} is not of the form source:operator:argument.")
        return _condition(*parts)
    if isinstance(raw, dict) and raw:
        if "operator" in raw or "source" in raw or "operand_1" in raw:
            return _expanded(raw)
        return _combinations(raw)
    return _Unreadable(f'{raw!r} selects nothing; use "*" for every file.')


@dataclass(frozen=True)
class _Everything:
    def match(self, path: str) -> Match:  # noqa: ARG002
        return Match.YES

    def mistakes(self) -> Iterator[str]:
        yield from ()


@dataclass(frozen=True)
class _Condition:
    operator: str
    argument: str

    def match(self, path: str) -> Match:
        return Match.YES if OPERATORS[self.operator](path, self.argument) else Match.NO

    def mistakes(self) -> Iterator[str]:
        if self.operator == "starts_with" and self.argument and not self.argument.startswith("/"):
            yield (
                f"starts_with:{self.argument} can never match, because paths are absolute; begin it with /."
            )


@dataclass(frozen=True)
class _Unreadable:
    mistake: str

    def match(self, path: str) -> Match:  # noqa: ARG002
        return Match.UNREADABLE

    def mistakes(self) -> Iterator[str]:
        yield self.mistake


@dataclass(frozen=True)
class _Misspelt:
    """A condition with a mistake that does not hide what is meant."""

    mistake: str
    meant: _Condition

    def match(self, path: str) -> Match:
        return Match.MEANT if self.meant.match(path) is Match.YES else Match.NO

    def mistakes(self) -> Iterator[str]:
        yield self.mistake
        yield from self.meant.mistakes()


@dataclass(frozen=True)
class _All:
    parts: tuple[Selector, ...]
    unknown_keys: tuple[str, ...] = ()

    def match(self, path: str) -> Match:
        answers = [part.match(path) for part in self.parts]
        if Match.NO in answers:
            return Match.NO
        if Match.MEANT in answers:
            return Match.MEANT
        if Match.UNREADABLE not in answers:
            return Match.YES
        # What selects every file says nothing about this one.
        selected = (
            part
            for part, answer in zip(self.parts, answers, strict=True)
            if answer is Match.YES and not isinstance(part, _Everything)
        )
        return Match.MEANT if any(selected) else Match.UNREADABLE

    def mistakes(self) -> Iterator[str]:
        for key in self.unknown_keys:
            yield f"the key {key!r} is not known and has no effect{suggestion(key, ('and', 'or')) or '.'}"
        for part in self.parts:
            yield from part.mistakes()
        starts = [part.argument for part in self.parts if _is_start(part)]  # type: ignore[attr-defined]
        for index, one in enumerate(starts):
            for other in starts[index + 1 :]:
                if not (one.startswith(other) or other.startswith(one)):
                    yield f"can never match: no path starts with both {one} and {other}."


@dataclass(frozen=True)
class _Any:
    parts: tuple[Selector, ...]

    def match(self, path: str) -> Match:
        answers = {part.match(path) for part in self.parts}
        return next(
            answer for answer in (Match.YES, Match.MEANT, Match.NO, Match.UNREADABLE) if answer in answers
        )

    def mistakes(self) -> Iterator[str]:
        for part in self.parts:
            yield from part.mistakes()


def _expanded(raw: dict[Any, Any]) -> Selector:
    known = {"source", "operand_1", "operator", "operand_2"}
    argument = raw.get("operand_2")
    if argument in (None, ""):
        return _Unreadable("lacks operand_2, the text that the path is compared with.")
    condition = _condition(
        str(raw.get("source", raw.get("operand_1", ""))), str(raw.get("operator", "")), str(argument)
    )
    unknown = sorted(str(key) for key in set(raw) - known)
    return _All((condition,), tuple(unknown)) if unknown else condition


def _condition(source: str, operator: str, argument: str) -> Selector:
    source, operator = source.strip(), operator.strip().replace("-", "_")
    mistakes = []
    if source not in SOURCES:
        meant = suggestion(source, SOURCES) or f"; use one of {', '.join(sorted(SOURCES))}."
        mistakes.append(f"unknown source {source!r}{meant}")
    if operator not in OPERATORS:
        meant = suggestion(operator, OPERATORS) or f"; use one of {', '.join(sorted(OPERATORS))}."
        mistakes.append(f"unknown operator {operator!r}{meant}")
    if not mistakes:
        return _Condition(operator, argument)
    likely = nearest(operator, OPERATORS, _LIKENESS_OF_A_SLIP)
    if likely is None or nearest(source, SOURCES, _LIKENESS_OF_A_SLIP) is None:
        return _Unreadable(" ".join(mistakes))
    return _Misspelt(" ".join(mistakes), _Condition(likely, argument))


def _combinations(raw: dict[Any, Any]) -> Selector:
    known = [key for key in raw if key in ("and", "or")]
    unknown = tuple(str(key) for key in raw if key not in ("and", "or"))
    if not known:
        return _Unreadable(
            f"the key {unknown[0]!r} is not known; use and, or, or source with operator and operand_2."
        )
    return _All(tuple(_combination(key, raw[key]) for key in known), unknown)


def _combination(key: str, parts: Any) -> Selector:
    if not isinstance(parts, list) or not parts:
        return _Unreadable(f"{key!r} needs a list of selectors.")
    selectors = tuple(read_selector(part) for part in parts)
    return _Any(selectors) if key == "or" else _All(selectors)


def _is_start(selector: Selector) -> bool:
    return isinstance(selector, _Condition) and selector.operator == "starts_with"
