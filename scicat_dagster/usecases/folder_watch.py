"""Finding files within minutes of their last byte, in folders that hold years of them.

A folder's modification time changes when a file comes into it. So a round asks each folder for its time, and
reads those that have changed; reading all of them, and the time of each file, is the nightly sweep's. A file
that keeps its old time when it is copied is left to the sweep as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from scicat_dagster.usecases.walk import FoundFile, Walk

MARGIN_SECONDS = 3600.0
"""How much older a file may be than the round before: it was renamed, or the storage's clock is slow."""

_GRANULARITY_SECONDS = 5.0
"""A folder that changed so short a time before it was read may change again and keep its time."""


@dataclass(frozen=True)
class _Folder:
    modified: float
    read_at: float
    below: tuple[str, ...]


class FolderWatch:
    """What is known of the folders, from one look to the next; ``since`` is in seconds since 1970.

    A look takes some seconds at most and goes on where the last one ended, so that its cost does not depend
    on how many folders there are; how long a round takes does.
    """

    def __init__(
        self,
        walks: Iterable[Walk],
        since: float,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._walks = tuple(walks)
        self._since = since
        self._now = now
        self._clock = clock
        self._folders: dict[str, _Folder] = {}
        self._left: list[tuple[Walk, str]] = []
        self._begun = since
        self._pending: dict[str, FoundFile] = {}
        self._done: dict[str, float] = {}

    @property
    def position(self) -> float:
        """From when on another watch has to look at files to find all that this one has not done."""
        return min([self._since, *(file.modified for file in self._pending.values())])

    def look(self, seconds: float, settled_after: float) -> list[FoundFile]:
        """Look for so long; the files that were not written to for ``settled_after`` seconds."""
        deadline = self._clock() + seconds
        if not self._left:
            self._begun = self._now()
            self._left = [(walk, walk.root) for walk in reversed(self._walks)]
        while self._left and self._clock() < deadline:
            walk, folder = self._left.pop()
            self._left += [(walk, below) for below in reversed(self._below(walk, folder))]
        if not self._left:
            # Each file that came before the round began was seen in it.
            self._since = max(self._since, self._begun - MARGIN_SECONDS)
            self._done = {path: modified for path, modified in self._done.items() if modified >= self._since}
        return self._settled(settled_after)

    def done(self, files: Iterable[FoundFile]) -> None:
        """These files need no more looking after, unless they are written to again."""
        for file in files:
            self._pending.pop(file.path, None)
            self._done[file.path] = file.modified

    def _below(self, walk: Walk, folder: str) -> tuple[str, ...]:
        read_at = self._now()
        try:
            modified = Path(folder).stat().st_mtime
        except OSError:
            # It is gone, or cannot be read; the sweep names those.
            self._folders.pop(folder, None)
            return ()
        known = self._folders.get(folder)
        if known and known.modified == modified and known.read_at - modified > _GRANULARITY_SECONDS:
            return known.below
        below: list[str] = []
        for entry in walk.entries_in(folder, below):
            if isinstance(entry, FoundFile) and self._is_new(entry):
                self._pending[entry.path] = entry
        self._folders[folder] = _Folder(modified, read_at, tuple(below))
        return self._folders[folder].below

    def _is_new(self, file: FoundFile) -> bool:
        return file.modified >= self._since and self._done.get(file.path) != file.modified

    def _settled(self, seconds: float) -> list[FoundFile]:
        for path, file in list(self._pending.items()):
            try:
                status = Path(path).stat()
            except OSError:
                del self._pending[path]
            else:
                self._pending[path] = replace(file, size=status.st_size, modified=status.st_mtime)
        latest = self._now() - seconds
        return [file for file in self._pending.values() if file.modified <= latest]
