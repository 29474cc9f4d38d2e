"""Where and how the values of a dataset are stored, which is judged before they are read.

Nothing of it is trusted: chunks that inflate, sources of virtual datasets, external storage. Source: the HDF5
file format specification.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import h5py
import numpy as np

from scicat_dagster.files.isolated.hdf5_values import OpenDataset
from scicat_dagster.files.isolated.links import LinkedFiles
from scicat_dagster.files.isolated.virtual import VirtualDataset

_MOST_CHUNK_BYTES = 256 * 1024 * 1024

_MOST_TOUCHED_BYTES = 2 * 1024 * 1024 * 1024
"""Of all chunks that are read for one file, uncompressed: some five seconds."""

_MOST_INFLATION = 1100
"""Deflate makes at most 1032 bytes of one."""

_FILTERS = {
    32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32013: "zfp", 32015: "zstd", 32026: "blosc2"
}  # fmt: skip
"""Names of filters by the numbers that the HDF Group has registered."""

_MOST_SOURCES = 1000

_MOST_LOOKED_FOR = 10_000
"""Sources of virtual datasets, of one file together."""

_MOST_LAYERS = 8
"""Of virtual datasets that are put together from virtual datasets in other files."""

_MOST_CHUNKS = 10_000
"""That a part of a source may be in."""

Follow = Callable[[h5py.Group, str], "h5py.Group | h5py.h5d.DatasetID | None"]
"""Finds what is at a path below a group, as ``hdf5.NexusFile.follow`` does."""


class Storage:
    """The storage of one file's datasets, and of those in files that it leads to.

    What was looked at is counted, so that no file costs more than some seconds.
    """

    def __init__(self, root: h5py.Group, links: LinkedFiles, follow: Follow) -> None:
        self._root = root
        self._links = links
        self._follow = follow
        self._touched_bytes = 0
        self._sources = 0
        self._layers = 0

    def together(self, dataset: OpenDataset) -> OpenDataset:
        """The dataset, put together by us where its values are in other files.

        Raises
        ------
        ValueError
            One of these is not open, or the values are mapped in a way that is not followed.
        """
        if self._leads_elsewhere(dataset):
            return VirtualDataset(dataset, self._source)
        return dataset

    def _leads_elsewhere(self, dataset: OpenDataset) -> bool:
        """Whether HDF5 would open other files for the values of a virtual dataset."""
        properties = dataset.id.get_create_plist()
        if properties.get_layout() != h5py.h5d.VIRTUAL:
            return False
        number = properties.get_virtual_count()
        if self._links.is_elsewhere(dataset.id) or any(
            properties.get_virtual_filename(index) != "." for index in range(number)
        ):
            return True
        with self._next_layer():
            for name in {properties.get_virtual_dsetname(index) for index in range(number)}:
                self._count_source()
                found = self._follow(self._root, name)
                if isinstance(found, h5py.h5d.DatasetID) and (
                    self._links.is_elsewhere(found) or self._leads_elsewhere(OpenDataset(name, found))
                ):
                    return True
        return False

    def check(self, dataset: OpenDataset) -> None:
        """Refuse values that are in another file, or in chunks too large to be read.

        Those that are put together here were found among the open files.

        Raises
        ------
        ValueError
            They are.
        """
        if not isinstance(dataset, VirtualDataset):
            self._check(dataset, checked={})

    def _source(self, owner: h5py.h5d.DatasetID, file: str, name: str) -> OpenDataset:
        """A source of a virtual dataset, in a file that is open; see ``virtual.FindSource``."""
        self._count_source()
        own = h5py.File(h5py.h5i.get_file_id(owner))["/"]
        root = own if file == "." else self._links.root(owner, file)
        found = self._follow(root, name.lstrip("/"))
        if not isinstance(found, h5py.h5d.DatasetID):
            raise ValueError(f"It is put together from {name} in {file}, which is not there.")  # noqa: TRY004
        with self._next_layer():
            together = self.together(OpenDataset(name, found))
        return together if isinstance(together, VirtualDataset) else _Source(self, together)

    def _count_source(self) -> None:
        self._sources += 1
        if self._sources > _MOST_LOOKED_FOR:
            raise ValueError("It is put together from more datasets than can be checked.")

    @contextmanager
    def _next_layer(self) -> Iterator[None]:
        """Go on with the sources of a virtual dataset, which may be virtual themselves."""
        if self._layers >= _MOST_LAYERS:
            raise ValueError(f"It is put together from itself, or in more than {_MOST_LAYERS} layers.")
        self._layers += 1
        try:
            yield
        finally:
            self._layers -= 1

    def check_part(self, dataset: OpenDataset, slices: tuple[slice, ...]) -> None:
        """The same for a part of a dataset, of which only the chunks that it touches are looked at."""
        where, properties = dataset.where, dataset.id.get_create_plist()
        if properties.get_layout() != h5py.h5d.CHUNKED:
            self._check(dataset, checked={})
            return
        check_filters(where, properties)
        chunk = properties.get_chunk()
        nominal = math.prod(chunk) * dataset.id.dtype.itemsize
        ranges = [
            range(part.start // side * side, part.stop, side)
            for part, side in zip(slices, chunk, strict=True)
        ]
        if nominal > _MOST_CHUNK_BYTES or math.prod(map(len, ranges)) > _MOST_CHUNKS:
            raise ValueError(f"{where} is stored in chunks that cannot be read for a part of it.")
        for place in product(*ranges):
            size = dataset.id.get_chunk_info_by_coord(place).size
            refuse_bomb(where, size, nominal)
            self._touch(where, max(nominal, size))

    def _touch(self, where: str, size: int) -> None:
        self._touched_bytes += size
        if self._touched_bytes > _MOST_TOUCHED_BYTES:
            raise ValueError(f"{where} and what was read before it are in too large chunks.")

    def _check(self, dataset: OpenDataset, checked: dict[str, bool]) -> None:
        """Refuse values that are in another file, or in chunks too large to be read.

        Of a virtual dataset the sources are checked as well, because HDF5 reads them by itself; ``checked``
        has their names, and whether each is done.
        """
        where, properties = dataset.where, dataset.id.get_create_plist()
        if properties.get_external_count():
            raise ValueError(f"{where} keeps its values in another file, which is not followed.")
        layout = properties.get_layout()
        if layout == h5py.h5d.VIRTUAL:
            if self._links.is_elsewhere(dataset.id):
                raise ValueError(f"{where} is put together in another file, which is not followed.")
            for index in range(properties.get_virtual_count()):
                # The file itself, in HDF5's spelling.
                if properties.get_virtual_filename(index) != ".":
                    raise ValueError(f"{where} keeps its values in another file, which is not followed.")
                self._check_source(where, properties.get_virtual_dsetname(index), checked)
        if layout == h5py.h5d.CHUNKED:
            check_filters(where, properties)
            self._check_chunks(dataset, math.prod(properties.get_chunk()) * dataset.id.dtype.itemsize)

    def _check_chunks(self, dataset: OpenDataset, nominal: int) -> None:
        """Refuse chunks that are large, or that hold more than a chunk of this size can have been made of."""
        if nominal > _MOST_CHUNK_BYTES:
            raise ValueError(
                f"{dataset.where} is stored in chunks that are too large to be read for one value."
            )

        def is_bomb(chunk: Any) -> bool | None:
            self._touch(dataset.where, max(nominal, chunk.size))
            return _is_bomb(chunk.size, nominal) or None

        if dataset.id.chunk_iter(is_bomb):
            raise _bomb(dataset.where)

    def _check_source(self, where: str, name: str, checked: dict[str, bool]) -> None:
        if checked.get(name):
            return
        if name in checked:
            raise ValueError(f"{where} is put together from itself.")
        # A name with % stands for any number of them.
        if "%" in name or len(checked) >= _MOST_SOURCES:
            raise ValueError(f"{where} is put together from more datasets than can be checked.")
        checked[name] = False
        source = self._follow(self._root, name)
        if isinstance(source, h5py.h5d.DatasetID):
            self._check(OpenDataset(name, source), checked)
        checked[name] = True


class _Source(OpenDataset):
    """A source of a virtual dataset, of which parts are read; each is judged before it is."""

    def __init__(self, storage: Storage, dataset: OpenDataset) -> None:
        super().__init__(dataset.where, dataset.id)
        self._storage = storage

    def part(self, slices: tuple[slice, ...]) -> np.ndarray[Any, Any]:
        """See :meth:`OpenDataset.part`."""
        self._storage.check_part(self, slices)
        return super().part(slices)


def check_filters(where: str, properties: h5py.h5p.PropDCID) -> None:
    """Refuse chunks that nobody here can unpack; HDF5 would complain about a folder.

    Raises
    ------
    ValueError
        A filter is not installed.
    """
    for index in range(properties.get_nfilters()):
        code = properties.get_filter(index)[0]
        if not h5py.h5z.filter_avail(code):
            name = _FILTERS.get(code, f"number {code}")
            raise ValueError(
                f"{where} is compressed by the filter {name}, which is not installed here (`pip install "
                "hdf5plugin`, and name its folder in HDF5_PLUGIN_PATH)."
            )


def refuse_bomb(where: str, stored: int, nominal: int) -> None:
    """Refuse a chunk that holds more than one of its size can have been made of; both are in bytes.

    Raises
    ------
    ValueError
        It does.
    """
    if _is_bomb(stored, nominal):
        raise _bomb(where)


def _is_bomb(stored: int, nominal: int) -> bool:
    # What does not compress is stored a little larger than it is.
    return stored > 2 * nominal and stored * _MOST_INFLATION > _MOST_CHUNK_BYTES


def _bomb(where: str) -> ValueError:
    return ValueError(f"{where} is stored in chunks that inflate to more than their size.")
