"""The rules for what clients post: which fields there are, which are mandatory, what they may hold.

Here belong: the rules, one table per resource, and the two ways in which the server reports broken ones.
Defaults and everything else that happens to an accepted body belong to ``documents``.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from scicat_dagster.demo.catalogue.content.answers import JsonObject
from scicat_dagster.demo.catalogue.content.dates import read_iso
from scicat_dagster.demo.catalogue.content.dialects import Dialect

_MISSING = object()
_EMAIL = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,}"
)


@dataclass(frozen=True)
class Rule:
    """One rule: its name, what it says when broken (``{property}``, ``{value}``), and what it accepts."""

    name: str
    message: str
    accepts: Callable[[Any], bool]


@dataclass(frozen=True)
class Field:
    """What one field may hold.

    Attributes:
        rules: The rules, in the order in which broken ones are reported.
        optional: Whether the field may be missing or null.
        items: The fields of the objects in the list that the field holds, where it holds such a list.
    """

    rules: tuple[Rule, ...] = ()
    optional: bool = False
    items: "Schema | None" = None


Schema = Mapping[str, Field]


@dataclass(frozen=True)
class Violation:
    """What is wrong with one property.

    Attributes:
        property: The name, or the position in a list.
        constraints: What each broken rule says, by the rule's name.
        children: What is wrong further down.
        unknown: Whether the property should not be there at all.
    """

    property: str
    constraints: Mapping[str, str]
    children: tuple["Violation", ...] = ()
    unknown: bool = False


def check(body: JsonObject, schema: Schema) -> list[Violation]:
    """Hold a body against a schema; unknown properties come first, then the schema's order."""
    violations = [
        Violation(name, {"whitelistValidation": f"property {name} should not exist"}, unknown=True)
        for name in body
        if name not in schema
    ]
    for name, field in schema.items():
        value = body.get(name, _MISSING)
        if field.optional and (value is _MISSING or value is None):
            continue
        broken = {
            rule.name: rule.message.format(property=name, value=_as_javascript_text(value))
            for rule in field.rules
            if not rule.accepts(value)
        }
        children = _check_items(value, field.items) if field.items is not None else ()
        if broken or children:
            violations.append(Violation(name, broken, children))
    return violations


def as_encoded_text(violations: Iterable[Violation]) -> str:
    """The violations as the JSON text that v3 dataset routes put into ``message``."""
    return json.dumps(
        [_as_object(violation) for violation in violations], ensure_ascii=False, separators=(",", ":")
    )


def as_sentences(violations: Iterable[Violation], parents: tuple[str, ...] = ()) -> list[str]:
    """The violations as the list of texts that all other routes put into ``message``."""
    sentences = []
    for violation in violations:
        sentences += [".".join((*parents, text)) for text in violation.constraints.values()]
        sentences += as_sentences(violation.children, (*parents, violation.property))
    return sentences


def partial(schema: Schema, *, without: Iterable[str] = ()) -> Schema:
    """The schema of a change: every field optional, and those in ``without`` unknown."""
    return {name: replace(field, optional=True) for name, field in schema.items() if name not in without}


def dataset_schema(kind: object) -> Schema:
    """The schema of a posted dataset of that ``type``; unknown types get those of the next API version."""
    if kind == "raw":
        return RAW_DATASET
    return DERIVED_DATASET if kind == "derived" else UNTYPED_DATASET


def in_dialect(schema: Schema, dialect: Dialect) -> Schema:
    """The schema as a generation of the server has it; of datasets and samples some fields differ."""
    if "sampleName" in schema and not dialect.needs_sample_names:
        newer = {"sampleName"} if dialect.knows_proposals_of_samples else {"sampleName", "proposalId"}
        return {name: field for name, field in schema.items() if name not in newer}
    if "relationships" not in schema:
        return schema
    if not dialect.has_new_relationships:
        return {name: field for name, field in schema.items() if name not in _SINCE_4_20}
    return {**schema, "relationships": _may(_LIST, items=_RELATIONSHIP)}


_SINCE_4_20 = ("scientificMetadataSchema", "scientificMetadataValid")


def optional(field: Field) -> Field:
    """The field, which may be missing."""
    return replace(field, optional=True)


def is_email(value: object) -> bool:
    """Whether a value is one address with a domain that has a dot."""
    return isinstance(value, str) and _EMAIL.fullmatch(value) is not None


def _check_items(value: object, schema: Schema) -> tuple[Violation, ...]:
    if not isinstance(value, list):
        return ()
    found = []
    for position, item in enumerate(value):
        children = tuple(check(item, schema)) if isinstance(item, dict) else ()
        if not isinstance(item, dict):
            rule = {"nestedValidation": "each value in nested property must be either object or array"}
            found.append(Violation(str(position), rule))
        elif children:
            found.append(Violation(str(position), {}, children))
    return tuple(found)


def _as_object(violation: Violation) -> JsonObject:
    found: JsonObject = {"property": violation.property}
    if not violation.unknown:
        found["children"] = [_as_object(child) for child in violation.children]
    if violation.constraints:
        found["constraints"] = dict(violation.constraints)
    return found


def _as_javascript_text(value: object) -> str:
    if value is _MISSING:
        return "undefined"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list):
        return ",".join(_as_javascript_text(item) for item in value)
    return "[object Object]" if isinstance(value, dict) else str(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: object) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and value.is_integer()
    )


def _is_boolean(value: object) -> bool:
    return isinstance(value, bool)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _is_filled_list(value: object) -> bool:
    return isinstance(value, list) and bool(value)


def _is_filled(value: object) -> bool:
    return value is not _MISSING and value is not None and value != ""


def _is_date(value: object) -> bool:
    return isinstance(value, str) and read_iso(value) is not None


def _is_email_list(value: object) -> bool:
    return isinstance(value, str) and all(is_email(part.strip()) for part in value.split(";"))


def _is_text_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_TEXT = Rule("isString", "{property} must be a string", _is_text)
_TEXTS = Rule("isString", "each value in {property} must be a string", _is_text_list)
_INTEGER = Rule("isInt", "{property} must be an integer number", _is_integer)
_NUMBER = Rule("isNumber", "{property} must be a number conforming to the specified constraints", _is_number)
_BOOLEAN = Rule("isBoolean", "{property} must be a boolean value", _is_boolean)
_OBJECT = Rule("isObject", "{property} must be an object", _is_object)
_LIST = Rule("isArray", "{property} must be an array", _is_list)
_FILLED_LIST = Rule("arrayNotEmpty", "{property} should not be empty", _is_filled_list)
_FILLED = Rule("isNotEmpty", "{property} should not be empty", _is_filled)
_DATE = Rule("isDateString", "{property} must be a valid ISO 8601 date string", _is_date)
_EMAIL_ADDRESS = Rule("isEmail", "{property} must be an email", is_email)
_EMAIL_LIST = Rule(
    "customEmailList",
    "Expected an email or a list of semicolon separated emails, got {value}",
    _is_email_list,
)


def _must(*rules: Rule, items: Schema | None = None) -> Field:
    return Field(rules, items=items)


def _may(*rules: Rule, items: Schema | None = None) -> Field:
    return Field(rules, optional=True, items=items)


_OWNED: Schema = {"ownerGroup": _must(_TEXT), "accessGroups": _may(_TEXTS), "instrumentGroup": _may(_TEXT)}

_DATASET: Schema = {
    "pid": _may(_TEXT),
    "type": _must(_TEXT),
    "owner": _must(_TEXT),
    "ownerEmail": _may(_EMAIL_ADDRESS),
    "orcidOfOwner": _may(_TEXT),
    "contactEmail": _must(_EMAIL_LIST),
    "sourceFolder": _must(_FILLED, _TEXT),
    "sourceFolderHost": _may(_TEXT),
    "size": _may(_INTEGER),
    "packedSize": _may(_INTEGER),
    "numberOfFiles": _may(_INTEGER),
    "numberOfFilesArchived": _may(_INTEGER),
    "creationTime": _must(_DATE),
    "validationStatus": _may(_TEXT),
    "keywords": _may(_TEXTS),
    "description": _may(_TEXT),
    "datasetName": _may(_TEXT),
    "classification": _may(_TEXT),
    "license": _may(_TEXT),
    "version": _may(_TEXT),
    "isPublished": _may(_BOOLEAN),
    "techniques": _may(_LIST, items={"pid": _must(_TEXT), "name": _must(_TEXT)}),
    "sharedWith": _may(_TEXTS),
    "relationships": _may(_LIST, items={"pid": _must(_TEXT), "relationship": _must(_TEXT)}),
    "datasetlifecycle": _may(_OBJECT),
    "scientificMetadata": _may(_OBJECT),
    "scientificMetadataSchema": _may(_TEXT),
    "scientificMetadataValid": _may(_BOOLEAN),
    "comment": _may(_TEXT),
    "dataQualityMetrics": _may(_NUMBER),
    "runNumber": _may(_TEXT),
    **_OWNED,
}

RAW_DATASET: Schema = {
    **_DATASET,
    "proposalId": _may(_TEXT),
    "principalInvestigator": _must(_TEXT),
    "startTime": _may(_DATE),
    # The real server has no rule here: what is not a date is stored as null.
    "endTime": _may(),
    "creationLocation": _must(_TEXT),
    "dataFormat": _may(_TEXT),
    "sampleId": _may(_TEXT),
    "instrumentId": _may(_TEXT),
    "investigator": _may(),
    "inputDatasets": _may(),
    "usedSoftware": _may(),
    "jobParameters": _may(),
    "jobLogData": _may(),
}

DERIVED_DATASET: Schema = {
    **_DATASET,
    "proposalId": _may(_TEXT),
    "investigator": _must(_TEXT),
    "inputDatasets": _must(_TEXTS),
    "usedSoftware": _must(_TEXTS),
    "jobParameters": _may(_OBJECT),
    "jobLogData": _may(_TEXT),
}

UNTYPED_DATASET: Schema = {
    **_DATASET,
    "datasetName": _must(_TEXT),
    "principalInvestigators": _may(_TEXTS),
    "startTime": _may(_DATE),
    "endTime": _may(),
    "creationLocation": _may(_TEXT),
    "dataFormat": _may(_TEXT),
    "proposalIds": _may(_TEXTS),
    "sampleIds": _may(_TEXTS),
    "instrumentIds": _may(_TEXTS),
    "inputDatasets": _may(_TEXTS),
    "usedSoftware": _may(_TEXTS),
    "jobParameters": _may(_OBJECT),
    "jobLogData": _may(_TEXT),
}

ORIGDATABLOCK: Schema = {
    "datasetId": _must(_TEXT),
    "size": _must(_INTEGER),
    "chkAlg": _may(_FILLED, _TEXT),
    "dataFileList": _must(
        _FILLED_LIST,
        _LIST,
        items={
            "path": _must(_TEXT),
            "size": _must(_NUMBER),
            "time": _must(_DATE),
            "chk": _may(_TEXT),
            "uid": _may(_TEXT),
            "gid": _may(_TEXT),
            "perm": _may(_TEXT),
            "type": _may(_TEXT),
        },
    ),
    # Taken from the dataset whatever the body says, hence not mandatory.
    "ownerGroup": _may(_TEXT),
    "accessGroups": _may(_TEXTS),
    "instrumentGroup": _may(_TEXT),
    "isPublished": _may(_BOOLEAN),
}

PROPOSAL: Schema = {
    **_OWNED,
    "proposalId": _must(_TEXT),
    "pi_email": _may(_EMAIL_ADDRESS),
    "pi_firstname": _may(_TEXT),
    "pi_lastname": _may(_TEXT),
    "email": _must(_EMAIL_ADDRESS),
    "firstname": _may(_TEXT),
    "lastname": _may(_TEXT),
    "title": _must(_TEXT),
    "abstract": _may(_TEXT),
    "startTime": _may(_DATE),
    "endTime": _may(_DATE),
    "MeasurementPeriodList": _may(
        _LIST,
        items={"instrument": _must(_TEXT), "start": _may(_DATE), "end": _may(_DATE), "comment": _may(_TEXT)},
    ),
    "metadata": _may(_OBJECT),
    "parentProposalId": _may(_TEXT),
    "type": _may(_TEXT),
    "instrumentIds": _may(_TEXTS),
    "isPublished": _may(_BOOLEAN),
}

_RELATIONSHIP: Schema = {
    "identifier": _must(_TEXT),
    "identifierType": _may(_TEXT),
    "relationship": _may(_TEXT),
    "entityType": _may(_TEXT),
    "externalId": _may(_TEXT),
}

INSTRUMENT: Schema = {
    "uniqueName": _must(_FILLED, _TEXT),
    "name": _must(_FILLED, _TEXT),
    "customMetadata": _may(_OBJECT),
}

SAMPLE: Schema = {
    **_OWNED,
    "sampleId": _may(_TEXT),
    "sampleName": _may(_TEXT),
    "owner": _may(_TEXT),
    "description": _may(_TEXT),
    "sampleCharacteristics": _may(_OBJECT),
    "isPublished": _may(_BOOLEAN),
    "proposalId": _may(_TEXT),
    "parentSampleId": _may(_TEXT),
    "type": _may(_TEXT),
}

ATTACHMENT: Schema = {
    **_OWNED,
    "thumbnail": _may(_TEXT),
    "caption": _must(_TEXT),
    "isPublished": _may(_BOOLEAN),
}

_TARGETS = ("dataset", "proposal", "sample", "published_data")
_TARGET = Rule(
    "isEnum",
    f"{{property}} must be one of the following values: {', '.join(_TARGETS)}",
    lambda value: value in _TARGETS,
)

NEXT_ATTACHMENT: Schema = {
    **_OWNED,
    "aid": _may(_TEXT),
    "thumbnail": _may(_TEXT),
    "caption": _must(_TEXT),
    "isPublished": _must(_BOOLEAN),
    "relationships": _may(
        _LIST,
        items={"targetId": _must(_TEXT), "targetType": _must(_TARGET), "relationType": _may(_TEXT)},
    ),
}

JOB: Schema = {
    "type": _must(_TEXT),
    "datasetList": _may(_LIST),
    "jobParams": _may(_OBJECT),
    "emailJobInitiator": _may(_EMAIL_ADDRESS),
    "executionTime": _may(_DATE),
    "jobStatusMessage": _may(_TEXT),
}

NEXT_JOB: Schema = {
    "type": _must(_TEXT),
    "jobParams": _must(_OBJECT),
    "ownerUser": _may(_TEXT),
    "ownerGroup": _may(_TEXT),
    "contactEmail": _may(_EMAIL_ADDRESS),
}
