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

from scicat_dagster.demo.catalogue.content.answers import JsonObject
from scicat_dagster.demo.catalogue.content.dates import now, stored_form
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


def new_dataset(body: JsonObject, username: str) -> JsonObject:
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
    return _mirrored(_dated(document, _DATASET_DATES))


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
    return _mirrored(changed)


def deleted_dataset(document: JsonObject) -> JsonObject:
    """The dataset as the answer to ``DELETE`` shows it: with the field names of the next API version."""
    shown = {name: value for name, value in document.items() if name not in _SINGULAR}
    shown["techniques"] = [{**technique, "id": technique["_id"]} for technique in document["techniques"]]
    return {**shown, "id": document["_id"]}


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


def new_sample(body: JsonObject, username: str) -> JsonObject:
    """The stored sample for a posted one."""
    sent = _with_defaults(body, {"accessGroups": [], "isPublished": False, "sampleCharacteristics": {}})
    sample_id = sent.get("sampleId") or str(uuid.uuid4())
    document = {
        **sent,
        "sampleCharacteristics": with_si(sent["sampleCharacteristics"]),
        "sampleId": sample_id,
    }
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


def _mirrored(document: JsonObject) -> JsonObject:
    """Let each single-valued field of this API version and its list of the next one say the same."""
    mirrored = dict(document)
    for singular, plural in _MIRRORED:
        if mirrored.get(singular) is not None:
            mirrored[plural] = [mirrored[singular]]
        elif mirrored.get(plural):
            mirrored[singular] = mirrored[plural][0]
        else:
            mirrored.pop(singular, None)
            mirrored[plural] = []
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
