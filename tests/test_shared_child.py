"""One child may read many files, as long as nothing is wrong with any of them."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from scicat_dagster.errors import PermanentError
from scicat_dagster.files.identity import CompleteFile
from scicat_dagster.files.reading import Read, look_at, read_values
from scicat_dagster.isolation import Limits, shared_child
from tests.test_isolation import EVERY_TEXT, TITLE, child_of, made_endless, parent_of, readers, wait_for_end

Age = Callable[[Path, float], Path]


def children_of(warm: int) -> set[int]:
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if parent_of(int(process.name)) == warm:
                found.add(int(process.name))
        except OSError:
            continue
    return found


@pytest.fixture
def endless(tmp_path: Path, data_folder: Path, aged: Age) -> CompleteFile:
    return made_endless(Path(shutil.copy(data_folder / "small-coda.hdf", tmp_path)), aged)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory, data_folder: Path, aged: Age) -> int:
    """The warm process, which is the parent of whoever reads a file."""
    copy = Path(shutil.copy(data_folder / "small-coda.hdf", tmp_path_factory.mktemp("endless")))
    endless = made_endless(copy, aged)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(read_values, endless, EVERY_TEXT, limits=Limits(seconds=3))
        process = parent_of(child_of(copy))
        with pytest.raises(PermanentError):
            answer.result()
    return process


@pytest.fixture
def sound(tmp_path: Path, data_folder: Path, aged: Age) -> CompleteFile:
    return look_at(aged(Path(shutil.copy(data_folder / "small-coda.hdf", tmp_path / "sound.hdf")), 3600))


def title_of(file: CompleteFile) -> object:
    return read_values(file, [TITLE]).read_one(TITLE.path).value


def test_one_child_reads_many_files_and_ends_with_the_work(sound: CompleteFile, warm: int) -> None:
    with shared_child():
        seen = set()
        for _ in range(3):
            assert title_of(sound) == "odin"
            seen |= children_of(warm)

        assert len(seen) == 1
        assert readers(Path(sound.path)) == [], "it keeps a file open that it was asked about"

    wait_for_end(seen.pop())


def test_a_shared_child_that_is_killed_costs_no_answer(sound: CompleteFile, warm: int) -> None:
    with shared_child():
        title_of(sound)
        (first,) = children_of(warm)
        os.kill(first, signal.SIGKILL)
        wait_for_end(first)

        assert [title_of(sound), title_of(sound)] == ["odin", "odin"]
        assert len(children_of(warm)) == 1


def test_a_file_on_which_a_shared_child_loops_fails_alone(endless: CompleteFile, sound: CompleteFile) -> None:
    with shared_child():
        assert title_of(sound) == "odin"
        with pytest.raises(PermanentError, match="did not finish reading"):
            read_values(endless, EVERY_TEXT, limits=Limits(seconds=1))

        assert title_of(sound) == "odin"
        assert readers(Path(endless.path)) == []


def test_whoever_ends_a_shared_child_gets_another_one(sound: CompleteFile, warm: int) -> None:
    with shared_child() as child:
        title_of(sound)
        (before,) = children_of(warm)
        child.end()
        wait_for_end(before)

        assert title_of(sound) == "odin"
        assert children_of(warm).isdisjoint({before})


def test_the_large_values_of_a_file_leave_the_next_one_as_much_memory(tmp_path: Path, aged: Age) -> None:
    texts = ["x" * 1000 for _ in range(15_000)]
    with h5py.File(tmp_path / "large.nxs", "w") as file:
        file["/entry/texts"] = texts
    large = look_at(aged(tmp_path / "large.nxs", 3600))
    read = Read(path="/entry/texts", all=True)

    with shared_child():
        for _ in range(5):
            values = read_values(large, [read], limits=Limits(memory_bytes=160_000_000))
            assert values.read_all(read.path).value == texts


def test_the_memory_of_a_shared_child_is_limited_for_each_file(
    tmp_path: Path, aged: Age, sound: CompleteFile
) -> None:
    with h5py.File(tmp_path / "large.nxs", "w") as file:
        file["/entry/values"] = np.zeros(900_000)
    large = look_at(aged(tmp_path / "large.nxs", 3600))

    with shared_child():
        title_of(sound)
        little = read_values(
            large, [Read(path="/entry/values", all=True)], limits=Limits(memory_bytes=4_000_000)
        )
        enough = read_values(large, [Read(path="/entry/values", all=True)])

    with pytest.raises(ValueError, match="more memory"):
        little.read_all("/entry/values")
    assert enough.read_all("/entry/values").value == [0.0] * 900_000


def test_another_thread_does_not_ask_the_shared_child(sound: CompleteFile, warm: int) -> None:
    with shared_child(), ThreadPoolExecutor(1) as pool:
        title_of(sound)
        (shared,) = children_of(warm)
        os.kill(shared, signal.SIGSTOP)

        assert pool.submit(title_of, sound).result() == "odin"
        assert children_of(warm) == {shared}
        os.kill(shared, signal.SIGCONT)
