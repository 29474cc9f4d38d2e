"""What a run and the pages of the UI cost when the facility has grown old.

``python -m benchmarks.growth [--files N] [--past P]...`` prints a Markdown table with a column for each
number of past files. The past is made in the database of the production layout: one registered file's run,
with its tags, the events of its asset and its partition, is copied under other names and earlier dates: a
thousand files a day, as if the last one had been registered the day before yesterday. The events that a run's
own page shows are not copied; they are only ever read by the run's id.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import click
import dagster as dg
import requests
import sqlalchemy as db

from benchmarks.parts import by_process
from benchmarks.service import announce, backfilled, facility, wait_for_blocks, write
from benchmarks.soak.facility import Facility
from scicat_dagster.orchestration.partitions import nexus_files
from scicat_dagster.orchestration.tags import PARTITION_TAG

_ROUNDS = 5
_OTHERS = "stand-in for SciCat"
_BACKFILLED = 2000
_FILES_PER_DAY = 1000
_SECONDS_PER_DAY = 86_400.0
_ASSET = '{path: ["raw_dataset"]}'

_QUESTIONS = {
    "the list of runs": """
        { runsOrError(limit: 25) { ... on Runs { results {
            runId status startTime endTime tags { key value } assetSelection { path } } } } }""",
    "how many runs have failed": """
        { runsOrError(filter: {statuses: [FAILURE]}) { ... on Runs { count } } }""",
    "the asset: how many partitions are registered": f"""
        {{ assetNodes(assetKeys: [{_ASSET}]) {{
            partitionStats {{ numMaterialized numFailed numMaterializing numPartitions }} }} }}""",
    "the asset's page of partitions": f"""
        {{ assetNodes(assetKeys: [{_ASSET}]) {{ partitionKeys assetPartitionStatuses {{
            ... on DefaultPartitionStatuses {{ materializedPartitions failedPartitions }} }} }} }}""",
    "one file: when and how it was registered": f"""
        query One($file: String!) {{ assetOrError(assetKey: {_ASSET}) {{ ... on Asset {{
            assetMaterializations(limit: 1, partitions: [$file]) {{
                runId timestamp metadataEntries {{ label }} }} }} }} }}""",
}
"""What the pages of the UI ask the webserver, in GraphQL."""


@dataclass(frozen=True)
class Template:
    """The run that is copied, and the file it registered."""

    run_id: str
    path: str


def grow(running: Facility, template: Template, first: int, last: int, newest: int) -> None:
    """Copy the template for the numbers from first to last, of which the newest has the latest date."""
    environment = running.processes.environment
    engine = db.create_engine(
        db.URL.create(
            "postgresql+psycopg2",
            username=environment["DAGSTER_POSTGRES_USER"],
            password=environment["DAGSTER_POSTGRES_PASSWORD"],
            host=environment["DAGSTER_POSTGRES_HOST"],
            port=int(environment["DAGSTER_POSTGRES_PORT"]),
            database=environment["DAGSTER_POSTGRES_DB"],
        )
    )
    names = {
        "run": template.run_id,
        "path": template.path,
        "first": first,
        "last": last,
        "newest": newest,
        "pause": _SECONDS_PER_DAY / _FILES_PER_DAY,
        "pause_before": 2 * _SECONDS_PER_DAY,
    }
    with engine.begin() as connection:
        # The pooler hands out connections that the webserver has limited.
        connection.execute(db.text("SET LOCAL statement_timeout = 0"))
        for table, changed, condition in _COPIED:
            described = db.inspect(connection).get_columns(table)
            columns = [column["name"] for column in described if column["name"] != "id"]
            dated = {c["name"] for c in described if isinstance(c["type"], db.DateTime | db.Float)}
            values = (_copied(name, changed, dated) for name in columns)
            connection.execute(
                db.text(
                    f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} "  # noqa: S608
                    f"FROM {table} t, generate_series(:first, :last) n WHERE {condition} ORDER BY n, t.id"
                ),
                names,
            )
        connection.execute(db.text("ANALYZE"))
    engine.dispose()


def _copied(column: str, renamed: set[str], dated: set[str]) -> str:
    if column in renamed:
        run = f"replace(t.{column}, :run, md5('run ' || n)::uuid::text)"
        return f"replace({run}, :path, :path || '-' || n)"
    if column in dated:
        ago = "(:pause_before + (:newest - n) * :pause)"
        # A run's own times are numbers of seconds.
        return f"t.{column} - {ago}" + ("" if column in _IN_SECONDS else " * INTERVAL '1 second'")
    return f"t.{column}"


_IN_SECONDS = {"start_time", "end_time"}

_COPIED = (
    ("runs", {"run_id", "run_body", "partition"}, "run_id = :run"),
    ("run_tags", {"run_id", "value"}, "run_id = :run"),
    (
        "event_logs",
        {"run_id", "event", "partition"},
        "run_id = :run AND asset_key IS NOT NULL",
    ),
    ("dynamic_partitions", {"partition"}, "partition = :path"),
)
"""Each table, the columns that name the run or the file, and which of its rows are copied."""


def asked(running: Facility, path: str) -> dict[str, float]:
    """Seconds that the webserver takes for each question, once its caches are warm."""
    url = f"http://127.0.0.1:{running.processes.environment['WEBSERVER_PORT']}/graphql"
    found = {}
    for name, question in _QUESTIONS.items():
        variables = {"file": path} if "$file" in question else {}
        taken = []
        for _ in range(_ROUNDS):
            began = time.monotonic()
            answer = requests.post(url, json={"query": question, "variables": variables}, timeout=300)
            taken.append(time.monotonic() - began)
            check(answer.json())
        found[name] = median(taken[1:])
    return found


def check(answer: dict[str, Any]) -> None:
    """Refuse to measure an answer that is none."""
    if answer.get("errors") or not all(answer["data"].values()):
        raise click.ClickException(f"The webserver answered {answer}")


def measure(running: Facility, template: Template, first: int, files: int) -> dict[str, float]:
    """Seconds by what is measured: CPU of a run in a burst, a file in a backfill, and each question."""
    spent = by_process(running, first, files)
    spent = {name: seconds for name, seconds in spent.items() if name != _OTHERS}
    _, seconds = backfilled(running, running.store.count_origdatablocks(), _BACKFILLED)
    return {
        "CPU of a run, all processes": sum(spent.values()),
        f"a file in a backfill of {_BACKFILLED:,}": seconds / _BACKFILLED,
    } | asked(running, template.path)


@click.command()
@click.option("--files", type=click.IntRange(1), default=150, show_default=True, help="In each burst.")
@click.option("--past", type=click.IntRange(0), multiple=True, default=(1_000, 100_000), show_default=True)
def main(files: int, past: tuple[int, ...]) -> None:
    """Measure with more and more past files."""
    load = os.getloadavg()[0]
    columns = []
    with facility("production") as running:
        (plan,) = write(running, 0, 1)
        announce(running, [plan])
        wait_for_blocks(running, 1)
        template = _template(
            running, str(plan.path(running.data_directory).relative_to(running.data_directory))
        )
        there = first = 1
        for number in sorted(past):
            grow(running, template, there, number - 1, max(past))
            there = number
            known = len(running.instance.get_dynamic_partitions(str(nexus_files().name)))
            columns.append({"partitions": float(known)} | measure(running, template, first, files))
            first = running.store.count_origdatablocks()
    click.echo(f"Load before: {load:.2f}\n")
    click.echo("| | " + " | ".join(f"{column.pop('partitions'):,.0f} files" for column in columns) + " |")
    click.echo("|---|" + "---|" * len(columns))
    for name in columns[0]:
        click.echo(f"| {name} | " + " | ".join(f"{column[name] * 1000:.3g} ms" for column in columns) + " |")


def _template(running: Facility, path: str) -> Template:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        wanted = dg.RunsFilter(tags={PARTITION_TAG: path}, statuses=[dg.DagsterRunStatus.SUCCESS])
        if runs := running.instance.get_runs(wanted):
            return Template(runs[0].run_id, path)
        time.sleep(0.1)
    raise click.ClickException("The first file was not registered within a minute.")


if __name__ == "__main__":
    main()
