"""``scicat-dagster failures``: the files that failed and are not repaired, tried again or dismissed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scicat_dagster.cli.options import (
    dagster_pages,
    key_prefix_option,
    optional_config_option,
    records,
    run_link,
    say,
)
from scicat_dagster.wording import numbered

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from scicat_dagster.orchestration.names import Names
    from scicat_dagster.orchestration.operations.repair import Failure


@click.command()
@click.option("--reason", default="", metavar="TEXT", help="Only files whose reason holds this text.")
@click.option(
    "--retry", is_flag=True,
    help="Try these files again now, each with the message that its failed run had; reconcile_sensor starts "
    "the runs.",
)  # fmt: skip
@click.option(
    "--dismiss", "dismissed", multiple=True, metavar="FILE",
    help="Do not list this file any more, and do not try it again. May be given several times.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="A JSON list on standard output, for scripts.")
@key_prefix_option
@optional_config_option
def failures(
    reason: str,
    dismissed: tuple[str, ...],
    names: Names,
    config: Path | None,
    *,
    retry: bool,
    as_json: bool,
) -> None:
    """List the files that failed and are not repaired, from the Dagster instance in DAGSTER_HOME.

    They are listed by reason, the most frequent one first, with links to their runs where the configuration
    has notifications.dagster_url.

    Exits with 0 when there is none (or they were requested or dismissed), with 1 when there is one, and with
    2 when Dagster's records cannot be read.
    """
    from scicat_dagster.orchestration.operations.repair import failures as find

    if dismissed and (retry or reason):
        raise click.UsageError("--dismiss names the files itself; it goes neither with --retry nor --reason.")
    with records() as instance:
        if dismissed:
            _dismiss(instance, dismissed, names)
            return
        found = find(instance, reason, names)
        if retry:
            _retry(instance, found, reason, names)
            return
    pages = dagster_pages(config)
    if as_json:
        click.echo(_as_json(found, pages))
    else:
        say(_as_text(found, pages))
    sys.exit(1 if found else 0)


def _dismiss(instance: DagsterInstance, files: Sequence[str], names: Names) -> None:
    from scicat_dagster.orchestration.operations.repair import dismiss

    unknown = []
    for name in files:
        key = dismiss(instance, name, names)
        if key is None:
            unknown.append(name)
        else:
            click.echo(f"Dismissed: {key}")
    if unknown:
        raise click.ClickException(f"Not a failed file: {', '.join(unknown)}.")


def _retry(instance: DagsterInstance, found: Sequence[Failure], reason: str, names: Names) -> None:
    from scicat_dagster.orchestration.operations.repair import retry

    requested = retry(instance, found, names)
    if not found:
        click.echo("No failed files with such a reason." if reason else "No failed files.")
    elif requested:
        click.echo(
            f"{numbered(len(requested), 'file')} requested; "
            "reconcile_sensor starts the runs within half a minute."
        )
    if len(requested) < len(found):
        click.echo(f"{numbered(len(found) - len(requested), 'file')} requested before, or being worked on.")


def _as_text(found: Sequence[Failure], pages: str) -> str:
    from scicat_dagster.orchestration.operations.repair import by_reason

    if not found:
        return "No failed files."
    lines = []
    for group in by_reason(found):
        first = group[0]
        lines += [f"{numbered(len(group), 'file')}, {first.file.kind}: {first.reason}", f"  {first.remedy}"]
        for each in group:
            since = each.file.since.astimezone().strftime("%Y-%m-%d %H:%M")
            runs = numbered(each.file.runs, "run")
            lines += [
                f"  {each.file.path}",
                f"    since {since}, {runs}: {run_link(pages, each.file.run_id)}",
            ]
        lines.append("")
    lines.append("Corrected? `scicat-dagster failures --retry [--reason TEXT]` tries them again.")
    return "\n".join(lines)


def _as_json(found: Sequence[Failure], pages: str) -> str:
    rows = [
        {
            "file": each.file.path,
            "since": each.file.since.isoformat(timespec="seconds"),
            "kind": each.file.kind,
            "reason": each.problem.what,
            "remedy": each.problem.remedy,
            "runs": each.file.runs,
            "run_id": each.file.run_id,
            "run_url": run_link(pages, each.file.run_id) if pages else None,
        }
        for each in found
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False)
