"""Reading HDF5, within the limits of what metadata can hold; runs in the child process.

Nothing here is trusted: links, chunks, virtual datasets and names come from the file. Source: the HDF5 file
format specification, and NeXus (``NXentry``).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
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
from scicat_dagster.files.isolated.storage import Storage
from scicat_dagster.files.reading import Answer, Failure, Questions, Read, ReadAnswer
from scicat_dagster.files.values import Member, NexusValue

MOST_ELEMENTS = 1_000_000

MOST_ANSWERED_BYTES = 48 * 1024 * 1024
"""Of the JSON of all values of a file together; the border takes 64 MiB."""

MOST_POSITIONS = 100_000
"""Members of groups that are looked at for one file. Real files have some thousand; with wildcards, a group
that is linked from itself has any number.
"""

_MOST_LINKS = 32

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
        self.storage = Storage(self._root, links, self.follow)

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
            dataset = self.storage.together(dataset)
            self.storage.check(dataset)
        return contents_of(dataset, as_text=as_text)

    def _matches(self, components: list[str]) -> Iterator[tuple[str, Any]]:
        """Every object whose path matches; a plain component is its name, one with ``*`` an expression."""
        positions: list[tuple[str, Any]] = [("", self._root)]
        for component in components:
            positions = [
                (f"{where}/{_shown(name)}", child)
                for where, item in positions
                if isinstance(item, h5py.Group)
                for name in self._names(item, component)
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


def _too_many_members() -> PermanentError:
    return PermanentError(
        f"The file has more than {_MOST_MEMBERS} groups and datasets.",
        remedy="Take a smaller file of the instrument, or one without event data.",
    )


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
