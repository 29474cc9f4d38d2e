"""Reading a folder of schema files, and choosing the one that a data file belongs to.

One broken file does not stop the files of other instruments; nor does it hand its own files to a schema that
fits less. As long as its selector and order can be read it keeps claiming them, and they fail with its
mistakes. Files that cannot even be read so far are named in a notice on every run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from scicat_dagster.errors import Notice, PermanentError
from scicat_dagster.schemas.models import Schema
from scicat_dagster.schemas.selection import parse_selector
from scicat_dagster.yaml_file import UnreadableError, read_yaml

SUFFIXES = (".imsc.yml", ".imsc.yaml", ".imsc.json")


class SchemaError(PermanentError):
    """A schema cannot be used; ``mistakes`` names each place and its remedy."""

    def __init__(self, path: Path, mistakes: tuple[str, ...]) -> None:
        super().__init__(
            f"The schema file {path} cannot be used: " + " ".join(mistakes),
            remedy="Correct the schema file, then re-execute the run.",
        )
        self.path = path
        self.mistakes = mistakes

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.path, self.mistakes)


_RECENT_SECONDS = 3.0
"""A file may change twice within one tick of its storage's clock, which a time of change does not show."""


@dataclass(frozen=True)
class SchemaFile:
    """One file of the schemas directory: a schema, or what is wrong with it."""

    path: Path
    schema: Schema | None
    mistakes: tuple[str, ...] = ()
    order: int | None = None
    name: str = ""
    selector: Any = None

    @property
    def claims_files(self) -> bool:
        """Whether it can be said which files it is for."""
        return self.order is not None and self.selector is not None

    def selects(self, file_path: str) -> bool:
        """Whether a data file is claimed."""
        return self.claims_files and parse_selector(self.selector)(file_path)


@dataclass(frozen=True)
class SchemaCollection:
    """The schemas of a facility, in the order in which they are asked, and the fallback if there is one."""

    directory: Path
    files: tuple[SchemaFile, ...]
    fallback: SchemaFile | None = None

    def select(self, file_path: str) -> Schema:
        """The schema of a data file: the first whose selector matches its canonical path, or the fallback.

        Raises
        ------
        SchemaError
            The schema that claims the file is broken.
        PermanentError
            No schema matches, and there is no fallback.
        """
        for file in self.files:
            if file.selects(file_path):
                return _usable(file)
        if self.fallback is not None:
            return _usable(self.fallback)
        tried = ", ".join(file.name or file.path.name for file in self.files) or "there is none"
        raise PermanentError(
            f"No schema is for {file_path} (tried: {tried}).",
            remedy=f"Add a schema to {self.directory} whose selector matches the file, or set "
            "ingestion.fallback_schema_file_path; then re-execute the run.",
        )

    def notices(self) -> tuple[Notice, ...]:
        """What is wrong with the folder as a whole, whatever the data file."""
        found = [
            Notice(subject=f"schema file {file.path.name}", reason=" ".join(file.mistakes))
            for file in self.files
            if not file.claims_files
        ]
        return (*found, *self.duplicate_ids())

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


def is_schema_file(path: Path) -> bool:
    """Whether a file of the schemas directory is meant as a schema, by its name."""
    return not path.name.startswith(".") and any(suffix in path.name for suffix in SUFFIXES)


def read_schema_file(path: Path) -> SchemaFile:
    """One schema file. Never raises: what is wrong with it is in ``mistakes``.

    A process that reads it again gets what it made of it the first time, unless the file was touched.
    """
    try:
        status = path.stat()
    except OSError:
        return _parse(path)
    if time.time() - status.st_mtime < _RECENT_SECONDS:
        return _parse(path)
    return _parse_once(path, (status.st_mtime_ns, status.st_size, status.st_ino))


@lru_cache(maxsize=500)
def _parse_once(path: Path, _version: tuple[int, int, int]) -> SchemaFile:
    return _parse(path)


def _parse(path: Path) -> SchemaFile:
    try:
        raw = read_yaml(path)
    except UnreadableError as error:
        return SchemaFile(path, None, (f"It{str(error).removeprefix('it')}.",))
    if not isinstance(raw, dict):
        return SchemaFile(path, None, ("It must hold keys such as `id`, `selector` and `schema`.",))
    try:
        schema = Schema.model_validate(raw)
    except ValidationError as error:
        return _broken(path, raw, _mistakes(error))
    return SchemaFile(path, schema, order=schema.order, name=schema.name, selector=schema.selector)


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


def _broken(path: Path, raw: dict[Any, Any], mistakes: tuple[str, ...]) -> SchemaFile:
    """A broken schema with what can still be read of it."""
    selector = raw.get("selector")
    try:
        parse_selector(selector)
    except ValueError:
        selector = None
    return SchemaFile(
        path,
        None,
        mistakes,
        order=_order(raw.get("order")),
        name=str(raw.get("name", "")),
        selector=selector,
    )


def _order(raw: Any) -> int | None:
    """The order as a good schema would have it, which may be written as a text or as 10.0."""
    try:
        return TypeAdapter(int).validate_python(raw)
    except ValidationError:
        return None


def _mistakes(error: ValidationError) -> tuple[str, ...]:
    found = []
    for detail in error.errors(include_url=False):
        place = ".".join(str(part) for part in detail["loc"] if part not in {"NXS", "SC", "VALUE"})
        what = detail["msg"].removeprefix("Value error, ").rstrip(".")
        if detail["type"] == "missing":
            what = "is missing"
        elif detail["type"] == "union_tag_not_found":
            what = "needs `source: NXS`, `SC` or `VALUE`"
        elif detail["type"] == "union_tag_invalid":
            what = f"unknown source {detail['ctx']['tag']!r}; use NXS, SC or VALUE"
        found.append(f"{place}: {what}.")
    return tuple(found)
