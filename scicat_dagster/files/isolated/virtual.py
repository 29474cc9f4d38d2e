"""Virtual datasets whose values are in other files, put together from files that were opened for the child.

HDF5 would open the sources by their paths, whatever these are. Here each source is looked for among the open
files (``links``), and the mappings are followed by us. Source: HDF5 Reference Manual, ``H5Pget_virtual_*``;
https://docs.h5py.org/en/stable/vds.html
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from scicat_dagster.files.isolated.hdf5_values import OpenDataset

_LONGEST = 10_000_000
"""Indices along a dimension that are looked at one by one."""

_MOST_MAPPINGS = 10_000

_Indices = np.ndarray[Any, np.dtype[np.int64]]

FindSource = Callable[[h5py.h5d.DatasetID, str, str], OpenDataset]
"""Finds the dataset of a name in the file of a name, for a virtual dataset; raises ValueError."""


@dataclass(frozen=True)
class _Mapping:
    """Which elements of a virtual dataset are which of a source: indices along each dimension."""

    source: OpenDataset
    here: tuple[_Indices, ...]
    there: tuple[_Indices, ...]
    partner: int | None
    """The dimension of the source that goes with the first one here; None where that is one index."""


class VirtualDataset(OpenDataset):
    """A dataset that is put together from others, which may be in other files.

    Raises
    ------
    ValueError
        A source is not open, or the mapping is of a kind that is not followed.
    """

    def __init__(self, dataset: OpenDataset, find: FindSource) -> None:
        super().__init__(dataset.where, dataset.id)
        if self.id.dtype.kind not in "biuf" or not self.shape or max(self.shape) > _LONGEST:
            raise ValueError(f"{self.where} is put together from other files, and not of numbers.")
        try:
            self._mappings = tuple(self._mapped(find))
        except ValueError as error:
            raise ValueError(f"{self.where}: {error}") from error
        fill = np.zeros((), self.id.dtype)
        self.id.get_create_plist().get_fill_value(fill)
        self._fill = fill

    def read(self, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """See :meth:`OpenDataset.read`."""
        return self.rows(0, self.shape[0]).astype(dtype, copy=False)

    def rows(self, first: int, last: int) -> np.ndarray[Any, Any]:
        """See :meth:`OpenDataset.rows`."""
        found = np.full((last - first, *self.shape[1:]), self._fill, self.id.dtype)
        for mapping in self._mappings:
            begin, end = (int(place) for place in np.searchsorted(mapping.here[0], (first, last)))
            if begin == end:
                continue
            there = list(mapping.there)
            if mapping.partner is not None:
                there[mapping.partner] = there[mapping.partner][begin:end]
            here = (mapping.here[0][begin:end] - first, *mapping.here[1:])
            values = _picked(mapping.source, there)
            found[np.ix_(*here)] = values.reshape([len(indices) for indices in here])
        return found

    def _mapped(self, find: FindSource) -> Iterator[_Mapping]:
        properties = self.id.get_create_plist()
        number = properties.get_virtual_count()
        if number > _MOST_MAPPINGS:
            raise ValueError("It is put together from more datasets than can be checked.")
        for source, index in zip(self._sources(properties, find), range(number), strict=True):
            here = _selected(properties.get_virtual_vspace(index), self.shape)
            there = _selected(properties.get_virtual_srcspace(index), source.shape)
            # What is not there yet is the fill value, as with HDF5.
            if all(map(len, (*here, *there))):
                yield self._paired(source, here, there)

    def _sources(self, properties: h5py.h5p.PropDCID, find: FindSource) -> list[OpenDataset]:
        """The sources; where some are not open, all are looked for before that is said."""
        found: list[OpenDataset] = []
        failures: list[ValueError] = []
        for index in range(properties.get_virtual_count()):
            file, name = properties.get_virtual_filename(index), properties.get_virtual_dsetname(index)
            if "%b" in file or "%b" in name:
                raise ValueError("It is put together from any number of files.")
            try:
                found.append(find(self.id, file.replace("%%", "%"), name.replace("%%", "%")))
            except ValueError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return found

    def _paired(
        self, source: OpenDataset, here: tuple[_Indices, ...], there: tuple[_Indices, ...]
    ) -> _Mapping:
        ours = [dimension for dimension, indices in enumerate(here) if len(indices) > 1]
        theirs = [dimension for dimension, indices in enumerate(there) if len(indices) > 1]
        if [len(here[dimension]) for dimension in ours] != [len(there[dimension]) for dimension in theirs]:
            raise ValueError(f"It changes the shape of {source.where}, which is not followed.")
        partner = theirs[0] if ours and ours[0] == 0 else None
        return _Mapping(source, here, there, partner)


def _selected(space: h5py.h5s.SpaceID, shape: Sequence[int]) -> tuple[_Indices, ...]:
    """The indices along each dimension that a selection takes; ``shape`` is that of its dataset now."""
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return tuple(np.arange(length) for length in shape)
    if space.get_select_type() != h5py.h5s.SEL_HYPERSLABS or not space.is_regular_hyperslab():
        raise ValueError("It is put together from parts of a form that is not followed.")
    slabs = zip(shape, *space.get_regular_hyperslab(), strict=True)
    return tuple(_along(*slab) for slab in slabs)


def _along(length: int, start: int, stride: int, count: int, block: int) -> _Indices:
    # Of unlimited ones, those that there are.
    count = min(count, math.ceil(max(length - start, 0) / stride))
    block = min(block, max(length - start, 0))
    if max(length, count * block) > _LONGEST:
        raise ValueError("It is put together from too many parts.")
    indices: _Indices = (start + stride * np.arange(count)[:, None] + np.arange(block)).ravel()
    return indices[indices < length]


def _picked(source: OpenDataset, indices: Sequence[_Indices]) -> np.ndarray[Any, Any]:
    """The elements of a source at these indices along each dimension."""
    slices = tuple(slice(int(along[0]), int(along[-1]) + 1) for along in indices)
    part = source.part(slices)
    for dimension, along in enumerate(indices):
        if len(along) != part.shape[dimension]:
            part = part.take(along - along[0], axis=dimension)
    return part
