"""Whether the file writer is done: a file is complete when it opens and its size and mtime are stable.

One that nobody has written for a minute, and that nobody holds a lock on, is complete without being opened:
time would change nothing, and whoever reads it finds what is wrong. Waiting is bounded by the configuration;
afterwards ``identity`` detects a change.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from scicat_dagster.errors import TransientError
from scicat_dagster.files.access import SETTLED_SECONDS, opened_file, status_of, storage_errors
from scicat_dagster.files.identity import CompleteFile, complete_file
from scicat_dagster.files.reading import look_at
from scicat_dagster.isolation import LIMITS, Limits, NoAnswerError
from scicat_dagster.patience import SilentStorageError, answered

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_VERSION, _FLAGS = 8, 11
"""Where in the superblock these bytes are."""
_SUPERBLOCK_BEGINNING = 12
_VERSION_WITH_FLAGS = 3


def wait_until_complete(
    path: Path,
    delays: Sequence[float],
    sleep: Callable[[float], None] = time.sleep,
    *,
    data_directory: str = "",
    limits: Limits = LIMITS,
) -> CompleteFile:
    """Look at a file until it is complete: it opens as HDF5, and its size and modification time are stable.

    The file writer announces a file *before* it closes it, so the first look may come too early. ``delays``
    are the seconds between the looks; there is one more look than there are delays. ``data_directory`` is the
    folder that the file must be in, wherever symbolic links lead; empty: anywhere.

    Raises
    ------
    NotReadyError
        It is not there, is locked, is being written or cannot be read yet.
    TransientError
        The storage failed.
    PermanentError
        It is not a regular file, must not be read, lies outside the data directory, or makes libhdf5 crash
        or loop.
    """

    def look() -> CompleteFile:
        settled = _settled(path, data_directory)
        return settled or look_at(path, sleep, data_directory=data_directory, limits=limits)

    for delay in delays:
        try:
            return look()
        except (SilentStorageError, NoAnswerError):
            # Waited for already, and for longer than any delay.
            raise
        except TransientError:
            sleep(delay)
    return look()


def _settled(path: Path, data_directory: str) -> CompleteFile | None:
    """A file that has not been written for a minute and that no writer holds; None where only HDF5 can tell.

    Opening it takes a child process, which is a large part of what a past file costs.
    """
    status = status_of(path)
    if time.time() - status.st_mtime < SETTLED_SECONDS:
        return None
    with opened_file(path, data_directory) as file:
        is_closed = answered(path, lambda: _is_done(path, file))
    return complete_file(path, status) if is_closed else None


def _is_done(path: Path, file: int) -> bool:
    with storage_errors("read", path):
        return _is_closed(os.pread(file, _SUPERBLOCK_BEGINNING, 0)) and not _is_locked(file)


def _is_closed(superblock: bytes) -> bool:
    """Whether it begins like an HDF5 file whose writer has closed it, as far as it says so.

    https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html (Superblock)
    """
    begins = superblock.startswith(_SIGNATURE) and len(superblock) == _SUPERBLOCK_BEGINNING
    return begins and (superblock[_VERSION] < _VERSION_WITH_FLAGS or superblock[_FLAGS] == 0)


def _is_locked(file: int) -> bool:
    """Whether HDF5 writes it, which locks in the same way; also where the storage knows no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False
