"""Virtual datasets whose values are in other files: read as HDF5 reads them, and from nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from scicat_dagster.files.reading import Read, look_at, read_values
from scicat_dagster.files.thumbnail_models import Wanted
from scicat_dagster.files.thumbnails import draw

LONG_AGO = 1_600_000_000

SHAPE = (4, 6)
"""Of each detector file: frames and pixels."""


def aged_file(path: Path) -> Path:
    """The file as if it had been written long ago."""
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        detector_file(folder / f"part_{number}.h5", number)
    return folder


def detector_file(path: Path, number: int, **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        values = 100 * number + np.arange(np.prod(SHAPE)).reshape(SHAPE)
        file.create_dataset("frames", data=values.astype("i4"), **options)
    return aged_file(path)


def master_of(folder: Path, layout: h5py.VirtualLayout, **options: Any) -> Path:
    """A master file whose NXdata is the virtual dataset."""
    path = folder / "master.h5"
    with h5py.File(path, "w") as file:
        file.create_group("entry").attrs["NX_class"] = "NXentry"
        data = file.create_group("entry/data")
        data.attrs.update({"NX_class": "NXdata", "signal": "frames"})
        data.create_virtual_dataset("frames", layout, **options)
    return aged_file(path)


def read(path: Path, within: Path | str = "") -> Any:
    where = "/entry/data/frames"
    values = read_values(look_at(path), [Read(path=where, all=True)], linked_within=str(within))
    return values.read_all(where).value


def by_hdf5(path: Path) -> Any:
    with h5py.File(path) as file:
        return file["entry/data/frames"][()].tolist()


def stacked(dtype: str = "i4") -> h5py.VirtualLayout:
    """The frames of all files, one after the other."""
    layout = h5py.VirtualLayout((12, 6), dtype)
    for number in range(3):
        layout[4 * number : 4 * number + 4] = h5py.VirtualSource(f"part_{number}.h5", "frames", SHAPE)
    return layout


def interleaved() -> h5py.VirtualLayout:
    """Each third frame from the same file, as detectors with several writers have it."""
    layout = h5py.VirtualLayout((12, 6), "i4")
    for number in range(3):
        layout[number::3] = h5py.VirtualSource(f"part_{number}.h5", "frames", SHAPE)
    return layout


def tiled() -> h5py.VirtualLayout:
    """The modules of a detector side by side, with a gap between them."""
    layout = h5py.VirtualLayout((4, 20), "i4")
    for number in range(3):
        layout[:, 7 * number : 7 * number + 6] = h5py.VirtualSource(f"part_{number}.h5", "frames", SHAPE)
    return layout


def one_frame_each() -> h5py.VirtualLayout:
    """One frame of each file, under a further dimension."""
    layout = h5py.VirtualLayout((3, 1, 6), "i4")
    for number in range(3):
        layout[number, 0] = h5py.VirtualSource(f"part_{number}.h5", "frames", SHAPE)[number + 1]
    return layout


def growing() -> h5py.VirtualLayout:
    """As many frames as there are."""
    layout = h5py.VirtualLayout((4, 6), "i4", maxshape=(None, 6))
    source = h5py.VirtualSource("part_1.h5", "frames", SHAPE, maxshape=(None, 6))
    layout[0 : h5py.h5s.UNLIMITED] = source[0 : h5py.h5s.UNLIMITED]
    return layout


@pytest.mark.parametrize("layout", [stacked, interleaved, tiled, one_frame_each, growing])
@pytest.mark.parametrize("options", [{}, {"chunks": (2, 3), "compression": "gzip"}])
def test_the_values_are_those_that_hdf5_reads(
    folder: Path, layout: Callable[[], h5py.VirtualLayout], options: dict[str, Any]
) -> None:
    limits = {"maxshape": (None, 6)} if layout is growing else {}
    for number in range(3):
        detector_file(folder / f"part_{number}.h5", number, **(options or {"chunks": SHAPE}), **limits)
    path = master_of(folder, layout(), fillvalue=-7)

    assert read(path, folder) == by_hdf5(path)


def test_values_of_another_type_are_converted(folder: Path) -> None:
    path = master_of(folder, stacked("f8"))
    assert read(path, folder) == by_hdf5(path)


def test_a_virtual_dataset_of_virtual_datasets_is_put_together(folder: Path) -> None:
    (folder / "inner").mkdir()
    for number in range(3):
        (folder / f"part_{number}.h5").rename(folder / "inner" / f"part_{number}.h5")
    inner = master_of(folder / "inner", stacked())
    layout = h5py.VirtualLayout((2, 6), "i4")
    layout[:] = h5py.VirtualSource("inner/master.h5", "entry/data/frames", (12, 6))[3:12:6]
    path = master_of(folder, layout)

    assert read(path, folder) == [by_hdf5(inner)[3], by_hdf5(inner)[9]]


def test_a_source_that_is_a_link_to_another_file_is_read(folder: Path) -> None:
    """As detectors' master files have it: external links, and a virtual dataset of what they lead to."""
    path = folder / "master.h5"
    layout = h5py.VirtualLayout((8, 6), "i4")
    with h5py.File(path, "w") as file:
        for number in range(2):
            file[f"entry/data/data_{number}"] = h5py.ExternalLink(f"part_{number}.h5", "/frames")
            source = h5py.VirtualSource(".", f"/entry/data/data_{number}", SHAPE)
            layout[4 * number : 4 * number + 4] = source
        file.create_virtual_dataset("entry/data/frames", layout)
    aged_file(path)

    assert read(path, folder) == by_hdf5(path)


@st.composite
def slabs(draw: st.DrawFn, length: int, number: int) -> slice:
    """A slice that takes so many of the indices below a length."""
    step = draw(st.integers(1, max(1, (length - 1) // max(1, number - 1))))
    start = draw(st.integers(0, length - 1 - step * (number - 1)))
    return slice(start, start + step * (number - 1) + 1, step)


@st.composite
def mappings(draw: st.DrawFn) -> list[tuple[int, tuple[slice, ...], tuple[slice, ...]]]:
    """Boxes of the three files, each somewhere in a dataset of 9 times 8."""
    found = []
    for number in draw(st.lists(st.integers(0, 2), min_size=1, max_size=5)):
        sizes = [draw(st.integers(1, length)) for length in SHAPE]
        here = tuple(draw(slabs(length, size)) for length, size in zip((9, 8), sizes, strict=True))
        there = tuple(draw(slabs(length, size)) for length, size in zip(SHAPE, sizes, strict=True))
        found.append((number, here, there))
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(mappings=mappings())
def test_any_mapping_of_boxes_is_followed_as_hdf5_does(
    folder: Path, mappings: Sequence[tuple[int, tuple[slice, ...], tuple[slice, ...]]]
) -> None:
    layout = h5py.VirtualLayout((9, 8), "i4")
    for number, here, there in mappings:
        layout[here] = h5py.VirtualSource(f"part_{number}.h5", "frames", SHAPE)[there]
    path = master_of(folder, layout, fillvalue=-1)

    assert read(path, folder) == by_hdf5(path)


def test_nothing_is_read_where_links_are_not_followed(folder: Path) -> None:
    with pytest.raises(ValueError, match="leads to another file"):
        read(master_of(folder, stacked()))


@pytest.mark.parametrize("name", ["../secret.h5", "link.h5", "{tmp}/secret.h5"])
def test_nothing_outside_of_the_folder_is_read(folder: Path, tmp_path: Path, name: str) -> None:
    secret = detector_file(tmp_path / "secret.h5", 9)
    (folder / "link.h5").symlink_to(secret)
    layout = h5py.VirtualLayout(SHAPE, "i4")
    layout[:] = h5py.VirtualSource(name.format(tmp=tmp_path), "frames", SHAPE)

    with pytest.raises(ValueError, match="leads to another file"):
        read(master_of(folder, layout), folder)


@pytest.mark.parametrize(
    ("file", "dataset", "why"),
    [
        ("nowhere.h5", "frames", "leads to another file"),
        ("part_1.h5", "nothing", "which is not there"),
        ("part_1.h5", "raw", "keeps its values in another file"),
        ("part_1.h5", "out", "leads to another file"),
        ("master.h5", "entry/data/frames", "put together from itself"),
    ],
)
def test_what_cannot_be_read_says_why(
    folder: Path, tmp_path: Path, file: str, dataset: str, why: str
) -> None:
    detector_file(tmp_path / "secret.h5", 9)
    (folder / "raw.bin").write_bytes(bytes(96))
    with h5py.File(folder / "part_1.h5", "a") as part:
        part.create_dataset("raw", SHAPE, "i4", external=[("raw.bin", 0, 96)])
        part["out"] = h5py.ExternalLink("../secret.h5", "/frames")
    aged_file(folder / "part_1.h5")
    layout = h5py.VirtualLayout(SHAPE, "i4")
    layout[:] = h5py.VirtualSource(file, dataset, SHAPE)

    with pytest.raises(ValueError, match=why):
        read(master_of(folder, layout), folder)


def test_any_number_of_files_is_not_followed(folder: Path) -> None:
    layout = h5py.VirtualLayout(SHAPE, "i4", maxshape=(None, 6))
    layout[0 : h5py.h5s.UNLIMITED : 4] = h5py.VirtualSource("part_%b.h5", "frames", SHAPE)[0:1]

    with pytest.raises(ValueError, match="any number of files"):
        read(master_of(folder, layout), folder)


def test_a_picture_is_drawn_of_frames_in_other_files(folder: Path) -> None:
    master = look_at(master_of(folder, interleaved()))

    assert draw(master, Wanted(), linked_within=str(folder)).thumbnail is not None
    assert draw(master, Wanted()).thumbnail is None


def test_a_picture_of_frames_elsewhere_is_that_of_the_same_frames_here(folder: Path) -> None:
    drawn = draw(look_at(master_of(folder, stacked())), Wanted(), linked_within=str(folder))
    values = by_hdf5(folder / "master.h5")
    with h5py.File(folder / "master.h5", "a") as file:
        del file["entry/data/frames"]
        file["entry/data/frames"] = np.array(values, "i4")
    here = draw(look_at(aged_file(folder / "master.h5")), Wanted())

    assert drawn.thumbnail is not None
    assert here.thumbnail is not None
    assert drawn.thumbnail.digest == here.thumbnail.digest
