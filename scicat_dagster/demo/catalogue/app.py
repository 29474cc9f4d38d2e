"""The HTTP routes: SciCat's v3 API as the recorded exchanges show it, and the stand-in's own summary.

Here belong: routing, rights, and the order in which a request is judged. API v4 is in ``next_version``, jobs
are in ``jobs``, the shapes of errors in ``answers``, the rules for bodies in ``validation``, the documents in
``documents``, the web pages in ``pages``.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from scicat_dagster.demo.catalogue import pages
from scicat_dagster.demo.catalogue.accounts import Account, Accounts
from scicat_dagster.demo.catalogue.calls import (
    Call,
    administrator,
    checked,
    condition,
    dataset_not_found,
    parsed,
    query_of,
    query_without_inq,
    read_body,
)
from scicat_dagster.demo.catalogue.content import documents, validation
from scicat_dagster.demo.catalogue.content.answers import (
    ApiError,
    JsonAnswer,
    JsonObject,
    database_error,
    encoded_validation_error,
    forbidden,
    unauthorized,
    unhandled_error,
    usual_error,
)
from scicat_dagster.demo.catalogue.content.dates import now, read_iso
from scicat_dagster.demo.catalogue.content.dialects import Dialect
from scicat_dagster.demo.catalogue.filters import Query, UnservedFilterError, equalities, with_texts_alone
from scicat_dagster.demo.catalogue.jobs import Jobs
from scicat_dagster.demo.catalogue.next_version import NextVersion
from scicat_dagster.demo.catalogue.store import AlreadyStoredError, Store

API_PREFIX = "/api/v3"
NEXT_PREFIX = "/api/v4"

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
    api: list[tuple[str, str, Callable[[Call], Response]]] = [
        ("GET", "/health", catalogue.health),
        ("POST", "/auth/login", catalogue.log_in),
        ("POST", "/auth/ldap", catalogue.log_in),
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
        ("DELETE", "/datasets/{id}/attachments/{attachment}", catalogue.delete_attachment),
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
    if dialect.has_new_relationships:
        # It came with the same release.
        api.append(("POST", "/auth/oidc/token", catalogue.exchange_token))
    jobs = Jobs(store, dialect)
    blocks = [
        ("POST", "/origdatablocks", catalogue.post_origdatablock),
        ("GET", "/origdatablocks", catalogue.list_origdatablocks_to_members),
        ("DELETE", "/origdatablocks/{id}", catalogue.delete_origdatablock),
    ]
    versions = {
        API_PREFIX: [*api, *jobs.routes(3)],
    }
    if dialect.has_v4:
        versions[NEXT_PREFIX] = [*NextVersion(store, dialect).routes(), *blocks, *jobs.routes(4)]
    routes: list[BaseRoute] = [
        Route(f"{prefix}{path}", catalogue.endpoint(handler), methods=[method])
        for prefix, handlers in versions.items()
        for method, path, handler in handlers
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


class _Catalogue:
    """The routes' handlers; each gets a read request and answers it, in a worker thread."""

    def __init__(self, store: Store, accounts: Accounts, dialect: Dialect) -> None:
        self._store = store
        self._accounts = accounts
        self._dialect = dialect

    def endpoint(self, handler: Callable[[Call], Response]) -> Callable[[Request], Any]:
        """The handler as an endpoint: reads the request first, turns raised answers into responses."""

        async def endpoint(request: Request) -> Response:
            body = await read_body(request)
            return await run_in_threadpool(self._handle, handler, request, body)

        return endpoint

    def _handle(self, handler: Callable[[Call], Response], request: Request, body: bytes | None) -> Response:
        authorization = request.headers.get("Authorization")
        try:
            if self._dialect.reports_expired_tokens and self._accounts.has_expired(
                self._store, authorization
            ):
                raise usual_error(HTTPStatus.UNAUTHORIZED, "SESSION_EXPIRED")
            call = Call(
                caller=self._accounts.caller(self._store, authorization),
                headers=request.headers,
                query=request.query_params,
                arguments={name: unquote(value) for name, value in request.path_params.items()},
                body=parsed(request, body),
            )
            return handler(call)
        except ApiError as error:
            return error.answer()
        except UnservedFilterError as error:
            _log.error("%s is not served: %s", request.url, error)
            return unhandled_error().answer()

    def health(self, _: Call) -> Response:
        database = {"mongodb": {"status": "up"}}
        return JsonAnswer({"status": "ok", "info": database, "error": {}, "details": database})

    def summary(self, _: Call) -> Response:
        return JsonAnswer(
            {
                "datasets": self._store.count_datasets(),
                "origdatablocks": self._store.count_origdatablocks(),
                "poisoned": len(self._store.poisoned()),
            }
        )

    def log_in(self, call: Call) -> Response:
        body = call.body if isinstance(call.body, dict) else {}
        logged_in = self._accounts.log_in(self._store, body.get("username"), body.get("password"))
        if logged_in is None:
            raise unauthorized()
        return self._logged_in(*logged_in)

    def exchange_token(self, call: Call) -> Response:
        body = call.body if isinstance(call.body, dict) else {}
        logged_in = self._accounts.exchange(self._store, body.get("idToken"))
        if logged_in is None:
            raise usual_error(HTTPStatus.UNAUTHORIZED, "Invalid idToken: failed to decode JWT")
        return self._logged_in(*logged_in)

    def _logged_in(self, account: Account, token: str) -> Response:
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

    def whoami(self, call: Call) -> Response:
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

    def myself(self, call: Call) -> Response:
        if call.caller is None and self._dialect.reports_expired_tokens:
            raise usual_error(HTTPStatus.UNAUTHORIZED, "Unauthenticated")
        if call.caller is None:
            raise unauthorized()
        return JsonAnswer(call.caller.described())

    def post_dataset(self, call: Call) -> Response:
        account = call.known_caller()
        if not account.may_create_datasets:
            raise forbidden()
        body = call.object()
        if violations := validation.check(body, self._schema(body.get("type"))):
            raise encoded_validation_error(validation.as_encoded_text(violations))
        if not account.may_create_any_group and not account.owns(body["ownerGroup"]):
            raise forbidden("Unauthorized to create this dataset")
        if empty := {name: body[name] for name in _NEVER_EMPTY if name in body and body[name] in ("", None)}:
            raise database_error(empty)
        document = documents.new_dataset(body, account.username, self._dialect)
        metadata = body.get("scientificMetadata")
        poison = documents.deadly_metadata(metadata) if self._dialect.is_harmed_by_metadata else None
        try:
            self._store.insert_dataset(document, poison)
        except AlreadyStoredError:
            message = f"A dataset with pid {document['pid']} already exists!"
            raise usual_error(HTTPStatus.CONFLICT, message) from None
        refused = None if self._dialect.is_harmed_by_metadata else documents.refused_metadata(metadata)
        if refused is not None:
            raise ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, refused)
        return JsonAnswer(documents.just_posted(document), HTTPStatus.CREATED)

    def validate_dataset(self, call: Call) -> Response:
        call.known_caller()
        body = call.object()
        schema = self._schema("derived" if body.get("type") == "derived" else "raw")
        violations = [found for found in validation.check(body, schema) if not found.unknown]
        if not violations:
            return JsonAnswer({"valid": True})
        return JsonAnswer({"valid": False, "error": "; ".join(validation.as_sentences(violations))})

    def list_datasets(self, call: Call) -> Response:
        return JsonAnswer(self._found_datasets(call))

    def count_datasets(self, call: Call) -> Response:
        query = query_of(call, "filter", texts_become_dates=True)
        everything = Query(where=query.where, limit=self._store.count_datasets() + 1)
        return JsonAnswer({"count": len(self._matching("datasets", everything, call))})

    def find_dataset(self, call: Call) -> Response:
        found = self._found_datasets(call)
        return JsonAnswer(found[0]) if found else Response()

    def get_dataset(self, call: Call) -> Response:
        if self._dialect.says_nothing_of_the_missing and self._store.dataset(call.id) is None:
            return Response()
        dataset = documents.read_by_v3(self._readable_dataset(call), self._dialect)
        return JsonAnswer({**dataset, "history": []})

    def patch_dataset(self, call: Call) -> Response:
        account = call.known_caller()
        if not account.may_create_datasets:
            raise forbidden()
        change = call.object()
        dataset = self._store.dataset(call.id)
        if dataset is None:
            raise usual_error(HTTPStatus.NOT_FOUND, "Not Found", named=False)
        schema = validation.partial(self._schema(dataset["type"]), without=("pid", "type", "version"))
        if violations := validation.check(change, schema):
            raise encoded_validation_error(validation.as_encoded_text(violations))
        if not account.may_administer and not account.owns(dataset["ownerGroup"]):
            raise forbidden("Unauthorized to update this dataset")
        unmodified_since = condition(call.headers.get("If-Unmodified-Since"))

        def apply(stored: JsonObject) -> JsonObject:
            is_late = self._dialect.has_changed_since(read_iso(stored["updatedAt"]), unmodified_since)
            if is_late and self._dialect.heeds_conditions:
                raise usual_error(HTTPStatus.PRECONDITION_FAILED, "Resource has been modified on server")
            return documents.changed_dataset(stored, change, account.username)

        deadly = documents.deadly_metadata(change.get("scientificMetadata"))
        changed = self._store.change_dataset(call.id, apply, deadly)
        if changed is None:
            raise usual_error(HTTPStatus.NOT_FOUND, "Not Found", named=False)
        return JsonAnswer(changed)

    def delete_dataset(self, call: Call) -> Response:
        if not call.known_caller().may_delete:
            raise forbidden()
        deleted = self._store.delete_dataset(call.id)
        if deleted is None:
            raise dataset_not_found(call.id)
        return JsonAnswer(documents.as_written(deleted, self._dialect))

    def delete_origdatablock(self, call: Call) -> Response:
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

    def post_origdatablock(self, call: Call) -> Response:
        account = call.known_caller()
        if not account.may_create_datasets:
            raise forbidden()
        if self._dialect.checks_file_metadata and _has_file_metadata(call.body):
            raise usual_error(HTTPStatus.BAD_REQUEST, _FILE_METADATA)
        body = checked(call, validation.ORIGDATABLOCK)
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

    def list_origdatablocks(self, call: Call) -> Response:
        if not self._dialect.lists_blocks_to_anybody:
            call.known_caller()
        return JsonAnswer(self._matching("origdatablocks", query_without_inq(call), call))

    def list_origdatablocks_to_members(self, call: Call) -> Response:
        if call.caller is None:
            raise forbidden(self._dialect.anonymous_refusal)
        found = self._matching("origdatablocks", query_without_inq(call), call)
        return JsonAnswer([documents.unnamed_block(block) for block in found])

    def list_origdatablocks_of_dataset(self, call: Call) -> Response:
        dataset = self._readable_dataset(call)
        return JsonAnswer(self._store.origdatablocks(dataset["pid"]))

    def post_attachment(self, call: Call) -> Response:
        account = call.known_caller()
        if not account.may_create_datasets:
            raise forbidden()
        body = checked(call, validation.ATTACHMENT)
        dataset = self._store.dataset(call.id)
        if dataset is None:
            raise dataset_not_found(call.id)
        if not account.may_create_any_group and not account.owns(dataset["ownerGroup"]):
            raise forbidden("Unauthorized to access")
        document = documents.new_attachment(body, call.id, account.username)
        self._store.insert_attachment(document)
        return JsonAnswer(document, HTTPStatus.CREATED)

    def delete_attachment(self, call: Call) -> Response:
        account = call.known_caller()
        dataset = self._readable_dataset(call)
        if not account.may_administer and not account.owns(dataset["ownerGroup"]):
            raise forbidden("Unauthorized to access")
        if not self._dialect.deletes_attachments:
            return Response()
        deleted = self._store.attachment(call.arguments["attachment"])
        self._store.delete_attachment(call.arguments["attachment"])
        # The real server answers nothing where there is none, as far as its sources show.
        return JsonAnswer(documents.attachment_of_v3(deleted) if deleted else None)

    def list_attachments(self, call: Call) -> Response:
        dataset = self._readable_dataset(call)
        attached = self._store.attachments(dataset["pid"])
        return JsonAnswer([documents.attachment_of_v3(attachment) for attachment in attached])

    def get_thumbnail(self, call: Call) -> Response:
        dataset = self._readable_dataset(call)
        for attachment in self._store.attachments(dataset["pid"]):
            if attachment.get("thumbnail"):
                return JsonAnswer({"thumbnail": attachment["thumbnail"]})
        return JsonAnswer({})

    def post_proposal(self, call: Call) -> Response:
        account = administrator(call)
        body = checked(call, validation.PROPOSAL)
        document = documents.new_proposal(body, account.username)
        try:
            self._store.insert_proposal(document)
        except AlreadyStoredError:
            message = f"Proposal with {body['proposalId']} already exists"
            raise usual_error(HTTPStatus.CONFLICT, message) from None
        return JsonAnswer(document, HTTPStatus.CREATED)

    def list_proposals(self, call: Call) -> Response:
        return JsonAnswer(self._matching("proposals", query_of(call, "filters"), call))

    def get_proposal(self, call: Call) -> Response:
        document = self._store.proposal(call.id)
        if document is None and self._dialect.says_nothing_of_the_missing:
            return Response()
        if document is None:
            raise usual_error(HTTPStatus.NOT_FOUND, f"Proposal: {call.id} not found")
        if not call.may_read(document):
            raise forbidden("Unauthorized to this proposal")
        return JsonAnswer(document)

    def post_instrument(self, call: Call) -> Response:
        account = administrator(call)
        document = documents.new_instrument(checked(call, validation.INSTRUMENT), account.username)
        try:
            self._store.insert_instrument(document)
        except AlreadyStoredError:
            message = "Instrument with the same unique name already exists"
            raise usual_error(HTTPStatus.CONFLICT, message) from None
        return JsonAnswer(document, HTTPStatus.CREATED)

    def list_instruments(self, call: Call) -> Response:
        query = query_of(call, "filter", texts_become_dates=True)
        return JsonAnswer(self._matching("instruments", query, call, everybody=True))

    def get_instrument(self, call: Call) -> Response:
        document = self._store.instrument(call.id)
        return Response() if document is None else JsonAnswer(document)

    def post_sample(self, call: Call) -> Response:
        account = call.known_caller()
        if not account.may_create_datasets:
            raise forbidden()
        body = checked(call, validation.in_dialect(validation.SAMPLE, self._dialect))
        if not account.may_create_any_group and not account.owns(body["ownerGroup"]):
            raise forbidden("Unauthorized to create this sample")
        if self._dialect.needs_sample_names and not body.get("sampleName"):
            raise unhandled_error()
        document = documents.new_sample(body, account.username, self._dialect)
        try:
            self._store.insert_sample(document)
        except AlreadyStoredError:
            raise unhandled_error() from None
        return JsonAnswer(document, HTTPStatus.CREATED)

    def list_samples(self, call: Call) -> Response:
        # The recorded answers to a filter with fields hold every field.
        query = replace(query_without_inq(call), fields=())
        return JsonAnswer(self._matching("samples", query, call))

    def get_sample(self, call: Call) -> Response:
        document = self._store.sample(call.id)
        if document is None and self._dialect.says_nothing_of_the_missing:
            return Response()
        if document is None:
            raise usual_error(HTTPStatus.NOT_FOUND, f"Sample: {call.id} not found")
        if not call.may_read(document):
            raise forbidden("Unauthorized to this sample")
        return JsonAnswer(document)

    def _schema(self, kind: object) -> validation.Schema:
        return validation.in_dialect(validation.dataset_schema(kind), self._dialect)

    def _readable_dataset(self, call: Call) -> JsonObject:
        document = self._store.dataset(call.id)
        if document is None:
            raise dataset_not_found(call.id)
        if not call.may_read(document):
            raise forbidden("Unauthorized access")
        return document

    def _found_datasets(self, call: Call) -> list[JsonObject]:
        query = query_of(call, "filter", texts_become_dates=True)
        if self._dialect.loses_numbers_in_lists:
            query = replace(query, where=with_texts_alone(query.where))
        return self._matching("datasets", query, call)

    def _matching(self, table: str, query: Query, call: Call, *, everybody: bool = False) -> list[JsonObject]:
        narrowed = self._store.find(table, dict(equalities(query.where)))
        return query.apply(document for document in narrowed if everybody or call.may_read(document))


_FILE_METADATA = (
    "Datafile metadata is not following the configured schema: metadata must NOT have additional properties"
)


def _has_file_metadata(body: object) -> bool:
    files = body.get("dataFileList") if isinstance(body, dict) else None
    return isinstance(files, list) and any(isinstance(file, dict) and file.get("metadata") for file in files)


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


async def _no_route(request: Request, error: Exception) -> Response:
    path = request.scope["path"]
    if request.url.query:
        path = f"{path}?{request.url.query}"
    if isinstance(error, HTTPException) and not path.startswith("/api/"):
        return pages.not_found()
    return usual_error(HTTPStatus.NOT_FOUND, f"Cannot {request.method} {path}").answer()


async def _unhandled(_: Request, __: Exception) -> Response:
    return unhandled_error().answer()
