"""The laptop's home is backed up by stopping and copying it; docs/how-to/operations.md says so."""

from __future__ import annotations

import shutil

import pytest

from scicat_dagster.demo import people
from scicat_dagster.demo.file_writer import Announcer, write_files
from scicat_dagster.demo.measurement import plan_file
from tests.endtoend.conftest import Processes
from tests.endtoend.test_kills import check_exactly_once

pytestmark = [pytest.mark.endtoend, pytest.mark.timeout(400)]


def announce(facility: Processes, index: int) -> str:
    announcer = Announcer(facility.broker.bootstrap_servers)
    (path,) = write_files([plan_file(31, index)], facility.data_directory, announcer).files
    return str(path)


def test_a_home_that_was_lost_is_copied_back_and_what_is_newer_is_read_again(on_loopback: Processes) -> None:
    facility = on_loopback
    for name, partitions in people.TOPICS.items():
        facility.broker.create_topic(name, partitions)
    home, backup = facility.directory / "dagster", facility.directory / "backup"
    before = announce(facility, 1)
    facility.start_dagster()
    facility.wait_for(lambda: facility.registered() == {before}, "the first file", seconds=150)
    facility.stop()
    shutil.copytree(home, backup)
    after = announce(facility, 2)
    facility.start_dagster()
    facility.wait_for(lambda: facility.registered() == {before, after}, "the second file", seconds=150)
    facility.stop()

    shutil.rmtree(home)
    shutil.copytree(backup, home)

    assert facility.registered() == {before}
    facility.start_dagster()
    facility.wait_for(lambda: facility.registered() == {before, after}, "the second file", seconds=150)
    facility.wait_for(lambda: facility.unfinished_runs() == 0, "the end of the runs", seconds=60)
    check_exactly_once(facility, {before, after})
