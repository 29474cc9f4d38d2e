"""Sidecars: the files that the ingestor writes beside a data file, its checksum and its announcement.

Nothing is written through a link or outside the data directory.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from scicat_dagster.config.models import FileHandlingSettings
from scicat_dagster.errors import Notice, PermanentError, TransientError
from scicat_dagster.files.access import storage_errors
from scicat_dagster.files.manifest import DataFile, FileDescription, Sidecar, text_checksum, utc_text
from scicat_dagster.limits import LONGEST_NAME_BYTES
from scicat_dagster.patience import Signs, answered

FILE_MODE = 0o644
"""Of sidecars, whatever the umask of the service: who may enter the data's folder may read them."""

_FOLDER_MODE = 0o755
"""At least, of a folder that is made for them."""


def sidecar_directory(path: Path, settings: FileHandlingSettings) -> Path:
    """Where the ingestor's own files go; a relative setting is relative to the data file's folder."""
    return Path(os.path.normpath(path.parent / settings.ingestor_files_directory))


def add_sidecars(description: FileDescription) -> None:
    """Write those of the planned files that are not there; see :func:`write_sidecars`.

    What is there may belong to a registration whose block lists it with its size and checksum.
    """
    _write(description, _is_there)


def write_sidecars(description: FileDescription) -> None:
    """Write the planned files, each whole or not at all; the folder is made when it is missing.

    Whoever may write beside the data must not make us write elsewhere, so that no link is followed. One that
    is as it is listed already stays as it is.

    Raises
    ------
    TransientError
        The folder or a file cannot be written, for instance because the disk is full.
    PermanentError
        There is no right to write there, or the folder is a link or lies outside the data directory.
    """
    _write(description, _is_written)


def _write(description: FileDescription, is_done: Callable[[int, str, bytes], bool]) -> None:
    for sidecar in description.sidecars:
        _write_one(sidecar, description.sidecars_within, is_done)


def _write_one(sidecar: Sidecar, within: str, is_done: Callable[[int, str, bytes], bool]) -> None:
    path, content, signs = Path(sidecar.path), sidecar.content.encode(), Signs()

    def write() -> None:
        with _sidecar_folder(path.parent, within) as folder, storage_errors("write", path):
            if not is_done(folder, path.name, content):
                # Once nobody waits, another run may have written a newer one.
                _write_whole(folder, path.name, content, signs.heard)

    answered(path, write, signs=signs)


def _is_there(folder: int, name: str, _: bytes) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_written(folder: int, name: str, content: bytes) -> bool:
    """Whether a regular file of ours has this content and mode; whatever else is there is replaced."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return False
    with os.fdopen(file, "rb") as stream:
        status = os.fstat(file)
        is_as_listed = status.st_mode == stat.S_IFREG | FILE_MODE and status.st_uid == os.geteuid()
        return is_as_listed and stream.read(len(content) + 1) == content


@contextmanager
def _sidecar_folder(path: Path, within: str) -> Iterator[int]:
    """A descriptor of the folder, by which its files are named: its path may lead elsewhere at any time."""
    _check_sidecar_folder(path, within)
    with storage_errors("make", path):
        _make_folder(path)
        folder = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_sidecar_folder(path, within)
        with storage_errors("make", path):
            is_same = os.path.samestat(os.fstat(folder), path.stat())
        if not is_same:
            raise TransientError(f"{path} was replaced while it was opened.", remedy="It is tried again.")
        yield folder
    finally:
        os.close(folder)


def _make_folder(path: Path) -> None:
    for missing in reversed([place for place in (path, *path.parents) if not place.exists()]):
        with suppress(FileExistsError):
            missing.mkdir()
            folder = os.open(missing, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                # What it inherits from the folder above, such as its group, stays.
                os.fchmod(folder, stat.S_IMODE(os.fstat(folder).st_mode) | _FOLDER_MODE)
            finally:
                os.close(folder)


def _check_sidecar_folder(path: Path, within: str) -> None:
    if path.is_symlink():
        raise _misplaced(f"{path} is a symbolic link, which is not followed.")
    if within and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(within)):
        raise _misplaced(f"{path} leads to a folder outside the data directory {within}.")


def _misplaced(what: str) -> PermanentError:
    return PermanentError(
        what,
        remedy="Put a folder there, or an absolute one that nobody else may write in into "
        "`ingestion.file_handling.ingestor_files_directory`.",
    )


def _write_whole(folder: int, name: str, content: bytes, heard: Callable[[], object]) -> None:
    # Random, because somebody else could have put a link at a name that can be guessed.
    unfinished = f".{secrets.token_hex(16)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(unfinished, flags, FILE_MODE, dir_fd=folder)
    try:
        with os.fdopen(file, "wb") as stream:
            os.fchmod(file, FILE_MODE)
            stream.write(content)
        heard()
        os.replace(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(unfinished, dir_fd=folder)
        raise


def plan_sidecars(
    path: Path,
    checksum: str | None,
    settings: FileHandlingSettings,
    announcement: dict[str, JsonValue] | None,
) -> tuple[tuple[Sidecar, ...], tuple[DataFile, ...], tuple[Notice, ...]]:
    """The ingestor's own files, how the catalogue lists them, and those that cannot be.

    Their names begin with the data file's full one, so that files of other extensions have their own. What is
    listed is what will be written, not what was, so that a preview shows the same list.
    """
    folder = sidecar_directory(path, settings)
    if _is_above_the_data(folder, settings):
        reason = f"{folder} lies outside the data directory, so that checksum and message are not written."
        return (), (), (Notice(subject="ingestor_files_directory", reason=reason),)
    planned: list[tuple[Sidecar, str | None]] = []
    notices: list[Notice] = []
    keeps_checksums = settings.save_file_hash and checksum is not None

    def plan(name: str, content: str, content_checksum: str | None) -> None:
        if len(os.fsencode(name)) > LONGEST_NAME_BYTES:
            reason = f"{name} would be longer than a file system allows, and is not written."
            notices.append(Notice(subject="ingestor_files_directory", reason=reason))
        else:
            planned.append((Sidecar(path=str(folder / name), content=content), content_checksum))

    if keeps_checksums and checksum:
        plan(f"{path.name}.{settings.hash_file_extension}", checksum, None)
    if settings.message_to_file and announcement is not None:
        text = json.dumps(announcement, ensure_ascii=False, indent=2)
        name = f"{path.name}.{settings.message_file_extension}"
        own = text_checksum(text, settings.file_hash_algorithm) if settings.compute_file_hash else None
        plan(name, text, own)
        if keeps_checksums and own:
            plan(f"{name}.{settings.hash_file_extension}", own, None)

    now = utc_text(datetime.now(UTC).timestamp())
    owner = (
        {
            "uid": str(os.geteuid()),
            "gid": str(answered(folder, lambda: _group_in(folder))),
            "perm": oct(stat.S_IFREG | FILE_MODE),
        }
        if settings.compute_file_stats
        else {}
    )
    listed = tuple(
        DataFile(path=sidecar.path, size=len(sidecar.content.encode()), time=now, chk=chk, **owner)
        for sidecar, chk in planned
    )
    return tuple(sidecar for sidecar, _ in planned), listed, tuple(notices)


def _group_in(folder: Path) -> int:
    """The group of a file that is made in a folder, which need not be there yet."""
    above = next((place for place in (folder, *folder.parents) if place.exists()), Path("/"))
    status = above.stat()
    return status.st_gid if status.st_mode & stat.S_ISGID else os.getegid()


def _is_above_the_data(folder: Path, settings: FileHandlingSettings) -> bool:
    """Whether a relative setting means a folder outside, as for a file in the data directory itself.

    By its name, which is the facility's choice; one that a link leads outside is refused when it is opened.
    """
    if not settings.data_directory or os.path.isabs(settings.ingestor_files_directory):  # noqa: PTH117
        return False
    return not folder.is_relative_to(os.path.normpath(settings.data_directory))
