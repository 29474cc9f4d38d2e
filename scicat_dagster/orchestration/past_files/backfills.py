"""Backfills of past files: their partitions, and the backfill that Dagster's daemon carries out.

See https://docs.dagster.io/guides/build/partitions-and-backfills/backfilling-data.
"""

import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import dagster as dg

from scicat_dagster.dagster_internals import (
    AssetGraph,
    AssetGraphSubset,
    AssetKeyPartitionKey,
    PartitionBackfill,
)
from scicat_dagster.orchestration.ingest.assets import raw_dataset
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.partitions import NEXUS_FILES, in_parts
from scicat_dagster.orchestration.past_files.requests import tags_of
from scicat_dagster.orchestration.tags import RAW_DATASET

MOST_FILES_IN_A_BACKFILL = 10_000
"""Dagster writes a backfill's list of partitions down after each 25 runs."""

_KEYS_AT_ONCE = 1000


def add_partitions(instance: dg.DagsterInstance, paths: Iterable[str], names: Names = UNPREFIXED) -> None:
    """Add the partitions of files, leaving alone those that are there."""
    for part in in_parts(list(dict.fromkeys(paths)), _KEYS_AT_ONCE):
        instance.add_dynamic_partitions(names.name(NEXUS_FILES), part)


def start_backfills(
    instance: dg.DagsterInstance, paths: Sequence[str], requester: str, names: Names = UNPREFIXED
) -> list[str]:
    """Let Dagster's daemon register files in backfills of ``raw_dataset``; the answer is their ids.

    They are what *Materialize* on the partitions page makes. Each is stored at once and whole, so that an
    interruption leaves files without a backfill, which the next call finds, and never half a backfill.
    """
    add_partitions(instance, paths, names)
    graph = AssetGraph.from_assets([raw_dataset(names)])
    ids = []
    parts = list(in_parts(paths, MOST_FILES_IN_A_BACKFILL))
    for number, part in enumerate(parts, 1):
        wanted = {AssetKeyPartitionKey(names.key(RAW_DATASET), path) for path in part}
        backfill = PartitionBackfill.from_asset_graph_subset(
            # As long as Dagster's own.
            backfill_id=secrets.token_hex(4),
            backfill_timestamp=datetime.now(UTC).timestamp(),
            tags=tags_of(requester, names),
            dynamic_partitions_store=instance,
            asset_graph_subset=AssetGraphSubset.from_asset_partition_set(wanted, graph),
            title=f"{len(part)} past files" + (f", part {number} of {len(parts)}" if len(parts) > 1 else ""),
            description="Files on disk that the catalogue did not hold.",
            run_config=None,
        )
        instance.add_backfill(backfill)
        ids.append(backfill.backfill_id)
    return ids
