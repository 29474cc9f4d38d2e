"""One request of the stand-in, read: who sent it, what it says, and the checks that every route shares.

Routes and rights are in ``app`` and ``next_version``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Literal

from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request

from scicat_dagster.demo.catalogue.accounts import Account
from scicat_dagster.demo.catalogue.content import validation
from scicat_dagster.demo.catalogue.content.answers import (
    ApiError,
    BadJsonError,
    JsonObject,
    forbidden,
    read_json,
    unhandled_error,
    usual_error,
)
from scicat_dagster.demo.catalogue.content.dates import read_iso
from scicat_dagster.demo.catalogue.filters import Query, read_query

MERGE_PATCH = "application/merge-patch+json"

_JSON_TYPES = ("application/json", MERGE_PATCH)
_LARGEST_BODY = 16 * 1024 * 1024


@dataclass(frozen=True)
class Call:
    """One request, read.

    Attributes:
        caller: Who sent it; None is anonymous.
        headers: Its headers.
        query: Its query parameters.
        arguments: What its path holds, decoded.
        body: Its JSON body; None where it has none that was sent as JSON.
    """

    caller: Account | None
    headers: Headers
    query: QueryParams
    arguments: Mapping[str, str]
    body: Any

    @property
    def id(self) -> str:
        """The id in the path."""
        return self.arguments["id"]

    def may_read(self, document: JsonObject) -> bool:
        """Whether the caller may read a document; published ones are everybody's."""
        return bool(document.get("isPublished")) if self.caller is None else self.caller.may_read(document)

    def known_caller(self) -> Account:
        """The caller, who has to be logged in.

        Raises:
            ApiError: The caller is anonymous: 403, never 401.
        """
        if self.caller is None:
            raise forbidden()
        return self.caller

    def object(self) -> JsonObject:
        """The body, which has to be an object.

        Raises:
            ApiError: It is not: an unhandled error, as on the real server.
        """
        if not isinstance(self.body, dict):
            raise unhandled_error()
        return self.body


async def read_body(request: Request) -> bytes | None:
    """The body, or None where it is over the limit; read to its end in any case."""
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size <= _LARGEST_BODY:
            parts.append(part)
    return b"".join(parts) if size <= _LARGEST_BODY else None


def parsed(request: Request, body: bytes | None) -> Any:
    if body is None:
        raise unhandled_error()
    content_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if request.method in ("GET", "HEAD") or content_type not in _JSON_TYPES:
        return None
    if not body:
        return {}
    try:
        return read_json(body.decode("utf-8", "replace"))
    except BadJsonError as error:
        raise usual_error(HTTPStatus.BAD_REQUEST, str(error)) from None


def query_of(
    call: Call,
    parameter: Literal["filter", "filters"],
    *,
    texts_become_dates: bool = False,
) -> Query:
    try:
        return read_query(call.query.get(parameter), texts_become_dates=texts_become_dates)
    except BadJsonError as error:
        raise usual_error(HTTPStatus.BAD_REQUEST, f"Invalid JSON in filter: {error}") from None


def query_without_inq(call: Call) -> Query:
    """The filter of a route that hands it to the database as it is, which knows `$in` and no `inq`."""
    query = query_of(call, "filter")
    if any(isinstance(wanted, dict) and "inq" in wanted for wanted in query.where.values()):
        raise unhandled_error()
    return query


def checked(call: Call, schema: validation.Schema) -> JsonObject:
    body = call.object()
    if violations := validation.check(body, schema):
        raise usual_error(HTTPStatus.BAD_REQUEST, validation.as_sentences(violations))
    return body


def administrator(call: Call) -> Account:
    account = call.known_caller()
    if not account.may_administer:
        raise forbidden()
    return account


def dataset_not_found(pid: str) -> ApiError:
    return usual_error(HTTPStatus.NOT_FOUND, f"dataset: {pid} not found")


def condition(text: str | None) -> datetime | None:
    """The moment in an ``If-Unmodified-Since``; the real server reads it as JavaScript reads dates."""
    if text is None:
        return None
    try:
        instant = parsedate_to_datetime(text)
    except ValueError:
        return read_iso(text)
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant
