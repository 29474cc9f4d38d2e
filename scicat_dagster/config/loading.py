"""Reading the facility's configuration file, with everything that is wrong with it.

Nothing here opens a connection, and no error raised here repeats a value that was read.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from scicat_dagster.config.consistency import contradictions, doubtful_settings, unknown_words
from scicat_dagster.config.models import Settings
from scicat_dagster.config.overrides import Overrides, overridden
from scicat_dagster.config.placeholders import fill_placeholders
from scicat_dagster.config.yaml_file import UnreadableError, parse_yaml, read_text, repeated_keys
from scicat_dagster.errors import PermanentError, message_of

CONFIGURATION_VARIABLE = "SCICAT_INGESTOR_CONFIG"
"""The environment variable that holds the path of the configuration file."""

_HASH_DIGITS = 12


class ConfigurationError(PermanentError):
    """The configuration file cannot be used; ``mistakes`` names each place and its remedy."""

    def __init__(self, path: Path, mistakes: tuple[str, ...]) -> None:
        super().__init__(
            f"The configuration file {path} cannot be used: " + " ".join(mistakes),
            remedy=f"Correct it, then run `scicat-dagster validate {path}`.",
        )
        self.path = path
        self.mistakes = mistakes

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.path, self.mistakes)


@dataclass(frozen=True)
class Version:
    """Which content of the file: the beginning of its SHA-256, and when it was modified last."""

    hash: str
    modified_at: datetime
    set_by_hand: tuple[str, ...] = ()
    """The keys that the command line has set."""

    def __str__(self) -> str:
        written = f"{self.hash} of {self.modified_at:%Y-%m-%d %H:%M:%S} UTC"
        return f"{written}, with {', '.join(self.set_by_hand)} set by hand" if self.set_by_hand else written


@dataclass(frozen=True)
class Configuration:
    """A configuration file that was read."""

    path: Path
    """Where it was read; relative paths in it are relative to this file's folder."""
    settings: Settings
    warnings: tuple[str, ...]
    """What is odd about it but does not prevent its use."""
    mistakes: tuple[str, ...]
    """Those of the warnings that ``validate`` calls mistakes: unknown keys, and values without a meaning."""
    version: Version
    """Which content of the file this is."""
    text: str = dataclasses.field(repr=False)
    """The file as it is written; it may hold secrets."""
    environment: Mapping[str, str] = dataclasses.field(repr=False, compare=False)
    """What its placeholders were filled from; it may hold secrets."""
    overrides: Overrides = dataclasses.field(default_factory=dict, repr=False)
    """The keys that the command line has set, which the file does not change; they may hold secrets."""

    @property
    def schemas_directory(self) -> Path:
        """The folder of the ``*.imsc.yml`` files."""
        return self.path.parent / self.settings.ingestion.schemas_directory

    @property
    def fallback_schema(self) -> str:
        """The fallback schema's absolute path, the name of one shipped with the package, or nothing."""
        given = self.settings.ingestion.fallback_schema_file_path
        beside = self.path.parent / given
        return str(beside) if given and ("/" in given or beside.exists()) else given


def load_configuration(
    path: Path,
    environment: Mapping[str, str],
    overrides: Overrides = MappingProxyType({}),
    *,
    kept: Path | None = None,
) -> Configuration:
    """Read a configuration file, or else a version of it that was ``kept`` elsewhere.

    ``overrides`` are keys that take precedence over the file.

    Raises
    ------
    ConfigurationError
        The file cannot be read, is not YAML, names a variable that is not set, or holds a value that a
        key does not allow.
    """
    path = path.absolute()
    raw, text, version = _read_sections(path, kept or path)
    raw = overridden(raw, overrides)
    version = dataclasses.replace(version, set_by_hand=tuple(".".join(key) for key in overrides))
    mistakes: list[str] = []
    filled = fill_placeholders(raw, environment, place="", mistakes=mistakes)
    if mistakes:
        raise ConfigurationError(path, tuple(mistakes))
    try:
        settings = Settings.model_validate(filled)
    except ValidationError as error:
        raise ConfigurationError(path, tuple(_mistakes(error, version.set_by_hand))) from None
    mistakes.extend(contradictions(settings))
    if mistakes:
        raise ConfigurationError(path, tuple(mistakes))
    named = (*unknown_words(filled), *_repeated(text))
    warnings = (*named, *doubtful_settings(filled, settings))
    return Configuration(path, settings, warnings, named, version, text, environment, overrides)


def _repeated(text: str) -> Iterator[str]:
    for place, line in repeated_keys(text).items():
        yield f"{place}: is written more than once, and only the one on line {line} counts."


def _read_sections(path: Path, place: Path) -> tuple[dict[str, Any], str, Version]:
    try:
        text = read_text(place)
        modified_at = datetime.fromtimestamp(place.stat().st_mtime, UTC)
        raw = parse_yaml(text)
    except UnreadableError as error:
        raise ConfigurationError(path, (f"{error}.",)) from None
    except OSError as error:
        raise ConfigurationError(path, (f"it cannot be read ({error.strerror}).",)) from None
    if not isinstance(raw, dict):
        raise ConfigurationError(path, ("it must hold sections such as `kafka:` and `scicat:`.",))
    return raw, text, Version(hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS], modified_at)


def _mistakes(error: ValidationError, set_by_hand: Sequence[str]) -> list[str]:
    found = []
    for detail in error.errors(include_input=False, include_url=False):
        place = ".".join(str(part) for part in detail["loc"])
        what = "is missing" if detail["type"] == "missing" else message_of(detail).rstrip(".")
        found.append(f"{place}{' (set by hand)' if place in set_by_hand else ''}: {what}.")
    return found
