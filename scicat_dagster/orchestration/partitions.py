"""Partitions: one per NeXus file, its key the file's canonical path."""

from __future__ import annotations

import dagster as dg

nexus_files = dg.DynamicPartitionsDefinition(name="nexus_files")
