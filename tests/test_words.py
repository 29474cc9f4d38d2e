"""Prose uses the terms of the field: a reader searches for the term, and not for the everyday word.

Comments and texts of the package are searched, and the documents. Names are not: what has an underscore, a
text without a space, and what is in ``STORED``.
"""

from __future__ import annotations

import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SEARCHED = ["scicat_dagster", "docs", "deploy", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
SUFFIXES = {".py", ".md", ".yml", ".yaml"}

TERMS = {
    r"the way of a file|a file's way|way of the file": "ingestion pipeline, data flow",
    r"looks? at kafka|look of (?:the|a) sensor|(?:next|each|every) look": "poll, tick, evaluation",
    r"for nobody|asks? nobody who|answers? nobody": "unauthenticated; does not authenticate its clients",
    r"answers? (?:to )?anybody": "indistinguishable from the answer to an anonymous client",
    r"(?:is|are|was|were|been) made anew": "re-created",
    r"(?:life|lives) of (?:a|the|one) topic": "topic id",
    r"stands? still|standing still": "is stable (size and mtime)",
    r"growing pauses": "exponential backoff",
    r"give or take": "jitter (±50 %), tolerance",
    r"wait(?:s|ing)? for a person": "needs manual intervention",
    r"runs? of many(?: files)?": "batch run",
    r"put(?:s|ting)? aside": "deferred",
    r"left-?overs?": "deferred files",
    r"without a word": "without reporting an error, silently",
    r"for ?ever": "indefinitely",
    r"(?:die|dies|died|dying) of": "crashes",
    r"is (?:another one|different) each time|are others each time": "is non-deterministic",
    r"forgetting": "retention",
    r"remembered": "cached, stored",
    r"preloaded": "fork server",
    r"how far it goes": "capacity and scaling limits",
    r"does it hold": "reliability",
    r"is it fast": "performance",
    r"(?<!there\s)(?<!longer\s)is no (?!longer|more|reason|need|right|other|later)\w+": "is not a ...",
}
"""Regular expressions of everyday words, for any case and across line ends, and what to write instead."""

STORED = {"files put aside", "need manual intervention"}
"""Keys that Dagster stores: they may change with the code that reads them, and not with the prose."""

_PROSE = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def prose_of_python(source: str) -> Iterator[tuple[int, str]]:
    """Comments and texts, each with the number of its first line; neighbours continue one sentence."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in _PROSE:
            quoted = token.string.lstrip("rRbBfFuU") if token.type == tokenize.STRING else token.string
            text = quoted.strip("\"'# ")
            if " " in text and text not in STORED:
                yield token.start[0], text


def everyday_words(text: str) -> Iterator[tuple[int, str, str]]:
    """Where everyday words begin in a text, what they are, and the terms to use."""
    for words, term in TERMS.items():
        pattern = r"(?<!\w)(?:" + words.replace(" ", r"\s+") + r")(?!\w)"
        for found in re.finditer(pattern, text, re.IGNORECASE):
            yield found.start(), " ".join(found.group().split()), term


def complaints(name: str, source: str) -> list[str]:
    """File, line, what stands there and what to write, for each everyday word."""
    pieces = list(prose_of_python(source)) if name.endswith(".py") else [(1, source)]
    starts: list[tuple[int, int]] = []
    joined = ""
    for line, text in pieces:
        starts.append((len(joined), line))
        joined += text + "\n"

    def line_of(position: int) -> int:
        start, line = max(start for start in starts if start[0] <= position)
        return line + joined.count("\n", start, position)

    return sorted(
        f"{name}:{line_of(position)}: {words!r}; write: {term}"
        for position, words, term in everyday_words(joined)
    )


def searched_files() -> list[str]:
    """The files that git tracks, or all where there is no git."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--", *SEARCHED], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        places = [ROOT / name for name in SEARCHED]
        found = [path for place in places for path in ([place] if place.is_file() else place.rglob("*"))]
        listed = [str(path.relative_to(ROOT)) for path in found]
    return sorted(name for name in listed if Path(name).suffix in SUFFIXES and (ROOT / name).is_file())


def test_the_prose_has_no_everyday_words() -> None:
    found = [
        complaint
        for name in searched_files()
        for complaint in complaints(name, (ROOT / name).read_text(encoding="utf-8"))
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("source", "line", "words"),
    [
        ('"""One.\n\nIt waits\nfor a person.\n"""\n', 3, "waits for a person"),
        ("x = 1\n# The pauses,\n# give or\n# take a half.\n", 3, "give or take"),
        ('x = (\n    "a b"\n    f"{1} is no date"\n)\n', 3, "is no date"),
    ],
)
def test_everyday_words_are_found_across_lines(source: str, line: int, words: str) -> None:
    (found,) = complaints("module.py", source)
    assert found.startswith(f"module.py:{line}: {words!r}")


@pytest.mark.parametrize(
    "source",
    [
        "leftovers = deferred_files_sensor = 1\n",
        'tags = {"leftovers": "files put aside"}\n',
        "# There is no file, and it is no longer there.\n",
    ],
)
def test_names_and_other_senses_are_left_alone(source: str) -> None:
    assert complaints("module.py", source) == []
