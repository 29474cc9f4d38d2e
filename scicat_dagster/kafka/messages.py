"""Announcements: from the bytes of a Kafka message to a written file or a run start, or to why there is none.

Reading bytes and judging them belongs here; fetching them belongs to :mod:`scicat_dagster.kafka`. The schemas
are ``wrdn`` ("writing done") and ``pl72`` ("run start") of the ESS streaming data types, flatbuffers whose id
is in bytes 4 to 8; or the message is JSON (:mod:`scicat_dagster.kafka.json_announcement`).
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter
from streaming_data_types import deserialise_pl72, deserialise_wrdn

from scicat_dagster.errors import PermanentError, bounded
from scicat_dagster.files.paths import canonical_path
from scicat_dagster.kafka.json_announcement import REMEDY, begins_as_json, parse_announcement
from scicat_dagster.limits import DEEPEST_JSON, LARGEST_KEPT_BYTES, LARGEST_METADATA_BYTES, LONGEST_JOB_ID

WRDN = "wrdn"

PL72 = "pl72"

_LATEST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999: no date is later."""

_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


@dataclass(frozen=True, order=True)
class Position:
    """Where in Kafka a message is."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position that a text means; raises ValueError where it means none."""
        topic, partition, offset = text.rsplit(":", 2)
        return cls(topic, int(partition), int(offset))


@dataclass(frozen=True)
class KafkaMessage:
    """A message as Kafka holds it; ``value`` is None for a tombstone, ``timestamp_ms`` since 1970 in UTC."""

    position: Position
    value: bytes | None
    timestamp_ms: int | None = None


class _Announcement(BaseModel):
    """What a message says, and where it is in Kafka."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: str
    partition: int
    offset: int
    announced_at_ms: int | None = None
    """When Kafka received the message, in milliseconds since 1970 (UTC)."""

    @property
    def position(self) -> Position:
        """Where in Kafka the message is."""
        return Position(self.topic, self.partition, self.offset)


class FileWritten(_Announcement):
    """A file writer finished a file. Travels in the run's configuration, so it is plain JSON."""

    file_path: str
    """Canonical absolute path."""
    job_id: str
    service_id: str = ""
    metadata: JsonValue = None
    """The decoded JSON of the message's metadata, or its text where it is not JSON."""
    lacks_metadata: bool = False
    """Whether the message's metadata was too large to be kept."""
    message: str = ""
    instrument: str = ""
    """The name that a JSON announcement may give; a wrdn message has none."""


class RunStarted(_Announcement):
    """A file writer was told to begin a file: the file is not complete, and may not even be there."""

    file_path: str
    """Canonical absolute path."""
    job_id: str
    instrument: str = ""
    service_id: str = ""
    started_at_ms: int | None = None
    """When the run starts, in milliseconds since 1970 (UTC); None where the message has no such date."""
    stops_at_ms: int | None = None
    """When it is to stop, likewise; most messages leave that open."""


@dataclass(frozen=True)
class Ignored:
    """A message that is about neither a written file nor, where these are read, a run start."""

    schema_id: str


@dataclass(frozen=True)
class Rejected:
    """A message that should have led to a run and cannot."""

    position: Position
    reason: str
    remedy: str
    value: bytes | None
    file_path: str | None = None
    ended_job_id: str = ""
    """The job that the message says is over, though no file came of it."""

    @property
    def kept_value(self) -> bytes:
        """As much of the value as is kept to be looked at; the position tells where all of it is."""
        return (self.value or b"")[:LARGEST_KEPT_BYTES]


def read_message(
    message: KafkaMessage, data_directory: str = "", schemas: Collection[str] = (WRDN,)
) -> FileWritten | RunStarted | Ignored | Rejected:
    """What a Kafka message says. Never raises: whatever the bytes are, the answer is one of the four.

    Messages of other schemas than these are ignored. Some corruptions decode without an error, so every field
    is judged after decoding.
    """
    value = message.value
    if value is None:
        return _rejected(message, "It is a tombstone: it has no content.", "Look at what deletes messages.")
    if begins_as_json(value):
        return read_json(message, value, data_directory)
    schema_id = value[4:8].decode("latin-1")
    if schema_id not in schemas:
        if _is_schema_id(schema_id):
            return Ignored(schema_id)
        return _rejected(message, "It is not a flatbuffer: it has no schema id.", "Look at what writes here.")
    decode, judge, remedy = _READ[schema_id]
    try:
        decoded = decode(value)
    except Exception as error:  # noqa: BLE001 - the decoder raises anything on broken bytes; all are rejected
        return _rejected(message, f"It is a broken {schema_id} message ({type(error).__name__}).", remedy)
    return judge(message, decoded, data_directory)


def judged(message: KafkaMessage, wrdn: Any, data_directory: str) -> FileWritten | Rejected:
    """What a decoded message says; ``wrdn`` has the attributes of ``WritingFinished``."""
    job_id, file_name = wrdn.job_id or "", wrdn.file_name or ""
    if mistake := _mistake_of_job_id(job_id):
        return _rejected(message, mistake, _FIND_FILE)
    try:
        file_path = canonical_path(file_name, data_directory)
    except ValueError as error:
        return _rejected(message, str(error), _CORRECT_PATH, ended_job_id=job_id)
    if wrdn.error_encountered:
        return _rejected(
            message,
            f"The file writer failed, so there is no complete file: {wrdn.message or 'it does not say why'}.",
            "Look at the file writer; if the file is good all the same, backfill it.",
            file_path,
            ended_job_id=job_id,
        )
    # The file is complete all the same, and few schemas use the metadata.
    is_too_large = len((wrdn.metadata or "").encode(errors="surrogatepass")) > LARGEST_METADATA_BYTES
    return FileWritten(
        file_path=file_path,
        job_id=job_id,
        service_id=bounded(str(wrdn.service_id or "")),
        metadata=None if is_too_large else _decoded(wrdn.metadata),
        lacks_metadata=is_too_large,
        message=bounded(str(wrdn.message or "")),
        topic=message.position.topic,
        partition=message.position.partition,
        offset=message.position.offset,
        announced_at_ms=message.timestamp_ms,
    )


def read_json(message: KafkaMessage, value: bytes, data_directory: str) -> FileWritten | Rejected:
    """What a message says whose value is a JSON object."""
    try:
        announcement = parse_announcement(value)
    except PermanentError as error:
        return _rejected(message, error.what, error.remedy)
    job_id, metadata = announcement.job_id, announcement.metadata
    try:
        file_path = canonical_path(announcement.file_path, data_directory)
    except ValueError as error:
        return _rejected(message, f"file_path: {error}", _CORRECT_SENT_PATH, ended_job_id=job_id)
    if _depth(metadata) > DEEPEST_JSON:
        reason = f"metadata: It has more than {DEEPEST_JSON} levels."
        return _rejected(message, reason, REMEDY, file_path, ended_job_id=job_id)
    is_too_large = len(json.dumps(metadata, ensure_ascii=False).encode()) > LARGEST_METADATA_BYTES
    return FileWritten(
        file_path=file_path,
        job_id=job_id,
        service_id=announcement.service_id,
        metadata=None if is_too_large else metadata,
        lacks_metadata=is_too_large,
        message=announcement.message,
        instrument=announcement.instrument,
        topic=message.position.topic,
        partition=message.position.partition,
        offset=message.position.offset,
        announced_at_ms=message.timestamp_ms,
    )


def _judged_start(message: KafkaMessage, pl72: Any, data_directory: str) -> RunStarted | Rejected:
    """What a decoded message says; ``pl72`` has the attributes of ``RunStartInfo``."""
    if mistake := _mistake_of_job_id(pl72.job_id):
        return _rejected(message, mistake, _LOOK_AT_SENDER)
    try:
        file_path = canonical_path(_absolute(pl72.filename, data_directory), data_directory)
    except ValueError as error:
        return _rejected(message, str(error), _CORRECT_PATH)
    return RunStarted(
        file_path=file_path,
        job_id=pl72.job_id,
        instrument=bounded(str(pl72.instrument_name or "")),
        service_id=bounded(str(pl72.service_id or "")),
        started_at_ms=_moment(pl72.start_time),
        stops_at_ms=_moment(pl72.stop_time),
        topic=message.position.topic,
        partition=message.position.partition,
        offset=message.position.offset,
        announced_at_ms=message.timestamp_ms,
    )


def _absolute(file_name: str, data_directory: str) -> str:
    """The path that a run start means: a file writer may be told one within its own output folder."""
    if not file_name or file_name.startswith("/") or not data_directory:
        return file_name
    return f"{data_directory.rstrip('/')}/{file_name}"


def _moment(milliseconds: int) -> int | None:
    return milliseconds if 0 < milliseconds <= _LATEST_MS else None


def _mistake_of_job_id(job_id: object) -> str:
    """What is wrong with the identity of a run; nothing where it is good."""
    if not isinstance(job_id, str) or not job_id.strip():
        return "It has no job id."
    if len(job_id) > LONGEST_JOB_ID or not job_id.isprintable():
        return "Its job id is not readable text."
    return ""


_FIND_FILE = "Find the file that was meant and backfill it."

_ELSEWHERE = (
    "Where the files lie elsewhere, correct ingestion.file_handling.data_directory; after that "
    "`scicat-dagster messages retry` sends the message again."
)

_CORRECT_PATH = f"Correct the file writer's output path. {_ELSEWHERE}"

_CORRECT_SENT_PATH = f"{REMEDY} {_ELSEWHERE}"

_LOOK_AT_SENDER = "Look at what announces run starts. The file is registered when its own message comes."

_READ = {
    WRDN: (deserialise_wrdn, judged, _FIND_FILE),
    PL72: (deserialise_pl72, _judged_start, _LOOK_AT_SENDER),
}
"""By schema: what decodes a message, what judges it, and what to do about a broken one."""


def _is_schema_id(text: str) -> bool:
    return len(text) == 4 and text.isascii() and text.isalnum()


def _decoded(metadata: str | None) -> JsonValue:
    if not metadata:
        return None
    try:
        decoded: JsonValue = json.loads(metadata, parse_constant=lambda _: None)
        # JSON that nothing behind us takes: numbers beyond a double, halves of surrogates, deep nesting.
        json.dumps(decoded, allow_nan=False, ensure_ascii=False).encode()
        _JSON.validate_python(decoded)
    except (ValueError, RecursionError):
        return metadata
    return decoded if _depth(decoded) <= DEEPEST_JSON else metadata


def _depth(value: JsonValue) -> int:
    """How many levels a value has; without recursion, which it is to protect from."""
    depth, level = 0, [value]
    while level := [
        inner
        for outer in level
        for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
    ]:
        depth += 1
    return depth


def _rejected(
    message: KafkaMessage, reason: str, remedy: str, file_path: str | None = None, *, ended_job_id: str = ""
) -> Rejected:
    return Rejected(message.position, bounded(reason), remedy, message.value, file_path, ended_job_id)
