"""HDF5 is read in a child process: whatever libhdf5 does there, it is over for this file only."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from scicat_dagster.errors import PermanentError
from scicat_dagster.files.identity import CompleteFile
from scicat_dagster.files.reading import Read, look_at, read_values
from scicat_dagster.isolation import Limits

Age = Callable[[Path, float], Path]

ENDLESS_SECTOR = 5
"""libhdf5 2.0.0 loops indefinitely where the global heap with the texts of small-coda.hdf is zeros here."""

TITLE = Read(path="/entry/title")
EVERY_TEXT = [
    Read(path=path)
    for path in (
        "/entry/title",
        "/entry/experiment_identifier",
        "/entry/start_time",
        "/entry/instrument/name",
    )
]
GENEROUS = 60_000


@pytest.fixture
def path(tmp_path: Path, data_folder: Path, aged: Age) -> Path:
    return aged(Path(shutil.copy(data_folder / "small-coda.hdf", tmp_path)), 3600)


@pytest.fixture
def endless(path: Path, aged: Age) -> CompleteFile:
    return made_endless(path, aged)


def made_endless(path: Path, aged: Age) -> CompleteFile:
    """A file in which one sector of the disk was lost."""
    content = bytearray(path.read_bytes())
    content[ENDLESS_SECTOR * 512 : (ENDLESS_SECTOR + 1) * 512] = bytes(512)
    path.write_bytes(content)
    return look_at(aged(path, 3600))


def readers(path: Path) -> list[int]:
    """The children that have a file open; the warm process has it for a moment only."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            has_it = any(descriptor.readlink() == path for descriptor in (process / "fd").iterdir())
            if has_it and all(
                is_ours(number) for number in (int(process.name), parent_of(int(process.name)))
            ):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def is_ours(process: int) -> bool:
    return b"files.isolated.process" in Path(f"/proc/{process}/cmdline").read_bytes()


def child_of(path: Path, other_than: tuple[int, ...] = ()) -> int:
    """The process that reads a file, as soon as there is one."""
    end = time.monotonic() + GENEROUS / 1000
    while time.monotonic() < end:
        for process in readers(path):
            if process not in other_than:
                return process
    pytest.fail("nobody reads the file")


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def wait_for_end(process: int) -> None:
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(GENEROUS), f"process {process} is still there"
    os.close(descriptor)


@contextmanager
def being_read(file: CompleteFile) -> Iterator[Future[object]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(read_values, file, EVERY_TEXT)


def test_a_file_on_which_libhdf5_loops_is_a_permanent_failure_that_says_so(endless: CompleteFile) -> None:
    with pytest.raises(
        PermanentError, match=r"did not finish reading .*small-coda.hdf within 1 s"
    ) as refused:
        read_values(endless, EVERY_TEXT, limits=Limits(seconds=1))

    assert "damaged" in refused.value.remedy
    assert readers(Path(endless.path)) == []


def test_the_next_file_is_read_as_if_nothing_had_been(
    endless: CompleteFile, tmp_path: Path, data_folder: Path, aged: Age
) -> None:
    with pytest.raises(PermanentError):
        read_values(endless, EVERY_TEXT, limits=Limits(seconds=1))

    sound = look_at(aged(Path(shutil.copy(data_folder / "small-coda.hdf", tmp_path / "sound.hdf")), 3600))

    assert read_values(sound, [TITLE]).read_one(TITLE.path).value


@pytest.mark.parametrize("ends_it", [signal.SIGSEGV, signal.SIGKILL])
def test_a_child_that_crashes_is_tried_once_more_and_is_then_a_permanent_failure(
    endless: CompleteFile, ends_it: signal.Signals
) -> None:
    with being_read(endless) as answer:
        first = child_of(Path(endless.path))
        os.kill(first, ends_it)
        wait_for_end(first)
        os.kill(child_of(Path(endless.path), (first,)), ends_it)

        with pytest.raises(
            PermanentError, match=rf"crashed twice while it read .*\(signal {ends_it.value}\)"
        ):
            answer.result()


def test_a_warm_process_that_was_killed_is_replaced(endless: CompleteFile) -> None:
    with being_read(endless) as answer:
        first = child_of(Path(endless.path))
        os.kill(parent_of(first), signal.SIGKILL)
        wait_for_end(first)
        second = child_of(Path(endless.path), (first,))
        os.kill(second, signal.SIGKILL)
        wait_for_end(second)

        # The first time it was not this file's fault, the second time it may have been.
        with pytest.raises(PermanentError, match="signal 9"):
            answer.result()


def test_a_child_ends_with_the_process_that_asked(endless: CompleteFile) -> None:
    program = (
        "import sys; from scicat_dagster.files.reading import *; "
        "read_values(CompleteFile.model_validate_json(sys.argv[1]), [Read(path=p) for p in sys.argv[2:]])"
    )
    asking = subprocess.Popen(
        [sys.executable, "-c", program, endless.model_dump_json(), *(read.path for read in EVERY_TEXT)]
    )
    child = child_of(Path(endless.path), (asking.pid,))
    warm = parent_of(child)

    asking.kill()
    asking.wait()

    wait_for_end(child)
    wait_for_end(warm)


def test_forks_of_a_process_read_at_the_same_time(path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from scicat_dagster.isolation import start
from scicat_dagster.files.reading import Read, look_at, read_values
start()
for _ in range(3):
    if os.fork() == 0:
        title = read_values(look_at(Path(sys.argv[1])), [Read(path="/entry/title")]).read_one("/entry/title")
        os.write(1, f"{title.value}\\n".encode())
        os._exit(0)
for _ in range(3):
    os.wait()
"""
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == "odin\n" * 3


def test_no_secret_is_in_the_environment_of_the_process_that_reads(endless: CompleteFile) -> None:
    program = (
        "import sys; from scicat_dagster.files.reading import *; "
        "read_values(CompleteFile.model_validate_json(sys.argv[1]), [Read(path=p) for p in sys.argv[2:]])"
    )
    asking = subprocess.Popen(
        [sys.executable, "-c", program, endless.model_dump_json(), *(read.path for read in EVERY_TEXT)],
        env=os.environ | {"INGESTOR_SCICAT_TOKEN": "secret-of-ours"},
    )
    try:
        child = child_of(Path(endless.path), (asking.pid,))
        assert b"secret-of-ours" not in Path(f"/proc/{child}/environ").read_bytes()
    finally:
        asking.kill()
        asking.wait()
