"""The HTTP routes: SciCat's v3 API as the recorded exchanges show it, and the stand-in's own summary.

Here belong: routing, rights, and the order in which a request is judged. The shapes of errors are in
``answers``, the rules for bodies in ``validation``, the documents in ``documents``, the web pages in
``pages``.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import quote, unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from scicat_dagster.demo.catalogue import pages
from scicat_dagster.demo.catalogue.accounts import Account, Accounts
from scicat_dagster.demo.catalogue.content import documents, validation
from scicat_dagster.demo.catalogue.content.answers import (
    ApiError,
    BadJsonError,
    JsonAnswer,
    JsonObject,
    database_error,
    encoded_validation_error,
    forbidden,
    read_json,
    unauthorized,
    unhandled_error,
    usual_error,
)
from scicat_dagster.demo.catalogue.content.dates import now, read_iso
from scicat_dagster.demo.catalogue.dialects import Dialect
from scicat_dagster.demo.catalogue.filters import Query, UnservedFilterError, equalities, read_query
from scicat_dagster.demo.catalogue.store import AlreadyStoredError, Store

API_PREFIX = "/api/v3"

_LARGEST_BODY = 16 * 1024 * 1024
_NEVER_EMPTY = ("pid", "owner", "ownerGroup", "datasetName")
_log = logging.getLogger(__name__)


def create_app(store: Store, accounts: Accounts, dialect: Dialect = Dialect.V4X) -> Starlette:
    """The stand-in as an ASGI application.

    Args:
        store: Where the documents are; the caller opens and closes it.
        accounts: Who can log in, and with which rights.
        dialect: Which generation of SciCat it answers like.
    """
    catalogue = _Catalogue(store, accounts, dialect)
    api: list[tuple[str, str, Callable[[_Call], Response]]] = [
        ("GET", "/health", catalogue.health),
        ("POST", "/auth/login", catalogue.log_in),
        ("GET", "/auth/whoami", catalogue.whoami),
        ("GET", "/users/my/self", catalogue.myself),
        ("POST", "/datasets", catalogue.post_dataset),
        ("GET", "/datasets", catalogue.list_datasets),
        ("GET", "/datasets/count", catalogue.count_datasets),
        ("GET", "/datasets/findOne", catalogue.find_dataset),
        ("POST", "/datasets/isValid", catalogue.validate_dataset),
        ("GET", "/datasets/{id}", catalogue.get_dataset),
        ("PATCH", "/datasets/{id}", catalogue.patch_dataset),
        ("DELETE", "/datasets/{id}", catalogue.delete_dataset),
        ("GET", "/datasets/{id}/origdatablocks", catalogue.list_origdatablocks_of_dataset),
        ("GET", "/datasets/{id}/attachments", catalogue.list_attachments),
        ("POST", "/datasets/{id}/attachments", catalogue.post_attachment),
        ("GET", "/datasets/{id}/thumbnail", catalogue.get_thumbnail),
        ("POST", "/origdatablocks", catalogue.post_origdatablock),
        ("GET", "/origdatablocks", catalogue.list_origdatablocks),
        ("DELETE", "/origdatablocks/{id}", catalogue.delete_origdatablock),
        ("GET", "/proposals", catalogue.list_proposals),
        ("POST", "/proposals", catalogue.post_proposal),
        ("GET", "/proposals/{id}", catalogue.get_proposal),
        ("GET", "/instruments", catalogue.list_instruments),
        ("POST", "/instruments", catalogue.post_instrument),
        ("GET", "/instruments/{id}", catalogue.get_instrument),
        ("GET", "/samples", catalogue.list_samples),
        ("POST", "/samples", catalogue.post_sample),
        ("GET", "/samples/{id}", catalogue.get_sample),
    ]
    routes: list[BaseRoute] = [
        Route(f"{API_PREFIX}{path}", catalogue.endpoint(handler), methods=[method])
        for method, path, handler in api
    ]
    routes += [
        Route("/demo/summary", catalogue.endpoint(catalogue.summary), methods=["GET"]),
        *pages.routes(store),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(_EncodedPaths)],
        exception_handlers={
            HTTPStatus.NOT_FOUND: _no_route,
            HTTPStatus.METHOD_NOT_ALLOWED: _no_route,
            Exception: _unhandled,
        },
    )


@dataclass(frozen=True)
class _Call:
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


class _Catalogue:
    """The routes' handlers; each gets a read request and answers it, in a worker thread."""

    def __init__(self, store: Store, accounts: Accounts, dialect: Dialect) -> None:
        self._store = store
        self._accounts = accounts
        self._dialect = dialect

    def endpoint(self, handler: Callable[[_Call], Response]) -> Callable[[Request], Any]:
        """The handler as an endpoint: reads the request first, turns raised answers into responses."""

        async def endpoint(request: Request) -> Response:
            body = await _read_body(request)
            return await run_in_threadpool(self._handle, handler, request, body)

        return endpoint

    def _handle(self, handler: Callable[[_Call], Response], request: Request, body: bytes | None) -> Response:
        authorization = request.headers.get("Authorization")
        try:
            if self._dialect.reports_expired_tokens and self._accounts.has_expired(
                self._store, authorization
            ):
                raise usual_error(HTTPStatus.UNAUTHORIZED, "SESSION_EXPIRED")
            call = _Call(
                caller=self._accounts.caller(self._store, authorization),
                headers=request.headers,
                query=request.query_params,
                arguments={name: unquote(value) for name, value in request.path_params.items()},
                body=_parsed(request, body),
            )
            return handler(call)
        except ApiError as error:
            return error.answer()
        except UnservedFilterError as error:
            _log.error("%s is not served: %s", request.url, error)
            return unhandled_error().answer()

    def health(self, _: _Call) -> Response:
        database = {"mongodb": {"status": "up"}}
        return JsonAnswer({"status": "ok", "info": database, "error": {}, "details": database})

    def summary(self, _: _Call) -> Response:
        return JsonAnswer(
            {
                "datasets": self._store.count_datasets(),
                "origdatablocks": self._store.count_origdatablocks(),
                "poisoned": len(self._store.poisoned()),
            }
        )

    def log_in(self, call: _Call) -> Response:
        body = call.body if isinstance(call.body, dict) else {}
        logged_in = self._accounts.log_in(self._store, body.get("username"), body.get("password"))
        if logged_in is None:
            raise unauthorized()
        account, token = logged_in
        lifetime = int(self._accounts.token_lifetime.total_seconds())
        answer = {
            "access_token": token,
            "id": token,
            "expires_in": lifetime,
            "ttl": lifetime,
            "created": now(),
            "userId": account.identifier,
            "user": account.described(),
        }
        return JsonAnswer(answer, HTTPStatus.CREATED)

    def whoami(self, call: _Call) -> Response:
        if call.caller is None:
            return Response()
        account = call.caller
        return JsonAnswer(
            {
                "_id": account.identifier,
                "username": account.username,
                "email": account.email,
                "currentGroups": ["globalaccess", *account.groups],
                "authStrategy": "local",
            }
        )

    def myself(self, call: _Call) -> Response:
        if call.caller is None:
            raise unauthorized()
        return JsonAnswer(call.caller.described())

    def post_dataset(self, call: _Call) -> Response:
        account = call.known_caller()
        if not account.may_create_datasets:
            raise forbidden()
        body = call.object()
        if violations := validation.check(body, validation.dataset_schema(body.get("type"))):
            raise encoded_validation_error(validation.as_encoded_text(violations))
        if not account.may_create_any_group and not account.owns(body["ownerGroup"]):
            raise forbidden("Unauthorized to create this dataset")
        if empty := {name: body[name] for name in _NEVER_EMPTY if name in body and body[name] in ("", None)}:
            raise database_error(empty)
        document = documents.new_dataset(body, account.username)
        try:
            self._store.insert_dataset(document, documents.deadly_metadata(body.get("scientificMetadata")))
        except AlreadyStoredError:
            message = f"A dataset with pid {document['pid']} already exists!"
            raise usual_error(HTTPStatus.CONFLICT, message) from None
        return JsonAnswer(document, HTTPStatus.CREATED)

    def validate_dataset(self, call: _Call) -> Response:
        call.known_caller()
        body = call.object()
        schema = validation.dataset_schema("derived" if body.get("type") == "derived" else "raw")
        violations = [found for found in validation.check(body, schema) if not found.unknown]
        if not violations:
            return JsonAnswer({"valid": True})
        return JsonAnswer({"valid": False, "error": "; ".join(validation.as_sentences(violations))})

    def list_datasets(self, call: _Call) -> Response:
        return JsonAnswer(self._found_datasets(call))

    def count_datasets(self, call: _Call) -> Response:
        query = _query(call, "filter", texts_become_dates=True)
        everything = Query(where=query.where, limit=self._store.count_datasets() + 1)
        return JsonAnswer({"count": len(self._matching("datasets", everything, call))})

    def find_dataset(self, call: _Call) -> Response:
        found = self._found_datasets(call)
        return JsonAnswer(found[0]) if found else Response()

    def get_dataset(self, call: _Call) -> Response:
        return JsonAnswer({**self._readable_dataset(call), "history": []})

    def patch_dataset(self, call: _Call) -> Response:
        account = call.known_caller()
        if not account.may_create_datasets:
            raise forbidden()
        change = call.object()
        dataset = self._store.dataset(call.id)
        if dataset is None:
            raise usual_error(HTTPStatus.NOT_FOUND, "Not Found", named=False)
        schema = validation.partial(
            validation.dataset_schema(dataset["type"]), without=("pid", "type", "version")
        )
        if violations := validation.check(change, schema):
            raise encoded_validation_error(validation.as_encoded_text(violations))
        if not account.may_administer and not account.owns(dataset["ownerGroup"]):
            raise forbidden("Unauthorized to update this dataset")
        unmodified_since = _condition(call.headers.get("If-Unmodified-Since"))

        def apply(stored: JsonObject) -> JsonObject:
            updated_at = read_iso(stored["updatedAt"])
            if unmodified_since is not None and updated_at is not None and updated_at >= unmodified_since:
                raise usual_error(HTTPStatus.PRECONDITION_FAILED, "Resource has been modified on server")
            return documents.changed_dataset(stored, change, account.username)

        deadly = documents.deadly_metadata(change.get("scientificMetadata"))
        changed = self._store.change_dataset(call.id, apply, deadly)
        if changed is None:
            raise usual_error(HTTPStatus.NOT_FOUND, "Not Found", named=False)
        return JsonAnswer(changed)

    def delete_dataset(self, call: _Call) -> Response:
        if not call.known_caller().may_delete:
            raise forbidden()
        deleted = self._store.delete_dataset(call.id)
        if deleted is None:
            raise _dataset_not_found(call.id)
        return JsonAnswer(documents.deleted_dataset(deleted))

    def delete_origdatablock(self, call: _Call) -> Response:
        # Not recorded; like that of a dataset.
        account = call.known_caller()
        if not account.may_delete:
            raise forbidden()
        delete = (
            self._store.take_origdatablock_off
            if self._dialect.adds_blocks_to_sums
            else self._store.delete_origdatablock
        )
        deleted = delete(call.id, instant=now(), user=account.username)
        if deleted is None:
            raise usual_error(HTTPStatus.NOT_FOUND, "Not Found", named=False)
        return JsonAnswer(deleted)

    def post_origdatablock(self, call: _Call) -> Response:
        account = call.known_caller()
        if not account.may_create_datasets:
            raise forbidden()
        body = _checked(call, validation.ORIGDATABLOCK)
        dataset = self._store.dataset(body["datasetId"])
        if dataset is None:
            message = f"Dataset: {body['datasetId']} not found for attaching an origdatablock"
            raise usual_error(HTTPStatus.NOT_FOUND, message)
        if not account.may_create_any_group and not account.owns(dataset["ownerGroup"]):
            raise forbidden("Unauthorized to create this origdatablock")
        document = documents.new_origdatablock(body, dataset, account.username)
        if self._dialect.adds_blocks_to_sums:
            self._store.add_origdatablock(document)
        else:
            self._store.insert_origdatablock(document)
        return JsonAnswer(document, HTTPStatus.CREATED)

    def list_origdatablocks(self, call: _Call) -> Response:
        if not self._dialect.lists_blocks_to_anybody:
            call.known_caller()
        return JsonAnswer(self._matching("origdatablocks", _query_without_inq(call), call))

    def list_origdatablocks_of_dataset(self, call: _Call) -> Response:
        dataset = self._readable_dataset(call)
        return JsonAnswer(self._store.origdatablocks(dataset["pid"]))

    def post_attachment(self, call: _Call) -> Response:
        account = call.known_caller()
        if not account.may_create_datasets:
            raise forbidden()
        body = _checked(call, validation.ATTACHMENT)
        dataset = self._store.dataset(call.id)
        if dataset is None:
            raise _dataset_not_found(call.id)
        if not account.may_create_any_group and not account.owns(dataset["ownerGroup"]):
            raise forbidden("Unauthorized to access")
        document = documents.new_attachment(body, call.id, account.username)
        self._store.insert_attachment(document)
        return JsonAnswer(document, HTTPStatus.CREATED)

    def list_attachments(self, call: _Call) -> Response:
        dataset = self._readable_dataset(call)
        return JsonAnswer(self._store.attachments(dataset["pid"]))

    def get_thumbnail(self, call: _Call) -> Response:
        dataset = self._readable_dataset(call)
        for attachment in self._store.attachments(dataset["pid"]):
            if attachment.get("thumbnail"):
                return JsonAnswer({"thumbnail": attachment["thumbnail"]})
        return JsonAnswer({})

    def post_proposal(self, call: _Call) -> Response:
        account = _administrator(call)
        body = _checked(call, validation.PROPOSAL)
        document = documents.new_proposal(body, account.username)
        try:
            self._store.insert_proposal(document)
        except AlreadyStoredError:
            message = f"Proposal with {body['proposalId']} already exists"
            raise usual_error(HTTPStatus.CONFLICT, message) from None
        return JsonAnswer(document, HTTPStatus.CREATED)

    def list_proposals(self, call: _Call) -> Response:
        return JsonAnswer(self._matching("proposals", _query(call, "filters"), call))

    def get_proposal(self, call: _Call) -> Response:
        document = self._store.proposal(call.id)
        if document is None:
            raise usual_error(HTTPStatus.NOT_FOUND, f"Proposal: {call.id} not found")
        if not call.may_read(document):
            raise forbidden("Unauthorized to this proposal")
        return JsonAnswer(document)

    def post_instrument(self, call: _Call) -> Response:
        account = _administrator(call)
        document = documents.new_instrument(_checked(call, validation.INSTRUMENT), account.username)
        try:
            self._store.insert_instrument(document)
        except AlreadyStoredError:
            message = "Instrument with the same unique name already exists"
            raise usual_error(HTTPStatus.CONFLICT, message) from None
        return JsonAnswer(document, HTTPStatus.CREATED)

    def list_instruments(self, call: _Call) -> Response:
        query = _query(call, "filter", texts_become_dates=True)
        return JsonAnswer(self._matching("instruments", query, call, everybody=True))

    def get_instrument(self, call: _Call) -> Response:
        document = self._store.instrument(call.id)
        return Response() if document is None else JsonAnswer(document)

    def post_sample(self, call: _Call) -> Response:
        account = call.known_caller()
        if not account.may_create_datasets:
            raise forbidden()
        body = _checked(call, validation.SAMPLE)
        if not account.may_create_any_group and not account.owns(body["ownerGroup"]):
            raise forbidden("Unauthorized to create this sample")
        document = documents.new_sample(body, account.username)
        try:
            self._store.insert_sample(document)
        except AlreadyStoredError:
            raise unhandled_error() from None
        return JsonAnswer(document, HTTPStatus.CREATED)

    def list_samples(self, call: _Call) -> Response:
        # The recorded answers to a filter with fields hold every field.
        query = replace(_query_without_inq(call), fields=())
        return JsonAnswer(self._matching("samples", query, call))

    def get_sample(self, call: _Call) -> Response:
        document = self._store.sample(call.id)
        if document is None:
            raise usual_error(HTTPStatus.NOT_FOUND, f"Sample: {call.id} not found")
        if not call.may_read(document):
            raise forbidden("Unauthorized to this sample")
        return JsonAnswer(document)

    def _readable_dataset(self, call: _Call) -> JsonObject:
        document = self._store.dataset(call.id)
        if document is None:
            raise _dataset_not_found(call.id)
        if not call.may_read(document):
            raise forbidden("Unauthorized access")
        return document

    def _found_datasets(self, call: _Call) -> list[JsonObject]:
        return self._matching("datasets", _query(call, "filter", texts_become_dates=True), call)

    def _matching(
        self, table: str, query: Query, call: _Call, *, everybody: bool = False
    ) -> list[JsonObject]:
        narrowed = self._store.find(table, dict(equalities(query.where)))
        return query.apply(document for document in narrowed if everybody or call.may_read(document))


class _EncodedPaths:
    """Lets routes see paths as they were sent: an encoded slash belongs to an id, a plain one ends it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raw = scope.get("raw_path") or quote(scope["path"]).encode()
            # The real server does not care about a slash at the end, so an empty id asks for the list.
            path = raw.decode("latin-1").rstrip("/") or "/"
            scope = {**scope, "path": path}
        await self._app(scope, receive, send)


async def _read_body(request: Request) -> bytes | None:
    """The body, or None where it is over the limit; read to its end in any case."""
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size <= _LARGEST_BODY:
            parts.append(part)
    return b"".join(parts) if size <= _LARGEST_BODY else None


def _parsed(request: Request, body: bytes | None) -> Any:
    if body is None:
        raise unhandled_error()
    content_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if request.method in ("GET", "HEAD") or content_type != "application/json":
        return None
    if not body:
        return {}
    try:
        return read_json(body.decode("utf-8", "replace"))
    except BadJsonError as error:
        raise usual_error(HTTPStatus.BAD_REQUEST, str(error)) from None


def _query(
    call: _Call,
    parameter: Literal["filter", "filters"],
    *,
    texts_become_dates: bool = False,
) -> Query:
    try:
        return read_query(call.query.get(parameter), texts_become_dates=texts_become_dates)
    except BadJsonError as error:
        raise usual_error(HTTPStatus.BAD_REQUEST, f"Invalid JSON in filter: {error}") from None


def _query_without_inq(call: _Call) -> Query:
    """The filter of a route that hands it to the database as it is, which knows `$in` and no `inq`."""
    query = _query(call, "filter")
    if any(isinstance(wanted, dict) and "inq" in wanted for wanted in query.where.values()):
        raise unhandled_error()
    return query


def _checked(call: _Call, schema: validation.Schema) -> JsonObject:
    body = call.object()
    if violations := validation.check(body, schema):
        raise usual_error(HTTPStatus.BAD_REQUEST, validation.as_sentences(violations))
    return body


def _administrator(call: _Call) -> Account:
    account = call.known_caller()
    if not account.may_administer:
        raise forbidden()
    return account


def _dataset_not_found(pid: str) -> ApiError:
    return usual_error(HTTPStatus.NOT_FOUND, f"dataset: {pid} not found")


def _condition(text: str | None) -> datetime | None:
    """The moment in an ``If-Unmodified-Since``; the real server reads it as JavaScript reads dates."""
    if text is None:
        return None
    try:
        instant = parsedate_to_datetime(text)
    except ValueError:
        return read_iso(text)
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant


async def _no_route(request: Request, error: Exception) -> Response:
    path = request.scope["path"]
    if request.url.query:
        path = f"{path}?{request.url.query}"
    if isinstance(error, HTTPException) and not path.startswith("/api/"):
        return pages.not_found()
    return usual_error(HTTPStatus.NOT_FOUND, f"Cannot {request.method} {path}").answer()


async def _unhandled(_: Request, __: Exception) -> Response:
    return unhandled_error().answer()
