"""Partitions: one per NeXus file, its key the file's canonical path."""

from __future__ import annotations

import dagster as dg

RAW_DATASET = dg.AssetKey("raw_dataset")
"""The asset that has these partitions."""

RECONCILIATION = dg.AssetKey("reconciliation")
"""The asset whose observations request runs for past files."""

RECONCILE_SENSOR = "reconcile_sensor"
"""The sensor that turns these requests into runs; its cursor is the position in them."""

REJECTED_MESSAGES = dg.AssetKey("rejected_messages")
"""The asset whose observations are messages that led to no run."""

CONFIGURATION = dg.AssetKey("configuration")
"""The asset whose observations are the versions of the configuration file that came into force."""

PARTITION_TAG = "dagster/partition"
"""On a run of one file: which."""

RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
"""On a run of many files, as of a backfill: the first and the last of them."""

nexus_files = dg.DynamicPartitionsDefinition(name="nexus_files")
