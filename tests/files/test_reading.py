"""NeXus files on disk: when they are complete, and what their values are, however odd the file."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from scicat_dagster.errors import IngestionError, PermanentError, TransientError
from scicat_dagster.files.identity import CompleteFile, FileChangedError, check_unchanged
from scicat_dagster.files.isolated.hdf5 import open_nexus
from scicat_dagster.files.readiness import wait_until_complete
from scicat_dagster.files.reading import Read, look_at, read_values
from scicat_dagster.files.values import NexusValue
from scicat_dagster.isolation import child_cpu_seconds

Age = Callable[[Path, float], Path]

FRESH = -3600.0
"""An age in seconds: modified in the future, so that a slow machine does not make the file an old one."""


def nothing_happens(_: float) -> None:
    """What goes on while somebody waits, where it does not matter."""


def never_waits(_: float) -> None:
    pytest.fail("waited, although the file has been quiet for long")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A small complete file in a folder with an awkward name."""
    path = tmp_path / "Mess reihe #1 100% Köln" / "run 1.nxs"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["entry/title"] = "odin"
    return path


@contextmanager
def changed(path: Path) -> Iterator[Any]:
    with h5py.File(path, "a") as file:
        yield file


def one(path: Path, where: str) -> NexusValue:
    with open_nexus(path) as nexus:
        return nexus.read_one(where)


def every(path: Path, where: str) -> NexusValue:
    with open_nexus(path) as nexus:
        return nexus.read_all(where)


@dataclass
class Writer:
    """Another process that holds the file open for writing."""

    process: subprocess.Popen[str]

    def close(self) -> None:
        assert self.process.stdin is not None
        if not self.process.stdin.closed:
            self.process.stdin.close()
            assert self.process.wait(60) == 0


@pytest.fixture
def start_writer() -> Iterator[Callable[[Path, str], Writer]]:
    started: list[Writer] = []

    def start(path: Path, how: str) -> Writer:
        program = (
            "import sys, h5py\n"
            f"file = h5py.File(sys.argv[1], {how})\n"
            "print('open', flush=True)\n"
            "sys.stdin.read()\n"
            "file.attrs['finished'] = True if not file.swmr_mode else 1\n"
            "file.close()\n"
        )
        if "latest" in how:
            program = program.replace("print(", "file.swmr_mode = True\nprint(").replace(
                "file.attrs['finished'] = True if not file.swmr_mode else 1\n", ""
            )
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        started.append(Writer(process))
        return started[-1]

    yield start
    for writer in started:
        writer.close()
        assert writer.process.stdout is not None
        writer.process.stdout.close()


# --- Is the file complete


@pytest.mark.parametrize(
    ("beginning", "name"),
    [(b"\x0e\x03\x13\x01", "HDF4"), (b"<?xml version='1.0'?>", "XML"), (b"\x1f\x8b", "gzip")],
)
def test_a_file_of_another_format_is_named_and_not_waited_for(
    tmp_path: Path, beginning: bytes, name: str, aged: Age
) -> None:
    path = tmp_path / "run.nxs"
    path.write_bytes(beginning + bytes(5000))

    with pytest.raises(PermanentError, match=f"of the format {name}") as caught:
        wait_until_complete(aged(path, FRESH), [1.0], nothing_happens)

    assert "Convert it to HDF5" in caught.value.remedy


def test_a_quiet_file_is_complete_at_the_first_look(path: Path, aged: Age) -> None:
    aged(path, 3600)
    status = path.stat()
    assert look_at(path, never_waits) == CompleteFile(
        path=str(path),
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        modified_ns=status.st_mtime_ns,
    )


def test_a_file_written_just_now_is_looked_at_twice(path: Path, aged: Age) -> None:
    aged(path, FRESH)
    waited: list[float] = []
    assert look_at(path, waited.append).size == path.stat().st_size
    assert waited == [0.5]


def test_a_file_that_grows_between_two_looks_is_not_complete(path: Path, aged: Age) -> None:
    aged(path, FRESH)
    before = path.stat().st_mtime_ns

    def grow(_: float) -> None:
        with path.open("ab") as file:
            file.write(b"more")
        os.utime(path, ns=(before, before))

    with pytest.raises(TransientError, match="still being written"):
        look_at(path, grow)


def test_a_file_that_is_touched_between_two_looks_is_not_complete(path: Path, aged: Age) -> None:
    aged(path, FRESH)
    with pytest.raises(TransientError, match="still being written"):
        look_at(path, lambda _: os.utime(path, ns=(0, 0)))


def test_a_file_that_is_replaced_between_two_looks_is_not_complete(path: Path, aged: Age) -> None:
    aged(path, FRESH)
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))

    def replace(_: float) -> None:
        other.replace(path)

    with pytest.raises(TransientError, match="still being written"):
        look_at(path, replace)


def test_a_file_is_waited_for_as_long_as_the_delays_say(path: Path, aged: Age) -> None:
    aged(path, 3600)
    hidden = path.rename(path.with_name("not yet"))
    waited: list[float] = []

    def appear_late(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            hidden.rename(path)

    assert wait_until_complete(path, (1.0, 2.0), appear_late).path == str(path)
    assert waited == [1.0, 2.0]


def test_there_is_one_more_look_than_there_are_delays(tmp_path: Path) -> None:
    waited: list[float] = []
    with pytest.raises(TransientError, match="is not there"):
        wait_until_complete(tmp_path / "run.nxs", (1.0, 2.0, 4.0), waited.append)
    assert waited == [1.0, 2.0, 4.0]
    with pytest.raises(TransientError, match="is not there"):
        wait_until_complete(tmp_path / "run.nxs", (), never_waits)


def test_what_waiting_cannot_change_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="not a regular file"):
        wait_until_complete(tmp_path, (1.0, 2.0), never_waits)


def test_a_pipe_is_refused_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.nxs")
    with pytest.raises(PermanentError, match="not a regular file"):
        look_at(tmp_path / "run.nxs", never_waits)


def test_a_link_to_nothing_is_called_so(tmp_path: Path) -> None:
    link = tmp_path / "run.nxs"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(TransientError, match="symbolic link to nothing"):
        look_at(link, never_waits)
    with pytest.raises(TransientError, match="symbolic link to nothing"), open_nexus(link):
        pass


def test_a_link_to_a_complete_file_is_complete_under_its_own_name(path: Path, aged: Age) -> None:
    aged(path, 3600)
    link = path.with_name("link.nxs")
    link.symlink_to(path)
    assert look_at(link, never_waits).path == str(link)


def test_a_file_below_a_file_is_a_storage_trouble(path: Path) -> None:
    with pytest.raises(TransientError, match="cannot be opened"):
        look_at(path / "run.nxs", never_waits)


@pytest.mark.parametrize("content", [b"", b"no HDF5 at all", b"\x89HDF\r\n\x1a\n" + b"\0" * 200])
@pytest.mark.parametrize(
    ("age", "kind"),
    [(FRESH, TransientError), (30.0, TransientError), (90.0, PermanentError)],
    ids=["fresh", "half a minute old", "settled"],
)
def test_what_is_no_hdf5_file_is_given_a_minute(
    tmp_path: Path, aged: Age, content: bytes, age: float, kind: type[IngestionError]
) -> None:
    path = tmp_path / "run.hdf"
    path.write_bytes(content)
    aged(path, age)
    with pytest.raises(kind, match="is empty" if not content else "not a complete HDF5") as caught:
        look_at(path, nothing_happens)
    assert str(path) in caught.value.what
    assert caught.value.remedy


def test_a_file_that_was_cut_off_is_not_complete(path: Path, aged: Age) -> None:
    os.truncate(path, path.stat().st_size // 2)
    aged(path, 90)
    with pytest.raises(PermanentError, match="not a complete HDF5"):
        look_at(path, never_waits)


@pytest.mark.parametrize("how", ["'a'", "'w'", "'w', libver='latest'"], ids=["append", "new", "swmr"])
def test_a_file_that_another_process_still_writes_is_waited_for(
    path: Path, start_writer: Callable[[Path, str], Writer], how: str
) -> None:
    writer = start_writer(path, how)
    with pytest.raises(TransientError, match="still open for writing"):
        look_at(path, nothing_happens)

    def close_at_the_second_delay(seconds: float) -> None:
        if seconds == 7.0:
            writer.close()

    found = wait_until_complete(path, (6.0, 7.0), close_at_the_second_delay)
    assert found.size == path.stat().st_size


@pytest.mark.parametrize("how", ["'a'", "'w'", "'w', libver='latest'"], ids=["append", "new", "swmr"])
def test_a_file_that_its_writer_has_not_touched_for_long_and_still_holds_is_waited_for(
    path: Path, start_writer: Callable[[Path, str], Writer], how: str, aged: Age
) -> None:
    writer = start_writer(path, how)
    aged(path, 3600)
    with pytest.raises(TransientError, match="still open for writing"):
        wait_until_complete(path, (), nothing_happens)

    writer.close()

    assert wait_until_complete(path, (), nothing_happens).size == path.stat().st_size


def test_a_file_that_nobody_has_touched_for_long_is_complete_without_being_opened(
    path: Path, aged: Age
) -> None:
    aged(path, 3600)
    look_at(path, never_waits)
    before = child_cpu_seconds()

    found = wait_until_complete(path, (), never_waits)

    assert child_cpu_seconds() == before
    assert found == look_at(path, never_waits)


@pytest.mark.parametrize("size", [100, 5000])
def test_what_is_wrong_with_a_file_of_long_ago_is_found_when_it_is_read(
    path: Path, aged: Age, size: int
) -> None:
    with changed(path) as file:
        file["entry/counts"] = np.arange(10_000)
    os.truncate(path, size)
    aged(path, 3600)
    found = wait_until_complete(path, (), never_waits)
    with pytest.raises(PermanentError, match="not a complete HDF5"):
        read_values(found, [Read(path="/entry/title")])


def test_a_file_of_long_ago_that_does_not_begin_like_hdf5_is_refused_at_once(
    tmp_path: Path, aged: Age
) -> None:
    path = tmp_path / "run.hdf"
    path.write_bytes(b"no HDF5 at all")
    with pytest.raises(PermanentError, match="not a complete HDF5"):
        wait_until_complete(aged(path, 3600), (), never_waits)


def test_a_file_that_did_not_change_is_unchanged(path: Path, aged: Age) -> None:
    found = look_at(aged(path, 3600), never_waits)
    check_unchanged(found)
    check_unchanged(CompleteFile.model_validate_json(found.model_dump_json()))


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.utime(path, ns=(0, 1)),
        lambda path: os.truncate(path, 10),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
    ],
    ids=["touched", "cut", "grown"],
)
def test_a_file_that_changed_later_is_noticed(
    path: Path, aged: Age, change: Callable[[Path], object]
) -> None:
    found = look_at(aged(path, 3600), never_waits)
    change(path)
    with pytest.raises(FileChangedError, match="was changed"):
        check_unchanged(found)


def test_another_file_of_the_same_size_and_time_is_noticed(path: Path, aged: Age) -> None:
    found = look_at(aged(path, 3600), never_waits)
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(found.modified_ns, found.modified_ns))
    other.replace(path)
    with pytest.raises(FileChangedError):
        check_unchanged(found)


def test_a_file_that_went_away_is_worth_another_try(path: Path, aged: Age) -> None:
    found = look_at(aged(path, 3600), never_waits)
    path.unlink()
    with pytest.raises(TransientError):
        check_unchanged(found)


# --- One value


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (np.int32(-5), -5),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.float32(0.5), 0.5),
        (np.float16(1.5), 1.5),
        (np.longdouble(1.5), 1.5),
        (1e-300, 1e-300),
        (True, True),
        ("text", "text"),
        ("Könnecke 试", "Könnecke 试"),
        ("", ""),
        (b"bytes", "bytes"),
        (np.bytes_(b"fixed\0\0"), "fixed"),
        (np.array([7]), 7),
        (np.array([[[2.5]]]), 2.5),
        (np.array([b"one"]), "one"),
        (np.array(["one"], dtype=object), "one"),
        (np.array([1], dtype=">i8"), 1),
    ],
)
def test_one_value_is_plain_python(path: Path, written: object, expected: object) -> None:
    with changed(path) as file:
        file["x"] = written
    found = one(path, "/x").value
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("dtype", ["S9", h5py.string_dtype("utf-8"), h5py.string_dtype("ascii")])
def test_latin_1_is_read_where_utf_8_fails(path: Path, dtype: Any) -> None:
    with changed(path) as file:
        one_name = file.create_dataset("one", (), dtype=dtype)
        one_name[()] = b"K\xf6nnecke"
        two_names = file.create_dataset("two", (2,), dtype=dtype)
        two_names[0] = b"K\xf6ln"
        two_names[1] = "Köln".encode()
    assert one(path, "/one").value == "Könnecke"
    assert every(path, "/two").value == ["Köln", "Köln"]


def test_a_value_that_is_no_number_stays_one_here(path: Path) -> None:
    with changed(path) as file:
        file["x"] = [np.nan, np.inf, -np.inf]
    found = every(path, "/x").value
    assert isinstance(found, list)
    assert [str(value) for value in found] == ["nan", "inf", "-inf"]


@pytest.mark.parametrize(
    "where", ["/entry/missing", "/missing/title", "/entry/title/below", "/entry", "/", ""]
)
def test_where_there_is_no_dataset_there_is_no_value(path: Path, where: str) -> None:
    for read in (one, every):
        with pytest.raises(LookupError, match="no dataset at"):
            read(path, where)


def test_numbers_of_single_precision_as_text_are_those_that_were_written(path: Path) -> None:
    with changed(path) as file:
        file["one"] = np.float32(22.249)
        file["row"] = np.array([22.249, 1], "f4")
        file["grid"] = np.array([[0.1], [1e-3]], "f2")
        file["double"] = 22.249
    with open_nexus(path) as nexus:
        assert nexus.read_one("/one", as_text=True).value == "22.249"
        assert nexus.read_all("/row", as_text=True).value == ["22.249", "1.0"]
        assert nexus.read_all("/grid", as_text=True).value == [["0.1"], ["0.001"]]
        assert nexus.read_one("/double", as_text=True).value == 22.249
        assert nexus.read_one("/one").value == float(np.float32(22.249))


@pytest.mark.parametrize("where", ["/entry/./title", "./entry/title", "/./entry/././title", "/entry/title/."])
def test_a_dot_in_a_path_is_the_group_itself(path: Path, where: str) -> None:
    assert one(path, where).value == "odin"


def test_a_path_needs_no_leading_slash_and_bears_several(path: Path) -> None:
    assert one(path, "entry/title").value == "odin"
    assert one(path, "//entry///title/").value == "odin"


def test_an_array_where_a_scalar_was_meant_says_what_to_do(path: Path) -> None:
    with changed(path) as file:
        file["x"] = [1, 2]
    with pytest.raises(LookupError, match=r"holds 2 values .* ends in \[\]"):
        one(path, "/x")


def never_readable(file: Any, name: str, shape: tuple[int, ...], dtype: Any, **more: Any) -> None:
    """A dataset whose first chunk is not gzip: whoever reads it gets an error, so it shows who reads."""
    dataset = file.create_dataset(name, shape, dtype=dtype, chunks=shape, compression="gzip", **more)
    dataset.id.write_direct_chunk((0,) * len(shape), b"this is not gzip")


@pytest.mark.parametrize("dtype", ["S10", "f8", "i4"])
def test_a_million_values_where_a_scalar_was_meant_are_refused_unread(path: Path, dtype: str) -> None:
    with changed(path) as file:
        never_readable(file, "x", (10**6,), dtype)
    with pytest.raises(LookupError, match="1000000 values"):
        one(path, "/x")


def test_a_million_texts_of_any_length_where_a_scalar_was_meant_are_refused_unread(path: Path) -> None:
    with changed(path) as file:
        file.create_dataset("x", (10**6,), dtype=h5py.string_dtype())
    tracemalloc.start()
    try:
        with pytest.raises(LookupError, match="1000000 values"):
            one(path, "/x")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1000, 1001), "f4"), ((900_000,), "S20"), ((1,), f"S{17 << 20}"), ((10**6, 3), "i1")],
)
def test_more_than_metadata_can_hold_is_refused_unread(
    path: Path, shape: tuple[int, ...], dtype: str
) -> None:
    with changed(path) as file:
        never_readable(file, "x", shape, dtype)
    with pytest.raises(ValueError, match="metadata can hold"):
        every(path, "/x")


def test_many_entries_that_share_one_long_text_do_not_fill_the_memory(path: Path) -> None:
    with changed(path) as file:
        texts = file.create_dataset("x", (100,), dtype=h5py.string_dtype())
        texts[:] = ["x" * 1_000_000] * 100
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more text than metadata can hold"):
            every(path, "/x")
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_an_empty_dataset_is_an_empty_list_and_no_single_value(path: Path, shape: tuple[int, ...]) -> None:
    with changed(path) as file:
        file.create_dataset("x", shape, dtype="f4")
        file["null"] = h5py.Empty("f8")
        file["null text"] = h5py.Empty("S1")
    for where in ("/x", "/null", "/null text"):
        with pytest.raises(LookupError, match="holds 0 values"):
            one(path, where)
        assert every(path, where).value == []


ODD_TYPES: dict[str, Callable[[Any], object]] = {
    "compound": lambda file: file.create_dataset("x", data=np.zeros(1, dtype=[("a", "i4"), ("b", "S3")])),
    "complex": lambda file: file.create_dataset("x", data=1 + 2j),
    "opaque": lambda file: file.create_dataset("x", data=np.void(b"abc")),
    "reference": lambda file: file.create_dataset("x", data=file["entry"].ref, dtype=h5py.ref_dtype),
    "references": lambda file: file.create_dataset("x", (1,), dtype=h5py.ref_dtype),
    "lists": lambda file: file.create_dataset("x", (1,), dtype=h5py.vlen_dtype("f8")),
}


@pytest.mark.parametrize("kind", ODD_TYPES)
def test_types_that_metadata_cannot_hold_are_refused(path: Path, kind: str) -> None:
    with changed(path) as file:
        ODD_TYPES[kind](file)
    for read in (one, every):
        with pytest.raises(TypeError, match="which metadata cannot hold"):
            read(path, "/x")


@pytest.mark.parametrize("dtype", [h5py.vlen_dtype("f8"), [("a", "i4")]], ids=["lists", "compound"])
def test_types_that_metadata_cannot_hold_are_refused_unread(path: Path, dtype: Any) -> None:
    with changed(path) as file:
        never_readable(file, "x", (1,), np.dtype(dtype))
    with pytest.raises(TypeError, match="which metadata cannot hold"):
        one(path, "/x")


def test_a_broken_part_of_a_file_is_a_mistake_of_the_file(path: Path) -> None:
    with changed(path) as file:
        never_readable(file, "x", (1,), "f8")
    with pytest.raises(ValueError, match="/x cannot be read"):
        one(path, "/x")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to take the file away")
@pytest.mark.parametrize("where", ["/x", "/entry/title", "/entry/missing"])
def test_a_storage_that_fails_is_worth_another_try(path: Path, where: str) -> None:
    with changed(path) as file:
        file["x"] = np.arange(100_000)
    with open_nexus(path) as nexus:
        folder = os.open("/", os.O_RDONLY)
        for descriptor in Path("/proc/self/fd").iterdir():
            if descriptor.exists() and descriptor.resolve() == path.resolve():
                # From here on every read of the file fails with an error of the operating system.
                os.dup2(folder, int(descriptor.name))
        os.close(folder)
        with pytest.raises(TransientError, match="cannot be read"):
            nexus.read_all(where)


# --- Several values


def test_a_list_keeps_its_shape(path: Path) -> None:
    with changed(path) as file:
        file["scalar"] = 5
        file["row"] = [1.5, 2.5]
        file["grid"] = [[1, 2], [3, 4]]
        file["texts"] = np.array([["a", "b"]], dtype=object)
    assert every(path, "/scalar").value == [5]
    assert every(path, "/row").value == [1.5, 2.5]
    assert every(path, "/grid").value == [[1, 2], [3, 4]]
    assert every(path, "/texts").value == [["a", "b"]]
    assert every(path, "/entry/title").value == ["odin"]


@pytest.fixture
def users(path: Path) -> Path:
    with changed(path) as file:
        entry = file["entry"]
        for name in ("user_Zoe", "user_Ada", "superuser_Bo"):
            entry[f"{name}/name"] = name.split("_")[1]
        entry["user_nameless/email"] = "x@example.org"
        entry["users"] = 1
        for index, unit in enumerate(("mm", "mm", "cm")):
            entry[f"motor_{index}/value"] = float(index)
            entry[f"motor_{index}/value"].attrs["units"] = unit
            entry[f"motor_{index}/list"] = [index, index]
    return path


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("/entry/user_*/name", ["Bo", "Ada", "Zoe"]),
        ("/entry/^user_*/name", ["Ada", "Zoe"]),
        ("/entry/*/name", ["Bo", "Ada", "Zoe"]),
        ("/entry/user_A.*/name", ["Ada"]),
        ("/entry/(Ada|Zoe)$|x*y/name", ["Ada", "Zoe"]),
        ("/*/title", ["odin"]),
        ("/entry/motor_*/value", [0.0, 1.0, 2.0]),
        ("/entry/motor_.*/^l.*", [0, 0, 1, 1, 2, 2]),
        ("/entry/motor_[01]*$/value", [0.0, 1.0]),
    ],
)
def test_a_component_with_a_star_is_searched_as_an_expression(
    users: Path, where: str, expected: list[object]
) -> None:
    assert every(users, where).value == expected


def test_where_nothing_matches_there_is_an_empty_list(users: Path) -> None:
    assert every(users, "/entry/guest_*/name") == NexusValue([])
    with pytest.raises(LookupError, match="no dataset at"):
        every(users, "/entry/guest_Ada/name")
    with pytest.raises(LookupError, match="no dataset at"):
        one(users, "/entry/guest_*/name")


def test_an_empty_match_adds_nothing_to_the_others(users: Path) -> None:
    with changed(users) as file:
        file.create_dataset("entry/user_Zoa/name", (0,), dtype="f4")
    assert every(users, "/entry/^user_*/name").value == ["Ada", "Zoe"]


def test_a_component_without_a_star_is_a_name_and_no_expression(users: Path) -> None:
    with changed(users) as file:
        file["entry/motor_X"] = 1
    with pytest.raises(LookupError):
        every(users, "/entry/motor_[01]/value")


def test_matches_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ordered.nxs"
    with h5py.File(path, "w", track_order=True) as file:
        entry = file.create_group("entry", track_order=True)
        for name in ("user_b", "user_c", "user_a"):
            entry[f"{name}/name"] = name
    assert every(path, "/entry/user_*/name").value == ["user_b", "user_c", "user_a"]


def test_the_unit_of_several_values_is_their_common_one_or_none(users: Path) -> None:
    assert every(users, "/entry/motor_[01]*$/value").unit == "mm"
    assert every(users, "/entry/motor_*/value").unit == ""


def test_several_matches_are_no_scalar_and_one_is(users: Path) -> None:
    with pytest.raises(LookupError, match="3 datasets match"):
        one(users, "/entry/motor_*/value")
    assert one(users, "/entry/user_A*da/name") == NexusValue("Ada")


def test_many_small_datasets_are_counted_together(path: Path) -> None:
    with changed(path) as file:
        for index in range(3):
            never_readable(file, f"part_{index}", (400_000,), "i1")
    with pytest.raises(ValueError, match="1200000 values"):
        every(path, "/part_*")


# --- Units


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("mm", "mm"),
        ("", ""),
        (b"mm", "mm"),
        (np.bytes_(b"\xb0C"), "°C"),
        ("Å", "Å"),
        (np.array([b"mm"]), "mm"),
        (np.array(["mm"], dtype=object), "mm"),
        ("u" * 256, "u" * 256),
        (h5py.Empty("S1"), ""),
    ],
)
def test_the_unit_is_the_units_attribute(path: Path, written: object, expected: str) -> None:
    with changed(path) as file:
        file["x"] = 1
        file["x"].attrs["units"] = written
    assert one(path, "/x") == NexusValue(1, expected)
    assert every(path, "/x").unit == expected


@pytest.mark.parametrize("written", [5, 1.5, np.array([b"a", b"b"]), np.array([1.0, 2.0])])
def test_a_units_attribute_that_is_no_text_does_not_cost_the_value(path: Path, written: object) -> None:
    with changed(path) as file:
        file["x"] = 1
        file["x"].attrs["units"] = written
    for found, value in ((one(path, "/x"), 1), (every(path, "/x"), [1])):
        assert (found.value, found.unit) == (value, "")
        assert found.unit_mistake == "The units attribute of /x is not one text."


@pytest.mark.parametrize(("written", "states"), [("", True), ("mm", True), (5, True), (None, False)])
def test_an_empty_unit_is_told_from_none(path: Path, written: object, *, states: bool) -> None:
    with changed(path) as file:
        file["x"] = 1
        if written is not None:
            file["x"].attrs["units"] = written
    assert one(path, "/x").states_unit is states


def test_a_units_attribute_of_fifty_megabytes_stays_unread(tmp_path: Path) -> None:
    path = tmp_path / "run.nxs"
    with h5py.File(path, "w", libver="latest") as file:
        file["x"] = 1
        file["x"].attrs.create("units", np.bytes_(b"m" * 50_000_000))
    assert path.stat().st_size > 50_000_000
    tracemalloc.start()
    try:
        found = one(path, "/x")
        assert (found.value, found.unit) == (1, "")
        assert "too large to be a unit" in found.unit_mistake
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_long_units_attribute_of_variable_length_is_not_a_unit(path: Path) -> None:
    with changed(path) as file:
        file["x"] = 1
        file["x"].attrs["units"] = "m" * 50_000_000
        file["y"] = 1
        file["y"].attrs["units"] = "m" * 257
    for where in ("/x", "/y"):
        found = one(path, where)
        assert (found.value, found.unit) == (1, "")
        assert "too long to be a unit" in found.unit_mistake


# --- Links


def test_soft_links_inside_the_file_are_followed(path: Path) -> None:
    with changed(path) as file:
        file["absolute"] = h5py.SoftLink("/entry/title")
        file["entry/relative"] = h5py.SoftLink("title")
        file["group"] = h5py.SoftLink("entry/.")
        file["twice"] = h5py.SoftLink("group/relative")
        file["hard"] = file["entry/title"]
    for where in ("/absolute", "/entry/relative", "/group/title", "/twice", "/hard", "/group/relative"):
        assert one(path, where).value == "odin"


def test_links_to_nothing_lead_to_no_dataset(path: Path) -> None:
    with changed(path) as file:
        file["gone"] = h5py.SoftLink("/entry/gone")
        file["through"] = h5py.SoftLink("/entry/title/below")
    for where in ("/gone", "/through", "/gone/title"):
        with pytest.raises(LookupError):
            one(path, where)
    assert every(path, "/*/title").value == ["odin"]


def test_links_that_lead_round_in_a_circle_are_refused(path: Path) -> None:
    with changed(path) as file:
        file["self"] = h5py.SoftLink("/self")
        file["a"] = h5py.SoftLink("/b")
        file["b"] = h5py.SoftLink("/a")
        file["longer"] = h5py.SoftLink("/longer/longer")
    for where in ("/self", "/a", "/longer", "/self/x"):
        with pytest.raises(ValueError, match="circle"):
            one(path, where)


def test_a_group_that_holds_itself_is_no_trouble(path: Path) -> None:
    with changed(path) as file:
        file["entry/again"] = file["entry"]
    assert one(path, "/entry/again/again/title").value == "odin"
    assert every(path, "/entry/*/title").value == ["odin"]


@pytest.fixture
def other(path: Path) -> Path:
    """Another file beside the first, which holds what must not be read."""
    other = path.with_name("other.nxs")
    with h5py.File(other, "w") as file:
        file["secret"] = "secret"
        file["numbers"] = np.arange(4)
    return other


@pytest.mark.parametrize("absolute", [True, False])
def test_links_to_another_file_are_not_followed(path: Path, other: Path, absolute: bool) -> None:
    with changed(path) as file:
        file["out"] = h5py.ExternalLink(str(other) if absolute else other.name, "/secret")
        file["root"] = h5py.ExternalLink(other.name, "/")
        file["soft"] = h5py.SoftLink("/out")
        file["entry/o1"] = h5py.ExternalLink(other.name, "/secret")
    for where in ("/out", "/root/secret", "/soft", "/entry/o.*"):
        for read in (one, every):
            with pytest.raises(ValueError, match="leads to another file"):
                read(path, where)


def test_values_kept_in_another_file_are_not_read(path: Path, other: Path) -> None:
    raw = path.with_name("raw.bin")
    raw.write_bytes(bytes(range(32)))
    layout = h5py.VirtualLayout((4,), "i8")
    layout[:] = h5py.VirtualSource(str(other).replace("%", "%%"), "numbers", (4,))
    with changed(path) as file:
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("external", (4,), "i8", external=[(str(raw), 0, 32)])
        file.create_dataset("one", (1,), "i8", external=[(str(raw), 0, 8)])
        file["soft"] = h5py.SoftLink("/virtual")
    for where in ("/virtual", "/external", "/soft"):
        with pytest.raises(ValueError, match="another file"):
            every(path, where)
    with pytest.raises(ValueError, match="in another file"):
        one(path, "/one")


def virtual(file: Any, name: str, *sources: tuple[str, str]) -> None:
    """A dataset that is put together from one value of each source, a file and a dataset in it."""
    layout = h5py.VirtualLayout((len(sources),), "i8")
    for index, (source_file, dataset) in enumerate(sources):
        layout[index] = h5py.VirtualSource(source_file, dataset, (1,))[0]
    file.create_virtual_dataset(name, layout, fillvalue=-1)


def test_a_virtual_dataset_of_this_very_file_is_read(path: Path) -> None:
    with changed(path) as file:
        file["one"], file["two"] = [1], [2]
        virtual(file, "both", (".", "/one"), (".", "two"), (".", "/gone"))
        virtual(file, "again", (".", "/both"), (".", "/one"), (".", "/one"))
    assert every(path, "/both").value == [1, 2, -1]
    assert every(path, "/again").value == [1, 1, 1]


@pytest.mark.parametrize("source", ["/out", "/outside", "/virtual", "/deep", "/raw"])
def test_a_virtual_dataset_never_leads_out_of_the_file(path: Path, other: Path, source: str) -> None:
    raw = path.with_name("raw.bin")
    raw.write_bytes(bytes(range(32)))
    with changed(path) as file:
        file["out"] = h5py.ExternalLink(other.name, "/numbers")
        file["outside"] = h5py.SoftLink("/out")
        virtual(file, "virtual", (str(other).replace("%", "%%"), "numbers"))
        virtual(file, "deep", (".", "/virtual"))
        file.create_dataset("raw", (4,), "i8", external=[(str(raw), 0, 32)])
        virtual(file, "x", (".", source))
    with pytest.raises(ValueError, match="another file"):
        every(path, "/x")


def test_a_virtual_dataset_that_holds_itself_is_refused(path: Path) -> None:
    with changed(path) as file:
        virtual(file, "self", (".", "/self"))
        virtual(file, "a", (".", "/b"))
        virtual(file, "b", (".", "/a"))
        virtual(file, "many", *[(".", f"/{number}") for number in range(1001)])
        file["part_0"], file["part_1"] = [1], [2]
        endless = h5py.VirtualLayout((1,), "i8", maxshape=(None,))
        endless[0 : h5py.h5s.UNLIMITED : 1] = h5py.VirtualSource(".", "/part_%b", (1,))
        file.create_virtual_dataset("pattern", endless)
    for where in ("/self", "/a"):
        with pytest.raises(ValueError, match="put together from itself"):
            every(path, where)
    for where in ("/many", "/pattern"):
        with pytest.raises(ValueError, match="more datasets than can be checked"):
            every(path, where)
