"""``scicat-dagster failures``: the files that failed and are not repaired, tried again or dismissed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
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
from scicat_dagster.wording import local, numbered

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from scicat_dagster.orchestration.names import Names
    from scicat_dagster.orchestration.operations.repair import Failure

_NO_FAILED = "No failed files."

_NO_DRY_RUNS = "No files of which there were dry runs only."

_CORRECTED = "Corrected? `scicat-dagster failures --retry [--reason TEXT]` tries them again."


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
@click.option(
    "--dry-runs", is_flag=True,
    help="Instead of failed files, those of which there were dry runs only: they are not registered.",
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
    dry_runs: bool,
    as_json: bool,
) -> None:
    """List the files that failed and are not repaired, from the Dagster instance in DAGSTER_HOME.

    They are listed by reason, the most frequent one first, with links to their runs where the configuration
    has notifications.dagster_url.

    Exits with 0 when there is none (or they were requested or dismissed), with 1 when there is one, and with
    2 when Dagster's records cannot be read.
    """
    from scicat_dagster.orchestration.operations import repair

    if dismissed and (retry or reason or dry_runs):
        raise click.UsageError("--dismiss names the files itself; it goes with none of the other options.")
    if dry_runs and reason:
        raise click.UsageError("--dry-runs goes not with --reason: these files have not failed.")
    with records() as instance:
        if dismissed:
            _dismiss(instance, dismissed, names)
            return
        found = repair.dry_runs(instance, names) if dry_runs else repair.failures(instance, reason, names)
        if retry:
            _retry(instance, found, reason, names)
            return
        others = 0 if dry_runs else len(repair.dry_runs(instance, names))
    pages = dagster_pages(config)
    if as_json:
        click.echo(_as_json(found, pages))
    elif dry_runs:
        say(_as_text(found, pages) or _NO_DRY_RUNS)
    else:
        say(f"{_as_text(found, pages)}\n{_CORRECTED}" if found else _NO_FAILED)
        if others:
            say(
                f"{numbered(others, 'other file')} not registered: their runs were dry runs. "
                "`scicat-dagster failures --dry-runs` lists them, with --retry it registers them."
            )
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
        click.echo("No failed files with such a reason." if reason else "No such files.")
    elif requested:
        click.echo(
            f"{numbered(len(requested), 'file')} requested; "
            "reconcile_sensor starts the runs within half a minute:"
        )
        for path in requested:
            click.echo(f"  {path}")
    if len(requested) < len(found):
        click.echo(f"{numbered(len(found) - len(requested), 'file')} requested before, or being worked on.")


def _as_text(found: Sequence[Failure], pages: str) -> str:
    from scicat_dagster.orchestration.ingest.retry_sensor import due_at
    from scicat_dagster.orchestration.operations.repair import by_reason

    lines = []
    for group in by_reason(found):
        first = group[0]
        lines += [f"{numbered(len(group), 'file')}, {first.file.kind}: {first.reason}", f"  {first.remedy}"]
        for each in group:
            since = local(each.file.since)
            runs = numbered(each.file.runs, "run")
            lines += [
                f"  {each.file.path}",
                f"    since {since}, {runs}: {run_link(pages, each.file.run_id)}",
            ]
            if (when := due_at(each.file)) is not None:
                lines.append(f"    tried again by itself, {_moment(when)}")
        lines.append("")
    return "\n".join(lines)


def _moment(due: datetime) -> str:
    return f"at {local(due)}" if due > datetime.now(UTC) else "within a minute or so"


def _as_json(found: Sequence[Failure], pages: str) -> str:
    from scicat_dagster.orchestration.ingest.retry_sensor import due_at

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
            "tried_again_at": when.isoformat(timespec="seconds") if (when := due_at(each.file)) else None,
        }
        for each in found
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False)
