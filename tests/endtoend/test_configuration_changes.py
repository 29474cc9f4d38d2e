"""The operator's brake in a running installation, whose processes have all read the configuration before."""

from __future__ import annotations

import dagster as dg
import pytest
import yaml

from scicat_dagster.demo import people
from scicat_dagster.demo.file_writer import Announcer, write_files
from scicat_dagster.demo.measurement import plan_file
from scicat_dagster.orchestration.ingest.assets import configuration
from tests.endtoend.conftest import Processes

pytestmark = [pytest.mark.endtoend, pytest.mark.timeout(400)]

_SECONDS = 120


def announce(facility: Processes, index: int) -> None:
    """One more file."""
    write_files(
        [plan_file(seed=13, index=index)],
        facility.data_directory,
        Announcer(facility.broker.bootstrap_servers),
    )


def wait_for_runs(facility: Processes, number: int) -> None:
    succeeded = dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS], job_name="ingest_file")
    facility.wait_for(
        lambda: facility.instance.get_runs_count(succeeded) == number,
        f"{number} runs that succeeded",
        seconds=_SECONDS,
    )


def said_of_the_configuration(facility: Processes) -> str:
    (record,) = facility.instance.fetch_observations(configuration.key, limit=1).records
    return str(record.asset_observation.description) if record.asset_observation else ""


def test_the_brake_brakes_a_running_installation(on_loopback: Processes) -> None:
    facility = on_loopback
    for name, partitions in people.TOPICS.items():
        facility.broker.create_topic(name, partitions)
    path = facility.directory / "config.yml"
    original = path.read_text()
    code_server, _, port = facility.start_dagster()
    announce(facility, 0)
    wait_for_runs(facility, 1)
    assert facility.server.store.count_datasets() == 1

    settings = yaml.safe_load(original)
    settings["ingestion"]["dry_run"] = True
    path.write_text(yaml.safe_dump(settings))
    announce(facility, 1)
    wait_for_runs(facility, 2)
    assert facility.server.store.count_datasets() == 1

    # The last good version is the one with the brake.
    path.write_text("ingestion: [")
    announce(facility, 2)
    wait_for_runs(facility, 3)
    assert facility.server.store.count_datasets() == 1
    assert "stays in force" in said_of_the_configuration(facility)
    facility.kill(code_server)
    facility.start_code_server(port)
    announce(facility, 3)
    wait_for_runs(facility, 4)
    assert facility.server.store.count_datasets() == 1

    path.write_text(original)
    announce(facility, 4)
    wait_for_runs(facility, 5)
    assert facility.server.store.count_datasets() == 2
