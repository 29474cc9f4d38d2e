"""Partitions: one per NeXus file, its key the file's canonical path.

See https://docs.dagster.io/guides/build/partitions-and-backfills.
"""

from __future__ import annotations

import dagster as dg

RECONCILIATION = dg.AssetKey("reconciliation")
"""The asset whose observations request runs for past files."""

RECONCILE_SENSOR = "reconcile_sensor"
"""The sensor that turns these requests into runs; its cursor is the position in them."""

REJECTED_MESSAGES = dg.AssetKey("rejected_messages")
"""The asset whose observations are messages that led to no run."""

CONFIGURATION = dg.AssetKey("configuration")
"""The asset whose observations are the versions of the configuration file that came into force."""

nexus_files = dg.DynamicPartitionsDefinition(name="nexus_files")
