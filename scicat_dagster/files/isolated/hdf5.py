"""Reading HDF5, within the limits of what metadata can hold; runs in the child process.

Nothing here is trusted: links, chunks, virtual datasets and names come from the file. Source: the HDF5 file
format specification, and NeXus (``NXentry``).
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from scicat_dagster.errors import IngestionError, PermanentError, TransientError
from scicat_dagster.files.access import why_broken
from scicat_dagster.files.isolated.hdf5_values import (
    OpenAttribute,
    OpenDataset,
    attribute_of,
    attributes_of,
    beginning_of,
    class_of,
    common_unit,
    contents_of,
    flattened,
    type_of,
    unit_of,
    with_unit,
)
from scicat_dagster.files.isolated.links import LinkedFiles, names_of_linked_files, open_file
from scicat_dagster.files.isolated.virtual import VirtualDataset
from scicat_dagster.files.reading import Answer, Failure, Questions, Read, ReadAnswer
from scicat_dagster.files.values import Member, NexusValue

MOST_ELEMENTS = 1_000_000

MOST_ANSWERED_BYTES = 48 * 1024 * 1024
"""Of the JSON of all values of a file together; the border takes 64 MiB."""

MOST_POSITIONS = 100_000
"""Members of groups that are looked at for one file. Real files have some thousand; with wildcards, a group
that is linked from itself has any number.
"""

_MOST_CHUNK_BYTES = 256 * 1024 * 1024

_MOST_TOUCHED_BYTES = 2 * 1024 * 1024 * 1024
"""Of all chunks that are read for one file, uncompressed: some five seconds."""

_MOST_INFLATION = 1100
"""Deflate makes at most 1032 bytes of one."""

_FILTERS = {
    32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32013: "zfp", 32015: "zstd", 32026: "blosc2"
}  # fmt: skip
"""Names of filters by the numbers that the HDF Group has registered."""

_MOST_LINKS = 32

_MOST_SOURCES = 1000

_MOST_LOOKED_FOR = 10_000
"""Sources of virtual datasets, of one file together."""

_MOST_LAYERS = 8
"""Of virtual datasets that are put together from virtual datasets in other files."""

_MOST_CHUNKS = 10_000
"""That a part of a source may be in."""

_MOST_MEMBERS = 20_000
"""That somebody can look at; real files have some thousand."""

_MOST_OPEN_GROUPS = 1000

_Held = TypeVar("_Held", OpenDataset, OpenAttribute)

_BROKEN = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, AttributeError)
"""What h5py and numpy raise for a damaged file."""


def answer(request: bytes, files: Sequence[int]) -> bytes:
    """The answer to questions about open files; both are the JSON of models of ``reading``."""
    questions = Questions.model_validate_json(request)
    try:
        with _opened(files, questions) as nexus:
            if questions.asks_for_members:
                return Answer(members=tuple(nexus.members())).model_dump_json().encode()
            if questions.asks_for_linked_files:
                return Answer(linked_files=tuple(nexus.linked_files())).model_dump_json().encode()
            if questions.asks_for_entries:
                return Answer(entries=tuple(nexus.entries())).model_dump_json().encode()
            values = b",".join(_answers(nexus, questions.reads))
            lacking = json.dumps(list(nexus.links.lacking)).encode()
            return b'{"values":[' + values + b'],"lacking":' + lacking + b"}"
    except IngestionError as error:
        return Answer(failure=Failure.of(error)).model_dump_json().encode()


def warm_up() -> None:
    """Let libhdf5, h5py and pydantic do what they do once only, before children are forked from here."""
    with h5py.File("warm", "w", driver="core", backing_store=False) as file:
        values: tuple[Any, ...] = ("text", 1, 1.5, ["texts", "texts"], np.arange(4, dtype=np.float32))
        for number, value in enumerate(values):
            file[f"group/{number}"] = value
            file[f"group/{number}"].attrs["units"] = "m"
        file.create_dataset("group/fixed", data=np.bytes_(b"text"))
        file.create_dataset("group/chunked", data=np.arange(100), chunks=(10,), compression="gzip")
        reads = [
            Read(path=path, all=True) for path in (*(f"/group/{name}" for name in file["group"]), "/.*/0")
        ]
        request = Questions(path="warm", reads=tuple(reads)).model_dump_json()
        for _ in _answers(
            NexusFile(file, LinkedFiles(Path("warm"))), Questions.model_validate_json(request).reads
        ):
            pass


def _answers(nexus: NexusFile, reads: Iterable[Read]) -> Iterator[bytes]:
    room = MOST_ANSWERED_BYTES
    for read in reads:
        written = _answered(nexus, read).model_dump_json().encode()
        if len(written) > room:
            mistake = f"{read.path} and the values before it are more than metadata can hold."
            written = ReadAnswer(error="value", reason=mistake).model_dump_json().encode()
        room -= len(written)
        yield written


def _answered(nexus: NexusFile, read: Read) -> ReadAnswer:
    ask = nexus.read_all if read.all else nexus.read_one
    try:
        found = ask(read.path, as_text=read.as_text)
    except MemoryError:
        return ReadAnswer(
            error="value", reason=f"{read.path} takes more memory to be read than a file's metadata may."
        )
    except LookupError as error:
        return ReadAnswer(error="lookup", reason=_words(error))
    except _BROKEN as error:
        return ReadAnswer(error="value", reason=_words(error))
    return ReadAnswer(
        value=found.value, unit=found.unit, states_unit=found.states_unit, unit_mistake=found.unit_mistake
    )


def _words(error: Exception) -> str:
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def _opened(files: Sequence[int], questions: Questions) -> AbstractContextManager[NexusFile]:
    path = Path(questions.path)
    if questions.is_growing:
        return open_growing(files[0], path)
    return open_descriptors(files, path, questions.linked)


def open_descriptors(
    files: Sequence[int], path: Path, linked: Mapping[str, int | str]
) -> AbstractContextManager[NexusFile]:
    """Open the file that the first descriptor is for; errors as :func:`open_nexus`, which name ``path``.

    ``linked`` are the files that links may lead to: the place of each among the descriptors, or why it cannot
    be used.
    """
    known = {name: files[found] if isinstance(found, int) else found for name, found in linked.items()}
    return _open(Path(f"/proc/self/fd/{files[0]}"), path, LinkedFiles(path, known))


@contextmanager
def open_growing(file: int, path: Path) -> Iterator[NexusFile]:
    """Open a file whose writer may be at work, in HDF5's mode for one writer and many readers."""
    place = Path(f"/proc/self/fd/{file}")
    try:
        growing = h5py.File(place, "r", swmr=True)
    except (OSError, RuntimeError, LookupError, ValueError, TypeError):
        # Nobody writes it, or not in that mode. What is wrong with it is found by opening it as any other.
        growing = open_file(place, path)
    with growing:
        yield _nexus(growing, path, LinkedFiles(path))


@contextmanager
def open_nexus(path: Path) -> Iterator[NexusFile]:
    """Open a file for reading, in this very process.

    Raises
    ------
    TransientError
        It is not there, is locked by its writer, or is broken and was modified within the last minute.
    PermanentError
        It must not be read, or it is broken and settled.
    """
    with _open(path, path, LinkedFiles(path)) as nexus:
        yield nexus


@contextmanager
def _open(place: Path, path: Path, links: LinkedFiles) -> Iterator[NexusFile]:
    """Open the file at a place; ``path`` is its name for people."""
    with open_file(place, path) as file:
        yield _nexus(file, path, links)


def _nexus(file: h5py.File, path: Path, links: LinkedFiles) -> NexusFile:
    try:
        return NexusFile(file, links)
    except (OSError, RuntimeError, LookupError, ValueError, TypeError) as error:
        raise why_broken(path, f"its root group cannot be read: {_words(error)}") from error


class NexusFile:
    """An open file; see ``nexus.Reader``. What is read is judged before it is."""

    def __init__(self, file: h5py.File, links: LinkedFiles) -> None:
        self._root: h5py.Group = file["/"]
        self.links = links
        # The paths of a schema share their beginnings. By the parent, which stays open as well, and the name.
        self._groups: dict[tuple[int, str | bytes], h5py.Group] = {}
        self._single_values: dict[tuple[str, bool], NexusValue] = {}
        self._positions = 0
        self._touched_bytes = 0
        self._sources = 0
        self._layers = 0

    @property
    def root(self) -> h5py.Group:
        """The group that everything is below."""
        return self._root

    def follow(self, group: h5py.Group, path: str) -> h5py.Group | h5py.h5d.DatasetID | None:
        """What is at a path below a group; None where there is nothing.

        Raises
        ------
        ValueError
            It leads to a file that is not open, or round in a circle.
        """
        current: Any = self._root if path.startswith("/") else group
        for name in _components(path):
            current = self._child(current, name) if isinstance(current, h5py.Group) else None
        return current

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
        if self.links.is_elsewhere(dataset.id) or any(
            properties.get_virtual_filename(index) != "." for index in range(number)
        ):
            return True
        with self._next_layer():
            for name in {properties.get_virtual_dsetname(index) for index in range(number)}:
                self._count_source()
                found = self.follow(self._root, name)
                if isinstance(found, h5py.h5d.DatasetID) and (
                    self.links.is_elsewhere(found) or self._leads_elsewhere(OpenDataset(name, found))
                ):
                    return True
        return False

    def check_storage(self, dataset: OpenDataset) -> None:
        """Refuse values that are in another file, or in chunks too large to be read.

        Those that are put together here were found among the open files.

        Raises
        ------
        ValueError
            They are.
        """
        if not isinstance(dataset, VirtualDataset):
            self._check_storage(dataset, checked={})

    def read_one(self, path: str, *, as_text: bool = False) -> NexusValue:
        """See ``Reader.read_one``."""
        # What a schema reads is often what everybody wants to know: the names of instrument and sample.
        if (path, as_text) not in self._single_values:
            self._single_values[path, as_text] = self._only(path, as_text=as_text)
        return self._single_values[path, as_text]

    def read_all(self, path: str, *, as_text: bool = False) -> NexusValue:
        """See ``Reader.read_all``."""
        with _explained(path):
            datasets = self._datasets(path)
            attributes = [] if datasets else self._attributes(path)
            if not datasets and not attributes and "*" not in path:
                raise _nothing_at(path)
            if attributes:
                found = [attribute.contents(as_text=as_text) for attribute in attributes if attribute.size]
                return NexusValue(_together(found))
            elements = sum(dataset.size for dataset in datasets)
            if elements > MOST_ELEMENTS:
                raise ValueError(f"{path} holds {elements} values; metadata can hold {MOST_ELEMENTS}.")
            unit = common_unit([unit_of(dataset) for dataset in datasets])
            contents = [
                self._contents(dataset, as_text=as_text) if dataset.size else [] for dataset in datasets
            ]
            return with_unit(_together(contents), unit)

    def members(self) -> Iterator[Member]:
        """Every group and dataset, once, by hard links only; a group before what is in it, the root first.

        The path of the root is empty.

        Raises
        ------
        PermanentError
            There are more than anybody can look at.
        """
        for where, found in self._hard_linked():
            yield self._member(where, found)

    def linked_files(self) -> list[str]:
        """The names of other files that links, virtual datasets and external storage refer to, each once.

        Raises
        ------
        PermanentError
            There are more members than anybody can look at.
        """
        names: dict[str, None] = {}
        for _, found in self._hard_linked():
            names |= dict.fromkeys(names_of_linked_files(found))
        return list(names)

    def entries(self) -> list[str]:
        """The names of the NXentry groups, by hard links only; each group once, though it has two names.

        Raises
        ------
        PermanentError
            There are more members at the top than anybody can look at.
        """
        if len(self._root) > _MOST_MEMBERS:
            raise _too_many_members()
        members = _hard_linked_members(self._root, "", seen=set())
        groups = ((where, found) for where, found in members if isinstance(found, h5py.Group))
        return [where.removeprefix("/") for where, group in groups if class_of(group) == "NXentry"]

    def _hard_linked(self) -> Iterator[tuple[str, h5py.Group | h5py.h5d.DatasetID]]:
        seen = {h5py.h5o.get_info(self._root.id).addr}
        pending: list[tuple[str, h5py.Group | h5py.h5d.DatasetID]] = [("", self._root)]
        while pending:
            where, found = pending.pop()
            if isinstance(found, h5py.Group):
                inner = list(_hard_linked_members(found, where, seen))
                pending += reversed(inner)
                if len(seen) > _MOST_MEMBERS:
                    raise _too_many_members()
            yield where, found

    def _member(self, where: str, found: h5py.Group | h5py.h5d.DatasetID) -> Member:
        try:
            if isinstance(found, h5py.Group):
                return Member(path=where, nexus_class=class_of(found), attributes=attributes_of(found.id))
            dataset = OpenDataset(where, found)
            return Member(
                path=where,
                type=type_of(dataset),
                shape=dataset.shape or (),
                unit=unit_of(dataset).text or "",
                text=self._beginning(dataset) if dataset.size == 1 else "",
                attributes=attributes_of(found),
            )
        except _BROKEN:
            # A type without values that metadata can hold, or a damaged part of the file.
            return Member(path=where)

    def _beginning(self, dataset: OpenDataset) -> str:
        return beginning_of(flattened(self._contents(dataset, as_text=True))[0])

    def _only(self, path: str, *, as_text: bool) -> NexusValue:
        with _explained(path):
            datasets = self._datasets(path)
            if not datasets and (attributes := self._attributes(path)):
                attribute = _single(attributes, path, "attributes")
                return NexusValue(flattened(attribute.contents(as_text=as_text))[0])
            if not datasets:
                raise _nothing_at(path)
            dataset = _single(datasets, path, "datasets")
            return with_unit(flattened(self._contents(dataset, as_text=as_text))[0], unit_of(dataset))

    def _datasets(self, path: str) -> list[OpenDataset]:
        return [
            OpenDataset(where, item)
            for where, item in self._matches(_components(path))
            if isinstance(item, h5py.h5d.DatasetID)
        ]

    def _attributes(self, path: str) -> list[OpenAttribute]:
        """The attributes of a path whose last component has an ``@``, of groups and datasets."""
        owner, at, name = path.rpartition("@")
        if not at or not name or "/" in name or not _are_expressions(owner):
            return []
        found = (
            attribute_of(where, item.id if isinstance(item, h5py.Group) else item, name)
            for where, item in self._matches(_components(owner))
            if isinstance(item, h5py.Group | h5py.h5d.DatasetID)
        )
        attributes = [attribute for attribute in found if attribute is not None]
        elements = sum(attribute.size for attribute in attributes)
        if elements > MOST_ELEMENTS:
            raise ValueError(f"{path} holds {elements} values; metadata can hold {MOST_ELEMENTS}.")
        return attributes

    def _contents(self, dataset: OpenDataset, *, as_text: bool) -> Any:
        # Values that have one place in this very file, as most have, are neither elsewhere nor in chunks.
        if dataset.id.get_offset() is None:
            dataset = self.together(dataset)
            self.check_storage(dataset)
        return contents_of(dataset, as_text=as_text)

    def _source(self, owner: h5py.h5d.DatasetID, file: str, name: str) -> OpenDataset:
        """A source of a virtual dataset, in a file that is open; see ``virtual.FindSource``."""
        self._count_source()
        own = h5py.File(h5py.h5i.get_file_id(owner))["/"]
        root = own if file == "." else self.links.root(owner, file)
        found = self.follow(root, name.lstrip("/"))
        if not isinstance(found, h5py.h5d.DatasetID):
            raise ValueError(f"is put together from {name} in {file}, which is not there.")  # noqa: TRY004
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
            self._check_storage(dataset, checked={})
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

    def _check_storage(self, dataset: OpenDataset, checked: dict[str, bool]) -> None:
        """Refuse values that are in another file, or in chunks too large to be read.

        Of a virtual dataset the sources are checked as well, because HDF5 reads them by itself; ``checked``
        has their names, and whether each is done.
        """
        where, properties = dataset.where, dataset.id.get_create_plist()
        if properties.get_external_count():
            raise ValueError(f"{where} keeps its values in another file, which is not followed.")
        layout = properties.get_layout()
        if layout == h5py.h5d.VIRTUAL:
            if self.links.is_elsewhere(dataset.id):
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
        for _, source in self._matches(_components(name), wildcards=False):
            if isinstance(source, h5py.h5d.DatasetID):
                self._check_storage(OpenDataset(name, source), checked)
        checked[name] = True

    def _matches(self, components: list[str], *, wildcards: bool = True) -> Iterator[tuple[str, Any]]:
        """Every object whose path matches; a plain component is its name, one with ``*`` an expression."""
        positions: list[tuple[str, Any]] = [("", self._root)]
        for component in components:
            positions = [
                (f"{where}/{_shown(name)}", child)
                for where, item in positions
                if isinstance(item, h5py.Group)
                for name in (self._names(item, component) if wildcards else [component])
                if (child := self._child(item, name)) is not None
            ]
        yield from positions

    def _names(self, group: h5py.Group, component: str) -> list[str | bytes]:
        """The names in a group that a component of a path means; bytes where they are not UTF-8."""
        if "*" not in component:
            self._count_positions(1)
            return [component]
        self._count_positions(len(group))
        if component == "*":
            return list(group)
        expression = re.compile(component)
        return [name for name in group if expression.search(_shown(name))]

    def _count_positions(self, more: int) -> None:
        # Before they are listed: the list itself would be large.
        self._positions += more
        if self._positions > MOST_POSITIONS:
            raise ValueError(f"More than {MOST_POSITIONS} members of groups would have to be looked at.")

    def _child(self, group: h5py.Group, name: str | bytes) -> Any:
        """The child of a group, None where there is none; a group that was found stays open."""
        key = group.id.id, name
        known = self._groups.get(key)
        if known is not None:
            return known
        child = self._followed(group, name)
        if isinstance(child, h5py.Group) and len(self._groups) < _MOST_OPEN_GROUPS:
            self._groups[key] = child
        return child

    def _followed(self, group: h5py.Group, name: str | bytes) -> Any:
        """The child of a group, by links that lead to open files only; None where there is none."""
        pending: list[str | bytes] = [name]
        current, links = group, 0
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
            if not isinstance(link, h5py.ExternalLink | h5py.SoftLink):
                current = current[step]
                continue
            links += 1
            if links > _MOST_LINKS:
                raise ValueError(f"{current.name}/{_shown(step)} is a link that leads round in a circle.")
            target = os.fsdecode(link.path)
            pending = [*_components(target), *pending]
            if isinstance(link, h5py.ExternalLink):
                current = self._elsewhere(current, step, link.filename)
            elif target.startswith("/"):
                current = current.file["/"] if self.links.is_elsewhere(current) else self._root
        return current.id if isinstance(current, h5py.Dataset) else current

    def _elsewhere(self, group: h5py.Group, name: str | bytes, file: str) -> h5py.Group:
        try:
            return self.links.root(group, file)
        except ValueError as error:
            raise ValueError(f"{group.name}/{_shown(name)} {error}") from error


class _Source(OpenDataset):
    """A source of a virtual dataset, of which parts are read; each is judged before it is."""

    def __init__(self, nexus: NexusFile, dataset: OpenDataset) -> None:
        super().__init__(dataset.where, dataset.id)
        self._nexus = nexus

    def part(self, slices: tuple[slice, ...]) -> np.ndarray[Any, Any]:
        """See :meth:`OpenDataset.part`."""
        self._nexus.check_part(self, slices)
        return super().part(slices)


def _too_many_members() -> PermanentError:
    return PermanentError(
        f"The file has more than {_MOST_MEMBERS} groups and datasets.",
        remedy="Take a smaller file of the instrument, or one without event data.",
    )


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
    # h5py leaves a name that is not UTF-8 as it is.
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


def _hard_linked_members(
    group: h5py.Group, where: str, seen: set[Any]
) -> Iterator[tuple[str, h5py.Group | h5py.h5d.DatasetID]]:
    """What is in a group and was not seen before, with its path, by name."""
    for name in sorted(name for name in group if isinstance(name, str)):
        found = _hard_linked(group, name)
        if found is not None:
            identity = h5py.h5o.get_info(found.id if isinstance(found, h5py.Group) else found).addr
            if identity not in seen:
                seen.add(identity)
                yield f"{where}/{name}", found


def _shown(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode("utf-8", "replace")


def _components(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in {"", "."}]


def _are_expressions(path: str) -> bool:
    """Whether its components with ``*`` can be searched, which an expression that was cut at an @ may not."""
    try:
        for component in filter(lambda component: "*" in component, _components(path)):
            if component != "*":
                re.compile(component)
    except re.error:
        return False
    return True


def _single(found: Sequence[_Held], path: str, noun: str) -> _Held:
    """The only dataset or attribute at a path, if it holds one value."""
    if len(found) != 1:
        raise LookupError(f"{len(found)} {noun} match {path}; use a value_type that ends in [].")
    if found[0].size != 1:
        raise LookupError(
            f"{found[0].where} holds {found[0].size} values where one was meant; "
            "use a value_type that ends in []."
        )
    return found[0]


def _together(contents: list[Any]) -> list[Any]:
    """The values of several datasets, or attributes, as one list; those of a single one keep their shape."""
    if len(contents) == 1:
        return contents[0] if isinstance(contents[0], list) else contents
    return flattened(contents)


def _nothing_at(path: str) -> LookupError:
    return LookupError(f"There is no dataset at {path}.")
