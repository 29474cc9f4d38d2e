"""The JSON Schema of the scientific metadata that a metadata schema produces, for a facility to publish.

A dataset names the published one in ``scientificMetadataSchema``; SciCat then says in
``scientificMetadataValid`` whether the dataset's entries are as they should be. Only words of JSON Schema are
used that older drafts have as well, because SciCat's validator knows no newer ones. Sources: JSON Schema
2020-12; SciCat's ``ScientificMetadataValidationPipe``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from scicat_dagster.config.json_schema import DIALECT
from scicat_dagster.schemas.conversion import ValueType
from scicat_dagster.schemas.models import FieldAssignment, Schema

JsonSchema = dict[str, Any]

_VALUES: Mapping[ValueType, JsonSchema] = {
    "string": {"type": "string"},
    "string[]": {"type": "array", "items": {"type": ["string", "array"]}},
    "integer": {"type": "integer"},
    "integer[]": {"type": "array", "items": {"type": ["integer", "array"]}},
    # What has no JSON number, such as NaN, is null.
    "float": {"type": ["number", "null"]},
    "float[]": {"type": "array", "items": {"type": ["number", "array", "null"]}},
    "date": {"type": "string", "format": "date-time"},
    "dict": {"type": "object"},
    "list": {"type": "array"},
    "email": {"type": "string"},
    "link": {"type": "string"},
    "none": {"type": "null"},
}
"""A list may hold lists, where a dataset of the file has several dimensions."""


def metadata_schema(schema: Schema) -> JsonSchema:
    """The JSON Schema of the entries of all datasets that are made with a schema.

    None of them is required, because a dataset is registered without those that fail. Entries of others, and
    what SciCat adds to an entry, are allowed.
    """
    return {
        "$schema": DIALECT,
        "title": schema.name,
        "description": f"Scientific metadata by the metadata schema {schema.id}.",
        "type": "object",
        "properties": {
            spelling: entry for name, entry in _entries(schema).items() for spelling in _spellings(name)
        },
    }


def complete_metadata_schema(schema: Schema) -> JsonSchema:
    """The same for datasets that have every entry."""
    spellings = [_spellings(name) for name in _entries(schema)]
    return {
        **metadata_schema(schema),
        "required": [name for name, *others in spellings if not others],
        "allOf": [{"anyOf": [{"required": [name]} for name in names]} for names in spellings if names[1:]],
    }


def _entries(schema: Schema) -> dict[str, JsonSchema]:
    """The entries by name. Where several fields fill one, it is as any of them, because a later may fail."""
    ways: dict[str, list[JsonSchema]] = defaultdict(list)
    for assignment in schema.assignments.values():
        if assignment.field_type == "scientific_metadata":
            ways[assignment.machine_name].append(_entry(assignment))
    return {name: made[0] if len(made) == 1 else {"anyOf": made} for name, made in ways.items()}


def _entry(assignment: FieldAssignment) -> JsonSchema:
    human_name = assignment.human_name or assignment.machine_name
    unit = {"const": assignment.unit} if assignment.unit else {}
    return {
        "title": human_name,
        "type": "object",
        "properties": {
            "value": _VALUES[assignment.type],
            "unit": {"type": "string", **unit},
            "human_name": {"type": "string", "const": human_name},
            "type": {"type": "string", "const": assignment.type},
        },
        "required": ["value", "unit", "human_name", "type"],
    }


def _spellings(name: str) -> list[str]:
    """A name, and how SciCat writes it before it validates, where that is another one."""
    encoded = quote(name, safe="!~*'()").replace(".", "%2E")
    return list(dict.fromkeys((name, encoded)))
