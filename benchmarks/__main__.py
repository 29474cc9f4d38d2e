"""Every benchmark but the soak: ``python -m benchmarks [--quick]`` prints one Markdown table.

Each measurement is a process of its own, so that none finds the memory or the connections of another.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import click

_DOMAIN = ("sensor", "metadata", "values", "checksum", "memory", "huge", "imports")
_SERVICE: tuple[tuple[str, ...], ...] = (
    ("burst", "--slots", "4"),
    ("burst",),
    ("burst", "--late", "0.2"),
    ("burst", "--previews"),
    ("burst", "--layout", "laptop"),
    ("lone",),
    ("written",),
    ("lone", "--layout", "laptop"),
    ("written", "--layout", "laptop"),
    ("steady",),
    ("idle",),
    ("idle", "--layout", "laptop"),
    ("backfill",),
)
_FEW_FILES = {"burst": 50, "lone": 3, "written": 3, "steady": 10, "idle": 5, "backfill": 200}


@click.command()
@click.option("--quick", is_flag=True, help="Measure the service with few files.")
def main(quick: bool) -> None:  # noqa: FBT001 - what click hands over
    """Measure everything and print a table."""
    click.echo(heading())
    click.echo("\n| what | measured | target | |\n|---|---|---|---|")
    for name in _DOMAIN:
        for row in _rows(domain_row, "benchmarks.domain", name):
            click.echo(row)
    for name, *options in _SERVICE:
        files = ("--files", str(_FEW_FILES[name])) if quick else ()
        for row in _rows(service_row, "benchmarks.service", name, *options, *files):
            click.echo(row)


def heading() -> str:
    """When, with what and on what."""
    return f"scicat_dagster {version('scicat_dagster')}, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores"


def domain_row(found: dict[str, Any]) -> str:
    """A figure of ``benchmarks.domain`` as a row."""
    target = ""
    if "at_most" in found:
        target = f"≤ {found['at_most']:g}"
    if "at_least" in found:
        target = f"≥ {found['at_least']:g}"
    verdict = "" if not target else "good" if found["is good"] else "missed"
    return _row(found["what"], f"{found['value']:g} {found['unit']}", target, verdict)


def service_row(found: dict[str, Any]) -> str:
    """What ``benchmarks.service`` found as a row; it has no targets of its own."""
    described = ("what", "layout", "files", "slots", "late", "previews", "load before")
    figures = ", ".join(f"{name}: {value}" for name, value in found.items() if name not in described)
    late = f", each answer {found['late']:g} s later" if found["late"] else ""
    previews = ", with previews" if found["previews"] else ""
    how = f"{found['layout']} layout, {found['slots']} at once{late}{previews}"
    what = f"{found['what']}: {found['files']} files, {how}"
    return _row(what, figures, "", f"load before: {found['load before']}")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.strip() for cell in cells) + " |"


def _rows(row: Callable[[dict[str, Any]], str], module: str, *arguments: str) -> Iterator[str]:
    """The rows of one measurement, and one that says so if it failed."""
    command = (sys.executable, "-m", module, *arguments)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            yield row(json.loads(line))
    if done.returncode:
        yield _row(" ".join((module, *arguments)), f"failed with exit code {done.returncode}", "", "missed")


if __name__ == "__main__":
    main()
