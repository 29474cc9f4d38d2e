"""Selectors: which data files a schema is for.

A selector is ``"*"``, a condensed ``source:operator:argument``, an expanded
``{source, operator, operand_2}``, or ``{and: […]}`` and ``{or: […]}`` of selectors; all keys of one such
dictionary must hold. Reading the files that hold selectors belongs to ``loading``.

A condition is on the path of the data file, or (``nexus:/path/in/the/file:operator:argument``) on its
content. Opening a file is dear, so that a selector is asked with the path alone first. It answers
``UNDECIDED`` where the content decides, and says what has to be read of it.

A mistake in one branch neither voids the whole selector nor hands its files to a less fitting schema. The
branch is false where that decides nothing else; a file that the selector seems to mean (the other branches of
an ``and`` hold, or a misspelt word is like a known one) is claimed, to fail with the mistake.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

from scicat_dagster.files.reading import Read
from scicat_dagster.files.values import Reader
from scicat_dagster.nearest import most_like, suggestion

SOURCES = frozenset({"filename", "datafile", "nexusfile"})
"""All of them are the full path of the data file."""

CONTENT = "nexus"
"""The source that is followed by a path in the data file."""

OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "starts_with": lambda path, argument: path.startswith(argument),
    "contains": lambda path, argument: argument in path,
}

CONTENT_OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "equals": lambda value, argument: value == argument or _is_same_number(value, argument),
    **OPERATORS,
}

_ALL_SOURCES = (CONTENT, *sorted(SOURCES))

_LIKENESS_OF_A_SLIP = 0.75
"""``file_name`` and ``startswith`` are slips; ``ends_with`` is another operator."""


class Match(Enum):
    """Whether a data file is selected."""

    YES = auto()
    NO = auto()
    MEANT = auto()
    """As far as the selector can be read, the file is meant."""
    UNREADABLE = auto()
    UNDECIDED = auto()
    """The path leaves it open, and the content was not given."""


class Selector(Protocol):
    """Which data files are meant, as far as that can be read."""

    def match(self, path: str, content: Reader | None = None) -> Match:
        """Whether a data file, given by its canonical path, is meant.

        ``content`` holds what :meth:`reads` asks for; without it the answer may be ``UNDECIDED``.
        """
        ...

    def reads(self, path: str) -> Iterator[Read]:
        """What of the content decides, where the path leaves it open."""
        ...

    def unreadable(self, content: Reader) -> Iterator[str]:
        """What of the content is there, but cannot be compared, as sentences."""
        ...

    def mistakes(self) -> Iterator[str]:
        """What is wrong with it, as sentences."""
        ...


def expression_mistakes(place: str) -> Iterator[str]:
    """What is wrong with the components of a path with ``*``, which are searched as regular expressions."""
    for component in place.split("/"):
        if "*" in component and component != "*":
            try:
                re.compile(component)
            except re.error as error:
                yield f"component {component!r} is not a regular expression ({error})"


def read_selector(raw: Any) -> Selector:
    """The selector that a schema file writes, with all its mistakes."""
    if raw == "*":
        return _Everything()
    if isinstance(raw, str):
        return _condensed(raw)
    if isinstance(raw, dict) and raw:
        if "operator" in raw or "source" in raw or "operand_1" in raw:
            return _expanded(raw)
        return _combinations(raw)
    return _Unreadable(f'{raw!r} selects nothing; use "*" for every file.')


@dataclass(frozen=True)
class _WithoutContent:
    def reads(self, path: str) -> Iterator[Read]:  # noqa: ARG002
        yield from ()

    def unreadable(self, content: Reader) -> Iterator[str]:  # noqa: ARG002
        yield from ()


@dataclass(frozen=True)
class _Everything(_WithoutContent):
    def match(self, path: str, content: Reader | None = None) -> Match:  # noqa: ARG002
        return Match.YES

    def mistakes(self) -> Iterator[str]:
        yield from ()


@dataclass(frozen=True)
class _Condition(_WithoutContent):
    operator: str
    argument: str

    def match(self, path: str, content: Reader | None = None) -> Match:  # noqa: ARG002
        return Match.YES if OPERATORS[self.operator](path, self.argument) else Match.NO

    def mistakes(self) -> Iterator[str]:
        if self.operator == "starts_with" and self.argument and not self.argument.startswith("/"):
            yield (
                f"starts_with:{self.argument} can never match, because paths are absolute; begin it with /."
            )


@dataclass(frozen=True)
class _ContentCondition:
    """A condition on the values at a path in the file; it holds where one of them is as it says."""

    place: str
    operator: str
    argument: str

    def match(self, path: str, content: Reader | None = None) -> Match:  # noqa: ARG002
        if content is None:
            return Match.UNDECIDED
        try:
            values = self._values(content)
        except LookupError:
            return Match.NO
        except ValueError:
            # The file has something there: it must not be left to a schema that fits less.
            return Match.MEANT
        compare = CONTENT_OPERATORS[self.operator]
        return Match.YES if any(compare(value, self.argument) for value in values) else Match.NO

    def reads(self, path: str) -> Iterator[Read]:  # noqa: ARG002
        yield Read(path=self.place, all=True, as_text=True)

    def unreadable(self, content: Reader) -> Iterator[str]:
        try:
            self._values(content)
        except LookupError:
            return
        except ValueError as error:
            yield f"{CONTENT}:{self.place} cannot be compared: {error}"

    def mistakes(self) -> Iterator[str]:
        yield from ()

    def _values(self, content: Reader) -> list[str]:
        return list(_texts(content.read_all(self.place, as_text=True).value))


@dataclass(frozen=True)
class _Unreadable(_WithoutContent):
    mistake: str

    def match(self, path: str, content: Reader | None = None) -> Match:  # noqa: ARG002
        return Match.UNREADABLE

    def mistakes(self) -> Iterator[str]:
        yield self.mistake


@dataclass(frozen=True)
class _Misspelt:
    """A condition with a mistake that does not hide what is meant."""

    mistake: str
    meant: _Condition | _ContentCondition

    def match(self, path: str, content: Reader | None = None) -> Match:
        answer = self.meant.match(path, content)
        return Match.MEANT if answer is Match.YES else answer

    def reads(self, path: str) -> Iterator[Read]:
        return self.meant.reads(path)

    def unreadable(self, content: Reader) -> Iterator[str]:
        return self.meant.unreadable(content)

    def mistakes(self) -> Iterator[str]:
        yield self.mistake
        yield from self.meant.mistakes()


@dataclass(frozen=True)
class _Parts(ABC):
    parts: tuple[Selector, ...]

    @abstractmethod
    def match(self, path: str, content: Reader | None = None) -> Match: ...

    def reads(self, path: str) -> Iterator[Read]:
        if self.match(path) is Match.UNDECIDED:
            for part in self.parts:
                if part.match(path) is Match.UNDECIDED:
                    yield from part.reads(path)

    def unreadable(self, content: Reader) -> Iterator[str]:
        for part in self.parts:
            yield from part.unreadable(content)


@dataclass(frozen=True)
class _All(_Parts):
    unknown_keys: tuple[str, ...] = ()

    def match(self, path: str, content: Reader | None = None) -> Match:
        answers = [part.match(path, content) for part in self.parts]
        for decisive in (Match.NO, Match.UNDECIDED, Match.MEANT):
            if decisive in answers:
                return decisive
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
class _Any(_Parts):
    def match(self, path: str, content: Reader | None = None) -> Match:
        answers = {part.match(path, content) for part in self.parts}
        by_weight = (Match.YES, Match.UNDECIDED, Match.MEANT, Match.NO, Match.UNREADABLE)
        return next(answer for answer in by_weight if answer in answers)

    def mistakes(self) -> Iterator[str]:
        for part in self.parts:
            yield from part.mistakes()


def _condensed(raw: str) -> Selector:
    source, _, rest = raw.partition(":")
    if _is_content(source):
        parts = rest.split(":", 2)
        if len(parts) != 3:
            return _Unreadable(f"{raw!r} is not of the form {CONTENT}:/path:operator:argument.")
        return _content_condition(source, *parts)
    parts = raw.split(":", 2)
    if len(parts) != 3:
        return _Unreadable(f"{raw!r} is not of the form source:operator:argument.")
    return _condition(*parts)


def _expanded(raw: dict[Any, Any]) -> Selector:
    known = {"source", "operand_1", "operator", "operand_2"}
    source, operator = str(raw.get("source", raw.get("operand_1", ""))), str(raw.get("operator", ""))
    argument = raw.get("operand_2")
    if argument in (None, ""):
        return _Unreadable("lacks operand_2, the text that is compared with.")
    if _is_content(source):
        known.add("path")
        if not raw.get("path"):
            return _Unreadable(f"lacks `path`, which says where {CONTENT} is read, such as /entry/title.")
        condition = _content_condition(source, str(raw["path"]), operator, _text(argument))
    else:
        condition = _condition(source, operator, str(argument))
    unknown = sorted(str(key) for key in set(raw) - known)
    return _All((condition,), tuple(unknown)) if unknown else condition


def _condition(source: str, operator: str, argument: str) -> Selector:
    source, operator = source.strip(), operator.strip().replace("-", "_")
    mistakes = [*_source_mistakes(source, _ALL_SOURCES), *_operator_mistakes(operator, OPERATORS)]
    if not mistakes:
        return _Condition(operator, argument)
    likely = most_like(operator, OPERATORS, _LIKENESS_OF_A_SLIP)
    if likely is None or most_like(source, SOURCES, _LIKENESS_OF_A_SLIP) is None:
        return _Unreadable(" ".join(mistakes))
    return _Misspelt(" ".join(mistakes), _Condition(likely, argument))


def _content_condition(source: str, place: str, operator: str, argument: str) -> Selector:
    source, place, operator = source.strip(), place.strip(), operator.strip().replace("-", "_")
    mistakes = [*_source_mistakes(source, _ALL_SOURCES), *_operator_mistakes(operator, CONTENT_OPERATORS)]
    if not place.startswith("/"):
        mistakes.append(f"{place!r} is not a path in the file; begin it with /.")
    mistakes += [f"{mistake}." for mistake in expression_mistakes(place)]
    if not mistakes:
        return _ContentCondition(place, operator, argument)
    likely = most_like(operator, CONTENT_OPERATORS, _LIKENESS_OF_A_SLIP)
    if likely is None or not place.startswith("/") or any(expression_mistakes(place)):
        return _Unreadable(" ".join(mistakes))
    return _Misspelt(" ".join(mistakes), _ContentCondition(place, likely, argument))


def _is_content(source: str) -> bool:
    return most_like(source.strip(), _ALL_SOURCES, _LIKENESS_OF_A_SLIP) == CONTENT


def _source_mistakes(source: str, known: tuple[str, ...]) -> Iterator[str]:
    if source not in known:
        meant = suggestion(source, known) or f"; use one of {', '.join(sorted(known))}."
        yield f"unknown source {source!r}{meant}"


def _operator_mistakes(operator: str, known: dict[str, Callable[[str, str], bool]]) -> Iterator[str]:
    if operator not in known:
        meant = suggestion(operator, known) or f"; use one of {', '.join(sorted(known))}."
        yield f"unknown operator {operator!r}{meant}"


def _texts(value: Any) -> Iterator[str]:
    """The values of a dataset, or of several, as a selector writes them."""
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    else:
        yield _text(value)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_same_number(value: str, argument: str) -> bool:
    try:
        return float(value) == float(argument)
    except ValueError:
        return False


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
