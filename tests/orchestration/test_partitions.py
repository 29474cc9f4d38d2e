"""Partition keys: the paths of files relative to the data directory, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scicat_dagster.files.paths import canonical_path
from scicat_dagster.orchestration.partitions import key_of, path_of


@pytest.mark.parametrize(
    ("path", "data_directory", "key"),
    [
        ("/data/odin/a.hdf", "/data", "odin/a.hdf"),
        ("/data/odin/a.hdf", "/data/", "odin/a.hdf"),
        ("/data/odin/a.hdf", "//data", "odin/a.hdf"),
        ("/data/odin/a.hdf", "", "/data/odin/a.hdf"),
        ("/data/odin/a.hdf", "/", "/data/odin/a.hdf"),
        ("/database/a.hdf", "/data", "/database/a.hdf"),
        ("/data/a, b #1 100% Å.hdf", "/data", "a, b #1 100% Å.hdf"),
    ],
)
def test_a_key_is_the_path_within_the_data_directory(path: str, data_directory: str, key: str) -> None:
    assert key_of(path, data_directory) == key
    assert path_of(key, data_directory) == path


_PARTS = st.lists(st.text("ab .,#%Å-", min_size=1, max_size=9), min_size=1, max_size=5)


@given(folder=st.sampled_from(["", "/", "/data", "/data/odin/", "//a b"]), parts=_PARTS)
def test_a_file_is_found_again_by_its_key(folder: str, parts: list[str]) -> None:
    try:
        path = canonical_path("/".join([folder.rstrip("/"), *parts]), folder)
    except ValueError:
        return

    assert path_of(key_of(path, folder), folder) == path
