"""Announcements by POST: stored before they are accepted, and requested once, whatever Kafka says as well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import requests
from streaming_data_types import serialise_wrdn

from scicat_dagster.config.models import HealthCheckSettings
from scicat_dagster.demo.broker import LoopbackBroker
from scicat_dagster.demo.catalogue import CatalogueServer
from scicat_dagster.diagnostics.announce import announce_route
from scicat_dagster.diagnostics.checkup import Checkup
from scicat_dagster.diagnostics.endpoint import create_app
from scicat_dagster.errors import TransientError
from scicat_dagster.kafka.messages import FileWritten
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.integration.posted_announcements import posted_announcements_sensor, store
from scicat_dagster.orchestration.names import UNPREFIXED
from scicat_dagster.orchestration.operations.health import Home
from tests.orchestration.ingest.test_sensor import Announcements
from tests.small_facility import SmallFacility, instance_in

TOKEN = "a-token-that-nobody-may-see"


class Posting:
    """A small facility whose health server takes announcements, and the sensor that requests their runs."""

    def __init__(self, small: SmallFacility, url: str, facility: Facility) -> None:
        self.small, self.url, self.facility = small, url, facility

    def post(self, job_id: str = "job", file: Path | None = None, **more: object) -> requests.Response:
        body = {"file_path": str(file or self.small.file), "job_id": job_id, **more}
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return requests.post(f"{self.url}/announce", json=body, headers=headers, timeout=60)

    def tick(self, cursor: str | None = None) -> dg.SensorResult:
        context = dg.build_sensor_context(
            instance=self.small.instance, cursor=cursor, resources={"facility": self.facility}
        )
        result = posted_announcements_sensor(HealthCheckSettings(), UNPREFIXED)(context)
        assert isinstance(result, dg.SensorResult)
        return result

    def run(self, request: dg.RunRequest) -> None:
        """What the daemon makes of a request."""
        self.small.instance.add_dynamic_partitions("nexus_files", [str(request.partition_key)])
        tags = {**request.tags, "dagster/partition": str(request.partition_key)}
        self.small.instance.create_run_for_job(
            job_def=dg.job(name="ingest_file")(lambda: None), tags=tags, status=dg.DagsterRunStatus.STARTED
        )


@pytest.fixture
def posting(small: SmallFacility, tmp_path: Path) -> Iterator[Posting]:
    small.health_check["announce_token"] = TOKEN
    facility = small.facility()
    home = Home(lambda: small.instance)
    route = announce_route(lambda: facility.settings, lambda *given: store(home, *given))
    app = create_app(Checkup({}), more=[route])
    with CatalogueServer(tmp_path / "unused.sqlite", app=app) as server:
        yield Posting(small, server.url, facility)
    facility.close()


def requested(result: dg.SensorResult) -> list[str | None]:
    return [request.partition_key for request in result.run_requests or []]


def test_a_posted_file_is_requested_and_registered(posting: Posting) -> None:
    small = posting.small
    answer = posting.post("scan-7", instrument="CODA", metadata={"deep": [[None]]})

    assert answer.status_code == 202
    (request,) = posting.tick().run_requests or []

    assert answer.json()["partition_key"] == request.partition_key == small.key()
    assert request.tags[".dagster/scicat_job_id"] == "scan-7"
    assert request.tags["instrument"] == "CODA"
    assert small.ingest(small.facility(), run_config=request.run_config).success
    assert small.store.count_datasets() == 1


def test_its_metadata_reach_the_run(posting: Posting) -> None:
    posting.post("scan-7", metadata={"proposal": "443503"})

    (request,) = posting.tick().run_requests or []

    config = request.run_config["ops"]["raw_dataset"]["ops"]["wait_for_file"]["config"]
    assert json.loads(config["announcement"])["metadata"] == {"proposal": "443503"}


def test_a_tick_that_is_repeated_requests_the_same_and_the_next_one_nothing(posting: Posting) -> None:
    posting.post()
    once, again = posting.tick(), posting.tick()
    keys = [[request.run_key for request in tick.run_requests or []] for tick in (once, again)]

    assert keys[0] == keys[1] != []
    assert requested(posting.tick(once.cursor)) == []


def test_a_file_that_is_posted_twice_is_requested_once_with_the_last(posting: Posting) -> None:
    posting.post("job-1")
    posting.post("job-2")

    (request,) = posting.tick().run_requests or []

    assert request.tags[".dagster/scicat_job_id"] == "job-2"


def test_a_file_that_has_a_run_of_its_job_gets_no_second_one(posting: Posting) -> None:
    posting.post("job-1")
    first = posting.tick()
    posting.run((first.run_requests or [])[0])
    posting.post("job-1")

    second = posting.tick(first.cursor)
    posting.post("job-2")
    third = posting.tick(second.cursor)

    assert requested(second) == []
    assert requested(third) == [posting.small.key()]


def test_what_was_accepted_is_there_after_a_restart(small: SmallFacility, tmp_path: Path) -> None:
    facility = small.facility()
    written = FileWritten(file_path=str(small.file), job_id="job", topic="", partition=-1, offset=-1)
    with instance_in(tmp_path / "home") as before:
        key = store(Home(lambda: before), written, str(small.directory / "data"))

    with instance_in(tmp_path / "home") as after:
        context = dg.build_sensor_context(instance=after, resources={"facility": facility})
        result = posted_announcements_sensor(HealthCheckSettings(), UNPREFIXED)(context)

    assert isinstance(result, dg.SensorResult)
    assert requested(result) == [key] == [small.key()]
    facility.close()


def test_a_database_that_is_away_is_a_transient_failure_without_its_address() -> None:
    def away() -> dg.DagsterInstance:
        raise RuntimeError("postgresql://dagster:secret@db")

    written = FileWritten(file_path="/data/run.hdf", job_id="job", topic="", partition=-1, offset=-1)
    with pytest.raises(TransientError) as caught:
        store(Home(away), written, "/data")
    assert "secret" not in str(caught.value)


@pytest.fixture
def both(posting: Posting, loopback_broker: LoopbackBroker) -> Iterator[tuple[Posting, Announcements]]:
    announcements = Announcements(posting.small, loopback_broker)
    yield posting, announcements
    announcements.facility.close()


def test_a_message_for_a_file_that_was_posted_requests_no_second_run(
    both: tuple[Posting, Announcements],
) -> None:
    posting, kafka = both
    posting.post("job")
    posting.run((posting.tick().run_requests or [])[0])

    kafka.send(bytes(serialise_wrdn("writer", "job", False, str(posting.small.file))))
    same_job = kafka.tick()
    kafka.send(bytes(serialise_wrdn("writer", "later job", False, str(posting.small.file))))
    another_job = kafka.tick(same_job.cursor)

    assert requested(same_job) == []
    assert requested(another_job) == [posting.small.key()]


def test_a_post_for_a_file_that_kafka_announced_requests_no_second_run(
    both: tuple[Posting, Announcements],
) -> None:
    posting, kafka = both
    kafka.send(bytes(serialise_wrdn("writer", "job", False, str(posting.small.file))))
    posting.run((kafka.tick().run_requests or [])[0])

    assert posting.post("job").status_code == 202
    assert requested(posting.tick()) == []
