"""The datasets of a file made from disk once more.

It is the one way for a preview, ``validate --against``, checks and reingest.
What only the announcement knew, such as the job id, comes from the copy that was
beside the data. Making a dataset within a run is ``ingestion``'s, whose steps are used here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from scicat_dagster.config.models import FileHandlingSettings, Settings
from scicat_dagster.dataset import ingestion
from scicat_dagster.dataset.build import BuiltDataset
from scicat_dagster.dataset.ingestion import ExtractedMetadata
from scicat_dagster.dataset.samples import SampleSource
from scicat_dagster.errors import PermanentError
from scicat_dagster.files.access import status_of
from scicat_dagster.files.identity import complete_file
from scicat_dagster.files.manifest import FileDescription
from scicat_dagster.files.paths import canonical_path
from scicat_dagster.files.reading import Read, look_at
from scicat_dagster.files.sidecars import sidecar_directory
from scicat_dagster.files.values import Reader
from scicat_dagster.kafka.messages import FileWritten
from scicat_dagster.schemas.loading import SchemaCollection
from scicat_dagster.schemas.models import Schema

_LARGEST_ANNOUNCEMENT_BYTES = 4 * 1024 * 1024
"""More than any announcement; the file lies where others may write."""


def extract_again(
    file: str, schemas: SchemaCollection, catalogue: SampleSource, settings: Settings
) -> tuple[ExtractedMetadata, ...]:
    """The metadata of each dataset of a file on disk; raises as :func:`ingestion.extract_metadata`."""
    handling = settings.ingestion.file_handling
    path = _canonical(file, handling)
    announcement = saved_announcement(path, handling)
    found = look_at(path, data_directory=handling.data_directory)
    return ingestion.extract_metadata(found, schemas, catalogue, settings, announcement)


def choose_again(file: str, schemas: SchemaCollection, settings: Settings) -> Schema:
    """The schema of a file on disk, which is read only where a selector needs its content.

    Raises as :func:`ingestion.schema_of`.
    """
    handling = settings.ingestion.file_handling
    path = _canonical(file, handling)

    def read(reads: tuple[Read, ...]) -> Reader:
        found = look_at(path, data_directory=handling.data_directory)
        return ingestion.values_of(found, reads, handling)

    return schemas.select(str(path), read)


def count_again(file: str, schemas: SchemaCollection, settings: Settings) -> int:
    """How many datasets a file on disk is, which was complete before; raises as :func:`ingestion.entries_of`.

    It is opened only where its schema makes a dataset of each NXentry, or a selector needs its content.
    """
    schema = choose_again(file, schemas, settings)
    if not schema.entries:
        return 1
    path = _canonical(file, settings.ingestion.file_handling)
    return len(ingestion.entries_of(complete_file(path, status_of(path)), schema, settings))


def _canonical(file: str, handling: FileHandlingSettings) -> Path:
    try:
        return Path(canonical_path(file, handling.data_directory))
    except ValueError as error:
        raise PermanentError(str(error), remedy="Give the path of a file in the data directory.") from None


def describe_again(extracted: Sequence[ExtractedMetadata], settings: Settings) -> FileDescription:
    """The file list, as a run would make it; raises as :func:`ingestion.describe_files`."""
    file = extracted[0].file
    announcement = saved_announcement(Path(file.path), settings.ingestion.file_handling)
    return ingestion.describe_files(file, settings, announcement, ingestion.other_files_of(extracted))


def build_again(extracted: Sequence[ExtractedMetadata], settings: Settings) -> tuple[BuiltDataset, ...]:
    """The datasets and their file list; raises as :func:`describe_again` and :func:`ingestion.build_each`."""
    return ingestion.build_each(extracted, describe_again(extracted, settings), settings)


def saved_announcement(path: Path, handling: FileHandlingSettings) -> FileWritten | None:
    """The message that announced a file, from where its registration kept it; None where there is none."""
    # Before 26.11 files that differ in their extension only shared one.
    names = (f"{name}.{handling.message_file_extension}" for name in (path.name, path.stem))
    folder = sidecar_directory(path, handling)
    kept = (_announcement_in(folder / name, path) for name in names)
    return next((announcement for announcement in kept if announcement is not None), None)


def _announcement_in(kept: Path, path: Path) -> FileWritten | None:
    try:
        # A pipe that somebody put there would be waited for.
        file = os.open(kept, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(file, "rb") as stream:
            text = stream.read(_LARGEST_ANNOUNCEMENT_BYTES)
        message = FileWritten.model_validate_json(text)
    except (OSError, ValidationError):
        # None was kept, or by another ingestor in its own form.
        return None
    return message if message.file_path == str(path) else None
