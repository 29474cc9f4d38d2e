"""A folder for a new facility: its configuration, Dagster's two files, and places for schemas and tests.

What stands in ``starter`` beside this module is written as it is. Dagster's files are those of the project's
root, which an installed package has below ``share``: https://packaging.python.org/en/latest/specifications/
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from scicat_dagster.errors import PermanentError

_OF_THE_PROJECT = ("dagster.yaml", "workspace.yaml")

_RENAMED = {"gitignore": ".gitignore"}
"""Under its own name, git would take it for ours."""


class PlacedFile(BaseModel):
    """One file of the folder: its path within it, and whether it was written now or was there."""

    model_config = ConfigDict(frozen=True)

    path: str
    is_new: bool


def start_facility(folder: Path) -> list[PlacedFile]:
    """Write what a facility begins with. A file that is there is left as it is.

    Raises
    ------
    PermanentError
        The folder cannot be written, or the installation lacks one of the files.
    """
    contents = {**dict(_starter()), **{name: _of_the_project(name) for name in _OF_THE_PROJECT}}
    return [
        PlacedFile(path=path, is_new=_write(folder / path, content))
        for path, content in sorted(contents.items())
    ]


def _starter() -> Iterator[tuple[str, bytes]]:
    yield from _files_in(resources.files(__package__) / "starter", "")


def _files_in(place: Traversable, within: str) -> Iterator[tuple[str, bytes]]:
    for item in place.iterdir():
        if item.is_dir():
            yield from _files_in(item, f"{within}{item.name}/")
        else:
            yield within + _RENAMED.get(item.name, item.name), item.read_bytes()


def _of_the_project(name: str) -> bytes:
    for found in metadata.files("scicat_dagster") or ():
        if found.parts[-3:] == ("share", "scicat_dagster", name):
            return Path(str(found.locate())).read_bytes()
    raise PermanentError(
        f"This installation of scicat_dagster has no {name}.",
        remedy="Install it again with pip, which keeps a list of what it installs.",
    )


def _write(path: Path, content: bytes) -> bool:
    """Whether the file is new."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Exclusive: also where somebody writes it at this moment, or a link points elsewhere.
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        if path.is_file():
            return False
        raise _unwritable(path, "something else has its name") from None
    except OSError as error:
        raise _unwritable(path, error.strerror or type(error).__name__) from None
    return True


def _unwritable(path: Path, why: str) -> PermanentError:
    return PermanentError(f"{path} cannot be written: {why}.", remedy="Give a folder that you may write.")
