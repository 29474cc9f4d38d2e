"""What differs between the versions of SciCat's API, and between generations of the server behind it.

Everything else speaks one model: a dataset has the field names of API v3, and beside ``proposalId`` a
``proposalIds`` where the schema gave a list of several; relationships have their new form. A dialect turns
that into a request and an answer back into it. Which dialect a server is spoken to with is decided by
``client``, from the configuration and from what the server has.

Source: SciCat's DTOs of both versions, and the recorded answers of a 4.27, of 5.2.1 and a version after it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote, unquote

from pydantic import JsonValue

from scicat_dagster.dataset.jobs import Job
from scicat_dagster.errors import Notice
from scicat_dagster.schemas.models import V4_LIST_FIELDS
from scicat_dagster.scicat.models import DatasetRecord
from scicat_dagster.scicat.queries import filter_text

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"

Body = dict[str, JsonValue]

SCHEMA_LINK = "scientificMetadataSchema"
"""The address of the JSON Schema by which the server validates the scientific metadata."""

_SUMS = ("size", "numberOfFiles")
_UNKNOWN_TO_V3_DERIVED = (
    "creationLocation",
    "startTime",
    "endTime",
    "dataFormat",
    "sampleId",
    "instrumentId",
)


@dataclass(frozen=True)
class Attachment:
    """A picture to be attached to the dataset with a pid; ``thumbnail`` is a data URL."""

    dataset: str
    thumbnail: str
    caption: str
    owner_group: str
    access_groups: tuple[str, ...] = ()
    id: str = ""
    """The one to be given where the API takes one, which then refuses a second attachment of that id."""


@dataclass(frozen=True)
class Change:
    """The body of a PATCH and its content type."""

    body: Body
    content_type: str = JSON


@dataclass(frozen=True)
class Dialect(ABC):
    """One version of the API on one generation of the server."""

    version: ClassVar[int]
    is_since_4_28: bool = True
    """Whether relationships have identifiers, and not pids only, and a dataset may name the JSON Schema of
    its metadata (which earlier servers refuse; by v3 all before 4.26).
    """

    @abstractmethod
    def new_dataset(self, dataset: Mapping[str, JsonValue]) -> Body:
        """The body that creates a dataset."""

    @abstractmethod
    def change(self, changes: Mapping[str, JsonValue], record: DatasetRecord) -> Change:
        """The request that gives a dataset these fields; its scientific metadata becomes what is given."""

    @abstractmethod
    def read_dataset(self, answer: JsonValue) -> JsonValue:
        """A dataset of an answer in the names of the model; what is not a dataset stays as it is."""

    def refusal(self, dataset: Mapping[str, JsonValue]) -> str:  # noqa: ARG002 - v4 takes any.
        """Why this API cannot hold a dataset at all; empty where it can."""
        return ""

    def unknown(self, dataset: Mapping[str, JsonValue]) -> frozenset[str]:
        """The fields of a dataset that this server does not have."""
        return frozenset() if self.is_since_4_28 else frozenset({SCHEMA_LINK} & dataset.keys())

    def left_out(self, dataset: Mapping[str, JsonValue]) -> Iterator[Notice]:
        """What of a dataset this API has no place for."""
        if SCHEMA_LINK in self.unknown(dataset):
            reason = "A SciCat before 4.28 may refuse this field: it is left out."
            yield Notice(subject=f"dataset.{SCHEMA_LINK}", reason=reason)

    @abstractmethod
    def among(self, values: Sequence[JsonValue]) -> JsonValue:
        """The condition that a field of a dataset has one of these values."""

    @abstractmethod
    def new_job(self, job: Job) -> Body:
        """The body that posts a job."""

    @abstractmethod
    def jobs_like(self, job: Job, place: Sequence[str], value: str) -> str:
        """What follows the address of jobs to ask for those of a type with a value somewhere in jobParams."""

    @abstractmethod
    def job_params(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The jobParams of a job in an answer, as v4 has them."""

    @abstractmethod
    def attachments_of(self, pid: str, places: tuple[str, str]) -> tuple[str, Body | None]:
        """The address of a dataset's attachments, and the conditions for their list where it needs some.

        ``places`` are the addresses of the datasets and of the attachments.
        """

    @abstractmethod
    def new_attachment(self, attachment: Attachment) -> Body:
        """The body that attaches a picture to a dataset."""

    @abstractmethod
    def changed_attachment(self, attachment: Attachment) -> Body | None:
        """What gives an attachment another picture as a PATCH; None where it has to be attached anew."""

    def _picture(self, attachment: Attachment) -> Body:
        return {
            "thumbnail": attachment.thumbnail,
            "caption": attachment.caption,
            "ownerGroup": attachment.owner_group,
            "accessGroups": list(attachment.access_groups),
        }

    def _relationships(self, value: JsonValue) -> JsonValue:
        if self.is_since_4_28 or not isinstance(value, list):
            return value
        return [
            {"pid": item.get("identifier"), "relationship": item.get("relationship", "IsReferencedBy")}
            if isinstance(item, dict)
            else item
            for item in value
        ]

    def _adapted(self, fields: Mapping[str, JsonValue]) -> Body:
        unknown = Dialect.unknown(self, fields)
        adapted = {name: value for name, value in fields.items() if name not in unknown}
        if "relationships" in adapted:
            adapted["relationships"] = self._relationships(adapted["relationships"])
        return adapted


class V3(Dialect):
    """API v3: single values, whole replacement, `inq`."""

    version = 3

    def new_dataset(self, dataset: Mapping[str, JsonValue]) -> Body:
        body = self._single(dataset)
        _give_name(body)
        if dataset.get("type") != "derived":
            return body
        # A derived dataset has an investigator, and no field of an instrument.
        body["investigator"] = body.pop("principalInvestigator", None)
        return {name: value for name, value in body.items() if name not in _UNKNOWN_TO_V3_DERIVED}

    def change(self, changes: Mapping[str, JsonValue], record: DatasetRecord) -> Change:
        body = self._single(changes)
        if (record.model_extra or {}).get("type") == "derived" and "principalInvestigator" in body:
            body["investigator"] = body.pop("principalInvestigator")
        return Change(body)

    def read_dataset(self, answer: JsonValue) -> JsonValue:
        # Newer servers answer with the lists as well, which cannot be written here.
        if not isinstance(answer, dict):
            return answer
        read = {name: value for name, value in _related(answer).items() if name not in V4_LIST_FIELDS}
        if read.get("type") == "derived" and read.get("investigator"):
            # 4.5 has no other name for it in a derived dataset.
            read.setdefault("principalInvestigator", read["investigator"])
        return read

    def refusal(self, dataset: Mapping[str, JsonValue]) -> str:
        kind = dataset.get("type")
        return (
            "" if kind in {None, "raw", "derived"} else f"SciCat's v3 API has no datasets of the type {kind}."
        )

    def unknown(self, dataset: Mapping[str, JsonValue]) -> frozenset[str]:
        if dataset.get("type") != "derived":
            return super().unknown(dataset)
        return super().unknown(dataset) | (dataset.keys() & set(_UNKNOWN_TO_V3_DERIVED))

    def left_out(self, dataset: Mapping[str, JsonValue]) -> Iterator[Notice]:
        yield from super().left_out(dataset)
        for plural, singular in V4_LIST_FIELDS.items():
            given = dataset.get(plural)
            # All investigators are in the one text.
            if isinstance(given, list) and singular != "principalInvestigator":
                others = ", ".join(str(item) for item in given if item != dataset.get(singular))
                reason = (
                    f"SciCat's v3 API has one value here: {dataset.get(singular)} is sent, without {others}."
                )
                yield Notice(subject=f"dataset.{singular}", reason=reason)
        if dataset.get("type") == "derived":
            for name in _UNKNOWN_TO_V3_DERIVED:
                if name in dataset:
                    reason = "SciCat's v3 API has no such field in a derived dataset: it is left out."
                    yield Notice(subject=f"dataset.{name}", reason=reason)

    def among(self, values: Sequence[JsonValue]) -> JsonValue:
        if len(values) == 1 and not isinstance(values[0], str | list | dict):
            # Servers up to 4.16, and some after it, lose what is not a text in a list.
            return values[0]
        # The server turns a plain text that looks like a date into one, which never matches.
        return {"inq": list(values)}

    def new_job(self, job: Job) -> Body:
        params = dict(job.jobParams)
        datasets = params.pop("datasetList", [])
        if job.ownerUser:
            params["username"] = job.ownerUser
        if job.ownerGroup:
            params["ownerGroup"] = job.ownerGroup
        body: Body = {"type": job.type, "datasetList": datasets, "jobParams": params}
        return {**body, "emailJobInitiator": job.contactEmail} if job.contactEmail else body

    def jobs_like(self, job: Job, place: Sequence[str], value: str) -> str:
        # The list takes no filter at all here.
        fields, limits = quote(json.dumps(_job_conditions(job, place, value))), quote('{"limit": 1000}')
        return f"/fullquery?fields={fields}&limits={limits}"

    def job_params(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        params = dict(answer.get("jobParams") or {})
        for added in ("username", "ownerGroup"):
            params.pop(added, None)
        return {**params, "datasetList": answer["datasetList"]} if answer.get("datasetList") else params

    def attachments_of(self, pid: str, places: tuple[str, str]) -> tuple[str, Body | None]:
        return f"{places[0]}/{quote(pid, safe='')}/attachments", None

    def new_attachment(self, attachment: Attachment) -> Body:
        return self._picture(attachment)

    def changed_attachment(self, attachment: Attachment) -> None:  # noqa: ARG002 - v4 needs it
        # A PUT leaves it without its dataset: seen with 5.2.1, and in the sources since 5.0.
        return None

    def _single(self, fields: Mapping[str, JsonValue]) -> Body:
        return {name: value for name, value in self._adapted(fields).items() if name not in V4_LIST_FIELDS}


class V4(Dialect):
    """API v4: lists, merge patches, `$in`."""

    version = 4

    def new_dataset(self, dataset: Mapping[str, JsonValue]) -> Body:
        body = self._lists(dataset)
        _give_name(body)
        return body

    def change(self, changes: Mapping[str, JsonValue], record: DatasetRecord) -> Change:
        # Servers up to 5.2.1 reset what is not sent of these.
        sums: Body = {name: getattr(record, name) for name in _SUMS if getattr(record, name) is not None}
        body = sums | self._lists(changes)
        metadata = changes.get("scientificMetadata")
        if not isinstance(metadata, dict):
            return Change(body, MERGE_PATCH)
        if _holds_null(metadata) or (record.model_extra or {}).get(SCHEMA_LINK) or SCHEMA_LINK in changes:
            # In a merge patch null would remove the value, and the server would validate the patch alone. A
            # plain one replaces the metadata whole.
            return Change(body)
        return Change({**body, "scientificMetadata": _difference(metadata, record)}, MERGE_PATCH)

    def read_dataset(self, answer: JsonValue) -> JsonValue:
        if not isinstance(answer, dict):
            return answer
        read = _related(answer)
        if "scientificMetadata" in read:
            read["scientificMetadata"] = _with_plain_names(read["scientificMetadata"])
        for plural, singular in V4_LIST_FIELDS.items():
            listed = read.pop(plural, None)
            items: list[JsonValue] = []
            if isinstance(listed, list):
                items = [item for item in listed if item not in (None, "")]
            if items:
                read[plural] = items
                is_text = singular == "principalInvestigator"
                read[singular] = ", ".join(str(item) for item in items) if is_text else items[0]
        return read

    def among(self, values: Sequence[JsonValue]) -> JsonValue:
        return {"$in": list(values)}

    def new_job(self, job: Job) -> Body:
        return {name: value for name, value in job.model_dump(mode="json").items() if value != ""}

    def jobs_like(self, job: Job, place: Sequence[str], value: str) -> str:
        return f"?filter={quote(filter_text(_job_conditions(job, place, value)))}"

    def job_params(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        return dict(answer.get("jobParams") or {})

    def attachments_of(self, pid: str, places: tuple[str, str]) -> tuple[str, Body | None]:
        return places[1], {"relationships.targetId": pid}

    def new_attachment(self, attachment: Attachment) -> Body:
        return {
            **self._picture(attachment),
            **({"aid": attachment.id} if attachment.id else {}),
            "isPublished": False,
            "relationships": [
                {"targetId": attachment.dataset, "targetType": "dataset", "relationType": "is attached to"}
            ],
        }

    def changed_attachment(self, attachment: Attachment) -> Body:
        return {"thumbnail": attachment.thumbnail, "caption": attachment.caption}

    def _lists(self, fields: Mapping[str, JsonValue]) -> Body:
        body = self._adapted(fields)
        for plural, singular in V4_LIST_FIELDS.items():
            value = body.pop(singular, None)
            if value is not None:
                body.setdefault(plural, [value])
        return body


def _give_name(body: Body) -> None:
    """Give a dataset the name that most servers give it by v3; by v4, and by v3 of 4.16, it is mandatory."""
    folder = body.get("sourceFolder")
    if isinstance(folder, str) and folder:
        body.setdefault("datasetName", "/".join(folder.strip("/").split("/")[-2:]) or "/")


def _related(answer: Mapping[str, JsonValue]) -> Body:
    """The answer with its relationships in the new form, whichever the server has."""
    related = answer.get("relationships")
    if not isinstance(related, list):
        return dict(answer)
    return {**answer, "relationships": [_new_form(item) for item in related]}


def _new_form(item: JsonValue) -> JsonValue:
    if not isinstance(item, dict) or "identifier" in item or "pid" not in item:
        return item
    return {
        "identifier": item["pid"],
        "identifierType": "Local",
        "relationship": item.get("relationship"),
        "entityType": "Dataset",
    }


def _with_plain_names(value: JsonValue) -> JsonValue:
    """Metadata with the names that were posted. Servers keep them percent-encoded, and v4 shows them so."""
    if not isinstance(value, dict):
        return value
    return {unquote(name): _with_plain_names(inner) for name, inner in value.items()}


def _job_conditions(job: Job, place: Sequence[str], value: str) -> Body:
    return {"type": job.type, ".".join(("jobParams", *place)): value}


def _difference(metadata: Mapping[str, JsonValue], record: DatasetRecord) -> Body:
    """The merge patch from a dataset's scientific metadata to another, with each changed entry whole.

    The server refuses a value without its unit. What goes is null, also the SI values: it makes them anew,
    and would otherwise keep those of the value that was.
    """
    known = record.scientificMetadata
    patch: Body = {name: None for name in known if name not in metadata}
    for name, entry in metadata.items():
        if name not in known or known[name] != entry:
            patch[name] = _patch(entry, known.get(name))
    return patch


def _patch(new: JsonValue, old: Any) -> JsonValue:
    if not (isinstance(new, dict) and isinstance(old, dict)):
        return new
    gone: Body = {name: None for name in old if name not in new}
    return gone | {name: _patch(value, old.get(name)) for name, value in new.items()}


def _holds_null(value: JsonValue) -> bool:
    if isinstance(value, dict):
        return any(_holds_null(item) for item in value.values())
    return value is None


DIALECTS: Mapping[int, type[Dialect]] = {3: V3, 4: V4}
