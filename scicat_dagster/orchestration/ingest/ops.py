"""The ops of a run, one per step of the pipeline; each step itself is in :mod:`scicat_dagster.dataset`.

Between ops travel small pydantic models, so that a run can be re-executed from the op that failed, in
another process. A run is about one file, or about the many of a backfill: ``per_file`` has the difference,
and makes an op of what is to be done with one file.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from scicat_dagster.orchestration.ingest.dry_run import would_be_posted
from scicat_dagster.orchestration.ingest.per_file import (
    FileRun,
    PerFile,
    failure_of,
    log_materializations,
    per_file_op,
)
from scicat_dagster.orchestration.ingest.quality_checks import job_news, news
from scicat_dagster.orchestration.metadata import Metadata, dataset_metadata
from scicat_dagster.orchestration.names import Names
from scicat_dagster.orchestration.partitions import key_of, path_of
from scicat_dagster.orchestration.tags import (
    FILE_TAG,
    INSTRUMENT_TAG,
    PROPOSAL_TAG,
    RAW_DATASET,
    SECONDS_AT_WORK,
    SECONDS_IN_QUEUE,
    SECONDS_SINCE_MESSAGE,
    SECONDS_UNTIL_REQUESTED,
    kinds,
)
from scicat_dagster.scicat.jobs import with_jobs
from scicat_dagster.scicat.registration import Registration, register, register_new, unregistered
from scicat_dagster.usecases.samples import make_sample
from scicat_dagster.usecases.thumbnails import DatasetPreview, attach_preview, not_attached

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
        run = FileRun(context, names)
        files = PerFile[AnnouncementConfig](made=dict.fromkeys(run.keys(), config))
        announced = run.each(PerFile[AnnouncedFile], files, partial(_complete_file, run))
        context.add_output_metadata({"configuration": str(run.facility.configuration.version)})
        return announced

    return wait_for_file


def _complete_file(run: FileRun, key: str, config: AnnouncementConfig) -> AnnouncedFile:
    ingestion_settings = run.facility.settings.ingestion
    handling = ingestion_settings.file_handling
    # A worker does not wait for one file of many: what is not ready gets a run of its own.
    delays = () if run.is_batch else handling.retry_delays()
    announcement = _announcement(config)
    path = _partition_path(key, handling.data_directory)
    file = wait_until_complete(path, delays, data_directory=handling.data_directory)
    run.allow_time_for(file.size)
    is_dry_run = config.dry_run or ingestion_settings.dry_run
    return AnnouncedFile(file=file, announcement=announcement, is_dry_run=is_dry_run)


@per_file_op(
    of=("hdf5", "scicat"),
    description="Choose the schema of the file and evaluate its variables on the file and the catalogue.",
)
def extract_metadata(run: FileRun, announced: AnnouncedFile) -> ReadFile:
    """The second op: what its schema makes of a file."""
    facility = run.facility
    makes_samples = facility.settings.ingestion.samples and not announced.is_dry_run
    extracted = ingestion.extract_metadata(
        announced.file,
        facility.schemas(),
        run.answers,
        facility.settings,
        announced.announcement,
        # Its run may have failed, or not be over; whoever comes first makes it.
        make_sample=partial(_made_sample, run) if makes_samples else None,
    )
    notices = facility.current.notices()
    return ReadFile(
        announced=announced,
        extracted=tuple(
            metadata.model_copy(update={"notices": (*notices, *metadata.notices)}) for metadata in extracted
        ),
    )


def _made_sample(run: FileRun, sample: Sample) -> str:
    try:
        return make_sample(sample, run.facility.catalogue, run.facility.settings).id
    except PermanentError as error:
        raise LookupError(f"{error.what} {_SAMPLE_LATER}") from None
    except TransientError as error:
        # Tried again a few times; then a dataset must not wait for its sample.
        if run.is_tried_again(error):
            raise
        raise LookupError(f"{error.what} {_SAMPLE_LATER}") from None


@per_file_op(
    of=("hdf5",),
    description="Measure the file and those that belong to it: size, time, owner, checksum; write "
    "checksum and announcement beside it.",
)
def describe_files(run: FileRun, metadata: ReadFile) -> FileDescription:
    """The third op: the files of the dataset."""
    announced, others = metadata.announced, other_files_of(metadata.extracted)
    if others:
        run.allow_time_for(announced.file.size + sum(size_of(Path(other)) for other in others))
    description = ingestion.describe_files(
        announced.file, run.facility.settings, announced.announcement, others
    )
    if not announced.is_dry_run:
        add_sidecars(description)
    return description


def _tag_with_common_values(run: FileRun, prepared: PerFile[Prepared]) -> None:
    datasets = [dataset for made in prepared.made.values() for dataset in made.datasets]
    tags = {
        FILE_TAG: {Path(key).name for key in prepared.made},
        INSTRUMENT_TAG: {extracted.instrument for extracted, _ in datasets},
        PROPOSAL_TAG: {str(built.dataset.get("proposalId") or "") for _, built in datasets},
    }
    _add_common_tags(run, tags)


@per_file_op(
    of=("scicat",),
    description="Put the dataset and its file list together as the catalogue wants them.",
    after=_tag_with_common_values,
)
def build_dataset(run: FileRun, metadata: ReadFile, files: FileDescription) -> Prepared:
    """The fourth op: the request bodies."""
    try:
        built = ingestion.build_each(metadata.extracted, files, run.facility.settings)
    except IngestionError:
        # Who looks for the failures of an instrument is to find this one.
        if not run.is_batch:
            _add_common_tags(run, {INSTRUMENT_TAG: {found.instrument for found in metadata.extracted}})
        raise
    for dataset in built:
        for notice in dataset.notices:
            run.context.log.warning("%s: %s: %s", Path(dataset.source).name, notice.subject, notice.reason)
    return Prepared(announced=metadata.announced, extracted=metadata.extracted, files=files, built=built)


def _add_common_tags(run: FileRun, tags: Mapping[str, set[str]]) -> None:
    """Tag the run with those values that all its datasets have in common."""
    common = {name: tag_value(next(iter(values))) for name, values in tags.items() if len(values) == 1}
    found = {name: value for name, value in common.items() if value}
    run.context.instance.add_run_tags(run.context.run_id, found)


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
    def register_dataset(context: dg.OpExecutionContext, prepared: PerFile[Prepared]) -> Any:
        run = FileRun(context, names)
        # Also where the brake was pulled after the run had begun.
        braked = run.facility.settings.ingestion.dry_run
        if braked or any(made.announced.is_dry_run for made in prepared.made.values()):
            _show_what_would_be_posted(run, prepared)
            return
        registered = run.each(
            PerFile[tuple[Converged, ...]], prepared, partial(_converged_datasets, run, _new(run, prepared))
        )
        done = list(_registered(prepared, registered))
        _log_news(run, done)
        materializations = [
            dg.AssetMaterialization(names.key(RAW_DATASET), partition=each.key, metadata=each.shown(run))
            for each in done
        ]
        if run.is_batch:
            log_materializations(context, materializations)
            if registered.deferred:
                raise failure_of(context, registered.deferred)
            return
        # The output of an asset is a materialization, too.
        *others, last = materializations
        yield from others
        yield dg.Output(None, metadata=last.metadata)

    return register_dataset


@dataclass(frozen=True)
class _Registered:
    """A dataset that the catalogue holds now."""

    key: str
    prepared: Prepared
    metadata: ExtractedMetadata
    built: BuiltDataset
    found: Converged

    def shown(self, run: FileRun) -> Metadata:
        """What its materialization says."""
        return dataset_metadata(
            self.metadata,
            self.prepared.files,
            self.built,
            self.found.registration,
            self.found.preview,
            page=run.facility.catalogue.dataset_page(self.found.registration.pid),
            configuration=run.facility.configuration.version,
            stages=_stages(run, self.prepared.announced.announcement),
        )


def _registered(
    prepared: PerFile[Prepared], registered: PerFile[tuple[Converged, ...]]
) -> Iterator[_Registered]:
    for key, datasets in registered.made.items():
        made = prepared.made[key]
        for (metadata, built), found in zip(made.datasets, datasets, strict=True):
            yield _Registered(key, made, metadata, built, found)


def _show_what_would_be_posted(run: FileRun, prepared: PerFile[Prepared]) -> None:
    for key, made in prepared.made.items():
        for metadata, built in made.datasets:
            run.context.log_event(would_be_posted(key, built, metadata, run.facility))


def _new(run: FileRun, prepared: PerFile[Prepared]) -> Collection[str]:
    """The files of a batch that the catalogue does not know, asked for all at once."""
    built = [built for made in prepared.made.values() for built in made.built if run.is_batch]
    return unregistered(built, run.facility.catalogue, run.facility.settings.ingestion)


def _converged_datasets(
    run: FileRun, new: Collection[str], _key: str, prepared: Prepared
) -> tuple[Converged, ...]:
    return tuple(_converged(run, new, prepared, metadata, built) for metadata, built in prepared.datasets)


def _converged(
    run: FileRun, new: Collection[str], prepared: Prepared, metadata: ExtractedMetadata, built: BuiltDataset
) -> Converged:
    facility = run.facility
    converging = register_new if built.data_file in new else register
    registration = converging(
        built,
        facility.catalogue,
        facility.settings.ingestion,
        before_listing=partial(write_sidecars, prepared.files),
    )
    wanted = wanted_jobs(metadata, built, registration.pid)
    registration = with_jobs(registration, wanted, facility.catalogue)
    return Converged(registration=registration, preview=_preview(run, metadata, built, registration))


def _preview(
    run: FileRun, metadata: ExtractedMetadata, built: BuiltDataset, registration: Registration
) -> DatasetPreview:
    try:
        return attach_preview(metadata, built, registration, run.facility.catalogue, run.facility.settings)
    except TransientError as error:
        # Tried again a few times; then a registered file must not fail for want of a picture.
        if run.is_tried_again(error):
            raise
        return not_attached(error)


def _log_news(run: FileRun, done: Sequence[_Registered]) -> None:
    """What checks find about datasets that were just registered."""
    pids = {each.found.registration.pid: each.built for each in done}
    created = {each.found.registration.pid for each in done if each.found.registration.is_new_as_sent}
    jobs = {each.built.source: each.found.registration.jobs for each in done}
    found = news(run.facility, run.context.instance, pids, created)
    for evaluation in (*found, *job_news(jobs, run.names)):
        run.context.log_event(evaluation)  # type: ignore[arg-type] # It takes them, its annotation says less.


def _stages(run: FileRun, announcement: FileWritten | None) -> dict[str, float]:
    """How long an announced file waited for what, in seconds; Dagster plots them over the files."""
    if announcement is None or announcement.announced_at_ms is None:
        return {}
    announced, now = announcement.announced_at_ms / 1000, time.time()
    stages = {SECONDS_SINCE_MESSAGE: now - announced}
    # A batch run, and one that is executed again, was not requested because of the message.
    if run.is_batch or not run.is_first:
        return stages
    (record,) = run.context.instance.get_run_records(dg.RunsFilter(run_ids=[run.context.run_id]))
    requested = record.create_timestamp.timestamp()
    begun = record.start_time or now
    return stages | {
        SECONDS_UNTIL_REQUESTED: requested - announced,
        SECONDS_IN_QUEUE: begun - requested,
        SECONDS_AT_WORK: now - begun,
    }


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
