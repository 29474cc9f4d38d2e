"""What NeXus wants to be plotted of a file, read within a budget; runs in the child process.

Source: the NeXus manual, "Associating plottable data using attributes applied to the NXdata group": `default`
leads from the root to an NXdata group, whose `signal` and `axes` name datasets in it. The older ways, a
`signal` attribute of the dataset itself and an `axis` of those that are its axes, are understood, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import h5py
import numpy as np

from scicat_dagster.files.isolated.hdf5 import NexusFile
from scicat_dagster.files.isolated.hdf5_values import OpenDataset, class_of, integer_of, texts_of, unit_of
from scicat_dagster.files.isolated.storage import check_filters, refuse_bomb

Values = np.ndarray[Any, np.dtype[np.float64]]

MOST_POINTS = 480
"""Along each side of what is drawn; the picture has hardly more pixels."""

_MOST_READ_BYTES = 160 * 1024 * 1024
"""A detector of 4096 × 4096 numbers of 8 bytes, and a bit. Of more, evenly spaced parts are read."""

_MOST_READ_CHUNKS = 20_000

_MOST_AXIS_VALUES = 5_000_000

_SLAB_BYTES = 4 * 1024 * 1024

_MOST_STEPS = 8

_MOST_MEMBERS = 1000

_NUMBERS = "biuf"

_SMALLEST, _LARGEST = 1e-200, 1e200


class NothingToPlotError(Exception):
    """Nothing in the file is meant to be plotted, or nothing that can be."""


@dataclass(frozen=True)
class Axis:
    """What is along a side: a label, and the values (None: the numbers of the points)."""

    label: str
    values: Values | None = None

    def at(self, fraction: float, points: int) -> float:
        """The value at a place between the axis' beginning (0) and its end (1)."""
        position = fraction * (points - 1)
        if self.values is None:
            return position
        return float(self.values[round(fraction * (len(self.values) - 1))])


@dataclass(frozen=True)
class Plot:
    """What to draw: a line (one dimension) or an image (two), with an axis for each dimension."""

    title: str
    label: str
    values: Values
    axes: tuple[Axis, ...]
    shape: tuple[int, ...]
    """How many values the file holds along each axis."""
    note: str = ""
    """What was summed, and how much of it was looked at."""


def plot_of(nexus: NexusFile, path: str) -> Plot:
    """The data at a path, or the default ones.

    Raises
    ------
    NothingToPlotError
        There is nothing to plot.
    ValueError
        It cannot be read.
    """
    where, found = path, nexus.follow(nexus.root, path or "/")
    if isinstance(found, h5py.Group) and (not path or class_of(found) == "NXentry"):
        where, found = _default(nexus, path, found)
    group = found if isinstance(found, h5py.Group) else None
    where, signal = _signal(nexus, where, found)
    signal = nexus.storage.together(_numbers(where, signal))
    dimensions = _dimensions(signal, group)
    # Sums of the largest numbers are none.
    with np.errstate(over="ignore", invalid="ignore"):
        values, note = _reduced(nexus, signal, dimensions)
    return Plot(
        title=_title(nexus, where, group),
        label=_label(signal),
        values=tamed(values),
        axes=tuple(_axis(nexus, group, signal, dimension) for dimension in dimensions),
        shape=tuple(signal.shape[dimension] for dimension in dimensions),
        note=note,
    )


def tamed(values: Values) -> Values:
    """The values, but for those of which a float could hold no difference, sum or logarithm any more."""
    with np.errstate(invalid="ignore"):
        return np.where(abs(values) < _SMALLEST, 0.0, np.clip(values, -_LARGEST, _LARGEST))


# Finding


def _default(nexus: NexusFile, where: str, group: h5py.Group) -> tuple[str, Any]:
    """The group or dataset to which `default` leads from a group, or else the first NXdata of the NXentry.

    Of several NXdata the first that names a signal: others hold what is in another file.
    """
    for _ in range(_MOST_STEPS):
        named = texts_of(group.id, "default")
        name = named[0] if named else _first_data(nexus, group) if where else _first_entry(nexus, group)
        child = nexus.follow(group, name) if name else None
        if child is None:
            break
        where = f"{where}/{name.strip('/')}"
        if not isinstance(child, h5py.Group) or _is_data(child):
            return where, child
        group = child
    raise NothingToPlotError(f"{where or 'The file'} has no default NXdata.")


def _is_data(group: h5py.Group) -> bool:
    return class_of(group) == "NXdata" or bool(texts_of(group.id, "signal"))


def _first_entry(nexus: NexusFile, group: h5py.Group) -> str:
    return next((name for name, _ in _of_class(nexus, group, "NXentry")), "")


def _first_data(nexus: NexusFile, group: h5py.Group) -> str:
    found = dict(_of_class(nexus, group, "NXdata"))
    return next((name for name, data in found.items() if _signal_name(nexus, data)), next(iter(found), ""))


def _of_class(nexus: NexusFile, group: h5py.Group, nexus_class: str) -> Iterator[tuple[str, h5py.Group]]:
    for name in _names(group):
        child = _followed(nexus, group, name)
        if isinstance(child, h5py.Group) and class_of(child) == nexus_class:
            yield name, child


def _followed(nexus: NexusFile, group: h5py.Group, name: str) -> Any:
    try:
        return nexus.follow(group, name)
    except ValueError:
        # It is in another file, and nobody has named it as what is to be plotted.
        return None


def _names(group: h5py.Group) -> list[str]:
    if len(group) > _MOST_MEMBERS:
        return []
    return [name for name in group if isinstance(name, str)]


def _signal(nexus: NexusFile, where: str, found: Any) -> tuple[str, Any]:
    if not isinstance(found, h5py.Group):
        return where, found
    name = _signal_name(nexus, found)
    if not name:
        raise NothingToPlotError(f"{where} names no signal.")
    return f"{where}/{name}", nexus.follow(found, name)


def _signal_name(nexus: NexusFile, group: h5py.Group) -> str:
    named = texts_of(group.id, "signal")
    return named[0] if named else next((name for name, _ in _marked(nexus, group, "signal")), "")


def _marked(nexus: NexusFile, group: h5py.Group, name: str) -> Iterator[tuple[str, h5py.h5d.DatasetID]]:
    """The datasets with an attribute, as older files mark the signal and each axis."""
    for member in _names(group):
        child = _followed(nexus, group, member)
        if isinstance(child, h5py.h5d.DatasetID) and h5py.h5a.exists(child, name.encode()):
            yield member, child


def _numbers(where: str, found: Any) -> OpenDataset:
    if not isinstance(found, h5py.h5d.DatasetID):
        raise NothingToPlotError(f"There is no dataset at {where}.")
    dataset = OpenDataset(where, found)
    if dataset.id.dtype.kind not in _NUMBERS:
        raise NothingToPlotError(f"{where} holds no numbers.")
    if dataset.size < 2 or not any(length > 1 for length in dataset.shape):
        raise NothingToPlotError(f"{where} holds {dataset.size} values.")
    return dataset


def _title(nexus: NexusFile, where: str, group: h5py.Group | None) -> str:
    """The title of the data, or else of the entry."""
    entry = where.strip("/").partition("/")[0]
    own = _followed(nexus, group, "title") if group is not None else None
    for found in (own, _followed(nexus, nexus.root, f"{entry}/title")):
        if isinstance(found, h5py.h5d.DatasetID):
            text = OpenDataset("title", found)
            if text.size == 1 and h5py.check_string_dtype(found.dtype) is not None:
                nexus.storage.check(text)
                # A text, or an array of one.
                (title,) = np.ravel(h5py.Dataset(found, readonly=True).asstr(errors="replace")[()])
                return str(title).strip()
    return ""


def _label(dataset: OpenDataset) -> str:
    long_name = texts_of(dataset.id, "long_name")
    name = long_name[0] if long_name else dataset.where.rpartition("/")[2]
    unit = (unit_of(dataset).text or "").strip()
    # Many a long name ends with its unit.
    return f"{name} [{unit}]" if unit and not name.endswith((f"[{unit}]", f"({unit})")) else name


def _dimensions(signal: OpenDataset, group: h5py.Group | None) -> tuple[int, ...]:
    """The dimensions that are drawn; over the others is summed."""
    long = [index for index, length in enumerate(signal.shape) if length > 1]
    owners = [signal.id, *([group.id] if group is not None else [])]
    wanted = 1 if any(texts_of(owner, "interpretation") == ["spectrum"] for owner in owners) else 2
    return tuple(long[-wanted:])


def _axis(nexus: NexusFile, group: h5py.Group | None, signal: OpenDataset, dimension: int) -> Axis:
    """The axis of a dimension; one that cannot be used has no values."""
    names = texts_of(group.id, "axes") if group is not None else []
    names = names or texts_of(signal.id, "axes")
    if len(names) == 1:
        # The older way to write several.
        names = names[0].replace(",", ":").strip("[]").split(":")
    if not names and group is not None:
        names = _old_axes(nexus, group, len(signal.shape))
    name = names[dimension].strip() if dimension < len(names) else "."
    found = _followed(nexus, group, name) if group is not None and name not in {".", ""} else None
    if not isinstance(found, h5py.h5d.DatasetID):
        return Axis(f"dimension {dimension}")
    dataset = OpenDataset(name, found)
    length = signal.shape[dimension]
    if dataset.id.dtype.kind not in _NUMBERS or dataset.size not in {length, length + 1}:
        return Axis(_label(dataset))
    if dataset.size > _MOST_AXIS_VALUES:
        return Axis(_label(dataset))
    dataset = nexus.storage.together(dataset)
    nexus.storage.check(dataset)
    values = dataset.read(dataset.id.dtype).astype(np.float64).ravel()
    if dataset.size == length + 1:
        values = (values[1:] + values[:-1]) / 2
    return Axis(_label(dataset), tamed(values) if np.isfinite(values).all() else None)


def _old_axes(nexus: NexusFile, group: h5py.Group, dimensions: int) -> list[str]:
    """The axes of the oldest form: each dataset says the number of its dimension, from 1 on."""
    marked = [(name, integer_of(dataset, "axis")) for name, dataset in _marked(nexus, group, "axis")]
    return [
        next((name for name, number in marked if number == dimension), ".")
        for dimension in range(1, dimensions + 1)
    ]


# Reading


def _reduced(nexus: NexusFile, signal: OpenDataset, dimensions: tuple[int, ...]) -> tuple[Values, str]:
    """The values along the dimensions, at most some hundred each, and what was left out or summed."""
    slabs = _slabs(nexus, signal)
    if len(dimensions) == 1 and signal.size == signal.shape[dimensions[0]]:
        return _envelope(signal, slabs), _note(signal, slabs, 1)
    mean = _Mean(signal.shape, dimensions)
    for first, last in slabs:
        mean.add(signal.rows(first, last), first)
    frames = signal.size // math.prod(signal.shape[dimension] for dimension in dimensions)
    return mean.values() * frames, _note(signal, slabs, frames)


def _note(signal: OpenDataset, slabs: list[tuple[int, int]], frames: int) -> str:
    parts = [f"sum of {frames}"] if frames > 1 else []
    read = sum(last - first for first, last in slabs)
    if read < signal.shape[0]:
        parts.append(f"from {read} of {signal.shape[0]}")
    return ", ".join(parts)


def _slabs(nexus: NexusFile, dataset: OpenDataset) -> list[tuple[int, int]]:
    """The parts of a dataset, along its first dimension, that are read: all, or evenly spaced ones."""
    properties, shape = dataset.id.get_create_plist(), dataset.shape
    if properties.get_layout() == h5py.h5d.CHUNKED:
        check_filters(dataset.where, properties)
        chunk = properties.get_chunk()
        across = [math.ceil(length / side) for length, side in zip(shape[1:], chunk[1:], strict=True)]
        thickness, chunks = chunk[0], math.prod(across)
        size = math.prod(chunk) * dataset.id.dtype.itemsize * chunks
    else:
        nexus.storage.check(dataset)
        row = math.prod(shape[1:]) * dataset.id.dtype.itemsize
        thickness, chunks = max(1, _SLAB_BYTES // row), 1
        size = thickness * row
    if size > _MOST_READ_BYTES or chunks > _MOST_READ_CHUNKS:
        raise ValueError(f"{dataset.where} is stored in parts that are too large to be read for a preview.")
    number = math.ceil(shape[0] / thickness)
    allowed = min(_MOST_READ_BYTES // size, _MOST_READ_CHUNKS // chunks)
    spaced = np.linspace(0, number - 1, min(number, allowed)).astype(int)
    slabs = [
        (int(index) * thickness, min((int(index) + 1) * thickness, shape[0])) for index in np.unique(spaced)
    ]
    if properties.get_layout() == h5py.h5d.CHUNKED:
        _check_chunks(dataset, slabs, chunk)
    return slabs


def _check_chunks(dataset: OpenDataset, slabs: list[tuple[int, int]], chunk: tuple[int, ...]) -> None:
    nominal = math.prod(chunk) * dataset.id.dtype.itemsize
    others = [range(0, length, side) for length, side in zip(dataset.shape[1:], chunk[1:], strict=True)]
    for first, _ in slabs:
        for place in product((first,), *others):
            refuse_bomb(dataset.where, dataset.id.get_chunk_info_by_coord(place).size, nominal)


class _Mean:
    """The mean of what is there over all but two dimensions (or one), in blocks of rows and columns.

    Rows are added up as they are read, so that no more of the file than a slab is in memory.
    """

    def __init__(self, shape: tuple[int, ...], dimensions: tuple[int, ...]) -> None:
        self._is_line = len(dimensions) == 1
        self._shape, self._dimensions = shape, dimensions
        self._columns = shape[dimensions[-1]]
        rows = 1 if self._is_line else shape[dimensions[0]]
        self._rows_in_block = math.ceil(rows / MOST_POINTS)
        size = math.ceil(rows / self._rows_in_block), self._columns
        self._total, self._count = np.zeros(size), np.zeros(size)

    def add(self, slab: Any, first: int) -> None:
        """Add what begins with an index of the first dimension."""
        offset = first if not self._is_line and self._dimensions[0] == 0 else 0
        # What is drawn comes last; of what is before it, all is added up.
        rows = 1 if self._is_line else slab.shape[self._dimensions[0]]
        frames = np.moveaxis(slab, self._dimensions, range(-len(self._dimensions), 0))
        frames = frames.reshape(-1, rows, self._columns)
        valid = _valid(frames)
        for begin, end, block in _blocks(offset, rows, self._rows_in_block):
            part = frames[:, begin:end]
            if valid is None:
                self._total[block] += part.sum(axis=(0, 1), dtype=np.float64)
                self._count[block] += part.shape[0] * part.shape[1]
            else:
                there = valid[:, begin:end]
                self._total[block] += np.where(there, part, 0).sum(axis=(0, 1), dtype=np.float64)
                self._count[block] += there.sum(axis=(0, 1))

    def values(self) -> Values:
        """The means; NaN where nothing was."""
        starts = np.arange(0, self._columns, math.ceil(self._columns / MOST_POINTS))
        total = np.add.reduceat(self._total, starts, axis=1)
        count = np.add.reduceat(self._count, starts, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            means: Values = total / count
        # Rows that were not read are as those before them.
        seen = np.flatnonzero(count.any(axis=1))
        if len(seen):
            means = means[seen[np.searchsorted(seen, np.arange(len(means)), side="right").clip(1) - 1]]
        return means[0] if self._is_line else means


def _blocks(offset: int, rows: int, size: int) -> Iterator[tuple[int, int, int]]:
    """The first and the last of the rows that belong to each block, and which block that is."""
    begin = 0
    while begin < rows:
        block = (offset + begin) // size
        end = min(rows, (block + 1) * size - offset)
        yield begin, end, block
        begin = end


def _valid(values: Any) -> Any:
    """Which of the values count; None where all do.

    Detectors mark pixels that are dead, hot or in a gap by the largest number of their type.
    """
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "f":
        finite = bool(np.isfinite(values.sum(dtype=np.float64)))
        return None if finite else np.isfinite(values)
    if kind == "u" and size > 1 and values.max() == (largest := np.iinfo(values.dtype).max):
        return values != largest
    return None


def _envelope(signal: OpenDataset, slabs: list[tuple[int, int]]) -> Values:
    """A line; of one with very many points, the smallest and the largest value of each part."""
    line = np.concatenate([signal.rows(first, last).ravel() for first, last in slabs])
    valid = _valid(line)
    values: Values = line.astype(np.float64)
    if valid is not None:
        values[~valid] = np.nan
    if len(values) <= 2 * MOST_POINTS:
        return values
    starts = np.arange(0, len(values), math.ceil(len(values) / MOST_POINTS))
    low, high = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
    return np.stack([low, high], axis=1).ravel()
