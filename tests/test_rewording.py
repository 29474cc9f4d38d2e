"""Sentences are for people: with each of them reworded the package does the same."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.reworded import Rewording

ROOT = Path(__file__).parents[1]


def test_a_text_is_reworded_and_a_name_is_not() -> None:
    tree = ast.parse('x = {"kind": f"It is here: {y}", "a": "two words", "path": "/a/b"}')

    reworded = ast.unparse(Rewording().visit(tree))

    assert "It is here: |1:" in reworded
    assert "'two words ~'" in reworded
    assert "'kind'" in reworded
    assert "'/a/b'" in reworded


def test_most_of_what_the_package_says_is_reworded() -> None:
    rewording = Rewording()
    for path in (ROOT / "scicat_dagster").rglob("*.py"):
        if "demo" not in path.parts:
            rewording.visit(ast.parse(path.read_text()))

    assert rewording.texts > 800


def behaviour(program: str, place: Path) -> dict[str, Any]:
    """What the package does, as that program runs it."""
    done = subprocess.run(
        [sys.executable, "-m", program, str(place)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_with_every_sentence_reworded_the_same_is_done(tmp_path: Path) -> None:
    original = behaviour("tests.behaviour", tmp_path / "original")

    assert behaviour("tests.reworded", tmp_path / "reworded") == original
    assert original["registered"][:2] == [1, 1]
    assert len(original["failed"][0]) == 3
    assert original["rejected"]
