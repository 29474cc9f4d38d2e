"""Whether Dagster is alive, what Prometheus gets of it, and the command that asks everything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import requests
from click.testing import CliRunner
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.error import SerializableErrorInfo
from prometheus_client.core import Metric

from scicat_dagster.cli import main
from scicat_dagster.diagnostics.checkup import Checkup
from scicat_dagster.orchestration.ingest.assets import kafka_lag
from scicat_dagster.orchestration.operations.health import (
    LONGEST_PAUSE,
    LONGEST_SILENCE,
    LONGEST_STANDSTILL,
    LONGEST_TICK,
    Home,
    automation_check,
    daemons_check,
    dagster_checks,
    disk_check,
    runs_check,
    sensor_check,
    topics_check,
)
from scicat_dagster.orchestration.operations.measures import failed_file_measures, measures
from scicat_dagster.orchestration.tags import RAW_DATASET
from tests.small_facility import SmallFacility

CHECKS = (
    "kafka",
    "storage",
    "scicat",
    "configuration",
    "daemons",
    "sensor",
    "topics",
    "automation",
    "runs",
    "disk",
)
PASSWORD = "pa55word-nobody-may-see"
ERROR = SerializableErrorInfo("It failed.", [], "Error")


@pytest.fixture
def home(small: SmallFacility, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance in a folder, as the command finds it; the small facility's runs go there."""
    directory = tmp_path / "home"
    directory.mkdir()
    (directory / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(directory)) as instance:
        small.instance = instance
        yield instance


def heartbeats(
    home: dg.DagsterInstance, at: float, errors: list[SerializableErrorInfo] | None = None
) -> None:
    for name in home.get_required_daemon_types():
        home.add_daemon_heartbeat(DaemonHeartbeat(at, name, "daemon", errors))


def sensor(
    home: dg.DagsterInstance,
    *ticks: tuple[TickStatus, float],
    status: InstigatorStatus = InstigatorStatus.DECLARED_IN_CODE,
    location: str = "scicat_dagster",
    error: SerializableErrorInfo = ERROR,
    name: str = "wrdn_sensor",
    kind: InstigatorType = InstigatorType.SENSOR,
) -> None:
    """What the daemon stores of a sensor or schedule: its state, and ticks by status and beginning."""
    code = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name=location), location_name=location)
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(code, "__repository__"), name)
    data = SensorInstigatorData() if kind is InstigatorType.SENSOR else ScheduleInstigatorData("0 6 * * *")
    state = InstigatorState(origin, kind, status, data)
    home.add_instigator_state(state)
    for tick_status, begun in ticks:
        home.create_tick(
            TickData(
                instigator_origin_id=state.instigator_origin_id,
                selector_id=state.selector_id,
                instigator_name=name,
                instigator_type=kind,
                status=tick_status,
                timestamp=begun,
                run_ids=[],
                end_timestamp=None if tick_status is TickStatus.STARTED else begun + 1,
                error=error if tick_status is TickStatus.FAILURE else None,
            )
        )


def samples(found: list[Metric]) -> dict[tuple[str, str], float]:
    return {
        (sample.name.removeprefix("scicat_dagster_"), *sample.labels.values()): sample.value  # type: ignore[misc]
        for metric in found
        for sample in metric.samples
    }


def test_daemons_are_well_when_all_have_been_heard_of_lately(home: dg.DagsterInstance) -> None:
    now = time.time()
    heartbeats(home, now - LONGEST_SILENCE.total_seconds() + 1)
    home.add_daemon_heartbeat(DaemonHeartbeat(now, "SCHEDULER", "daemon", None))

    assert daemons_check(home, now).ok
    silent = daemons_check(home, now + 2)
    assert not silent.ok
    assert "SENSOR was last heard of 10 min ago" in silent.words
    assert "SCHEDULER" not in silent.words


def test_where_no_daemon_lives_nothing_works(home: dg.DagsterInstance) -> None:
    now = time.time()
    never = daemons_check(home, now)
    heartbeats(home, now)

    assert (never.ok, never.words) == (False, "No daemon lives (none has ever run): nothing works on files.")
    assert "Start dagster-daemon" in never.remedy
    assert daemons_check(home, now + LONGEST_PAUSE.total_seconds()).ok
    silent = daemons_check(home, now + LONGEST_PAUSE.total_seconds() + 1)
    assert not silent.ok
    assert "the last one was heard of 2 min ago" in silent.words


def test_a_daemon_with_errors_lives(home: dg.DagsterInstance) -> None:
    heartbeats(home, time.time(), [SerializableErrorInfo(PASSWORD, [], "Error")])

    found = daemons_check(home)

    assert found.ok
    assert "Errors of " in found.words
    assert PASSWORD not in found.words


def test_a_sensor_that_ticks_is_well(home: dg.DagsterInstance) -> None:
    now = time.time()
    sensor(home, (TickStatus.FAILURE, now - 60), (TickStatus.SKIPPED, now - 10))

    found = sensor_check(home, now)

    assert (found.ok, found.words) == (True, "wrdn_sensor is turned on; its last tick began 10 s ago.")


@pytest.mark.parametrize(
    ("status", "seconds", "is_well"),
    [
        (TickStatus.SUCCESS, LONGEST_PAUSE.total_seconds(), True),
        (TickStatus.SUCCESS, LONGEST_PAUSE.total_seconds() + 2, False),
        (TickStatus.STARTED, LONGEST_TICK.total_seconds() - 1, True),
        (TickStatus.STARTED, LONGEST_TICK.total_seconds() + 1, False),
    ],
)
def test_a_sensor_that_ticked_long_ago_is_not_well(
    home: dg.DagsterInstance, status: TickStatus, seconds: float, is_well: bool
) -> None:
    now = time.time()
    sensor(home, (status, now - seconds))

    assert sensor_check(home, now).ok is is_well


def test_a_sensor_that_never_ran_or_is_turned_off_is_not_well(home: dg.DagsterInstance) -> None:
    assert sensor_check(home).words == "wrdn_sensor has never run."

    sensor(home, (TickStatus.SKIPPED, time.time()), status=InstigatorStatus.STOPPED)
    found = sensor_check(home)
    assert (found.ok, found.words) == (False, "wrdn_sensor is turned off.")


def test_a_sensor_of_a_code_location_that_is_gone_does_not_count(home: dg.DagsterInstance) -> None:
    now = time.time()
    sensor(home, (TickStatus.SKIPPED, now - 86400), status=InstigatorStatus.STOPPED, location="old")
    sensor(home, (TickStatus.SKIPPED, now))

    assert sensor_check(home, now).ok


def test_a_tick_that_failed_says_why_in_a_line(home: dg.DagsterInstance) -> None:
    cause = SerializableErrorInfo("BrokerAwayError: Kafka does not answer.\nmore\n", [], "BrokerAwayError")
    error = SerializableErrorInfo("SensorExecutionError: …\n", [], "SensorExecutionError", cause)
    sensor(home, (TickStatus.FAILURE, time.time()), error=error)

    found = sensor_check(home)

    assert not found.ok
    assert found.words == "The last tick of wrdn_sensor failed: BrokerAwayError: Kafka does not answer."


def test_a_tick_under_way_does_not_hide_that_the_last_one_failed(home: dg.DagsterInstance) -> None:
    """With Kafka away a tick waits for most of the time, and then fails."""
    now = time.time()
    sensor(home, (TickStatus.FAILURE, now - 12), (TickStatus.STARTED, now - 6))

    found = sensor_check(home, now)

    assert not found.ok
    assert found.words == "The last tick of wrdn_sensor failed: It failed."


def test_topics_are_read_only_while_the_sensor_works(home: dg.DagsterInstance) -> None:
    now = time.time()
    never = topics_check(home, now)
    heartbeats(home, now)
    sensor(home, (TickStatus.SKIPPED, now))
    well = topics_check(home, now + 1)
    heartbeats(home, now + LONGEST_PAUSE.total_seconds() + 2)
    silent = topics_check(home, now + LONGEST_PAUSE.total_seconds() + 2)

    assert not never.ok
    assert never.words == (
        "Whether topics are read is not known. No daemon lives (none has ever run): nothing works on files."
    )
    assert "Start dagster-daemon" in never.remedy
    assert (well.ok, well.words) == (True, "Every topic is read.")
    assert not silent.ok
    assert "New announcements are not read." in silent.words
    assert (never.cause, silent.cause) == ("daemons", "sensor")


def test_that_a_check_follows_of_another_is_not_in_what_scripts_read(home: dg.DagsterInstance) -> None:
    never = topics_check(home, time.time())

    assert never.model_dump().keys() == {"name", "ok", "words", "remedy"}


def test_other_sensors_and_schedules_whose_ticks_fail_are_not_well(home: dg.DagsterInstance) -> None:
    now = time.time()
    sensor(home, (TickStatus.SUCCESS, now - 10))
    sensor(home, (TickStatus.SKIPPED, now - 10), name="reconcile_sensor")
    assert automation_check(home, now).ok

    sensor(home, (TickStatus.FAILURE, now - 70), (TickStatus.STARTED, now - 10), name="retry_sensor")
    sensor(home, (TickStatus.FAILURE, now - 3600), name="forget", kind=InstigatorType.SCHEDULE)
    found = automation_check(home, now)

    assert not found.ok
    assert "retry_sensor failed: It failed." in found.words
    assert "forget failed: It failed." in found.words
    assert "reconcile_sensor" not in found.words


def test_what_is_turned_off_or_gone_or_well_again_may_have_failed(home: dg.DagsterInstance) -> None:
    now = time.time()
    sensor(home, (TickStatus.FAILURE, now - 10), status=InstigatorStatus.STOPPED, name="retry_sensor")
    sensor(home, (TickStatus.FAILURE, now - 3 * 86400), name="sensor_of_an_old_version")
    sensor(home, (TickStatus.FAILURE, now - 70), (TickStatus.SKIPPED, now - 10), name="deferred_files_sensor")

    assert automation_check(home, now).ok


def test_runs_that_wait_are_well_as_long_as_others_are_begun(home: dg.DagsterInstance) -> None:
    now = time.time()
    assert runs_check(home, now).ok
    home.add_run(dg.DagsterRun("ingest_file", status=dg.DagsterRunStatus.STARTING))
    later = now + LONGEST_STANDSTILL.total_seconds() + 5

    standing = runs_check(home, later)

    assert runs_check(home, now).ok
    assert not standing.ok
    assert "Waiting: 1 run, " in standing.words
    home.add_run(dg.DagsterRun("ingest_file", status=dg.DagsterRunStatus.STARTED))
    assert runs_check(home, now + LONGEST_STANDSTILL.total_seconds() - 5).ok


def test_a_disk_that_is_almost_full_is_not_well(tmp_path: Path) -> None:
    assert disk_check(tmp_path, least_free_bytes=1).ok
    assert not disk_check(tmp_path, least_free_bytes=10**18).ok


def test_an_instance_that_cannot_be_opened_is_told_without_its_address_and_tried_again(
    small: SmallFacility,
) -> None:
    tries: list[int] = []

    def away() -> dg.DagsterInstance:
        tries.append(1)
        raise OSError(f"postgresql://dagster:{PASSWORD}@db")

    checkup = Checkup(dagster_checks(Home(away), small.facility().current), kept_seconds=0)

    for _ in range(2):
        found = checkup.look()
        assert [check.words for check in found.checks] == [
            "The Dagster instance cannot be opened: OSError."
        ] * 7
        assert PASSWORD not in found.model_dump_json()
    assert len(tries) == 14


def test_prometheus_gets_what_dagster_knows(home: dg.DagsterInstance) -> None:
    now = time.time()
    for status in (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED):
        home.add_run(dg.DagsterRun("ingest_file", status=status))
    sensor(home, (TickStatus.SKIPPED, now - 31))
    for waiting in (3, 17):
        lag = {"lag_by_topic": dg.MetadataValue.json({"odin": waiting})}
        home.report_runless_asset_event(dg.AssetMaterialization(kafka_lag.key, metadata=lag))
    home.report_runless_asset_event(dg.AssetMaterialization(RAW_DATASET, partition="/data/a.hdf"))

    found = samples(measures(home, now))

    assert found["unfinished_runs", "starting"] == 2
    assert found["unfinished_runs", "started"] == 1
    assert found["unfinished_runs", "queued"] == 0
    assert found["kafka_lag_messages", "odin"] == 17
    assert found["age_seconds", "tick"] == pytest.approx(30)
    assert found["age_seconds", "registration"] == pytest.approx(0, abs=30)


def test_what_is_not_known_yet_is_left_out(home: dg.DagsterInstance) -> None:
    assert {name for name, _ in samples(measures(home))} == {"unfinished_runs"}


def test_prometheus_gets_the_failed_files_by_what_they_wait_for(
    home: dg.DagsterInstance, small: SmallFacility
) -> None:
    small.store.clear()
    small.ingest(small.facility())
    missing = small.file.with_name("late.hdf")
    small.ingest(small.facility(file_handling={"data_file_open_max_tries": 1}), missing)

    found = samples(failed_file_measures(home))

    assert found == {("failed_files", "person"): 1, ("failed_files", "retry"): 1}


# The command


def configured(small: SmallFacility) -> str:
    small.facility()
    return str(small.directory / "config.yml")


def invoke(home: dg.DagsterInstance, *arguments: str) -> tuple[int, str]:
    result = CliRunner(env={"DAGSTER_HOME": home.root_directory}).invoke(main, ["health", *arguments])
    return result.exit_code, result.output


def test_when_all_is_well_the_command_exits_with_0(home: dg.DagsterInstance, small: SmallFacility) -> None:
    heartbeats(home, time.time())
    sensor(home, (TickStatus.SKIPPED, time.time()))

    code, text = invoke(home, "--config", configured(small))

    assert code == 0, text
    assert [line.split()[:2] for line in text.splitlines()] == [["ok", name] for name in CHECKS]


def test_when_something_is_not_the_command_exits_with_1_and_says_what(
    home: dg.DagsterInstance, small: SmallFacility
) -> None:
    small.password = f"not {PASSWORD}"
    config = configured(small)

    code, text = invoke(home, "--config", config, "--json")

    assert code == 1
    assert PASSWORD not in text
    found = json.loads(text)
    assert found["ok"] is False
    assert {check["name"]: check["ok"] for check in found["checks"]} == {
        "kafka": True,
        "storage": True,
        "scicat": False,
        "configuration": True,
        "daemons": False,
        "sensor": False,
        "topics": False,
        "automation": True,
        "runs": True,
        "disk": True,
    }
    assert invoke(home, "--config", config)[0] == 1


def test_without_a_home_or_a_configuration_the_command_says_what_to_set(
    home: dg.DagsterInstance, small: SmallFacility
) -> None:
    result = CliRunner(env={"DAGSTER_HOME": ""}).invoke(main, ["health", "--config", configured(small)])
    assert (result.exit_code, "DAGSTER_HOME is not set" in result.output) == (1, True)

    code, text = invoke(home, "--config", str(small.directory / "nowhere.yml"))
    assert (code, "nowhere.yml" in text) == (1, True)


def test_the_endpoint_is_served_until_it_is_stopped(home: dg.DagsterInstance, small: SmallFacility) -> None:
    heartbeats(home, time.time())
    sensor(home, (TickStatus.SKIPPED, time.time()))
    config = Path(configured(small))
    config.write_text(config.read_text() + "health_check: {port: 0}\n")
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("scicat-dagster")), "health", "--serve", "-c", str(config)],
        env={**os.environ, "DAGSTER_HOME": home.root_directory},
        stdout=subprocess.PIPE,
        text=True,
    )
    killer = threading.Timer(120, process.kill)
    killer.start()
    try:
        assert process.stdout is not None
        health, live, metrics = process.stdout.readline().split()
        answer = requests.get(health, timeout=30)
        assert (answer.status_code, answer.json()["ok"]) == (200, True)
        assert requests.get(live, timeout=30).status_code == 200
        assert 'scicat_dagster_check_ok{check="sensor"} 1.0' in requests.get(metrics, timeout=30).text
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in {0, -signal.SIGTERM}
    finally:
        process.kill()
        process.communicate()
        killer.cancel()
