"""What a misspelt name is taken for."""

from __future__ import annotations

import pytest

from scicat_dagster.nearest import nearest

KNOWN = ("string", "integer", "creationLocation", "temperature", "title", "regex", "x-ray diffraction")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("strnig", "string"),
        ("STRING", "string"),
        ("str", "string"),
        ("int", "integer"),
        ("location", "creationLocation"),
        ("xray difraction", "x-ray diffraction"),
        # Far-fetched: they share some letters.
        ("tilt", None),
        ("engineer", None),
        ("", None),
    ],
)
def test_a_slip_and_an_abbreviation_are_recognised_and_nothing_else(name: str, meant: str | None) -> None:
    assert nearest(name, KNOWN) == meant
