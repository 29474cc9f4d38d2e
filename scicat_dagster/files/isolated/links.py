"""Links of a file to other files: following those that were opened for the child, and listing all there are.

HDF5 would open by itself whatever a link names. Here only descriptors are opened, which the asking process
has checked (:mod:`scicat_dagster.files.linked_files`); what a link names that was not opened is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py

from scicat_dagster.errors import IngestionError, TransientError
from scicat_dagster.files.access import other_format, why_broken, why_not_opened


class LinkedFiles:
    """The files that links of an open file may lead to.

    ``known`` has for the path of each the descriptor, or why it cannot be used.
    """

    def __init__(self, path: Path, known: Mapping[str, int | str] | None = None) -> None:
        self._path = str(path)
        self._known = known or {}
        self._open: dict[str, h5py.File] = {}
        self._paths: dict[str, str] = {}
        self.lacking: dict[str, None] = {}
        """The paths that links led to, and that are not known."""

    def root(self, owner: h5py.Group | h5py.h5d.DatasetID, name: str) -> h5py.Group:
        """The root group of the file that a link names; ``owner`` is the group that the link is in, or the
        virtual dataset that has it as a source.

        Raises
        ------
        ValueError
            It cannot be used, or is not open yet.
        TransientError
            It is still being written, or its storage failed.
        """
        path = target_of(name, self._path_of(owner))
        descriptor = self._known.get(path)
        if descriptor is None:
            self.lacking[path] = None
            raise ValueError(f"leads to another file, {path}.")
        if isinstance(descriptor, str):
            # No TypeError: the file is at fault, not the caller.
            raise ValueError(f"leads to another file, {path}: {descriptor}")  # noqa: TRY004
        if path not in self._open:
            try:
                self._open[path] = open_file(Path(f"/proc/self/fd/{descriptor}"), Path(path))
            except TransientError:
                raise
            except IngestionError as error:
                raise ValueError(f"leads to another file: {error.what}") from error
            self._paths[self._open[path].filename] = path
        return self._open[path]["/"]

    def is_elsewhere(self, found: h5py.Group | h5py.h5d.DatasetID) -> bool:
        """Whether an object is in one of the linked files."""
        return bool(self._open) and _file_of(found) in self._paths

    def _path_of(self, owner: h5py.Group | h5py.h5d.DatasetID) -> str:
        return self._paths.get(_file_of(owner), self._path) if self._open else self._path


def target_of(name: str, owner: str) -> str:
    """The path of the file that a link of the file ``owner`` names; a relative one begins in its folder."""
    # Names may hold what the system cannot; nothing is there then.
    return os.path.normpath(os.path.join(os.path.dirname(owner), name))  # noqa: PTH118, PTH120


def open_file(place: Path, path: Path) -> h5py.File:
    """Open the file at a place; ``path`` is its name for people.

    Raises
    ------
    TransientError
        It is not there, is locked by its writer, or is broken and was modified within the last minute.
    PermanentError
        It must not be read, is of another format, or is broken and settled.
    """
    try:
        return h5py.File(place, "r")
    except OSError as error:
        reason = other_format(place, path) if error.errno is None else None
        raise reason or why_not_opened(path, error, str(error).replace(str(place), str(path))) from error
    except (RuntimeError, LookupError, ValueError, TypeError) as error:
        raise why_broken(path, str(error)) from error


def names_of_linked_files(found: h5py.Group | h5py.h5d.DatasetID) -> Iterator[str]:
    """The names of other files that a group's links or a dataset's values refer to.

    Of a virtual dataset a name may hold ``%b`` for any number, and ``%%`` for a percent sign.
    """
    if isinstance(found, h5py.Group):
        for name in found:
            link: Any = found.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                yield link.filename
        return
    properties = found.get_create_plist()
    for index in range(properties.get_external_count()):
        yield os.fsdecode(properties.get_external(index)[0])
    if properties.get_layout() == h5py.h5d.VIRTUAL:
        for index in range(properties.get_virtual_count()):
            name = properties.get_virtual_filename(index)
            if name != ".":
                yield name


def _file_of(found: h5py.Group | h5py.h5d.DatasetID) -> str:
    identity = found.id if isinstance(found, h5py.Group) else found
    return os.fsdecode(h5py.h5f.get_name(identity))
