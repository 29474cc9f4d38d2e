"""Keys of the configuration that a command line sets, such as ``ingestion.dry_run=true``.

They take precedence over the file in the process that was given them, and are written nowhere. What a value
may be is for the models; which key is meant, and that there is such a one, is judged here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_origin

from pydantic import BaseModel

from scicat_dagster.config.models import Settings
from scicat_dagster.config.yaml_file import UnreadableError, parse_yaml
from scicat_dagster.nearest import suggestion

Overrides = Mapping[tuple[str, ...], Any]
"""The value of each key that is set, by the names of its sections and its own."""


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """The key and value that ``KEY=VALUE`` means; lists and maps are YAML, everything else is text.

    Raises
    ------
    ValueError
        There is no ``=``, or the configuration has no such key; the value is not repeated.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{key} has no value; write it like ingestion.dry_run=true.")
    return _path_of(key.strip()), _value_of(value.strip())


def overridden(raw: Mapping[str, Any], overrides: Overrides) -> dict[str, Any]:
    """The sections of a file with the keys that are set in them."""
    changed: dict[str, Any] = dict(raw)
    for path, value in overrides.items():
        _put(changed, path, value)
    return changed


def _put(sections: dict[str, Any], path: Sequence[str], value: Any) -> None:
    name, *rest = path
    if not rest:
        sections[name] = value
        return
    section = sections.get(name)
    sections[name] = dict(section) if isinstance(section, Mapping) else {}
    _put(sections[name], rest, value)


def _path_of(key: str) -> tuple[str, ...]:
    """The names that a dotted key means. What is below a map, such as kafka.options, may hold dots itself."""
    section: type[BaseModel] = Settings
    names = key.split(".")
    for place, name in enumerate(names):
        above, below = names[:place], names[place + 1 :]
        if section.model_config.get("extra") == "allow":
            return (*above, ".".join([name, *below]))
        kind = _kind_of(section, name, ".".join(above))
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            section = kind
        elif below and get_origin(kind) is not dict:
            raise ValueError(f"{'.'.join([*above, name])} is a key and not a section.")
        else:
            return (*above, name, *([".".join(below)] if below else []))
    raise ValueError(f"{key} is a section; name one of its keys: {', '.join(section.model_fields)}.")


def _kind_of(section: type[BaseModel], name: str, place: str) -> object:
    field = section.model_fields.get(name)
    if field is None:
        what = f"{place} has no key {name}" if place else f"there is no key {name}"
        meant = suggestion(name, section.model_fields)
        raise ValueError(what + (meant or "; `scicat-dagster schema sample-config` shows every key."))
    return field.annotation


def _value_of(text: str) -> Any:
    """A text is left as it is written: YAML would read some passwords as numbers."""
    if not text.startswith(("[", "{")):
        return text
    try:
        return parse_yaml(text)
    except UnreadableError:
        return text
