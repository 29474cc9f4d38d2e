"""One message is one message: whatever is announced, a good file announced afterwards is registered.

A whole tick is judged as the daemon does it: what the sensor answers has to fit through the code server's
connection, and Dagster's database has to take all of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg
import pytest
from dagster._serdes import serialize_value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from streaming_data_types import serialise_wrdn

from scicat_dagster.config.current import CurrentConfiguration
from scicat_dagster.config.loading import load_configuration
from scicat_dagster.kafka.batch import Batch
from scicat_dagster.kafka.cursor import Cursor
from scicat_dagster.kafka.messages import FileWritten, KafkaMessage, Position
from scicat_dagster.kafka.reader import AnnouncementReader
from scicat_dagster.limits import LARGEST_KEPT_BYTES, LARGEST_TICK_BYTES
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.ingest.rejected_messages import rejections
from scicat_dagster.orchestration.ingest.sensor import wrdn_sensor
from scicat_dagster.orchestration.ingest.tick import plan_tick
from scicat_dagster.orchestration.names import UNPREFIXED
from scicat_dagster.orchestration.partitions import nexus_files
from scicat_dagster.orchestration.tags import PARTITION_TAG
from tests.databases import kept_connections
from tests.small_facility import instance_in

TOPIC = "odin"
GOOD = "/data/odin/good.hdf"
GRPC_LIMIT = 100_000_000
MOST_TICKS = 60


def wrdn(path: str = "/data/a.hdf", job: str = "job", service: str = "writer", **more: str) -> bytes:
    return bytes(serialise_wrdn(service, job, False, path, **more))


class Waiting(AnnouncementReader):
    """A topic of one partition whose messages were fetched already."""

    def __init__(self, values: Sequence[bytes | None]) -> None:
        self._values = values

    def close(self) -> None:
        pass

    def read(self, cursor: Cursor, *, most: int, wait_seconds: float) -> Batch:  # noqa: ARG002
        first = cursor.offsets.get(TOPIC, {}).get(0, 0)
        found = [
            KafkaMessage(Position(TOPIC, 0, offset), value)
            for offset, value in enumerate(self._values[first : first + most], first)
        ]
        return Batch(
            found, cursor.moved({(TOPIC, 0): first + len(found)}), ends={(TOPIC, 0): len(self._values)}
        )


class Hostile(Facility):
    """A facility that is announced these messages."""

    values: Sequence[bytes | None] = ()

    @property
    def announcements(self) -> AnnouncementReader:
        return Waiting(self.values)


@pytest.fixture(params=["sqlite", "postgresql"])
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    storage = {}
    if request.param == "postgresql":
        storage = {"storage": kept_connections(request.getfixturevalue("postgres_url"))}
    with instance_in(tmp_path / "home", **storage) as opened:
        yield opened


@pytest.fixture
def facility(tmp_path: Path) -> Hostile:
    path = tmp_path / "config.yml"
    kafka = f"kafka: {{topics: {TOPIC}, bootstrap_servers: localhost}}"
    path.write_text(f"scicat: {{host: 'http://127.0.0.1/api/v3'}}\n{kafka}\n")
    return Hostile(CurrentConfiguration(load_configuration(path, {})))


def tick(facility: Hostile, instance: dg.DagsterInstance, cursor: str | None) -> tuple[list[str], str]:
    """What the daemon does with a tick: the files that it requests runs for, and the cursor."""
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"facility": facility}
    ) as context:
        data = wrdn_sensor(UNPREFIXED)(context)
    assert isinstance(data, dg.SensorResult)
    answer = [*(data.run_requests or ()), *(data.dynamic_partitions_requests or ()), *data.asset_events]
    assert sum(len(serialize_value(part)) for part in answer) < GRPC_LIMIT
    for event in data.asset_events:
        instance.report_runless_asset_event(event)
    for change in data.dynamic_partitions_requests or ():
        instance.add_dynamic_partitions(str(nexus_files().name), list(change.partition_keys))
    paths = []
    for request in data.run_requests or ():
        assert request.partition_key is not None
        paths.append(request.partition_key)
        tags = {**request.tags, PARTITION_TAG: request.partition_key}
        instance.add_run(dg.DagsterRun("ingest_file", run_config=dict(request.run_config or {}), tags=tags))
        config = request.run_config["ops"]["raw_dataset"]["ops"]["wait_for_file"]["config"]
        assert FileWritten.model_validate_json(config["announcement"]).file_path == request.partition_key
    assert data.cursor is not None
    return paths, data.cursor


def registered_after(
    facility: Hostile, instance: dg.DagsterInstance, values: Sequence[bytes | None]
) -> list[str]:
    """The files that get a run when these messages come, and then the announcement of a good file."""
    facility.values = [*values, wrdn(GOOD)]
    requested: list[str] = []
    cursor = None
    for _ in range(MOST_TICKS):
        paths, cursor = tick(facility, instance, cursor)
        requested += paths
        if GOOD in requested:
            return requested
    raise AssertionError("The good file is not requested.")


MEGABYTE = 1_000_000
NESTED = "[" * 255 + "]" * 255


@pytest.mark.parametrize(
    "values",
    [
        [wrdn(metadata=NESTED)],
        [wrdn(metadata='{"a":' * 254 + "1" + "}" * 254)],
        [wrdn(metadata="[" * depth + "]" * depth) for depth in (99, 100, 101, 199, 200, 201, 254)],
        [wrdn("/data/" + "/".join(["x" * 200] * 14) + ".hdf")],
        [wrdn("/data/" + "é" * 400 + ".hdf")],
        [wrdn(service="s" * MEGABYTE, message="m" * MEGABYTE)],
        [bytes(serialise_wrdn("writer", "job", True, "/data/a.hdf", message="\x01" * MEGABYTE))] * 8,
        [b"\x10\x00\x00\x00wrdn" + bytes(MEGABYTE)] * 24,
        [wrdn(f"/data/{number}.hdf", metadata=json.dumps("m" * 240_000)) for number in range(277)],
        [wrdn("x" * MEGABYTE)] * 30,
        [None, b"", b"\x00" * 8, b"....pl72", wrdn("/data/\u202egpj.hdf"), wrdn(job="a\u0000b")],
        [wrdn(service="a\u0000b", message="\u0000", metadata='{"\\u0000": "\\ud800"}')],
    ],
    ids=[
        "nested lists", "nested objects", "depths", "a long path", "a long name", "long texts", "long errors",
        "24 MB of garbage", "66 MB of metadata", "long relative paths", "odd", "NUL",
    ],
)  # fmt: skip
def test_messages_that_once_stopped_the_sensor_do_not(
    facility: Hostile, instance: dg.DagsterInstance, values: list[bytes | None]
) -> None:
    assert registered_after(facility, instance, values)[-1] == GOOD
    for message in rejections(instance):
        assert len(message.value) <= LARGEST_KEPT_BYTES


LONG_TEXTS = st.builds(lambda text, times: text * times, st.text(max_size=4), st.integers(0, 900))
TEXTS = st.text(max_size=60) | LONG_TEXTS
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
METADATA = JSONS.map(json.dumps) | st.integers(0, 300).map(lambda depth: "[" * depth + "]" * depth) | TEXTS


@st.composite
def messages(draw: st.DrawFn) -> bytes | None:
    """A message that a file writer might send, broken here and there."""
    path = draw(st.sampled_from(["", "/data/", "/data/../", "//", "/"])) + draw(TEXTS)
    more = {"metadata": draw(METADATA), "message": draw(TEXTS)}
    try:
        value = bytearray(serialise_wrdn(draw(TEXTS), draw(TEXTS), draw(st.booleans()), path, **more))
    except UnicodeEncodeError:
        return None
    for place in draw(st.lists(st.integers(0, len(value) - 1), max_size=2)):
        value[place] = draw(st.integers(0, 255))
    return bytes(value)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.none() | st.binary(max_size=100) | messages(), max_size=6))
def test_after_any_messages_a_good_one_is_registered(
    facility: Hostile, instance: dg.DagsterInstance, values: list[bytes | None]
) -> None:
    assert registered_after(facility, instance, values)[-1] == GOOD


def test_what_a_tick_answers_is_bounded_and_the_rest_is_for_the_next_one() -> None:
    value = bytes(serialise_wrdn("writer", "job", True, "/data/a.hdf", message="\x01" * MEGABYTE))
    found = [KafkaMessage(Position(TOPIC, offset % 2, offset // 2), value) for offset in range(1000)]
    batch = Batch(found, Cursor().moved({(TOPIC, 0): 500, (TOPIC, 1): 500}))

    plan = plan_tick(batch.messages)

    assert 0 < plan.taken < len(found)
    assert len(plan.rejected) == plan.taken
    assert plan.taken * LARGEST_KEPT_BYTES < LARGEST_TICK_BYTES
    cut = batch.first(plan.taken)
    assert cut.cursor.offsets == {TOPIC: {0: (plan.taken + 1) // 2, 1: plan.taken // 2}}


def test_of_two_messages_for_one_file_the_first_is_kept_if_it_is_of_another_job(
    facility: Hostile, instance: dg.DagsterInstance
) -> None:
    again = wrdn(GOOD, job="second")

    facility.values = [wrdn(GOOD, job="first"), again, again]
    paths, _ = tick(facility, instance, None)

    assert paths == [GOOD]
    # The database is that of other tests as well.
    records = instance.fetch_observations(dg.AssetKey("rejected_messages"), limit=1000).records
    said = [record.asset_observation.metadata for record in records if record.asset_observation]
    jobs = [str(metadata["job id"].value) for metadata in said if "job id" in metadata]
    assert [job for job in jobs if job in {"first", "second"}] == ["first"]
