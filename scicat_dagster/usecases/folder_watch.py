"""Finding files within minutes of their last byte, in folders that hold years of them.

A folder's modification time changes when a file comes into it. So a round asks each folder for its time, and
reads those that have changed; reading all of them, and the time of each file, is the nightly sweep's. A file
that keeps its old time when it is copied is left to the sweep as well.

What the storage does not show while it hangs, fails or is not mounted has not been seen: the watch goes on
elsewhere, and finds it afterwards.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from scicat_dagster.patience import SilentStorageError, answered
from scicat_dagster.usecases.walk import BRIEF_PATIENCE_SECONDS, Empty, Entry, FoundFile, Unreadable, Walk

MARGIN_SECONDS = 3600.0
"""How much older a file may be than the round before: it was renamed, or the storage's clock is slow."""

_GRANULARITY_SECONDS = 5.0
"""A folder that changed so short a time before it was read may change again and keep its time."""


@dataclass(frozen=True)
class _Folder:
    device: int
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
        self._gone_at: dict[str, float] = {}
        self._unseen: dict[str, str] = {}
        self._unseen_before: dict[str, str] = {}

    @property
    def unseen(self) -> dict[str, str]:
        """The places that the storage does not show now, each with the reason."""
        return self._unseen_before | self._unseen

    @property
    def position(self) -> float:
        """From when on another watch has to look at files to find all that this one has not done."""
        return min([self._since, *(file.modified for file in self._pending.values())])

    def look(self, seconds: float, settled_after: float) -> list[FoundFile]:
        """Look for so long; the files that were not written to for ``settled_after`` seconds."""
        deadline = self._clock() + seconds
        if not self._left:
            self._begun = self._now()
            self._unseen_before, self._unseen = self._unseen, {}
            self._left = [(walk, walk.root) for walk in reversed(self._walks)]
        while self._left and self._clock() < deadline:
            walk, folder = self._left.pop()
            self._left += [(walk, below) for below in reversed(self._below(walk, folder))]
        if not self._left:
            self._unseen_before = {}
            self._forget_gone()
        if not self._left and not self._unseen:
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
            status = answered(folder, Path(folder).stat, seconds=BRIEF_PATIENCE_SECONDS)
        except SilentStorageError as error:
            self._unseen[folder] = error.what
            return ()
        except PermissionError:
            # The sweep names those.
            self._folders.pop(folder, None)
            return ()
        except OSError as error:
            if folder == walk.root or not isinstance(error, FileNotFoundError | NotADirectoryError):
                self._unseen[folder] = f"{error.strerror}."
            else:
                self._folders.pop(folder, None)
            return ()
        known, modified = self._folders.get(folder), status.st_mtime
        is_same = known is not None and (known.device, known.modified) == (status.st_dev, modified)
        if known and is_same and known.read_at - modified > _GRANULARITY_SECONDS:
            return known.below
        below: list[str] = []
        entries = list(walk.entries_in(folder, below))
        if known and known.device == status.st_dev:
            # Somebody has removed all.
            entries = [entry for entry in entries if not isinstance(entry, Empty)]
        for entry in entries:
            if isinstance(entry, FoundFile) and self._is_new(entry):
                self._pending[entry.path] = entry
            elif isinstance(entry, Unreadable) and entry.is_passing:
                self._unseen[entry.path] = entry.reason
        if not (entries or below) and known and known.device != status.st_dev:
            # The mount point of a storage that was there before.
            self._unseen[folder] = "It is empty, and was another file system before."
        if not _hides_something(folder, entries, self._unseen):
            self._folders[folder] = _Folder(status.st_dev, modified, read_at, tuple(below))
        return tuple(below)

    def _is_new(self, file: FoundFile) -> bool:
        return file.modified >= self._since and self._done.get(file.path) != file.modified

    def _settled(self, seconds: float) -> list[FoundFile]:
        latest = self._now() - seconds
        shown = [path for path in self._pending if self._is_shown(path)]
        return [file for path in shown if (file := self._pending[path]).modified <= latest]

    def _is_shown(self, path: str) -> bool:
        """Whether a pending file can be seen now; what is known of it is brought up to date."""
        folder = os.path.dirname(path)  # noqa: PTH120 - of many paths
        if self._is_unseen(path):
            return False
        try:
            status = answered(path, Path(path).stat, seconds=BRIEF_PATIENCE_SECONDS)
        except SilentStorageError as error:
            # Nor are the others in its folder asked for now.
            self._unseen[folder] = error.what
            return False
        except (FileNotFoundError, NotADirectoryError):
            self._gone_at.setdefault(path, self._now())
            return False
        except OSError as error:
            self._unseen[path] = f"{error.strerror}."
            return False
        self._gone_at.pop(path, None)
        self._pending[path] = replace(self._pending[path], size=status.st_size, modified=status.st_mtime)
        return True

    def _is_unseen(self, path: str) -> bool:
        return any(path == place or path.startswith(f"{place}/") for place in self.unseen)

    def _forget_gone(self) -> None:
        """Forget the files that were gone before a round in which everything around them was seen."""
        for path, noticed in list(self._gone_at.items()):
            if noticed < self._begun and not self._is_unseen(path):
                del self._gone_at[path]
                self._pending.pop(path, None)


def _hides_something(folder: str, entries: Iterable[Entry], unseen: Mapping[str, str]) -> bool:
    """Whether the storage did not show all of a folder, so that it has to be read again."""
    return folder in unseen or any(isinstance(entry, Unreadable) and entry.is_passing for entry in entries)
