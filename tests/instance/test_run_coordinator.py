"""What Dagster's daemon makes of our run queue; other tests follow the limit and the login gate."""

from pathlib import Path

import pytest
from dagster._daemon.controller import create_daemon_of_type
from dagster._daemon.daemon import IntervalDaemon
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from scicat_dagster.config.loading import CONFIGURATION_VARIABLE
from scicat_dagster.instance.run_coordinator import FacilityRunCoordinator
from tests.small_facility import SmallFacility, instance_in

COORDINATOR = {"module": FacilityRunCoordinator.__module__, "class": FacilityRunCoordinator.__name__}


def test_the_daemon_looks_at_the_queue_twice_a_second(tmp_path: Path) -> None:
    with instance_in(tmp_path, run_coordinator=COORDINATOR) as instance:
        daemon = create_daemon_of_type(QueuedRunCoordinatorDaemon.daemon_type(), instance)

        assert isinstance(daemon, IntervalDaemon)
        assert 0 < daemon.interval_seconds <= 0.5


def test_a_limit_in_dagster_yaml_takes_precedence(
    small: SmallFacility, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small.facility(max_offline_ingestors=3)
    monkeypatch.setenv(CONFIGURATION_VARIABLE, str(small.directory / "config.yml"))
    limited = {**COORDINATOR, "config": {"max_concurrent_runs": 5}}
    with instance_in(tmp_path / "home", run_coordinator=limited) as instance:
        config = instance.get_concurrency_config().run_queue_config

        assert config is not None
        assert config.max_concurrent_runs == 5
