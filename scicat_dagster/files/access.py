"""Opening a file that may be a link, a pipe, a stub on tape or a hole, and the failure for each.

Which of them is transient and which is permanent is decided here.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.files.paths import check_place, check_stored
from scicat_dagster.files.readiness import SETTLED_SECONDS
from scicat_dagster.files.storage_errors import who_forbids


class NotReadyError(TransientError):
    """The file is not there, or its writer is not done with it: only time helps."""


@contextmanager
def opened_file(path: Path, data_directory: str) -> Iterator[int]:
    """A descriptor of a regular file that we may read."""
    try:
        # A pipe that took the file's place would be waited for.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise why_not_opened(path, error) from error
    try:
        status = os.fstat(file)
        _check_regular(path, status)
        check_place(path, status, data_directory)
        check_stored(path, status)
        yield file
    finally:
        os.close(file)


def status_of(path: Path) -> os.stat_result:
    try:
        status = path.stat()
    except OSError as error:
        raise why_not_opened(path, error) from error
    _check_regular(path, status)
    return status


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise PermanentError(f"{path} is no regular file.", remedy="Announce the NeXus file itself.")


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
    if re.search(r"errno = \d+", text) or error.errno is not None:
        return TransientError(
            f"{path} cannot be opened: {text}.", remedy="See that the storage is mounted and healthy."
        )
    return why_broken(path, text)


def _forbidden(path: Path) -> TransientError | PermanentError:
    place = who_forbids(path)
    what = f"No right to read {path}."
    if place == path and time.time() - path.stat().st_mtime < SETTLED_SECONDS:
        return NotReadyError(
            what, remedy="It is tried again, because its writer may give that right when it is done."
        )
    return PermanentError(
        what,
        remedy=f"Give the account that runs Dagster the right to read {place}, then re-execute the run.",
    )


def why_broken(path: Path, reason: str) -> TransientError | PermanentError:
    """Why a file that is there is not one that can be read."""
    status = status_of(path)
    words = "is empty" if status.st_size == 0 else "is no complete HDF5 file"
    what = f"{path} {words} ({reason})."
    if time.time() - status.st_mtime < SETTLED_SECONDS:
        return NotReadyError(what, remedy="It is tried again, because it was written only just now.")
    return PermanentError(
        what, remedy="Look at the file writer's log; put the right file in place, then re-execute the run."
    )
