"""Past files: what lies on disk, and which of it the catalogue holds.

Nothing here writes. Two steps: :func:`walk` lists the files below some folders, and :func:`discover` asks the
catalogue about them. What is done about the missing ones is ``orchestration.discovery``'s business.

A file is recognised by its full path, which a dataset's source folder and its file list make together, so
that it does not matter who registered it. (The pid would need the file to be opened, and its schema.) The
catalogue has an index of source folders, and none of the paths in file lists: so for each file the datasets
of its own folder are looked at, those of the folder above only when it was not found there, and so on. Where
a file was registered under some other folder, whoever knows its pid can say so.
"""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict

from scicat_dagster.errors import PermanentError
from scicat_dagster.files import canonical_path
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.models import DatasetRecord
from scicat_dagster.settings import FileHandlingSettings

DEFAULT_PATTERNS = ("*.nxs", "*.hdf", "*.h5", "*.hdf5")

_MOST_DATASETS = 500
_MOST_FILES = 20_000
"""Of the file lists that are read at once. Most datasets have few, some have tens of thousands."""

State = Literal["registered", "changed", "missing"]


@dataclass(frozen=True)
class Criteria:
    """Which files are wanted. Those modified at ``since`` or later, and before ``until``."""

    patterns: Sequence[str] = DEFAULT_PATTERNS
    """Of their names, as in a shell: a name that begins with a dot has to be asked for with the dot."""
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


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that is left out on purpose, although it looks like what is wanted."""

    path: str
    reason: str


class FileState(BaseModel):
    """A file on disk and what the catalogue has of it."""

    model_config = ConfigDict(frozen=True)

    path: str
    root: str
    instrument: str
    state: State
    """``changed`` is registered, but with another size than it has now."""
    size: int
    modified: datetime
    pid: str | None = None
    registered_size: int | None = None


class LeftOut(BaseModel):
    """A place that was not looked at, and why."""

    model_config = ConfigDict(frozen=True)

    path: str
    reason: str


class Count(BaseModel):
    """How many files there are of an instrument below one root."""

    model_config = ConfigDict(frozen=True)

    root: str
    instrument: str
    on_disk: int
    registered: int
    changed: int
    missing: int


class Discovery(BaseModel):
    """All that was found."""

    model_config = ConfigDict(frozen=True)

    files: tuple[FileState, ...] = ()
    unreadable: tuple[LeftOut, ...] = ()
    refused: tuple[LeftOut, ...] = ()

    def of(self, state: State) -> list[FileState]:
        """The files in one state."""
        return [file for file in self.files if file.state == state]

    def counts(self) -> list[Count]:
        """How many files there are in each state, by root and instrument."""
        numbers: dict[tuple[str, str], dict[State, int]] = defaultdict(lambda: defaultdict(int))
        for file in self.files:
            numbers[file.root, file.instrument][file.state] += 1
        return [
            Count(
                root=root,
                instrument=instrument,
                on_disk=sum(states.values()),
                registered=states["registered"],
                changed=states["changed"],
                missing=states["missing"],
            )
            for (root, instrument), states in sorted(numbers.items())
        ]


Entry = FoundFile | Unreadable | Refused


def walk(roots: Iterable[str], criteria: Criteria, handling: FileHandlingSettings) -> Iterator[Entry]:
    """The wanted files below some folders, each once, and what could not be looked at.

    Symbolic links below a root are not followed, because one file must not be registered under two paths,
    nor a loop be walked for ever; those that look like what is wanted are ``Refused``. Left out without a
    word are folders whose name begins with a dot (storage keeps its snapshots in such), and the ingestor's.

    Raises
    ------
    PermanentError
        A root is none that files may be registered from.
    """
    walks: list[_Walk] = []
    # Sorted, so that a root comes before those within it.
    for root in sorted({_checked(root, handling.data_directory) for root in roots}):
        if not any(root.startswith(f"{walk.root}/") for walk in walks):
            walks.append(_Walk(root, criteria, handling))
    return (entry for walk in walks for entry in walk.entries())


def _checked(root: str, data_directory: str) -> str:
    try:
        return canonical_path(root.rstrip("/"), data_directory)
    except ValueError as error:
        raise PermanentError(
            f"{root!r} cannot be searched for files. {error}",
            remedy="Name absolute folders in ingestion.file_handling.data_directory.",
        ) from None


class _Walk:
    """One root being walked."""

    def __init__(self, root: str, criteria: Criteria, handling: FileHandlingSettings) -> None:
        self.root = root
        self._base = posixpath.normpath(handling.data_directory or root)
        self._patterns = tuple(criteria.patterns)
        self._instruments = {name.casefold() for name in criteria.instruments}
        self._since = float("-inf") if criteria.since is None else criteria.since.timestamp()
        self._until = float("inf") if criteria.until is None else criteria.until.timestamp()
        own = PurePosixPath(handling.ingestor_files_directory)
        # What is left of `../ingestor` is how the path of each of our folders ends.
        self._own = "/" + "/".join(part for part in own.parts if part not in {"..", "/"})

    def entries(self) -> Iterator[Entry]:
        folders = [self.root]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as scanned:
                    entries = sorted(scanned, key=lambda entry: entry.name)
            except OSError as error:
                yield Unreadable(folder, _in_words(error))
                continue
            below = []
            instrument = self._instrument(folder)
            wanted = self._is_wanted(folder)
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        below.append(entry)
                    elif entry.is_symlink():
                        if wanted and (entry.is_dir() or self._matches(entry.name)):
                            yield Refused(entry.path, "It is a symbolic link.")
                    elif wanted and self._matches(entry.name):
                        yield from self._file(entry, instrument)
                except OSError as error:
                    yield Unreadable(entry.path, _in_words(error))
            folders += [entry.path for entry in reversed(below) if not self._is_left_out(entry)]

    def _file(self, entry: os.DirEntry[str], instrument: str) -> Iterator[FoundFile | Refused]:
        if not entry.is_file(follow_symlinks=False):
            yield Refused(entry.path, "It is no regular file.")
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
        return any(
            fnmatchcase(name, pattern) and (not name.startswith(".") or pattern.startswith("."))
            for pattern in self._patterns
        )

    def _is_left_out(self, entry: os.DirEntry[str]) -> bool:
        return entry.name.startswith(".") or (self._own != "/" and entry.path.endswith(self._own))

    def _is_wanted(self, folder: str) -> bool:
        return not self._instruments or any(
            part.casefold() in self._instruments for part in PurePosixPath(folder).parts
        )

    def _instrument(self, folder: str) -> str:
        parts = PurePosixPath(folder).relative_to(self._base).parts
        return parts[0] if parts else posixpath.basename(folder)


def _in_words(error: OSError) -> str:
    return f"{error.strerror or error}."


def discover(
    entries: Iterable[Entry],
    catalogue: ScicatClient,
    *,
    known_pids: Callable[[Sequence[str]], Mapping[str, str]] = lambda _: {},
    answered: Callable[[int, int], object] = lambda _done, _all: None,
) -> Discovery:
    """Ask the catalogue about all files of a walk.

    Parameters
    ----------
    known_pids
        Asked for the pids of files that were not found by their folders. What it says is checked.
    answered
        Told from time to time how many files are settled, and how many there are.

    Raises
    ------
    PermanentError, TransientError
        The catalogue could not answer, or does not know us; then nothing can be said about any file.
    """
    found: list[FoundFile] = []
    unreadable: list[LeftOut] = []
    refused: list[LeftOut] = []
    for entry in entries:
        match entry:
            case FoundFile():
                found.append(entry)
            case Unreadable(path, reason):
                unreadable.append(LeftOut(path=_printable(path), reason=reason))
            case Refused(path, reason):
                refused.append(LeftOut(path=_printable(path), reason=reason))
    listed = _Listed(found, catalogue)
    listed.look_in_folders(answered)
    listed.look_up(known_pids(listed.missing()))
    answered(len(found), len(found))
    return Discovery(
        files=tuple(listed.state(file) for file in found),
        unreadable=tuple(unreadable),
        refused=tuple(refused),
    )


def _printable(path: str) -> str:
    """The path as text; bytes that are none are shown as such."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class _Listed:
    """What the catalogue lists of some files."""

    def __init__(self, files: Sequence[FoundFile], catalogue: ScicatClient) -> None:
        self._files = {file.path: file for file in files}
        self._catalogue = catalogue
        self._found: dict[str, tuple[str, int]] = {}

    def look_in_folders(self, answered: Callable[[int, int], object]) -> None:
        """Look for each file in the datasets of its folder, then of the folder above, and so on."""
        folders = {path: posixpath.dirname(path) for path in self._files}
        asked: set[str] = {"/"}
        while folders:
            new = sorted(set(folders.values()) - asked)
            for datasets in _batches(self._catalogue.datasets_from(new)):
                self._read(datasets)
                answered(len(self._found), len(self._files))
            asked.update(new)
            folders = {
                path: posixpath.dirname(folder)
                for path, folder in folders.items()
                if path not in self._found and folder != "/"
            }

    def look_up(self, pids: Mapping[str, str]) -> None:
        """Look into datasets that somebody knows."""
        for datasets in _batches(self._catalogue.datasets_called(sorted(set(pids.values())))):
            self._read(datasets)

    def missing(self) -> list[str]:
        """The files that were not found so far."""
        return [path for path in self._files if path not in self._found]

    def state(self, file: FoundFile) -> FileState:
        """What became known of a file."""
        pid, size = self._found.get(file.path, (None, None))
        state: State = "missing" if pid is None else "registered" if size == file.size else "changed"
        return FileState(
            path=file.path,
            root=file.root,
            instrument=file.instrument,
            state=state,
            size=file.size,
            modified=datetime.fromtimestamp(file.modified, UTC),
            pid=pid,
            registered_size=size,
        )

    def _read(self, datasets: Sequence[DatasetRecord]) -> None:
        folders = {record.pid: record.sourceFolder for record in datasets}
        for block in self._catalogue.origdatablocks_of(list(folders)):
            for listed in block.dataFileList:
                path = posixpath.normpath(posixpath.join(folders[block.datasetId], listed.path))
                file = self._files.get(path)
                # Should several datasets list a file, one that has its present size counts.
                if file is not None and (path not in self._found or listed.size == file.size):
                    self._found[path] = (block.datasetId, int(listed.size))


def _batches(records: Iterable[DatasetRecord]) -> Iterator[list[DatasetRecord]]:
    """Datasets whose file lists together are not too long to be read at once."""
    batch: list[DatasetRecord] = []
    files = 0
    for record in records:
        number = 1 if record.numberOfFiles is None else record.numberOfFiles
        if batch and (files + number > _MOST_FILES or len(batch) >= _MOST_DATASETS):
            yield batch
            batch, files = [], 0
        batch.append(record)
        files += number
    if batch:
        yield batch
