"""The assets: ``raw_dataset``, one partition per file, and what the sensor reports beside it.

See https://docs.dagster.io/guides/build/assets/graph-backed-assets.
"""

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any

import dagster as dg

from scicat_dagster.orchestration.ingest import ops
from scicat_dagster.orchestration.names import Names
from scicat_dagster.orchestration.partitions import nexus_files
from scicat_dagster.orchestration.tags import (
    ANNOUNCEMENTS,
    CONFIGURATION,
    GROUP,
    INGESTION,
    KAFKA_LAG,
    OVERSIGHT,
    OWNERS,
    RAW_DATASET,
    REJECTED_MESSAGES,
    SAMPLE,
    SCICAT,
    topic_key,
)

MOST_FILES_IN_A_RUN = 200
"""Of a backfill: many share the cost of starting a run, and one that is killed does not repeat too much."""


@cache
def raw_dataset(names: Names) -> dg.AssetsDefinition:
    """The asset, with the ops of its facility."""

    @dg.graph_asset(
        name=RAW_DATASET.path[-1],
        key_prefix=names.prefix or None,
        # For the lineage alone: nothing is loaded.
        ins={"announcements": dg.AssetIn(names.key(ANNOUNCEMENTS), dagster_type=dg.Nothing)},
        partitions_def=nexus_files(names),
        backfill_policy=dg.BackfillPolicy.multi_run(MOST_FILES_IN_A_RUN),
        group_name=names.name(GROUP),
        kinds={"kafka", "hdf5", "scicat"},
        owners=OWNERS,
        tags=INGESTION,
        description="A raw dataset with its origdatablock in SciCat, one per NeXus file; its key is the "
        "file's path. A partition that is materialized is in the catalogue; one that failed is not, and its "
        "last run says why and what to do.",
    )
    def raw_dataset(announcements: Any) -> Any:
        """The ingestion pipeline of a file, from the storage to the catalogue."""
        announced = ops.wait_for_file(names)(announcements)
        metadata = ops.extract_metadata(names)(announced)
        files = ops.describe_files(names)(metadata)
        prepared = ops.build_dataset(names)(metadata=metadata, files=files)
        return ops.register_dataset(names)(prepared)

    return raw_dataset


rejected_messages = dg.AssetSpec(
    REJECTED_MESSAGES,
    deps=[ANNOUNCEMENTS],
    group_name=GROUP,
    kinds={"kafka"},
    owners=OWNERS,
    tags=OVERSIGHT,
    description="Announcements that led to no run: broken or impossible messages, failures of the file "
    "writer, and messages that Kafka deleted before they were read. Each is an observation with the reason, "
    "the position, and the message itself as base64.",
)

configuration = dg.AssetSpec(
    CONFIGURATION,
    group_name=GROUP,
    kinds={"yaml"},
    owners=OWNERS,
    tags=OVERSIGHT,
    description="The facility's configuration file. Each version that came into force is an observation; so "
    "are a file that cannot be used (the last good version then stays in force), and keys that take effect "
    "only when Dagster is restarted.",
)

scicat = dg.AssetSpec(
    SCICAT,
    deps=[RAW_DATASET, SAMPLE],
    group_name=GROUP,
    kinds={"scicat"},
    owners=OWNERS,
    tags=INGESTION,
    description="The facility's SciCat catalogue with datasets and samples. It is outside of Dagster.",
)


def announcements(topics: Sequence[str]) -> dg.AssetSpec:
    """The messages of all topics; what is announced on them leads to ``raw_dataset``."""
    return dg.AssetSpec(
        ANNOUNCEMENTS,
        deps=[topic_key(name) for name in topics],
        group_name=GROUP,
        kinds={"kafka"},
        owners=OWNERS,
        tags=INGESTION,
        description="The messages of all topics: wrdn, each about a written file, and pl72, about a run that "
        "starts; `wrdn_sensor` reads them.",
    )


def topic(name: str) -> dg.AssetSpec:
    """A Kafka topic that the configuration names."""
    return dg.AssetSpec(
        topic_key(name),
        group_name=GROUP,
        kinds={"kafka"},
        owners=OWNERS,
        tags=INGESTION,
        description="A Kafka topic on which a file writer announces files. It is outside of Dagster.",
    )


LAG_INTERVAL = timedelta(minutes=10)
"""How often the lag is reported where nothing happens."""

kafka_lag = dg.AssetSpec(
    KAFKA_LAG,
    deps=[ANNOUNCEMENTS],
    group_name=GROUP,
    kinds={"kafka"},
    owners=OWNERS,
    tags=OVERSIGHT,
    description="How many messages of each topic are still to be read, as wrdn_sensor saw it; reported while "
    "it changes, and otherwise every ten minutes. It is stale when the sensor does not run.",
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=6 * LAG_INTERVAL, warn_window=3 * LAG_INTERVAL
    ),
)


def with_freshness(hours: float, names: Names) -> dg.AssetsDefinition:
    """``raw_dataset``, shown as stale when no file was registered for so long; 0 for never."""
    if not hours:
        return raw_dataset(names)
    policy = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=hours))
    return raw_dataset(names).map_asset_specs(lambda spec: spec.replace_attributes(freshness_policy=policy))
