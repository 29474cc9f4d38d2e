"""HDF5 datasets as values: numbers, texts, arrays, and the ``units`` attribute of NeXus."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from scicat_dagster.files.values import NexusValue, Scalar

MOST_BYTES = 16 * 1024 * 1024
"""More than a catalogue's metadata can hold (its request limit is 16 MiB)."""


MOST_TEXTS = 50_000

_LONGEST_UNIT = 256

_LONGEST_NAMES = 4096
"""Of an attribute that names others, as it is stored."""


MOST_ATTRIBUTE_BYTES = 64 * 1024
"""As it is stored; HDF5 keeps no larger one with its group or dataset."""

_MOST_ATTRIBUTES = 32
"""Of a group or dataset that are looked at without being asked for."""

_LONGEST_SHOWN = 80

_OWN_ATTRIBUTES = frozenset(
    {
        "HDF5_Version", "HDF5_version", "NX_class", "axes", "axis", "depends_on", "h5py_version",
        "interpretation", "long_name", "offset", "primary", "signal", "target", "transformation_type",
        "units", "vector",
    }
)  # fmt: skip
"""Those that say how the file is to be read: HDF5's, NeXus', and those of NXdata and NXtransformations."""


class OpenDataset:
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

    def rows(self, first: int, last: int) -> np.ndarray[Any, Any]:
        """Its values from one index of the first dimension to before another."""
        return self.part((slice(first, last),))

    def part(self, slices: tuple[slice, ...]) -> np.ndarray[Any, Any]:
        """Its values in a box: a slice without a step for each of the first dimensions."""
        found: np.ndarray[Any, Any] = h5py.Dataset(self.id, readonly=True)[slices]
        return found


def contents_of(dataset: OpenDataset, *, as_text: bool) -> Any:
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
    return _plain(dataset.read(dtype), as_text=as_text)


def _plain(raw: np.ndarray[Any, Any], *, as_text: bool) -> Any:
    if raw.dtype.kind == "f" and raw.dtype.itemsize > 8:
        raw = raw.astype(np.float64)
    if as_text and raw.dtype.kind == "f" and raw.dtype.itemsize < 8:
        return _in_shape([str(number) for number in raw.flat], raw.shape)
    return raw.tolist()


class OpenAttribute:
    """An attribute of a group or dataset, and how many values it holds."""

    def __init__(self, where: str, attribute: h5py.h5a.AttrID) -> None:
        self.where = where
        self.id = attribute
        self.size: int = attribute.get_space().get_simple_extent_npoints()

    def contents(self, *, as_text: bool) -> Any:
        """Its values as plain Python, as :func:`contents_of` has those of a dataset."""
        where, dtype = self.where, self.id.dtype
        if not self.size:
            raise ValueError(f"{where} is empty.")
        if self.id.get_storage_size() > MOST_ATTRIBUTE_BYTES:
            raise ValueError(f"{where} holds more than an attribute may ({MOST_ATTRIBUTE_BYTES} bytes).")
        is_text = h5py.check_string_dtype(dtype) is not None
        if not is_text and dtype.kind not in "biuf":
            raise TypeError(f"{where} is of the type {dtype}, which metadata cannot hold.")
        raw = np.zeros(self.id.get_space().shape, dtype)
        self.id.read(raw)
        return _texts_in_shape(where, raw.flat, raw.shape) if is_text else _plain(raw, as_text=as_text)


def attribute_of(where: str, owner: Any, name: str) -> OpenAttribute | None:
    """An attribute of a group or dataset by its name; None where it has none of that name."""
    key = name.encode()
    if not h5py.h5a.exists(owner, key):
        return None
    return OpenAttribute(f"{where or '/'}@{name}", h5py.h5a.open(owner, key))


def beginning_of(value: Any) -> str:
    """A value as text, with a mark where it was cut."""
    text = str(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def attributes_of(owner: Any) -> dict[str, str]:
    """The beginnings of the attributes that hold one value and are not the format's own, by their names."""
    found = {}
    for index in range(min(h5py.h5a.get_num_attrs(owner), _MOST_ATTRIBUTES)):
        attribute = h5py.h5a.open(owner, index=index)
        name = _text(attribute.name)
        if name in _OWN_ATTRIBUTES or name.endswith("_indices") or len(name) > _LONGEST_UNIT:
            continue
        try:
            opened = OpenAttribute("", attribute)
            if opened.size == 1:
                found[name] = beginning_of(flattened(opened.contents(as_text=True))[0])
        except (OSError, RuntimeError, LookupError, ValueError, TypeError):
            # Of a kind that metadata cannot hold.
            continue
    return found


def _in_shape(texts: list[str], shape: tuple[int, ...]) -> Any:
    return texts[0] if shape == () else np.array(texts, dtype=object).reshape(shape).tolist()


def _texts(dataset: OpenDataset, dtype: np.dtype[Any]) -> Any:
    where = dataset.where
    if dataset.size > MOST_TEXTS:
        raise ValueError(f"{where} holds {dataset.size} texts; metadata can hold {MOST_TEXTS}.")
    if dataset.size == 1 or dtype.kind == "S":
        found: Iterable[Any] = dataset.read(dtype).flat
    else:
        # One at a time: thousands may share one long text, which reading them together would multiply.
        by_index = h5py.Dataset(dataset.id, readonly=True)
        found = (by_index[index] for index in np.ndindex(dataset.shape))
    return _texts_in_shape(where, found, dataset.shape)


def _texts_in_shape(where: str, found: Iterable[Any], shape: tuple[int, ...]) -> Any:
    total = 0
    texts = []
    for raw in found:
        text = _text(raw)
        total += len(text)
        if total > MOST_BYTES:
            raise ValueError(f"{where} holds more text than metadata can hold ({MOST_BYTES} bytes).")
        texts.append(text)
    return _in_shape(texts, shape)


def _text(raw: Any) -> str:
    if isinstance(raw, str):
        # h5py marks bytes that are not UTF-8 by lone surrogates.
        raw = raw.encode("utf-8", "surrogateescape")
    # A NUL ends a text of fixed length; what C programs leave behind it is rubbish.
    content = bytes(raw).partition(b"\x00")[0]
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


@dataclass(frozen=True)
class Unit:
    """A ``units`` attribute: None where there is none, and empty where there is a ``mistake`` in it."""

    text: str | None = None
    mistake: str = ""


def unit_of(dataset: OpenDataset) -> Unit:
    if not h5py.h5a.exists(dataset.id, b"units"):
        return Unit()
    where, attribute = dataset.where, h5py.h5a.open(dataset.id, b"units")
    space = attribute.get_space()
    if space.get_simple_extent_type() == h5py.h5s.NULL:
        return Unit()
    if attribute.get_storage_size() > _LONGEST_UNIT:
        return Unit("", f"The units attribute of {where} is too large to be a unit.")
    if h5py.check_string_dtype(attribute.dtype) is None or space.get_simple_extent_npoints() != 1:
        return Unit("", f"The units attribute of {where} is not one text.")
    unit = np.zeros(1, attribute.dtype)
    attribute.read(unit)
    text = _text(unit[0])
    if len(text) > _LONGEST_UNIT:
        return Unit("", f"The units attribute of {where} is too long to be a unit.")
    return Unit(text)


def class_of(group: h5py.Group) -> str:
    """The ``NX_class`` of a group; empty where it has none, or what cannot be one."""
    texts = texts_of(group.id, "NX_class")
    return texts[0] if len(texts) == 1 else ""


def type_of(dataset: OpenDataset) -> str:
    """The kind of a dataset's values, such as ``float64`` or ``string``; empty where metadata has no such."""
    dtype = dataset.id.dtype
    if h5py.check_string_dtype(dtype) is not None:
        return "string"
    return str(dtype.name) if dtype.kind in "biuf" else ""


def texts_of(owner: h5py.h5g.GroupID | h5py.h5d.DatasetID, name: str) -> list[str]:
    """The texts of an attribute of a group or dataset; none where it is not there, or no few short texts."""
    key = name.encode()
    if not h5py.h5a.exists(owner, key):
        return []
    attribute = h5py.h5a.open(owner, key)
    space = attribute.get_space()
    if h5py.check_string_dtype(attribute.dtype) is None or attribute.get_storage_size() > _LONGEST_NAMES:
        return []
    texts = np.zeros(space.shape, attribute.dtype)
    if texts.size:
        attribute.read(texts)
    return [text for text in map(_text, texts.flat) if len(text) <= _LONGEST_UNIT]


def common_unit(units: list[Unit]) -> Unit:
    mistake = next((unit.mistake for unit in units if unit.mistake), "")
    texts = {unit.text for unit in units}
    return Unit(texts.pop() if len(texts) == 1 else None, mistake)


def with_unit(value: Scalar | list[Any], unit: Unit) -> NexusValue:
    return NexusValue(value, unit.text or "", states_unit=unit.text is not None, unit_mistake=unit.mistake)


def integer_of(owner: h5py.h5g.GroupID | h5py.h5d.DatasetID, name: str) -> int | None:
    """The integer of an attribute, which may be written as a text; None where it is none."""
    if texts := texts_of(owner, name):
        return int(texts[0]) if texts[0].strip().isdecimal() else None
    key = name.encode()
    if not h5py.h5a.exists(owner, key):
        return None
    attribute = h5py.h5a.open(owner, key)
    if attribute.dtype.kind not in "iu" or attribute.get_space().get_simple_extent_npoints() != 1:
        return None
    number = np.zeros(attribute.get_space().shape, attribute.dtype)
    attribute.read(number)
    return int(number.flat[0])


def flattened(value: Any) -> list[Any]:
    if not isinstance(value, list):
        return [value]
    return [scalar for inner in value for scalar in flattened(inner)]
