"""Opening a file that may be a link, a pipe, a stub on tape or a hole, and the failure for each.

Which failure of the storage is transient, and which is permanent or a missing right, is decided here; so is
where an opened file may lie. No storage is waited for longer than :mod:`scicat_dagster.patience` has.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.patience import answered, close_patiently


def who_forbids(path: Path) -> Path:
    """The folder on the way to a path that lets nobody like us in, or else the path itself."""
    for part in (*reversed(path.parents), path):
        try:
            part.lstat()
        except PermissionError:
            return part.parent
        except OSError:
            break
    return path


@contextmanager
def storage_errors(doing: Literal["read", "make", "write"], path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        place = who_forbids(path)
        if doing != "read" and place == path:
            place = next(folder for folder in path.parents if folder.exists())
        right = f"read {place}" if doing == "read" else f"write in {place}"
        raise PermanentError(
            f"No right to {doing} {path}.",
            remedy=f"Give the account that runs Dagster the right to {right}, then try the file again.",
        ) from error
    except OSError as error:
        raise TransientError(
            f"{path} cannot be used: {error.strerror}.",
            remedy="See that the storage is mounted and has room; it is tried again.",
        ) from error


_OTHER_FORMATS: Mapping[bytes, str] = {
    b"\x0e\x03\x13\x01": "HDF4",
    b"CDF\x01": "netCDF 3",
    b"CDF\x02": "netCDF 3",
    b"<?xml": "XML",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "ZIP",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}
"""What files begin with that become no HDF5 any more; NeXus was written in the first and in XML, too."""


def other_format(place: Path, path: Path) -> PermanentError | None:
    """The failure of a file that is of another format than HDF5; ``path`` is its name for people."""
    with storage_errors("read", path), place.open("rb") as file:
        beginning = file.read(max(map(len, _OTHER_FORMATS)))
    for signature, name in _OTHER_FORMATS.items():
        if beginning.startswith(signature):
            return PermanentError(
                f"{path} is a file of the format {name}; of NeXus only HDF5 is read.",
                remedy="Convert it to HDF5 under another name, and register that; `nxconvert` and `h4toh5` "
                "do so for NeXus in HDF4.",
            )
    return None


class NotReadyError(TransientError):
    """The file is not there, or its writer is not done with it: only time helps."""


@contextmanager
def opened_file(path: Path, data_directory: str) -> Iterator[int]:
    """A descriptor of a regular file that we may read."""
    file = answered(path, lambda: _opened_and_checked(path, data_directory), late=close_patiently)
    try:
        yield file
    finally:
        close_patiently(file)


def _opened_and_checked(path: Path, data_directory: str) -> int:
    try:
        # A pipe that took the file's place would be waited for.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise why_not_opened(path, error) from error
    try:
        with storage_errors("read", path):
            status = os.fstat(file)
        _check_regular(path, status)
        check_place(path, status, data_directory)
        check_stored(path, status)
        with storage_errors("read", path):
            # Known attributes are given without the server; a child that reads would be waited for longer.
            os.pread(file, 1, 0)
    except BaseException:
        os.close(file)
        raise
    return file


def status_of(path: Path) -> os.stat_result:
    """The status of a regular file; raises what its storage, or a missing right, makes of it."""
    return answered(path, lambda: _status_of(path))


def size_of(path: Path) -> int:
    """The size of a file in bytes; 0 where that cannot be known now."""
    try:
        return answered(path, path.stat).st_size
    except (OSError, TransientError):
        return 0


def status_of_open(path: Path, file: int) -> os.stat_result:
    """The status of an open file; network storage is asked for it, too."""

    def ask() -> os.stat_result:
        with storage_errors("read", path):
            return os.fstat(file)

    return answered(path, ask)


def _status_of(path: Path) -> os.stat_result:
    try:
        status = path.stat()
    except OSError as error:
        raise why_not_opened(path, error) from error
    _check_regular(path, status)
    return status


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise PermanentError(f"{path} is not a regular file.", remedy="Announce the NeXus file itself.")


def why_not_opened(path: Path, error: OSError, text: str = "") -> TransientError | PermanentError:
    """Why a file cannot be opened, from the system's error or libhdf5's; ``text`` is its text."""
    text = text or str(error)
    if isinstance(error, FileNotFoundError):
        what = f"{path} is a symbolic link to nothing." if path.is_symlink() else f"{path} is not there."
        return NotReadyError(
            what, remedy="See that the storage is mounted here and that the file writer wrote it."
        )
    if isinstance(error, PermissionError):
        return _forbidden(path)
    if isinstance(error, BlockingIOError) or "unable to lock" in text or "already open" in text:
        return NotReadyError(
            f"{path} is still open for writing.", remedy="Nothing to do while it is being written."
        )
    if (number := _error_number(text, error)) is not None:
        # The words of libhdf5 hold the time and an address: no two of them could be counted together.
        return TransientError(
            f"{path} cannot be opened: {os.strerror(number)}.",
            remedy="See that the storage is mounted and healthy.",
        )
    return why_broken(path, text)


def _error_number(text: str, error: OSError) -> int | None:
    """The system's number of an error; libhdf5 may say it in its text only."""
    if error.errno is not None:
        return error.errno
    found = re.search(r"errno = (\d+)", text)
    return int(found[1]) if found else None


def _forbidden(path: Path) -> TransientError | PermanentError:
    place = who_forbids(path)
    what = f"No right to read {path}."
    if place == path and time.time() - path.stat().st_mtime < SETTLED_SECONDS:
        return NotReadyError(
            what, remedy="It is tried again, because its writer may give that right when it is done."
        )
    return PermanentError(
        what,
        remedy=f"Give the account that runs Dagster the right to read {place}, then try the file again.",
    )


def why_broken(path: Path, reason: str) -> TransientError | PermanentError:
    """Why a file that is there is not one that can be read."""
    status = _status_of(path)
    words = "is empty" if status.st_size == 0 else "is not a complete HDF5 file"
    what = f"{path} {words} ({reason})."
    ahead = status.st_mtime - time.time()
    if ahead > SETTLED_SECONDS:
        return NotReadyError(
            f"{what} It was written {ahead / 60:.0f} min from now, by the clock of its storage.",
            remedy="Nobody can tell whether it is still being written: set the clocks of storage and writer.",
        )
    if -ahead < SETTLED_SECONDS:
        return NotReadyError(what, remedy="It is tried again, because it was written only just now.")
    return PermanentError(
        what, remedy="Look at the file writer's log; put the right file in place, then try the file again."
    )


_SMALL_BYTES = 1 << 30
"""A file that is read in seconds may be as sparse as it likes."""

_MOST_COMPRESSED = 1000
"""Compression of file systems stays below it: lz4 reaches 255, and real data do not reach that."""


def check_place(path: Path, opened: os.stat_result, data_directory: str) -> None:
    """Make sure that an opened file is in the data directory, wherever symbolic links lead.

    ``opened`` is the status of the open file: what its path leads to may be exchanged at any time.

    Raises
    ------
    PermanentError
        It lies outside the data directory.
    TransientError
        Its path leads to another file meanwhile.
    """
    if not data_directory:
        return
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(data_directory)):
        raise PermanentError(
            f"{path} is a link to a file outside the data directory {data_directory}.",
            remedy="Put the file itself into the data directory, or correct "
            "`ingestion.file_handling.data_directory`.",
        )
    with storage_errors("read", path):
        found = real.stat()
    if (found.st_dev, found.st_ino) != (opened.st_dev, opened.st_ino):
        raise TransientError(f"{path} was replaced while it was opened.", remedy="It is tried again.")


def check_stored(path: Path, status: os.stat_result) -> None:
    """Refuse a sparse file, of which nearly nothing is on the disk: its checksum would take days.

    File systems that compress may store a thousandth; some report no blocks at all, which says nothing.

    Raises
    ------
    PermanentError
        The file is large and less than a thousandth of it is stored.
    """
    stored = status.st_blocks * 512
    if stored and status.st_size > _SMALL_BYTES and status.st_size > _MOST_COMPRESSED * stored:
        raise PermanentError(
            f"{path} is {status.st_size} bytes long, of which only {stored} are stored.",
            remedy="If this is not a mistake of the file writer, copy the file with `cp --sparse=never`.",
        )


SETTLED_SECONDS = 60.0
"""A file that cannot be read as HDF5 and was not touched for so long will stay that way."""
