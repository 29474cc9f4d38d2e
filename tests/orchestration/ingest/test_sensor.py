"""The sensor: what a tick requests, reports and remembers."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from confluent_kafka import Producer
from streaming_data_types import serialise_wrdn

from scicat_dagster.definitions import build_definitions
from scicat_dagster.demo.broker import LoopbackBroker
from scicat_dagster.kafka.messages import KafkaMessage, Position
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.ingest.sensor import wrdn_sensor
from scicat_dagster.orchestration.ingest.tick import plan_tick
from scicat_dagster.orchestration.names import UNPREFIXED
from tests.brokers import Broker, KafkaCluster, read_topic, unique_name
from tests.kafka.test_reader import make_anew
from tests.small_facility import SmallFacility


def wrdn(path: object, job_id: str = "job", *, error: bool = False, metadata: str | None = None) -> bytes:
    return bytes(serialise_wrdn("writer", job_id, error, str(path), metadata=metadata))


class Announcements:
    """The topic of a small facility, and the sensor that reads it."""

    def __init__(self, small: SmallFacility, broker: Broker) -> None:
        self.small = small
        self.topic = unique_name("coda")
        broker.create_topic(self.topic, 1)
        small.kafka.update(topics=self.topic, bootstrap_servers=broker.bootstrap_servers)
        self.facility: Facility = small.facility()
        # Long enough for a message that is there; a tick without any is not part of these tests.
        self.facility.wait_seconds = 10.0
        self._producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})

    def send(self, *values: bytes | None) -> None:
        for value in values:
            self._producer.produce(self.topic, value)
        assert self._producer.flush(30) == 0

    def tick(self, cursor: str | None = None) -> dg.SensorResult:
        context = dg.build_sensor_context(
            instance=self.small.instance, cursor=cursor, resources={"facility": self.facility}
        )
        result = wrdn_sensor(UNPREFIXED)(context)
        assert isinstance(result, dg.SensorResult)
        return result


@pytest.fixture
def announcements(small: SmallFacility, loopback_broker: LoopbackBroker) -> Iterator[Announcements]:
    made = Announcements(small, loopback_broker)
    yield made
    made.facility.close()


def requested(result: dg.SensorResult) -> list[str | None]:
    return [request.partition_key for request in result.run_requests or []]


def observed(result: dg.SensorResult) -> list[dg.AssetObservation]:
    """What is said of messages that led to no file."""
    return [
        event
        for event in result.asset_events or []
        if isinstance(event, dg.AssetObservation) and event.asset_key != dg.AssetKey("configuration")
    ]


def lag(result: dg.SensorResult) -> list[dict[str, object]]:
    return [
        {name: entry.value for name, entry in event.metadata.items()}
        for event in result.asset_events or []
        if event.asset_key == dg.AssetKey("kafka_lag") and isinstance(event, dg.AssetMaterialization)
    ]


def added(result: dg.SensorResult) -> list[str]:
    return [key for change in result.dynamic_partitions_requests or [] for key in change.partition_keys]


def test_a_written_file_is_requested_as_one_run(announcements: Announcements) -> None:
    file = announcements.small.file
    announcements.send(wrdn(file, "job-1", metadata='{"a": null}'))

    result = announcements.tick()

    (request,) = result.run_requests or []
    assert request.partition_key == announcements.small.key(file)
    assert request.run_key == f"{announcements.topic}:0:0"
    assert request.tags == {
        ".dagster/scicat_job_id": "job-1",
        ".dagster/scicat_topic": announcements.topic,
        ".dagster/scicat_kafka_partition": "0",
        ".dagster/scicat_offset": "0",
        "file": file.name,
    }
    assert added(result) == [announcements.small.key(file)]


def test_what_the_sensor_requests_can_be_run_as_it_is(announcements: Announcements) -> None:
    small = announcements.small
    announcements.send(wrdn(small.file, metadata='{"deep": [[null, {"x": 1.5}]], "": ""}'))
    (request,) = announcements.tick().run_requests or []

    result = small.ingest(small.facility(), run_config=request.run_config)

    assert result.success
    assert small.store.count_datasets() == 1


def test_the_cursor_goes_on_behind_the_last_message(announcements: Announcements) -> None:
    announcements.send(wrdn(announcements.small.file), b"....x5f2....")
    first = announcements.tick()
    announcements.send(wrdn("/elsewhere.hdf"), wrdn(announcements.small.file, "job-2"))

    second = announcements.tick(first.cursor)

    assert [request.run_key for request in second.run_requests or []] == [f"{announcements.topic}:0:3"]


def test_a_tick_that_is_repeated_requests_the_same_run_keys(announcements: Announcements) -> None:
    announcements.send(wrdn(announcements.small.file))

    once, again = announcements.tick(), announcements.tick()

    keys = [[request.run_key for request in tick.run_requests or []] for tick in (once, again)]
    assert keys[0] == keys[1] != []


def as_json(path: object, job_id: str = "job", **more: object) -> bytes:
    return json.dumps({"file_path": str(path), "job_id": job_id, **more}).encode()


def test_a_json_announcement_is_requested_as_a_wrdn_message_is(announcements: Announcements) -> None:
    small = announcements.small
    announcements.send(as_json(small.file, "scan-7", instrument="CODA", metadata={"deep": [None]}))

    (request,) = announcements.tick().run_requests or []

    assert (request.partition_key, request.run_key) == (small.key(small.file), f"{announcements.topic}:0:0")
    assert request.tags[".dagster/scicat_job_id"] == "scan-7"
    assert request.tags["instrument"] == "CODA"
    assert small.ingest(small.facility(), run_config=request.run_config).success
    assert small.store.count_datasets() == 1


@pytest.mark.parametrize("order", [1, -1])
def test_a_json_announcement_and_a_wrdn_message_for_one_file_request_it_once(
    announcements: Announcements, order: int
) -> None:
    file = announcements.small.file
    announcements.send(*[wrdn(file), as_json(file)][::order])

    result = announcements.tick()

    assert [request.run_key for request in result.run_requests or []] == [f"{announcements.topic}:0:1"]
    assert added(result) == [announcements.small.key(file)]
    # The same job: nobody has to look at it.
    assert observed(result) == []


def test_a_broken_json_announcement_is_observed_with_the_field_that_is_wrong(
    announcements: Announcements,
) -> None:
    announcements.send(b'{"file_path": "/data/run.hdf"}', as_json(announcements.small.file))

    result = announcements.tick()

    (event,) = observed(result)
    assert "job_id is missing" in str(event.description)
    assert requested(result) == [announcements.small.key(announcements.small.file)]


def test_two_messages_for_one_file_in_a_tick_request_it_once_with_the_last(
    announcements: Announcements,
) -> None:
    file = announcements.small.file
    announcements.send(wrdn(file, "first"), wrdn(file, "second"), wrdn(file, "third"))

    result = announcements.tick()

    assert added(result) == requested(result) == [announcements.small.key(file)]
    assert (result.run_requests or [])[0].tags[".dagster/scicat_job_id"] == "third"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "tombstone"),
        (b"", "no schema id"),
        (b"\x10\x00\x00\x00wrdn\xff\xff", "broken wrdn"),
        (wrdn("data/relative.hdf"), "not absolute"),
        (wrdn("/data/../etc/passwd"), "outside the data directory"),
        (wrdn("/etc/passwd"), "outside the data directory"),
        (wrdn("/nul\x00.hdf"), "control characters"),
        (wrdn("/ok.hdf", job_id=" "), "no job id"),
    ],
)
def test_a_message_that_cannot_lead_to_a_file_is_an_event(
    announcements: Announcements, value: bytes | None, reason: str
) -> None:
    file = announcements.small.file
    announcements.send(value, wrdn(file))

    result = announcements.tick()

    (event,) = observed(result)
    assert event.asset_key == dg.AssetKey("rejected_messages")
    metadata = {name: entry.value for name, entry in event.metadata.items()}
    assert reason in str(metadata["reason"])
    assert metadata["what to do"]
    assert (metadata["topic"], metadata["partition"], metadata["offset"]) == (announcements.topic, 0, 0)
    kept: Any = metadata["rejected_message"]
    assert base64.b64decode(kept["value"]) == (value or b"")
    assert requested(result) == [announcements.small.key(file)]


def test_rejected_messages_are_sent_to_the_dead_letter_topic_as_well(
    announcements: Announcements, loopback_broker: LoopbackBroker
) -> None:
    dead = unique_name("dead")
    loopback_broker.create_topic(dead, 1)
    announcements.small.kafka["dead_letter_topic"] = dead
    announcements.facility = announcements.small.facility()
    announcements.facility.wait_seconds = 10.0
    broken = wrdn("data/relative.hdf")
    announcements.send(broken, wrdn(announcements.small.file), None)

    announcements.tick()

    letters = read_topic(loopback_broker.bootstrap_servers, dead)
    assert [letter.value for letter in letters] == [broken, None]


def test_a_failure_of_the_file_writer_is_an_event_that_names_the_file(announcements: Announcements) -> None:
    file = announcements.small.file
    announcements.send(wrdn(file, error=True))

    result = announcements.tick()

    (event,) = observed(result)
    assert event.metadata["file"].value == str(file)
    assert requested(result) == []


def test_messages_that_kafka_deleted_are_an_event_with_their_number(
    announcements: Announcements, loopback_broker: LoopbackBroker
) -> None:
    announcements.send(b"....x5f2", b"....x5f2", wrdn(announcements.small.file))
    loopback_broker.delete_records(announcements.topic, 0, 2)

    result = announcements.tick(f'{{"version": 1, "offsets": {{"{announcements.topic}": {{"0": 0}}}}}}')

    (event,) = observed(result)
    assert event.metadata["lost messages"].value == 2
    assert "2 messages from offset 0 on were never read" in str(event.description)
    assert requested(result) == [announcements.small.key()]


def test_messages_of_a_topic_that_was_made_anew_are_requested_though_their_offsets_were(
    small: SmallFacility, apache_kafka: KafkaCluster
) -> None:
    announcements = Announcements(small, apache_kafka)
    try:
        announcements.send(wrdn(small.file, "old"))
        old = announcements.tick()
        make_anew(apache_kafka, announcements.topic, 1)
        announcements.send(wrdn(small.file, "new"), wrdn(small.file.with_name("other.hdf")))
        new = announcements.tick(old.cursor)
    finally:
        announcements.facility.close()

    assert requested(new) == [small.key(), small.key(small.file.with_name("other.hdf"))]
    keys = [str(request.run_key) for tick in (old, new) for request in tick.run_requests or []]
    assert len(keys) == len(set(keys)) == 3
    (event,) = observed(new)
    assert event.metadata["lost messages"].value == "unknown"
    assert "re-created" in str(event.metadata["reason"].value)
    assert "may never have been read" in str(event.description)


def test_messages_of_a_topic_that_lost_some_are_requested_though_their_offsets_were(
    announcements: Announcements,
) -> None:
    announcements.send(wrdn(announcements.small.file))
    old = announcements.tick()

    new = announcements.tick(f'{{"version": 1, "offsets": {{"{announcements.topic}": {{"0": 5}}}}}}')

    assert requested(new) == requested(old) == [announcements.small.key()]
    assert [request.run_key for request in new.run_requests or []] == [f"{announcements.topic}:0:0:2"]


def test_the_lag_is_said_at_once_and_then_only_when_it_changes_or_after_a_while(
    announcements: Announcements,
) -> None:
    announcements.send(*[wrdn(f"/data/{number}.hdf") for number in range(3)])

    first, second = announcements.tick(), announcements.tick()

    (said,) = lag(first)
    assert said["messages waiting"] == 0
    assert lag(second) == []


def test_a_broker_that_is_away_fails_the_tick_with_words(
    announcements: Announcements, loopback_broker: LoopbackBroker
) -> None:
    loopback_broker.set_down()

    with pytest.raises(Exception, match="does not answer"):
        announcements.tick()


def test_without_topics_the_tick_says_so(small: SmallFacility) -> None:
    context = dg.build_sensor_context(instance=small.instance, resources={"facility": small.facility()})

    result = wrdn_sensor(UNPREFIXED)(context)

    assert isinstance(result, dg.SensorResult)
    assert result.skip_reason is not None
    assert "no Kafka topics" in str(result.skip_reason.skip_message)


def test_foreign_messages_are_counted_by_schema() -> None:
    messages = [
        KafkaMessage(Position("t", 0, offset), b"....%s...." % schema)
        for offset, schema in enumerate([b"x5f2", b"pl72", b"x5f2"])
    ]

    plan = plan_tick(messages)

    assert plan.ignored == {"x5f2": 2, "pl72": 1}
    assert (plan.requests, plan.rejected) == ({}, [])


def test_the_sensor_runs_from_the_start(small: SmallFacility) -> None:
    definitions = build_definitions(small.facility().configuration)

    sensor = definitions.resolve_sensor_def("wrdn_sensor")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING


def test_what_dagster_loads_is_what_we_define(small: SmallFacility) -> None:
    repository = build_definitions(small.facility().configuration).get_repository_def()

    assert {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()} == {
        "announcements",
        "raw_dataset",
        "scicat",
        "today",
        "rejected_messages",
        "failed_files_report",
        "reconciliation",
        "kafka_lag",
        "configuration",
        "sample",
        "run_starts",
    }
    jobs = {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")}
    assert jobs == {
        "ingest_file",
        "ingest_files",
        "report_failures",
        "discover_files",
        "reconcile_files",
        "apply_retention",
        "reingest_files",
        "make_sample",
    }
    assert {sensor.name for sensor in repository.sensor_defs} == {
        "wrdn_sensor",
        "retry_sensor",
        "deferred_files_sensor",
        "reconcile_sensor",
        "failure_digest_sensor",
        "today_sensor",
        "run_starts_sensor",
        "posted_announcements_sensor",
        "registered_events_sensor",
        "folder_watch_sensor",
    }
    assert [schedule.name for schedule in repository.schedule_defs] == [
        "reconcile",
        "report_failures_daily",
        "retention",
    ]


ODD_NAMES = ("a b.hdf", "a,b.hdf", "100%.hdf", "#1.hdf", "Å–ü.hdf", f"{'long' * 60}/{'er' * 30}.hdf")


def test_paths_with_odd_characters_are_partition_keys(announcements: Announcements) -> None:
    directory = announcements.small.directory / "data"
    odd: list[Path] = [directory / name for name in ODD_NAMES]
    announcements.send(*(wrdn(path, f"job {index}") for index, path in enumerate(odd)))

    assert requested(announcements.tick()) == [str(path.relative_to(directory)) for path in odd]
