"""Partitions: one per NeXus file, its key the file's canonical path.

See https://docs.dagster.io/guides/build/partitions-and-backfills.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import dagster as dg


def in_parts(items: Sequence[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


nexus_files = dg.DynamicPartitionsDefinition(name="nexus_files")
