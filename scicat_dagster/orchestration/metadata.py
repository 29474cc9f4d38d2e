"""What the UI shows of datasets, differences and notices, as Dagster metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import dagster as dg

from scicat_dagster.config.loading import Version
from scicat_dagster.dataset.build import BuiltDataset
from scicat_dagster.dataset.ingestion import ExtractedMetadata
from scicat_dagster.errors import Notice, Problem
from scicat_dagster.files.manifest import FileDescription
from scicat_dagster.files.thumbnail_models import Thumbnail
from scicat_dagster.orchestration.tags import (
    DATA_FILE,
    ENTRY,
    FILE_SIZE,
    INSTRUMENT,
    IS_NEW,
    JOBS,
    NO_INSTRUMENT,
    NO_PROPOSAL,
    NUMBER_OF_FILES,
    PAGE,
    PID,
    PREVIEW,
    PROBLEM,
    PROPOSAL,
    SCHEMA,
    SCHEMA_ID,
    SIZE,
)
from scicat_dagster.scicat.correction import Change, shortened
from scicat_dagster.scicat.models import PostedJob
from scicat_dagster.scicat.registration import Registration
from scicat_dagster.usecases.thumbnails import DatasetPreview

MOST_ROWS = 500
"""Of a table: every event is kept in Dagster's database."""

Metadata = Mapping[str, dg.MetadataValue]


def table(columns: Sequence[str], rows: Iterable[Sequence[str | int]]) -> dg.TableMetadataValue:
    """A table of at most :data:`MOST_ROWS` rows; a column whose first value is a number is one of numbers."""
    shown = list(islice(rows, MOST_ROWS))
    types = ["int" if shown and isinstance(value, int) else "string" for value in (shown or [columns])[0]]
    return dg.MetadataValue.table(
        [dg.TableRecord(dict(zip(columns, row, strict=True))) for row in shown],
        schema=dg.TableSchema(
            [dg.TableColumn(name, kind) for name, kind in zip(columns, types, strict=True)]
        ),
    )


def problem_metadata(problem: Problem) -> dict[str, dg.MetadataValue[Any]]:
    """What the UI shows of a problem, and the problem itself for those who read it back."""
    return {
        "reason": dg.MetadataValue.text(problem.what),
        "what to do": dg.MetadataValue.text(problem.remedy),
        **{name: dg.MetadataValue.text(text) for name, text in problem.details.items()},
        PROBLEM: dg.MetadataValue.json(problem.model_dump(mode="json")),
    }


def difference_table(changes: Sequence[Change]) -> dg.TableMetadataValue:
    """The differences between a dataset in the catalogue and its file."""
    return table(
        ("field", "in the catalogue", "from the file", "what", "why"),
        (
            (
                change.field,
                shortened(change.in_catalogue),
                shortened(change.from_file),
                change.kind,
                change.reason,
            )
            for change in changes
        ),
    )


def notices_table(notices: Iterable[Notice]) -> dg.TableMetadataValue:
    """A table of what did not stop the file but should be seen."""
    return table(("what", "why"), ((notice.subject, notice.reason) for notice in notices))


def picture(thumbnail: Thumbnail | None, reason: str) -> dg.MetadataValue:
    """A picture as the UI shows it, or why there is none."""
    if thumbnail is None:
        return dg.MetadataValue.text(f"none: {reason}")
    # Letters only: what a file says must not act as markup on the page.
    alternative = "".join(letter if letter.isalnum() else " " for letter in thumbnail.caption)
    return dg.MetadataValue.md(f"![{alternative}]({thumbnail.data_url})")


def jobs_table(jobs: Iterable[PostedJob]) -> dg.TableMetadataValue:
    """What became of the jobs that a schema wants posted; its columns are the fields of the model."""
    return table(tuple(PostedJob.model_fields), (tuple(job.model_dump().values()) for job in jobs))


def jobs_in(metadata: Mapping[str, dg.MetadataValue]) -> tuple[PostedJob, ...]:
    """The jobs of a materialization, read back from :func:`jobs_table`."""
    shown = metadata.get(JOBS)
    if not isinstance(shown, dg.TableMetadataValue):
        return ()
    return tuple(PostedJob.model_validate(record.data) for record in shown.records)


def entry_in(metadata: Mapping[str, dg.MetadataValue]) -> str:
    """The NXentry that a materialization is about; empty where its dataset is the whole file."""
    return str(metadata[ENTRY].value) if ENTRY in metadata else ""


_LARGEST_SHOWN = 256 * 1024
"""Every run's events are kept in Dagster's database; larger datasets are to be looked at in the catalogue."""


def dataset_metadata(
    metadata: ExtractedMetadata,
    files: FileDescription,
    built: BuiltDataset,
    registration: Registration,
    preview: DatasetPreview,
    *,
    page: str,
    configuration: Version,
    stages: Mapping[str, float],
) -> Metadata:
    """The metadata of a materialization of ``raw_dataset``; ``page`` shows the dataset in the catalogue,
    ``configuration`` is the version of the configuration file that was in force, and ``stages`` are seconds.
    """
    notices = (*built.notices, *registration.notices, *preview.notices)
    shown: dict[str, dg.MetadataValue] = {
        PID: dg.MetadataValue.text(registration.pid),
        PAGE: dg.MetadataValue.url(page),
        DATA_FILE: dg.MetadataValue.path(files.data_file.path),
        **({ENTRY: dg.MetadataValue.text(metadata.entry)} if metadata.entry else {}),
        SCHEMA: dg.MetadataValue.text(metadata.schema_.name),
        SCHEMA_ID: dg.MetadataValue.text(metadata.schema_.id),
        "configuration": dg.MetadataValue.text(str(configuration)),
        INSTRUMENT: dg.MetadataValue.text(metadata.instrument or NO_INSTRUMENT),
        PROPOSAL: dg.MetadataValue.text(str(built.dataset.get("proposalId") or NO_PROPOSAL)),
        NUMBER_OF_FILES: dg.MetadataValue.int(len(files.all_files)),
        SIZE: dg.MetadataValue.int(sum(file.size for file in files.all_files)),
        FILE_SIZE: dg.MetadataValue.int(files.data_file.size),
        IS_NEW: dg.MetadataValue.bool(registration.created_dataset),
        "this run created": dg.MetadataValue.text(_created(registration)),
        "variables and fields that failed": dg.MetadataValue.int(len(notices)),
        "dataset": _dataset_json(built),
    }
    if notices:
        shown["what failed and why"] = notices_table(notices)
    shown[PREVIEW] = picture(preview.thumbnail, preview.reason)
    if registration.jobs:
        shown[JOBS] = jobs_table(registration.jobs)
    return shown | {name: dg.MetadataValue.float(round(seconds, 3)) for name, seconds in stages.items()}


def _created(registration: Registration) -> str:
    match registration.created_dataset, registration.created_origdatablock:
        case True, True:
            return "dataset and origdatablock"
        case False, True:
            return "the origdatablock; the dataset was there"
        case _:
            return "nothing; both were there"


def _dataset_json(built: BuiltDataset) -> dg.MetadataValue:
    if len(json.dumps(built.dataset)) > _LARGEST_SHOWN:
        return dg.MetadataValue.text("Too large to be shown here; see it in SciCat.")
    return dg.MetadataValue.json(built.dataset)
