"""Which known name a misspelt one is meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
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
