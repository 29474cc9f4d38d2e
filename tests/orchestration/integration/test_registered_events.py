"""Events of registered datasets: each reaches each receiver, whatever is away or restarted."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from scicat_dagster.demo.broker import LoopbackBroker
from scicat_dagster.errors import IngestionError, PermanentError, TransientError
from scicat_dagster.notifications.registered import MOST_REFUSED, event_schema
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.integration.registered_events import registered_events_sensor
from scicat_dagster.orchestration.names import UNPREFIXED
from scicat_dagster.orchestration.tags import PID, RAW_DATASET
from tests.brokers import free_ports, read_topic, unique_name
from tests.notifications.test_notifications import SECRET, Hook
from tests.small_facility import SmallFacility, instance_in

TOKEN = "token-of-the-receiver"


class Sending:
    """A small facility with receivers, and the sensor with its cursor, which is stored as a daemon does."""

    def __init__(self, small: SmallFacility, instance: dg.DagsterInstance) -> None:
        self.small, self.instance = small, instance
        self.facility: Facility = small.facility()
        self.cursor: str | None = None
        self.log: list[str] = []

    def tick(self) -> str:
        settings = self.facility.settings
        sensor = registered_events_sensor(settings.events, settings.kafka, UNPREFIXED)
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, resources={"facility": self.facility}
        )
        result = sensor(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        return str(result.skip_reason)

    def register(self, *names: str) -> None:
        """Record registrations as runs do."""
        for name in names:
            event = dg.AssetMaterialization(
                RAW_DATASET, partition=f"raw/{name}", metadata={PID: dg.MetadataValue.text(f"pid/{name}")}
            )
            self.instance.report_runless_asset_event(event)


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def hook(port: int) -> Iterator[Hook]:
    made = Hook(port)
    yield made
    made.close()


@pytest.fixture
def sending(small: SmallFacility, hook: Hook) -> Iterator[Sending]:
    small.events.update(webhook=hook.address, webhook_token=TOKEN)
    made = Sending(small, small.instance)
    # The first tick: what is registered from now on is sent.
    made.tick()
    yield made
    made.facility.close()


def pids(hook: Hook) -> list[str]:
    return [body["pid"] for _, body in hook.posted]


def test_a_registered_file_is_an_event_with_the_facts_of_its_materialization(
    sending: Sending, hook: Hook
) -> None:
    small = sending.small
    result = small.ingest(small.facility())
    assert result.success

    sending.tick()

    ((_, event),) = hook.posted
    Draft202012Validator(event_schema()).validate(event)
    stored = small.instance.get_latest_materialization_event(RAW_DATASET)
    assert stored is not None
    assert stored.asset_materialization is not None
    facts = {name: entry.value for name, entry in stored.asset_materialization.metadata.items()}
    assert event == {
        "event": "registered",
        "version": 1,
        "id": f"{result.run_id}/{small.key()}",
        "facility": "",
        "pid": facts["pid"],
        "file": str(small.file),
        "partition_key": small.key(),
        "entry": None,
        "page": facts["SciCat"],
        "instrument": facts["instrument"],
        "proposal": "443503",
        "number_of_files": facts["number of files"],
        "size_in_bytes": facts["size in bytes"],
        "schema": facts["schema"],
        "schema_id": facts["schema id"],
        "run_id": result.run_id,
        "registered_at": datetime.fromtimestamp(stored.timestamp, UTC).isoformat().replace("+00:00", "Z"),
    }
    assert hook.authorizations == [f"Bearer {TOKEN}"]


def test_each_event_is_sent_once_and_in_its_order(sending: Sending, hook: Hook) -> None:
    sending.register("a", "b")
    sending.tick()
    sending.tick()
    sending.register("c")
    sending.tick()

    assert pids(hook) == ["pid/a", "pid/b", "pid/c"]


def test_what_was_registered_before_there_was_a_receiver_is_not_sent(
    small: SmallFacility, hook: Hook
) -> None:
    sending = Sending(small, small.instance)
    sending.register("old")
    assert "no receiver" in sending.tick()
    small.events.update(webhook=hook.address)
    sending.facility = small.facility()
    sending.tick()
    sending.register("new")
    sending.tick()

    assert pids(hook) == ["pid/new"]


def test_a_receiver_that_is_away_gets_everything_when_it_is_back(
    sending: Sending, hook: Hook, port: int
) -> None:
    sending.register("a")
    sending.tick()
    hook.close()
    sending.register("b", "c")
    for _ in range(2):
        with pytest.raises(TransientError, match=r"events\.webhook cannot be reached"):
            sending.tick()
    back = Hook(port)
    try:
        sending.tick()
        assert pids(back) == ["pid/b", "pid/c"]
    finally:
        back.close()


@pytest.mark.parametrize(
    ("status", "kind"), [(503, TransientError), (401, PermanentError), (302, PermanentError)]
)
def test_a_receiver_that_answers_with_a_failure_gets_everything_later(
    sending: Sending, hook: Hook, status: int, kind: type[IngestionError]
) -> None:
    sending.register("a", "b")
    hook.status = status
    with pytest.raises(kind, match=str(status)):
        sending.tick()
    # It is not asked for each event.
    assert pids(hook) == ["pid/a"]
    hook.status = 200
    sending.tick()

    assert pids(hook)[1:] == ["pid/a", "pid/b"]


def test_an_event_that_is_refused_holds_up_no_other_and_is_sent_until_it_is_taken(
    sending: Sending, hook: Hook
) -> None:
    hook.refused = {"pid/b"}
    sending.register("a", "b", "c")

    assert "pid/b" in sending.tick()
    assert pids(hook) == ["pid/a", "pid/c"]
    with pytest.raises(PermanentError, match="422"):
        sending.tick()
    hook.refused = set()
    sending.tick()

    assert pids(hook) == ["pid/a", "pid/c", "pid/b"]


def test_a_receiver_that_refuses_everything_is_left_alone_after_some(sending: Sending, hook: Hook) -> None:
    hook.refused = {"pid/"}
    sending.register(*(f"{number}" for number in range(MOST_REFUSED + 5)))
    with pytest.raises(PermanentError):
        sending.tick()
    hook.refused = set()
    sending.tick()

    assert len(set(pids(hook))) == MOST_REFUSED + 5


def test_a_crash_between_sending_and_storing_sends_again(sending: Sending, hook: Hook) -> None:
    sending.register("a")
    before = sending.cursor
    sending.tick()
    sending.cursor = before
    sending.tick()

    assert pids(hook) == ["pid/a", "pid/a"]
    assert hook.posted[0] == hook.posted[1]


def test_nothing_is_lost_over_a_restart_while_the_receiver_is_away(
    small: SmallFacility, port: int, tmp_path: Path
) -> None:
    small.events.update(webhook=f"http://127.0.0.1:{port}/{SECRET}")
    with instance_in(tmp_path / "home") as instance:
        before = Sending(small, instance)
        before.tick()
        before.register("a", "b")
        with pytest.raises(TransientError):
            before.tick()
    back = Hook(port)
    try:
        with instance_in(tmp_path / "home") as instance:
            after = Sending(small, instance)
            after.cursor = before.cursor
            after.tick()
    finally:
        back.close()
    assert pids(back) == ["pid/a", "pid/b"]


def test_what_a_person_reported_as_materialized_is_no_event(sending: Sending, hook: Hook) -> None:
    sending.instance.report_runless_asset_event(dg.AssetMaterialization(RAW_DATASET, partition="raw/x"))
    sending.register("a")
    sending.tick()

    assert pids(hook) == ["pid/a"]


def test_neither_address_nor_token_is_said_to_anybody(
    sending: Sending, hook: Hook, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    sending.register("a", "b")
    sending.tick()
    hook.close()
    sending.register("c")
    with pytest.raises(TransientError) as caught:
        sending.tick()

    printed = capfd.readouterr()
    said = [caplog.text, printed.out, printed.err, str(caught.value), repr(caught.value), str(sending.cursor)]
    for text in said:
        assert SECRET not in text
        assert TOKEN not in text


# The topic


def on(topic: str, broker: LoopbackBroker) -> list[tuple[str, dict[str, Any]]]:
    records = read_topic(broker.bootstrap_servers, topic)
    return [((record.key or b"").decode(), json.loads(record.value or b"")) for record in records]


@pytest.fixture
def broker() -> Iterator[LoopbackBroker]:
    with LoopbackBroker() as made:
        yield made


def to_topic(small: SmallFacility, broker: LoopbackBroker) -> str:
    topic = unique_name("registered")
    broker.create_topic(topic, 1)
    small.kafka.update(bootstrap_servers=broker.bootstrap_servers)
    small.events.update(topic=topic)
    return topic


def test_a_topic_gets_each_event_with_its_pid_as_the_key(
    small: SmallFacility, broker: LoopbackBroker
) -> None:
    topic = to_topic(small, broker)
    sending = Sending(small, small.instance)
    sending.tick()
    sending.register("a", "b")
    sending.tick()
    sending.tick()

    assert [(key, event["pid"]) for key, event in on(topic, broker)] == [
        ("pid/a", "pid/a"),
        ("pid/b", "pid/b"),
    ]


def test_a_broker_that_is_away_holds_up_no_webhook_and_gets_everything_later(
    small: SmallFacility, broker: LoopbackBroker, hook: Hook
) -> None:
    topic = to_topic(small, broker)
    small.events.update(webhook=hook.address)
    sending = Sending(small, small.instance)
    sending.tick()
    broker.set_down()
    sending.register("a")
    assert "Kafka did not take" in sending.tick()
    assert pids(hook) == ["pid/a"]
    broker.set_up()
    sending.tick()

    assert {event["pid"] for _, event in on(topic, broker)} == {"pid/a"}
    assert pids(hook) == ["pid/a"]
