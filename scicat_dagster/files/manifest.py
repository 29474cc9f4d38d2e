"""The manifest of a data file: what its origdatablock lists, and what is written beside the data."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from scicat_dagster.errors import Notice


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
    sidecars: tuple[Sidecar, ...] = ()
    sidecar_files: tuple[DataFile, ...] = ()
    checksum_algorithm: str | None = None
    sidecars_within: str = ""
    """The folder that our own files must be in, wherever symbolic links lead; empty: anywhere."""
    notices: tuple[Notice, ...] = ()

    @property
    def all_files(self) -> tuple[DataFile, ...]:
        """The data file first, then the ingestor's own."""
        return (self.data_file, *self.sidecar_files)


def utc_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
