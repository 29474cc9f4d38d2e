"""Filters of SciCat's API v3, as the text of a query, and lists that do not fit into one address."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

MOST_RECORDS = 1000

_LONGEST_LIST = 6000
"""Of values in an address, in characters. Proxies take 8 kB, the server itself 16 kB with all headers."""


def filter_text(where: dict[str, Any], *, fields: Sequence[str] = (), skip: int = 0) -> str:
    limits = {"limit": MOST_RECORDS, **({"skip": skip} if skip else {})}
    return json.dumps({"where": where, **({"fields": list(fields)} if fields else {}), "limits": limits})


def parts_for_an_address(values: Sequence[str]) -> Iterator[list[str]]:
    """The values in parts, each as large as an address may hold."""
    part: list[str] = []
    room = _LONGEST_LIST
    for value in values:
        needed = len(quote(f"{json.dumps(value)}, "))
        if part and needed > room:
            yield part
            part, room = [], _LONGEST_LIST
        part.append(value)
        room -= needed
    if part:
        yield part
