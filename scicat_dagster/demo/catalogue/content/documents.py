"""What the server makes of an accepted body: defaults, generated ids, dates in UTC, mirrored fields.

Here belong: one function per resource from a posted body to the stored document, the change of a dataset,
and the mark on metadata that kills the real server. Whether a body is accepted is decided in ``validation``
and ``app``.
"""

import secrets
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from scicat_dagster.demo.catalogue.content.answers import JsonObject
from scicat_dagster.demo.catalogue.content.dates import now, stored_form
from scicat_dagster.demo.catalogue.content.dialects import Dialect
from scicat_dagster.demo.catalogue.content.units import with_si

PID_PREFIX = "20.500.12269"

_DATASET_DATES = ("creationTime", "startTime", "endTime")
_MIRRORED = (
    ("principalInvestigator", "principalInvestigators"),
    ("proposalId", "proposalIds"),
    ("sampleId", "sampleIds"),
    ("instrumentId", "instrumentIds"),
)
_SINGULAR = frozenset(singular for singular, _ in _MIRRORED)


def new_dataset(body: JsonObject, username: str, dialect: Dialect) -> JsonObject:
    """The stored dataset for a posted one; source: the recorded answers to ``POST /datasets``."""
    instant = now()
    pid = body.get("pid") or f"{PID_PREFIX}/{uuid.uuid4()}"
    folder = _folder(body["sourceFolder"])
    defaults = {
        "accessGroups": [],
        "size": 0,
        "packedSize": 0,
        "numberOfFiles": 0,
        "numberOfFilesArchived": 0,
        "keywords": [],
        "datasetName": "/".join(folder.strip("/").split("/")[-2:]),
        "classification": "IN=medium,AV=low,CO=low",
        "isPublished": False,
        "techniques": [],
        "sharedWith": [],
        "relationships": [],
        "datasetlifecycle": {},
        "scientificMetadata": {},
        "version": "3",
        "inputDatasets": [],
        "usedSoftware": [],
    }
    sent = _with_defaults(body, defaults)
    document = {
        **sent,
        "pid": pid,
        "sourceFolder": folder,
        "techniques": [{**technique, "_id": _object_id()} for technique in sent["techniques"]],
        "datasetlifecycle": {**_lifecycle(instant), **sent["datasetlifecycle"]},
        "scientificMetadata": with_si(sent["scientificMetadata"]),
        "createdBy": username,
        "updatedBy": username,
        "createdAt": instant,
        "updatedAt": instant,
        "_id": pid,
        "__v": 0,
    }
    if "investigator" in document:
        investigator = document.pop("investigator")
        document.setdefault("principalInvestigator", investigator)
    document["relationships"] = [_relationship(item, dialect) for item in document["relationships"]]
    given_by_v3 = "principalInvestigator" in body
    return _mirrored(_dated(document, _DATASET_DATES), dialect.empty_list if given_by_v3 else [])


def changed_dataset(document: JsonObject, change: JsonObject, username: str) -> JsonObject:
    """The dataset after a ``PATCH``: each field sent replaces the stored one whole."""
    change = dict(change)
    if "sourceFolder" in change and change["sourceFolder"] is not None:
        change["sourceFolder"] = _folder(change["sourceFolder"])
    if isinstance(change.get("scientificMetadata"), dict):
        change["scientificMetadata"] = with_si(change["scientificMetadata"])
    if isinstance(change.get("techniques"), list):
        change["techniques"] = [{"_id": _object_id(), **technique} for technique in change["techniques"]]
    if isinstance(change.get("datasetlifecycle"), dict):
        change["datasetlifecycle"] = {**document["datasetlifecycle"], **change["datasetlifecycle"]}
    changed = {**document, **_dated(change, _DATASET_DATES), "updatedBy": username, "updatedAt": now()}
    return _mirrored(changed, document["sampleIds"][:1] if None in document["sampleIds"] else [])


def changed_by_next_version(document: JsonObject, change: JsonObject, username: str) -> JsonObject:
    """The same after a ``PATCH`` of API v4, whose lists take the place of v3's single values."""
    replaced = {singular for singular, plural in _MIRRORED if plural in change}
    kept = {name: value for name, value in document.items() if name not in replaced}
    return changed_dataset(kept, change, username)


def next_version_of(document: JsonObject) -> JsonObject:
    """A dataset as API v4 shows it."""
    return {name: value for name, value in document.items() if name not in _SINGULAR}


def just_posted(document: JsonObject) -> JsonObject:
    """A dataset as v3 answers who has posted it: without the single values that it does not have."""
    absent = {name for name in _SINGULAR if document.get(name) is None}
    return {name: value for name, value in document.items() if name not in absent}


def read_by_v3(document: JsonObject, dialect: Dialect) -> JsonObject:
    """A dataset as v3 answers a request for it."""
    if document["type"] != "derived" or dialect.names_investigators_of_derived:
        return document
    renamed = {name: value for name, value in document.items() if name != "principalInvestigator"}
    return {**renamed, "investigator": document.get("principalInvestigator")}


def unnamed_block(document: JsonObject) -> JsonObject:
    """A block as API v4 lists it: without the second of the two names that its parts have."""
    files = [_without_id(file) for file in document["dataFileList"]]
    return {**_without_id(document), "dataFileList": files}


def _without_id(document: JsonObject) -> JsonObject:
    return {name: value for name, value in document.items() if name != "id"}


def touched(document: JsonObject, username: str) -> JsonObject:
    """A document that somebody has just changed."""
    return {**document, "updatedBy": username, "updatedAt": now()}


def _relationship(item: JsonObject, dialect: Dialect) -> JsonObject:
    if not dialect.has_new_relationships:
        return item
    defaults = {"identifierType": "Other", "relationship": "IsReferencedBy", "entityType": "Other"}
    return {**_with_defaults(item, defaults), "_id": _object_id()}


def as_written(document: JsonObject, dialect: Dialect) -> JsonObject:
    """A dataset as v4 answers who writes it, and v3 who deletes it; older servers name some ids twice."""
    shown = next_version_of(document)
    if not dialect.is_4:
        return shown
    shown["techniques"] = [{**technique, "id": technique["_id"]} for technique in document["techniques"]]
    return {**shown, "id": document["_id"]}


def with_encoded_names(value: Any) -> Any:
    """Metadata with its names percent-encoded, those in dictionaries as well, but not those in lists."""
    if not isinstance(value, dict):
        return value
    return {_encoded(name): with_encoded_names(inner) for name, inner in value.items()}


def _encoded(name: str) -> str:
    return quote(name, safe="!~*'()").replace(".", "%2E")


def deadly_metadata(metadata: Any) -> str | None:
    """Why this metadata kills the real server once it is stored, or None where it does not.

    The real server answers 201 and then dies while it indexes the entries, so an accepted answer proves
    nothing.
    """
    for name, entry in metadata.items() if isinstance(metadata, dict) else ():
        if name == "":
            return "an entry has an empty name"
        if entry is None:
            return f"the entry {name!r} is null"
        if isinstance(entry, dict) and isinstance(entry.get("human_name"), list | dict):
            return f"the human_name of {name!r} is a {type(entry['human_name']).__name__}"
    return None


def refused_metadata(metadata: Any) -> JsonObject | None:
    """The body of the 500 with which newer servers answer to some metadata, or None where they do not.

    The dataset is stored all the same.
    """
    for entry in metadata.values() if isinstance(metadata, dict) else ():
        if entry is None:
            return {}
        name = entry.get("human_name") if isinstance(entry, dict) else None
        if isinstance(name, dict):
            path = "humanReadableName"
            said = f'Cast to string failed for value "{name}" (type Object) at path "{path}"'
            return {
                "stringValue": f'"{name}"',
                "valueType": "Object",
                "kind": "string",
                "value": name,
                "path": path,
                "reason": None,
                "name": "CastError",
                "message": said,
            }
    return None


def new_origdatablock(body: JsonObject, dataset: JsonObject, username: str) -> JsonObject:
    """The stored block for a posted one; its groups are the dataset's, whatever the body says."""
    files = []
    for file in body["dataFileList"]:
        file_id = _object_id()
        files.append({**_dated(file, ("time",)), "_id": file_id, "id": file_id})
    document = {
        "ownerGroup": dataset["ownerGroup"],
        "accessGroups": dataset["accessGroups"],
        "isPublished": False,
        "datasetId": body["datasetId"],
        "size": body["size"],
        **({"chkAlg": body["chkAlg"]} if "chkAlg" in body else {}),
        "dataFileList": files,
    }
    return _identified(document, str(uuid.uuid4()), username)


def new_attachment(body: JsonObject, pid: str, username: str) -> JsonObject:
    """The stored attachment for one posted to the dataset ``pid``."""
    document = {**_with_defaults(body, {"accessGroups": [], "isPublished": False}), "datasetId": pid}
    return _identified(document, str(uuid.uuid4()), username)


_NEXT_ATTACHMENT = ("aid", "relationships")


def new_next_attachment(body: JsonObject, username: str) -> JsonObject:
    """The stored attachment for one posted by API v4, which says itself what it is attached to."""
    aid = body.get("aid") or str(uuid.uuid4())
    related = [{"relationType": "is attached to", **item} for item in body.get("relationships") or ()]
    sent = {**_with_defaults(body, {"accessGroups": []}), "aid": aid, "relationships": related}
    return _identified(sent, aid, username)


def next_attachment_of(document: JsonObject) -> JsonObject:
    """An attachment as API v4 shows it, also one that v3 attached to a dataset."""
    if "relationships" in document:
        return document
    shown = {name: value for name, value in document.items() if name != "datasetId"}
    target = {"targetId": document["datasetId"], "targetType": "dataset", "relationType": "is attached to"}
    return {**shown, "aid": document["_id"], "relationships": [target]}


def attachment_of_v3(document: JsonObject) -> JsonObject:
    """An attachment of a dataset as v3 shows it, also one that API v4 attached."""
    if "datasetId" in document:
        return document
    shown = {name: value for name, value in document.items() if name not in _NEXT_ATTACHMENT}
    return {**shown, "datasetId": attached_to(document)}


def attached_to(document: JsonObject) -> str:
    """The pid of the dataset that an attachment is attached to; empty where it is another thing."""
    if "datasetId" in document:
        return str(document["datasetId"])
    targets = (item["targetId"] for item in document["relationships"] if item["targetType"] == "dataset")
    return str(next(targets, ""))


def new_proposal(body: JsonObject, username: str) -> JsonObject:
    """The stored proposal for a posted one."""
    defaults = {
        "accessGroups": [],
        "isPublished": False,
        "MeasurementPeriodList": [],
        "metadata": {},
        "parentProposalId": None,
        "type": "Default Proposal",
        "instrumentIds": [],
        "numberOfDatasets": 0,
    }
    sent = _with_defaults(body, defaults)
    periods = [{**_dated(period, ("start", "end")), "id": None} for period in sent["MeasurementPeriodList"]]
    document = {**_dated(sent, ("startTime", "endTime")), "MeasurementPeriodList": periods}
    return _identified(document, body["proposalId"], username)


def new_instrument(body: JsonObject, username: str, pid: str | None = None) -> JsonObject:
    """The stored instrument for a posted one; the server makes the pid unless the caller insists on one."""
    pid = pid or str(uuid.uuid4())
    return _identified({**_with_defaults(body, {"customMetadata": {}}), "pid": pid}, pid, username)


def new_sample(body: JsonObject, username: str, dialect: Dialect = Dialect.V4X) -> JsonObject:
    """The stored sample for a posted one."""
    characteristics: JsonObject = {"sampleCharacteristics": {}} if dialect.is_4 else {}
    sent = _with_defaults(body, {"accessGroups": [], "isPublished": False, **characteristics})
    sample_id = sent.get("sampleId") or str(uuid.uuid4())
    document = {**sent, "sampleId": sample_id}
    if "sampleCharacteristics" in sent:
        document["sampleCharacteristics"] = with_si(sent["sampleCharacteristics"])
    stored = _identified(document, sample_id, username)
    del stored["id"]
    return stored


def _identified(document: JsonObject, identifier: str, username: str) -> JsonObject:
    instant = now()
    return {
        **document,
        "createdBy": username,
        "updatedBy": username,
        "createdAt": instant,
        "updatedAt": instant,
        "_id": identifier,
        "__v": 0,
        "id": identifier,
    }


def _mirrored(document: JsonObject, empty: list[Any]) -> JsonObject:
    """Let each single-valued field of this API version and its list of the next one say the same."""
    mirrored = dict(document)
    for singular, plural in _MIRRORED:
        if mirrored.get(singular) is not None:
            mirrored[plural] = [mirrored[singular]]
        elif mirrored.get(plural) and mirrored[plural] != empty:
            mirrored[singular] = mirrored[plural][0]
        else:
            mirrored.pop(singular, None)
            mirrored[plural] = list(empty)
            if empty:
                mirrored[singular] = None
    return mirrored


def _dated(document: JsonObject, names: Iterable[str]) -> JsonObject:
    dated = dict(document)
    for name in names:
        if name in dated:
            dated[name] = stored_form(dated[name])
    return dated


def _with_defaults(body: JsonObject, defaults: JsonObject) -> JsonObject:
    """The body over the defaults; null is stored as null, but only where there is no default."""
    return {
        **defaults,
        **{name: value for name, value in body.items() if value is not None or name not in defaults},
    }


def _lifecycle(instant: str) -> JsonObject:
    retention = f"{datetime.now(UTC).year + 10}-12-31T00:00:00.000Z"
    return {
        "archivable": True,
        "retrievable": False,
        "publishable": False,
        "dateOfDiskPurging": instant,
        "publishedOn": instant,
        "isOnCentralDisk": True,
        "archiveStatusMessage": "datasetCreated",
        "retrieveStatusMessage": "",
        "retrieveIntegrityCheck": False,
        "_id": _object_id(),
        "archiveRetentionTime": retention,
        "dateOfPublishing": retention,
    }


def _folder(text: str) -> str:
    return text.rstrip("/") or "/"


def _object_id() -> str:
    return secrets.token_hex(12)
