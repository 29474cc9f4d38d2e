"""A configuration file with every key, its meaning and its default, made from the models that read it."""

from __future__ import annotations

import json
import textwrap

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from scicat_dagster.config.attribute_docs import attribute_docs
from scicat_dagster.config.models import ScicatSettings, Settings

_HEADER = """\
# The configuration of scicat_dagster: every key with its meaning and its default. All keys but scicat.host
# may be left out. Any text may be ${NAME} or ${NAME:-default} from the environment.
#
# Made by `scicat-dagster schema sample-config`. `scicat-dagster validate` checks yours.
"""
_PLAUSIBLE: dict[tuple[type[BaseModel], str], object] = {
    (ScicatSettings, "host"): "https://scicat.example.org/api/v3"
}
"""What stands where a key has no default."""

_WIDTH = 110
_INDENT = "  "


def sample_configuration() -> str:
    """The file's text. It can be read as it is; who wants to register something has to log in."""
    return _HEADER + "".join(_section(Settings, "", between="\n"))


def _section(model: type[BaseModel], indent: str, between: str = "") -> list[str]:
    docs = attribute_docs(model)
    lines = []
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if default is PydanticUndefined:
            default = _PLAUSIBLE.get((model, name))
        lines.append(between + _comment(docs.get(name, ""), indent))
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel) and section.model_fields:
            lines += [f"{indent}{name}:\n", *_section(section, indent + _INDENT)]
        else:
            lines.append(f"{indent}{name}:{_value(default)}\n")
    return lines


def _comment(text: str, indent: str) -> str:
    beginning = f"{indent}# "
    lines = textwrap.wrap(
        text, _WIDTH, initial_indent=beginning, subsequent_indent=beginning, break_on_hyphens=False
    )
    return "".join(f"{line}\n" for line in lines)


def _value(value: object) -> str:
    """A default as YAML (of which JSON is a part); nothing for None, which means the default as well."""
    if value is None:
        return ""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    # Secrets have an empty default, the only one that is shown.
    return " " + json.dumps(value, ensure_ascii=False, default=_secret_or_list)


def _secret_or_list(value: object) -> object:
    return list(value) if isinstance(value, tuple | frozenset) else str(value)
