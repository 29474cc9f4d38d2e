"""Whether the file writer is done: a file is complete when it opens and its size and mtime are stable.

Waiting is bounded by the configuration; afterwards ``identity`` detects a change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from scicat_dagster.errors import TransientError
from scicat_dagster.files.identity import CompleteFile
from scicat_dagster.files.reading import look_at
from scicat_dagster.isolation import LIMITS, Limits


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
        It is not a regular file, must not be read, lies outside the data directory, makes libhdf5 crash or
        loop, or is broken and has not changed for a minute.
    """
    for delay in delays:
        try:
            return look_at(path, sleep, data_directory=data_directory, limits=limits)
        except TransientError:
            sleep(delay)
    return look_at(path, sleep, data_directory=data_directory, limits=limits)
