"""The ops of a run, one per step of the way of a file; what a step does is in ``scicat_dagster.ingestion``.

Between ops travel small pydantic models, so that a run can be re-executed from the op that failed, in
another process.
"""

import time
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import BaseModel, ConfigDict, ValidationError

from scicat_dagster import ingestion
from scicat_dagster.dataset import BuiltDataset
from scicat_dagster.errors import PermanentError
from scicat_dagster.files import FileDescription, canonical_path, write_sidecars
from scicat_dagster.ingestion import ExtractedMetadata
from scicat_dagster.messages import FileWritten
from scicat_dagster.nexus import CompleteFile, wait_until_complete
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.failures import explained
from scicat_dagster.orchestration.metadata import dataset_metadata
from scicat_dagster.scicat.registration import register

_SLOWEST_STORAGE = 10_000_000
"""Bytes in a second."""
_UNREMARKABLE_SECONDS = 60


class AnnouncementConfig(dg.Config):
    """The message that announced the file, as the JSON of a ``FileWritten``; empty when there was none.

    Text, because Dagster refuses run configuration with nulls inside, which a message's metadata may hold,
    and a tick that requests one refused run fails again and again.
    """

    announcement: str = ""


class AnnouncedFile(BaseModel):
    """A complete file and the message that announced it, if there was one."""

    model_config = ConfigDict(frozen=True)

    file: CompleteFile
    announcement: FileWritten | None = None


@dg.op(
    description="Wait until the file writer is done: the file opens, and its size and time stand still.",
)
def wait_for_file(
    context: dg.OpExecutionContext, facility: dg.ResourceParam[Facility], config: AnnouncementConfig
) -> AnnouncedFile:
    handling = facility.settings.ingestion.file_handling
    with explained(context, facility.op_pauses):
        announcement = _announcement(config)
        path = _partition_path(context.partition_key, handling.data_directory)
        file = wait_until_complete(path, handling.retry_delays())
    allowed = context.instance.run_monitoring_max_runtime_seconds
    if allowed and (longer := seconds_to_read(file.size)) > _UNREMARKABLE_SECONDS:
        # Dagster's monitoring would take a run that reads a huge file for one that hangs.
        context.instance.add_run_tags(context.run_id, {"dagster/max_runtime": str(allowed + longer)})
    return AnnouncedFile(file=file, announcement=announcement)


@dg.op(
    description="Choose the schema of the file and evaluate its variables on the file and the catalogue.",
)
def extract_metadata(
    context: dg.OpExecutionContext, facility: dg.ResourceParam[Facility], announced: AnnouncedFile
) -> ExtractedMetadata:
    with explained(context, facility.op_pauses):
        return ingestion.extract_metadata(
            announced.file,
            facility.schemas(),
            facility.catalogue,
            facility.settings,
            announced.announcement,
        )


@dg.op(
    description="Measure the file: size, time, owner, checksum; write checksum and announcement beside it.",
)
def describe_files(
    context: dg.OpExecutionContext, facility: dg.ResourceParam[Facility], announced: AnnouncedFile
) -> FileDescription:
    with explained(context, facility.op_pauses):
        description = ingestion.describe_files(announced.file, facility.settings, announced.announcement)
        if not facility.settings.ingestion.dry_run:
            write_sidecars(description)
        return description


@dg.op(
    description="Put the dataset and its file list together as the catalogue wants them.",
)
def build_dataset(
    context: dg.OpExecutionContext,
    facility: dg.ResourceParam[Facility],
    metadata: ExtractedMetadata,
    files: FileDescription,
) -> BuiltDataset:
    with explained(context, facility.op_pauses):
        built = ingestion.build(metadata, files, facility.settings)
    tags = {
        "scicat/instrument": metadata.instrument,
        "scicat/proposal": str(built.dataset.get("proposalId") or ""),
    }
    context.instance.add_run_tags(context.run_id, {name: value for name, value in tags.items() if value})
    for notice in built.notices:
        context.log.warning("%s: %s", notice.subject, notice.reason)
    return built


@dg.op(
    description="Make sure that the catalogue holds the dataset and its origdatablock, each exactly once.",
    # Nothing to store: an IO manager would take the partition key, a path, for a place to write to.
    out=dg.Out(dg.Nothing, is_required=False),
)
def register_dataset(
    context: dg.OpExecutionContext,
    facility: dg.ResourceParam[Facility],
    announced: AnnouncedFile,
    metadata: ExtractedMetadata,
    files: FileDescription,
    built: BuiltDataset,
) -> Any:
    if facility.settings.ingestion.dry_run:
        context.log_event(
            dg.AssetObservation(
                "raw_dataset",
                partition=context.partition_key,
                description="Dry run: nothing was registered.",
                metadata={"would be posted": dg.MetadataValue.json(built.model_dump(mode="json"))},
            )
        )
        return
    with explained(context, facility.op_pauses):
        registration = register(built, facility.catalogue, facility.settings.ingestion)
    announced_at = announced.announcement.announced_at_ms if announced.announcement else None
    yield dg.Output(
        None,
        metadata=dataset_metadata(
            metadata,
            files,
            built,
            registration,
            page=facility.catalogue.dataset_page(registration.pid),
            seconds_since_announcement=None if announced_at is None else time.time() - announced_at / 1000,
        ),
    )


def seconds_to_read(size: int) -> int:
    """How long reading so many bytes may take on a slow storage; a checksum reads the whole file."""
    return size // _SLOWEST_STORAGE


def _announcement(config: AnnouncementConfig) -> FileWritten | None:
    if not config.announcement:
        return None
    try:
        return FileWritten.model_validate_json(config.announcement)
    except ValidationError as error:
        mistakes = "; ".join(
            f"{'.'.join(map(str, detail['loc']))} {detail['msg']}" for detail in error.errors()
        )
        raise PermanentError(
            f"The announcement in the run's configuration is not one: {mistakes}.",
            remedy="Leave it out to register the file without its message, or correct it.",
        ) from None


def _partition_path(partition_key: str, data_directory: str) -> Path:
    """The file of a partition. A key may have been typed by a person."""
    try:
        path = canonical_path(partition_key, data_directory)
    except ValueError as error:
        raise PermanentError(str(error), remedy="Delete this partition and add the right path.") from None
    if path != partition_key:
        raise PermanentError(
            f"The partition key {partition_key} is not spelled canonically.",
            remedy=f"Delete this partition; the file's is {path}.",
        )
    return Path(path)
