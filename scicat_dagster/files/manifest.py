"""The manifest of a data file: what its origdatablock lists, with checksums, and the planned sidecars."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from blake3 import blake3
from pydantic import BaseModel, ConfigDict

from scicat_dagster.errors import Notice


def file_checksum(file: int, algorithm: str, heard: Callable[[], object] = lambda: None) -> str:
    """The checksum of an open file, in hexadecimal; ``heard`` is called for each part that was read."""
    with _Stream(file, heard) as stream:
        return hashlib.file_digest(stream, lambda: _new_digest(algorithm)).hexdigest()


class _Stream(io.FileIO):
    """An open file that says how far it is read."""

    def __init__(self, file: int, heard: Callable[[], object]) -> None:
        super().__init__(file, "rb", closefd=False)
        self._heard = heard

    def readinto(self, buffer: Any) -> int:
        """See :meth:`io.RawIOBase.readinto`."""
        self._heard()
        return super().readinto(buffer)


def text_checksum(text: str, algorithm: str) -> str:
    """The checksum of a text in UTF-8, in hexadecimal."""
    digest = _new_digest(algorithm)
    digest.update(text.encode())
    return str(digest.hexdigest())


def _new_digest(algorithm: str) -> Any:
    return blake3() if algorithm == "blake3" else hashlib.new(algorithm, usedforsecurity=False)


class DataFile(BaseModel):
    """One entry of an origdatablock's ``dataFileList`` (SciCat API v3), its path still absolute.

    ``size`` is in bytes, ``time`` the modification time in UTC, ``chk`` the checksum in hexadecimal.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    size: int
    time: str
    chk: str | None = None
    uid: str | None = None
    gid: str | None = None
    perm: str | None = None


class Sidecar(BaseModel):
    """A small file that the ingestor writes beside the data: a checksum, or the announcement."""

    model_config = ConfigDict(frozen=True)

    path: str
    content: str


class FileDescription(BaseModel):
    """Everything that the catalogue's file list needs, measured on a file that did not change meanwhile."""

    model_config = ConfigDict(frozen=True)

    data_file: DataFile
    other_files: tuple[DataFile, ...] = ()
    """Those that belong to it: the detectors' files beside a master file."""
    sidecars: tuple[Sidecar, ...] = ()
    sidecar_files: tuple[DataFile, ...] = ()
    checksum_algorithm: str | None = None
    sidecars_within: str = ""
    """The folder that our own files must be in, wherever symbolic links lead; empty: anywhere."""
    notices: tuple[Notice, ...] = ()

    @property
    def all_files(self) -> tuple[DataFile, ...]:
        """The data file first, then those that belong to it, then the ingestor's own."""
        return (self.data_file, *self.other_files, *self.sidecar_files)


def utc_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
