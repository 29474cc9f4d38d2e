"""Processes that are killed in the middle of a file: everything converges by itself after a restart."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import PARENT_RUN_ID_TAG

from scicat_dagster.demo import people
from scicat_dagster.demo.catalogue.faults import FaultKind
from scicat_dagster.demo.file_writer import Announcer, write_files
from scicat_dagster.demo.measurement import plan_file
from scicat_dagster.orchestration.failures.crashes import REPEATED_CRASH
from scicat_dagster.orchestration.failures.failed_files import failed_files
from tests.endtoend.conftest import Processes

pytestmark = [pytest.mark.endtoend, pytest.mark.timeout(400)]


def announce(facility: Processes, files: int) -> set[str]:
    for name, partitions in people.TOPICS.items():
        facility.broker.create_topic(name, partitions)
    plans = [plan_file(seed=11, index=index) for index in range(files)]
    announcer = Announcer(facility.broker.bootstrap_servers)
    return {str(path) for path in write_files(plans, facility.data_directory, announcer).files}


def shorten_timeouts(facility: Processes) -> None:
    """So that a registration soon believes that the one before it is over."""
    config = facility.directory / "config.yml"
    text = config.read_text()
    assert "timeout: 10" in text
    config.write_text(text.replace("timeout: 10", "timeout: 6"))


def check_exactly_once(facility: Processes, files: set[str]) -> None:
    store = facility.server.store
    listed = sorted(
        str(Path(str(dataset["sourceFolder"])) / block["dataFileList"][0]["path"])
        for dataset in store.datasets()
        for block in store.origdatablocks(str(dataset["pid"]))
    )
    assert listed == sorted(files)
    assert store.count_datasets() == len(files)


def test_a_run_worker_killed_between_dataset_and_block_is_made_up_for(on_loopback: Processes) -> None:
    facility = on_loopback
    shorten_timeouts(facility)
    files = announce(facility, 1)
    # The block's request is refused first, and answered late then: time enough to kill in between.
    facility.faults.add(
        (FaultKind.UNAVAILABLE, "POST", "origdatablocks"), (FaultKind.SLOW, "GET", "datasets/.*")
    )
    facility.start_dagster()
    store = facility.server.store
    facility.wait_for(
        lambda: store.count_datasets() == 1 and not facility.faults.remaining, "the dataset alone", seconds=90
    )
    assert store.count_origdatablocks() == 0

    (worker,) = facility.run_workers()
    os.kill(worker, signal.SIGKILL)

    facility.wait_for(lambda: facility.registered() == files, "the retry of the killed run", seconds=150)
    check_exactly_once(facility, files)
    (killed,) = facility.failed_runs()
    (retry,) = facility.instance.get_runs(dg.RunsFilter(tags={PARENT_RUN_ID_TAG: killed.run_id}))
    # From where it was killed, not from the beginning.
    assert steps_of(facility, retry) == {"raw_dataset.register_dataset"}


def test_a_file_that_kills_its_worker_twice_is_left_to_people(on_loopback: Processes) -> None:
    facility = on_loopback
    announce(facility, 1)
    facility.start_dagster()
    for runs in (1, 2):
        # Answered late: time enough to kill at the same op each time.
        facility.faults.add((FaultKind.SLOW, "GET", "proposals/.*"))
        facility.wait_for(
            lambda runs=runs: (  # type: ignore[misc]
                not facility.faults.remaining and len(facility.run_workers()) == 1
                and facility.instance.get_runs_count() == runs
            ),
            "the worker to kill",
            seconds=100,
        )  # fmt: skip
        (worker,) = facility.run_workers()
        os.kill(worker, signal.SIGKILL)

    facility.wait_for(lambda: len(facility.failed_runs()) == 2, "the second failure", seconds=30)
    (file,) = failed_files(facility.instance)
    assert file.kind == REPEATED_CRASH
    assert file.needs_manual_intervention
    latest = facility.instance.get_run_by_id(file.run_id)
    assert latest is not None
    assert latest.tags["dagster/will_retry"] == "false"


def steps_of(facility: Processes, run: dg.DagsterRun) -> set[str | None]:
    started = facility.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START)
    return {entry.step_key for entry in started}


def test_a_killed_daemon_and_code_server_lose_nothing(on_loopback: Processes) -> None:
    facility = on_loopback
    shorten_timeouts(facility)
    files = announce(facility, 5)
    code_server, daemon, port = facility.start_dagster()
    facility.wait_for(lambda: len(facility.registered()) >= 1, "the first file", seconds=90)

    facility.kill(daemon)
    facility.kill(code_server)
    facility.start_code_server(port)
    facility.start_daemon()

    facility.wait_for(
        lambda: facility.registered() == files and facility.unfinished_runs() == 0,
        "every file after the restart",
        # Should Dagster give its own retry up, because the code server is not back yet, another is requested
        # when a minute is over.
        seconds=270,
    )
    check_exactly_once(facility, files)
