"""A login that SciCat refuses holds the queue, instead of failing every file and locking the account."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from scicat_dagster.config.loading import CONFIGURATION_VARIABLE
from scicat_dagster.instance.login_gate import LoginGate
from scicat_dagster.instance.run_coordinator import FacilityRunCoordinator
from scicat_dagster.orchestration.failures.failed_files import failed_files
from scicat_dagster.orchestration.ingest.retry_sensor import FIRST_PAUSE, due
from scicat_dagster.scicat.session import REFUSAL_SECONDS
from tests.small_facility import SmallFacility, instance_in

WRONG = "not-the-password"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def set_password(small: SmallFacility, password: str) -> None:
    path = small.directory / "config.yml"
    settings = yaml.safe_load(path.read_text())
    settings["scicat"]["password"] = password
    path.write_text(yaml.safe_dump(settings))


def test_the_gate_is_closed_from_a_refused_login_until_one_succeeds(small: SmallFacility) -> None:
    clock = Clock()
    small.password = WRONG
    gate = LoginGate(small.facility().current, clock)
    assert not gate.is_closed(small.instance)

    small.ingest(small.facility())
    clock.now += 10
    assert gate.is_closed(small.instance)
    clock.now += REFUSAL_SECONDS
    assert gate.is_closed(small.instance)

    set_password(small, "pwd")
    assert not gate.is_closed(small.instance)
    # The old failure does not close it again.
    clock.now += 10
    assert not gate.is_closed(small.instance)


def test_an_account_that_works_again_is_noticed_without_a_change_of_the_file(small: SmallFacility) -> None:
    """It was unlocked, or its password was set back."""
    clock = Clock()
    small.password = WRONG
    gate = LoginGate(small.facility().current, clock)
    small.ingest(small.facility())
    clock.now += 10
    assert gate.is_closed(small.instance)

    small.server.accounts.set_password("ingestor", WRONG)
    clock.now += REFUSAL_SECONDS + 1

    assert not gate.is_closed(small.instance)


def test_a_file_that_found_out_is_retried_later_by_itself(small: SmallFacility) -> None:
    small.password = WRONG
    small.ingest(small.facility())

    (file,) = failed_files(small.instance)
    assert (file.kind, file.needs_manual_intervention) == ("login", False)
    assert due([file], file.last + FIRST_PAUSE) == [file]


def test_the_queue_starts_nothing_while_the_gate_is_closed(
    small: SmallFacility, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small.password = WRONG
    small.facility(max_offline_ingestors=3)
    monkeypatch.setenv(CONFIGURATION_VARIABLE, str(small.directory / "config.yml"))
    coordinator = {"module": FacilityRunCoordinator.__module__, "class": FacilityRunCoordinator.__name__}
    with instance_in(tmp_path / "home", run_coordinator=coordinator) as instance:

        def limit() -> int | None:
            config = instance.get_concurrency_config().run_queue_config
            return None if config is None else config.max_concurrent_runs

        assert limit() == 3
        small.instance = instance
        small.ingest(small.facility(max_offline_ingestors=3))
        deadline = time.monotonic() + 60
        # The daemon looks at the queue twice a second, and the gate at the runs every few seconds.
        while limit() != 0:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        set_password(small, "pwd")

        assert limit() == 3
