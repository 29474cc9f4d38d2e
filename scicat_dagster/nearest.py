"""Which known name a misspelt one is meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LIKENESS = 0.7

_LIKENESS_OF_A_PART = 0.6
"""Of a name that is abbreviated, as ``str`` is for ``string``; others so little alike are far-fetched."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` is like or abbreviates, whatever its case; None where there is none."""
    others = list(known)
    longer = [other for other in others if name.casefold() in other.casefold()]
    return most_like(name, others, _LIKENESS) or most_like(name, longer, _LIKENESS_OF_A_PART)


def most_like(name: str, known: Iterable[str], likeness: float) -> str | None:
    """The known name that is most like ``name``, whatever its case; None where none is like it.

    ``likeness`` is the ratio that ``difflib`` computes, from 0 to 1.
    """
    by_folded = {other.casefold(): other for other in known}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=likeness)
    return by_folded[found[0]] if found else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: what was meant, where that can be told."""
    meant = nearest(name, known)
    return f"; did you mean {meant}?" if meant else ""
