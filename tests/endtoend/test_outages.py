"""What is away for a while, with real processes: the broker, a run worker that hangs, room on the disk.

Killed processes are ``test_kills``'. Here nothing is repaired by hand either, except that the disk gets room.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus

from scicat_dagster.demo import people
from scicat_dagster.demo.broker import LoopbackBroker
from scicat_dagster.demo.catalogue.faults import FaultKind
from scicat_dagster.demo.file_writer import Announcer, write_files
from scicat_dagster.demo.measurement import PlannedFile, plan_file
from tests.endtoend.conftest import Processes, facility_processes, second_copy
from tests.endtoend.test_kills import check_exactly_once, shorten_timeouts

pytestmark = [pytest.mark.endtoend, pytest.mark.timeout(300)]

OUTAGE_SECONDS = 20
FULL_SECONDS = 12
"""Long enough for two ticks."""


def create_topics(facility: Processes) -> None:
    for name, partitions in people.TOPICS.items():
        facility.broker.create_topic(name, partitions)


def plans(files: int, first: int = 0) -> list[PlannedFile]:
    return [plan_file(seed=17, index=first + index) for index in range(files)]


def write(facility: Processes, planned: Sequence[PlannedFile], timeout: float = 10.0) -> set[str]:
    """Write files and announce them; the file writer keeps an announcement until a broker takes it."""
    announcer = Announcer(facility.broker.bootstrap_servers, timeout=timeout)
    return {str(path) for path in write_files(planned, facility.data_directory, announcer).files}


def wait_until_registered(facility: Processes, files: set[str], *, seconds: float) -> None:
    facility.wait_for(
        lambda: facility.registered() == files and facility.unfinished_runs() == 0,
        f"{len(files)} registered files",
        seconds=seconds,
    )


def test_a_broker_that_is_away_is_said_so_and_files_announced_meanwhile_are_registered(
    on_loopback: Processes, loopback_broker: LoopbackBroker
) -> None:
    facility = on_loopback
    create_topics(facility)
    files = write(facility, plans(1))
    facility.start_dagster()
    wait_until_registered(facility, files, seconds=100)

    loopback_broker.set_down()
    back_at = time.monotonic() + OUTAGE_SECONDS
    with ThreadPoolExecutor(1) as file_writer:
        meanwhile = file_writer.submit(write, facility, plans(1, first=1), timeout=60.0)
        try:
            facility.wait_for(
                lambda: time.monotonic() > back_at and failed_ticks(facility) != [],
                "a tick that says that the broker is away",
                seconds=OUTAGE_SECONDS + 30,
            )
        finally:
            loopback_broker.set_up()
        files |= meanwhile.result()

    assert all("does not answer" in str(tick.error) for tick in failed_ticks(facility))
    wait_until_registered(facility, files, seconds=100)
    check_exactly_once(facility, files)


def failed_ticks(facility: Processes) -> list[InstigatorTick]:
    return [tick for tick in facility.ticks() if tick.status is TickStatus.FAILURE]


def shorten_the_longest_run(facility: Processes, seconds: int) -> None:
    instance = facility.directory / "dagster" / "dagster.yaml"
    text = instance.read_text()
    assert "max_runtime_seconds: 300" in text
    text = text.replace("max_runtime_seconds: 300", f"max_runtime_seconds: {seconds}")
    instance.write_text(text.replace("poll_interval_seconds: 5", "poll_interval_seconds: 1"))


@pytest.mark.parametrize(
    "hangs_at",
    [
        pytest.param(("GET", "proposals/.*"), id="before it writes"),
        pytest.param(("POST", "origdatablocks"), id="while it writes"),
    ],
)
def test_a_run_worker_that_hangs_is_found_and_its_file_registered_once(
    on_loopback: Processes, hangs_at: tuple[str, str]
) -> None:
    facility = on_loopback
    shorten_timeouts(facility)
    shorten_the_longest_run(facility, 8)
    create_topics(facility)
    files = write(facility, plans(1))
    # Answered late: time enough to stop whoever waits for the answer.
    facility.faults.add((FaultKind.SLOW, *hangs_at))
    facility.start_dagster()
    facility.wait_for(lambda: not facility.faults.remaining, "the request to hang at", seconds=100)

    (worker,) = facility.run_workers()
    # Neither dead nor answering, as in a library that loops.
    os.kill(worker, signal.SIGSTOP)
    facility.wait_for(
        lambda: facility.registered() == files and facility.unfinished_runs() == 0,
        "the retry of the hanging run",
        seconds=90,
    )

    assert not Path(f"/proc/{worker}").exists()
    check_exactly_once(facility, files)
    (failed,) = facility.failed_runs()
    assert "exceeding maximum runtime" in "".join(
        entry.message for entry in facility.instance.all_logs(failed.run_id)
    )


@pytest.fixture
def small_disk(tmp_path: Path, loopback_broker: LoopbackBroker) -> Iterator[Processes]:
    """A facility whose DAGSTER_HOME is a file system of 32 MiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("Only root can mount the small file system that this test fills.")
    home = tmp_path / "dagster"

    def mount(folder: Path) -> None:
        settings = (folder / "dagster.yaml").read_text()
        command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, text=True)
        if mounted.returncode != 0:
            pytest.skip(f"No small file system can be mounted here: {mounted.stderr.strip()}")
        (folder / "dagster.yaml").write_text(settings)

    try:
        with facility_processes(tmp_path, loopback_broker, mount) as processes:
            yield processes
    finally:
        if home.is_mount():
            subprocess.run(["umount", "--lazy", str(home)], check=True)


def test_a_full_disk_under_dagster_loses_nothing_and_registers_nothing_twice(small_disk: Processes) -> None:
    facility = small_disk
    shorten_timeouts(facility)
    shorten_the_longest_run(facility, 30)
    create_topics(facility)
    files = write(facility, plans(1))
    facility.start_dagster()
    wait_until_registered(facility, files, seconds=100)

    filler = facility.directory / "dagster" / "filler"
    fill(filler)
    files |= write(facility, plans(3, first=1))
    room_at = time.monotonic() + FULL_SECONDS
    facility.wait_for(
        lambda: time.monotonic() > room_at and says_that_the_disk_is_full(facility),
        "words about the full disk",
        seconds=60,
    )
    filler.unlink()

    wait_until_registered(facility, files, seconds=120)
    check_exactly_once(facility, files)


def says_that_the_disk_is_full(facility: Processes) -> bool:
    logs = facility.logs()
    # SQLite has two ways of saying it.
    return "disk is full" in logs or "disk I/O error" in logs


def fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass


def test_two_whole_copies_of_the_facility_register_each_file_once(
    on_loopback: Processes, tmp_path: Path
) -> None:
    one = on_loopback
    shorten_timeouts(one)
    create_topics(one)
    with second_copy(one, tmp_path / "second") as other:
        shorten_timeouts(other)
        one.start_dagster()
        other.start_dagster()
        for facility in (one, other):
            facility.wait_for(lambda facility=facility: facility.ticks() != [], "the first tick", seconds=100)  # type: ignore[misc]
        files = write(one, plans(5))
        for facility in (one, other):
            wait_until_registered(facility, files, seconds=120)

        check_exactly_once(one, files)
