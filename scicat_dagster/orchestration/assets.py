"""The assets: ``raw_dataset``, one partition per file, and ``rejected_messages``, what led to no file."""

from typing import Any

import dagster as dg

from scicat_dagster.orchestration import ops
from scicat_dagster.orchestration.partitions import nexus_files

GROUP = "ingestion"


@dg.graph_asset(
    partitions_def=nexus_files,
    group_name=GROUP,
    kinds={"kafka", "hdf5", "scicat"},
    description="A raw dataset with its origdatablock in SciCat, one per NeXus file; its key is the "
    "file's path. A partition that is materialized is in the catalogue; one that failed is not, and its "
    "last run says why and what to do.",
)
def raw_dataset() -> Any:
    """The way of a file, from the storage to the catalogue."""
    announced = ops.wait_for_file()
    metadata = ops.extract_metadata(announced)
    files = ops.describe_files(announced)
    built = ops.build_dataset(metadata, files)
    return ops.register_dataset(announced, metadata, files, built)


rejected_messages = dg.AssetSpec(
    "rejected_messages",
    group_name=GROUP,
    kinds={"kafka"},
    description="Announcements that led to no run: broken or impossible messages, failures of the file "
    "writer, and messages that Kafka deleted before they were read. Each is an observation with the reason, "
    "the position, and the message itself as base64.",
)
