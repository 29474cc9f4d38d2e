"""The commands that read Dagster's own records: failures and rejected messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from scicat_dagster.cli import main
from scicat_dagster.demo.broker import LoopbackBroker
from scicat_dagster.kafka.cursor import Cursor
from scicat_dagster.kafka.messages import Position, Rejected
from scicat_dagster.kafka.producer import send
from scicat_dagster.limits import LARGEST_KEPT_BYTES
from scicat_dagster.orchestration.ingest.rejected_messages import rejected_event, rejections
from tests.brokers import read_topic, unique_name
from tests.small_facility import SmallFacility

BROKEN = b"\x10\x00\x00\x00wrdn\xff\xfe"


@pytest.fixture
def home(small: SmallFacility, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance in a folder, as the commands find it; the small facility's runs go there."""
    directory = tmp_path / "home"
    directory.mkdir()
    (directory / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(directory)) as instance:
        small.instance = instance
        yield instance


def invoke(home: dg.DagsterInstance, *arguments: str) -> tuple[int, str]:
    result = CliRunner(env={"DAGSTER_HOME": home.root_directory}).invoke(main, arguments)
    return result.exit_code, result.output


def rejected(topic: str, offset: int, value: bytes | None = BROKEN) -> Rejected:
    return Rejected(Position(topic, 0, offset), "It is broken.", "Mend it.", value)


def test_without_failures_there_is_nothing_to_list(home: dg.DagsterInstance) -> None:
    assert invoke(home, "failures") == (0, "No failed files.\n")
    assert invoke(home, "failures", "--json") == (0, "[]\n")


def test_a_failed_file_is_listed_with_reason_and_remedy(
    home: dg.DagsterInstance, small: SmallFacility
) -> None:
    small.store.clear()
    run = small.ingest(small.facility())

    code, text = invoke(home, "failures")
    assert code == 1
    assert small.key() in text
    assert "Mandatory fields cannot be built" in text
    (row,) = json.loads(invoke(home, "failures", "--json")[1])
    assert row["run_id"] == run.run_id
    assert (row["file"], row["kind"], row["runs"]) == (small.key(), "permanent", 1)


def test_without_a_home_the_commands_say_what_to_set() -> None:
    result = CliRunner(env={"DAGSTER_HOME": ""}).invoke(main, ["failures"])

    assert result.exit_code == 2
    assert "DAGSTER_HOME is not set" in result.output


def test_rejected_messages_are_listed_newest_first_and_once(home: dg.DagsterInstance) -> None:
    for offset in (3, 4, 4, 5):
        home.report_runless_asset_event(rejected_event(rejected("coda", offset)))

    code, text = invoke(home, "messages", "list")

    assert code == 0
    assert [line.split()[0] for line in text.splitlines()] == ["coda:0:5", "coda:0:4", "coda:0:3"]
    assert "It is broken." in text


def test_a_rejected_message_is_kept_whole(home: dg.DagsterInstance) -> None:
    home.report_runless_asset_event(rejected_event(rejected("coda", 7)))

    (message,) = rejections(home)
    assert message.value == BROKEN
    code, text = invoke(home, "messages", "show", "coda:0:7")
    assert code == 0
    assert repr(BROKEN) in text
    assert "Mend it." in text


def test_a_rejected_message_can_be_sent_again(
    home: dg.DagsterInstance, small: SmallFacility, loopback_broker: LoopbackBroker
) -> None:
    topic = unique_name("coda")
    loopback_broker.create_topic(topic, 1)
    small.kafka.update(topics=topic, bootstrap_servers=loopback_broker.bootstrap_servers)
    small.facility()
    home.report_runless_asset_event(rejected_event(rejected(topic, 0)))

    code, text = invoke(
        home, "messages", "retry", f"{topic}:0:0", "--config", str(small.directory / "config.yml")
    )

    assert code == 0, text
    assert [record.value for record in read_topic(loopback_broker.bootstrap_servers, topic)] == [BROKEN]


def test_an_unknown_position_is_said_so(home: dg.DagsterInstance) -> None:
    code, text = invoke(home, "messages", "show", "coda:0:99")

    assert code == 1
    assert "No rejected message coda:0:99" in text


def test_of_a_large_message_the_beginning_is_kept_and_the_rest_is_sent_from_kafka(
    home: dg.DagsterInstance, small: SmallFacility, loopback_broker: LoopbackBroker
) -> None:
    topic = unique_name("coda")
    loopback_broker.create_topic(topic, 1)
    small.kafka.update(topics=topic, bootstrap_servers=loopback_broker.bootstrap_servers)
    settings = small.facility().settings.kafka
    large = BROKEN + bytes(LARGEST_KEPT_BYTES)
    send(settings, topic, [large])
    home.report_runless_asset_event(rejected_event(rejected(topic, 0, large)))

    (message,) = rejections(home)
    assert message.value == large[:LARGEST_KEPT_BYTES]
    assert f"{len(BROKEN)} more, which are in Kafka" in invoke(home, "messages", "show", f"{topic}:0:0")[1]
    configuration = str(small.directory / "config.yml")
    code, text = invoke(home, "messages", "retry", f"{topic}:0:0", "--config", configuration)

    assert code == 0, text
    assert [record.value for record in read_topic(loopback_broker.bootstrap_servers, topic)] == [large] * 2


def sensor_at(home: dg.DagsterInstance, topic: str, offset: int) -> None:
    """What the daemon has stored of the sensor."""
    code = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="scicat_dagster"), location_name="x")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(code, "__repository__"), "wrdn_sensor")
    cursor = Cursor(offsets={topic: {0: offset, 1: 3}}).model_dump_json()
    data = SensorInstigatorData(cursor=cursor)
    home.add_instigator_state(
        InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.DECLARED_IN_CODE, data)
    )


def cursor_of(home: dg.DagsterInstance) -> Cursor:
    (state,) = home.all_instigator_state(instigator_type=InstigatorType.SENSOR)
    assert isinstance(state.instigator_data, SensorInstigatorData)
    return Cursor.parse(state.instigator_data.cursor)


def test_a_message_at_which_the_sensor_stands_can_be_passed_over(home: dg.DagsterInstance) -> None:
    sensor_at(home, "coda", 7)

    code, text = invoke(home, "messages", "skip", "coda:0:7")

    assert (code, text) == (0, "The sensor goes on behind coda:0:7.\n")
    assert cursor_of(home).offsets == {"coda": {0: 8, 1: 3}}
    (record,) = home.fetch_observations(dg.AssetKey("rejected_messages"), limit=2).records
    assert record.asset_observation is not None
    assert record.asset_observation.metadata["offset"].value == 7


@pytest.mark.parametrize(
    ("position", "said"),
    [
        ("coda:0:6", "goes on at offset 7"),
        ("coda:5:7", "does not read this partition"),
        ("coda", "is not TOPIC:PARTITION:OFFSET"),
    ],
)
def test_no_other_message_is_passed_over(home: dg.DagsterInstance, position: str, said: str) -> None:
    sensor_at(home, "coda", 7)

    code, text = invoke(home, "messages", "skip", position)

    assert (code, said in text) == (1, True)
    assert cursor_of(home).offsets["coda"][0] == 7


def test_nothing_is_passed_over_where_the_sensor_has_never_run(home: dg.DagsterInstance) -> None:
    code, text = invoke(home, "messages", "skip", "coda:0:7")

    assert (code, "has never run" in text) == (1, True)
