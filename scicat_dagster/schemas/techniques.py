"""Techniques of PaNET by their names, from a table that comes with the package.

PaNET is the Photon and Neutron Experimental Techniques ontology, https://purl.org/pan-science/PaNET, release
1.3.0 of 2025-10-21 (doi:10.5281/zenodo.4806026, CC-BY 4.0). The table has identifier, label and synonyms of
each technique, and nothing of how they are related.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from scicat_dagster.nearest import suggestion

PANET = "http://purl.org/pan-science/PaNET/"
"""What an identifier is put after, as SciCat's own examples have it."""

_TABLE = "shipped/panet-1.3.0.csv"


def technique(name: str) -> dict[str, str]:
    """The technique of a label, a synonym or an identifier, as a dataset names it: pid and name.

    Upper and lower case, hyphens and spaces do not matter; xray is x-ray.

    Raises
    ------
    LookupError
        PaNET has none of that name; the nearest is in the text.
    """
    found = _by_name().get(_folded(name.removeprefix(PANET).removeprefix(PANET.replace("http", "https"))))
    if found is None:
        raise LookupError(f"{name!r} is not a technique of PaNET 1.3.0{suggestion(name, _labels()) or ''}")
    identifier, label = found
    return {"pid": f"{PANET}{identifier}", "name": label}


@dataclass(frozen=True)
class Technique:
    """A technique of the table."""

    identifier: str
    label: str
    synonyms: tuple[str, ...]

    @property
    def pid(self) -> str:
        """What a dataset names it by."""
        return f"{PANET}{self.identifier}"

    def as_text(self) -> str:
        """A row for a person."""
        synonyms = f" ({', '.join(self.synonyms)})" if self.synonyms else ""
        return f"{self.identifier}  {self.label}{synonyms}"


def techniques_with(words: Sequence[str]) -> list[Technique]:
    """The techniques in whose identifier, label or synonyms each of the words occurs, in the table's order.

    Upper and lower case, hyphens and spaces do not matter, as for :func:`technique`.

    Raises
    ------
    LookupError
        There is none; the nearest is in the text.
    """
    wanted = [_folded(word.removeprefix(PANET)) for word in words]
    found = [
        Technique(identifier, label, tuple(filter(None, synonyms.split("|"))))
        for identifier, label, synonyms in _rows()
        if all(word in _folded(f"{identifier} {label} {synonyms.replace('|', ' ')}") for word in wanted)
    ]
    if not found:
        name = " ".join(words)
        meant = suggestion(name, _labels()) or "."
        raise LookupError(f"No technique of PaNET 1.3.0 has {name!r} in its name{meant}")
    return found


@cache
def _by_name() -> dict[str, tuple[str, str]]:
    names: dict[str, tuple[str, str]] = {}
    rows = _rows()
    for identifier, label, _ in rows:
        names[_folded(identifier)] = names[_folded(label)] = (identifier, label)
    for identifier, label, synonyms in rows:
        for synonym in filter(None, synonyms.split("|")):
            # A label wins over a synonym of another technique.
            names.setdefault(_folded(synonym), (identifier, label))
    return names


def _labels() -> list[str]:
    return [name for _, label, synonyms in _rows() for name in (label, *synonyms.split("|")) if name]


@cache
def _rows() -> tuple[tuple[str, str, str], ...]:
    text = resources.files("scicat_dagster.schemas").joinpath(_TABLE).read_text(encoding="utf-8")
    rows = csv.reader(text.splitlines())
    next(rows)
    return tuple((identifier, label, synonyms) for identifier, label, synonyms in rows)


def _folded(name: str) -> str:
    words = re.sub(r"[\s_-]+", " ", name).strip().casefold()
    return re.sub(r"\bx ray", "xray", words)
