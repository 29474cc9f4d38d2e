"""The steps of a run as plain functions: the metadata of a complete file, its manifest, the bodies to post.

Each writes nothing by itself. Registration, the step that does, belongs to
:mod:`scicat_dagster.scicat.registration`.
"""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict

from scicat_dagster.config.models import FileHandlingSettings, Settings
from scicat_dagster.dataset.build import BuiltDataset, FieldsError, build_dataset
from scicat_dagster.dataset.samples import Maker, SampleSource, find_sample_id, sample_reads
from scicat_dagster.dataset.stored_schemas import StoredSchema
from scicat_dagster.errors import Notice, PermanentError, Reason
from scicat_dagster.files.description import describe_file
from scicat_dagster.files.identity import CompleteFile, check_unchanged
from scicat_dagster.files.linked_files import SUBJECT, other_files
from scicat_dagster.files.manifest import FileDescription
from scicat_dagster.files.reading import Read, read_entries, read_linked_files, read_values
from scicat_dagster.files.values import Reader
from scicat_dagster.isolation import LIMITS, Limits
from scicat_dagster.kafka.messages import FileWritten
from scicat_dagster.limits import LARGEST_METADATA_BYTES
from scicat_dagster.schemas.loading import SchemaCollection
from scicat_dagster.schemas.models import ENTRY_VARIABLE, Schema, Unusable
from scicat_dagster.schemas.rendering import Value, render
from scicat_dagster.schemas.variables import Evaluation, evaluate_variables, notice_of, reads_of
from scicat_dagster.wording import numbered

_VALID_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.]*[A-Za-z0-9_])?")
"""Of an NXentry (NeXus, *Naming conventions*); nothing else may get into the paths of a schema."""

MOST_ENTRIES = 500
"""Datasets that one run makes of a file: it has to end in its time, and what its ops hand on to be small."""

_MOST_SHOWN = 10


class ExtractedMetadata(BaseModel):
    """What a schema's variables are for one dataset of a file, and the schema itself.

    The schema travels along, so that a run in progress does not mix two versions of its file.
    """

    model_config = ConfigDict(frozen=True)

    file: CompleteFile
    schema_: StoredSchema
    entry: str = ""
    """The name of the NXentry that the dataset is of, where the file is several datasets."""
    values: dict[str, Any]
    units: dict[str, str]
    notices: tuple[Notice, ...] = ()
    consequences: tuple[str, ...] = ()
    """The variables that failed because another one did."""
    sample_id: str | None = None
    other_files: tuple[str, ...] = ()
    """The paths of those that belong to the file, and are listed with it."""
    instrument: str = ""
    """The instrument's name in the file (NXinstrument), or else the schema's."""

    def evaluation(self) -> Evaluation:
        """The variables, as ``dataset`` wants them."""
        values = {name: Value(value, self.units.get(name, "")) for name, value in self.values.items()}
        return Evaluation(values, list(self.notices), set(self.consequences))


def extract_metadata(
    file: CompleteFile,
    schemas: SchemaCollection,
    catalogue: SampleSource,
    settings: Settings,
    announcement: FileWritten | None = None,
    *,
    make_sample: Maker | None = None,
    limits: Limits = LIMITS,
) -> tuple[ExtractedMetadata, ...]:
    """Choose the schema of a complete file and evaluate its variables, for each dataset that it is.

    A sample that the schema wants and the catalogue has not is made by ``make_sample``, where that is given;
    whatever it raises is raised.

    Raises
    ------
    PermanentError
        No schema is for the file, the one that is for it is broken, the file lacks the NXentry groups that it
        wants, or libhdf5 crashes or loops on the file.
    TransientError
        The storage or the catalogue could not answer, or the file changed meanwhile.
    """
    chosen = schema_of(file, schemas, settings, limits=limits)
    built_in = _built_in_variables(file, chosen, settings, announcement)
    handling = settings.ingestion.file_handling
    by_entry = _by_entry(file, chosen, handling, limits)
    nexus = values_of(
        file, [read for entry, schema in by_entry.items() for read in _reads(entry, schema)], handling, limits
    )

    linked = _linked_files(file, chosen, handling, limits)

    def extract(entry: str, schema: Schema) -> ExtractedMetadata:
        known = built_in | ({ENTRY_VARIABLE: Value(entry)} if entry else {})
        evaluation = evaluate_variables(schema, nexus, known, catalogue, _notices_of(announcement))
        sample_id = find_sample_id(schema.sample_attachment, nexus, catalogue, evaluation, make_sample)
        others = _other_files(file, schema, evaluation, linked, handling)
        return ExtractedMetadata(
            file=file,
            schema_=schema,
            entry=entry,
            values={name: value.value for name, value in evaluation.values.items()},
            units={name: value.unit for name, value in evaluation.values.items() if value.unit},
            notices=(*schemas.notices(), *schemas.notices_about(chosen), *evaluation.notices),
            consequences=tuple(sorted(evaluation.consequences)),
            sample_id=sample_id,
            other_files=others,
            instrument=_instrument_name(entry, nexus) or schema.instrument,
        )

    extracted = tuple(extract(entry, schema) for entry, schema in by_entry.items())
    check_unchanged(file)
    return extracted


def entries_of(
    file: CompleteFile, schema: Schema, settings: Settings, *, limits: Limits = LIMITS
) -> tuple[str, ...]:
    """The names of the NXentry of a file that are datasets; an empty one where the file is one.

    Errors as for :func:`extract_metadata`.
    """
    return tuple(_by_entry(file, schema, settings.ingestion.file_handling, limits))


def _by_entry(
    file: CompleteFile, schema: Schema, handling: FileHandlingSettings, limits: Limits
) -> dict[str, Schema]:
    """The schema for each NXentry that is a dataset, by its name; where the file is one, by an empty one."""
    if not schema.entries:
        return {"": schema}
    found = read_entries(file, data_directory=handling.data_directory, limits=limits)
    wanted = [name for name in found if _VALID_NAME.fullmatch(name) and fnmatchcase(name, schema.entries)]
    if not wanted:
        names = ", ".join(found[:_MOST_SHOWN]) or "no NXentry"
        raise PermanentError(
            f"The schema {schema.name} makes a dataset of each NXentry called {schema.entries}, and the file "
            f"has {names}.",
            remedy="Correct `entries` in the schema, or the file, then try the file again.",
        )
    if len(wanted) > MOST_ENTRIES:
        raise PermanentError(
            f"The schema {schema.name} makes a dataset of each of {len(wanted)} NXentry in the file; a run "
            f"makes {MOST_ENTRIES} at most.",
            remedy="Name fewer of them by `entries` in the schema, or let the file be one dataset.",
        )
    return {name: schema.for_entry(name) for name in wanted}


def _reads(entry: str, schema: Schema) -> Iterable[Read]:
    return (*reads_of(schema), *sample_reads(schema.sample_attachment), _instrument_of(entry))


def _instrument_of(entry: str) -> Read:
    """Where NeXus wants the instrument's name: NXentry/NXinstrument/name."""
    return Read(path=f"/{entry or 'entry'}/instrument/name")


def schema_of(
    file: CompleteFile, schemas: SchemaCollection, settings: Settings, *, limits: Limits = LIMITS
) -> Schema:
    """Choose the schema of a complete file, by its content where a selector needs that.

    Errors as for :func:`extract_metadata`.
    """

    def read(reads: tuple[Read, ...]) -> Reader:
        return values_of(file, reads, settings.ingestion.file_handling, limits)

    return schemas.select(file.path, read)


def values_of(
    file: CompleteFile, reads: Iterable[Read], handling: FileHandlingSettings, limits: Limits = LIMITS
) -> Reader:
    """The values of a complete file, through links as far as they are followed; errors as ``read_values``."""
    return read_values(
        file,
        reads,
        data_directory=handling.data_directory,
        linked_within=handling.links_within(file.path),
        limits=limits,
    )


def describe_files(
    file: CompleteFile,
    settings: Settings,
    announcement: FileWritten | None = None,
    other_files: Iterable[str] = (),
) -> FileDescription:
    """Measure a complete file and those that belong to it, and plan the ingestor's own files.

    Errors as for ``files.describe_file``.
    """
    check_unchanged(file)
    description = describe_file(
        Path(file.path),
        settings.ingestion.file_handling,
        announcement.model_dump(mode="json") if announcement else None,
        other_files,
    )
    check_unchanged(file)
    return description


def other_files_of(extracted: Iterable[ExtractedMetadata]) -> tuple[str, ...]:
    """The paths of the files that belong to a file, whichever of its datasets wants them."""
    return tuple(dict.fromkeys(path for metadata in extracted for path in metadata.other_files))


def unlisted_files(
    extracted: Sequence[ExtractedMetadata], settings: Settings, limits: Limits = LIMITS
) -> tuple[Notice, ...]:
    """A notice where a file refers to others that its datasets will not list. The file is looked through.

    Raises as :func:`scicat_dagster.files.reading.read_linked_files`.
    """
    file, wanted, handling = extracted[0].file, extracted[0].schema_.files, settings.ingestion.file_handling
    within = handling.links_within(file.path)
    if isinstance(wanted, Unusable) or wanted.linked or not within:
        return ()
    names = read_linked_files(file, data_directory=handling.data_directory, limits=limits)
    found, _ = other_files(file, names, within, (), handling.data_directory)
    listed = other_files_of(extracted)
    left = [path for path in found if path not in listed]
    if not left:
        return ()
    shown = ", ".join(PurePosixPath(path).name for path in left[:_MOST_SHOWN])
    reason = (
        f"The file refers to {numbered(len(left), 'other file')} that the dataset will not list: {shown}."
    )
    return (Notice(subject=SUBJECT, reason=f"{reason} `files: {{linked: true}}` in the schema lists them."),)


def build_each(
    extracted: Sequence[ExtractedMetadata], files: FileDescription, settings: Settings
) -> tuple[BuiltDataset, ...]:
    """The bodies to be posted of each dataset of a file, all of which list its files.

    Errors as for :func:`build`; also a :class:`PermanentError` where two datasets have the same pid.
    """
    built = tuple(build(metadata, files, settings) for metadata in extracted)
    check_pids(built, files)
    return built


def check_pids(built: Sequence[BuiltDataset], files: FileDescription) -> None:
    """Refuse datasets of a file of which two have the same pid.

    Raises
    ------
    FieldsError
        Two have.
    """
    times = Counter(dataset.dataset.get("pid") for dataset in built)
    for dataset in built:
        if times[pid := dataset.dataset.get("pid")] > 1:
            what = f"{times[pid]} datasets of {files.data_file.path} get the same pid, {pid}."
            raise FieldsError(
                what,
                remedy=f"Put <{ENTRY_VARIABLE}> into the pid that the schema assigns, or assign none; then "
                "try the file again.",
                reasons={"pid": Reason(what)},
            )


def build(metadata: ExtractedMetadata, files: FileDescription, settings: Settings) -> BuiltDataset:
    """The bodies to be posted of one dataset.

    Errors as for :func:`scicat_dagster.dataset.build.build_dataset`.
    """
    evaluation = metadata.evaluation()
    evaluation.notices.extend(files.notices)
    return build_dataset(
        metadata.schema_,
        evaluation,
        files,
        defaults=settings.dataset,
        handling=settings.ingestion.file_handling,
        sample_id=metadata.sample_id,
        entry=metadata.entry,
    )


def _linked_files(
    file: CompleteFile, schema: Schema, handling: FileHandlingSettings, limits: Limits
) -> tuple[str, ...]:
    """The names of the files that the file refers to, where the schema lists them."""
    is_wanted = not isinstance(schema.files, Unusable) and schema.files.linked
    if not is_wanted or not handling.links_within(file.path):
        return ()
    return read_linked_files(file, data_directory=handling.data_directory, limits=limits)


def _other_files(
    file: CompleteFile,
    schema: Schema,
    evaluation: Evaluation,
    linked: tuple[str, ...],
    handling: FileHandlingSettings,
) -> tuple[str, ...]:
    """The paths of the files that the schema lists with the data file; what fails is noted."""
    wanted = schema.files
    if isinstance(wanted, Unusable):
        evaluation.notices.append(Notice(subject=SUBJECT, reason=wanted.reason))
        return ()
    patterns = []
    for pattern in wanted.patterns:
        try:
            patterns.append(_rendered_pattern(pattern, schema, evaluation))
        except (LookupError, ValueError, TypeError) as error:
            evaluation.notices.append(notice_of(SUBJECT, evaluation.why(error)))
    within = handling.links_within(file.path)
    found, notices = other_files(file, linked, within, patterns, handling.data_directory)
    evaluation.notices.extend(notices)
    return found


def _rendered_pattern(pattern: str, schema: Schema, evaluation: Evaluation) -> str:
    """A pattern with the values of variables, none of which may lead to another folder."""
    rendered = str(render(pattern, evaluation.values, schema.variables).value)
    written, made = PurePosixPath(pattern).parts, PurePosixPath(rendered).parts
    if len(written) != len(made) or written.count("..") != made.count(".."):
        raise ValueError(f"The pattern {pattern!r} becomes {rendered!r}, which leads to another folder.")
    return rendered


def _built_in_variables(
    file: CompleteFile, schema: Schema, settings: Settings, announcement: FileWritten | None
) -> dict[str, Value]:
    path = Path(file.path)
    values = {
        "ingestor_run_id": Value(str(uuid.uuid4())),
        "data_file_path": Value(path.as_posix()),
        "data_file_name": Value(path.name),
        "now": Value(datetime.now(UTC).isoformat()),
        "ingestor_files_directory": Value(settings.ingestion.file_handling.ingestor_files_directory),
        "ingestor_metadata_schema_id": Value(schema.id),
    }
    if announcement is not None:
        values |= {
            "message_job_id": Value(announcement.job_id),
            "message_service_id": Value(announcement.service_id),
        }
        if not announcement.lacks_metadata:
            values["message_metadata"] = Value(announcement.metadata)
    return values


def _notices_of(announcement: FileWritten | None) -> tuple[Notice, ...]:
    """What of the announcement is not there, under the name of the variable that it would be."""
    if announcement is None or not announcement.lacks_metadata:
        return ()
    reason = f"The message's metadata was larger than {LARGEST_METADATA_BYTES // 1024} KiB and is not kept."
    return (Notice(subject="variables.message_metadata", reason=reason),)


def _instrument_name(entry: str, nexus: Reader) -> str:
    """The name of the instrument; empty where the file does not say it."""
    try:
        return str(nexus.read_one(_instrument_of(entry).path).value)
    except (LookupError, ValueError, TypeError):
        return ""
