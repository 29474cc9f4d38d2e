"""Watching folders: new files are found, whole ones only, and old ones cost nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from scicat_dagster.config.models import FileHandlingSettings
from scicat_dagster.usecases.folder_watch import MARGIN_SECONDS, FolderWatch
from scicat_dagster.usecases.walk import Criteria, FoundFile, walks
from tests.storages import HANGS, Call, FaultyStorage, faulty_storage

START = 1_800_000_000.0
SETTLED = 60.0


class Clock:
    """The time of day, and the time that looking has taken."""

    def __init__(self) -> None:
        self.now = START
        self.spent = 0.0
        self.seconds_each_folder = 0.0

    def monotonic(self) -> float:
        self.spent += self.seconds_each_folder
        return self.spent


class Watching:
    def __init__(self, root: Path, since: float = START - MARGIN_SECONDS) -> None:
        self.root, self.clock = root, Clock()
        self.watch = self.anew(since)

    def anew(self, since: float) -> FolderWatch:
        made = walks([str(self.root)], Criteria(), FileHandlingSettings())
        return FolderWatch(made, since, lambda: self.clock.now, self.clock.monotonic)

    def write(self, name: str, modified: float | None = None) -> Path:
        """A file as if it were written now, and its folder with it."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        at = self.clock.now if modified is None else modified
        os.utime(path, (at, at))
        for folder in (path.parent, self.root):
            os.utime(folder, (self.clock.now, self.clock.now))
        return path

    def look(self, seconds: float = 5.0) -> list[FoundFile]:
        return self.watch.look(seconds, SETTLED)


def names(files: Sequence[FoundFile]) -> list[str]:
    return sorted(Path(file.path).name for file in files)


@pytest.fixture
def watching(tmp_path: Path) -> Watching:
    return Watching(tmp_path)


def test_a_new_file_is_found_when_it_was_not_written_to_for_a_while(watching: Watching) -> None:
    watching.write("odin/raw/1.nxs")
    assert watching.look() == []
    watching.clock.now += SETTLED
    assert names(watching.look()) == ["1.nxs"]


def test_a_file_that_is_still_written_to_is_waited_for(watching: Watching) -> None:
    path = watching.write("1.nxs")
    watching.look()
    watching.clock.now += SETTLED
    os.utime(path, (watching.clock.now, watching.clock.now))
    assert watching.look() == []
    watching.clock.now += SETTLED
    assert names(watching.look()) == ["1.nxs"]


def test_a_file_is_found_until_it_is_done_and_again_when_it_was_written_to(watching: Watching) -> None:
    path = watching.write("1.nxs")
    watching.clock.now += SETTLED
    for _ in range(2):
        found = watching.look()
        assert names(found) == ["1.nxs"]
    watching.watch.done(found)
    assert watching.look() == []
    watching.write("1.nxs")
    watching.clock.now += SETTLED

    assert names(watching.look()) == [path.name]


def test_old_files_beside_a_new_one_are_not_found(watching: Watching) -> None:
    watching.write("old.nxs", modified=START - 2 * MARGIN_SECONDS)
    watching.look()
    watching.clock.now += SETTLED
    watching.write("new.nxs")
    watching.clock.now += SETTLED

    assert names(watching.look()) == ["new.nxs"]


def test_a_file_that_is_gone_is_forgotten(watching: Watching) -> None:
    path = watching.write("1.nxs")
    watching.look()
    path.unlink()
    for _ in range(2):
        watching.clock.now += SETTLED
        assert watching.look() == []

    assert watching.watch.position == watching.clock.now - MARGIN_SECONDS


def test_a_folder_that_has_not_changed_is_not_read(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching.write("odin/raw/1.nxs")
    watching.clock.now += SETTLED
    watching.watch.done(watching.look())
    read: list[str] = []
    scandir = os.scandir

    def noted(folder: str) -> Iterator[os.DirEntry[str]]:
        read.append(folder)
        return scandir(folder)

    monkeypatch.setattr("os.scandir", noted)
    watching.clock.now += SETTLED
    watching.look()
    assert read == []
    watching.write("odin/raw/2.nxs")
    watching.clock.now += SETTLED

    assert names(watching.look()) == ["2.nxs"]
    assert str(watching.root / "odin/raw") in read


def test_a_look_ends_in_time_and_the_next_one_goes_on_there(watching: Watching) -> None:
    for number in range(8):
        watching.write(f"{number}/run-{number}.nxs")
    watching.clock.now += SETTLED
    watching.clock.seconds_each_folder = 1.0
    found: list[set[str]] = [set(names(watching.look(seconds=4.0))) for _ in range(4)]

    assert all(len(later - earlier) <= 4 for earlier, later in pairwise(found))
    assert len(found[0]) < 8
    assert len(found[-1]) == 8


def test_another_watch_finds_what_this_one_has_not_done(watching: Watching) -> None:
    watching.write("1.nxs")
    watching.look()
    watching.clock.now += 3 * MARGIN_SECONDS
    watching.write("2.nxs")
    watching.clock.now += SETTLED
    watching.watch.done([file for file in watching.look() if file.path.endswith("2.nxs")])

    watching.watch = watching.anew(watching.watch.position)

    assert "1.nxs" in names(watching.look())


def test_a_new_folder_with_its_files_is_found(watching: Watching) -> None:
    watching.look()
    watching.clock.now += SETTLED
    watching.write("dream/2026/raw/9.hdf")
    for folder in ("dream/2026", "dream"):
        os.utime(watching.root / folder, (watching.clock.now, watching.clock.now))
    watching.clock.now += SETTLED

    assert names(watching.look()) == ["9.hdf"]


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scicat_dagster.patience.PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr("scicat_dagster.usecases.folder_watch.BRIEF_PATIENCE_SECONDS", 0.2)


@pytest.fixture
def mounted(watching: Watching) -> Iterator[FaultyStorage]:
    """The folder of one instrument on a storage of its own, on which a file was written just now."""
    place = watching.root / "odin"
    place.mkdir()
    with faulty_storage(place, b"x", START) as storage:
        yield storage


@pytest.mark.parametrize(
    ("number", "call"), [(errno.EIO, "look"), (errno.ESTALE, "list"), (HANGS, "look"), (HANGS, "list")]
)
def test_what_a_storage_did_not_show_is_found_when_it_does_and_other_files_meanwhile(
    watching: Watching, mounted: FaultyStorage, patience: None, number: int, call: Call
) -> None:
    mounted.fail(number, call)
    watching.write("loki/1.nxs")
    watching.clock.now += SETTLED
    found = watching.look()
    watching.watch.done(found)

    assert names(found) == ["1.nxs"]
    assert list(watching.watch.unseen) == [str(watching.root / "odin")]

    for _ in range(2):
        watching.clock.now += 3 * MARGIN_SECONDS
        assert watching.look() == []
    assert watching.watch.position < START
    mounted.recover()

    assert names(watching.look()) == ["run.nxs"]
    assert watching.watch.unseen == {}


def test_a_file_that_cannot_be_looked_at_is_found_later(watching: Watching, mounted: FaultyStorage) -> None:
    assert watching.look() == []
    mounted.fail(errno.EIO, "look")
    watching.clock.now += 3 * MARGIN_SECONDS
    for _ in range(2):
        assert watching.look() == []
    mounted.recover()

    assert names(watching.look()) == ["run.nxs"]


def test_a_storage_that_is_not_mounted_for_a_while_is_not_taken_for_an_empty_folder(
    watching: Watching,
) -> None:
    place = watching.root / "odin"
    place.mkdir()
    with faulty_storage(place, b"x", START):
        assert watching.look() == []
    for _ in range(3):
        watching.clock.now += 3 * MARGIN_SECONDS
        assert watching.look() == []
    assert list(watching.watch.unseen) == [str(place)]

    with faulty_storage(place, b"x", START):
        assert names(watching.look()) == ["run.nxs"]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_root_without_anything_in_it_does_not_count_as_looked_at(tmp_path: Path, is_there: bool) -> None:
    root = tmp_path / "data"
    if is_there:
        root.mkdir()
    watching = Watching(root)
    for _ in range(2):
        watching.clock.now += 3 * MARGIN_SECONDS
        assert watching.look() == []
    assert list(watching.watch.unseen) == [str(root)]
    watching.write("1.nxs", modified=START)

    assert names(watching.look()) == ["1.nxs"]
    assert watching.watch.unseen == {}
