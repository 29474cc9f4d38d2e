"""Walking: which files count, and that nothing is left out without a word that somebody might miss."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scicat_dagster.config.models import FileHandlingSettings, ReconcileSettings
from scicat_dagster.errors import PermanentError
from scicat_dagster.files.paths import canonical_path
from scicat_dagster.usecases.discover import Count, Discovery, FileState, State
from scicat_dagster.usecases.walk import (
    Criteria,
    Empty,
    FoundFile,
    Refused,
    Unreadable,
    nothing_found,
    nothing_found_in,
    walk,
)
from tests.storages import HANGS, Call, faulty_storage

NOBODY = 65534


def write(root: Path, *names: str, modified: datetime | None = None) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(path.name))
        if modified is not None:
            os.utime(path, (modified.timestamp(), modified.timestamp()))


def found(root: Path, criteria: Criteria | None = None, **handling: str) -> list[str]:
    """The files of a walk that has nothing to complain of, relative to the root."""
    entries = list(walk([str(root)], criteria or Criteria(), FileHandlingSettings(**handling)))
    assert all(isinstance(entry, FoundFile) for entry in entries), entries
    return [str(PurePosixPath(entry.path).relative_to(root)) for entry in entries]


def test_data_files_are_found_at_any_depth_in_order(tmp_path: Path) -> None:
    write(tmp_path, "b/2.nxs", "a/deep/down/1.hdf", "3.h5", "4.hdf5", "notes.txt", "a/1.nxs.bak")

    assert found(tmp_path) == ["3.h5", "4.hdf5", "a/deep/down/1.hdf", "b/2.nxs"]


def test_a_found_file_has_what_is_compared_and_shown(tmp_path: Path) -> None:
    then = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    write(tmp_path, "odin/raw/1.nxs", modified=then)

    (entry,) = walk([f"{tmp_path}/"], Criteria(), FileHandlingSettings())

    path = str(tmp_path / "odin/raw/1.nxs")
    assert entry == FoundFile(path, str(tmp_path), "odin", size=5, modified=then.timestamp())


def test_what_begins_with_a_dot_is_left_out_unless_it_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, ".snapshot/daily/1.nxs", ".1.nxs.part.nxs", "1.nxs")

    assert found(tmp_path) == ["1.nxs"]
    assert found(tmp_path, Criteria(patterns=[".*.nxs"])) == [".1.nxs.part.nxs"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("../ingestor", ["443503/raw/1.nxs"]),
        ("own/ingestor", ["443503/ingestor/1.nxs", "443503/raw/1.nxs"]),
        (".", ["443503/ingestor/1.nxs", "443503/raw/1.nxs", "443503/raw/own/ingestor/1.nxs"]),
    ],
)
def test_the_ingestors_own_folders_are_left_out(tmp_path: Path, setting: str, expected: list[str]) -> None:
    names = ["443503/raw/1.nxs", "443503/ingestor/1.nxs", "443503/raw/own/ingestor/1.nxs"]
    write(tmp_path, *names)

    assert found(tmp_path, ingestor_files_directory=setting) == expected


def test_an_absolute_folder_of_the_ingestor_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, "raw/1.nxs", "ingestor/1.nxs", "other/ingestor/1.nxs")

    assert found(tmp_path, ingestor_files_directory=str(tmp_path / "ingestor")) == [
        "other/ingestor/1.nxs",
        "raw/1.nxs",
    ]


def test_since_and_until_are_about_the_time_of_modification(tmp_path: Path) -> None:
    days = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)]
    for day in days:
        write(tmp_path, f"{day.day}.nxs", modified=day)

    assert found(tmp_path, Criteria(since=days[1])) == ["2.nxs", "3.nxs"]
    assert found(tmp_path, Criteria(until=days[1])) == ["1.nxs"]
    assert found(tmp_path, Criteria(since=days[1], until=days[2])) == ["2.nxs"]


def test_an_instrument_is_a_folder_on_the_way_whatever_its_case(tmp_path: Path) -> None:
    write(tmp_path, "2026/ODIN/1.nxs", "2026/loki/odin.nxs", "odin/2026/2.nxs")

    assert found(tmp_path, Criteria(instruments=["odin"])) == ["2026/ODIN/1.nxs", "odin/2026/2.nxs"]


@pytest.mark.parametrize(
    ("root", "data_directory", "expected"),
    [(".", "", "odin"), ("odin/2026", "", "raw"), ("odin/2026", ".", "odin"), ("odin/2026/raw", "", "raw")],
)
def test_the_instrument_is_the_first_folder_below_the_data_directory_or_the_root(
    tmp_path: Path, root: str, data_directory: str, expected: str
) -> None:
    write(tmp_path, "odin/2026/raw/1.nxs")
    handling = FileHandlingSettings(data_directory=str(tmp_path / data_directory) if data_directory else "")

    (entry,) = walk([str(tmp_path / root)], Criteria(), handling)

    assert isinstance(entry, FoundFile)
    assert entry.instrument == expected


def test_links_are_not_followed_but_named(tmp_path: Path) -> None:
    write(tmp_path, "raw/1.nxs")
    (tmp_path / "raw" / "loop").symlink_to(tmp_path)
    (tmp_path / "raw" / "latest.nxs").symlink_to("1.nxs")
    (tmp_path / "raw" / "gone.nxs").symlink_to("gone")
    (tmp_path / "raw" / "self.nxs").symlink_to("self.nxs")
    (tmp_path / "raw" / "notes").symlink_to("1.nxs")

    entries = list(walk([str(tmp_path)], Criteria(), FileHandlingSettings()))

    assert [entry.path for entry in entries if isinstance(entry, FoundFile)] == [
        str(tmp_path / "raw" / "1.nxs")
    ]
    others = {Path(entry.path).name for entry in entries if not isinstance(entry, FoundFile)}
    assert others == {"loop", "latest.nxs", "gone.nxs", "self.nxs"}


def test_a_root_may_be_a_link_and_keeps_its_name(tmp_path: Path) -> None:
    write(tmp_path, "disk7/raw/1.nxs")
    (tmp_path / "data").symlink_to("disk7")

    assert found(tmp_path / "data") == ["raw/1.nxs"]


def test_what_looks_like_a_file_and_is_none_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1.nxs")
    (tmp_path / "2.nxs").mkdir()

    assert list(walk([str(tmp_path)], Criteria(), FileHandlingSettings())) == [
        Refused(str(tmp_path / "1.nxs"), "It is not a regular file.")
    ]


@pytest.mark.parametrize("name", [b"line\nbreak.nxs", b"dots....nxs", b"latin-\xe9.nxs"])
def test_a_name_that_no_partition_can_have_is_named(tmp_path: Path, name: bytes) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()

    (entry,) = walk([str(tmp_path)], Criteria(), FileHandlingSettings())

    assert isinstance(entry, Refused)
    assert os.fsencode(entry.path).endswith(name)


def test_a_root_that_is_not_there_is_named(tmp_path: Path) -> None:
    entries = list(walk([str(tmp_path / "gone")], Criteria(), FileHandlingSettings()))

    assert entries == [Unreadable(str(tmp_path / "gone"), "No such file or directory.")]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be somebody without rights; whoever is not root is that already."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_nobody_may_read_is_named_and_the_others_are_walked() -> None:
    # Not pytest's own folder, which only its owner may enter.
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write(root, "closed/1.nxs", "open/2.nxs")
        root.chmod(0o755)
        (root / "closed").chmod(0)
        try:
            with as_nobody():
                entries = list(walk([name], Criteria(), FileHandlingSettings()))
        finally:
            (root / "closed").chmod(0o755)

    closed, file = entries
    assert closed == Unreadable(f"{name}/closed", "Permission denied.")
    assert isinstance(file, FoundFile)
    assert file.path == f"{name}/open/2.nxs"


def test_a_file_below_several_roots_is_found_once(tmp_path: Path) -> None:
    write(tmp_path, "a/b/1.nxs", "a-b/2.nxs")
    roots = [str(tmp_path / "a" / "b"), str(tmp_path / "a"), str(tmp_path / "a-b"), f"{tmp_path}/a//"]

    entries = list(walk(roots, Criteria(), FileHandlingSettings()))

    assert [(Path(entry.path).name) for entry in entries] == ["1.nxs", "2.nxs"]


@pytest.mark.parametrize("root", ["data", "/", "/data/../etc", "/elsewhere", "/data/loki2"])
def test_a_root_that_no_file_may_come_from_is_refused(root: str) -> None:
    with pytest.raises(PermanentError, match="cannot be searched") as refused:
        walk([root], Criteria(), FileHandlingSettings(data_directory="/data/loki"))

    assert "data_directory" in refused.value.remedy


NAMES = st.text(st.sampled_from("a.*[é\n\x7f x"), min_size=1, max_size=6).filter(
    lambda name: name not in {".", ".."}
)


@given(st.lists(st.tuples(st.lists(NAMES, max_size=2), NAMES), max_size=6))
def test_every_file_is_found_or_named_unless_a_dot_hides_it(
    files: list[tuple[list[str], str]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        written = {str(Path(name, *folders, f"{stem}.nxs")) for folders, stem in files}
        write(Path(name), *(str(PurePosixPath(path).relative_to(name)) for path in written))
        handling = FileHandlingSettings(ingestor_files_directory=".")

        entries = list(walk([name], Criteria(), handling))

    visible = {
        path
        for path in written
        if not any(part.startswith(".") for part in PurePosixPath(path).relative_to(name).parts)
    }
    # A root without anything in it is named as such.
    assert sorted(entry.path for entry in entries) == (sorted(visible) if files else [name])
    for entry in entries:
        if isinstance(entry, FoundFile):
            assert entry.path == canonical_path(entry.path)
        elif not isinstance(entry, Empty):
            with pytest.raises(ValueError, match="holds"):
                canonical_path(entry.path)


def state(instrument: str, what: State) -> FileState:
    return FileState(
        path="/d/1.nxs",
        root="/d",
        instrument=instrument,
        state=what,
        size=1,
        modified=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_files_are_counted_by_root_instrument_and_state() -> None:
    found = Discovery(
        files=(
            state("odin", "missing"),
            state("loki", "changed"),
            state("odin", "registered"),
            state("odin", "missing"),
        )
    )

    assert found.counts() == [
        Count(root="/d", instrument="loki", on_disk=1, registered=0, changed=1, missing=0),
        Count(root="/d", instrument="odin", on_disk=3, registered=1, changed=0, missing=2),
    ]
    assert len(found.of("missing")) == 2


@pytest.mark.parametrize("cron", ["0 3 * * *", "*/15 * * * *", " 5,35 0-6/2  1 1-12 0,7 ", "59 23 31 12 7"])
def test_cron_expressions_that_are_taken(cron: str) -> None:
    import dagster as dg

    read = ReconcileSettings(cron=cron).cron

    assert read == " ".join(cron.split())
    assert dg.ScheduleDefinition(name="s", target="*", cron_schedule=read).cron_schedule == read


@pytest.mark.parametrize(
    ("cron", "why"),
    [
        ("", "five fields"),
        ("0 3 * *", "five fields"),
        ("@daily", "five fields"),
        ("60 3 * * *", "minute"),
        ("0 24 * * *", "hour"),
        ("0 3 0 * *", "day"),
        ("0 3 * 13 *", "month"),
        ("0 3 * * 8", "weekday"),
        ("0 3 * * sun", "weekday"),
        ("9-3 3 * * *", "minute"),
        ("*/0 3 * * *", "step"),
        ("1, 3 * * *", "minute"),
    ],
)
def test_cron_expressions_that_are_refused(cron: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        ReconcileSettings(cron=cron)


def test_names_of_data_files_are_the_configurations(tmp_path: Path) -> None:
    write(tmp_path, "1.nxs", "lrcs3701.nx5", "2.nx", "3.nexus", "4.nxs.b2b", "5.nxs.message.json", "6.raw")

    assert found(tmp_path) == ["1.nxs", "2.nx", "3.nexus", "lrcs3701.nx5"]
    entries = walk([str(tmp_path)], Criteria(), FileHandlingSettings(file_names=("*.raw",)))
    assert [PurePosixPath(entry.path).name for entry in entries] == ["6.raw"]


@pytest.mark.parametrize("patterns", ["", "raw/*.nxs", []])
def test_patterns_that_match_no_name_are_refused(patterns: object) -> None:
    with pytest.raises(ValidationError):
        FileHandlingSettings.model_validate({"file_names": patterns})


def test_a_folder_without_data_files_says_what_it_has(tmp_path: Path) -> None:
    write(tmp_path, *(f"{number}.raw" for number in range(7)))

    report = nothing_found(str(tmp_path), Criteria(), FileHandlingSettings())

    assert (report.others, report.not_chosen) == (7, 0)
    assert report.names == ("0.raw", "1.raw", "2.raw", "3.raw", "4.raw")
    for word in ("*.nx5", "7 files", "0.raw", "ingestion.file_handling.file_names"):
        assert word in report.as_text()


def test_files_that_the_options_leave_out_are_counted_apart(tmp_path: Path) -> None:
    write(tmp_path, "raw/1.nxs", "raw/notes.txt")

    report = nothing_found(str(tmp_path), Criteria(instruments=["odin"]), FileHandlingSettings())

    assert (report.others, report.not_chosen) == (1, 1)
    assert "1 file of such a name" in report.as_text()


def test_only_folders_without_a_file_are_reported(tmp_path: Path) -> None:
    write(tmp_path, "a/1.nxs", "ab/notes.txt")
    folders = [str(tmp_path / "a"), str(tmp_path / "ab")]

    reports = nothing_found_in(folders, [f"{tmp_path}/a/1.nxs"], Criteria(), FileHandlingSettings())

    assert [report.folder for report in reports] == [str(tmp_path / "ab")]


@pytest.mark.parametrize("call", ["look", "list"])
def test_a_folder_that_hangs_is_named_and_the_others_are_walked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setattr("scicat_dagster.patience.PATIENCE_SECONDS", 0.2)
    write(tmp_path, "a/1.nxs", "c/3.nxs")
    (tmp_path / "b").mkdir()
    with faulty_storage(tmp_path / "b", b"x", 0.0) as storage:
        storage.fail(HANGS, call)
        entries = list(walk([str(tmp_path)], Criteria(), FileHandlingSettings()))

    assert [PurePosixPath(entry.path).name for entry in entries] == ["1.nxs", "b", "3.nxs"]
    assert isinstance(entries[1], Unreadable)
    assert entries[1].is_passing


def test_a_folder_whose_storage_fails_is_not_said_to_hold_no_file(tmp_path: Path) -> None:
    with faulty_storage(tmp_path, b"x", 0.0) as storage:
        storage.fail(errno.EIO, "list")
        (entry,) = walk([str(tmp_path)], Criteria(), FileHandlingSettings())

        assert entry == Unreadable(str(tmp_path), "Input/output error.", is_passing=True)
        assert nothing_found_in([str(tmp_path)], [entry.path], Criteria(), FileHandlingSettings()) == ()
