"""Comparing files on disk with the catalogue: registered, changed, missing or failed, with their numbers."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from scicat_dagster.config.loading import Configuration
from scicat_dagster.config.models import FileHandlingSettings
from scicat_dagster.dataset.rebuild import count_again
from scicat_dagster.errors import IngestionError
from scicat_dagster.schemas.loading import load_schemas
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.models import DatasetRecord
from scicat_dagster.usecases.walk import (
    Criteria,
    Entry,
    FoundFile,
    LeftOut,
    NothingFound,
    Refused,
    Unreadable,
    nothing_found_in,
    printable,
)

_MOST_DATASETS = 500

_MOST_FILES = 20_000
"""Of the file lists that are read at once. Most datasets have few, some have tens of thousands."""

State = Literal["registered", "changed", "missing", "failed"]


class FileState(BaseModel):
    """A file on disk and what the catalogue has of it."""

    model_config = ConfigDict(frozen=True)

    path: str
    root: str
    instrument: str
    state: State
    """``changed`` is registered, but with another size than it has now; ``failed`` is missing, because its
    latest run failed. A file of whose datasets only some are registered is missing."""
    size: int
    modified: datetime
    pid: str | None = None
    registered_size: int | None = None
    reason: str = ""
    """Why its run failed, or what else is known of its state."""


class Count(BaseModel):
    """How many files there are of an instrument below one root."""

    model_config = ConfigDict(frozen=True)

    root: str
    instrument: str
    on_disk: int
    registered: int
    changed: int
    missing: int
    failed: int = 0


class Discovery(BaseModel):
    """All that was found."""

    model_config = ConfigDict(frozen=True)

    files: tuple[FileState, ...] = ()
    unreadable: tuple[LeftOut, ...] = ()
    refused: tuple[LeftOut, ...] = ()
    nothing_found: tuple[NothingFound, ...] = ()
    """The folders in which no file is wanted."""

    def of(self, *states: State) -> list[FileState]:
        """The files in one of these states."""
        return [file for file in self.files if file.state in states]

    def with_failed(self, reasons: Mapping[str, str]) -> Discovery:
        """The same, where somebody knows why files that the catalogue does not hold have failed, by path."""
        return self.model_copy(update={"files": tuple(_judged(file, reasons) for file in self.files)})

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
                failed=states["failed"],
            )
            for (root, instrument), states in sorted(numbers.items())
        ]


def _judged(file: FileState, reasons: Mapping[str, str]) -> FileState:
    if file.state != "missing" or file.path not in reasons:
        return file
    return file.model_copy(update={"state": "failed", "reason": reasons[file.path]})


def discover(
    entries: Iterable[Entry],
    catalogue: ScicatClient,
    *,
    known_pids: Callable[[Sequence[str]], Mapping[str, str]] = lambda _: {},
    datasets_of: Callable[[Sequence[str]], Mapping[str, int | str]] = lambda _: {},
    answered: Callable[[int, int], object] = lambda _done, _all: None,
) -> Discovery:
    """Ask the catalogue about all files of a walk.

    Parameters
    ----------
    known_pids
        Asked for the pids of files that were not found by their folders. What it says is checked.
    datasets_of
        Asked of how many datasets files are that the catalogue lists, or why that is not known. One, where
        it says nothing.
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
                unreadable.append(LeftOut(path=printable(path), reason=reason))
            case Refused(path, reason):
                refused.append(LeftOut(path=printable(path), reason=reason))
    listed = _Listed(found, catalogue)
    listed.look_in_folders(answered)
    listed.look_up(known_pids(listed.missing()))
    listed.expect(datasets_of(listed.unchanged()))
    answered(len(found), len(found))
    return Discovery(
        files=tuple(listed.state(file) for file in found),
        unreadable=tuple(unreadable),
        refused=tuple(refused),
    )


def count_datasets(
    paths: Sequence[str],
    configuration: Configuration,
    settled: Callable[[Sequence[str]], Collection[str]] = lambda _: (),
) -> dict[str, int | str]:
    """How many datasets each file is, or why that is not known; nothing where every schema makes one.

    A file whose schema makes a dataset of each NXentry is opened, in a process of its own, unless it is known
    to be ``settled``: registered as a whole.
    """
    try:
        schemas = load_schemas(configuration.schemas_directory, configuration.fallback_schema)
    except IngestionError as error:
        return dict.fromkeys(paths, error.what)
    if not schemas.makes_several:
        return {}
    counted: dict[str, int | str] = {}
    left = settled(paths)
    for path in paths:
        if path in left:
            continue
        try:
            counted[path] = count_again(path, schemas, configuration.settings)
        except IngestionError as error:
            counted[path] = error.what
    return counted


def with_empty_folders(
    found: Discovery, folders: Sequence[str], criteria: Criteria, handling: FileHandlingSettings
) -> Discovery:
    """The same, with what there is instead in folders that hold no wanted file; raises as ``walk``."""
    seen = [file.path for file in found.files]
    seen += [place.path for place in (*found.refused, *found.unreadable)]
    empty = nothing_found_in(folders, seen, criteria, handling)
    return found.model_copy(update={"nothing_found": empty})


class _Listed:
    """What the catalogue lists of some files."""

    def __init__(self, files: Sequence[FoundFile], catalogue: ScicatClient) -> None:
        self._files = {file.path: file for file in files}
        self._catalogue = catalogue
        self._found: dict[str, tuple[str, int]] = {}
        self._pids: dict[str, set[str]] = defaultdict(set)
        self._expected: Mapping[str, int | str] = {}

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

    def unchanged(self) -> list[str]:
        """The files that are listed with the size that they have."""
        return [path for path, (_, size) in self._found.items() if size == self._files[path].size]

    def expect(self, datasets: Mapping[str, int | str]) -> None:
        """Take it from now on that files are so many datasets; or, of others, why nobody knows."""
        self._expected = datasets

    def state(self, file: FoundFile) -> FileState:
        """What became known of a file."""
        expected, found = self._expected.get(file.path, 1), len(self._pids[file.path])
        pid, size = self._found.get(file.path, (None, None))
        state: State = "missing" if pid is None else "registered" if size == file.size else "changed"
        reason = ""
        if isinstance(expected, str):
            reason = f"Whether all its datasets are registered is not known: {expected}"
        elif 0 < found < expected:
            pid = size = None
            state, reason = "missing", f"{found} of its {expected} datasets are registered."
        return FileState(
            path=file.path,
            root=file.root,
            instrument=file.instrument,
            state=state,
            size=file.size,
            modified=datetime.fromtimestamp(file.modified, UTC),
            pid=pid,
            registered_size=size,
            reason=reason,
        )

    def _read(self, datasets: Sequence[DatasetRecord]) -> None:
        folders = {record.pid: record.sourceFolder for record in datasets}
        for block in self._catalogue.origdatablocks_of(list(folders)):
            for listed in block.dataFileList:
                path = posixpath.normpath(posixpath.join(folders[block.datasetId], listed.path))
                file = self._files.get(path)
                # Should several datasets list a file, one that has its present size counts.
                if file is None:
                    continue
                self._pids[path].add(block.datasetId)
                if path not in self._found or listed.size == file.size:
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
