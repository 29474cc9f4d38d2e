"""Other files that belong to a data file: what its links name, and what lies beside it by a pattern.

Photon sources write a small master file and the detectors' files beside it. Nothing outside of the data
directory is opened or listed, wherever names and symbolic links lead.
"""

from __future__ import annotations

import errno
import glob
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import islice, takewhile
from pathlib import Path, PurePosixPath

from scicat_dagster.errors import IngestionError, Notice, PermanentError, TransientError
from scicat_dagster.files.access import SETTLED_SECONDS, NotReadyError, opened_file, storage_errors
from scicat_dagster.files.identity import CompleteFile
from scicat_dagster.files.paths import canonical_path
from scicat_dagster.patience import answered

MOST_FOLLOWED = 30
"""Files that values are read from by links; metadata are in few."""

MOST_LISTED = 10_000

SUBJECT = "files"
"""Of a notice: the section of a schema that other files belong to."""


_LISTING_SECONDS = 300.0
"""For all files that belong to one: each is looked for, and there may be thousands."""

_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}
"""What says that a file is not there for us; any other error says that the storage fails."""

_Found = tuple[str, tuple[str, ...]]
"""A name or pattern, and the paths of the files that it means."""


class FollowedFiles(ExitStack):
    """The files that links of a data file lead to, opened for the child that reads it.

    They have to lie in the folder ``within``; empty: nothing is followed.
    """

    def __init__(self, file: Path, within: str) -> None:
        super().__init__()
        self._folder = file.parent
        self._within = within
        self.descriptors: list[int] = []
        self.known: dict[str, int | str] = {}
        """For each path its place among the descriptors, from 1 on, or why it cannot be used."""

    def open(self, paths: Iterable[str]) -> bool:
        """Open what is not known yet; False where there is nothing new."""
        new = [path for path in paths if path not in self.known]
        if not self._within:
            return False
        for path in new:
            self.known[path] = self._opened(path)
        return bool(new)

    def _opened(self, path: str) -> int | str:
        if len(self.descriptors) >= MOST_FOLLOWED:
            return f"links to more than {MOST_FOLLOWED} files are not followed."
        # A file that was moved keeps absolute links to where it was: HDF5 looks beside it then, and so do we.
        beside = self._folder / PurePosixPath(path).name
        meant = answered(path, lambda: path if _is_there(path) or not _is_there(str(beside)) else str(beside))
        try:
            place = Path(canonical_path(meant, self._within))
            self.descriptors.append(self.enter_context(opened_file(place, self._within)))
        except NotReadyError as error:
            return error.what
        except TransientError:
            # A value must not be lost because the storage failed for a moment.
            raise
        except IngestionError as error:
            return error.what
        except ValueError as error:
            return str(error)
        return len(self.descriptors)


def other_files(
    file: CompleteFile,
    linked: Iterable[str],
    linked_within: str,
    patterns: Sequence[str],
    data_directory: str,
) -> tuple[tuple[str, ...], tuple[Notice, ...]]:
    """The files that belong to a data file, and what was looked for and is not there.

    ``linked`` are the names that its links use, of files that must be in the folder ``linked_within``;
    ``patterns`` are relative to its own folder, with ``*``, ``?``, ``[…]`` and ``**`` for any folders, and
    stay in the data directory, or in its own folder where there is none.

    Raises
    ------
    NotReadyError
        A file that it links is not there, and it was written only just now.
    TransientError
        The storage failed, so that nobody knows what is there.
    PermanentError
        There are more than can be listed.
    """
    return answered(
        Path(file.path).parent,
        lambda: _other_files(file, linked, linked_within, patterns, data_directory),
        seconds=_LISTING_SECONDS,
    )


def _other_files(
    file: CompleteFile,
    linked: Iterable[str],
    linked_within: str,
    patterns: Sequence[str],
    data_directory: str,
) -> tuple[tuple[str, ...], tuple[Notice, ...]]:
    within = data_directory or str(PurePosixPath(file.path).parent)
    by_links, by_patterns = list(_by_links(file, linked)), list(_by_patterns(file, patterns, within))
    notices = [_missing(file, name) for name, paths in by_links if not paths]
    notices += [
        Notice(subject=SUBJECT, reason=f"No file beside it matches {pattern!r}.")
        for pattern, paths in by_patterns
        if not paths
    ]
    found: set[str] = set()
    for place, (what, paths) in (
        *((linked_within, looked) for looked in by_links),
        *((within, looked) for looked in by_patterns),
    ):
        inside = {path for path in paths if _is_inside(path, place)}
        if len(inside) < len(paths):
            outside = f"{what!r} leads to files outside of {place}, which are not listed."
            notices.append(Notice(subject=SUBJECT, reason=outside))
        found |= {path for path in inside if _is_there(path) and _is_file(path) and path != file.path}
    if len(found) > MOST_LISTED:
        raise PermanentError(
            f"More than {MOST_LISTED} files belong to {file.path}.",
            remedy="Make the patterns in `files` of the schema narrower.",
        )
    return tuple(sorted(found)), tuple(notices)


def _is_there(path: str) -> bool:
    """Whether there is something at a path, of which a storage that fails says nothing."""
    with storage_errors("read", Path(path)):
        try:
            os.lstat(path)
        except ValueError:
            return False
        except OSError as error:
            if error.errno in _NOT_THERE:
                return False
            raise
    return True


def _is_file(path: str) -> bool:
    with storage_errors("read", Path(path)):
        return Path(path).is_file()


def _is_inside(path: str, within: str) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(within))


def _missing(file: CompleteFile, name: str) -> Notice:
    what = f"{file.path} refers to the file {name!r}, which is not there."
    if time.time() - file.modified_ns / 1e9 < SETTLED_SECONDS:
        raise NotReadyError(what, remedy="It is tried again, because the file was written only just now.")
    return Notice(subject=SUBJECT, reason=what)


def _by_links(file: CompleteFile, names: Iterable[str]) -> Iterator[_Found]:
    folder = PurePosixPath(file.path).parent
    for name in names:
        # Of a virtual dataset %b is any number, and a percent sign is written twice.
        places = (os.path.normpath(folder / name), str(folder / PurePosixPath(name).name))
        candidates = [place for path in places for place in (path, path.replace("%%", "%"))]
        found = next(((path,) for path in candidates if _is_there(path)), None)
        yield name, found or next((paths for path in places if (paths := _numbered(path))), ())


def _numbered(path: str) -> tuple[str, ...]:
    if "%b" not in path:
        return ()
    pattern = "*".join(glob.escape(part.replace("%%", "%")) for part in path.split("%b"))
    return _glob(pattern, "/")


def _by_patterns(file: CompleteFile, patterns: Iterable[str], within: str) -> Iterator[_Found]:
    folder = PurePosixPath(file.path).parent
    for pattern in patterns:
        parts = PurePosixPath(pattern).parts
        fixed = tuple(takewhile(lambda part: not glob.has_magic(part), parts[:-1]))
        below, rest = os.path.normpath(folder.joinpath(*fixed)), parts[len(fixed) :]
        # What a file says may be part of a pattern: nothing outside is even looked at.
        if ".." in rest or not PurePosixPath(below).is_relative_to(within):
            yield pattern, ()
            continue
        yield pattern, _glob("/".join(rest), below)


def _glob(pattern: str, below: str) -> tuple[str, ...]:
    # The search takes a folder that cannot be listed for an empty one.
    if _is_there(below):
        with storage_errors("read", Path(below)), suppress(PermissionError, NotADirectoryError):
            os.scandir(below).close()
    # Neither Path.glob nor Path.rglob takes a pattern in which a part is escaped.
    names = glob.iglob(pattern, root_dir=below, recursive=True)  # noqa: PTH207
    return tuple(os.path.normpath(f"{below}/{name}") for name in islice(names, MOST_LISTED + 2))
