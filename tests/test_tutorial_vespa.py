"""The tutorial *VESPA in 20 minutes*, walked as it is written: each command, file, edit and output."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from scicat_dagster.cli import main

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorials" / "vespa-in-20-minutes.md"

_STEP = re.compile(
    r"^<!-- (?P<edit>.*?) -->$|^```(?P<language>\w*)\n(?P<block>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass
class Walker:
    """Somebody who does what the tutorial says, in a folder of their own."""

    folder: Path
    printed: str = ""
    edits: int = 0
    outputs: int = 0

    def edit(self, what: str, block: str) -> None:
        """Do to a file what a comment of the tutorial says; ``block`` is what follows it."""
        self.edits += 1
        if found := re.fullmatch(r"write (\S+)", what):
            (self.folder / found[1]).write_text(block, encoding="utf-8")
            return
        if found := re.fullmatch(r"edit (\S+) line (\d+): (\S+) => (\S+)", what):
            lines = self._lines(found[1])
            number = int(found[2]) - 1
            assert found[3] in lines[number]
            lines[number] = lines[number].replace(found[3], found[4])
        else:
            found = re.fullmatch(r"insert into (\S+) (before|after): (\S+)", what)
            assert found, what
            lines = self._lines(found[1])
            number = lines.index(found[3] + "\n") + (found[2] == "after")
            lines[number:number] = block.splitlines(keepends=True)
        (self.folder / found[1]).write_text("".join(lines), encoding="utf-8")

    def _lines(self, name: str) -> list[str]:
        return (self.folder / name).read_text(encoding="utf-8").splitlines(keepends=True)

    def run(self, block: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Run the commands of a block; those of the package in this process, the others in a shell."""
        self.printed = ""
        monkeypatch.chdir(self.folder)
        if block.startswith("scicat-dagster"):
            for line in block.splitlines():
                self._run_command(shlex.split(line)[1:])
            return
        script = f"set -e\n{block}\npwd"
        done = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True)
        *printed, where = done.stdout.splitlines()
        self.folder, self.printed = Path(where), "\n".join(printed)

    def _run_command(self, arguments: list[str]) -> None:
        target = None
        if ">" in arguments:
            *arguments, _, target = arguments
        result = CliRunner().invoke(main, arguments)
        assert isinstance(result.exception, SystemExit | None), result.output
        if target is None:
            self.printed += result.output
            return
        (self.folder / target).write_text(result.stdout, encoding="utf-8")
        self.printed += result.stderr

    def compare(self, expected: str) -> None:
        """See that the block is a part of what was printed, with the place of the folder left out."""
        self.outputs += 1
        printed = self.printed.replace(str(self.folder), "…")
        assert expected.rstrip("\n") in printed, printed


def test_the_tutorial_can_be_walked_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    walker = Walker(tmp_path)
    pending: list[str] = []
    for step in _STEP.finditer(TUTORIAL.read_text(encoding="utf-8")):
        if step["edit"]:
            pending.append(step["edit"])
            continue
        for edit in pending:
            walker.edit(edit, step["block"])
        pending = []
        if step["language"] == "console":
            walker.run(step["block"], monkeypatch)
        elif not step["language"]:
            walker.compare(step["block"])

    assert (walker.edits, walker.outputs) == (7, 8)
    assert walker.printed.endswith("1 of 1 files as expected\n")
