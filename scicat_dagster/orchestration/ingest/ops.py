"""The ops of a run, one per step of the pipeline; each step itself is in :mod:`scicat_dagster.dataset`.

Between ops travel small pydantic models, so that a run can be re-executed from the op that failed, in
another process. A run is about one file, or about the many of a backfill: ``per_file`` has the difference.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scicat_dagster.dataset import ingestion
from scicat_dagster.dataset.build import BuiltDataset
from scicat_dagster.dataset.ingestion import ExtractedMetadata, other_files_of
from scicat_dagster.dataset.jobs import wanted_jobs
from scicat_dagster.dataset.samples import Sample
from scicat_dagster.errors import IngestionError, PermanentError, TransientError, messages_of
from scicat_dagster.files.access import size_of
from scicat_dagster.files.identity import CompleteFile
from scicat_dagster.files.manifest import FileDescription
from scicat_dagster.files.paths import canonical_path
from scicat_dagster.files.readiness import wait_until_complete
from scicat_dagster.files.sidecars import add_sidecars, write_sidecars
from scicat_dagster.kafka.messages import FileWritten
from scicat_dagster.limits import tag_value
from scicat_dagster.orchestration.facility import facility_in
from scicat_dagster.orchestration.failures.policy import is_op_retried
from scicat_dagster.orchestration.ingest.dry_run import would_be_posted
from scicat_dagster.orchestration.ingest.per_file import (
    PerFile,
    each_file,
    failure_of,
    is_batch_run,
    log_materializations,
)
from scicat_dagster.orchestration.ingest.quality_checks import job_news, news
from scicat_dagster.orchestration.metadata import Metadata, dataset_metadata
from scicat_dagster.orchestration.names import Names
from scicat_dagster.orchestration.partitions import key_of, path_of
from scicat_dagster.orchestration.tags import (
    FILE_TAG,
    INSTRUMENT_TAG,
    MAX_RUNTIME_TAG,
    PROPOSAL_TAG,
    RAW_DATASET,
    SECONDS_AT_WORK,
    SECONDS_IN_QUEUE,
    SECONDS_SINCE_MESSAGE,
    SECONDS_UNTIL_REQUESTED,
    TOPIC_TAG,
    kinds,
)
from scicat_dagster.scicat.cache import CachedAnswers
from scicat_dagster.scicat.jobs import with_jobs
from scicat_dagster.scicat.registration import Registration, register, register_new, unregistered
from scicat_dagster.usecases.samples import make_sample
from scicat_dagster.usecases.thumbnails import DatasetPreview, attach_preview, not_attached

_SLOWEST_STORAGE = 10_000_000
"""Bytes in a second."""
_UNREMARKABLE_SECONDS = 60

_SAMPLE_LATER = "When SciCat has the sample, `scicat-dagster reingest` attaches it."


class AnnouncementConfig(dg.Config):
    """The message that announced the file, as the JSON of a ``FileWritten``; empty when there was none.

    Text, because Dagster refuses run configuration with nulls inside, which a message's metadata may hold,
    and a tick that requests one refused run fails again and again.
    """

    announcement: str = ""
    dry_run: bool = Field(
        default=False,
        description="Write nothing, neither here nor into the catalogue; show what would be posted.",
    )


class AnnouncedFile(BaseModel):
    """A complete file and the message that announced it, if there was one."""

    model_config = ConfigDict(frozen=True)

    file: CompleteFile
    announcement: FileWritten | None = None
    is_dry_run: bool = False
    """Whether its run writes nothing."""


class Converged(BaseModel):
    """What the catalogue holds for a dataset now."""

    model_config = ConfigDict(frozen=True)

    registration: Registration
    preview: DatasetPreview


class ReadFile(BaseModel):
    """An announced file and what its schema made of it."""

    model_config = ConfigDict(frozen=True)

    announced: AnnouncedFile
    extracted: tuple[ExtractedMetadata, ...]
    """Of each dataset that the file is, most often one."""


class Prepared(ReadFile):
    """Everything that registering a file needs: one input, because Dagster tells of each."""

    files: FileDescription
    built: tuple[BuiltDataset, ...]
    """In the order of what was extracted."""

    @property
    def datasets(self) -> Iterator[tuple[ExtractedMetadata, BuiltDataset]]:
        """What was extracted for each dataset, and what was built of it."""
        return zip(self.extracted, self.built, strict=True)


@cache
def wait_for_file(names: Names) -> dg.OpDefinition:
    """The first op of the pipeline."""

    @dg.op(
        name=names.name("wait_for_file"),
        required_resource_keys={names.facility},
        out=dg.Out(io_manager_key=names.io_manager),
        ins={"announcements": dg.In(dg.Nothing)},
        tags=kinds("hdf5"),
        description="Wait until the file writer is done: the file opens, and its size and mtime are stable. "
        "One that nobody has written for a minute is not opened for that.",
    )
    def wait_for_file(context: dg.OpExecutionContext, config: AnnouncementConfig) -> PerFile[AnnouncedFile]:
        facility = facility_in(context, names)
        handling = facility.settings.ingestion.file_handling
        # A worker does not wait for one file of many: what is not ready gets a run of its own.
        delays = () if is_batch_run(context) else handling.retry_delays()

        def wait(key: str, _: None) -> AnnouncedFile:
            announcement = _announcement(config)
            path = _partition_path(key, handling.data_directory)
            file = wait_until_complete(path, delays, data_directory=handling.data_directory)
            is_dry_run = config.dry_run or facility.settings.ingestion.dry_run
            return AnnouncedFile(file=file, announcement=announcement, is_dry_run=is_dry_run)

        # Asking for all keys of a run costs the database some answers.
        keys = context.partition_keys if is_batch_run(context) else [context.partition_key]
        files = PerFile[None](made=dict.fromkeys(keys))
        announced = each_file(context, PerFile[AnnouncedFile], facility.op_pauses, files, wait)
        context.add_output_metadata({"configuration": str(facility.configuration.version)})
        _allow_time_for(context, sum(found.file.size for found in announced.made.values()))
        return announced

    return wait_for_file


def _allow_time_for(context: dg.OpExecutionContext, size: int) -> None:
    """Let a run that reads so many bytes take longer: Dagster's monitoring would think that it hangs."""
    allowed = context.instance.run_monitoring_max_runtime_seconds
    longer = seconds_to_read(size)
    if allowed and longer > _UNREMARKABLE_SECONDS:
        context.instance.add_run_tags(context.run_id, {MAX_RUNTIME_TAG: str(allowed + longer)})


@cache
def extract_metadata(names: Names) -> dg.OpDefinition:
    """The second op: what its schema makes of a file."""

    @dg.op(
        name=names.name("extract_metadata"),
        required_resource_keys={names.facility},
        out=dg.Out(io_manager_key=names.io_manager),
        tags=kinds("hdf5", "scicat"),
        description="Choose the schema of the file and evaluate its variables on the file and the catalogue.",
    )
    def extract_metadata(
        context: dg.OpExecutionContext,
        announced: PerFile[AnnouncedFile],
    ) -> PerFile[ReadFile]:
        facility = facility_in(context, names)
        catalogue = CachedAnswers(facility.answers if _is_first_run(context.run) else facility.catalogue)

        def made(sample: Sample) -> str:
            try:
                return make_sample(sample, facility.catalogue, facility.settings).id
            except PermanentError as error:
                raise LookupError(f"{error.what} {_SAMPLE_LATER}") from None
            except TransientError as error:
                # Tried again a few times; then a dataset must not wait for its sample.
                if is_batch_run(context) or is_op_retried(context, facility.op_pauses, error):
                    raise
                raise LookupError(f"{error.what} {_SAMPLE_LATER}") from None

        def extract(_: str, found: AnnouncedFile) -> ReadFile:
            makes_samples = facility.settings.ingestion.samples and not found.is_dry_run
            extracted = ingestion.extract_metadata(
                found.file,
                facility.schemas(),
                catalogue,
                facility.settings,
                found.announcement,
                # Its run may have failed, or not be over; whoever comes first makes it.
                make_sample=made if makes_samples else None,
            )
            notices = facility.current.notices()
            return ReadFile(
                announced=found,
                extracted=tuple(
                    metadata.model_copy(update={"notices": (*notices, *metadata.notices)})
                    for metadata in extracted
                ),
            )

        return each_file(context, PerFile[ReadFile], facility.op_pauses, announced, extract)

    return extract_metadata


@cache
def describe_files(names: Names) -> dg.OpDefinition:
    """The third op: the files of the dataset."""

    @dg.op(
        name=names.name("describe_files"),
        required_resource_keys={names.facility},
        out=dg.Out(io_manager_key=names.io_manager),
        tags=kinds("hdf5"),
        description="Measure the file and those that belong to it: size, time, owner, checksum; write "
        "checksum and announcement beside it.",
    )
    def describe_files(
        context: dg.OpExecutionContext,
        metadata: PerFile[ReadFile],
    ) -> PerFile[FileDescription]:
        facility = facility_in(context, names)
        others = [Path(other) for read in metadata.made.values() for other in other_files_of(read.extracted)]
        if others:
            sizes = [read.announced.file.size for read in metadata.made.values()]
            _allow_time_for(context, sum(sizes) + sum(size_of(other) for other in others))

        def describe(_: str, read: ReadFile) -> FileDescription:
            announced = read.announced
            description = ingestion.describe_files(
                announced.file, facility.settings, announced.announcement, other_files_of(read.extracted)
            )
            if not announced.is_dry_run:
                add_sidecars(description)
            return description

        return each_file(context, PerFile[FileDescription], facility.op_pauses, metadata, describe)

    return describe_files


@cache
def build_dataset(names: Names) -> dg.OpDefinition:
    """The fourth op: the request bodies."""

    @dg.op(
        name=names.name("build_dataset"),
        required_resource_keys={names.facility},
        out=dg.Out(io_manager_key=names.io_manager),
        tags=kinds("scicat"),
        description="Put the dataset and its file list together as the catalogue wants them.",
    )
    def build_dataset(
        context: dg.OpExecutionContext,
        metadata: PerFile[ReadFile],
        files: PerFile[FileDescription],
    ) -> PerFile[Prepared]:
        facility = facility_in(context, names)

        def build(key: str, read: ReadFile) -> Prepared:
            described = files.made[key]
            try:
                built = ingestion.build_each(read.extracted, described, facility.settings)
            except IngestionError:
                # Who looks for the failures of an instrument is to find this one.
                if not is_batch_run(context):
                    _add_common_tags(
                        context, {INSTRUMENT_TAG: {found.instrument for found in read.extracted}}
                    )
                raise
            return Prepared(announced=read.announced, extracted=read.extracted, files=described, built=built)

        complete = PerFile[ReadFile](
            made={key: read for key, read in metadata.made.items() if key in files.made},
            deferred=metadata.deferred | files.deferred,
        )
        prepared = each_file(context, PerFile[Prepared], facility.op_pauses, complete, build)
        datasets = [dataset for made in prepared.made.values() for dataset in made.datasets]
        tags = {
            FILE_TAG: {Path(key).name for key in prepared.made},
            INSTRUMENT_TAG: {extracted.instrument for extracted, _ in datasets},
            PROPOSAL_TAG: {str(built.dataset.get("proposalId") or "") for _, built in datasets},
        }
        _add_common_tags(context, tags)
        for _, built in datasets:
            for notice in built.notices:
                context.log.warning("%s: %s: %s", Path(built.source).name, notice.subject, notice.reason)
        return prepared

    return build_dataset


def _add_common_tags(context: dg.OpExecutionContext, tags: Mapping[str, set[str]]) -> None:
    """Tag the run with those values that all its datasets have in common."""
    common = {name: tag_value(next(iter(values))) for name, values in tags.items() if len(values) == 1}
    context.instance.add_run_tags(context.run_id, {name: value for name, value in common.items() if value})


@cache
def register_dataset(names: Names) -> dg.OpDefinition:
    """The last op."""

    @dg.op(
        name=names.name("register_dataset"),
        required_resource_keys={names.facility},
        tags=kinds("scicat"),
        description="Make sure that the catalogue holds the dataset and its origdatablock, each exactly "
        "once.",
        # Nothing to store: an IO manager would take the partition key, a path, for a place to write to.
        out=dg.Out(dg.Nothing, is_required=False),
    )
    def register_dataset(
        context: dg.OpExecutionContext,
        prepared: PerFile[Prepared],
    ) -> Any:
        facility = facility_in(context, names)
        # Also where the brake was pulled after the run had begun.
        braked = facility.settings.ingestion.dry_run
        if braked or any(made.announced.is_dry_run for made in prepared.made.values()):
            for key, made in prepared.made.items():
                for metadata, built in made.datasets:
                    context.log_event(would_be_posted(key, built, metadata, facility))
            return

        files = [built for made in prepared.made.values() for built in made.built if is_batch_run(context)]
        new = unregistered(files, facility.catalogue, facility.settings.ingestion)

        def converge(_: str, made: Prepared) -> tuple[Converged, ...]:
            return tuple(
                converged(metadata, built, partial(write_sidecars, made.files))
                for metadata, built in made.datasets
            )

        def converged(
            metadata: ExtractedMetadata, built: BuiltDataset, before_listing: Callable[[], None]
        ) -> Converged:
            converging = register_new if built.data_file in new else register
            registration = converging(
                built, facility.catalogue, facility.settings.ingestion, before_listing=before_listing
            )
            wanted = wanted_jobs(metadata, built, registration.pid)
            registration = with_jobs(registration, wanted, facility.catalogue)
            return Converged(registration=registration, preview=attached(metadata, built, registration))

        def attached(
            metadata: ExtractedMetadata, built: BuiltDataset, registration: Registration
        ) -> DatasetPreview:
            try:
                return attach_preview(metadata, built, registration, facility.catalogue, facility.settings)
            except TransientError as error:
                # Tried again a few times; then a registered file must not fail for want of a picture.
                if is_batch_run(context) or is_op_retried(context, facility.op_pauses, error):
                    raise
                return not_attached(error)

        registered = each_file(
            context, PerFile[tuple[Converged, ...]], facility.op_pauses, prepared, converge
        )
        done = [
            (key, metadata, built, found)
            for key, datasets in registered.made.items()
            for (metadata, built), found in zip(prepared.made[key].datasets, datasets, strict=True)
        ]

        def shown(key: str, metadata: ExtractedMetadata, built: BuiltDataset, found: Converged) -> Metadata:
            made = prepared.made[key]
            return dataset_metadata(
                metadata,
                made.files,
                built,
                found.registration,
                found.preview,
                page=facility.catalogue.dataset_page(found.registration.pid),
                configuration=facility.configuration.version,
                stages=_stages(context, made.announced.announcement),
            )

        pids = {found.registration.pid: built for _, _, built, found in done}
        created = {found.registration.pid for *_, found in done if found.registration.is_new_as_sent}
        jobs = {built.source: found.registration.jobs for _, _, built, found in done}
        for evaluation in (*news(facility, context.instance, pids, created), *job_news(jobs, names)):
            context.log_event(evaluation)  # type: ignore[arg-type] # It takes them, its annotation says less.
        materializations = [
            dg.AssetMaterialization(names.key(RAW_DATASET), partition=dataset[0], metadata=shown(*dataset))
            for dataset in done
        ]
        if is_batch_run(context):
            log_materializations(context, materializations)
            if registered.deferred:
                raise failure_of(context, registered.deferred)
            return
        # The output of an asset is a materialization, too.
        *others, last = materializations
        yield from others
        yield dg.Output(None, metadata=last.metadata)

    return register_dataset


def _is_first_run(run: dg.DagsterRun) -> bool:
    """Whether a file was just announced. A re-execution may follow a correction in the catalogue."""
    return TOPIC_TAG in run.tags and run.parent_run_id is None


def _stages(context: dg.OpExecutionContext, announcement: FileWritten | None) -> dict[str, float]:
    """How long an announced file waited for what, in seconds; Dagster plots them over the files."""
    if announcement is None or announcement.announced_at_ms is None:
        return {}
    announced, now = announcement.announced_at_ms / 1000, time.time()
    stages = {SECONDS_SINCE_MESSAGE: now - announced}
    # A batch run, and one that is executed again, was not requested because of the message.
    if is_batch_run(context) or not _is_first_run(context.run):
        return stages
    (record,) = context.instance.get_run_records(dg.RunsFilter(run_ids=[context.run_id]))
    requested = record.create_timestamp.timestamp()
    begun = record.start_time or now
    return stages | {
        SECONDS_UNTIL_REQUESTED: requested - announced,
        SECONDS_IN_QUEUE: begun - requested,
        SECONDS_AT_WORK: now - begun,
    }


def seconds_to_read(size: int) -> int:
    """How long reading so many bytes may take on a slow storage; a checksum reads the whole file."""
    return size // _SLOWEST_STORAGE


def _announcement(config: AnnouncementConfig) -> FileWritten | None:
    if not config.announcement:
        return None
    try:
        return FileWritten.model_validate_json(config.announcement)
    except ValidationError as error:
        raise PermanentError(
            f"The announcement in the run's configuration is not one: {messages_of(error)}.",
            remedy="Leave it out to register the file without its message, or correct it.",
        ) from None


def _partition_path(partition_key: str, data_directory: str) -> Path:
    """The file of a partition. A key may have been typed by a person."""
    try:
        path = canonical_path(path_of(partition_key, data_directory), data_directory)
    except ValueError as error:
        raise PermanentError(
            str(error),
            remedy="Add the right path, or correct ingestion.file_handling.data_directory; "
            "`scicat-dagster failures --dismiss` deletes this partition.",
        ) from None
    key = key_of(path, data_directory)
    if key != partition_key:
        raise PermanentError(
            f"The partition key {partition_key} is not the file's.",
            remedy=f"Delete this partition; the file's is {key}.",
        )
    return Path(path)
