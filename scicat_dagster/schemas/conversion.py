"""Value types: what ``value_type`` and ``type`` turn a value into.

The results are plain JSON: text, numbers, lists, dictionaries. A value that does not fit raises; nothing is
replaced by a default. NaN and infinities stay as they are here and become null where a dataset is built.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any, Literal, get_args

ValueType = Literal[
    "string",
    "string[]",
    "integer",
    "integer[]",
    "float",
    "float[]",
    "date",
    "dict",
    "list",
    "email",
    "link",
    "none",
]

VALUE_TYPES: tuple[str, ...] = get_args(ValueType)

_LONGEST_COLLECTION_TEXT = 1 << 20
_DEEPEST_COLLECTION = 64


def convert(value: Any, value_type: ValueType) -> Any:
    """A value as the given type.

    Raises
    ------
    ValueError, TypeError
            It is none, and cannot be made one. A number becomes an integer as in Python: its fraction is cut.
    """
    if value is None and value_type != "none":
        raise ValueError("there is no value")
    return _CONVERTERS[value_type](value)


def parse_collection(text: str) -> Any:
    """A list or dictionary that is given as its JSON or Python text, as plain JSON."""
    if len(text) > _LONGEST_COLLECTION_TEXT or _nesting(text) > _DEEPEST_COLLECTION:
        raise ValueError("is too long or too deeply nested to be read as a list or dict")
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        # Python's text may hold what is not JSON: bytes, sets, complex numbers.
        return json.loads(json.dumps(ast.literal_eval(text.strip())))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError(f"{_short(text)} is not a list or dict") from None


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        deepest = max(deepest, depth)
    return deepest


def _string(value: Any) -> str:
    return str(value)


def _integer(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{_short(value)} is not an integer") from None


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{_short(value)} is not a number") from None


def _list(value: Any) -> list[Any]:
    parsed = parse_collection(value) if isinstance(value, str) else value
    if not isinstance(parsed, list | tuple):
        raise TypeError(f"{_short(value)} is not a list")
    return list(parsed)


def _dict(value: Any) -> dict[str, Any]:
    parsed = parse_collection(value) if isinstance(value, str) else value
    if not isinstance(parsed, dict):
        raise TypeError(f"{_short(value)} is not a dict")
    return {str(key): inner for key, inner in parsed.items()}


def _list_of(convert_item: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    def convert_list(value: Any) -> list[Any]:
        if isinstance(value, str) and value.strip()[:1] not in {"[", "("}:
            value = [value]
        if isinstance(value, int | float):
            value = [value]
        return [convert_list(item) if isinstance(item, list) else convert_item(item) for item in _list(value)]

    return convert_list


def _date(value: Any) -> str:
    """ISO 8601 with an offset, from ISO text (UTC where it says none) or from seconds since 1970."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value, UTC).isoformat()
        except (OverflowError, ValueError, OSError):
            raise ValueError(f"{_short(value)} seconds since 1970 is not a date") from None
    # YAML makes a date of an unquoted text that looks like one.
    if isinstance(value, date):
        value = value.isoformat()
    if not isinstance(value, str):
        raise TypeError(f"{_short(value)} is not a date")
    try:
        parsed = datetime.fromisoformat(value.strip())
    except ValueError:
        raise ValueError(f"{_short(value)} is not an ISO 8601 date") from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).isoformat()


def _none(value: Any) -> None:
    if value is not None:
        raise ValueError(f"{_short(value)} is not empty")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "string": _string,
    "string[]": _list_of(_string),
    "integer": _integer,
    "integer[]": _list_of(_integer),
    "float": _float,
    "float[]": _list_of(_float),
    "date": _date,
    "dict": _dict,
    "list": _list,
    "email": _string,
    "link": _string,
    "none": _none,
}
