"""Measuring a data file: size, times, owner and checksum, and what is planned beside it."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import JsonValue

from scicat_dagster.config.models import FileHandlingSettings
from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.files.access import NotReadyError, check_place, check_stored, status_of, storage_errors
from scicat_dagster.files.manifest import DataFile, FileDescription, file_checksum, utc_text
from scicat_dagster.files.reading import QUIET_SECONDS
from scicat_dagster.files.sidecars import plan_sidecars
from scicat_dagster.patience import Signs, answered, close_patiently


def describe_file(
    path: Path,
    settings: FileHandlingSettings,
    announcement: dict[str, JsonValue] | None = None,
    other_files: Iterable[str] = (),
    sleep: Callable[[float], None] = time.sleep,
) -> FileDescription:
    """Measure a complete file: size, time, owner and checksum, and plan the files that go beside it.

    ``other_files`` are the paths of those that belong to it, which are measured as well; where one was
    modified just now, ``sleep`` waits once to see whether it still is.

    Raises
    ------
    TransientError
        A file changed while it was read, is still being written, or cannot be read now.
    PermanentError
        There is no right to read it, it is not a regular file, it lies outside the data directory, or nearly
        nothing of it is on the disk.
    """
    data_file = _measured(path, settings)
    sidecars, listed, notices = plan_sidecars(path, data_file.chk, settings, announcement)
    own = {file.path for file in listed}
    others = [Path(other) for other in other_files if other not in own]
    is_relative = not settings.ingestor_files_directory.startswith("/")
    return FileDescription(
        data_file=data_file,
        other_files=_measured_others(others, settings, sleep),
        sidecars=sidecars,
        sidecar_files=listed,
        checksum_algorithm=settings.file_hash_algorithm if data_file.chk else None,
        # An absolute folder is one that the operator chose.
        sidecars_within=settings.data_directory if is_relative else "",
        notices=notices,
    )


def _measured_others(
    paths: Sequence[Path], settings: FileHandlingSettings, sleep: Callable[[float], None]
) -> tuple[DataFile, ...]:
    """Measure files that need not be HDF5: whether they are complete, only time can tell."""
    before = {path: status_of(path) for path in paths}
    if any(time.time() - status.st_mtime < QUIET_SECONDS for status in before.values()):
        sleep(QUIET_SECONDS)
    for path, status in before.items():
        if _identity(status_of(path)) != _identity(status):
            raise NotReadyError(
                f"{path} is still being written.", remedy="Nothing to do while it is; it is tried again."
            )
    return tuple(_measured(path, settings) for path in paths)


def _measured(path: Path, settings: FileHandlingSettings) -> DataFile:
    signs = Signs()
    return answered(path, lambda: _measure(path, settings, signs), signs=signs)


def _measure(path: Path, settings: FileHandlingSettings, signs: Signs) -> DataFile:
    with storage_errors("read", path), _opened(path) as file:
        before = os.fstat(file)
        if not stat.S_ISREG(before.st_mode):
            raise PermanentError(
                f"{path} is not a regular file.",
                remedy="Announce the NeXus file itself, not a folder or device.",
            )
        check_place(path, before, settings.data_directory)
        check_stored(path, before)
        checksum = (
            file_checksum(file, settings.file_hash_algorithm, signs.heard)
            if settings.compute_file_hash
            else None
        )
        after = path.stat()
    if _identity(before) != _identity(after):
        raise TransientError(
            f"{path} changed while it was read.",
            remedy="Nothing to do if it is still being written; it is tried again.",
        )
    return _data_file(path, after, checksum, settings)


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    # A pipe that took the file's place would be waited for.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield file
    finally:
        close_patiently(file)


def _data_file(
    path: Path, status: os.stat_result, checksum: str | None, settings: FileHandlingSettings
) -> DataFile:
    owner = (
        {"uid": str(status.st_uid), "gid": str(status.st_gid), "perm": oct(status.st_mode)}
        if settings.compute_file_stats
        else {}
    )
    return DataFile(
        path=str(path), size=status.st_size, time=utc_text(status.st_mtime), chk=checksum, **owner
    )
