"""Pages that show a file of the repository show it as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.copy_files import PAGES, copied_files, with_copies

PAGES_WITH_COPIES = [path for path in sorted(PAGES.rglob("*.md")) if "copy of: " in path.read_text()]


@pytest.mark.parametrize("page", PAGES_WITH_COPIES, ids=lambda page: page.stem)
def test_a_page_shows_the_file_as_it_is(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    assert len(copied_files(text)) == text.count("copy of: ")
    assert text == with_copies(text), "run `python docs/copy_files.py`"


def test_the_pages_are_there() -> None:
    assert len(PAGES_WITH_COPIES) == 3


def test_only_a_page_that_says_where_the_text_is_leaves_it_to_the_built_documentation() -> None:
    left = [path.name for path in PAGES.rglob("*.md") if re.search("^--8<--", path.read_text(), re.MULTILINE)]

    assert left == ["configuration.md"]
