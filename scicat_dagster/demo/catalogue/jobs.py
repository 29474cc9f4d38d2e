"""Jobs by both versions of the API: which there are, what they may be posted with, and how they look.

A real server has the types that its ``jobs.yaml`` defines; these are those of the recorded server, and one
that facilities post after registration.
"""

import json
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from scicat_dagster.demo.catalogue.accounts import Account
from scicat_dagster.demo.catalogue.calls import Call, checked, query_of
from scicat_dagster.demo.catalogue.content import validation
from scicat_dagster.demo.catalogue.content.answers import (
    ApiError,
    JsonAnswer,
    JsonObject,
    forbidden,
    read_json,
    usual_error,
)
from scicat_dagster.demo.catalogue.content.dates import now
from scicat_dagster.demo.catalogue.content.dialects import Dialect
from scicat_dagster.demo.catalogue.filters import DEFAULT_LIMIT, Query
from scicat_dagster.demo.catalogue.store import Store

JOB_TYPES = {"archive": "archivable", "retrieve": "retrievable", "embargo_period": "", "anyone": None}
"""What each type wants of the lifecycle of its datasets; None where it has nothing to do with datasets."""

_V3_NAMES = {
    "emailJobInitiator": "contactEmail",
    "creationTime": "createdAt",
    "jobStatusMessage": "statusCode",
}


class Jobs:
    """The handlers of jobs."""

    def __init__(self, store: Store, dialect: Dialect) -> None:
        self._store = store
        self._dialect = dialect

    def routes(self, version: int) -> list[tuple[str, str, Callable[[Call], Response]]]:
        """Method, path and handler of each."""
        if version == 4:
            return [("POST", "/jobs", self.post_next), ("GET", "/jobs", self.list_next)]
        return [
            ("POST", "/jobs", self.post),
            ("GET", "/jobs", self.list_),
            ("GET", "/jobs/fullquery", self.full_query),
        ]

    def post_next(self, call: Call) -> Response:
        account = call.known_caller()
        document = self._checked(checked(call, validation.NEXT_JOB), account)
        return JsonAnswer(document, HTTPStatus.CREATED)

    def post(self, call: Call) -> Response:
        account = call.known_caller()
        body = checked(call, validation.JOB)
        if body["type"] not in JOB_TYPES:
            raise _bad(f"Invalid job type: {body['type']}")
        if not body.get("datasetList"):
            raise usual_error(HTTPStatus.UNPROCESSABLE_ENTITY, "List of passed datasets is empty.")
        params = {name: value for name, value in body.get("jobParams", {}).items() if name != "datasetList"}
        first = self._store.dataset(str(body["datasetList"][0].get("pid"))) or {}
        given = {
            "type": body["type"],
            "jobParams": {**params, "datasetList": body["datasetList"]},
            "ownerUser": params.get("username", account.username),
            "ownerGroup": params.get("ownerGroup", first.get("ownerGroup", "")),
            "contactEmail": body.get("emailJobInitiator", account.email),
        }
        return JsonAnswer(_of_v3(self._checked(given, account)), HTTPStatus.CREATED)

    def list_next(self, call: Call) -> Response:
        return JsonAnswer(self._found(query_of(call, "filter"), call))

    def list_(self, call: Call) -> Response:
        # A real server knows no key of a filter here.
        for name in query_of(call, "filter").where:
            message = f"Property where.{name} should not exist in the filter object"
            raise usual_error(HTTPStatus.BAD_REQUEST, message)
        return JsonAnswer([_of_v3(job) for job in self._found(Query(where={}), call)])

    def full_query(self, call: Call) -> Response:
        fields = read_json(call.query.get("fields") or "{}")
        limits = read_json(call.query.get("limits") or "{}")
        where = {_stored_name(name): wanted for name, wanted in fields.items()}
        query = Query(where=where, limit=limits.get("limit", DEFAULT_LIMIT), skip=limits.get("skip", 0))
        return JsonAnswer([_of_v3(job) for job in self._found(query, call)])

    def _found(self, query: Query, call: Call) -> list[JsonObject]:
        account = call.known_caller()
        if not self._dialect.lists_jobs:
            raise forbidden()
        return query.apply(job for job in self._store.find("jobs", {}) if _may_read(account, job))

    def _checked(self, body: JsonObject, account: Account) -> JsonObject:
        """Store a job, if it may be posted; the order of the checks is the recorded server's."""
        if body["type"] not in JOB_TYPES:
            raise _bad(f"Invalid job type: {body['type']}")
        lifecycle = JOB_TYPES[body["type"]]
        datasets = [] if lifecycle is None else self._datasets(body["jobParams"], lifecycle)
        if not body.get("ownerGroup") and not account.may_administer:
            raise forbidden("Invalid new job. Owner group should be specified.")
        if not body.get("ownerUser") and not body.get("contactEmail"):
            message = "Contact email should be specified for an anonymous job."
            raise usual_error(HTTPStatus.UNPROCESSABLE_ENTITY, message)
        if not all(account.may_administer or account.owns(found["ownerGroup"]) for found in datasets):
            raise forbidden("User does not have access to all datasets, cannot create job.")
        document = _new_job(body, account)
        self._store.insert_job(document)
        return document

    def _datasets(self, params: JsonObject, lifecycle: str) -> list[JsonObject]:
        listed = params.get("datasetList")
        if not isinstance(listed, list):
            message = "Dataset ids list was not provided in jobParams"
            raise usual_error(HTTPStatus.UNPROCESSABLE_ENTITY, message)
        found = {str(item.get("pid")): self._store.dataset(str(item.get("pid"))) for item in listed}
        if missing := [pid for pid, dataset in found.items() if dataset is None]:
            message = f"Datasets with pid {', '.join(missing)} do not exist."
            raise usual_error(HTTPStatus.UNPROCESSABLE_ENTITY, message)
        self._refuse_unknown_files(listed)
        datasets = [dataset for dataset in found.values() if dataset is not None]
        if lifecycle and not all(dataset["datasetlifecycle"][lifecycle] for dataset in datasets):
            raise _bad(f"Invalid request. Invalid value for 'datasetlifecycle.{lifecycle}'")
        return datasets

    def _refuse_unknown_files(self, listed: list[JsonObject]) -> None:
        absent = []
        for item in listed:
            blocks = self._store.origdatablocks(item["pid"])
            known = {file["path"] for block in blocks for file in block["dataFileList"]}
            if unknown := [name for name in item.get("files", []) if name not in known]:
                absent.append({"pid": item["pid"], "nonExistFiles": unknown})
        if absent:
            raise ApiError(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                {
                    "message": "At least one requested file could not be found.",
                    "error": json.dumps(absent, separators=(",", ":")),
                },
            )


def _bad(message: str) -> ApiError:
    return ApiError(HTTPStatus.BAD_REQUEST, {"status": int(HTTPStatus.BAD_REQUEST), "message": message})


def _may_read(account: Account, job: JsonObject) -> bool:
    mine = job.get("ownerUser") == account.username or account.owns(job.get("ownerGroup"))
    return mine or account.may_administer


def _new_job(body: JsonObject, account: Account) -> JsonObject:
    identifier, instant = str(uuid.uuid4()), now()
    owner: dict[str, Any] = {"ownerUser": body["ownerUser"]} if body.get("ownerUser") else {}
    return {
        "createdBy": account.username,
        "updatedBy": account.username,
        "createdAt": instant,
        "updatedAt": instant,
        "ownerGroup": body.get("ownerGroup", ""),
        "accessGroups": [],
        "isPublished": False,
        "_id": identifier,
        "id": identifier,
        **owner,
        "type": body["type"],
        "statusCode": "jobSubmitted",
        "statusMessage": "Job submitted.",
        "jobParams": body["jobParams"],
        "contactEmail": body.get("contactEmail") or account.email,
        "configVersion": "test 1",
        "jobResultObject": {},
        "__v": 0,
    }


def _stored_name(name: str) -> str:
    first, dot, rest = name.partition(".")
    if name == "jobParams.username":
        return "ownerUser"
    return f"{_V3_NAMES.get(first, first)}{dot}{rest}"


def _of_v3(job: JsonObject) -> JsonObject:
    params = dict(job["jobParams"])
    listed = params.pop("datasetList", None)
    shown = {
        "_id": job["_id"],
        "id": job["id"],
        **{name: job[stored] for name, stored in _V3_NAMES.items()},
        "type": job["type"],
        "jobParams": {"username": job.get("ownerUser"), **params},
        "jobResultObject": job["jobResultObject"],
    }
    return shown if listed is None else {**shown, "datasetList": listed}
