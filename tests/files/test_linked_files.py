"""Files that belong to a data file: values through links, and the list of what links and patterns name."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from scicat_dagster.config.models import FileHandlingSettings
from scicat_dagster.errors import PermanentError
from scicat_dagster.files import linked_files
from scicat_dagster.files.access import NotReadyError
from scicat_dagster.files.description import describe_file
from scicat_dagster.files.linked_files import other_files
from scicat_dagster.files.reading import Read, look_at, read_linked_files, read_values
from scicat_dagster.files.thumbnail_models import Wanted
from scicat_dagster.files.thumbnails import draw

Age = Callable[[Path, float], Path]

FRESH = -3600.0
"""An age in seconds: modified in the future, so that a slow machine does not make the file an old one."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A scan's folder in the data directory, which is ``tmp_path / "data"``."""
    folder = tmp_path / "data" / "scan 7"
    (folder / "detector").mkdir(parents=True)
    return folder


@pytest.fixture
def within(tmp_path: Path) -> str:
    return str(tmp_path / "data")


@pytest.fixture
def detector(folder: Path, aged: Age) -> Path:
    return aged(written(folder / "detector" / "eiger.h5", counts=np.arange(6.0), name="Eiger"), 3600)


def written(path: Path, links: dict[str, tuple[str, str]] | None = None, **values: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            file[f"entry/{name}"] = value
        for name, (other, target) in (links or {}).items():
            file[f"entry/{name}"] = h5py.ExternalLink(other, target)
    return path


def value_at(path: Path, where: str, within: str) -> Any:
    read = Read(path=where, all=True)
    return read_values(look_at(path), [read], linked_within=within).read_all(where).value


def test_values_are_read_through_links_that_stay_in_the_data_directory(
    folder: Path, within: str, detector: Path, aged: Age
) -> None:
    with h5py.File(detector, "a") as file:
        file["entry/again"] = h5py.SoftLink("/entry/name")
        file["entry/more"] = h5py.ExternalLink("../more.h5", "/entry")
    aged(detector, 3600)
    aged(written(folder / "more.h5", name="More", back=1), 3600)
    links = {"eiger": ("detector/eiger.h5", "/entry"), "counts": (str(detector), "/entry/counts")}
    master = aged(written(folder / "master.h5", links, title="Scan"), 3600)

    assert value_at(master, "/entry/counts", within) == [0, 1, 2, 3, 4, 5]
    assert value_at(master, "/entry/eiger/again", within) == ["Eiger"]
    assert value_at(master, "/entry/eiger/more/name", within) == ["More"]
    assert value_at(master, "/entry/ei.*/name", within) == ["Eiger"]
    assert value_at(master, "/entry/title", within) == ["Scan"]


def test_links_are_only_followed_where_that_is_said(folder: Path, detector: Path, aged: Age) -> None:
    master = aged(written(folder / "master.h5", {"it": ("detector/eiger.h5", "/entry/name")}), 3600)

    with pytest.raises(ValueError, match="leads to another file"):
        value_at(master, "/entry/it", "")


def test_nothing_outside_of_the_data_directory_is_read(
    folder: Path, within: str, tmp_path: Path, aged: Age
) -> None:
    secret = aged(written(tmp_path / "secret.h5", name="secret"), 3600)
    (folder / "inside.h5").symlink_to(secret)
    os.mkfifo(folder / "pipe.h5")
    for name in (str(secret), "../../secret.h5", "inside.h5", "pipe.h5", "nowhere.h5", "/etc/passwd"):
        master = aged(written(folder / "master.h5", {"it": (name, "/entry/name")}), 3600)
        with pytest.raises(ValueError, match="leads to another file"):
            value_at(master, "/entry/it", within)


def test_absolute_links_of_a_file_that_was_moved_are_found_beside_it(
    folder: Path, within: str, aged: Age
) -> None:
    aged(written(folder / "data_1.h5", name="here"), 3600)
    master = aged(written(folder / "m.h5", {"it": ("/was/somewhere/data_1.h5", "/entry/name")}), 3600)

    assert value_at(master, "/entry/it", within) == ["here"]
    found, _ = other_files(look_at(master), ["/was/somewhere/data_1.h5"], within, [], within)
    assert found == (str(folder / "data_1.h5"),)


def test_two_files_that_link_each_other_are_no_trouble(folder: Path, within: str, aged: Age) -> None:
    aged(written(folder / "b.h5", {"it": ("a.h5", "/entry/it")}), 3600)
    master = aged(written(folder / "a.h5", {"it": ("b.h5", "/entry/it")}), 3600)

    with pytest.raises(ValueError, match="round in a circle"):
        value_at(master, "/entry/it", within)


def test_a_linked_file_that_is_broken_costs_its_values_only(folder: Path, within: str, aged: Age) -> None:
    (folder / "broken.h5").write_bytes(b"HDF?" * 99)
    aged(folder / "broken.h5", 3600)
    master = aged(written(folder / "m.h5", {"it": ("broken.h5", "/x")}, title="Scan"), 3600)

    with pytest.raises(ValueError, match="not a complete HDF5 file"):
        value_at(master, "/entry/it", within)
    assert value_at(master, "/entry/title", within) == ["Scan"]


def test_a_linked_file_that_is_being_written_is_waited_for(
    folder: Path, within: str, detector: Path, aged: Age
) -> None:
    master = aged(written(folder / "m.h5", {"it": ("detector/eiger.h5", "/entry/name")}), 3600)

    with detector.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(NotReadyError):
            value_at(master, "/entry/it", within)
    assert value_at(master, "/entry/it", within) == ["Eiger"]


def test_more_files_than_metadata_are_in_are_not_followed(
    folder: Path, within: str, aged: Age, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linked_files, "MOST_FOLLOWED", 2)
    for number in range(3):
        aged(written(folder / f"{number}.h5", name=str(number)), 3600)
    links = {f"n{number}": (f"{number}.h5", "/entry/name") for number in range(3)}
    master = aged(written(folder / "m.h5", links), 3600)

    reads = [Read(path=f"/entry/n{number}", all=True) for number in range(3)]
    contents = read_values(look_at(master), reads, linked_within=within)

    assert contents.read_all("/entry/n1").value == ["1"]
    with pytest.raises(ValueError, match="more than 2 files"):
        contents.read_all("/entry/n2")


def test_a_picture_is_drawn_of_linked_data(folder: Path, within: str, aged: Age) -> None:
    aged(written(folder / "data.h5", counts=np.arange(50.0)), 3600)
    with h5py.File(folder / "m.h5", "w") as file:
        file.create_group("entry").attrs["NX_class"] = "NXentry"
        data = file.create_group("entry/data")
        data.attrs.update({"NX_class": "NXdata", "signal": "counts"})
        data["counts"] = h5py.ExternalLink("data.h5", "/entry/counts")
    master = look_at(aged(folder / "m.h5", 3600))

    assert draw(master, Wanted(), linked_within=within).thumbnail is not None
    assert draw(master, Wanted()).thumbnail is None


def test_all_that_links_virtual_datasets_and_external_storage_name_is_listed(
    folder: Path, within: str, detector: Path, aged: Age
) -> None:
    for name in ("part_0.h5", "part_1.h5", "100%.h5", "raw.bin"):
        aged(written(folder / name, numbers=np.arange(4)), 3600)
    layout = h5py.VirtualLayout((4,), "i8")
    layout[:] = h5py.VirtualSource("100%%.h5", "entry/numbers", (4,))
    endless = h5py.VirtualLayout((1,), "i8", maxshape=(None,))
    endless[0 : h5py.h5s.UNLIMITED : 1] = h5py.VirtualSource("part_%b.h5", "entry/numbers", (1,))
    with h5py.File(folder / "m.h5", "w") as file:
        file["entry/deep/eiger"] = h5py.ExternalLink("detector/eiger.h5", "/entry")
        file["entry/gone"] = h5py.ExternalLink("gone.h5", "/")
        file.create_virtual_dataset("entry/virtual", layout)
        file.create_virtual_dataset("entry/endless", endless)
        file.create_dataset("entry/raw", (4,), "i8", external=[("raw.bin", 0, 32)])
    master = look_at(aged(folder / "m.h5", 3600))

    names = read_linked_files(master, data_directory=within)
    found, notices = other_files(master, names, within, [], within)

    assert [os.path.relpath(path, folder) for path in found] == [
        "100%.h5", "detector/eiger.h5", "part_0.h5", "part_1.h5", "raw.bin",
    ]  # fmt: skip
    (notice,) = notices
    assert "'gone.h5', which is not there" in notice.reason


def test_a_file_that_is_not_there_yet_is_waited_for(folder: Path, within: str, aged: Age) -> None:
    master = look_at(aged(written(folder / "m.h5"), FRESH), lambda _: None)

    with pytest.raises(NotReadyError, match="refers to the file"):
        other_files(master, ["data.h5"], within, [], within)


def test_patterns_find_what_lies_beside_the_file(folder: Path, within: str, aged: Age) -> None:
    for name in ("m_data_1.h5", "m_data_2.h5", "other.h5", "frames/a.cbf", "frames/deep/b.cbf", "[x].tif"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder.parent / "calibration.poni").write_text("x")
    master = look_at(aged(written(folder / "m.h5"), 3600))

    def listed(*patterns: str) -> list[str]:
        return [
            os.path.relpath(path, folder) for path in other_files(master, [], within, patterns, within)[0]
        ]

    assert listed("m*.h5") == ["m_data_1.h5", "m_data_2.h5"]
    assert listed("frames/**/*.cbf", "m_data_?.h5", "m_data_1.h5") == [
        "frames/a.cbf", "frames/deep/b.cbf", "m_data_1.h5", "m_data_2.h5",
    ]  # fmt: skip
    assert listed("../*.poni") == ["../calibration.poni"]
    assert listed("frames") == []


@pytest.mark.parametrize("pattern", ["/etc/*", "../../*", "x/../../../*", "*/../../../*", "../../secret.h5"])
def test_no_pattern_leads_out_of_the_data_directory(
    folder: Path, within: str, tmp_path: Path, aged: Age, pattern: str
) -> None:
    written(tmp_path / "secret.h5")
    master = look_at(aged(written(folder / "m.h5"), 3600))

    found, notices = other_files(master, [], within, [pattern], within)

    assert found == ()
    assert pattern in notices[0].reason


def test_links_out_of_the_data_directory_are_said_and_not_listed(
    folder: Path, within: str, tmp_path: Path, aged: Age
) -> None:
    secret = written(tmp_path / "secret.h5")
    (folder / "inside.h5").symlink_to(secret)
    master = look_at(aged(written(folder / "m.h5"), 3600))

    for linked, patterns in (([str(secret)], []), ([], ["ins*.h5"])):
        found, (notice,) = other_files(master, linked, within, patterns, within)
        assert found == ()
        assert "not listed" in notice.reason


def test_without_a_data_directory_the_files_own_folder_is_all(
    folder: Path, detector: Path, aged: Age
) -> None:
    written(folder.parent / "other.h5")
    master = look_at(aged(written(folder / "m.h5"), 3600))

    found, notices = other_files(master, ["detector/eiger.h5", "../other.h5"], str(folder), ["../*"], "")

    assert found == (str(detector),)
    assert [notice.reason.partition(" ")[0] for notice in notices] == ["No", "'../other.h5'"]


def test_more_files_than_can_be_listed_are_refused(
    folder: Path, within: str, aged: Age, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linked_files, "MOST_LISTED", 2)
    for number in range(3):
        (folder / f"{number}.tif").touch()
    master = look_at(aged(written(folder / "m.h5"), 3600))

    with pytest.raises(PermanentError, match="More than 2 files"):
        other_files(master, [], within, ["*.tif"], within)


def test_each_file_is_measured_and_listed_after_the_data_file(
    folder: Path, within: str, detector: Path, aged: Age
) -> None:
    master = aged(written(folder / "m.h5"), 3600)
    settings = FileHandlingSettings(
        data_directory=within, compute_file_hash=True, save_file_hash=True, hash_file_extension="b2b"
    )

    described = describe_file(master, settings, other_files=[str(detector)])
    again = describe_file(master, settings, other_files=[str(detector), described.sidecars[0].path])

    assert [Path(file.path).name for file in described.all_files] == ["m.h5", "eiger.h5", "m.h5.b2b"]
    assert all(file.chk and file.size for file in described.all_files[:2])
    assert [file.path for file in again.all_files] == [file.path for file in described.all_files]


def test_a_file_that_is_still_written_is_waited_for(
    folder: Path, within: str, detector: Path, aged: Age
) -> None:
    master = aged(written(folder / "m.h5"), 3600)
    aged(detector, FRESH)
    settings, others = FileHandlingSettings(data_directory=within), [str(detector)]

    def writer_goes_on(_: float) -> None:
        detector.write_bytes(detector.read_bytes() + b"more")

    with pytest.raises(NotReadyError, match="still being written"):
        describe_file(master, settings, other_files=others, sleep=writer_goes_on)

    # The storage's clock may be ahead of ours.
    aged(detector, FRESH)
    (other,) = describe_file(master, settings, other_files=others, sleep=lambda _: None).other_files
    assert other.path == str(detector)
