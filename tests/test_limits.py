"""Texts of files and messages where Dagster keeps them."""

from __future__ import annotations

import pytest

from scicat_dagster.limits import LONGEST_TAG, tag_value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ODIN", "ODIN"),
        ("Öresund 中子", "Öresund 中子"),
        ("ODIN\0garbage", "ODIN"),
        ("two\nlines\t", "two lines"),
        ("\0", ""),
        ("\ud800x", "x"),
        ("x" * 5000, "x" * LONGEST_TAG),
    ],
)
def test_a_tag_is_short_and_printable(text: str, expected: str) -> None:
    assert tag_value(text) == expected
