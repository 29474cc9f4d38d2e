"""A NeXus (HDF5) file on disk: is it complete, and what values does it hold at a path.

Everything read is plain Python (str, int, float, bool, lists of them); numpy and h5py stay inside. A file is
untrusted input: links that leave it are not followed and sizes are bounded before memory is taken. What the
values *mean* belongs to :mod:`scicat_dagster.schemas`; sizes and checksums of files to
:mod:`scicat_dagster.files`.
"""

from __future__ import annotations

import math
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pydantic import BaseModel, ConfigDict

from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.files import who_forbids

QUIET_SECONDS = 0.5
"""A file modified more recently is looked at twice, this far apart, before it counts as complete."""

SETTLED_SECONDS = 60.0
"""A file that cannot be read as HDF5 and was not touched for so long will stay that way."""

MOST_ELEMENTS = 1_000_000
MOST_BYTES = 16 * 1024 * 1024
"""More than a catalogue's metadata can hold (its request limit is 16 MiB)."""

MOST_TEXTS = 50_000

_MOST_CHUNK_BYTES = 256 * 1024 * 1024
_MOST_LINKS = 32
_MOST_SOURCES = 1000
_MOST_OPEN_GROUPS = 1000
_LONGEST_UNIT = 256

Scalar = str | int | float | bool


class NotReadyError(TransientError):
    """The file is not there, or its writer is not done with it: only time helps."""


class FileChangedError(TransientError):
    """The file was modified after work on it had begun: everything measured so far must be done again."""


class CompleteFile(BaseModel):
    """A file that was complete when it was looked at; ``modified_ns`` since 1970, ``size`` in bytes."""

    model_config = ConfigDict(frozen=True)

    path: str
    device: int
    inode: int
    size: int
    modified_ns: int


@dataclass(frozen=True)
class NexusValue:
    """What a dataset of the file holds, and its ``units`` attribute (empty where it has none)."""

    value: Scalar | list[Any]
    unit: str = ""
    states_unit: bool = field(default=False, compare=False)
    """Whether the file states the unit, which may be the empty one."""
    unit_mistake: str = field(default="", compare=False)
    """Why the ``units`` attribute cannot be used, where that is so."""


def wait_until_complete(
    path: Path, delays: Sequence[float], sleep: Callable[[float], None] = time.sleep
) -> CompleteFile:
    """Look at a file until it is complete: it opens as HDF5, and its size and modification time stand still.

    The file writer announces a file *before* it closes it, so the first look may come too early. ``delays``
    are the seconds between the looks; there is one more look than there are delays.

    Raises
    ------
    NotReadyError
        It is not there, is locked, is being written or cannot be read yet.
    TransientError
        The storage failed.
    PermanentError
        It is no regular file, or must not be read or is broken and has not changed for a minute.
    """
    for delay in delays:
        try:
            return look_at(path, sleep)
        except TransientError:
            sleep(delay)
    return look_at(path, sleep)


def look_at(path: Path, sleep: Callable[[float], None] = time.sleep) -> CompleteFile:
    """One look at a file; see :func:`wait_until_complete`."""
    before = _status(path)
    if time.time() - before.st_mtime < QUIET_SECONDS:
        sleep(QUIET_SECONDS)
    with open_nexus(path):
        pass
    found = _complete_file(path, _status(path))
    if found != _complete_file(path, before):
        raise NotReadyError(
            f"{path} is still being written.",
            remedy="Nothing to do while the file writer is busy with it; it is tried again.",
        )
    return found


def check_unchanged(file: CompleteFile) -> None:
    """Make sure that a file is still the one that was found complete.

    Raises
    ------
    FileChangedError
        Its size, modification time or identity is another.
    """
    if _complete_file(Path(file.path), _status(Path(file.path))) != file:
        raise FileChangedError(
            f"{file.path} was changed after it had been found complete.",
            remedy="The run is repeated from its beginning; re-execute all its ops if you do it by hand.",
        )


@contextmanager
def open_nexus(path: Path) -> Iterator[NexusFile]:
    """Open a file for reading.

    Raises
    ------
    TransientError
        It is not there, is locked by its writer, or is broken and was modified within the last minute.
    PermanentError
        It must not be read, or it is broken and settled.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise _why_not_opened(path, error) from error
    with file:
        yield NexusFile(file)


class NexusFile:
    """An open file.

    Paths are absolute HDF5 paths; a component with ``*`` is searched as a regular expression in the names.
    """

    def __init__(self, file: h5py.File) -> None:
        self._root: h5py.Group = file["/"]
        # The paths of a schema share their beginnings. By the parent, which stays open as well, and the name.
        self._groups: dict[tuple[int, str], h5py.Group] = {}
        self._single_values: dict[tuple[str, bool], NexusValue] = {}

    def read_one(self, path: str, *, as_text: bool = False) -> NexusValue:
        """The one value at a path: a scalar, or an array of one element. Judged before anything is read.

        Parameters
        ----------
        as_text
            Numbers of less than double precision are the text of their own precision: 22.249, and not
            22.249000549316406.

        Raises
        ------
        LookupError
            There is nothing at the path, several values, or an array.
        ValueError
            The value is of a kind or size that metadata cannot hold.
        TransientError
            The storage failed.
        """
        # What a schema reads is often what everybody wants to know: the names of instrument and sample.
        if (path, as_text) not in self._single_values:
            self._single_values[path, as_text] = self._only(path, as_text=as_text)
        return self._single_values[path, as_text]

    def read_all(self, path: str, *, as_text: bool = False) -> NexusValue:
        """Every value at a path, in file order, as a list; nested where one dataset has several dimensions.

        The list is empty where nothing matches a path with ``*``, and for an empty dataset. The unit is the
        common one, or empty where the datasets differ. Errors and ``as_text`` as for :meth:`read_one`.
        """
        with _explained(path):
            datasets = self._datasets(path)
            if not datasets and "*" not in path:
                raise _nothing_at(path)
            elements = sum(dataset.size for dataset in datasets)
            if elements > MOST_ELEMENTS:
                raise ValueError(f"{path} holds {elements} values; metadata can hold {MOST_ELEMENTS}.")
            unit = _common_unit([_unit(dataset) for dataset in datasets])
            contents = [
                self._contents(dataset, as_text=as_text) if dataset.size else [] for dataset in datasets
            ]
            if len(contents) == 1:
                values = contents[0] if isinstance(contents[0], list) else contents
            else:
                values = _flat(contents)
            return _with_unit(values, unit)

    def _only(self, path: str, *, as_text: bool) -> NexusValue:
        with _explained(path):
            datasets = self._datasets(path)
            if not datasets:
                raise _nothing_at(path)
            if len(datasets) != 1:
                raise LookupError(f"{len(datasets)} datasets match {path}; use a value_type that ends in [].")
            dataset = datasets[0]
            if dataset.size != 1:
                raise LookupError(
                    f"{dataset.where} holds {dataset.size} values where one was meant; "
                    "use a value_type that ends in []."
                )
            return _with_unit(_flat(self._contents(dataset, as_text=as_text))[0], _unit(dataset))

    def _datasets(self, path: str) -> list[_Dataset]:
        return [
            _Dataset(where, item)
            for where, item in self._matches(_components(path))
            if isinstance(item, h5py.h5d.DatasetID)
        ]

    def _contents(self, dataset: _Dataset, *, as_text: bool) -> Any:
        # Values that have one place in this very file, as most have, are neither elsewhere nor in chunks.
        if dataset.id.get_offset() is None:
            self._check_storage(dataset, checked={})
        return _contents(dataset, as_text=as_text)

    def _check_storage(self, dataset: _Dataset, checked: dict[str, bool]) -> None:
        """Refuse values that are in another file, or in chunks too large to be read.

        Of a virtual dataset the sources are checked as well, because HDF5 reads them by itself; ``checked``
        has their names, and whether each is done.
        """
        where, properties = dataset.where, dataset.id.get_create_plist()
        if properties.get_external_count():
            raise ValueError(f"{where} keeps its values in another file, which is not followed.")
        layout = properties.get_layout()
        if layout == h5py.h5d.VIRTUAL:
            for index in range(properties.get_virtual_count()):
                # The file itself, in HDF5's spelling.
                if properties.get_virtual_filename(index) != ".":
                    raise ValueError(f"{where} keeps its values in another file, which is not followed.")
                self._check_source(where, properties.get_virtual_dsetname(index), checked)
        chunk = math.prod(properties.get_chunk()) if layout == h5py.h5d.CHUNKED else 0
        if chunk * dataset.id.dtype.itemsize > _MOST_CHUNK_BYTES:
            raise ValueError(f"{where} is stored in chunks that are too large to be read for one value.")

    def _check_source(self, where: str, name: str, checked: dict[str, bool]) -> None:
        if checked.get(name):
            return
        if name in checked:
            raise ValueError(f"{where} is put together from itself.")
        # A name with % stands for any number of them.
        if "%" in name or len(checked) >= _MOST_SOURCES:
            raise ValueError(f"{where} is put together from more datasets than can be checked.")
        checked[name] = False
        for _, source in self._matches(_components(name), wildcards=False):
            if isinstance(source, h5py.h5d.DatasetID):
                self._check_storage(_Dataset(name, source), checked)
        checked[name] = True

    def _matches(self, components: list[str], *, wildcards: bool = True) -> Iterator[tuple[str, Any]]:
        """Every object whose path matches; a plain component is its name, one with ``*`` an expression."""
        positions: list[tuple[str, Any]] = [("", self._root)]
        for component in components:
            positions = [
                (f"{where}/{name}", child)
                for where, item in positions
                if isinstance(item, h5py.Group)
                for name in (_names(item, component) if wildcards else [component])
                if (child := self._child(item, name)) is not None
            ]
        yield from positions

    def _child(self, group: h5py.Group, name: str) -> Any:
        """The child of a group, None where there is none; a group that was found stays open."""
        key = group.id.id, name
        known = self._groups.get(key)
        if known is not None:
            return known
        child = self._followed(group, name)
        if isinstance(child, h5py.Group) and len(self._groups) < _MOST_OPEN_GROUPS:
            self._groups[key] = child
        return child

    def _followed(self, group: h5py.Group, name: str) -> Any:
        """The child of a group, by hard or soft links inside this file only; None where there is none."""
        pending, current, links = [name], group, 0
        while pending:
            step = pending.pop(0)
            if not isinstance(current, h5py.Group):
                return None
            found = _hard_linked(current, step)
            if found is not None:
                current = found
                continue
            link = current.get(step, getlink=True)
            if link is None:
                return None
            if isinstance(link, h5py.ExternalLink):
                # No TypeError: the file is at fault, not the caller.
                raise ValueError(f"{current.name}/{step} leads to another file.")  # noqa: TRY004
            if isinstance(link, h5py.SoftLink):
                links += 1
                if links > _MOST_LINKS:
                    raise ValueError(f"{current.name}/{step} is a link that leads round in a circle.")
                target = os.fsdecode(link.path)
                if target.startswith("/"):
                    current = self._root
                pending = _components(target) + pending
                continue
            current = current[step]
        return current.id if isinstance(current, h5py.Dataset) else current


class _Dataset:
    """A dataset of the file, and how many values it holds.

    All that is done with it is HDF5's own functions: h5py's class asks several times for each answer, and of
    a small dataset nearly all the time would be that.
    """

    def __init__(self, where: str, dataset: h5py.h5d.DatasetID) -> None:
        self.where = where
        self.id = dataset
        space = dataset.get_space()
        self.size: int = space.get_simple_extent_npoints()
        self.shape: tuple[int, ...] = space.shape

    def read(self, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """All of its values."""
        values = np.zeros(self.shape, dtype)
        self.id.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
        return values


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Tell a storage that fails from a part of the file that is broken; HDF5 raises the same for both."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if re.search(r"errno = \d+", str(error)):
            raise TransientError(
                f"{path} cannot be read: {error}.", remedy="See that the storage is mounted and healthy."
            ) from error
        raise ValueError(f"{path} cannot be read: {error}.") from error


def _hard_linked(group: h5py.Group, name: str | bytes) -> h5py.Group | h5py.h5d.DatasetID | None:
    """The group or dataset that a hard link of this name leads to; None where that takes more to tell.

    Nearly every name is such a link. h5py's own ways would look it up four times.
    """
    # h5py leaves a name that is no UTF-8 as it is.
    key = name.encode() if isinstance(name, str) else name
    try:
        if group.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
            return None
        found = h5py.h5o.open(group.id, key)
    except (KeyError, RuntimeError):
        return None
    if isinstance(found, h5py.h5g.GroupID):
        return h5py.Group(found)
    return found if isinstance(found, h5py.h5d.DatasetID) else None


def _names(group: h5py.Group, component: str) -> list[str]:
    if "*" not in component:
        return [component]
    if component == "*":
        return list(group.keys())
    return [name for name in group if re.search(component, name)]


def _components(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in {"", "."}]


def _nothing_at(path: str) -> LookupError:
    return LookupError(f"There is no dataset at {path}.")


def _contents(dataset: _Dataset, *, as_text: bool) -> Any:
    """The dataset's values as plain Python: a scalar, or nested lists."""
    where, dtype = dataset.where, dataset.id.dtype
    if not dataset.size:
        raise ValueError(f"{where} is empty.")
    size = dataset.size * dtype.itemsize
    if size > MOST_BYTES:
        raise ValueError(f"{where} holds {size} bytes, more than metadata can hold ({MOST_BYTES}).")
    if h5py.check_string_dtype(dtype) is not None:
        return _texts(dataset, dtype)
    if dtype.kind not in "biuf":
        raise TypeError(f"{where} is of the type {dtype}, which metadata cannot hold.")
    raw = dataset.read(dtype)
    if raw.dtype.kind == "f" and raw.dtype.itemsize > 8:
        raw = raw.astype(np.float64)
    if as_text and raw.dtype.kind == "f" and raw.dtype.itemsize < 8:
        return _in_shape([str(number) for number in raw.flat], raw.shape)
    return raw.tolist()


def _in_shape(texts: list[str], shape: tuple[int, ...]) -> Any:
    return texts[0] if shape == () else np.array(texts, dtype=object).reshape(shape).tolist()


def _texts(dataset: _Dataset, dtype: np.dtype[Any]) -> Any:
    where = dataset.where
    if dataset.size > MOST_TEXTS:
        raise ValueError(f"{where} holds {dataset.size} texts; metadata can hold {MOST_TEXTS}.")
    if dataset.size == 1 or dtype.kind == "S":
        found: Iterable[Any] = dataset.read(dtype).flat
    else:
        # One at a time: thousands may share one long text, which reading them together would multiply.
        by_index = h5py.Dataset(dataset.id, readonly=True)
        found = (by_index[index] for index in np.ndindex(dataset.shape))
    total = 0
    texts = []
    for raw in found:
        text = _text(raw)
        total += len(text)
        if total > MOST_BYTES:
            raise ValueError(f"{where} holds more text than metadata can hold ({MOST_BYTES} bytes).")
        texts.append(text)
    return _in_shape(texts, dataset.shape)


def _text(raw: Any) -> str:
    if isinstance(raw, str):
        # h5py marks bytes that are not UTF-8 by lone surrogates.
        raw = raw.encode("utf-8", "surrogateescape")
    content = bytes(raw).rstrip(b"\x00")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


@dataclass(frozen=True)
class _Unit:
    """A ``units`` attribute: None where there is none, and empty where there is a ``mistake`` in it."""

    text: str | None = None
    mistake: str = ""


def _unit(dataset: _Dataset) -> _Unit:
    if not h5py.h5a.exists(dataset.id, b"units"):
        return _Unit()
    where, attribute = dataset.where, h5py.h5a.open(dataset.id, b"units")
    space = attribute.get_space()
    if space.get_simple_extent_type() == h5py.h5s.NULL:
        return _Unit()
    if attribute.get_storage_size() > _LONGEST_UNIT:
        return _Unit("", f"The units attribute of {where} is too large to be a unit.")
    if h5py.check_string_dtype(attribute.dtype) is None or space.get_simple_extent_npoints() != 1:
        return _Unit("", f"The units attribute of {where} is not one text.")
    unit = np.zeros(1, attribute.dtype)
    attribute.read(unit)
    text = _text(unit[0])
    if len(text) > _LONGEST_UNIT:
        return _Unit("", f"The units attribute of {where} is too long to be a unit.")
    return _Unit(text)


def _common_unit(units: list[_Unit]) -> _Unit:
    mistake = next((unit.mistake for unit in units if unit.mistake), "")
    texts = {unit.text for unit in units}
    return _Unit(texts.pop() if len(texts) == 1 else None, mistake)


def _with_unit(value: Scalar | list[Any], unit: _Unit) -> NexusValue:
    return NexusValue(value, unit.text or "", states_unit=unit.text is not None, unit_mistake=unit.mistake)


def _flat(value: Any) -> list[Any]:
    if not isinstance(value, list):
        return [value]
    return [scalar for inner in value for scalar in _flat(inner)]


def _complete_file(path: Path, status: os.stat_result) -> CompleteFile:
    return CompleteFile(
        path=str(path),
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        modified_ns=status.st_mtime_ns,
    )


def _status(path: Path) -> os.stat_result:
    try:
        status = path.stat()
    except OSError as error:
        raise _why_not_opened(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise PermanentError(f"{path} is no regular file.", remedy="Announce the NeXus file itself.")
    return status


def _why_not_opened(path: Path, error: OSError) -> TransientError | PermanentError:
    if isinstance(error, FileNotFoundError):
        what = f"{path} is a symbolic link to nothing." if path.is_symlink() else f"{path} is not there."
        return NotReadyError(
            what, remedy="See that the storage is mounted here and that the file writer wrote it."
        )
    if isinstance(error, PermissionError):
        return _forbidden(path)
    if isinstance(error, BlockingIOError) or "unable to lock" in str(error) or "already open" in str(error):
        return NotReadyError(
            f"{path} is still open for writing.", remedy="Nothing to do while it is being written."
        )
    if re.search(r"errno = \d+", str(error)) or error.errno is not None:
        return TransientError(
            f"{path} cannot be opened: {error}.", remedy="See that the storage is mounted and healthy."
        )
    return _broken(path, error)


def _forbidden(path: Path) -> TransientError | PermanentError:
    place = who_forbids(path)
    what = f"No right to read {path}."
    if place == path and time.time() - path.stat().st_mtime < SETTLED_SECONDS:
        return NotReadyError(
            what, remedy="It is tried again, because its writer may give that right when it is done."
        )
    return PermanentError(
        what,
        remedy=f"Give the account that runs Dagster the right to read {place}, then re-execute the run.",
    )


def _broken(path: Path, error: OSError) -> TransientError | PermanentError:
    status = path.stat()
    words = "is empty" if status.st_size == 0 else "is no complete HDF5 file"
    what = f"{path} {words} ({error})."
    if time.time() - status.st_mtime < SETTLED_SECONDS:
        return NotReadyError(what, remedy="It is tried again, because it was written only just now.")
    return PermanentError(
        what, remedy="Look at the file writer's log; put the right file in place, then re-execute the run."
    )
