"""Partitions: one per NeXus file, its key the file's canonical path relative to the data directory.

The key is what the UI shows of a file, and it survives a mount point that moves. Without a data directory it
is the absolute path.

See https://docs.dagster.io/guides/build/partitions-and-backfills.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import dagster as dg


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


nexus_files = dg.DynamicPartitionsDefinition(name="nexus_files")
