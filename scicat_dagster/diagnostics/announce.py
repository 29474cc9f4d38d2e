"""``POST /announce`` of the health server: announcing a file without Kafka.

Only the HTTP side: what an announcement may hold is said in :mod:`scicat_dagster.kafka.json_announcement`,
and whoever makes the server says where it is stored.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from time import time

from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from scicat_dagster.config.models import Settings
from scicat_dagster.errors import PermanentError, Problem, TransientError
from scicat_dagster.kafka.json_announcement import REMEDY, begins_as_json
from scicat_dagster.kafka.messages import FileWritten, KafkaMessage, Position, Rejected, read_json
from scicat_dagster.limits import LARGEST_ANNOUNCEMENT_BYTES

Store = Callable[[FileWritten, str], str]
"""Stores the announcement of a file in a data directory, and returns its partition key when that is safe.

Raises TransientError where it cannot be stored now, PermanentError where never."""

_IN_NO_TOPIC = Position("", -1, -1)


def announce_route(current: Callable[[], Settings], store: Store) -> Route:
    """The route; ``current`` is asked at each request, so that a token can be changed at any time."""

    async def announce(request: Request) -> Response:
        settings = current()
        if (refused := _refused(request, settings.health_check.announce_token)) is not None:
            return refused
        try:
            body = await _body(request)
        except ClientDisconnect:
            return Response(status_code=400)
        if body is None:
            return _too_large()
        data_directory = settings.ingestion.file_handling.data_directory
        return await run_in_threadpool(_answer, body, data_directory, store)

    return Route("/announce", announce, methods=["POST"])


def _refused(request: Request, token: SecretStr) -> Response | None:
    wanted = token.get_secret_value()
    if not wanted:
        what = "Nothing can be announced here: the configuration has no health_check.announce_token."
        return _problem(404, what, "Set it, or announce the file by Kafka.")
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Compared in constant time, so that nobody can measure how much of it is right.
    is_right = hmac.compare_digest(given.strip().encode(), wanted.encode())
    if scheme.lower() == "bearer" and is_right:
        return None
    refused = _problem(401, "The token is missing or wrong.", "Send the header Authorization: Bearer TOKEN.")
    refused.headers["WWW-Authenticate"] = "Bearer"
    return refused


async def _body(request: Request) -> bytes | None:
    """The body; None where it is too large, of which no more is read than that."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_ANNOUNCEMENT_BYTES:
            return None
    return bytes(body)


def _answer(body: bytes, data_directory: str, store: Store) -> Response:
    if not _is_json_object(body):
        return _problem(400, "The body is not a JSON object.", REMEDY)
    found = read_json(KafkaMessage(_IN_NO_TOPIC, body, int(time() * 1000)), body, data_directory)
    if isinstance(found, Rejected):
        return _problem(422, found.reason, found.remedy)
    if found.lacks_metadata:
        return _too_large()
    try:
        key = store(found, data_directory)
    except PermanentError as error:
        return _problem(422, error.what, error.remedy)
    except TransientError as error:
        return _problem(503, error.what, error.remedy)
    return JSONResponse({"file_path": found.file_path, "partition_key": key}, status_code=202)


def _is_json_object(body: bytes) -> bool:
    try:
        return begins_as_json(body) and isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def _too_large() -> Response:
    what = f"The announcement has more than {LARGEST_ANNOUNCEMENT_BYTES} bytes."
    return _problem(413, what, "Send less metadata; schemas can take them from the file.")


def _problem(status: int, what: str, remedy: str) -> Response:
    body = Problem(what=what, remedy=remedy).model_dump_json(exclude={"details"})
    return Response(body, status_code=status, media_type="application/json")
