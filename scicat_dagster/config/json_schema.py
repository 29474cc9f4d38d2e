"""The configuration file as JSON Schema, by which editors complete and check it.

The metadata schema files have theirs in :mod:`scicat_dagster.schemas.json_schema`, made with what is here.
Sources: JSON Schema 2020-12; pydantic, *JSON Schema*.
"""

from __future__ import annotations

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelSchema, TaggedUnionSchema

from scicat_dagster.config.attribute_docs import attribute_docs
from scicat_dagster.config.models import Settings

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_ANNOTATIONS = ("title", "description", "default", "examples")

_PLACEHOLDER: JsonSchemaValue = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"}

_WORDS = ("true", "false", "yes", "no", "on", "off", "t", "f", "y", "n")

# A pattern cannot ignore case in every editor.
_SWITCH = "|".join("".join(f"[{letter.upper()}{letter}]" for letter in word) for word in _WORDS)

_AS_TEXT: dict[str, list[JsonSchemaValue]] = {
    "boolean": [{"enum": [0, 1]}, {"type": "string", "pattern": f"^({_SWITCH}|[01])$"}],
    "integer": [{"type": "string", "pattern": r"^\s*[+-]?[0-9]+(\.0*)?\s*$"}],
    "number": [{"type": "string", "pattern": r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$"}],
}


def configuration_schema() -> JsonSchemaValue:
    """What the configuration file may hold."""
    made = Settings.model_json_schema(schema_generator=_WithPlaceholders)
    definitions = made["$defs"]
    definitions["ScicatSettings"]["properties"]["host"]["pattern"] = r"^https?://[^/]|\$\{"
    definitions["FileHandlingSettings"]["properties"]["data_directory"]["pattern"] = r"^(/|$)|\$\{"
    return {"$schema": DIALECT, **made, "title": "Configuration of scicat_dagster"}


class AsWritten(GenerateJsonSchema):
    """The models' JSON Schema with the text below each attribute, and with all spellings that are read."""

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        model: type[BaseModel] = schema["cls"]
        docs = attribute_docs(model)
        required = made.get("required", ())
        for name, field in model.model_fields.items():
            key = field.alias or name
            may_be_empty = key not in required and not _may_all_be_left_out(field.annotation)
            written = self._written(made["properties"][key], may_be_empty=may_be_empty)
            title = key.replace("_", " ").title()
            made["properties"][key] = {"title": title, "description": docs.get(name, "")} | written
        # Other keys have no effect, so that one is a mistake in the writing.
        made.setdefault("additionalProperties", False)
        if _may_all_be_left_out(model):
            # Said here and not where it is used, because editors explain the mistakes of one way better.
            made["type"] = ["object", "null"]
        return made

    def tagged_union_schema(self, schema: TaggedUnionSchema) -> JsonSchemaValue:
        made = super().tagged_union_schema(schema)
        # OpenAPI's word, not JSON Schema's.
        made.pop("discriminator", None)
        return made

    def _written(self, node: JsonSchemaValue, *, may_be_empty: bool) -> JsonSchemaValue:
        """A value's schema with its other spellings; nothing after the colon is the default."""
        annotations = {key: node[key] for key in _ANNOTATIONS if key in node}
        rules = {key: value for key, value in node.items() if key not in _ANNOTATIONS}
        if "$ref" in rules:
            # An editor would write the whole section with it.
            annotations.pop("default", None)
        if not rules:
            return annotations
        ways = list(rules.get("anyOf", [rules]))
        if not any(way.get("type") == "string" and "enum" not in way for way in ways):
            ways += [text for way in ways for text in self._texts(way)]
        ways = [
            way | {"items": self._written(way["items"], may_be_empty=False)} if "items" in way else way
            for way in ways
        ]
        if may_be_empty and {"type": "null"} not in ways:
            ways.append({"type": "null"})
        return annotations | (ways[0] if len(ways) == 1 else {"anyOf": ways})

    def _texts(self, way: JsonSchemaValue) -> list[JsonSchemaValue]:
        return _AS_TEXT.get(str(way.get("type")), [])


def _may_all_be_left_out(annotation: object) -> bool:
    """Whether it is a section that needs no key, so that it may be empty."""
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return False
    return not any(field.is_required() for field in annotation.model_fields.values())


class _WithPlaceholders(AsWritten):
    """As the configuration is written, whose values may come from the environment."""

    def _texts(self, way: JsonSchemaValue) -> list[JsonSchemaValue]:
        texts = super()._texts(way)
        return [*texts, _PLACEHOLDER] if texts or "enum" in way else []
