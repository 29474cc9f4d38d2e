"""Partitions: one per NeXus file, its key the file's canonical path relative to the data directory.

The key is what the UI shows of a file, and it survives a mount point that moves. Without a data directory it
is the absolute path. The sample of a file has a partition of its own, whose key no path can be.

See https://docs.dagster.io/guides/build/partitions-and-backfills.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import dagster as dg

from scicat_dagster.orchestration.tags import INGEST_FILE, MAKE_SAMPLE, RAW_DATASET, SAMPLE

_SAMPLE_OF = "sample://"
"""Two slashes are in no canonical path. Runs are found by the text of their partition, whatever asset it is
of, so that it must not be the file's."""


def key_of(path: str, data_directory: str) -> str:
    """The partition key of a file with a canonical path."""
    return path.removeprefix(_inside(data_directory))


def path_of(key: str, data_directory: str) -> str:
    """The file of a partition."""
    return key if key.startswith("/") else f"{_inside(data_directory)}{key}"


def keys_of(paths: Iterable[str], data_directory: str) -> list[str]:
    """The partition keys of files with canonical paths."""
    return [key_of(path, data_directory) for path in paths]


def paths_of(keys: Iterable[str], data_directory: str) -> set[str]:
    """The files of partitions."""
    return {path_of(key, data_directory) for key in keys}


def _inside(data_directory: str) -> str:
    """How the paths of all files in the data directory begin."""
    return "/" + os.path.normpath(data_directory).strip("/") + "/" if data_directory else ""


def in_parts(items: Sequence[str], size: int) -> Iterator[list[str]]:
    """The items in lists of at most this size."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def sample_key_of(file_key: str) -> str:
    """The partition key of the sample of a file, whose own partition key this is."""
    return f"{_SAMPLE_OF}{file_key}"


def is_sample_key(key: str) -> bool:
    """Whether a partition is a sample's, and not a dataset's."""
    return key.startswith(_SAMPLE_OF)


def file_key_of(key: str) -> str:
    """The partition key of the file that a partition is about, be it of the file or of its sample."""
    return key.removeprefix(_SAMPLE_OF)


nexus_files = dg.DynamicPartitionsDefinition(name="nexus_files")

started_files = dg.DynamicPartitionsDefinition(name="started_files")
"""Of the samples of runs that have started."""

PARTITIONS = {RAW_DATASET: nexus_files, SAMPLE: started_files}
"""Of each asset that has a partition for each file."""


def asset_of(key: str) -> dg.AssetKey:
    """The asset that a partition is of."""
    return SAMPLE if is_sample_key(key) else RAW_DATASET


def delete_partition(instance: dg.DagsterInstance, key: str) -> None:
    """Delete the partition with a key, of whichever asset it is."""
    instance.delete_dynamic_partition(str(PARTITIONS[asset_of(key)].name), key)


def add_requests(keys: Sequence[str]) -> list[dg.AddDynamicPartitionsRequest]:
    """What adds these partitions, each to those of its asset."""
    by_asset = {asset: [key for key in keys if asset_of(key) == asset] for asset in PARTITIONS}
    return [PARTITIONS[asset].build_add_request(found) for asset, found in by_asset.items() if found]


def is_ours(run: dg.DagsterRun) -> bool:
    """Whether a run may be one that registers files or makes samples.

    A project downstream uses the same partitions, so that its runs have the same partition tag. What becomes
    of them says nothing about the file: a plot that fails must not have it registered again.
    """
    if run.asset_selection:
        return not run.asset_selection.isdisjoint(PARTITIONS)
    # Without a selection: one of our jobs, or one of Dagster's own (__ASSET_JOB), of which no more is known.
    return run.job_name in {INGEST_FILE, MAKE_SAMPLE} or run.job_name.startswith("__")
