"""Walking folders for data files: which count, and what had to be left out, with the reason."""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict

from scicat_dagster.config.models import FileHandlingSettings
from scicat_dagster.errors import PermanentError
from scicat_dagster.files.paths import canonical_path
from scicat_dagster.patience import Signs, SilentStorageError, answered
from scicat_dagster.wording import numbered

_MOST_LOOKED_AT = 100_000
"""Of the files of a folder without data files; there may be years of others."""

_MOST_NAMED = 5

BRIEF_PATIENCE_SECONDS = 5.0
"""For the storage of a folder, once another one did not answer: there may be thousands behind one mount."""

_LASTING = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""What does not pass by itself; any other error is one of a storage that fails."""


@dataclass(frozen=True)
class Criteria:
    """Which files are wanted. Those modified at ``since`` or later, and before ``until``."""

    patterns: Sequence[str] = ()
    """Of their names, as in a shell: a name that begins with a dot has to be asked for with the dot. Empty:
    those of the configuration.
    """
    since: datetime | None = None
    until: datetime | None = None
    instruments: Sequence[str] = ()
    """Names of folders, one of which has to be on the way to the file; upper and lower case are the same.
    Schemas know the instrument by the file's content, and opening each file would take days.
    """


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file on disk. ``modified`` is in seconds since 1970."""

    path: str
    root: str
    instrument: str
    """The first folder below the data directory, or else below the root: where most facilities have it."""
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A folder or file that could not be looked at, so that nobody knows what it holds."""

    path: str
    reason: str
    is_passing: bool = False
    """Whether it is the storage that fails, and may hold as much as before once it works."""


@dataclass(frozen=True, slots=True)
class Empty(Unreadable):
    """A root without anything in it: that of a storage which is not mounted, or which nobody has used yet."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that is left out on purpose, although it looks like what is wanted."""

    path: str
    reason: str


class LeftOut(BaseModel):
    """A place that was not looked at, and why."""

    model_config = ConfigDict(frozen=True)

    path: str
    reason: str


Entry = FoundFile | Unreadable | Refused


def walk(roots: Iterable[str], criteria: Criteria, handling: FileHandlingSettings) -> Iterator[Entry]:
    """The wanted files below some folders, each once, and what could not be looked at.

    Symbolic links below a root are not followed, because one file must not be registered under two paths,
    nor a loop be walked indefinitely; those that look like what is wanted are ``Refused``. Left out silently
    are folders whose name begins with a dot (storage keeps its snapshots in such), and the ingestor's.

    Raises
    ------
    PermanentError
        A root is none that files may be registered from.
    """
    return (entry for walk in walks(roots, criteria, handling) for entry in walk.entries())


def wanted_names(criteria: Criteria, handling: FileHandlingSettings) -> tuple[str, ...]:
    """The patterns of the names of data files."""
    return tuple(criteria.patterns) or handling.file_names


class NothingFound(BaseModel):
    """A folder in which no file is wanted, what was looked for, and what there is instead."""

    model_config = ConfigDict(frozen=True)

    folder: str
    looked_for: tuple[str, ...]
    """Patterns of names."""
    others: int = 0
    """How many files have other names."""
    names: tuple[str, ...] = ()
    """Some of them."""
    not_chosen: int = 0
    """How many have such a name, but were modified at another time or lie in folders that were not asked for.
    """

    def as_text(self) -> str:
        """The same for a person."""
        text = f"{self.folder}: no data file. Looked for {', '.join(self.looked_for)}"
        if self.not_chosen:
            return (
                f"{text}; {numbered(self.not_chosen, 'file')} of such a name did not meet the other options."
            )
        if not self.others:
            return f"{text}; there is no other file either."
        more = ", …" if self.others > len(self.names) else ""
        return (
            f"{text}; {numbered(self.others, 'file')} with other names: {', '.join(self.names)}{more}. "
            "If these are data files, add a pattern to ingestion.file_handling.file_names."
        )


def nothing_found(folder: str, criteria: Criteria, handling: FileHandlingSettings) -> NothingFound:
    """What there is in a folder in which a walk found nothing; raises as :func:`walk`."""
    patterns = wanted_names(criteria, handling)
    files = islice(walk([folder], Criteria(patterns=("*",)), handling), _MOST_LOOKED_AT)
    names = [posixpath.basename(entry.path) for entry in files if isinstance(entry, FoundFile)]
    others = [name for name in names if not has_name(name, patterns)]
    return NothingFound(
        folder=printable(folder),
        looked_for=patterns,
        others=len(others),
        names=tuple(printable(name) for name in others[:_MOST_NAMED]),
        not_chosen=len(names) - len(others),
    )


def nothing_found_in(
    folders: Iterable[str], found: Iterable[str], criteria: Criteria, handling: FileHandlingSettings
) -> tuple[NothingFound, ...]:
    """Those folders in which none of the found places lies, nor are one, with what there is instead."""
    paths = tuple(f"{path}/" for path in found)
    return tuple(
        nothing_found(folder, criteria, handling)
        for folder in folders
        if not any(path.startswith(f"{folder.rstrip('/')}/") for path in paths)
    )


def has_name(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file's name is that of a data file."""
    return any(
        fnmatchcase(name, pattern) and (not name.startswith(".") or pattern.startswith("."))
        for pattern in patterns
    )


def printable(path: str) -> str:
    """The path as text; bytes that are none are shown as such."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def walks(roots: Iterable[str], criteria: Criteria, handling: FileHandlingSettings) -> list[Walk]:
    """The walks of some roots, none of which is within another; raises as :func:`walk`."""
    made: list[Walk] = []
    # Sorted, so that a root comes before those within it.
    for root in sorted({_checked(root, handling.data_directory) for root in roots}):
        if not any(root.startswith(f"{walk.root}/") for walk in made):
            made.append(Walk(root, criteria, handling))
    return made


def _checked(root: str, data_directory: str) -> str:
    try:
        return canonical_path(root.rstrip("/"), data_directory)
    except ValueError as error:
        raise PermanentError(
            f"{root!r} cannot be searched for files. {error}",
            remedy="Name absolute folders in ingestion.file_handling.data_directory.",
        ) from None


class Walk:
    """One root being walked."""

    def __init__(self, root: str, criteria: Criteria, handling: FileHandlingSettings) -> None:
        self.root = root
        self._base = posixpath.normpath(handling.data_directory or root)
        self._patterns = wanted_names(criteria, handling)
        self._instruments = {name.casefold() for name in criteria.instruments}
        self._since = float("-inf") if criteria.since is None else criteria.since.timestamp()
        self._until = float("inf") if criteria.until is None else criteria.until.timestamp()
        own = PurePosixPath(handling.ingestor_files_directory)
        # What is left of `../ingestor` is how the path of each of our folders ends.
        self._own = "/" + "/".join(part for part in own.parts if part not in {"..", "/"})
        self._patience: float | None = None

    def entries(self) -> Iterator[Entry]:
        """What is found below the root."""
        folders = [self.root]
        while folders:
            below: list[str] = []
            yield from self.entries_in(folders.pop(), below)
            folders += reversed(below)

    def entries_in(self, folder: str, below: list[str]) -> Iterator[Entry]:
        """What is found in one folder; those within it that are to be walked are added to ``below``.

        A folder that hangs is ``Unreadable``, and a root without anything in it is ``Empty``.
        """
        signs, within = Signs(), list[str]()
        try:
            yield from answered(
                folder,
                lambda: list(self._listed(folder, within, signs.heard)),
                signs=signs,
                seconds=self._patience,
            )
        except SilentStorageError as error:
            self._patience = BRIEF_PATIENCE_SECONDS
            yield Unreadable(folder, error.what, is_passing=True)
        else:
            below += within

    def _listed(self, folder: str, below: list[str], heard: Callable[[], None]) -> Iterator[Entry]:
        entries: list[os.DirEntry[str]] = []
        try:
            with os.scandir(folder) as scanned:
                for entry in scanned:
                    heard()
                    entries.append(entry)
        except OSError as error:
            yield _unreadable(folder, error)
            return
        if not entries and folder == self.root:
            yield Empty(folder, "It is empty. See that the storage is mounted.", is_passing=True)
        entries.sort(key=lambda entry: entry.name)
        instrument = self._instrument(folder)
        wanted = self._is_wanted(folder)
        for entry in entries:
            heard()
            try:
                if entry.is_dir(follow_symlinks=False):
                    if not self._is_left_out(entry):
                        below.append(entry.path)
                elif entry.is_symlink():
                    if wanted and (entry.is_dir() or self._matches(entry.name)):
                        yield Refused(entry.path, "It is a symbolic link.")
                elif wanted and self._matches(entry.name):
                    yield from self._file(entry, instrument)
            except OSError as error:
                yield _unreadable(entry.path, error)

    def _file(self, entry: os.DirEntry[str], instrument: str) -> Iterator[FoundFile | Refused]:
        if not entry.is_file(follow_symlinks=False):
            yield Refused(entry.path, "It is not a regular file.")
            return
        status = entry.stat(follow_symlinks=False)
        if not self._since <= status.st_mtime < self._until:
            return
        try:
            path = canonical_path(entry.path)
        except ValueError as error:
            yield Refused(entry.path, str(error))
        else:
            yield FoundFile(path, self.root, instrument, status.st_size, status.st_mtime)

    def _matches(self, name: str) -> bool:
        return has_name(name, self._patterns)

    def _is_left_out(self, entry: os.DirEntry[str]) -> bool:
        return entry.name.startswith(".") or (self._own != "/" and entry.path.endswith(self._own))

    def _is_wanted(self, folder: str) -> bool:
        return not self._instruments or any(
            part.casefold() in self._instruments for part in PurePosixPath(folder).parts
        )

    def _instrument(self, folder: str) -> str:
        parts = PurePosixPath(folder).relative_to(self._base).parts
        return parts[0] if parts else posixpath.basename(folder)


def _unreadable(path: str, error: OSError) -> Unreadable:
    return Unreadable(path, f"{error.strerror or error}.", is_passing=error.errno not in _LASTING)
