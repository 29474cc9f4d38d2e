"""Storage that refuses, fails or hangs: missing rights, a full disk, read errors, a mount without a server.

The super-user may do everything, so the calls are made as somebody else where the tests run as root.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from scicat_dagster import isolation
from scicat_dagster.config.models import FileHandlingSettings
from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.files.access import NotReadyError
from scicat_dagster.files.description import describe_file
from scicat_dagster.files.isolated.hdf5 import open_nexus
from scicat_dagster.files.linked_files import other_files
from scicat_dagster.files.manifest import FileDescription
from scicat_dagster.files.readiness import wait_until_complete
from scicat_dagster.files.reading import Read, read_values
from scicat_dagster.files.sidecars import write_sidecars
from scicat_dagster.isolation import Limits
from scicat_dagster.patience import SilentStorageError
from tests.storages import HANGS, Call, FaultyStorage, faulty_storage

NOBODY = 65534
LONG_AGO = 3600.0
BRIEF = Limits(seconds=2.0)
READ_ERRORS = [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be somebody without rights; whoever is not root is that already."""
    # As a service does: nobody may not even be allowed to start it from here.
    isolation.start()
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def proposal(data_folder: Path) -> Iterator[Path]:
    """The folder of a proposal with a raw file. Not pytest's own folder, which only its owner may enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "raw").mkdir()
        shutil.copy(data_folder / "small-coda.hdf", folder / "raw")
        for path in (folder, folder / "raw"):
            path.chmod(0o755)
        try:
            yield folder
        finally:
            # Whoever is not root could not remove them otherwise.
            for path in (folder, *(each for each in folder.rglob("*") if each.is_dir())):
                path.chmod(0o755)


@pytest.fixture
def file(proposal: Path, aged: Callable[[Path, float], Path]) -> Path:
    return aged(proposal / "raw" / "small-coda.hdf", LONG_AGO)


@pytest.fixture
def described(file: Path) -> FileDescription:
    return describe_file(file, FileHandlingSettings(message_to_file=True), {"job_id": "1"})


def test_a_file_that_must_not_be_read_is_permanent_and_names_it(file: Path) -> None:
    file.chmod(0)

    with as_nobody(), pytest.raises(PermanentError, match=f"No right to read {file}") as refused:
        wait_until_complete(file, [])

    assert f"the right to read {file}," in refused.value.remedy


def test_a_file_that_must_not_be_read_yet_is_tried_again(
    file: Path, aged: Callable[[Path, float], Path]
) -> None:
    aged(file, 5.0)
    file.chmod(0)

    with as_nobody(), pytest.raises(NotReadyError, match=f"No right to read {file}"):
        wait_until_complete(file, [])


def test_a_folder_that_must_not_be_entered_is_permanent_and_names_it(file: Path) -> None:
    folder = file.parent
    folder.chmod(0)

    with as_nobody(), pytest.raises(PermanentError, match=f"No right to read {file}") as refused:
        wait_until_complete(file, [])

    assert f"the right to read {folder}," in refused.value.remedy


def test_a_right_that_is_taken_away_in_the_middle_is_permanent(file: Path) -> None:
    with as_nobody():
        wait_until_complete(file, [])
    file.chmod(0)

    with as_nobody(), pytest.raises(PermanentError, match="No right to read"), open_nexus(file):
        pass
    with as_nobody(), pytest.raises(PermanentError, match="No right to read") as refused:
        describe_file(file, FileHandlingSettings())

    assert f"the right to read {file}," in refused.value.remedy


@pytest.mark.parametrize("mode", [0o555, 0])
def test_an_ingestor_folder_that_must_not_be_written_is_permanent_and_named(
    described: FileDescription, proposal: Path, mode: int
) -> None:
    folder = proposal / "ingestor"
    folder.mkdir()
    folder.chmod(mode)

    with as_nobody(), pytest.raises(PermanentError) as refused:
        write_sidecars(described)

    assert refused.value.what == f"No right to write {folder}/small-coda.hdf.b2b."
    assert f"the right to write in {folder}," in refused.value.remedy
    folder.chmod(0o755)
    assert list(folder.iterdir()) == []


def test_an_ingestor_folder_that_must_not_be_made_is_permanent_and_its_place_is_named(
    described: FileDescription, proposal: Path
) -> None:
    proposal.chmod(0o555)

    with as_nobody(), pytest.raises(PermanentError) as refused:
        write_sidecars(described)

    assert refused.value.what == f"No right to make {proposal}/ingestor."
    assert f"the right to write in {proposal}," in refused.value.remedy


@pytest.fixture
def tiny_disk(proposal: Path) -> Iterator[Path]:
    """The ingestor folder as a file system of 64 KiB."""
    folder = proposal / "ingestor"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=1777", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("Only root can mount the tiny file system that this test fills.")
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"No tiny file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, leave_pages: int = 0) -> Path:
    """Write until nothing more goes in, and take a number of 4 KiB pages back."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    os.truncate(filler, filler.stat().st_size - leave_pages * 4096)
    return filler


@pytest.mark.parametrize("leave_pages", [0, 1])
def test_a_full_disk_is_transient_names_the_place_and_leaves_nothing_half_written(
    described: FileDescription, tiny_disk: Path, leave_pages: int
) -> None:
    filler = fill(tiny_disk, leave_pages)

    with pytest.raises(TransientError, match="No space left on device") as full:
        write_sidecars(described)

    assert str(tiny_disk) in full.value.what
    assert "has room" in full.value.remedy
    planned = {Path(sidecar.path).name: sidecar.content for sidecar in described.sidecars}
    left = [path for path in tiny_disk.iterdir() if path != filler]
    assert len(left) == leave_pages
    assert all(path.read_text() == planned[path.name] for path in left)

    filler.unlink()
    write_sidecars(described)

    assert {path.name: path.read_text() for path in tiny_disk.iterdir()} == planned


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scicat_dagster.patience.PATIENCE_SECONDS", 0.5)


@pytest.fixture
def faulty(tmp_path: Path, data_folder: Path) -> Iterator[FaultyStorage]:
    content = (data_folder / "small-coda.hdf").read_bytes()
    with faulty_storage(tmp_path, content, LONG_AGO) as storage:
        yield storage


@pytest.mark.parametrize("number", READ_ERRORS)
@pytest.mark.parametrize("call", ["look", "open", "read"])
def test_a_storage_that_fails_is_transient_at_each_step_and_says_why_in_the_same_words(
    faulty: FaultyStorage, number: int, call: Call
) -> None:
    complete = wait_until_complete(faulty.file, [])
    faulty.fail(number, call)

    for step in (
        lambda: wait_until_complete(faulty.file, []),
        lambda: read_values(complete, [Read(path="/entry/title")]),
        lambda: describe_file(faulty.file, FileHandlingSettings()),
    ):
        with pytest.raises(TransientError) as failed:
            step()
        assert os.strerror(number) in failed.value.what
        assert str(faulty.file) in failed.value.what
        assert "\n" not in failed.value.what


@pytest.mark.parametrize("call", ["look", "open", "read"])
def test_a_storage_that_hangs_ends_each_step_in_time(
    faulty: FaultyStorage, patience: None, call: Call
) -> None:
    complete = wait_until_complete(faulty.file, [])

    for step in (
        # It is not looked at anew: it was waited for already.
        lambda: wait_until_complete(faulty.file, [60.0], lambda _: pytest.fail("It waits once more.")),
        lambda: read_values(complete, [Read(path="/entry/title")], limits=BRIEF),
        lambda: describe_file(faulty.file, FileHandlingSettings()),
    ):
        faulty.fail(HANGS, call)
        with pytest.raises(TransientError, match="did not answer within") as silent:
            step()
        assert silent.value.retry_after_seconds
        faulty.recover()

    assert wait_until_complete(faulty.file, []) == complete


def test_sidecars_on_a_storage_that_hangs_are_transient(
    described: FileDescription, proposal: Path, patience: None
) -> None:
    folder = proposal / "ingestor"
    folder.mkdir()
    with faulty_storage(folder, b"", LONG_AGO) as storage:
        storage.hang()
        with pytest.raises(SilentStorageError, match="did not answer within"):
            write_sidecars(described)

    write_sidecars(described)
    assert len(list(folder.iterdir())) == len(described.sidecars)


def test_a_linked_file_whose_storage_fails_is_not_taken_for_one_that_is_not_there(
    file: Path,
) -> None:
    folder = file.parent / "detectors"
    folder.mkdir()
    complete = wait_until_complete(file, [])
    with faulty_storage(folder, b"frames", LONG_AGO) as storage:

        def listed() -> tuple[str, ...]:
            return other_files(complete, ["detectors/run.nxs"], str(file.parent), ["detectors/*"], "")[0]

        assert listed() == (str(storage.file),)
        storage.fail(errno.EIO, "look")
        with pytest.raises(TransientError, match="Input/output error"):
            listed()
        storage.fail(errno.EIO, "list")
        with pytest.raises(TransientError, match="Input/output error"):
            listed()


def test_a_broken_file_from_the_future_says_that_a_clock_is_wrong(
    file: Path, aged: Callable[[Path, float], Path]
) -> None:
    os.truncate(file, 2000)
    aged(file, -3 * 3600.0)

    with pytest.raises(NotReadyError, match="180 min from now, by the clock of its storage") as early:
        wait_until_complete(file, [])

    assert "clocks" in early.value.remedy


def test_a_sound_file_from_the_future_is_complete(file: Path, aged: Callable[[Path, float], Path]) -> None:
    aged(file, -3 * 3600.0)

    assert wait_until_complete(file, [], lambda _: None).size == file.stat().st_size
