"""Texts about a file, with and without its name."""

from __future__ import annotations

import pytest

from scicat_dagster.errors import with_name_only, without_file

FILE = "odin/raw/1.hdf"

TEXTS = [
    ("/data/odin/raw/1.hdf is not there.", "1.hdf is not there.", "… is not there."),
    ("See (/data/odin/raw/1.hdf).", "See (1.hdf).", "See (…)."),
    ("The path 'odin/raw/1.hdf' is wrong.", "The path '1.hdf' is wrong.", "The path '…' is wrong."),
    ("No schema is for 1.hdf.", "No schema is for 1.hdf.", "No schema is for …."),
]

UNCHANGED = [
    "There is no dataset at /entry/end_time.",
    "It lies outside the data directory '/data/odin/raw'.",
    "/data/odin/raw/11.hdf has the same job_id.",
    "/data/odin/raw/1.hdf5 has the same job_id.",
    "SciCat at https://scicat.example.org/api/v3 does not answer.",
]


@pytest.mark.parametrize(("text", "named", "unnamed"), TEXTS)
def test_the_file_is_named_without_its_folders_or_not_at_all(text: str, named: str, unnamed: str) -> None:
    assert with_name_only(text, FILE) == named
    assert without_file(text, FILE) == unnamed


@pytest.mark.parametrize("text", UNCHANGED)
@pytest.mark.parametrize("shortened", [with_name_only, without_file])
def test_what_is_not_the_file_stays(shortened: object, text: str) -> None:
    assert callable(shortened)
    assert shortened(text, FILE) == text


@pytest.mark.parametrize("shortened", [with_name_only, without_file])
def test_a_text_about_no_file_stays(shortened: object) -> None:
    assert callable(shortened)
    assert shortened("There is no dataset at /entry/title.", "") == "There is no dataset at /entry/title."
