"""The ``filter`` language of the list routes: where, fields, limits.

Here belong: reading a filter, deciding whether a document matches, cutting a document to the wanted fields.
Fetching the documents belongs to ``store``; who may see them to ``app``.

Source of the operators: LoopBack's where filter, which SciCat's v3 API took over.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from scicat_dagster.demo.catalogue.content.answers import JsonObject, read_json
from scicat_dagster.demo.catalogue.content.dates import javascript_takes_for_date, read_iso

DEFAULT_LIMIT = 100

_DATE_FIELDS = frozenset(
    {"creationTime", "startTime", "endTime", "createdAt", "updatedAt", "time", "start", "end", "publishedOn"}
)


class UnservedFilterError(Exception):
    """A filter with something in it that this server has no meaning for; the message names it."""


@dataclass(frozen=True)
class _NeverEqual:
    """What is left of a text that became a date: it equals no stored text."""

    text: str


@dataclass(frozen=True)
class Query:
    """A filter, read.

    Attributes:
        where: The conditions.
        fields: The fields to answer with, dotted paths; empty for all.
        limit: How many documents at most.
        skip: How many to leave out at the start.
        order: Fields to sort by, each with whether it is descending; empty for the order of creation.
    """

    where: JsonObject
    fields: tuple[str, ...] = ()
    limit: int = DEFAULT_LIMIT
    skip: int = 0
    order: tuple[tuple[str, bool], ...] = ()

    def apply(self, documents: Iterator[JsonObject]) -> list[JsonObject]:
        """The documents that match, sorted, cut out and cut down."""
        matching: Iterator[JsonObject] = (found for found in documents if matches(self.where, found))
        if self.order:
            ordered = list(matching)
            for path, descending in reversed(self.order):
                ordered = _sorted(ordered, path, descending=descending)
            matching = iter(ordered)
        page = []
        for number, found in enumerate(matching):
            if number >= self.skip + self.limit:
                break
            if number >= self.skip:
                page.append(project(found, self.fields))
        return page


def read_query(text: str | None, *, texts_become_dates: bool = False) -> Query:
    """Read the value of a ``filter`` parameter; None and the empty text match everything.

    Args:
        text: The parameter's value.
        texts_become_dates: Whether texts in ``where`` that JavaScript takes for dates turn into dates, as
            on the dataset and instrument routes: compared with a stored text they then never match.

    Raises:
        BadJsonError: The text is not JSON.
        UnservedFilterError: The filter is JSON, but not of a form that is served.
    """
    content = read_json(text) if text else {}
    if not isinstance(content, dict):
        raise UnservedFilterError("the filter is not an object")
    where = content.get("where") or {}
    limits = content.get("limits") or {}
    if not isinstance(where, dict) or not isinstance(limits, dict):
        raise UnservedFilterError("where and limits are objects")
    _refuse_unserved(where)
    return Query(
        where=_with_dates(where) if texts_become_dates else where,
        fields=_field_names(content.get("fields")),
        limit=_count(limits.get("limit")) or DEFAULT_LIMIT,
        skip=_count(limits.get("skip")),
        order=_order(limits.get("order")),
    )


def matches(where: Mapping[str, Any], document: JsonObject) -> bool:
    """Whether a document fulfils all conditions.

    Raises:
        UnservedFilterError: A condition uses an operator that is not served.
    """
    return all(_condition(path, wanted, document) for path, wanted in where.items())


def project(document: JsonObject, fields: Sequence[str]) -> JsonObject:
    """The document cut down to the given dotted paths; the id always stays."""
    if not fields:
        return document
    cut: JsonObject = {}
    for path in (*fields, "_id"):
        source: Any = document
        target = cut
        *parents, last = path.split(".")
        for part in parents:
            source = source.get(part) if isinstance(source, dict) else None
            target = target.setdefault(part, {}) if isinstance(source, dict) else {}
        if isinstance(source, dict) and last in source:
            target[last] = source[last]
    return cut


def equalities(where: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The paths that must hold one of some texts: what a store can look up before each document is judged."""
    for path, wanted in where.items():
        if isinstance(wanted, str) and not path.startswith("$"):
            yield path, (wanted,)
        elif isinstance(wanted, dict) and set(wanted) in ({"inq"}, {"$in"}):
            (among,) = wanted.values()
            if isinstance(among, list) and among and all(isinstance(item, str) for item in among):
                yield path, tuple(among)


def with_texts_alone(where: JsonObject) -> JsonObject:
    """The conditions as they reach the database up to 4.16: what is not a text in a list is lost."""
    return {name: _texts_alone(value) for name, value in where.items()}


def _texts_alone(value: Any) -> Any:
    if isinstance(value, dict):
        return with_texts_alone(value)
    if isinstance(value, list):
        return [_texts_alone(item) if isinstance(item, str | dict) else {} for item in value]
    return value


def _condition(path: str, wanted: Any, document: JsonObject) -> bool:
    if path in ("and", "$and"):
        return all(matches(part, document) for part in _parts(wanted))
    if path in ("or", "$or"):
        return any(matches(part, document) for part in _parts(wanted))
    if path.startswith("$"):
        raise UnservedFilterError(f"where {path}")
    found = list(_values(document, path.split(".")))
    if isinstance(wanted, dict) and wanted and all(operator.lstrip("$") in _OPERATORS for operator in wanted):
        options = wanted.get("$options", "")
        named = [(_OPERATORS[operator.lstrip("$")], value) for operator, value in wanted.items()]
        # Every operator is asked, so that one that is not served fails even beside one that does not match.
        verdicts = [judge(path, found, value, options) for judge, value in named]
        return all(verdicts)
    if isinstance(wanted, dict) and any(operator.startswith("$") for operator in wanted):
        raise UnservedFilterError(f"one of the operators {sorted(wanted)}")
    return _any_equal(path, found, wanted)


def _refuse_unserved(where: Mapping[str, Any]) -> None:
    """Judge every condition once, so that whether a filter fails does not depend on what is stored."""
    for path, wanted in where.items():
        if path in ("and", "$and", "or", "$or"):
            for part in _parts(wanted):
                _refuse_unserved(part)
        else:
            _condition(path, wanted, {})


def _parts(wanted: Any) -> list[JsonObject]:
    if not isinstance(wanted, list) or not all(isinstance(part, dict) for part in wanted):
        raise UnservedFilterError("and/or without a list of conditions")
    return wanted


def _values(value: Any, path: list[str]) -> Iterator[Any]:
    """All values at a path, as a document database sees them: a list is itself and each of its items."""
    if not path:
        yield value
        if isinstance(value, list):
            yield from value
    elif isinstance(value, dict):
        if path[0] in value:
            yield from _values(value[path[0]], path[1:])
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                yield from _values(item, path)


def _any_equal(path: str, found: Sequence[Any], wanted: Any) -> bool:
    if wanted is None:
        return not found or any(value is None for value in found)
    return any(_equal(path, value, wanted) for value in found)


def _equal(path: str, value: Any, wanted: Any) -> bool:
    if isinstance(wanted, datetime):
        return _stored_date(path, value) == wanted
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


def _stored_date(path: str, value: Any) -> datetime | None:
    is_date = path.rsplit(".", 1)[-1] in _DATE_FIELDS and isinstance(value, str)
    return read_iso(value) if is_date else None


def _compared(accepts: Callable[[Any, Any], bool]) -> Callable[[str, Sequence[Any], Any, str], bool]:
    def compare(path: str, found: Sequence[Any], wanted: Any, _: str) -> bool:
        return any(_ordered(path, value, wanted, accepts) for value in found)

    return compare


def _ordered(path: str, value: Any, wanted: Any, accepts: Callable[[Any, Any], bool]) -> bool:
    if isinstance(wanted, datetime) or (isinstance(wanted, str) and _stored_date(path, value)):
        instant = _stored_date(path, value)
        limit = read_iso(wanted) if isinstance(wanted, str) else wanted
        return instant is not None and limit is not None and accepts(instant, limit)
    if isinstance(value, bool) or isinstance(wanted, bool):
        return False
    if isinstance(value, int | float) and isinstance(wanted, int | float):
        return accepts(value, wanted)
    return isinstance(value, str) and isinstance(wanted, str) and accepts(value, wanted)


def _among(path: str, found: Sequence[Any], wanted: Any, _: str = "") -> bool:
    if not isinstance(wanted, list):
        raise UnservedFilterError("inq and nin without a list")
    return any(_any_equal(path, found, item) for item in wanted)


def _between(path: str, found: Sequence[Any], wanted: Any, _: str) -> bool:
    if not isinstance(wanted, list) or len(wanted) != 2:
        raise UnservedFilterError("between without two limits")
    low, high = wanted
    return any(
        _ordered(path, value, low, lambda left, right: left >= right)
        and _ordered(path, value, high, lambda left, right: left <= right)
        for value in found
    )


def _expression(flags: int) -> Callable[[str, Sequence[Any], Any, str], bool]:
    def search(_: str, found: Sequence[Any], wanted: Any, options: str) -> bool:
        if isinstance(wanted, _NeverEqual):
            wanted = wanted.text
        if not isinstance(wanted, str):
            raise UnservedFilterError("a pattern that is not a text")
        chosen = flags | (re.IGNORECASE if "i" in options else 0)
        try:
            pattern = re.compile(wanted, chosen)
        except re.error as error:
            raise UnservedFilterError(f"the pattern {wanted!r}: {error}") from None
        return any(isinstance(value, str) and pattern.search(value) is not None for value in found)

    return search


def _options(_: str, __: Sequence[Any], ___: Any, ____: str) -> bool:
    # It only says how the pattern beside it is meant.
    return True


def _exists(_: str, found: Sequence[Any], wanted: Any, __: str) -> bool:
    return bool(found) == bool(wanted)


_OPERATORS: Mapping[str, Callable[[str, Sequence[Any], Any, str], bool]] = {
    "eq": lambda path, found, wanted, _: _any_equal(path, found, wanted),
    "neq": lambda path, found, wanted, _: not _any_equal(path, found, wanted),
    "ne": lambda path, found, wanted, _: not _any_equal(path, found, wanted),
    "inq": _among,
    "in": _among,
    "nin": lambda path, found, wanted, _: not _among(path, found, wanted),
    "gt": _compared(lambda left, right: left > right),
    "gte": _compared(lambda left, right: left >= right),
    "lt": _compared(lambda left, right: left < right),
    "lte": _compared(lambda left, right: left <= right),
    "between": _between,
    "like": _expression(0),
    "ilike": _expression(re.IGNORECASE),
    "regexp": _expression(0),
    "regex": _expression(0),
    "options": _options,
    "exists": _exists,
}
_PATTERNS = frozenset({"like", "ilike", "regexp", "regex", "options"})


def _with_dates(where: JsonObject) -> JsonObject:
    return {name: _value_with_dates(name, value) for name, value in where.items()}


def _value_with_dates(name: str, value: Any) -> Any:
    if name.lstrip("$") in _PATTERNS:
        return value
    if isinstance(value, str) and javascript_takes_for_date(value):
        return read_iso(value) or _NeverEqual(value)
    if isinstance(value, dict):
        return _with_dates(value)
    # Texts in lists stay texts, which is why ``inq`` finds what equality does not.
    if isinstance(value, list):
        return [_with_dates(item) if isinstance(item, dict) else item for item in value]
    return value


def _field_names(fields: Any) -> tuple[str, ...]:
    if isinstance(fields, dict):
        return tuple(name for name, wanted in fields.items() if wanted)
    if isinstance(fields, list):
        return tuple(name for name in fields if isinstance(name, str))
    return ()


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _order(value: Any) -> tuple[tuple[str, bool], ...]:
    if not isinstance(value, str) or not value:
        return ()
    parts = (part.strip().replace(" ", ":").partition(":") for part in value.split(","))
    return tuple((path, direction.lower() == "desc") for path, _, direction in parts)


def _sorted(found: list[JsonObject], path: str, *, descending: bool) -> list[JsonObject]:
    return sorted(found, key=lambda document: _sort_key(document, path), reverse=descending)


def _sort_key(document: JsonObject, path: str) -> tuple[int, Any]:
    value = next(_values(document, path.split(".")), None)
    if isinstance(value, int | float):
        return 1, value
    return (2, value) if isinstance(value, str) else (0, 0)
