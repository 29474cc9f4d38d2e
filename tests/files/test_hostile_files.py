"""Files that were made, or damaged, to cost much or to lead elsewhere; each is a matter of this file only."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from scicat_dagster.config.models import FileHandlingSettings
from scicat_dagster.errors import IngestionError, PermanentError
from scicat_dagster.files.description import describe_file
from scicat_dagster.files.reading import Read, look_at, read_values
from scicat_dagster.files.thumbnail_models import Wanted
from scicat_dagster.files.thumbnails import draw
from scicat_dagster.files.values import NexusValue

Age = Callable[[Path, float], Path]
Written = Callable[[Callable[[h5py.File], object]], Path]


@pytest.fixture
def written(tmp_path: Path, aged: Age) -> Written:
    def write(fill: Callable[[h5py.File], object]) -> Path:
        path = tmp_path / "run.nxs"
        with h5py.File(path, "w") as file:
            fill(file)
        return aged(path, 3600)

    return write


def one(path: Path, where: str) -> NexusValue:
    return read_values(look_at(path), [Read(path=where)]).read_one(where)


def every(path: Path, where: str) -> NexusValue:
    return read_values(look_at(path), [Read(path=where, all=True)]).read_all(where)


def test_a_nul_ends_a_text_of_fixed_length(written: Written) -> None:
    path = written(lambda file: file.create_dataset("name", data=np.bytes_(b"ODIN\0garbage")))
    assert one(path, "/name").value == "ODIN"


def test_a_chunk_that_inflates_to_more_than_its_size_is_refused_unread(written: Written) -> None:
    def fill(file: h5py.File) -> None:
        dataset = file.create_dataset("bomb", shape=(1,), chunks=(1,), dtype="f8", compression="gzip")
        dataset.id.write_direct_chunk((0,), zlib.compress(bytes(400_000_000), level=1))

    with pytest.raises(ValueError, match="inflate to more than their size"):
        one(written(fill), "/bomb")


def test_many_large_chunks_are_refused_together(written: Written) -> None:
    def fill(file: h5py.File) -> None:
        for number in range(12):
            dataset = file.create_dataset(
                f"slow/{number}",
                shape=(1,),
                maxshape=(None,),
                chunks=(31 << 20,),
                dtype="f8",
                compression="gzip",
            )
            dataset.id.write_direct_chunk((0,), _ZEROS)

    with pytest.raises(ValueError, match="too large chunks"):
        every(written(fill), "/slow/*")


_ZEROS = zlib.compress(bytes(8 * (31 << 20)), 1)


def test_a_group_that_holds_itself_many_times_is_looked_at_to_a_limit(written: Written) -> None:
    def fill(file: h5py.File) -> None:
        for number in range(60):
            file[f"loop{number}"] = file["/"]

    with pytest.raises(ValueError, match="More than 100000 members of groups"):
        every(written(fill), "/*/*/*/value")


def test_a_member_whose_name_is_not_utf_8_does_not_cost_the_others(written: Written) -> None:
    def fill(file: h5py.File) -> None:
        group = file.create_group("users")
        for name in (b"user\xff", b"user2"):
            h5py.h5d.create(group.id, name, h5py.h5t.NATIVE_INT64, h5py.h5s.create(h5py.h5s.SCALAR))
        group["user2"][()] = 2

    assert every(written(fill), "/users/user.*").value in ([2, 0], [0, 2])


@pytest.mark.parametrize("megabytes", [40, 400])
def test_a_long_text_takes_the_memory_of_the_child_only(written: Written, megabytes: int) -> None:
    path = written(lambda file: file.create_dataset("text", data="x" * (megabytes << 20)))

    with pytest.raises(ValueError, match=r"metadata|memory"):
        one(path, "/text")


def test_a_long_unit_takes_the_memory_of_the_child_only(written: Written) -> None:
    def fill(file: h5py.File) -> None:
        file["value"] = 1.0
        file["value"].attrs.create("units", "m" * 60_000, dtype=h5py.string_dtype())

    found = one(written(fill), "/value")

    assert (found.value, found.unit) == (1.0, "")
    assert "too long to be a unit" in found.unit_mistake


def test_all_values_together_are_bounded(written: Written) -> None:
    def fill(file: h5py.File) -> None:
        for number in range(5):
            file[f"text{number}"] = "x" * (12 << 20)

    reads = [Read(path=f"/text{number}") for number in range(5)]
    contents = read_values(look_at(written(fill)), reads)

    assert len(str(contents.read_one("/text0").value)) == 12 << 20
    with pytest.raises(ValueError, match="text4 and the values before it are more than metadata can hold"):
        contents.read_one("/text4")


def test_a_broken_root_group_is_a_clean_failure(tmp_path: Path, data_folder: Path, aged: Age) -> None:
    path = Path(shutil.copy(data_folder / "small-coda.hdf", tmp_path))
    content = bytearray(path.read_bytes())
    content[_ROOT_TYPE] = 0
    path.write_bytes(content)

    with pytest.raises(PermanentError, match="its root group cannot be read"):
        look_at(aged(path, 3600))


_ROOT_TYPE = 112
"""Where the object header of the root group says that it is a group."""


def test_a_sparse_file_is_refused_before_it_is_read(written: Written, aged: Age) -> None:
    path = written(lambda file: file.create_dataset("title", data="odin"))
    os.truncate(path, 30 << 30)
    aged(path, 3600)

    with pytest.raises(PermanentError, match="bytes long, of which only"):
        look_at(path)
    with pytest.raises(PermanentError, match="bytes long, of which only"):
        describe_file(path, FileHandlingSettings())


@pytest.fixture
def data_directory(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "raw").mkdir(parents=True)
    return folder


@pytest.fixture
def secret(tmp_path: Path, aged: Age) -> Path:
    path = tmp_path / "private" / "secret.hdf"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["title"] = "secret"
    return aged(path, 3600)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_that_leads_outside_is_a_permanent_failure(
    data_directory: Path, secret: Path, kind: str
) -> None:
    link = data_directory / "raw" / "link"
    link.symlink_to(secret if kind == "file" else secret.parent)
    path = link if kind == "file" else link / secret.name
    handling = FileHandlingSettings(data_directory=str(data_directory))

    for use in (
        lambda: look_at(path, data_directory=str(data_directory)),
        lambda: describe_file(path, handling),
    ):
        with pytest.raises(PermanentError, match="outside the data directory") as refused:
            use()
        assert "data_directory" in refused.value.remedy


def test_a_link_that_stays_inside_is_read(data_directory: Path, secret: Path, tmp_path: Path) -> None:
    moved = secret.rename(data_directory / "raw" / "run.hdf")
    link = data_directory / "raw" / "link.hdf"
    link.symlink_to(moved)
    # The data directory may itself be named by a link.
    alias = tmp_path / "alias"
    alias.symlink_to(data_directory)

    assert look_at(alias / "raw" / "link.hdf", data_directory=str(alias)).size == moved.stat().st_size


def test_a_file_that_was_exchanged_for_another_is_not_read(data_directory: Path, secret: Path) -> None:
    path = data_directory / "raw" / "run.hdf"
    shutil.copy2(secret, path)
    complete = look_at(path)
    path.unlink()
    path.symlink_to(secret)

    with pytest.raises(IngestionError, match="was changed after"):
        read_values(complete, [Read(path="/title")])


def test_a_filter_that_is_not_installed_is_named(written: Written) -> None:
    def fill(file: h5py.File) -> None:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((10,))
        properties.set_filter(32008, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((10,))
        made = h5py.h5d.create(file.id, b"counts", h5py.h5t.NATIVE_INT32, space, properties)
        made.write_direct_chunk((0,), b"packed", 0)
        data = file.create_group("entry/data")
        data.parent.attrs["NX_class"], data.attrs["NX_class"] = "NXentry", "NXdata"
        data.attrs["signal"] = "counts"
        data["counts"] = file["counts"]

    path = written(fill)
    with pytest.raises(ValueError, match="by the filter bitshuffle, which is not installed here"):
        every(path, "/counts")
    assert "by the filter bitshuffle, which is not installed here" in draw(look_at(path), Wanted()).reason
