"""What *Commands* shows of each command is what the command prints, and it fits into 80 columns.

Paths, ids, times and addresses, which are others on each machine, are replaced before both are compared. A
line ``…`` of the page stands for any number of lines.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner
from dagster._core.scheduler.instigation import TickStatus

from scicat_dagster.cli import main
from scicat_dagster.cli.options import wrapped
from scicat_dagster.kafka.messages import Position, Rejected
from scicat_dagster.orchestration.ingest.rejected_messages import rejected_event
from tests.orchestration.operations.test_health import heartbeats, sensor
from tests.small_facility import SmallFacility, instance_in

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"
BLOCK = re.compile(r"<!-- output: (?P<arguments>.*?) -->\n+```\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
WIDTH = 80
PAGES = "https://dagster.example.org"


@pytest.fixture
def home(small: SmallFacility, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with instance_in(tmp_path / "home") as instance:
        small.instance = instance
        yield instance


def broken_schema(small: SmallFacility) -> None:
    """A second schema, with a misspelt key."""
    schema = yaml.safe_load(small.schema.read_text())
    schema["variables"]["title"] = {
        "source": "VALUE",
        "operatr": "to-upper",
        "value": "a",
        "value_type": "string",
    }
    schema.update(id="odin-1", name="ODIN imaging", selector="filename:contains:odin")
    (small.schema.parent / "odin.imsc.yml").write_text(yaml.safe_dump(schema, sort_keys=False))


def registered_and_failed(small: SmallFacility) -> None:
    """One file that is registered, and two that fail for one reason."""
    assert small.ingest(small.facility()).success
    small.store.clear()
    for number in (1, 2):
        other = small.file.with_name(f"small-coda-{number}.hdf")
        other.write_bytes(small.file.read_bytes())
        assert not small.ingest(small.facility(), other).success


def with_daemon(small: SmallFacility) -> None:
    """The same, while Dagster's daemons and its sensor work."""
    registered_and_failed(small)
    now = time.time()
    heartbeats(small.instance, now)
    sensor(small.instance, (TickStatus.SKIPPED, now))


def rejected(small: SmallFacility) -> None:
    for offset in (17, 18):
        why = "The message is not a wrdn message: its schema is pl99, which nobody here reads."
        position = Position("odin_filewriter", 0, offset)
        event = rejected_event(
            Rejected(position, why, "See which program writes to this topic.", b"\x10pl99")
        )
        small.instance.report_runless_asset_event(event)


BEFORE = {
    "validate": broken_schema,
    "failures": registered_and_failed,
    "status": with_daemon,
    "messages": rejected,
}
"""What happens in the facility before a command is given."""


def shown(small: SmallFacility, arguments: str) -> str:
    """What a command prints that is given in the facility's folder, with the same words on each machine."""
    names = {"config.yml": small.directory / "config.yml", "FILE": small.file}
    given = [str(names.get(word, word)) for word in arguments.split()]
    config = {"SCICAT_INGESTOR_CONFIG": str(small.directory / "config.yml")}
    home = {"DAGSTER_HOME": small.instance.root_directory}
    result = CliRunner(env={**config, **home}).invoke(main, given)
    assert isinstance(result.exception, SystemExit | None), result.output
    return result.stdout


def stable(text: str, small: SmallFacility) -> str:
    for pattern, instead in (
        (re.escape(str(small.directory)), "/facility"),
        (re.escape(small.server.url), "https://scicat.example.org"),
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}", "0f6b1c5e-7a52-4d0a-9a63-5b1b7f3f8f11"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d [A-Z]+", "2026-11-26 02:03 UTC"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?\+00:00", "2026-11-26T01:03:00+00:00"),
    ):
        text = re.sub(pattern, instead, text)
    return text


def blocks() -> dict[str, str]:
    return {found["arguments"]: found["text"] for found in BLOCK.finditer(PAGE.read_text())}


def as_pattern(text: str) -> str:
    """A regular expression for what the page shows."""
    lines = [r"(?:.*\n)*?" if line.strip() == "…" else re.escape(line) + r"\n" for line in text.splitlines()]
    return "".join(lines)


def test_the_page_shows_the_main_commands() -> None:
    commands = {arguments.split(maxsplit=1)[0] for arguments in blocks()}

    assert commands == {"validate", "preview", "ingest", "failures", "messages", "status"}


@pytest.mark.parametrize("arguments", blocks())
def test_a_command_prints_what_the_page_shows(
    small: SmallFacility, home: dg.DagsterInstance, arguments: str
) -> None:
    config = small.directory / "config.yml"
    small.facility()
    BEFORE.get(arguments.split(maxsplit=1)[0], lambda _: None)(small)
    config.write_text(config.read_text() + f"notifications: {{dagster_url: '{PAGES}'}}\n")

    printed = wrapped(stable(shown(small, arguments), small), WIDTH)

    expected = blocks()[arguments]
    assert re.fullmatch(as_pattern(expected), printed), f"{arguments} prints now\n\n{printed}"
    assert max(map(len, expected.splitlines())) <= WIDTH, expected


def printed_in_terminal(*arguments: str, columns: int) -> str:
    """What the command prints in a terminal of this width, by a process of its own."""
    screen, terminal = pty.openpty()
    command = [sys.executable, "-c", "from scicat_dagster.cli import main; main()", *arguments]
    with os.fdopen(screen, "rb", buffering=0) as read:
        process = subprocess.Popen(command, stdout=terminal, env={**os.environ, "COLUMNS": str(columns)})
        os.close(terminal)
        printed = b""
        # Linux answers with an error when the last program has left the terminal.
        with suppress(OSError):
            while part := read.read(4096):
                printed += part
        process.wait()
    return printed.decode().replace("\r\n", "\n")


def test_a_terminal_gets_lines_that_fit(small: SmallFacility, home: dg.DagsterInstance) -> None:
    small.facility()
    broken_schema(small)

    in_terminal = printed_in_terminal("validate", str(small.directory / "config.yml"), columns=60)
    in_file = shown(small, "validate config.yml")

    assert in_terminal != in_file
    assert in_terminal.split() == in_file.split()
    # But where a single word is longer.
    too_long = [line for line in in_terminal.splitlines() if len(line) > 60]
    assert all(len(re.split(r" {2,}", line.strip())[-1].split()) == 1 for line in too_long), too_long


def test_a_line_goes_on_below_its_last_column() -> None:
    assert wrapped("mistake  schema  one two three four", 26).splitlines() == [
        "mistake  schema  one two",
        "         three four",
    ]
    assert wrapped("registered  /a/long/path/in/the/first/line it", 26).splitlines() == [
        "registered  /a/long/path/in/the/first/line",
        "            it",
    ]
    assert wrapped("one two three four", 10).splitlines() == ["one two", "    three", "    four"]
    assert wrapped("a  schema  one two three four", 26).splitlines() == [
        "a  schema  one two three",
        "           four",
    ]
    assert wrapped("   one two three", 10).splitlines() == ["   one two", "   three"]


def test_json_and_long_words_are_left_as_they_are() -> None:
    text = '{\n  "one": "two three four five"\n}\n/a/very/long/path/without/blanks\nand after it'

    assert wrapped(text, 16) == text
