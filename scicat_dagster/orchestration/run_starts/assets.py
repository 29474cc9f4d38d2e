"""The asset ``sample``, one partition for the sample of each run that has started.

The partition is the file's and not the sample's: who announces a run names its file, and what the sample is
called stands in that file only. What the sample is, and how it is made once, belongs to the domain.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import dagster as dg

from scicat_dagster.errors import PermanentError
from scicat_dagster.files.paths import canonical_path
from scicat_dagster.orchestration.facility import Facility, facility_in
from scicat_dagster.orchestration.failures.policy import explained
from scicat_dagster.orchestration.metadata import Metadata
from scicat_dagster.orchestration.names import Names
from scicat_dagster.orchestration.partitions import (
    file_key_of,
    is_sample_key,
    key_of,
    path_of,
    started_files,
)
from scicat_dagster.orchestration.tags import (
    ANNOUNCEMENTS,
    GROUP,
    OVERSIGHT,
    OWNERS,
    PAGE,
    RUN_STARTS,
    SAMPLE,
    SAMPLE_ID,
    SAMPLES,
)
from scicat_dagster.usecases.samples import MadeSample, look_for, make_sample, sample_of_run


@cache
def sample(names: Names) -> dg.AssetsDefinition:
    """The asset of a facility."""

    @dg.asset(
        key=names.key(SAMPLE),
        deps=[names.key(ANNOUNCEMENTS)],
        partitions_def=started_files(names),
        required_resource_keys={names.facility},
        # A dry run makes nothing.
        output_required=False,
        group_name=names.name(GROUP),
        kinds={"kafka", "hdf5", "scicat"},
        owners=OWNERS,
        tags=SAMPLES,
        description="The sample of each run that has started, in SciCat: read from its file while that is "
        "written, and made where it is not there. A partition that failed says why and what to do; the "
        "dataset of the file is registered in any case. Off unless the configuration has "
        "`ingestion.samples`.",
    )
    def sample(
        context: dg.AssetExecutionContext,
    ) -> Iterator[dg.MaterializeResult[None]]:
        facility = facility_in(context, names)
        is_dry_run = facility.settings.ingestion.dry_run
        with explained(context.op_execution_context, facility.op_pauses):
            made = _made(_file_of(context.partition_key, facility), facility, is_dry_run=is_dry_run)
        shown = _metadata(made, facility)
        if is_dry_run:
            context.log_event(
                dg.AssetObservation(
                    names.key(SAMPLE),
                    partition=context.partition_key,
                    description="Dry run: nothing was made.",
                    metadata=shown,
                )
            )
            return
        yield dg.MaterializeResult(metadata=shown)

    return sample


run_starts = dg.AssetSpec(
    RUN_STARTS,
    deps=[ANNOUNCEMENTS],
    group_name=GROUP,
    kinds={"kafka"},
    owners=OWNERS,
    tags=OVERSIGHT,
    description="The runs that have started, as pl72 messages announce them. Its check names those whose "
    "file was never announced; it is on where the configuration has `monitoring.unended_run_hours`.",
)


def _made(path: Path, facility: Facility, *, is_dry_run: bool) -> MadeSample:
    found = sample_of_run(path, facility.schemas(), facility.settings)
    if isinstance(found, str):
        return MadeSample(state="none", reason=found)
    if is_dry_run:
        return look_for(found, facility.catalogue) or MadeSample(state="would be made", sample=found)
    return make_sample(found, facility.catalogue, facility.settings)


def _file_of(key: str, facility: Facility) -> Path:
    """The file of a partition. A key may have been typed by a person."""
    data_directory = facility.settings.ingestion.file_handling.data_directory
    file_key = file_key_of(key)
    try:
        path = canonical_path(path_of(file_key, data_directory), data_directory)
    except ValueError as error:
        raise PermanentError(
            str(error),
            remedy="Add the right partition; `scicat-dagster failures --dismiss` deletes this one.",
        ) from None
    if not is_sample_key(key) or key_of(path, data_directory) != file_key:
        raise PermanentError(
            f"The partition key {key} is not that of a file's sample.",
            remedy="Delete this partition; the right key is `sample://` and the file's own key.",
        )
    return Path(path)


def _metadata(made: MadeSample, facility: Facility) -> Metadata:
    shown: dict[str, dg.MetadataValue] = {
        "what became of it": dg.MetadataValue.text(made.state),
        "configuration": dg.MetadataValue.text(str(facility.configuration.version)),
    }
    if made.reason:
        shown["why there is none"] = dg.MetadataValue.text(made.reason)
    if made.sample is not None:
        shown["sample"] = dg.MetadataValue.text(made.sample.name)
        shown["proposal"] = dg.MetadataValue.text(made.sample.proposal_id)
    if made.id:
        shown[SAMPLE_ID] = dg.MetadataValue.text(made.id)
        shown[PAGE] = dg.MetadataValue.url(facility.catalogue.sample_page(made.id))
    return shown
