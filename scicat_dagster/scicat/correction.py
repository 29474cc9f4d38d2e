"""Bringing a dataset up to date after its schema was corrected: what differs, and changing only that.

A schema owns what it gives a value to. Of that, some is left alone unless somebody asks for it: what people
edit in SciCat (``EDITED_BY_PEOPLE``), who may see the dataset (``RIGHTS``), and values that are others at
each execution. Some cannot be changed (``FIXED``), and some is the catalogue's own business
(``KEPT_BY_CATALOGUE``). Entries of the scientific metadata that the schema does not define belong to others:
they are named, and kept, unless somebody asks for them to be removed.

SciCat replaces the scientific metadata whole. So the dataset is read immediately before each change, the
entries of others are sent back as they were, and the change is refused by the server where somebody else was
faster. (Servers from before September 2025 know no such condition; there the time between the two
requests is a gap.)
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from scicat_dagster.dataset.build import LARGEST_BODY_BYTES, BuiltDataset
from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.schemas.models import (
    DATASET_FIELDS,
    V4_LIST_FIELDS,
    Schema,
    ScicatVariable,
    ValueVariable,
)
from scicat_dagster.schemas.rendering import references
from scicat_dagster.scicat.client import ModifiedMeanwhileError, ScicatClient
from scicat_dagster.scicat.errors import RefusedError
from scicat_dagster.scicat.models import DatasetRecord, RegisteredDataset

EDITED_BY_PEOPLE = frozenset(
    {
        "datasetName", "description", "keywords", "comment", "dataQualityMetrics", "validationStatus",
        "classification", "license", "relationships",
    }
)  # fmt: skip
"""People edit these in SciCat, and nobody knows what they were before."""

RIGHTS = frozenset({"ownerGroup", "accessGroups", "instrumentGroup", "sharedWith"})
"""They decide who may see a dataset. Its origdatablocks keep the groups that it had when they were made."""

FIXED = {
    "pid": "SciCat never changes a pid.",
    "type": "SciCat never changes a type.",
    "sourceFolder": "The paths in the dataset's file list are relative to it.",
}
"""Why these cannot be changed."""

KEPT_BY_CATALOGUE = frozenset(
    {"size", "numberOfFiles", "packedSize", "numberOfFilesArchived", "isPublished", "datasetlifecycle"}
)
"""The server counts the files; archiving and publishing have ways of their own. These are not compared with
what a schema gives them; size and number of files are compared with the dataset's own origdatablocks."""

METADATA = "scientificMetadata"

_DATES = frozenset({"creationTime", "startTime", "endTime"})
_ADDED_BY_SERVER = frozenset({"valueSI", "unitSI"})
_OTHERS_EACH_TIME = ("now", "ingestor_run_id")
_ATTEMPTS = 3
_LONGEST_SHOWN = 120

Kind = Literal["change", "left alone", "cannot be changed"]


class Change(BaseModel):
    """A difference. ``field`` is a field of the dataset, or ``scientificMetadata.`` and the name of an entry.

    Of an entry only the parts that differ are shown, such as ``{"value": 3}``. None is nothing at all.
    """

    model_config = ConfigDict(frozen=True)

    field: str
    in_catalogue: JsonValue = None
    from_file: JsonValue = None
    kind: Kind = "change"
    reason: str = ""
    """Why it is left alone or cannot be changed."""

    def in_words(self) -> str:
        """The two values, shortened, and what is done about them."""
        values = f"{shortened(self.in_catalogue)} → {shortened(self.from_file)}"
        return values if self.kind == "change" else f"{values}  ({self.kind}: {self.reason})"


class Correction(BaseModel):
    """How a dataset of the catalogue differs from what its file and schema say today."""

    model_config = ConfigDict(frozen=True)

    pid: str
    changes: tuple[Change, ...] = ()

    @property
    def wanted(self) -> tuple[Change, ...]:
        """The differences that an update removes."""
        return tuple(change for change in self.changes if change.kind == "change")


def shortened(value: JsonValue) -> str:
    """A value of a difference, short enough for a table."""
    if value is None:
        return "nothing"
    if isinstance(value, dict) and set(value) == {"value"}:
        value = value["value"]
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def check_also(also: Collection[str]) -> None:
    """Make sure that fields which are to be touched in spite of everything can be.

    Raises
    ------
    PermanentError
        One of them is not such a field.
    """
    for name in also:
        reason = FIXED.get(name)
        if name in KEPT_BY_CATALOGUE:
            reason = "It is the catalogue's own."
        elif name not in DATASET_FIELDS and not name.startswith(f"{METADATA}."):
            reason = "A dataset has no such field."
        if reason is not None:
            raise PermanentError(
                f"{name} cannot be brought up to date. {reason}",
                remedy=f"Give one of {', '.join(sorted(EDITED_BY_PEOPLE | RIGHTS))}, or a field or "
                f"{METADATA}.NAME whose value is non-deterministic, or that the schema no longer defines.",
            )


def compare(
    built: BuiltDataset, schema: Schema, registered: RegisteredDataset, also: Collection[str] = ()
) -> Correction:
    """The differences between a dataset built anew and the one in the catalogue.

    Parameters
    ----------
    schema
        The one that it was built with.
    also
        Fields to change although they would be left alone. An entry that the schema no longer defines is
        removed.
    """
    varying = varying_fields(schema)
    record = registered.record
    found = [
        *_sums_that_differ(registered),
        *_fields_that_differ(built.dataset, record.model_dump(mode="json")),
        *_entries_that_differ(_metadata(built), record.scientificMetadata),
    ]
    judged = [_judged(change, varying, also) for change in found]
    return Correction(pid=record.pid, changes=(*judged, *_entries_of_others(built, schema, record, also)))


def apply(
    built: BuiltDataset, schema: Schema, pid: str, client: ScicatClient, also: Collection[str] = ()
) -> Correction:
    """Change what differs in the dataset ``pid``, and nothing else; the answer is what differed before.

    Raises
    ------
    PermanentError
        The server refuses the change, or keeps another value than the one that it was sent; or the dataset's
        metadata would harm the server if it was sent back.
    TransientError
        The server could not answer, or somebody else changes the dataset now. Calling again converges.
    """
    for _ in range(_ATTEMPTS):
        registered = _registered(pid, client)
        record = registered.record
        correction = compare(built, schema, registered, also)
        if not correction.wanted:
            return correction
        body = _body(built, record, correction)
        try:
            answer = client.update_dataset(record, body, unmodified_since=_updated_at(record))
        except ModifiedMeanwhileError:
            continue
        except TransientError:
            # The server may have made the change before it failed.
            if compare(built, schema, _registered(pid, client), also).wanted:
                raise
            return correction
        registered = _registered(pid, client)
        now = registered.record
        left = compare(built, schema, registered, also).wanted
        removed = {change.field for change in correction.wanted if _is_removed(change, built)}
        kept = {key for key in record.scientificMetadata if f"{METADATA}.{key}" not in removed}
        lost = kept - set(now.scientificMetadata)
        if not (left or lost):
            return correction
        named = ", ".join(sorted({f"{METADATA}.{key}" for key in lost} | {change.field for change in left}))
        raise _kept_otherwise(pid, named) if _same_version(now, answer) else _overwritten(pid, named)
    raise TransientError(
        f"The dataset {pid} was changed by somebody else each time when we were about to.",
        remedy="Nothing to do: it is tried again; see who changes it if it goes on.",
    )


# Differences


def _sums_that_differ(registered: RegisteredDataset) -> list[Change]:
    return [
        Change(field=name, in_catalogue=getattr(registered.record, name), from_file=value)
        for name, value in registered.wrong_sums.items()
    ]


def _fields_that_differ(ours: Mapping[str, JsonValue], theirs: Mapping[str, Any]) -> list[Change]:
    return [
        Change(field=name, in_catalogue=theirs.get(name), from_file=value)
        for name, value in ours.items()
        if name != METADATA
        and name not in KEPT_BY_CATALOGUE
        and _is_kept_as(name, ours, theirs)
        and not _same_field(name, value, theirs.get(name))
    ]


def _is_kept_as(name: str, ours: Mapping[str, JsonValue], theirs: Mapping[str, Any]) -> bool:
    """Whether this is how the server keeps the field: as a list where the API has lists, or as one value."""
    if name in V4_LIST_FIELDS:
        return name in theirs
    return not any(
        plural in ours and plural in theirs for plural, one in V4_LIST_FIELDS.items() if one == name
    )


def _same_field(name: str, ours: JsonValue, theirs: Any) -> bool:
    if name in _DATES:
        return _instant(ours) is not None and _instant(ours) == _instant(theirs)
    if name == "sourceFolder":
        return str(ours).rstrip("/") == str(theirs).rstrip("/")
    return _holds(theirs, ours)


def _entries_that_differ(ours: Mapping[str, dict[str, Any]], theirs: Mapping[str, Any]) -> list[Change]:
    found = []
    for key, entry in ours.items():
        known = theirs.get(key)
        parts = [
            name
            for name, value in entry.items()
            if not isinstance(known, dict) or name not in known or not _equal(known[name], value)
        ]
        if parts:
            in_catalogue = {name: known.get(name) for name in parts} if isinstance(known, dict) else known
            from_file = {name: entry[name] for name in parts}
            found.append(Change(field=f"{METADATA}.{key}", in_catalogue=in_catalogue, from_file=from_file))
    return found


def _entries_of_others(
    built: BuiltDataset, schema: Schema, record: DatasetRecord, also: Collection[str]
) -> list[Change]:
    assigned = {
        item.machine_name for item in schema.items.values() if item.field_type == "scientific_metadata"
    }
    ours = _metadata(built)
    found = []
    for key, entry in record.scientificMetadata.items():
        if key not in ours:
            change = Change(field=f"{METADATA}.{key}", in_catalogue=_without_si(entry))
            if key in assigned:
                reason = "It could not be built now."
            elif change.field in also:
                reason = ""
            else:
                reason = "The schema does not define it."
            found.append(
                change.model_copy(update={"kind": "left alone", "reason": reason}) if reason else change
            )
    return found


def _is_removed(change: Change, built: BuiltDataset) -> bool:
    """Whether a change takes an entry of the scientific metadata away."""
    key = change.field.removeprefix(f"{METADATA}.")
    return change.field != key and key not in _metadata(built)


def _judged(change: Change, varying: Collection[str], also: Collection[str]) -> Change:
    if change.field in FIXED:
        return change.model_copy(update={"kind": "cannot be changed", "reason": FIXED[change.field]})
    # Nobody has edited what is not there.
    if change.field in also or change.in_catalogue is None:
        return change
    if change.field in varying:
        reason = "Its value is non-deterministic."
    elif change.field in EDITED_BY_PEOPLE:
        reason = "People edit it in SciCat."
    elif change.field in RIGHTS:
        reason = "It decides who may see the dataset."
    else:
        return change
    return change.model_copy(update={"kind": "left alone", "reason": reason})


def varying_fields(schema: Schema) -> set[str]:
    """The fields whose value is another one at each execution, because it comes from the time or the run."""
    names = set(_OTHERS_EACH_TIME)
    for name, variable in schema.variables.items():
        template = None
        if isinstance(variable, ScicatVariable):
            template = variable.url
        elif isinstance(variable, ValueVariable):
            template = variable.value
        if names.intersection(references(template, names)):
            names.add(name)
        else:
            # The schema's own takes the place of a built-in one.
            names.discard(name)
    return {
        assignment.fills if assignment.field_type == "high_level" else f"{METADATA}.{assignment.machine_name}"
        for assignment in schema.assignments.values()
        if names.intersection(references(assignment.value, names))
    }


# Equality, as far as the server lets it be seen


def _holds(theirs: Any, ours: JsonValue) -> bool:
    """Whether the server's value is ours, but for what it adds to objects, such as their ``_id``."""
    if isinstance(ours, dict):
        return isinstance(theirs, dict) and all(
            name in theirs and _holds(theirs[name], value) for name, value in ours.items()
        )
    if isinstance(ours, list):
        return (
            isinstance(theirs, list)
            and len(theirs) == len(ours)
            and all(_holds(other, own) for other, own in zip(theirs, ours, strict=True))
        )
    return _equal(theirs, ours)


def _equal(theirs: Any, ours: JsonValue) -> bool:
    return json.dumps(_as_stored(theirs), sort_keys=True) == json.dumps(_as_stored(ours), sort_keys=True)


def _as_stored(value: Any) -> Any:
    """The value as a JavaScript server gives it back: numbers are doubles, and null where too large."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            # Without the sign of a zero.
            return float(value) + 0.0
        except OverflowError:
            return None
    if isinstance(value, list):
        return [_as_stored(item) for item in value]
    if isinstance(value, dict):
        return {name: _as_stored(item) for name, item in value.items()}
    return value


def _instant(text: Any) -> datetime | None:
    """The moment that a date means to the server, which takes one without offset for UTC, in milliseconds."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
        if moment is None:
            return None
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


# Changing


def _registered(pid: str, client: ScicatClient) -> RegisteredDataset:
    return RegisteredDataset(_dataset(pid, client), client.origdatablocks(pid))


def _dataset(pid: str, client: ScicatClient) -> DatasetRecord:
    try:
        record = client.dataset(pid)
    except RefusedError as refusal:
        raise PermanentError(
            f"The dataset {pid} exists, and this account may not read it.",
            remedy="Give the ingestor's account the right to read the datasets that it creates.",
            details=refusal.details,
        ) from None
    if record is None:
        raise TransientError(
            f"There was a dataset {pid} a moment ago, and now there is none.",
            remedy="It is tried again; see who removes datasets if it goes on.",
        )
    return record


def _body(built: BuiltDataset, record: DatasetRecord, correction: Correction) -> dict[str, JsonValue]:
    ours = _metadata(built)
    merged: dict[str, Any] = dict(record.scientificMetadata)
    body: dict[str, JsonValue] = {}
    for change in correction.wanted:
        if not change.field.startswith(f"{METADATA}."):
            body[change.field] = change.from_file
            continue
        key = change.field.removeprefix(f"{METADATA}.")
        if _is_removed(change, built):
            merged.pop(key, None)
            body[METADATA] = merged
            continue
        known = merged.get(key)
        # What others added to the entry stays; the server makes the SI values anew.
        merged[key] = {**(_without_si(known) if isinstance(known, dict) else {}), **ours[key]}
        body[METADATA] = merged
    if METADATA in body:
        _check_harmless(merged, record.pid)
    size = len(json.dumps(body).encode())
    if size > LARGEST_BODY_BYTES:
        raise PermanentError(
            f"With what others have added, the metadata of {record.pid} has {size} bytes, more than SciCat "
            f"accepts ({LARGEST_BODY_BYTES}).",
            remedy="Take large entries out of the schema, or out of the dataset.",
        )
    return body


def _check_harmless(metadata: Mapping[str, Any], pid: str) -> None:
    """Make sure that the server does not crash at what it has once accepted; see ``registration``."""
    for key, entry in metadata.items():
        name = entry.get("human_name") if isinstance(entry, dict) else None
        if not key or entry is None or isinstance(name, list | dict):
            raise PermanentError(
                f"The metadata of {pid} holds an entry {key!r} that the SciCat server crashes at when it is "
                "sent back.",
                remedy="Remove or repair this entry in SciCat's database, then try again.",
            )


def _kept_otherwise(pid: str, fields: str) -> PermanentError:
    return PermanentError(
        f"SciCat accepted the change of {pid}, but keeps other values of {fields}.",
        remedy="Look at these fields in SciCat and at what the schema gives them: the server may not "
        "understand the values.",
    )


def _overwritten(pid: str, fields: str) -> TransientError:
    return TransientError(
        f"Somebody else changed {fields} of the dataset {pid} at the same time.",
        remedy="Nothing to do: it is tried again.",
    )


def _updated_at(record: DatasetRecord) -> datetime | None:
    return _instant((record.model_extra or {}).get("updatedAt"))


def _same_version(one: DatasetRecord, other: DatasetRecord) -> bool:
    return _updated_at(one) is not None and _updated_at(one) == _updated_at(other)


def _metadata(built: BuiltDataset) -> dict[str, dict[str, Any]]:
    entries = built.dataset.get(METADATA)
    if not isinstance(entries, dict):
        return {}
    return {key: entry for key, entry in entries.items() if isinstance(entry, dict)}


def _without_si(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    return {name: value for name, value in entry.items() if name not in _ADDED_BY_SERVER}
