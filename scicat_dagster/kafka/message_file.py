"""An announcement that somebody has as a file: that of a sidecar, or what another ingestor saved.

Four forms are read: a sidecar of ours, a JSON announcement (:mod:`scicat_dagster.kafka.json_announcement`),
the fields of a ``wrdn`` message as a JSON object, and the same as a list in the order of the flatbuffer
schema. https://github.com/ess-dmsc/streaming-data-types has the fields.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from scicat_dagster.errors import PermanentError, messages_of
from scicat_dagster.kafka.messages import FileWritten, KafkaMessage, Position, Rejected, judged, read_json

_LARGEST_FILE_BYTES = 4 * 1024 * 1024

_BY_HAND = KafkaMessage(Position("", -1, -1), None)
"""In no topic: a message that was given as a file."""


class SavedMessage(BaseModel):
    """The fields of a ``wrdn`` message, as a file has them."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    service_id: str | None = None
    job_id: str
    error_encountered: bool = False
    file_name: str
    metadata: str | None = None
    """JSON as text."""
    message: str | None = None


def announcement_of(place: Path, file: str, data_directory: str = "") -> FileWritten:
    """The announcement of a file with a canonical path.

    Raises
    ------
    PermanentError
        The message cannot be read, says that writing has failed, or is about another file.
    """
    value = _read(place)
    content = _content(place, value)
    try:
        found: FileWritten | Rejected = FileWritten.model_validate(content)
    except ValidationError:
        if isinstance(content, dict) and "file_path" in content:
            found = read_json(_BY_HAND, value, data_directory)
        else:
            found = judged(_BY_HAND, _saved(place, content), data_directory)
    if isinstance(found, Rejected):
        raise PermanentError(f"The message {place} announces no file: {found.reason}", remedy=_WITHOUT)
    if found.file_path != file:
        raise PermanentError(f"The message {place} is about {found.file_path}, not {file}.", remedy=_WITHOUT)
    return found


_WITHOUT = "Give the message of this file, or leave it out to register the file without its message."


def _read(place: Path) -> bytes:
    try:
        with place.open("rb") as file:
            return file.read(_LARGEST_FILE_BYTES)
    except OSError as error:
        raise PermanentError(
            f"The message {place} cannot be read: {error.strerror}.", remedy=_WITHOUT
        ) from None


def _content(place: Path, value: bytes) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise PermanentError(f"The message {place} is not JSON.", remedy=_WITHOUT) from None


def _saved(place: Path, content: Any) -> SavedMessage:
    if isinstance(content, list):
        content = dict(zip(SavedMessage.model_fields, content, strict=False))
    if isinstance(content, dict) and isinstance(content.get("metadata"), dict | list):
        content = {**content, "metadata": json.dumps(content["metadata"])}
    try:
        return SavedMessage.model_validate(content)
    except ValidationError as error:
        raise PermanentError(
            f"The message {place} is not one: {messages_of(error)}.", remedy=_WITHOUT
        ) from None
