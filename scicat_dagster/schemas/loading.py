"""Reading a folder of schema files, and choosing the one that a data file belongs to.

What is wrong in one variable, field or branch of a selector costs that item alone (:mod:`.models`,
:mod:`.selection`). A file that is broken as a whole does not stop the files of other instruments; nor does it
hand its own files to a schema that fits less. As long as its selector and order can be read it keeps claiming
them, and they fail with its mistakes. Files that cannot even be read so far are named in a notice on every
run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from scicat_dagster.config.yaml_file import UnreadableError, lines_of, read_text, read_yaml, repeated_keys
from scicat_dagster.errors import Notice, PermanentError
from scicat_dagster.files.reading import Read
from scicat_dagster.files.values import Reader
from scicat_dagster.schemas.bases import EXTENDS, Version, is_schema_file, version_of, with_bases
from scicat_dagster.schemas.mistakes import Mistake, mistakes_in, one_for_each_item
from scicat_dagster.schemas.models import Schema
from scicat_dagster.schemas.selection import Match, read_selector


class SchemaError(PermanentError):
    """A schema cannot be used; ``mistakes`` names each place and its remedy."""

    def __init__(self, path: Path, mistakes: tuple[str, ...]) -> None:
        super().__init__(
            f"The schema file {path} cannot be used: " + " ".join(mistakes),
            remedy="Correct the schema file, then try the file again.",
        )
        self.path = path
        self.mistakes = mistakes

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.path, self.mistakes)


ReadContent = Callable[[tuple[Read, ...]], Reader]
"""Reads what a selector asks of a data file's content; raises as ``files.reading.read_values``."""


def nothing_read(reads: tuple[Read, ...]) -> Reader:
    """Stands where a data file is a path only.

    Raises
    ------
    PermanentError
        Always: its schema depends on its content.
    """
    places = ", ".join(read.path for read in reads)
    raise PermanentError(
        f"Which schema is for the file depends on its content ({places}).", remedy="Give a file that exists."
    )


_RECENT_SECONDS = 3.0
"""A file may change twice within one tick of its storage's clock, which a time of change does not show."""


@dataclass(frozen=True)
class SchemaFile:
    """One file of the schemas directory: a schema, unless it is broken as a whole, and all its mistakes."""

    path: Path
    schema: Schema | None
    found: tuple[Mistake, ...] = ()
    """All that is wrong with it, but for references and lines."""
    order: float | None = None
    name: str = ""
    selector: Any = None
    origins: Mapping[str, Path] = field(default_factory=dict)
    """The base that a key, or an entry such as ``variables.pi``, comes from."""
    versions: Mapping[Path, Version] = field(default_factory=dict)
    """The file and its bases, as they were when they were read."""

    @property
    def mistakes(self) -> tuple[str, ...]:
        """All that is wrong with it as sentences."""
        return tuple(self._in_its_file(mistake).in_words() for mistake in self.found)

    def located_mistakes(self) -> list[Mistake]:
        """All that is wrong with it, references and plug-ins as well, with lines; one for each item."""
        repeated = [*_repeated_in(self.path)]
        if self.schema is None:
            return one_for_each_item([*self.located(self.found), *repeated])
        found = (*self.found, *self.schema.reference_mistakes(), *self.schema.plugin_mistakes())
        return one_for_each_item([*self.located(found), *repeated])

    def unused_variables(self) -> list[str]:
        """Its own variables that nothing uses; those of a base may be meant for others."""
        if self.schema is None or "variables" in self.origins:
            return []
        names = self.schema.unused_variables()
        return [name for name in names if f"variables.{name}" not in self.origins]

    def located(self, mistakes: Iterable[Mistake]) -> list[Mistake]:
        """Mistakes with their lines. Files are read again for them, because only a person needs them."""
        placed = [self._in_its_file(mistake) for mistake in mistakes]
        lines = {file: _lines_in(file or self.path) for file in {mistake.file for mistake in placed}}
        return [mistake.at(lines[mistake.file]) for mistake in placed]

    def _in_its_file(self, mistake: Mistake) -> Mistake:
        """A mistake with the base that it is in, where it is in one."""
        file = mistake.file or self.origins.get(mistake.item) or self.origins.get(mistake.key_at_top)
        return mistake.model_copy(update={"file": file})

    @property
    def claims_files(self) -> bool:
        """Whether it can be said which files it is for."""
        return self.order is not None and self.selector is not None

    def match(self, file_path: str, content: Reader | None = None) -> Match:
        """Whether a data file is claimed, as far as that can be read; see :meth:`Selector.match`."""
        if not self.claims_files:
            return Match.UNREADABLE
        return read_selector(self.selector).match(file_path, content)

    def reads(self, file_path: str) -> Iterator[Read]:
        """What of a data file's content decides whether it is claimed."""
        return read_selector(self.selector).reads(file_path)

    def why_meant(self, file_path: str, content: Reader | None) -> PermanentError:
        """The error of a data file that seems to be claimed."""
        unreadable = [] if content is None else list(read_selector(self.selector).unreadable(content))
        if not unreadable:
            return SchemaError(self.path, self.mistakes)
        return PermanentError(
            f"Whether the schema {self.path} is for {file_path} cannot be said: {' '.join(unreadable)}",
            remedy="Correct the data file, or the selector, then try the file again.",
        )

    def selects(self, file_path: str) -> bool:
        """Whether a data file is claimed without any doubt."""
        return self.match(file_path) is Match.YES

    def unclear_selection(self) -> tuple[str, ...]:
        """Why it cannot be said, or not for certain, which files it is for."""
        if not self.claims_files:
            return self.mistakes
        return tuple(f"selector: {mistake}" for mistake in read_selector(self.selector).mistakes())


@dataclass(frozen=True)
class SchemaCollection:
    """The schemas of a facility, in the order in which they are asked, and the fallback if there is one."""

    directory: Path
    files: tuple[SchemaFile, ...]
    fallback: SchemaFile | None = None

    @property
    def makes_several(self) -> bool:
        """Whether any schema makes a dataset of each NXentry of a file."""
        files = (*self.files, *([self.fallback] if self.fallback else []))
        return any(file.schema is not None and file.schema.entries for file in files)

    def select(self, file_path: str, read: ReadContent = nothing_read) -> Schema:
        """The schema of a data file: the first whose selector matches its canonical path, or the fallback.

        ``read`` is called once at most, when a selector whose other parts match depends on the content.

        Raises
        ------
        SchemaError
            The schema that claims the file, or seems to mean it, is broken.
        PermanentError
            No schema matches, and there is no fallback.
        """
        content: Reader | None = None
        for file in self.files:
            answer = file.match(file_path, content)
            if answer is Match.UNDECIDED:
                content = read(tuple(self._reads(file_path)))
                answer = file.match(file_path, content)
            match answer:
                case Match.YES:
                    return _usable(file)
                case Match.MEANT:
                    raise file.why_meant(file_path, content)
        if self.fallback is not None:
            return _usable(self.fallback)
        tried = ", ".join(file.name or file.path.name for file in self.files) or "there is none"
        raise PermanentError(
            f"No schema is for {file_path} (tried: {tried}).",
            remedy=f"Add a schema to {self.directory} whose selector matches the file, or set "
            "ingestion.fallback_schema_file_path; then try the file again.",
        )

    def _reads(self, file_path: str) -> Iterator[Read]:
        """What of the content decides which schema is the first, as far as the path leaves that open."""
        for file in self.files:
            match file.match(file_path):
                case Match.YES | Match.MEANT:
                    return
                case Match.UNDECIDED:
                    yield from file.reads(file_path)

    def notices(self) -> tuple[Notice, ...]:
        """What is wrong with the folder as a whole, whatever the data file."""
        found = [
            Notice(subject=f"schema file {file.path.name}", reason=" ".join(file.unclear_selection()))
            for file in self.files
            if file.unclear_selection()
        ]
        return (*found, *self.duplicate_ids())

    def notices_about(self, schema: Schema) -> tuple[Notice, ...]:
        """What every run with one of these schemas should show, with the line of its file."""
        oddities = list(schema.oddities())
        files = (*self.files, *([self.fallback] if self.fallback else []))
        file = next((file for file in files if file.schema is schema), None)
        if file is not None and oddities:
            oddities = file.located(oddities)
        return tuple(mistake.as_notice(file.path.name if file else "") for mistake in oddities)

    def has_mistakes(self, schema: Schema) -> bool:
        """Whether the file of one of these schemas has mistakes, although it can be used."""
        files = (*self.files, *([self.fallback] if self.fallback else []))
        return any(file.schema is schema and bool(file.located_mistakes()) for file in files)

    def duplicate_ids(self) -> tuple[Notice, ...]:
        """Schemas that share an id, so that a dataset cannot say which one made it."""
        paths: dict[str, list[str]] = {}
        for file in self.files:
            if file.schema is not None:
                paths.setdefault(file.schema.id, []).append(file.path.name)
        return tuple(
            Notice(
                subject=f"schema id {schema_id}",
                reason=f"{' and '.join(names)} have the same id; give each its own.",
            )
            for schema_id, names in paths.items()
            if len(names) > 1
        )


def load_schemas(directory: Path, fallback: str = "") -> SchemaCollection:
    """Every schema file in a folder, and the fallback: a path, or the name of one shipped with the package.

    Raises
    ------
    PermanentError
        The folder cannot be listed, or the fallback does not exist.
    """
    try:
        paths = sorted(path for path in directory.iterdir() if is_schema_file(path))
    except OSError as error:
        raise PermanentError(
            f"The schemas directory {directory} cannot be listed: {error.strerror}.",
            remedy="Correct ingestion.schemas_directory, or give Dagster's account the right to read it.",
        ) from error
    files = [read_schema_file(path) for path in paths]
    return SchemaCollection(
        directory=directory,
        files=tuple(sorted(files, key=lambda file: (file.order or 0, file.name.casefold(), file.path))),
        fallback=_load_fallback(fallback) if fallback else None,
    )


def read_schema_file(path: Path) -> SchemaFile:
    """One schema file with its bases. Never raises: what is wrong with it is in ``mistakes``.

    A process that reads it again gets what it made of it the first time, unless one of the files was touched.
    """
    kept = _kept.get(path)
    if kept is not None and all(version_of(file) == version for file, version in kept.versions.items()):
        return kept
    version = version_of(path)
    read = _parse(path)
    read = replace(read, versions={path: version, **read.versions})
    if len(_kept) >= _MOST_KEPT:
        _kept.clear()
    if _are_settled(read.versions.values()):
        _kept[path] = read
    return read


_kept: dict[Path, SchemaFile] = {}
_MOST_KEPT = 500


def _are_settled(versions: Iterable[Version]) -> bool:
    now = time.time()
    return all(now - version[0] / 1e9 >= _RECENT_SECONDS for version in versions if version is not None)


def _parse(path: Path) -> SchemaFile:
    try:
        raw = read_yaml(path)
    except UnreadableError as error:
        return SchemaFile(path, None, _whole(f"It{str(error).removeprefix('it')}."))
    if not isinstance(raw, dict):
        return SchemaFile(path, None, _whole("It must hold keys such as `id`, `selector` and `schema`."))
    extended = with_bases(path, raw)
    schema, mistakes = _schema_in(extended.content)
    if extended.mistakes:
        # What it would have inherited is not its own mistake.
        own = (mistake for mistake in mistakes if mistake.place != "schema" and mistake.key_at_top != EXTENDS)
        schema, mistakes = None, (*extended.mistakes, *own)
    return SchemaFile(
        path,
        schema,
        found=mistakes,
        order=schema.order if schema else _order(raw.get("order")),
        name=schema.name if schema else str(raw.get("name", "")),
        selector=raw.get("selector"),
        origins=extended.origins,
        versions=extended.versions,
    )


def _schema_in(content: dict[Any, Any]) -> tuple[Schema | None, tuple[Mistake, ...]]:
    """The schema, unless it is broken as a whole, and all its mistakes."""
    try:
        schema = Schema.model_validate(content)
    except ValidationError as error:
        return None, tuple(_all_mistakes(content, error))
    return schema, schema.mistakes()


def _repeated_in(path: Path) -> Iterator[Mistake]:
    try:
        repeated = repeated_keys(read_text(path))
    except UnreadableError:
        return
    for place, line in repeated.items():
        what = "is written more than once, and only this last one counts."
        yield Mistake(place=place, what=what, remedy="Remove the others, or rename them.", line=line)


def _lines_in(path: Path) -> dict[str, int]:
    try:
        return lines_of(read_text(path))
    except UnreadableError:
        return {}


def shipped_schemas() -> dict[str, Path]:
    """The schemas that come with the package, by name."""
    folder = Path(str(package_files("scicat_dagster.schemas") / "shipped"))
    return {path.name.split(".imsc.")[0]: path for path in sorted(folder.iterdir()) if is_schema_file(path)}


def _load_fallback(fallback: str) -> SchemaFile:
    shipped = shipped_schemas()
    path = shipped.get(fallback) or Path(fallback)
    if not path.exists():
        raise PermanentError(
            f"The fallback schema {fallback} does not exist.",
            remedy="Set ingestion.fallback_schema_file_path to a file, or to one of the shipped schemas: "
            + ", ".join(shipped),
        )
    return read_schema_file(path)


def _usable(file: SchemaFile) -> Schema:
    if file.schema is None:
        raise SchemaError(file.path, file.mistakes)
    return file.schema


def _whole(what: str) -> tuple[Mistake, ...]:
    return (Mistake(place="", what=what),)


_PLACEHOLDERS = {"id": "", "name": "", "order": 0, "selector": "*"}


def _all_mistakes(raw: dict[Any, Any], error: ValidationError) -> Iterator[Mistake]:
    """What breaks a schema, and the mistakes in the rest of it, so that a person corrects them at once."""
    yield from mistakes_in(error)
    broken = {detail["loc"][0] for detail in error.errors(include_url=False)}
    rest = {key: value for key, value in raw.items() if key not in broken}
    for mistake in Schema.model_validate({**_PLACEHOLDERS, **rest}).mistakes():
        if mistake.place not in broken:
            yield mistake


def _order(raw: Any) -> float | None:
    """The order as a good schema would have it, which may be written as a text or as 10.5."""
    try:
        return TypeAdapter(FiniteFloat).validate_python(raw)
    except ValidationError:
        return None
