"""The command line, one module for each command, which reads its arguments, calls the package and prints.

``preview`` is in the module of ``ingest``: what would be posted, and posting it.
"""

from __future__ import annotations

import click

from scicat_dagster.cli.demo import demo
from scicat_dagster.cli.discover import discover
from scicat_dagster.cli.failures import failures
from scicat_dagster.cli.health import health
from scicat_dagster.cli.ingest import ingest, preview
from scicat_dagster.cli.init import init
from scicat_dagster.cli.messages import messages
from scicat_dagster.cli.reingest import reingest
from scicat_dagster.cli.schema import schema
from scicat_dagster.cli.status import status
from scicat_dagster.cli.validate import validate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="scicat_dagster")
def main() -> None:
    """Register a facility's NeXus files as SciCat datasets, by Dagster runs that anyone can look at."""


for command in (
    init,
    ingest,
    preview,
    validate,
    schema,
    discover,
    reingest,
    failures,
    messages,
    status,
    health,
    demo,
):
    main.add_command(command)
