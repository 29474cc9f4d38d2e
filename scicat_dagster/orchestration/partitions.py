"""Partitions: one per NeXus file, its key the file's canonical path relative to the data directory.

The key is what the UI shows of a file, and it survives a mount point that moves. Without a data directory it
is the absolute path. The sample of a file has a partition of its own, whose key no path can be.

See https://docs.dagster.io/guides/build/partitions-and-backfills.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import dagster as dg

from scicat_dagster.orchestration.names import SEPARATOR, UNPREFIXED, Names
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


NEXUS_FILES = "nexus_files"

STARTED_FILES = "started_files"
"""Of the samples of runs that have started."""


def nexus_files(names: Names = UNPREFIXED) -> dg.DynamicPartitionsDefinition:
    """The partitions of ``raw_dataset``."""
    return dg.DynamicPartitionsDefinition(name=names.name(NEXUS_FILES))


def started_files(names: Names = UNPREFIXED) -> dg.DynamicPartitionsDefinition:
    """The partitions of ``sample``."""
    return dg.DynamicPartitionsDefinition(name=names.name(STARTED_FILES))


def partitions_of(names: Names = UNPREFIXED) -> dict[dg.AssetKey, dg.DynamicPartitionsDefinition]:
    """The partitions of each asset that has one for each file."""
    return {names.key(RAW_DATASET): nexus_files(names), names.key(SAMPLE): started_files(names)}


def asset_of(key: str, names: Names = UNPREFIXED) -> dg.AssetKey:
    """The asset that a partition is of."""
    return names.key(SAMPLE if is_sample_key(key) else RAW_DATASET)


def delete_partition(instance: dg.DagsterInstance, key: str, names: Names = UNPREFIXED) -> None:
    """Delete the partition with a key, of whichever asset it is."""
    instance.delete_dynamic_partition(names.name(STARTED_FILES if is_sample_key(key) else NEXUS_FILES), key)


def add_requests(keys: Sequence[str], names: Names = UNPREFIXED) -> list[dg.AddDynamicPartitionsRequest]:
    """What adds these partitions, each to those of its asset."""
    partitions = partitions_of(names)
    by_asset = {asset: [key for key in keys if asset_of(key, names) == asset] for asset in partitions}
    return [partitions[asset].build_add_request(found) for asset, found in by_asset.items() if found]


def is_ours(run: dg.DagsterRun, names: Names = UNPREFIXED) -> bool:
    """Whether a run may be one that registers files or makes samples of a facility.

    A project downstream uses the same partitions, so that its runs have the same partition tag. What becomes
    of them says nothing about the file: a plot that fails must not have it registered again. Another facility
    may have a file with the same key.
    """
    if run.asset_selection:
        return not run.asset_selection.isdisjoint({names.key(RAW_DATASET), names.key(SAMPLE)})
    # Without a selection: one of our jobs, or one of Dagster's own (__ASSET_JOB), of which no more is known.
    return run.job_name in {names.name(INGEST_FILE), names.name(MAKE_SAMPLE)} or run.job_name.startswith("__")


def prefix_of(run: dg.DagsterRun) -> tuple[str, ...] | None:
    """The key prefix of the facility for which a run registers a file or makes a sample; None of others.

    For whoever sees the runs of all facilities, such as a launcher.
    """
    paths = [tuple(key.path) for key in run.asset_selection or ()] or [tuple(run.job_name.split(SEPARATOR))]
    about = {*RAW_DATASET.path, *SAMPLE.path, INGEST_FILE, MAKE_SAMPLE}
    return min((path[:-1] for path in paths if path[-1] in about), default=None)
