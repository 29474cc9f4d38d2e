"""Which content of a file: its inode, size and mtime, by which a later change is detected."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from scicat_dagster.errors import TransientError
from scicat_dagster.files.access import status_of


class FileChangedError(TransientError):
    """The file was modified after work on it had begun: everything measured so far must be done again."""


class CompleteFile(BaseModel):
    """A file that was complete when it was looked at; ``modified_ns`` since 1970, ``size`` in bytes."""

    model_config = ConfigDict(frozen=True)

    path: str
    device: int
    inode: int
    size: int
    modified_ns: int


def check_unchanged(file: CompleteFile) -> None:
    """Make sure that a file is still the one that was found complete.

    Raises
    ------
    FileChangedError
        Its size, modification time or identity is another.
    """
    if complete_file(Path(file.path), status_of(Path(file.path))) != file:
        raise file_changed(file)


def file_changed(file: CompleteFile) -> FileChangedError:
    return FileChangedError(
        f"{file.path} was changed after it had been found complete.",
        remedy="The run is repeated from its beginning; re-execute all its ops if you do it by hand.",
    )


def complete_file(path: Path, status: os.stat_result) -> CompleteFile:
    return CompleteFile(
        path=str(path),
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        modified_ns=status.st_mtime_ns,
    )
