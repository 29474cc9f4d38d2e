"""The steps of a run as plain functions: the metadata of a complete file, its manifest, the bodies to post.

Each writes nothing by itself. Registration, the step that does, belongs to
:mod:`scicat_dagster.scicat.registration`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict

from scicat_dagster.config.models import FileHandlingSettings, Settings
from scicat_dagster.dataset.build import BuiltDataset, build_dataset
from scicat_dagster.dataset.samples import Maker, SampleSource, find_sample_id, sample_reads
from scicat_dagster.errors import Notice
from scicat_dagster.files.description import describe_file
from scicat_dagster.files.identity import CompleteFile, check_unchanged
from scicat_dagster.files.linked_files import other_files
from scicat_dagster.files.manifest import FileDescription
from scicat_dagster.files.reading import Read, read_linked_files, read_values
from scicat_dagster.files.values import Reader
from scicat_dagster.isolation import LIMITS, Limits
from scicat_dagster.kafka.messages import FileWritten
from scicat_dagster.limits import LARGEST_METADATA_BYTES
from scicat_dagster.schemas.loading import SchemaCollection
from scicat_dagster.schemas.models import Schema, Unusable
from scicat_dagster.schemas.rendering import Value, render
from scicat_dagster.schemas.variables import Evaluation, evaluate_variables, notice_of, reads_of

_INSTRUMENT_NAME = Read(path="/entry/instrument/name")


class ExtractedMetadata(BaseModel):
    """What a schema's variables are for one file, and the schema itself.

    The schema travels along, so that a run in progress does not mix two versions of its file.
    """

    model_config = ConfigDict(frozen=True)

    file: CompleteFile
    schema_: Schema
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
) -> ExtractedMetadata:
    """Choose the schema of a complete file and evaluate its variables.

    A sample that the schema wants and the catalogue has not is made by ``make_sample``, where that is given;
    whatever it raises is raised.

    Raises
    ------
    PermanentError
        No schema is for the file, the one that is for it is broken, or libhdf5 crashes or loops on the file.
    TransientError
        The storage or the catalogue could not answer, or the file changed meanwhile.
    """
    schema = schema_of(file, schemas, settings, limits=limits)
    built_in = _built_in_variables(file, schema, settings, announcement)
    reads = (*reads_of(schema), *sample_reads(schema.sample_attachment), _INSTRUMENT_NAME)
    handling = settings.ingestion.file_handling
    nexus = values_of(file, reads, handling, limits)
    evaluation = evaluate_variables(schema, nexus, built_in, catalogue, _notices_of(announcement))
    sample_id = find_sample_id(schema.sample_attachment, nexus, catalogue, evaluation, make_sample)
    instrument = _instrument_name(nexus) or schema.instrument
    others = _other_files(file, schema, evaluation, handling, limits)
    check_unchanged(file)
    return ExtractedMetadata(
        file=file,
        schema_=schema,
        values={name: value.value for name, value in evaluation.values.items()},
        units={name: value.unit for name, value in evaluation.values.items() if value.unit},
        notices=(*schemas.notices(), *schemas.notices_about(schema), *evaluation.notices),
        consequences=tuple(sorted(evaluation.consequences)),
        sample_id=sample_id,
        other_files=others,
        instrument=instrument,
    )


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


def build(metadata: ExtractedMetadata, files: FileDescription, settings: Settings) -> BuiltDataset:
    """The bodies to be posted. Errors as for :func:`scicat_dagster.dataset.build.build_dataset`."""
    evaluation = metadata.evaluation()
    evaluation.notices.extend(files.notices)
    return build_dataset(
        metadata.schema_,
        evaluation,
        files,
        defaults=settings.dataset,
        handling=settings.ingestion.file_handling,
        sample_id=metadata.sample_id,
    )


def _other_files(
    file: CompleteFile, schema: Schema, evaluation: Evaluation, handling: FileHandlingSettings, limits: Limits
) -> tuple[str, ...]:
    """The paths of the files that the schema lists with the data file; what fails is noted."""
    wanted = schema.files
    if isinstance(wanted, Unusable):
        evaluation.notices.append(Notice(subject="files", reason=wanted.reason))
        return ()
    patterns = []
    for pattern in wanted.patterns:
        try:
            patterns.append(_rendered_pattern(pattern, schema, evaluation))
        except (LookupError, ValueError, TypeError) as error:
            evaluation.notices.append(notice_of("files", evaluation.why(error)))
    within = handling.links_within(file.path)
    linked: tuple[str, ...] = ()
    if wanted.linked and within:
        linked = read_linked_files(file, data_directory=handling.data_directory, limits=limits)
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


def _instrument_name(nexus: Reader) -> str:
    """The name of the file's instrument, where NeXus wants it: NXentry/NXinstrument/name."""
    try:
        return str(nexus.read_one(_INSTRUMENT_NAME.path).value)
    except (LookupError, ValueError, TypeError):
        return ""
