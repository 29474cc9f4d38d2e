"""``python -m scicat_dagster.demo.catalogue``: the stand-in in the foreground."""

from pathlib import Path

import click

from scicat_dagster.demo.catalogue.server import LOOPBACK, serve


@click.command()
@click.option(
    "--database", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The SQLite file."
)
@click.option("--port", required=True, type=click.IntRange(0, 65535), help="The port; 0 takes a free one.")
@click.option("--host", default=LOOPBACK, show_default=True, help="The address to listen on.")
def main(database: Path, port: int, host: str) -> None:
    """Serve a stand-in for SciCat; the first line of output is its address."""
    serve(database, host=host, port=port)


if __name__ == "__main__":
    main()
