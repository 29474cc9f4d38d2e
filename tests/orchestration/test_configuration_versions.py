"""A configuration file that changes while everything runs: in force at once, visible, and never half."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from scicat_dagster.config.loading import CONFIGURATION_VARIABLE
from scicat_dagster.instance.run_coordinator import FacilityRunCoordinator
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.ingest.assets import configuration
from scicat_dagster.orchestration.ingest.sensor import wrdn_sensor
from scicat_dagster.orchestration.names import UNPREFIXED
from scicat_dagster.orchestration.operations.health import configuration_check
from tests.small_facility import SmallFacility, instance_in


def change(small: SmallFacility, **sections: Any) -> None:
    """Set sections of the configuration file."""
    path = small.directory / "config.yml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **sections}))


def break_it(small: SmallFacility) -> None:
    (small.directory / "config.yml").write_text("scicat: [")


def tick(small: SmallFacility, facility: Facility) -> None:
    """A tick of the sensor in the code server, and what the daemon stores of it."""
    context = dg.build_sensor_context(instance=small.instance, resources={"facility": facility})
    for event in wrdn_sensor(UNPREFIXED).evaluate_tick(context).asset_events:
        small.instance.report_runless_asset_event(event)


def observed(small: SmallFacility) -> list[str]:
    records = small.instance.fetch_observations(configuration.key, limit=10).records
    return [str(record.asset_observation.description) for record in records if record.asset_observation]


def test_the_brake_brakes_the_next_file(small: SmallFacility) -> None:
    facility = small.facility()

    change(small, ingestion={"dry_run": True})

    assert small.ingest(facility).success
    assert small.store.count_datasets() == 0


def test_the_brake_brakes_also_between_the_ops_of_a_run(small: SmallFacility) -> None:
    facility = small.facility()

    class Braked(Facility):
        """The brake is pulled when the schema is asked for, which is after the run has begun."""

        def schemas(self) -> Any:
            change(small, ingestion={"dry_run": True})
            return super().schemas()

    assert small.ingest(Braked(facility.current, op_pauses=())).success
    assert small.store.count_datasets() == 0


def test_a_run_says_with_which_version_it_worked(small: SmallFacility) -> None:
    facility = small.facility()
    version = facility.configuration.version

    result = small.ingest(facility)

    (materialization,) = result.asset_materializations_for_node("raw_dataset")
    assert materialization.metadata["configuration"].value == str(version)
    (output,) = (
        event
        for event in result.all_events
        if event.is_successful_output and event.step_key == "raw_dataset.wait_for_file"
    )
    assert output.step_output_data.metadata["configuration"].value == str(version)


def test_a_run_with_a_broken_file_works_with_the_last_good_one_and_warns(small: SmallFacility) -> None:
    facility = small.facility()
    break_it(small)

    result = small.ingest(facility)

    assert result.success
    assert small.store.count_datasets() == 1
    (materialization,) = result.asset_materializations_for_node("raw_dataset")
    rows = materialization.metadata["what failed and why"].value.records  # type: ignore[union-attr]
    assert any(
        row.data["what"] == "configuration" and "stays in force" in str(row.data["why"]) for row in rows
    )
    checks = {one.check_name: one.passed for one in result.get_asset_check_evaluations()}
    assert not checks["variables_resolved"]


def test_the_sensor_reports_each_version_once(small: SmallFacility) -> None:
    facility = small.facility()
    for _ in range(2):
        tick(small, facility)
    first = observed(small)
    change(small, reconcile={"cron": "5 5 * * *"})
    tick(small, facility)
    changed = observed(small)
    break_it(small)
    for _ in range(2):
        tick(small, facility)

    assert ["is in force" in text for text in first] == [True]
    assert "reconcile.cron" in changed[0]
    assert "stays in force" in observed(small)[0]
    assert len(observed(small)) == 3


def test_health_tells_what_is_not_in_force(small: SmallFacility) -> None:
    facility, asking = small.facility(), small.facility().current
    assert configuration_check(small.instance, asking).ok
    tick(small, facility)
    assert configuration_check(small.instance, asking).ok

    change(small, health_check={"port": 9999})
    tick(small, facility)
    restart = configuration_check(small.instance, asking)
    assert not restart.ok
    assert "`deploy/ctl FOLDER restart`" in restart.remedy
    assert "health_check" in restart.words

    break_it(small)
    broken = configuration_check(small.instance, asking)
    assert not broken.ok
    assert "cannot be used" in broken.words


def test_health_tells_when_the_code_server_does_not_read_the_file(small: SmallFacility) -> None:
    facility, asking = small.facility(), small.facility().current
    tick(small, facility)
    change(small, id="another")

    just_now = configuration_check(small.instance, asking)
    long_ago = configuration_check(small.instance, asking, time.time() + timedelta(minutes=5).total_seconds())

    assert (just_now.ok, long_ago.ok) == (True, False)
    assert facility.configuration.version.hash[:4] in long_ago.words


def test_the_queue_follows_the_limit(
    small: SmallFacility, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small.facility(max_offline_ingestors=3)
    monkeypatch.setenv(CONFIGURATION_VARIABLE, str(small.directory / "config.yml"))
    module = FacilityRunCoordinator.__module__
    settings = {"run_coordinator": {"module": module, "class": FacilityRunCoordinator.__name__}}
    with instance_in(tmp_path / "home", **settings) as instance:

        def limit() -> int | None:
            config = instance.get_concurrency_config().run_queue_config
            return None if config is None else config.max_concurrent_runs

        before = limit()
        change(small, ingestion={"max_offline_ingestors": 7})
        after = limit()
        break_it(small)

        assert (before, after, limit()) == (3, 7, 7)
