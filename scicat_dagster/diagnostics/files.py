"""What would become of real files: the way that a run and a preview go, with an account of every field.

Without SciCat nothing that a schema asks it can be known. Such variables, and what needs them, are told apart
from those that failed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import JsonValue

from scicat_dagster.config.models import Settings
from scicat_dagster.dataset import ingestion
from scicat_dagster.dataset.build import BuiltDataset, FieldsError
from scicat_dagster.dataset.fields import MANDATORY, RECOMMENDED
from scicat_dagster.dataset.ingestion import ExtractedMetadata
from scicat_dagster.dataset.rebuild import describe_again, extract_again
from scicat_dagster.dataset.samples import SampleSource
from scicat_dagster.diagnostics.report import FieldState, FileReport, Importance, Report
from scicat_dagster.errors import (
    IngestionError,
    Notice,
    PermanentError,
    Reason,
    TransientError,
    UnknownHereError,
)
from scicat_dagster.files.manifest import FileDescription
from scicat_dagster.schemas.loading import SchemaCollection
from scicat_dagster.schemas.models import FieldAssignment, Schema
from scicat_dagster.usecases.preview import PreviewSchema

_GIVEN = {
    "contactEmail": "given@example.org",
    "sourceFolder": "/",
    "creationTime": "2000-01-01T00:00:00+00:00",
}
"""Values that are good for a field whatever the file is, where ``given`` is not."""


class UnaskedCatalogue:
    """Stands where SciCat is not asked: what it would know is a failure that says so."""

    def fetch(self, url: str) -> JsonValue:
        """No answer.

        Raises
        ------
        UnknownHereError
            Always.
        """
        raise UnknownHereError(f"SciCat was not asked for {url}.")

    def samples_of_proposal(self, proposal_id: str) -> list[dict[str, Any]]:
        """No samples; raises as :meth:`fetch`."""
        raise UnknownHereError(f"SciCat was not asked for the samples of proposal {proposal_id}.")


def check_file(
    file: Path, schemas: SchemaCollection, catalogue: SampleSource, settings: Settings, report: Report
) -> None:
    """Run the ingestion pipeline but its last step, and say which of its fields get a value.

    Its checksum is not computed, because that is a matter of the file's size and of nothing else.
    """
    # Not resolved: a symbolic link is the path that a message would name.
    found = FileReport(file=os.path.abspath(file))  # noqa: PTH100
    report.files.append(found)
    try:
        metadata = extract_again(found.file, schemas, catalogue, settings)
        found.schema_ = PreviewSchema(id=metadata.schema_.id, name=metadata.schema_.name)
        files = describe_again(metadata, _without_checksums(settings))
        built, reasons = _built(metadata, files, settings)
    except IngestionError as error:
        found.registrable = None if isinstance(error, TransientError) else False
        report.failed("file", error, found.file)
        return
    # They are mistakes of the schemas, and told as such.
    of_schemas = {*schemas.notices(), *schemas.notices_about(metadata.schema_)}
    _sort(found, (notice for notice in built.notices if notice not in of_schemas))
    found.fields = [
        *(_state(name, "mandatory", reasons.get(name)) for name in dict.fromkeys((*MANDATORY, *reasons))),
        *_recommended(metadata.schema_, built, settings),
    ]
    states = {field.state for field in found.fields if field.importance == "mandatory"}
    found.registrable = False if "missing" in states else None if "unknown" in states else True
    _add_rows(found, report)


def _without_checksums(settings: Settings) -> Settings:
    handling = settings.ingestion.file_handling.model_copy(update={"compute_file_hash": False})
    ingesting = settings.ingestion.model_copy(update={"file_handling": handling})
    return settings.model_copy(update={"ingestion": ingesting})


def _built(
    metadata: ExtractedMetadata, files: FileDescription, settings: Settings
) -> tuple[BuiltDataset, dict[str, Reason]]:
    """The dataset, and why each mandatory field that it lacks cannot be built.

    Where some are lacking, each is tried with all others given, and the dataset is the one with all given.

    Raises
    ------
    PermanentError
        It cannot be built for another reason, such as its size.
    """
    try:
        return ingestion.build(metadata, files, settings), {}
    except PermanentError as error:
        refusal = error
    fields = (*MANDATORY, "pid", "type")
    built = ingestion.build(_with_given(metadata, set(fields)), files, settings)
    reasons = {}
    for name in fields:
        try:
            ingestion.build(_with_given(metadata, set(fields) - {name}), files, settings)
        except PermanentError as error:
            built_otherwise = error.reasons if isinstance(error, FieldsError) else {}
            reasons[name] = built_otherwise.get(name, Reason(error.what))
    if not reasons:
        raise refusal
    return built, reasons


def _with_given(metadata: ExtractedMetadata, names: set[str]) -> ExtractedMetadata:
    """The metadata with a schema that gives fields a good value; without those that need none."""
    kept = {
        key: assignment
        for key, assignment in metadata.schema_.items.items()
        if assignment.field_type != "high_level" or assignment.machine_name not in names
    }
    given = {
        f"given {name}": FieldAssignment(
            field_type="high_level", machine_name=name, value=_GIVEN.get(name, "given"), type="string"
        )
        for name in MANDATORY
        if name in names
    }
    return metadata.model_copy(
        update={"schema_": metadata.schema_.model_copy(update={"items": kept | given})}
    )


def _sort(found: FileReport, notices: Iterable[Notice]) -> None:
    for notice in notices:
        (found.unknown if notice.is_unknown else found.unresolved).append(notice)


def _state(name: str, importance: Importance, reason: Reason | None) -> FieldState:
    if reason is None:
        return FieldState(field=name, importance=importance, state="filled")
    state: Literal["missing", "unknown"] = "unknown" if reason.is_unknown else "missing"
    return FieldState(field=name, importance=importance, state=state, reason=reason.text)


def _recommended(schema: Schema, built: BuiltDataset, settings: Settings) -> list[FieldState]:
    states = [
        _state(name, "recommended", None if built.dataset.get(name) else _why_empty(name, schema, built))
        for name in RECOMMENDED
    ]
    ingesting = settings.ingestion
    if ingesting.check_if_dataset_exists_by_metadata:
        key = ingesting.check_if_dataset_exists_by_metadata_key
        entries = built.dataset["scientificMetadata"]
        filled = isinstance(entries, dict) and bool(entries.get(key))
        reason = None if filled else _why_empty(key, schema, built)
        states.append(_state(f"scientificMetadata.{key}", "recommended", reason))
    return states


def _why_empty(name: str, schema: Schema, built: BuiltDataset) -> Reason:
    subjects = {
        f"dataset.{name}",
        *(f"schema.{key} ({name})" for key, field in schema.items.items() if field.machine_name == name),
    }
    for notice in built.notices:
        if notice.subject in subjects:
            return Reason(notice.reason, notice.is_unknown)
    return Reason("its value is empty." if len(subjects) > 1 else "the schema does not assign it.")


def _add_rows(found: FileReport, report: Report) -> None:
    schema = f"{found.file}: the schema {found.schema_.name} is for it" if found.schema_ else found.file
    lacking = [
        field for field in found.fields if field.importance == "mandatory" and field.state == "missing"
    ]
    if found.registrable:
        report.add("file", "ok", f"{schema}; it could be registered.")
    elif found.registrable is None:
        report.add("file", "warning", f"{schema}; whether it could be registered is not known.", _ASK)
    for field in lacking:
        what = f"{schema}, but a mandatory field cannot be built: {field.field}: {field.reason}"
        remedy = f"Correct the file, or assign it in the schema: {_assignment(field.field)}"
        report.add("file", "mistake", what, remedy)
    of_lacking = [field.reason for field in lacking]
    for notice in found.unresolved:
        if notice.reason not in of_lacking:
            report.add(
                "file", "warning", f"{found.file}: {notice.subject}: {notice.reason}",
                "Correct the schema, if the file is as it should be.",
            )  # fmt: skip
    told = [notice.reason for notice in found.unresolved]
    for field in found.fields:
        if field.importance == "recommended" and field.state == "missing" and field.reason not in told:
            report.add(
                "file", "warning", f"{found.file}: {field.field} is recommended: {field.reason}",
                f"Assign it in the schema: {_assignment(field.field)}",
            )  # fmt: skip
    if found.unknown:
        names = ", ".join(notice.subject for notice in found.unknown)
        report.add("file", "ok", f"{found.file}: not known without SciCat or an announcement: {names}", _ASK)


def _assignment(field: str) -> str:
    """How a schema gives a field, or an entry of the scientific metadata, its value."""
    _, _, entry = field.partition("scientificMetadata.")
    kind = "scientific_metadata" if entry else "high_level"
    return f"{{field_type: {kind}, machine_name: {entry or field}, value: …, type: string}}"


_ASK = "--live asks SciCat. What comes with an announcement is known only then."
