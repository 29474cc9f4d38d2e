"""Announcements as JSON, for whoever has a file to announce and no file writer that sends ``wrdn``.

The same object is a message on a topic and the body of ``POST /announce``. What it leads to is said in
:mod:`scicat_dagster.kafka.messages`.
"""

from __future__ import annotations

import codecs
import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails

from scicat_dagster.config.attribute_docs import attribute_docs
from scicat_dagster.errors import PermanentError, message_of
from scicat_dagster.limits import LONGEST_JOB_ID, LONGEST_PATH_BYTES, LONGEST_TAG, LONGEST_TEXT
from scicat_dagster.nearest import suggestion

REMEDY = "Correct what sends it; `scicat-dagster schema announcement` prints what it may hold."

_MOST_MISTAKES = 5
"""That are named of one announcement; each name may be as long as its sender likes."""


def _readable(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("must be readable text")
    return text


def _sound(metadata: JsonValue) -> JsonValue:
    try:
        json.dumps(metadata, allow_nan=False)
    except ValueError:
        raise ValueError("holds a number that JSON does not have") from None
    return metadata


class Announcement(BaseModel):
    """A complete file that is to be registered."""

    # Strict, so that nobody relies on a spelling that is understood by accident.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    file_path: Annotated[str, Field(min_length=2, max_length=LONGEST_PATH_BYTES, pattern="^/")]
    """The absolute path of the complete file, as the ingestor sees it."""
    job_id: Annotated[str, Field(min_length=1, max_length=LONGEST_JOB_ID), AfterValidator(_readable)]
    """What tells this measurement from all others, such as the id of the file writer's job. Whoever announces
    the same file twice uses the same one."""
    instrument: Annotated[str, Field(max_length=LONGEST_TAG)] = ""
    """The instrument's name, under which the file's run is shown until its schema has told it."""
    service_id: Annotated[str, Field(max_length=LONGEST_TEXT)] = ""
    """Who announces it. Schemas have it as `message_service_id`."""
    metadata: Annotated[JsonValue, AfterValidator(_sound)] = None
    """Anything about the measurement. Schemas have it as `message_metadata`."""
    message: Annotated[str, Field(max_length=LONGEST_TEXT)] = ""
    """A sentence for people."""


def begins_as_json(value: bytes) -> bool:
    """Whether bytes are meant as a JSON object.

    No flatbuffer begins so: its first four bytes are the place of its root, which is even and never beyond
    16 MB, so that a NUL is among them.
    """
    return value.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"{"


def parse_announcement(value: bytes) -> Announcement:
    """The announcement that the bytes of a JSON object are.

    Raises
    ------
    PermanentError
        They are none; it names each field that is wrong.
    """
    try:
        return Announcement.model_validate_json(value.removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        named = "; ".join(_mistake(each) for each in found[:_MOST_MISTAKES])
        more = f"; and {len(found) - _MOST_MISTAKES} more" if len(found) > _MOST_MISTAKES else ""
        raise PermanentError(f"It is a broken JSON announcement: {named}{more}.", remedy=REMEDY) from None


def _mistake(detail: ErrorDetails) -> str:
    place = ".".join(map(str, detail["loc"]))
    match detail["type"]:
        case "missing":
            return f"{place} is missing"
        case "extra_forbidden":
            return f"{place} is not a known field{suggestion(place, Announcement.model_fields)}"
        case "json_invalid":
            return message_of(detail)
    return f"{place}: {message_of(detail)}"


def announcement_schema() -> dict[str, Any]:
    """The JSON Schema of an announcement."""
    made = Announcement.model_json_schema()
    for name, text in attribute_docs(Announcement).items():
        made["properties"][name]["description"] = text
    made["title"] = "Announcement of a file to scicat_dagster"
    return {"$schema": GenerateJsonSchema.schema_dialect, **made}
