"""A run that does everything but write: what it shows instead."""

import dagster as dg
from pydantic import JsonValue

from scicat_dagster.dataset.build import BuiltDataset
from scicat_dagster.dataset.ingestion import ExtractedMetadata
from scicat_dagster.errors import IngestionError
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.metadata import Metadata, difference_table, picture
from scicat_dagster.orchestration.tags import PAGE, PID, PREVIEW, RAW_DATASET
from scicat_dagster.schemas.models import Schema
from scicat_dagster.scicat.correction import compare
from scicat_dagster.scicat.registration import registered_dataset
from scicat_dagster.usecases.thumbnails import drawn_preview


def would_be_posted(
    key: str, built: BuiltDataset, metadata: ExtractedMetadata, facility: Facility
) -> dg.AssetObservation:
    """What a run would post for a file; where it is registered, how the catalogue differs from that."""
    drawn = drawn_preview(metadata, facility.settings)
    posted = dg.MetadataValue.json({**built.model_dump(mode="json"), "dataset": _posted(built, facility)})
    return dg.AssetObservation(
        facility.names.key(RAW_DATASET),
        partition=key,
        description="Dry run: nothing was registered.",
        metadata={
            "would be posted": posted,
            "configuration": dg.MetadataValue.text(str(facility.configuration.version)),
            PREVIEW: picture(drawn.thumbnail, drawn.reason),
            **_difference(built, metadata.schema_, facility),
        },
    )


def _posted(built: BuiltDataset, facility: Facility) -> dict[str, JsonValue]:
    try:
        return facility.catalogue.as_posted(built.dataset)
    except IngestionError:
        # Nobody can say which API the server has; the fields are the same.
        return built.dataset


def _difference(built: BuiltDataset, schema: Schema, facility: Facility) -> Metadata:
    try:
        registered = registered_dataset(built, facility.catalogue, facility.settings.ingestion)
    except IngestionError as error:
        return {"difference": dg.MetadataValue.text(f"Nobody can say. {error}")}
    if registered is None:
        return {"difference": dg.MetadataValue.text("The file is not registered.")}
    return {
        PID: dg.MetadataValue.text(registered.record.pid),
        PAGE: dg.MetadataValue.url(facility.catalogue.dataset_page(registered.record.pid)),
        "difference": difference_table(compare(built, schema, registered).changes),
    }
