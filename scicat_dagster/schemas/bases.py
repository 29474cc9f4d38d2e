"""Bases: files whose parts several schemas share, and how a schema's own entries are put over theirs.

A schema says ``extends: common.part.yml``, or a list of which a later one wins. Each section is put together
entry by entry: what the schema writes wins over what its bases have, and an entry without a value takes the
inherited one away. A base is not a schema: it has no selector, and its name is none of a schema file, so that
neither this project nor scicat-ingestor takes it for one. Reading schema files belongs to ``loading``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scicat_dagster.config.yaml_file import UnreadableError, read_yaml
from scicat_dagster.nearest import suggestion
from scicat_dagster.schemas.mistakes import Mistake

SUFFIXES = ("imsc.yml", "imsc.yaml", "imsc.json")
"""What the name of a schema file holds; there need not be a dot before it, as in ``coda_imsc.yml``."""

EXTENDS = "extends"

_OF_EACH_SCHEMA = ("id", "name", "order", "selector")

_MOST_BASES = 100
"""Of one schema, each as often as it is extended; a few lines can mean billions."""

Version = tuple[int, int, int] | None
"""What distinguishes one content of a file from another; None without a file."""


def is_schema_file(path: Path) -> bool:
    """Whether a file of the schemas directory is meant as a schema, by its name."""
    return not path.name.startswith(".") and any(suffix in path.name for suffix in SUFFIXES)


def version_of(path: Path) -> Version:
    """The version of a file as it is now."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


@dataclass(frozen=True)
class Extended:
    """What a schema file says together with its bases."""

    content: dict[Any, Any]
    origins: Mapping[str, Path]
    """The base that a key, or an entry such as ``variables.pi``, comes from."""
    versions: Mapping[Path, Version]
    """The bases, as they were when they were read."""
    mistakes: tuple[Mistake, ...]
    """Why not all bases could be read."""


def with_bases(path: Path, content: dict[Any, Any]) -> Extended:
    """The content of a schema file, put over that of its bases. Never raises.

    Bases are looked for beside the file that names them, and nowhere outside the folder of the schema.
    """
    reading = _Reading(schema=path, folder=path.parent.resolve())
    found = reading.put_over_bases(_Part(path, content), ())
    origins = {place: origin for place, origin in found.origins.items() if origin != path}
    return Extended(found.content, origins, reading.versions, tuple(reading.mistakes))


@dataclass(frozen=True)
class _Part:
    """A file, what it says, and where each of its keys and entries comes from."""

    path: Path
    content: dict[Any, Any]
    origins: Mapping[str, Path] = field(default_factory=dict)


@dataclass
class _Reading:
    schema: Path
    folder: Path
    versions: dict[Path, Version] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    count: int = 0

    def put_over_bases(self, part: _Part, above: tuple[Path, ...]) -> _Part:
        """A file's content over that of its bases; ``above`` are the files on the way to it, resolved."""
        inherited: dict[Any, Any] = {}
        origins: dict[str, Path] = {}
        for name in self._names(part):
            base = self._base(part.path, name, (*above, part.path.resolve()))
            if base is not None:
                inherited = _put_over(inherited, base.content)
                origins |= base.origins
        origins |= dict.fromkeys(_places(part.content), part.path)
        return _Part(part.path, _put_over(inherited, part.content), origins)

    def _names(self, part: _Part) -> list[str]:
        written = part.content.get(EXTENDS)
        names = written if isinstance(written, list) else [] if written is None else [written]
        if all(isinstance(name, str) and name for name in names):
            return names
        self._add(
            part.path, "must be the name of a file, or a list of names.", "Write such as `common.part.yml`."
        )
        return []

    def _base(self, path: Path, name: str, above: tuple[Path, ...]) -> _Part | None:
        place = path.parent / name
        # Before it is read: what comes later is another version.
        self.versions[place] = version_of(place)
        self.count += 1
        refusal = self._refusal(place, name, above)
        if refusal is not None:
            self._add(path, *refusal)
            return None
        try:
            content = read_yaml(place)
        except UnreadableError as error:
            self._add(path, f"{name}: {error}.", f"Correct {name}.")
            return None
        if content is None:
            return _Part(place, {})
        if not isinstance(content, dict):
            self._add(path, f"{name} holds no sections.", f"Give {name} sections such as `variables:`.")
            return None
        return self.put_over_bases(_Part(place, self._sections(place, content)), above)

    def _refusal(self, place: Path, name: str, above: tuple[Path, ...]) -> tuple[str, str] | None:
        """Why a base cannot be used, and what to do about it."""
        if self.count > _MOST_BASES:
            return f"extends more than {_MOST_BASES} files.", "Put the parts into fewer files."
        try:
            target = place.resolve()
            is_file, exists = target.is_file(), target.exists()
        except (OSError, RuntimeError, ValueError):
            return f"{name!r} is not the name of a file.", "Correct the name."
        if not target.is_relative_to(self.folder):
            return (
                f"{name} leads out of the folder of the schemas, {self.folder}.",
                f"Put the file below {self.folder}.",
            )
        if is_schema_file(place) or is_schema_file(target):
            return (
                f"{name} is a schema by its name, and would be asked for files itself.",
                "Move what is shared into a file without imsc in its name, such as common.part.yml.",
            )
        if not exists:
            meant = suggestion(place.name, _neighbours(place))
            return f"{name} does not exist{meant or '.'}", "Correct the name, or write the file."
        if not is_file:
            return f"{name} is not a file.", "Name a file with sections such as `variables:`."
        if target in above:
            ring = " → ".join(one.name for one in (*above[above.index(target) :], target))
            return f"{name} extends itself: {ring}.", "Take one `extends:` out of the ring."
        return None

    def _sections(self, place: Path, content: dict[Any, Any]) -> dict[Any, Any]:
        """What a base may give to schemas; the rest is a mistake."""
        for key in _OF_EACH_SCHEMA:
            if key in content:
                self.mistakes.append(
                    Mistake(
                        place=key,
                        what="belongs to one schema, and cannot be shared.",
                        remedy="Move it into each schema.",
                        file=place,
                    )
                )
        sections = {key: value for key, value in content.items() if key not in _OF_EACH_SCHEMA}
        for key in ("variables", "schema", "jobs"):
            if sections.get(key) is not None and not isinstance(sections[key], dict):
                self.mistakes.append(
                    Mistake(
                        place=key,
                        what="must be a dictionary of names.",
                        remedy=f"Write below `{key}:` a name and its definition.",
                        file=place,
                    )
                )
                del sections[key]
        return sections

    def _add(self, path: Path, what: str, remedy: str) -> None:
        file = None if path == self.schema else path
        self.mistakes.append(Mistake(place=EXTENDS, what=what, remedy=remedy, file=file))


def _neighbours(place: Path) -> list[str]:
    try:
        return [path.name for path in place.parent.iterdir() if not is_schema_file(path)]
    except OSError:
        return []


def _places(content: Mapping[Any, Any]) -> Iterator[str]:
    """The keys of a file and the entries of its sections, as mistakes name them."""
    for key, value in content.items():
        if value is not None:
            yield str(key)
        if isinstance(value, dict):
            yield from (f"{key}.{name}" for name in value)


def _put_over(inherited: Mapping[Any, Any], own: Mapping[Any, Any]) -> dict[Any, Any]:
    together = {key: value for key, value in inherited.items() if key != EXTENDS}
    for key, value in own.items():
        known = together.get(key)
        if isinstance(value, dict) and isinstance(known, dict):
            together[key] = _put_entries_over(known, value)
        elif value is not None or key not in together:
            together[key] = value
    return together


def _put_entries_over(inherited: Mapping[Any, Any], own: Mapping[Any, Any]) -> dict[Any, Any]:
    """The entries of a section, in an order in which variables find those that they use.

    An entry that is replaced keeps its place. What the schema writes before it is put before it, and the rest
    at the end.
    """
    before: dict[Any, list[Any]] = {}
    new: list[Any] = []
    for name in own:
        if name in inherited:
            before[name], new = new, []
        else:
            new.append(name)
    entries: dict[Any, Any] = {}
    for name, value in inherited.items():
        entries |= {added: own[added] for added in before.get(name, ())}
        entries[name] = own.get(name, value)
    entries |= {name: own[name] for name in new}
    return {name: value for name, value in entries.items() if value is not None or name not in inherited}
