"""Building the bodies to be posted, dataset and origdatablock, from a schema's variables and a manifest.

What SciCat would refuse is refused here, with the reason for each field.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from scicat_dagster.config.models import DatasetSettings, FileHandlingSettings
from scicat_dagster.dataset.fields import MANDATORY, MANDATORY_FOR_DERIVED, DatasetBody
from scicat_dagster.errors import Notice, PermanentError, Reason, message_of
from scicat_dagster.files.manifest import DataFile, FileDescription
from scicat_dagster.schemas.conversion import convert
from scicat_dagster.schemas.models import V4_LIST_FIELDS, FieldAssignment, Schema
from scicat_dagster.schemas.rendering import render
from scicat_dagster.schemas.variables import Evaluation, field_subject, notice_of

LARGEST_BODY_BYTES = 16 * 1024 * 1024
"""What a SciCat server accepts in one request; larger ones get a 500."""

_COUNTED_BY_SERVER = frozenset({"size", "numberOfFiles"})
"""Servers after 5.2.1 add each origdatablock to what a dataset was posted with."""

DEFAULT_KEYS: Mapping[str, str] = {
    "instrumentId": "default_instrument_id",
    "proposalId": "default_proposal_id",
    "ownerGroup": "default_owner_group",
    "accessGroups": "default_access_groups",
}
"""The configuration's key for the value of a field to which a schema gives none."""

_DEEPEST_VALUE = 64

_NAMESPACE = uuid.UUID("6f0a4d6e-95a5-5e0b-8b1b-3a1c2d1c7e55")


class FieldsError(PermanentError):
    """Mandatory fields cannot be built; ``reasons`` are by their names."""

    def __init__(
        self, what: str, *, remedy: str, reasons: Mapping[str, Reason], details: dict[str, str] | None = None
    ) -> None:
        super().__init__(what, remedy=remedy, details=details)
        self.reasons = reasons

    def __reduce__(self) -> tuple[object, ...]:
        return _fields_error, (self.what, self.remedy, self.reasons, self.details)


def _fields_error(
    what: str, remedy: str, reasons: Mapping[str, Reason], details: dict[str, str]
) -> FieldsError:
    return FieldsError(what, remedy=remedy, reasons=reasons, details=details)


class BuiltDataset(BaseModel):
    """What will be registered: the bodies as they are posted, and what a person should know about them.

    ``origdatablock["datasetId"]`` is None where the server makes the pid.
    """

    model_config = ConfigDict(frozen=True)

    dataset: dict[str, JsonValue]
    origdatablock: dict[str, JsonValue]
    data_file: str
    """Canonical path of the NeXus file."""
    entry: str = ""
    """The name of the NXentry that the dataset is of, where the file is several datasets."""
    pid_is_derived: bool = False
    """Whether the pid is made of the file's path, and of the entry where there is one, so that it can be of
    nothing else.
    """
    defaulted: tuple[str, ...] = ()
    """Fields to which the schema gave no value, so that the configuration did."""
    notices: tuple[Notice, ...] = ()

    @property
    def source(self) -> str:
        """What it is made of, for people: the file's path, and the entry where a file is several datasets."""
        return f"{self.data_file} ({self.entry})" if self.entry else self.data_file


def build_dataset(
    schema: Schema,
    evaluation: Evaluation,
    files: FileDescription,
    *,
    defaults: DatasetSettings,
    handling: FileHandlingSettings,
    sample_id: str | None = None,
    entry: str = "",
) -> BuiltDataset:
    """The dataset and origdatablock of one file, or of one NXentry of it.

    A generated pid is derived from the file's path, and the entry's name where a file is several datasets,
    and from nothing else, so that every execution for one file makes the same pid: what an announcement says
    is not known to one who registers the file by hand.

    Raises
    ------
    PermanentError
        Mandatory fields cannot be built (all of them are named, each with its reason), or the metadata is
        larger than a server accepts.
    """
    notices = list(evaluation.notices)
    values, reasons = _high_level(schema, evaluation, notices)
    metadata = _scientific_metadata(schema, evaluation, notices)
    if sample_id is not None:
        values.setdefault("sampleId", sample_id)
    defaulted = _apply_defaults(values, defaults)
    given = values.pop("pid", None)
    pid = _pid(schema, given, files, entry, defaults, reasons)
    for counted in sorted(_COUNTED_BY_SERVER & values.keys()):
        del values[counted]
        reason = "It is left out: the server counts the files itself, and might count them twice."
        notices.append(Notice(subject=f"schema.{counted}", reason=reason))
    values["scientificMetadata"] = metadata
    if pid is not None:
        values["pid"] = pid
    dataset = _validated(values, reasons, notices)
    body = dataset.model_dump(mode="json", exclude_none=True)
    _check_size(body)
    return BuiltDataset(
        dataset=body,
        origdatablock=_origdatablock(dataset, files, handling, notices),
        data_file=files.data_file.path,
        entry=entry,
        pid_is_derived=pid is not None and not _is_assigned_pid(given, defaults),
        defaulted=defaulted,
        notices=tuple(notices),
    )


def _high_level(
    schema: Schema, evaluation: Evaluation, notices: list[Notice]
) -> tuple[dict[str, Any], dict[str, Reason]]:
    """The fields that could be built, and why the others could not, by the API's names."""
    values: dict[str, Any] = {}
    reasons: dict[str, Reason] = {}
    for key, item in schema.unusable_fields.items():
        reason = Reason(item.reason)
        notices.append(_failed(key, item.machine_name, reason))
        if item.field_type != "scientific_metadata":
            reasons[item.machine_name] = reason
    for key, assignment in schema.assignments.items():
        if assignment.field_type == "high_level":
            try:
                rendered = render(assignment.value, evaluation.values, schema.variables)
                value = plain(_converted(assignment, rendered.value))
            except (LookupError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
                reasons[assignment.fills] = evaluation.why(error)
                notices.append(_failed(key, assignment.machine_name, reasons[assignment.fills]))
                continue
            if assignment.fills == assignment.machine_name:
                values[assignment.fills] = value
            else:
                reasons[assignment.fills] = Reason("its list is empty.")
                _fill_from_list(values, assignment, value)
    return values, reasons


def _converted(assignment: FieldAssignment, value: Any) -> Any:
    """The value as its type says; a field that holds a list in the v4 API is one, whatever its type says."""
    is_list = assignment.machine_name in V4_LIST_FIELDS and isinstance(value, list)
    return convert(value, "string[]" if is_list else assignment.type)


def _fill_from_list(values: dict[str, Any], assignment: FieldAssignment, value: Any) -> None:
    """Put a list of API v4 into the one value that v3 has for it, and keep it where it has several.

    What is sent is decided when it is known what the server has. A value given as v3's own wins in v3.
    """
    texts = [str(item) for item in (value if isinstance(value, list) else [value]) if item not in (None, "")]
    if not texts:
        return
    is_text = assignment.fills == "principalInvestigator"
    values.setdefault(assignment.fills, ", ".join(texts) if is_text else texts[0])
    if len(texts) > 1:
        values[assignment.machine_name] = texts


def _scientific_metadata(
    schema: Schema, evaluation: Evaluation, notices: list[Notice]
) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    for key, assignment in schema.assignments.items():
        if assignment.field_type == "scientific_metadata":
            try:
                rendered = render(assignment.value, evaluation.values, schema.variables)
                value = plain(convert(rendered.value, assignment.type))
            except (LookupError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
                notices.append(_failed(key, assignment.machine_name, evaluation.why(error)))
                continue
            entries[assignment.machine_name] = {
                "value": value,
                "unit": assignment.unit or rendered.unit,
                "human_name": assignment.human_name or assignment.machine_name,
                "type": assignment.type,
            }
    return entries


def _failed(key: str, machine_name: str, reason: Reason) -> Notice:
    return notice_of(field_subject(key, machine_name), reason)


def plain(value: Any, depth: int = 0) -> Any:
    """The value as strict JSON: what has no JSON number becomes null."""
    if depth > _DEEPEST_VALUE:
        raise ValueError("The value is nested too deeply.")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"{type(value).__name__} is nothing that metadata can hold")


def _apply_defaults(values: dict[str, Any], defaults: DatasetSettings) -> tuple[str, ...]:
    """Give fields that are empty the configuration's value, and return their names."""
    filled = []
    for name, key in DEFAULT_KEYS.items():
        fallback = getattr(defaults, key)
        if values.get(name) in (None, "", []) and fallback:
            values[name] = list(fallback) if isinstance(fallback, tuple) else fallback
            filled.append(name)
    return tuple(filled)


def _pid(
    schema: Schema,
    given: Any,
    files: FileDescription,
    entry: str,
    defaults: DatasetSettings,
    reasons: dict[str, Reason],
) -> str | None:
    """The pid to send, or None where the server has to make it."""
    if not defaults.allow_dataset_pid:
        if entry:
            what = "The server makes the pid, so that nobody could tell the datasets of one file apart."
            raise FieldsError(
                what,
                remedy="Set dataset.allow_dataset_pid, or take `entries` out of the schema.",
                reasons={"pid": Reason(what)},
            )
        return None
    # One that cannot be used is assigned as well.
    is_assigned = any(
        item.machine_name == "pid" and item.field_type != "scientific_metadata"
        for item in schema.items.values()
    )
    if is_assigned and not given and not defaults.generate_dataset_pid:
        reason = reasons.get("pid", Reason("it is empty."))
        what = f"The schema {schema.name} assigns a pid that cannot be built: {reason.text}"
        raise FieldsError(
            what,
            remedy="Correct the schema or the file, then try the file again (a run by re-executing all its "
            "ops, because it has the old schema); without its pid a file could be registered twice.",
            reasons={"pid": Reason(what, reason.is_unknown)},
        )
    # No path has a null character.
    source = f"{files.data_file.path}\0{entry}" if entry else files.data_file.path
    pid = str(given) if _is_assigned_pid(given, defaults) else str(uuid.uuid5(_NAMESPACE, source))
    return pid if "/" in pid or not defaults.dataset_pid_prefix else f"{defaults.dataset_pid_prefix}/{pid}"


def _is_assigned_pid(given: Any, defaults: DatasetSettings) -> bool:
    return bool(given) and not defaults.generate_dataset_pid


def _validated(values: dict[str, Any], reasons: dict[str, Reason], notices: list[Notice]) -> DatasetBody:
    """The dataset without the optional fields that the server would refuse, which are noted."""
    needed = (*MANDATORY, "type", "pid", *(MANDATORY_FOR_DERIVED if values.get("type") == "derived" else ()))
    missing = {
        name: reasons.get(name, Reason("the schema does not assign it."))
        for name in set(needed) & set(MANDATORY_FOR_DERIVED)
        if name not in values
    }
    refused: dict[str, ErrorDetails] = {}
    try:
        dataset = DatasetBody.model_validate(values)
    except ValidationError as error:
        refused = {str(detail["loc"][0]): detail for detail in error.errors(include_url=False)}
    missing |= {
        name: _why_missing(detail, reasons.get(name)) for name, detail in refused.items() if name in needed
    }
    if missing:
        listed = " ".join(f"{name}: {reason.text}" for name, reason in missing.items())
        raise FieldsError(
            f"Mandatory fields cannot be built: {listed}",
            remedy="Correct the schema, the file or the dataset.default_* settings, then try the file again "
            "(a run by re-executing all its ops, because it has the old schema).",
            reasons=missing,
        )
    if not refused:
        return dataset
    notices.extend(
        Notice(subject=f"dataset.{name}", reason=message_of(detail)) for name, detail in refused.items()
    )
    return DatasetBody.model_validate({name: value for name, value in values.items() if name not in refused})


def _why_missing(detail: ErrorDetails, not_built: Reason | None) -> Reason:
    if not_built is not None:
        return Reason(f"{not_built.text.rstrip('.')}.", not_built.is_unknown)
    is_absent = detail["type"] == "missing"
    return Reason("the schema does not assign it." if is_absent else f"{message_of(detail)}.")


def _check_size(body: dict[str, Any]) -> None:
    size = len(json.dumps(body).encode())
    if size > LARGEST_BODY_BYTES:
        largest = max(
            body["scientificMetadata"].items(), key=lambda entry: len(json.dumps(entry)), default=("", 0)
        )
        raise PermanentError(
            f"The metadata has {size} bytes, more than SciCat accepts ({LARGEST_BODY_BYTES}).",
            remedy=f"Take large entries out of the schema; the largest is {largest[0]}.",
        )


def _origdatablock(
    dataset: DatasetBody, files: FileDescription, handling: FileHandlingSettings, notices: list[Notice]
) -> dict[str, JsonValue]:
    folder = dataset.sourceFolder
    listed = [
        file.model_copy(update={"path": _listed_path(file, folder, handling, notices)}).model_dump(
            mode="json", exclude_none=True
        )
        for file in files.all_files
    ]
    block: dict[str, Any] = {
        "datasetId": dataset.pid,
        "size": sum(file.size for file in files.all_files),
        "dataFileList": listed,
        "ownerGroup": dataset.ownerGroup,
        "accessGroups": dataset.accessGroups or [],
    }
    if files.checksum_algorithm:
        block["chkAlg"] = files.checksum_algorithm
    return block


def _listed_path(file: DataFile, folder: str, handling: FileHandlingSettings, notices: list[Notice]) -> str:
    path = PurePosixPath(file.path)
    if handling.file_path_type == "absolute":
        return file.path
    if not path.is_relative_to(folder):
        notices.append(
            Notice(
                subject="origdatablock.dataFileList",
                reason=f"{file.path} is outside sourceFolder {folder}, so it is listed with its full path.",
            )
        )
        return file.path
    return str(path.relative_to(folder))
