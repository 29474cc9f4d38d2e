"""Copy files of the repository into the pages that show them: ``python docs/copy_files.py``.

A page has the text itself, so that it can be read on a git host and in an editor, too. A mark before a fenced
block, or around the text of another page, names the file; a test compares both.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs"

_FENCED = re.compile(
    r"(?P<before>^<!-- copy of: (?P<file>\S+) -->\n\n```.*\n)(?P<text>(?:.*\n)*?)(?P<after>```$)",
    re.MULTILINE,
)
_PAGE = re.compile(
    r"(?P<before>^<!-- copy of: (?P<file>\S+\.md) -->\n)(?P<text>(?:.*\n)*?)"
    r"(?P<after><!-- end of the copy -->$)",
    re.MULTILINE,
)


def with_copies(page: str) -> str:
    """A page with each file as it is now."""
    page = _FENCED.sub(lambda found: _copied(found, _text(found)), page)
    return _PAGE.sub(lambda found: _copied(found, _text(found).partition("\n")[2] + "\n"), page)


def copied_files(page: str) -> list[str]:
    """The files that a page shows, as it names them."""
    return [found["file"] for pattern in (_FENCED, _PAGE) for found in pattern.finditer(page)]


def _text(found: re.Match[str]) -> str:
    return (ROOT / found["file"]).read_text(encoding="utf-8")


def _copied(found: re.Match[str], text: str) -> str:
    return found["before"] + text + found["after"]


def main() -> None:
    """Write every page anew that shows a file."""
    for path in sorted(PAGES.rglob("*.md")):
        page = path.read_text(encoding="utf-8")
        if (copied := with_copies(page)) != page:
            path.write_text(copied, encoding="utf-8")


if __name__ == "__main__":
    main()
