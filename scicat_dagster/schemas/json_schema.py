"""The metadata schema files as JSON Schema, by which editors complete and check them.

What is common with the configuration file is in :mod:`scicat_dagster.config.json_schema`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic.json_schema import JsonSchemaValue

from scicat_dagster.config.json_schema import DIALECT, AsWritten
from scicat_dagster.schemas import selection
from scicat_dagster.schemas.bases import EXTENDS
from scicat_dagster.schemas.models import DATASET_FIELDS, NO_OPERATOR, V4_LIST_FIELDS, Schema
from scicat_dagster.schemas.operators import OPERATORS
from scicat_dagster.schemas.plugins import operator_names


def imsc_schema() -> JsonSchemaValue:
    """What a metadata schema file (``*.imsc.yml``) may hold."""
    made = Schema.model_json_schema(schema_generator=AsWritten)
    definitions = made["$defs"]
    definitions["Selector"] = _selector()
    made["properties"]["selector"]["$ref"] = "#/$defs/Selector"
    # It is read without fields, and no file can be registered with it.
    made["if"] = {"not": {"required": [EXTENDS]}}
    made["then"] = {"properties": {"schema": {"minProperties": 1}}, "required": ["schema"]}
    for section in ("variables", "schema", "jobs"):
        # An entry without a value takes an inherited one away.
        entries = _section(made["properties"][section])
        entries["additionalProperties"] = {"anyOf": [entries["additionalProperties"], {"type": "null"}]}
    _only_known_operators(definitions["ValueVariable"])
    _only_known_fields(definitions["FieldAssignment"])
    return {"$schema": DIALECT, **made, "title": "Metadata schema (imsc)"}


def base_schema() -> JsonSchemaValue:
    """What a file may hold that schemas extend: any of their sections, and nothing is mandatory."""
    made = imsc_schema()
    left_out = {"required", "if", "then"}
    kept = {key: value for key, value in made.items() if key not in left_out}
    return {**kept, "title": "Base of metadata schemas (imsc)"}


def _section(written: JsonSchemaValue) -> JsonSchemaValue:
    """The dictionary among the ways in which a section is written."""
    ways: list[JsonSchemaValue] = written.get("anyOf", [written])
    return next(way for way in ways if way.get("type") == "object")


def _selector() -> JsonSchemaValue:
    sources = sorted(selection.SOURCES)
    conditions = "|".join(
        # Paths are absolute.
        f"{'[-_]'.join(name.split('_'))}\\s*:" + ("(/|$)" if name == "starts_with" else "")
        for name in selection.OPERATORS
    )
    on_content = "|".join("[-_]".join(name.split("_")) for name in selection.CONTENT_OPERATORS)
    several = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Selector"}}
    return {
        "title": "Selector",
        "description": "Which files the schema is for.",
        "anyOf": [
            {"const": "*"},
            {"type": "string", "pattern": f"^\\s*({'|'.join(sources)})\\s*:\\s*({conditions})"},
            {
                "type": "string",
                "pattern": f"^\\s*{selection.CONTENT}\\s*:\\s*/[^:]*:\\s*({on_content})\\s*:",
            },
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
                "properties": {
                    "source": {"const": selection.CONTENT},
                    "operand_1": {"const": selection.CONTENT},
                    "path": {"type": "string", "pattern": "^\\s*/"},
                    "operator": {"enum": list(_spellings(selection.CONTENT_OPERATORS))},
                    "operand_2": {"type": ["string", "number", "boolean"], "minLength": 1},
                },
                "required": ["path", "operator", "operand_2"],
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
    operator["enum"] = ["", NO_OPERATOR, *_spellings(operator_names()), None]
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
