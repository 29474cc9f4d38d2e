"""JSON Schemas (draft 2020-12) of the configuration and of ``*.imsc.yml`` files, for editors.

They are made from the models that read these files, so that an editor completes, explains and checks what is
read. Added here is only what the models say in code: how else a value may be written (a number as text, a
``${NAME}``, nothing at all), selectors, and what operators need. They help to write a file; whether it is
good is for :mod:`scicat_dagster.validation` to say, which sees more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelSchema, TaggedUnionSchema

from scicat_dagster.attribute_docs import attribute_docs
from scicat_dagster.schemas import selection
from scicat_dagster.schemas.models import DATASET_FIELDS, NO_OPERATOR, V4_LIST_FIELDS, Schema
from scicat_dagster.schemas.operators import OPERATORS
from scicat_dagster.settings import Settings

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


def imsc_schema() -> JsonSchemaValue:
    """What a metadata schema file (``*.imsc.yml``) may hold."""
    made = Schema.model_json_schema(schema_generator=_AsWritten)
    definitions = made["$defs"]
    definitions["Selector"] = _selector()
    made["properties"]["selector"]["$ref"] = "#/$defs/Selector"
    # It is read without fields, and no file can be registered with it.
    made["properties"]["schema"]["minProperties"] = 1
    made["required"].append("schema")
    _only_known_operators(definitions["ValueVariable"])
    _only_known_fields(definitions["FieldAssignment"])
    return {"$schema": DIALECT, **made, "title": "Metadata schema (imsc)"}


class _AsWritten(GenerateJsonSchema):
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


class _WithPlaceholders(_AsWritten):
    """As the configuration is written, whose values may come from the environment."""

    def _texts(self, way: JsonSchemaValue) -> list[JsonSchemaValue]:
        texts = super()._texts(way)
        return [*texts, _PLACEHOLDER] if texts or "enum" in way else []


def _selector() -> JsonSchemaValue:
    sources = sorted(selection.SOURCES)
    conditions = "|".join(
        # Paths are absolute.
        f"{'[-_]'.join(name.split('_'))}\\s*:" + ("(/|$)" if name == "starts_with" else "")
        for name in selection.OPERATORS
    )
    several = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Selector"}}
    return {
        "title": "Selector",
        "description": "Which files the schema is for.",
        "anyOf": [
            {"const": "*"},
            {"type": "string", "pattern": f"^\\s*({'|'.join(sources)})\\s*:\\s*({conditions})"},
            {
                "type": "object",
                "properties": {
                    "source": {"enum": sources},
                    "operand_1": {"enum": sources},
                    "operator": {"enum": list(_spellings(selection.OPERATORS))},
                    "operand_2": {"type": ["string", "number"], "minLength": 1},
                },
                "required": ["operator", "operand_2"],
                "anyOf": [{"required": ["source"]}, {"required": ["operand_1"]}],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {"and": several, "or": several},
                "minProperties": 1,
                "additionalProperties": False,
            },
        ],
    }


def _only_known_operators(definition: dict[str, Any]) -> None:
    operator = definition["properties"]["operator"]
    operator.pop("anyOf", None)
    operator["enum"] = ["", NO_OPERATOR, *_spellings(OPERATORS), None]
    definition["allOf"] = [
        {
            "if": {"properties": {"operator": {"enum": list(_spellings([name]))}}, "required": ["operator"]},
            "then": {"required": list(known.needs)},
        }
        for name, known in OPERATORS.items()
        if known.needs
    ]


def _only_known_fields(definition: dict[str, Any]) -> None:
    definition["if"] = {"properties": {"field_type": {"const": "high_level"}}, "required": ["field_type"]}
    definition["then"] = {
        "properties": {"machine_name": {"enum": sorted({*DATASET_FIELDS, *V4_LIST_FIELDS})}}
    }


def _spellings(names: Any) -> Iterator[str]:
    for name in names:
        yield name
        if "_" in name:
            yield name.replace("_", "-")
