"""Files as the catalogue lists them: canonical paths, sizes, times, checksums, and the ingestor's own files.

What is *inside* a NeXus file belongs to :mod:`scicat_dagster.nexus`. Nothing here writes, except
:func:`write_sidecars`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, JsonValue

from scicat_dagster.errors import Notice, PermanentError, TransientError
from scicat_dagster.limits import LONGEST_NAME_BYTES, LONGEST_PATH_BYTES
from scicat_dagster.settings import FileHandlingSettings

_CHUNK_BYTES = 1 << 20
_SMALL_BYTES = 1 << 30
"""A file that is read in seconds may be as sparse as it likes."""

_MOST_COMPRESSED = 1000
"""Compression of file systems stays below it: lz4 reaches 255, and real data do not reach that."""

_UNSEEN = frozenset({"Cc", "Cs", "Cf"})
"""Control characters, halves of surrogates, and those that only change how others look: two paths that differ
in these alone look the same to everybody.
"""


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


def canonical_path(text: str, data_directory: str = "") -> str:
    """The one spelling of a file's path: absolute, POSIX, normalised, symbolic links left as they are.

    It is the file's identity everywhere (partition key, catalogue entry), so anything that could mean two
    things is refused. ``..`` is the folder above by its name, before anything is compared with
    ``data_directory``; a symbolic link on the way does not change that.

    Raises
    ------
    ValueError
        The path is relative, holds control characters or ``...``, is too long, or lies
        outside ``data_directory`` (when one is given).
    """
    if len(text.encode("utf-8", "surrogatepass")) > LONGEST_PATH_BYTES:
        raise ValueError(f"The path {text[:80]!r}… is longer than {LONGEST_PATH_BYTES} bytes.")
    if not text.startswith("/"):
        raise ValueError(f"The path {text!r} is not absolute.")
    if any(unicodedata.category(character) in _UNSEEN for character in text):
        raise ValueError(f"The path {text!r} holds control characters or invisible ones.")
    if "..." in text:
        raise ValueError(f"The path {text!r} holds `...`, which a partition key cannot.")
    parts = [part for part in os.path.normpath(text).split("/") if part]
    if not parts or text.endswith(("/", "/.", "/..")):
        raise ValueError(f"The path {text!r} names a directory.")
    if any(len(os.fsencode(part)) > LONGEST_NAME_BYTES for part in parts):
        raise ValueError(f"The path {text[:80]!r}… has a part that is longer than a file system allows.")
    path = PurePosixPath("/", *parts)
    # normpath keeps two leading slashes, which POSIX allows to mean something else.
    if data_directory and not path.is_relative_to("/" + os.path.normpath(data_directory).lstrip("/")):
        raise ValueError(f"The path {text!r} lies outside the data directory {data_directory!r}.")
    return str(path)


class _Hash(Protocol):
    def update(self, data: memoryview, /) -> object: ...

    def hexdigest(self) -> str: ...


def describe_file(
    path: Path, settings: FileHandlingSettings, announcement: dict[str, JsonValue] | None = None
) -> FileDescription:
    """Measure a complete file: size, time, owner and checksum, and plan the files that go beside it.

    Raises
    ------
    TransientError
        The file changed while it was read, or cannot be read now.
    PermanentError
        There is no right to read it, it is no regular file, it lies outside the data directory, or nearly
        nothing of it is on the disk.
    """
    with _explained("read", path), _opened(path) as file:
        before = os.fstat(file)
        if not stat.S_ISREG(before.st_mode):
            raise PermanentError(
                f"{path} is no regular file.",
                remedy="Announce the NeXus file itself, not a folder or device.",
            )
        check_place(path, before, settings.data_directory)
        check_stored(path, before)
        checksum = _checksum(file, settings.file_hash_algorithm) if settings.compute_file_hash else None
        after = path.stat()
    if _identity(before) != _identity(after):
        raise TransientError(
            f"{path} changed while it was read.",
            remedy="Nothing to do if it is still being written; it is tried again.",
        )
    data_file = _data_file(path, after, checksum, settings)
    sidecars, listed, notices = _plan_sidecars(path, checksum, settings, announcement)
    is_relative = not settings.ingestor_files_directory.startswith("/")
    return FileDescription(
        data_file=data_file,
        sidecars=sidecars,
        sidecar_files=listed,
        checksum_algorithm=settings.file_hash_algorithm if checksum else None,
        # An absolute folder is one that the operator chose.
        sidecars_within=settings.data_directory if is_relative else "",
        notices=notices,
    )


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
    with _explained("read", path):
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
            remedy="If this is no mistake of the file writer, copy the file with `cp --sparse=never`.",
        )


def sidecar_directory(path: Path, settings: FileHandlingSettings) -> Path:
    """Where the ingestor's own files go; a relative setting is relative to the data file's folder."""
    return Path(os.path.normpath(path.parent / settings.ingestor_files_directory))


def write_sidecars(description: FileDescription) -> None:
    """Write the planned files, each whole or not at all; the folder is made when it is missing.

    Whoever may write beside the data must not make us write elsewhere, so that no link is followed.

    Raises
    ------
    TransientError
        The folder or a file cannot be written, for instance because the disk is full.
    PermanentError
        There is no right to write there, or the folder is a link or lies outside the data directory.
    """
    for sidecar in description.sidecars:
        path = Path(sidecar.path)
        with _sidecar_folder(path.parent, description.sidecars_within) as folder, _explained("write", path):
            _write_whole(folder, path.name, sidecar.content.encode())


@contextmanager
def _sidecar_folder(path: Path, within: str) -> Iterator[int]:
    """A descriptor of the folder, by which its files are named: its path may lead elsewhere at any time."""
    _check_sidecar_folder(path, within)
    with _explained("make", path):
        path.mkdir(parents=True, exist_ok=True)
        folder = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_sidecar_folder(path, within)
        with _explained("make", path):
            is_same = os.path.samestat(os.fstat(folder), path.stat())
        if not is_same:
            raise TransientError(f"{path} was replaced while it was opened.", remedy="It is tried again.")
        yield folder
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


def _write_whole(folder: int, name: str, content: bytes) -> None:
    # Random, because somebody else could have put a link at a name that can be guessed.
    unfinished = f".{secrets.token_hex(16)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(unfinished, flags, 0o666, dir_fd=folder)
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(content)
        os.replace(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(unfinished, dir_fd=folder)
        raise


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
def _explained(doing: Literal["read", "make", "write"], path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        place = who_forbids(path)
        if doing != "read" and place == path:
            place = next(folder for folder in path.parents if folder.exists())
        right = f"read {place}" if doing == "read" else f"write in {place}"
        raise PermanentError(
            f"No right to {doing} {path}.",
            remedy=f"Give the account that runs Dagster the right to {right}, then re-execute the run.",
        ) from error
    except OSError as error:
        raise TransientError(
            f"{path} cannot be used: {error.strerror}.",
            remedy="See that the storage is mounted and has room; it is tried again.",
        ) from error


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    # A pipe that took the file's place would be waited for.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def _checksum(file: int, algorithm: str) -> str:
    digest: _Hash = blake3() if algorithm == "blake3" else hashlib.new(algorithm, usedforsecurity=False)
    buffer = bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    while count := os.readv(file, [buffer]):
        digest.update(view[:count])
    return digest.hexdigest()


def _data_file(
    path: Path, status: os.stat_result, checksum: str | None, settings: FileHandlingSettings
) -> DataFile:
    owner = (
        {"uid": str(status.st_uid), "gid": str(status.st_gid), "perm": oct(status.st_mode)}
        if settings.compute_file_stats
        else {}
    )
    return DataFile(path=str(path), size=status.st_size, time=_utc(status.st_mtime), chk=checksum, **owner)


def _plan_sidecars(
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
        own = _text_checksum(text, settings.file_hash_algorithm) if settings.compute_file_hash else None
        plan(name, text, own)
        if keeps_checksums and own:
            plan(f"{name}.{settings.hash_file_extension}", own, None)

    now = _utc(datetime.now(UTC).timestamp())
    owner = (
        {"uid": str(os.getuid()), "gid": str(os.getgid()), "perm": oct(stat.S_IFREG | 0o644)}
        if settings.compute_file_stats
        else {}
    )
    listed = tuple(
        DataFile(path=sidecar.path, size=len(sidecar.content.encode()), time=now, chk=chk, **owner)
        for sidecar, chk in planned
    )
    return tuple(sidecar for sidecar, _ in planned), listed, tuple(notices)


def _is_above_the_data(folder: Path, settings: FileHandlingSettings) -> bool:
    """Whether a relative setting means a folder outside, as for a file in the data directory itself.

    By its name, which is the facility's choice; one that a link leads outside is refused when it is opened.
    """
    if not settings.data_directory or os.path.isabs(settings.ingestor_files_directory):  # noqa: PTH117
        return False
    return not folder.is_relative_to(os.path.normpath(settings.data_directory))


def _text_checksum(text: str, algorithm: str) -> str:
    make: Callable[[bytes], _Hash] = (
        blake3 if algorithm == "blake3" else lambda data: hashlib.new(algorithm, data, usedforsecurity=False)
    )
    return make(text.encode()).hexdigest()


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
