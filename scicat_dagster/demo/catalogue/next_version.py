"""SciCat's API v4 as the recorded exchanges show it: datasets and attachments.

Here belong: what this version does otherwise than v3. The documents are the same; those of v3's names that
hold one value are hidden here.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from scicat_dagster.demo.catalogue.calls import MERGE_PATCH, Call, checked, condition, query_of
from scicat_dagster.demo.catalogue.content import documents, validation
from scicat_dagster.demo.catalogue.content.answers import (
    ApiError,
    JsonAnswer,
    JsonObject,
    forbidden,
    unhandled_error,
    usual_error,
)
from scicat_dagster.demo.catalogue.content.dates import read_iso
from scicat_dagster.demo.catalogue.content.dialects import Dialect
from scicat_dagster.demo.catalogue.filters import equalities
from scicat_dagster.demo.catalogue.store import AlreadyStoredError, Store

_SUMS = ("size", "numberOfFiles")


class NextVersion:
    """The handlers of API v4."""

    def __init__(self, store: Store, dialect: Dialect) -> None:
        self._store = store
        self._dialect = dialect

    def routes(self) -> list[tuple[str, str, Callable[[Call], Response]]]:
        """Method, path and handler of each."""
        found: list[tuple[str, str, Callable[[Call], Response]]] = [
            ("POST", "/datasets", self.post_dataset),
            ("GET", "/datasets", self.list_datasets),
            ("POST", "/datasets/isValid", self.validate_dataset),
            ("GET", "/datasets/{id}", self.get_dataset),
            ("PATCH", "/datasets/{id}", self.patch_dataset),
            ("POST", "/attachments", self.post_attachment),
            ("GET", "/attachments", self.list_attachments),
            ("GET", "/attachments/{id}", self.get_attachment),
            ("PATCH", "/attachments/{id}", self.patch_attachment),
            ("DELETE", "/attachments/{id}", self.delete_attachment),
        ]
        if self._dialect.has_new_relationships:
            found.append(("GET", "/metadatakeys", self.list_metadata_keys))
        return found

    def post_dataset(self, call: Call) -> Response:
        account = call.known_caller()
        if not account.may_create_datasets:
            raise forbidden()
        schema = self._schema()
        body = call.object()
        if violations := validation.check(body, schema):
            raise usual_error(HTTPStatus.BAD_REQUEST, validation.as_sentences(violations))
        if not account.may_create_any_group and not account.owns(body["ownerGroup"]):
            raise forbidden("Unauthorized to create this dataset")
        if not body.get("owner"):
            raise _went_wrong()
        document = {**documents.new_dataset(body, account.username, self._dialect), "version": "4"}
        try:
            self._store.insert_dataset(document, documents.deadly_metadata(body.get("scientificMetadata")))
        except AlreadyStoredError:
            message = f"A dataset with pid {document['pid']} already exists!"
            raise usual_error(HTTPStatus.CONFLICT, message) from None
        return JsonAnswer(self._named(documents.as_written(document, self._dialect)), HTTPStatus.CREATED)

    def validate_dataset(self, call: Call) -> Response:
        call.known_caller()
        found = validation.check(call.object(), self._schema())
        broken = [violation for violation in found if not violation.unknown]
        if not broken:
            return JsonAnswer({"valid": True})
        return JsonAnswer({"valid": False})

    def list_datasets(self, call: Call) -> Response:
        query = query_of(call, "filter")
        _refuse_inq(query.where)
        if call.caller is None:
            raise forbidden(self._dialect.anonymous_refusal)
        found = self._store.find("datasets", dict(equalities(query.where)))
        readable = (self._named(documents.next_version_of(one)) for one in found if call.may_read(one))
        return JsonAnswer(query.apply(readable))

    def get_dataset(self, call: Call) -> Response:
        document = self._store.dataset(call.id)
        if document is None:
            raise usual_error(HTTPStatus.NOT_FOUND, "dataset: null not found")
        if not call.may_read(document):
            raise forbidden("Unauthorized access" if call.caller else self._dialect.anonymous_refusal)
        return JsonAnswer(self._named(documents.next_version_of(document)))

    def patch_dataset(self, call: Call) -> Response:
        account = call.known_caller()
        if not account.may_create_datasets:
            raise forbidden()
        body = call.object()
        schema = validation.partial(self._schema(), without=("pid", "type", "version"))
        if violations := validation.check(body, schema):
            raise usual_error(HTTPStatus.BAD_REQUEST, validation.as_sentences(violations))
        stored = self._store.dataset(call.id)
        if stored is None:
            raise usual_error(HTTPStatus.NOT_FOUND, "Dataset not found")
        if not account.may_administer and not account.owns(stored["ownerGroup"]):
            raise forbidden("Unauthorized access")
        unmodified_since = condition(call.headers.get("If-Unmodified-Since"))
        merges = call.headers.get("Content-Type") == MERGE_PATCH

        def apply(document: JsonObject) -> JsonObject:
            if self._dialect.has_changed_since(read_iso(document["updatedAt"]), unmodified_since):
                raise usual_error(HTTPStatus.PRECONDITION_FAILED, "Resource has been modified on server")
            _refuse_half_quantities(body, document, call.id)
            change = _merged(document, body) if merges else _without_nulls(body)
            if self._dialect.resets_sums:
                change = dict.fromkeys(_SUMS, 0) | change
            return documents.changed_by_next_version(document, change, account.username)

        deadly = documents.deadly_metadata(body.get("scientificMetadata")) if not merges else None
        changed = self._store.change_dataset(call.id, apply, deadly)
        if changed is None:
            raise usual_error(HTTPStatus.NOT_FOUND, "Dataset not found")
        return JsonAnswer(self._named(documents.as_written(changed, self._dialect)))

    def post_attachment(self, call: Call) -> Response:
        account = call.known_caller()
        if not account.may_create_datasets:
            raise forbidden()
        body = checked(call, validation.NEXT_ATTACHMENT)
        if not account.may_create_any_group and not account.owns(body["ownerGroup"]):
            raise forbidden("Unauthorized to create this attachment")
        document = documents.new_next_attachment(body, account.username)
        try:
            self._store.insert_attachment(document)
        except AlreadyStoredError:
            raise unhandled_error() from None
        return JsonAnswer(document, HTTPStatus.CREATED)

    def list_attachments(self, call: Call) -> Response:
        query = query_of(call, "filter")
        found = [documents.next_attachment_of(one) for one in self._store.find("attachments", {})]
        readable = (_unnamed(one) for one in reversed(found) if call.may_read(one))
        return JsonAnswer(query.apply(readable))

    def get_attachment(self, call: Call) -> Response:
        return JsonAnswer(self._attachment(call))

    def patch_attachment(self, call: Call) -> Response:
        account = call.known_caller()
        body = checked(call, validation.partial(validation.NEXT_ATTACHMENT, without=("aid",)))
        self._owned_attachment(call)

        def apply(document: JsonObject) -> JsonObject:
            return documents.touched({**document, **body}, account.username)

        changed = self._store.change_attachment(call.id, apply)
        if changed is None:
            raise _attachment_not_found(call.id)
        return JsonAnswer(documents.next_attachment_of(changed))

    def delete_attachment(self, call: Call) -> Response:
        document = self._owned_attachment(call)
        self._store.delete_attachment(call.id)
        return JsonAnswer(document)

    def list_metadata_keys(self, _: Call) -> Response:
        # Only that there is such a route matters here.
        return JsonAnswer([])

    def _named(self, document: JsonObject) -> JsonObject:
        """A dataset with the names in its metadata as this generation shows them."""
        if not self._dialect.encodes_metadata_names:
            return document
        metadata = documents.with_encoded_names(document["scientificMetadata"])
        return {**document, "scientificMetadata": metadata}

    def _schema(self) -> validation.Schema:
        schema = validation.in_dialect(validation.UNTYPED_DATASET, self._dialect)
        # Without an owner the server gets as far as its database.
        return {**schema, "owner": validation.optional(schema["owner"])}

    def _attachment(self, call: Call) -> JsonObject:
        document = self._store.attachment(call.id)
        if document is None:
            raise _attachment_not_found(call.id)
        if not call.may_read(document):
            raise forbidden("Unauthorized to access this attachment")
        return documents.next_attachment_of(document)

    def _owned_attachment(self, call: Call) -> JsonObject:
        account = call.known_caller()
        document = self._attachment(call)
        if not account.may_administer and not account.owns(document["ownerGroup"]):
            raise forbidden("Unauthorized to access this attachment")
        return document


def _unnamed(document: JsonObject) -> JsonObject:
    return {name: value for name, value in document.items() if name != "id"}


def _attachment_not_found(identifier: str) -> ApiError:
    return usual_error(HTTPStatus.NOT_FOUND, f"Attachment: {identifier} not found")


def _went_wrong() -> ApiError:
    message = "Something went wrong. Please try again later."
    return usual_error(HTTPStatus.INTERNAL_SERVER_ERROR, message, named=False)


def _refuse_inq(where: JsonObject) -> None:
    for name, wanted in where.items():
        if isinstance(wanted, dict) and "inq" in wanted and not name.startswith("scientificMetadata"):
            message = f"Property where.{name}.inq should not exist in the filter object"
            raise usual_error(HTTPStatus.BAD_REQUEST, message)


def _refuse_half_quantities(body: JsonObject, document: JsonObject, pid: str) -> None:
    """A value that had a unit is changed together with it, or not at all."""
    entries = body.get("scientificMetadata")
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        known = document["scientificMetadata"].get(name)
        had_both = isinstance(known, dict) and {"value", "unit"} <= known.keys()
        if had_both and isinstance(entry, dict) and len({"value", "unit"} & entry.keys()) == 1:
            message = (
                f"Original dataset {pid} contains both value and unit in scientificMetadata.{name}. "
                "Please provide both when updating."
            )
            raise usual_error(HTTPStatus.BAD_REQUEST, message)


def _without_nulls(body: JsonObject) -> JsonObject:
    """In a plain change null means that a field stays."""
    return {name: value for name, value in body.items() if value is not None}


def _merged(document: JsonObject, patch: JsonObject) -> JsonObject:
    """The fields of a document after a merge patch (RFC 7396), those that the patch names only."""
    return {name: _patched(document.get(name), value) for name, value in patch.items() if value is not None}


def _patched(old: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _patched(result.get(name), value)
    return result
