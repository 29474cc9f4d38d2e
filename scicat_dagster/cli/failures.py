"""``scicat-dagster failures``: the files that failed and are not repaired."""

from __future__ import annotations

import json
import sys

import click

from scicat_dagster.cli.options import dagster_instance


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON list on standard output, for scripts.")
def failures(*, as_json: bool) -> None:
    """List the files that failed and are not repaired, from the Dagster instance in DAGSTER_HOME.

    Exits with 1 when there is one.
    """
    from scicat_dagster.orchestration.failures.failed_files import failed_files, problem_of

    with dagster_instance() as instance:
        rows = []
        for file in failed_files(instance):
            problem = problem_of(instance, file)
            rows.append(
                {
                    "file": file.path,
                    "since": file.since.isoformat(timespec="seconds"),
                    "kind": file.kind,
                    "reason": problem.what,
                    "remedy": problem.remedy,
                    "runs": file.runs,
                    "run_id": file.run_id,
                }
            )
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    for row in [] if as_json else rows:
        click.echo(f"{row['file']}\n  since {row['since']}, {row['runs']} runs, {row['kind']}")
        click.echo(f"  {row['reason']}\n  {row['remedy']}")
    sys.exit(1 if rows else 0)
