"""Partitions: one per NeXus file, its key the file's canonical path."""

from __future__ import annotations

import dagster as dg

RAW_DATASET = dg.AssetKey("raw_dataset")
"""The asset that has these partitions."""

PARTITION_TAG = "dagster/partition"
"""On a run of one file: which."""

RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
"""On a run of many files, as of a backfill: the first and the last of them."""

nexus_files = dg.DynamicPartitionsDefinition(name="nexus_files")
