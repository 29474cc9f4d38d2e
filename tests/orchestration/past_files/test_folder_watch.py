"""The sensor that watches folders: a new file is requested once, and never lost between two ticks."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

import dagster as dg
import pytest

from scicat_dagster.demo.broker import LoopbackBroker
from scicat_dagster.errors import IngestionError
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.names import UNPREFIXED
from scicat_dagster.orchestration.past_files.folder_watch import WatchCursor, folder_watch_sensor
from tests.orchestration.ingest.test_sensor import Announcements, requested, wrdn
from tests.small_facility import SmallFacility
from tests.storages import faulty_storage

MINUTES = 5


class SkippedError(Exception):
    """The tick was skipped."""


class Watching:
    """A small facility whose folders are watched, and the sensor with its cursor."""

    def __init__(self, small: SmallFacility, facility: Facility) -> None:
        self.small, self.facility = small, facility
        self.cursor: str | None = None
        self.restart()

    def restart(self) -> None:
        self.sensor = folder_watch_sensor(self.facility.settings.reconcile, UNPREFIXED)

    def tick(self, *, is_stored: bool = True) -> list[str]:
        context = dg.build_sensor_context(
            instance=self.small.instance, cursor=self.cursor, resources={"facility": self.facility}
        )
        result = self.sensor(context)
        if isinstance(result, dg.SkipReason):
            raise SkippedError(result.skip_message)
        assert isinstance(result, dg.SensorResult)
        if is_stored:
            self.cursor = result.cursor
        return [f"{request.partition_key}" for request in result.run_requests or []]

    def write(self, name: str, minutes_ago: float = 2 * MINUTES) -> Path:
        path = self.small.file.parent / name
        shutil.copy(self.small.file, path)
        modified = time.time() - 60 * minutes_ago
        os.utime(path, (modified, modified))
        return path


@pytest.fixture
def watching(small: SmallFacility) -> Watching:
    small.reconcile["watch_minutes"] = MINUTES
    return Watching(small, small.facility())


def test_a_new_file_is_requested_once_and_older_ones_are_not(watching: Watching) -> None:
    watching.write("small-coda-new.hdf")

    assert watching.tick() == ["raw/small-coda-new.hdf"]
    assert watching.tick() == []


def test_a_file_that_was_just_written_is_left_to_its_announcement(watching: Watching) -> None:
    watching.write("small-coda-new.hdf", minutes_ago=0)

    assert watching.tick() == []


def test_a_registered_file_is_not_requested(watching: Watching) -> None:
    path = watching.write("small-coda-new.hdf")
    assert watching.small.ingest(watching.small.facility(), path).success

    assert watching.tick() == []


def test_what_it_requests_can_be_registered(watching: Watching) -> None:
    path = watching.write("small-coda-new.hdf")
    assert watching.tick() == [watching.small.key(path)]

    assert watching.small.ingest(watching.small.facility(), path).success
    assert watching.small.store.count_datasets() == 1


def test_a_tick_that_was_not_stored_is_made_up_for(watching: Watching) -> None:
    watching.tick()
    watching.write("small-coda-new.hdf")

    assert watching.tick(is_stored=False) == ["raw/small-coda-new.hdf"]
    assert watching.tick() == ["raw/small-coda-new.hdf"]
    assert watching.tick() == []


def test_a_catalogue_that_is_away_delays_the_file(watching: Watching) -> None:
    watching.tick()
    watching.write("small-coda-new.hdf")
    watching.small.server.stop()
    with pytest.raises(IngestionError):
        watching.tick()
    watching.small.server.start()

    assert watching.tick() == ["raw/small-coda-new.hdf"]


def test_a_file_that_came_while_dagster_was_down_is_found(watching: Watching) -> None:
    watching.cursor = WatchCursor(since=time.time() - 86400).model_dump_json()
    watching.write("night.hdf", minutes_ago=600)
    watching.restart()

    assert watching.tick() == ["raw/night.hdf"]


def test_what_waits_in_kafka_goes_first(small: SmallFacility, loopback_broker: LoopbackBroker) -> None:
    small.reconcile["watch_minutes"] = MINUTES
    announcements = Announcements(small, loopback_broker)
    watching = Watching(small, announcements.facility)
    announced = watching.write("small-coda-announced.hdf")
    announcements.send(wrdn(announced))

    with pytest.raises(SkippedError, match="wrdn_sensor"):
        watching.tick()
    read = announcements.tick()
    assert requested(read) == [small.key(announced)]
    # Its run is not requested before its cursor is stored.
    with pytest.raises(SkippedError, match="wrdn_sensor"):
        watching.tick()
    announcements.facility.wait_seconds = 0.0
    announcements.tick(read.cursor)

    assert watching.tick() == ["raw/small-coda-announced.hdf"]
    announcements.facility.close()


def test_without_minutes_nothing_is_looked_at(small: SmallFacility) -> None:
    facility = small.facility()
    sensor = folder_watch_sensor(facility.settings.reconcile, UNPREFIXED)
    context = dg.build_sensor_context(instance=small.instance, resources={"facility": facility})

    assert isinstance(sensor(context), dg.SkipReason)
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED


def test_a_storage_that_fails_is_said_so_and_does_not_delay_files_elsewhere(watching: Watching) -> None:
    place = watching.small.file.parent / "odin"
    place.mkdir()
    with faulty_storage(place, b"x", time.time() - 120 * MINUTES) as storage:
        storage.fail(errno.EIO, "list")
        with pytest.raises(IngestionError, match=f"{place}: Input/output error"):
            watching.tick()
        watching.write("small-coda-new.hdf")
        assert watching.tick() == ["raw/small-coda-new.hdf"]
        storage.recover()

        assert watching.tick() == ["raw/odin/run.nxs"]
