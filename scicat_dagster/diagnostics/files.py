"""What would become of real files: the way that a run and a preview go, with an account of every field.

Without SciCat nothing that a schema asks it can be known. Such variables, and what needs them, are told apart
from those that failed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import JsonValue

from scicat_dagster.config.models import Settings
from scicat_dagster.dataset import ingestion
from scicat_dagster.dataset.build import DEFAULT_KEYS, BuiltDataset, FieldsError
from scicat_dagster.dataset.fields import MANDATORY, RECOMMENDED
from scicat_dagster.dataset.ingestion import ExtractedMetadata
from scicat_dagster.dataset.rebuild import describe_again, extract_again
from scicat_dagster.dataset.samples import SampleSource
from scicat_dagster.diagnostics.report import (
    FieldState,
    FileReport,
    Importance,
    Report,
    Result,
    said_once,
)
from scicat_dagster.errors import (
    IngestionError,
    Notice,
    PermanentError,
    Reason,
    TransientError,
    UnknownHereError,
)
from scicat_dagster.files.manifest import FileDescription
from scicat_dagster.files.reading import Read
from scicat_dagster.files.values import Reader
from scicat_dagster.isolation import LIMITS
from scicat_dagster.schemas.loading import SchemaCollection
from scicat_dagster.schemas.models import BUILT_IN_VARIABLES, FieldAssignment, NexusVariable, Schema
from scicat_dagster.schemas.rendering import references
from scicat_dagster.schemas.variables import Cause, by_cause, cause_of, field_subject
from scicat_dagster.scicat.correction import shortened
from scicat_dagster.usecases.preview import PreviewSchema

_IDENTIFIERS = tuple(
    Read(path=f"/*/{name}", all=True, as_text=True) for name in ("entry_identifier_uuid", "entry_identifier")
)
"""Where NXentry identifies a measurement."""

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
    path = os.path.abspath(file)  # noqa: PTH100
    try:
        extracted = extract_again(path, schemas, catalogue, settings)
        files = describe_again(extracted, _without_checksums(settings))
        unlisted = ingestion.unlisted_files(extracted, settings)
    except IngestionError as error:
        registrable = None if isinstance(error, TransientError) else False
        report.files.append(FileReport(file=path, registrable=registrable))
        report.failed("file", error, path)
        return
    before = len(report.checks)
    datasets = [_check_dataset(metadata, files, schemas, settings, report) for metadata in extracted]
    if len(datasets) > 1:
        entries = {dataset.source: dataset.entry for dataset in datasets}
        report.checks[before:] = said_once(report.checks[before:], path, entries)
    for notice in unlisted:
        report.add("file", "warning", notice.reason, file=path)
    for what in _of_other_entries(extracted):
        report.add("file", "warning", what, _OWN_ENTRY, path)
    if all(dataset.registrable for dataset in datasets):
        _check_pids(datasets, extracted, files, settings, report)


def _of_other_entries(extracted: Sequence[ExtractedMetadata]) -> Iterator[str]:
    """Variables that read one NXentry for the datasets of all, which is hardly meant."""
    entries = {metadata.entry for metadata in extracted if metadata.entry}
    read: dict[str, set[str]] = {}
    for metadata in extracted if len(entries) > 1 else ():
        for name, variable in metadata.schema_.variables.items():
            if isinstance(variable, NexusVariable):
                read.setdefault(name, set()).add(variable.path.strip("/").partition("/")[0])
    for name, places in read.items():
        if len(places) == 1 and places <= entries:
            yield f"variables.{name} reads /{places.pop()} for the datasets of all NXentry."


def _check_pids(
    datasets: Sequence[FileReport],
    extracted: Sequence[ExtractedMetadata],
    files: FileDescription,
    settings: Settings,
    report: Report,
) -> None:
    """What is wrong with the datasets of a file together, although each of them could be registered."""
    try:
        ingestion.build_each(extracted, files, settings)
    except IngestionError as error:
        for dataset in datasets:
            dataset.registrable = False
        report.failed("file", error, datasets[0].file)


def _check_dataset(
    metadata: ExtractedMetadata,
    files: FileDescription,
    schemas: SchemaCollection,
    settings: Settings,
    report: Report,
) -> FileReport:
    found = FileReport(
        file=metadata.file.path,
        entry=metadata.entry,
        schema_=PreviewSchema(id=metadata.schema_.id, name=metadata.schema_.name),
    )
    report.files.append(found)
    try:
        built, reasons = _built(metadata, files, settings)
    except IngestionError as error:
        found.registrable = None if isinstance(error, TransientError) else False
        report.failed("file", error, file=found.source)
        return found
    # They are mistakes of the schemas, and told as such.
    of_schemas = {*schemas.notices(), *schemas.notices_about(metadata.schema_)}
    _sort(found, (notice for notice in built.notices if notice not in of_schemas))
    found.fields = [
        *(_state(name, "mandatory", reasons.get(name)) for name in dict.fromkeys((*MANDATORY, *reasons))),
        *_recommended(metadata, built, settings),
    ]
    states = {field.state for field in found.fields if field.importance == "mandatory"}
    found.registrable = False if "missing" in states else None if "unknown" in states else True
    _Rows(found, metadata, report, has_mistakes=schemas.has_mistakes(metadata.schema_)).add()
    for name in built.defaulted:
        value = shortened(built.dataset.get(name))
        what = f"{name} is {value}, from dataset.{DEFAULT_KEYS[name]} of the configuration."
        report.add("file", "ok", what, file=found.source)
    if "sourceFolder" not in reasons:
        folder = str(built.dataset["sourceFolder"])
        doubt = _doubt_about_folder(folder, settings.ingestion.file_handling.data_directory)
        if doubt:
            what = f"sourceFolder would be {folder}, {doubt}."
            report.add("file", "warning", what, _OWN_FOLDER, found.source)
    return found


def _doubt_about_folder(folder: str, data_directory: str) -> str:
    """Why a folder is hardly that of one dataset; empty where nothing speaks against it."""
    parts = PurePosixPath(os.path.normpath(folder)).parts
    if folder.startswith("/") and len(parts) <= _FEWEST_PARTS:
        return "which holds far more than this dataset"
    if data_directory and not PurePosixPath(*parts).is_relative_to(os.path.normpath(data_directory)):
        return f"which is not in {data_directory} (ingestion.file_handling.data_directory)"
    return ""


def _without_checksums(settings: Settings) -> Settings:
    handling = settings.ingestion.file_handling.model_copy(update={"compute_file_hash": False})
    ingesting = settings.ingestion.model_copy(update={"file_handling": handling})
    return settings.model_copy(update={"ingestion": ingesting})


def _built(
    metadata: ExtractedMetadata, files: FileDescription, settings: Settings
) -> tuple[BuiltDataset, dict[str, Reason]]:
    """The dataset, and why each mandatory field that it lacks cannot be built.

    Where some are lacking, each is tried with all others given, and the dataset is the one with these given.

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
    reasons = {}
    for name in fields:
        try:
            ingestion.build(_with_given(metadata, set(fields) - {name}), files, settings)
        except PermanentError as error:
            built_otherwise = error.reasons if isinstance(error, FieldsError) else {}
            reasons[name] = built_otherwise.get(name, Reason(error.what))
    if not reasons:
        raise refusal
    return ingestion.build(_with_given(metadata, set(reasons)), files, settings), reasons


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


def _recommended(metadata: ExtractedMetadata, built: BuiltDataset, settings: Settings) -> list[FieldState]:
    schema = metadata.schema_
    states = [
        _state(name, "recommended", None if built.dataset.get(name) else _why_empty(name, schema, built))
        for name in RECOMMENDED
    ]
    ingesting = settings.ingestion
    if ingesting.check_if_dataset_exists_by_metadata:
        key = ingesting.check_if_dataset_exists_by_metadata_key
        entries = built.dataset["scientificMetadata"]
        filled = isinstance(entries, dict) and bool(entries.get(key))
        if not filled and not _should_identify(key, metadata, settings):
            return states
        reason = None if filled else _why_empty(key, schema, built)
        states.append(_state(f"scientificMetadata.{key}", "recommended", reason))
    return states


def _should_identify(key: str, metadata: ExtractedMetadata, settings: Settings) -> bool:
    """Whether the entry that identifies the measurement is missed: it was meant, or could be there.

    Where the file has no identifier, the pid is enough: the same file always gets the same one.
    """
    is_assigned = any(field.machine_name == key for field in metadata.schema_.items.values())
    if is_assigned or not settings.dataset.allow_dataset_pid:
        return True
    contents = ingestion.values_of(metadata.file, _IDENTIFIERS, settings.ingestion.file_handling, LIMITS)
    return any(_values_at(read, contents) for read in _IDENTIFIERS)


def _values_at(read: Read, contents: Reader) -> list[Any]:
    try:
        found = contents.read_all(read.path, as_text=read.as_text).value
    except (LookupError, ValueError):
        return []
    return found if isinstance(found, list) else [found]


def _why_empty(name: str, schema: Schema, built: BuiltDataset) -> Reason:
    subjects = {
        f"dataset.{name}",
        *(field_subject(key, name) for key, field in schema.items.items() if field.machine_name == name),
    }
    for notice in built.notices:
        if notice.subject in subjects:
            return Reason(notice.reason, notice.is_unknown)
    return Reason("its value is empty." if len(subjects) > 1 else "the schema does not assign it.")


class _Rows:
    """What a person is shown of one file: a row for each cause, and what else is affected by it."""

    def __init__(
        self, found: FileReport, metadata: ExtractedMetadata, report: Report, *, has_mistakes: bool
    ) -> None:
        self._found = found
        self._has_mistakes = has_mistakes
        self._schema = metadata.schema_
        self._report = report
        self._failed = {notice.subject for notice in metadata.notices}
        self._reasons = {notice.subject: notice for notice in (*metadata.notices, *found.unresolved)}
        self._causes = by_cause(found.unresolved, metadata.schema_)

    def add(self) -> None:
        """Add the rows."""
        lacking = self._missing("mandatory")
        by_schema = [field for field in lacking if self._is_told_of_the_schema(field.field)]
        self._add_verdict(by_schema)
        told = self._add_lacking([field for field in lacking if field not in by_schema])
        recommended = self._missing("recommended")
        for cause in self._causes:
            if cause.notice.subject not in told:
                self._add_cause(cause, recommended)
        for field in recommended:
            if self._cause_of(field.field) not in self._reasons:
                self._add("warning", f"{field.field} is recommended: {field.reason}", _remedy(field.field))
        if self._found.unknown:
            names = ", ".join(notice.subject for notice in self._found.unknown)
            self._add("ok", f"not known without SciCat or an announcement: {names}", _ASK)

    def _add(self, result: Result, what: str, remedy: str = "") -> None:
        self._report.add("file", result, what, remedy, self._found.source)

    def _missing(self, importance: Importance) -> list[FieldState]:
        return [
            field
            for field in self._found.fields
            if field.importance == importance and field.state == "missing"
        ]

    def _add_verdict(self, by_schema: list[FieldState]) -> None:
        schema = f"the schema {self._schema.name} is for it"
        if by_schema:
            names = ", ".join(field.field for field in by_schema)
            self._add("warning", f"{schema}; by the mistakes of the schema it lacks {names}.", _AS_SAID)
        elif self._found.registrable and self._has_mistakes:
            self._add("warning", f"{schema}; it would be registered without what has mistakes.", _AS_SAID)
        elif self._found.registrable:
            self._add("ok", f"{schema}; it could be registered.")
        elif self._found.registrable is None:
            self._add("warning", f"{schema}; whether it could be registered is not known.", _ASK)

    def _add_lacking(self, lacking: list[FieldState]) -> set[str]:
        """Add the mandatory fields that cannot be built, and return the subjects of their causes."""
        fields: dict[str, list[FieldState]] = {}
        for field in lacking:
            fields.setdefault(self._cause_of(field.field), []).append(field)
        for cause, affected in fields.items():
            names = ", ".join(field.field for field in affected)
            noun = "mandatory fields cannot" if len(affected) > 1 else "a mandatory field cannot"
            notice = self._reasons.get(cause)
            why = f"{cause}: {notice.reason}" if notice else affected[0].reason
            remedy = (
                _OF_CATALOGUE if notice and notice.is_of_catalogue else _remedy(affected[0].field, _OR_FILE)
            )
            what = f"the schema {self._schema.name} is for it, but {noun} be built: {names}: {why}"
            self._add("mistake", what + self._also(cause, [field.field for field in affected]), remedy)
        return set(fields)

    def _add_cause(self, cause: Cause, recommended: list[FieldState]) -> None:
        notice = cause.notice
        fields = [field.field for field in recommended if self._cause_of(field.field) == notice.subject]
        is_of_schema = notice.subject.partition(".")[0] in {"variables", "schema"}
        remedy = _OF_CATALOGUE if notice.is_of_catalogue else _OF_SCHEMA if is_of_schema else ""
        self._add("warning", f"{notice.subject}: {notice.reason}{self._also(notice.subject, fields)}", remedy)

    def _also(self, cause: str, named: list[str]) -> str:
        affected = next((each.affected for each in self._causes if each.notice.subject == cause), ())
        told = {
            field_subject(key, field.machine_name)
            for key, field in self._schema.assignments.items()
            if field.machine_name in named
        }
        others = [subject for subject in affected if subject not in told]
        recommended = [field.field for field in self._missing("recommended") if field.field in named]
        others += [f"{name} (recommended)" for name in recommended]
        return f" Also affected: {', '.join(others)}." if others else ""

    def _cause_of(self, name: str) -> str:
        """The subject of the failure that left a field empty; the field's name where it is no other's."""
        for key, field in self._schema.assignments.items():
            if name in {field.fills, f"scientificMetadata.{field.machine_name}"}:
                subject = field_subject(key, field.machine_name)
                cause = cause_of(subject, self._schema, self._failed)
                return name if cause == subject else cause
        return name

    def _is_told_of_the_schema(self, name: str) -> bool:
        """Whether a field is empty because of a mistake of the schema, which has a row of its own."""
        known = {*self._schema.variables, *BUILT_IN_VARIABLES}
        return any(
            used not in known
            for field in self._schema.assignments.values()
            if field.fills == name
            for used in references(field.value, known)
        )


def _remedy(field: str, otherwise: str = "") -> str:
    begin = _FIND_AGAIN if field.startswith("scientificMetadata.") else "Assign"
    return f"{otherwise}{begin} it in the schema: {_assignment(field)}"


def _assignment(field: str) -> str:
    """How a schema gives a field, or an entry of the scientific metadata, its value."""
    _, _, entry = field.partition("scientificMetadata.")
    kind = "scientific_metadata" if entry else "high_level"
    return f"{{field_type: {kind}, machine_name: {entry or field}, value: …, type: string}}"


_FEWEST_PARTS = 2
"""Of a path, with the root: ``/data``."""

_OWN_ENTRY = "Write <entry> in the path, if each dataset should have the value of its own."

_OWN_FOLDER = (
    "Give the folder that holds the dataset's files: of <data_file_path>, the operator dirname makes the "
    "data file's own, and dirname-2 the one above. Or correct data_directory."
)

_OR_FILE = "Correct the file, or: "

_FIND_AGAIN = "So that the dataset is found again if somebody else registered it under another pid, assign"
"""What the entry that identifies the measurement is for; the names of other fields say it."""

_OF_SCHEMA = "Correct the schema, if the file is as it should be."

_OF_CATALOGUE = (
    "Ask an administrator of SciCat to add it. An instrument can also be given by its pid as "
    "dataset.default_instrument_id in the configuration."
)

_AS_SAID = "Correct these first; they are in the rows of the schema."

_ASK = "--live asks SciCat. What comes with an announcement is known only then."
