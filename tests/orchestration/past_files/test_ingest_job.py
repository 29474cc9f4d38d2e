"""The job ``ingest_files``: files that a person names in the launchpad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dagster as dg

from scicat_dagster.definitions import build_definitions
from scicat_dagster.orchestration.ingest.jobs import config_of
from scicat_dagster.orchestration.names import UNPREFIXED
from scicat_dagster.orchestration.past_files.request_sensor import reconcile_sensor
from scicat_dagster.orchestration.past_files.requests import request_events
from scicat_dagster.orchestration.tags import PRIORITY_TAG, REQUESTED_BY_TAG, RETRY
from tests.small_facility import SmallFacility


def name_files(small: SmallFacility, paths: Sequence[str]) -> dg.ExecuteInProcessResult:
    facility = small.facility()
    try:
        job = build_definitions(facility.configuration, facility).resolve_job_def("ingest_files")
        return job.execute_in_process(
            run_config={"paths": list(paths)}, instance=small.instance, raise_on_error=False
        )
    finally:
        facility.close()


def requested(small: SmallFacility) -> list[dg.RunRequest]:
    result = reconcile_sensor(UNPREFIXED)(dg.build_sensor_context(instance=small.instance))
    assert isinstance(result, dg.SensorResult)
    return list(result.run_requests or ())


def test_a_path_gets_a_partition_and_a_run_before_all_past_files(small: SmallFacility) -> None:
    assert name_files(small, [str(small.file)]).success

    assert small.instance.get_dynamic_partitions("nexus_files") == [small.key()]
    (request,) = requested(small)
    assert request.partition_key == small.key()
    assert request.tags[REQUESTED_BY_TAG] == "by hand"
    assert int(request.tags[PRIORITY_TAG]) > 0


def test_a_path_within_the_data_directory_is_the_same_file(small: SmallFacility) -> None:
    name_files(small, [small.key(), f" {small.file} ", ""])

    assert [request.partition_key for request in requested(small)] == [small.key()]


def test_wrong_paths_are_named_and_the_others_are_requested(small: SmallFacility) -> None:
    result = name_files(small, ["raw/none.hdf", str(small.file), "/outside/a.hdf"])

    (failure,) = (event for event in result.all_events if event.is_step_failure)
    said: Any = failure.step_failure_data.user_failure_data
    assert "2 of 3 paths" in said.description
    assert "raw/none.hdf" in said.description
    assert "/outside/a.hdf" in said.description
    assert [request.partition_key for request in requested(small)] == [small.key()]


def test_the_launchpad_asks_for_paths_alone(small: SmallFacility) -> None:
    facility = small.facility()
    job = build_definitions(facility.configuration, facility).resolve_job_def("ingest_files")
    facility.close()

    assert dg.validate_run_config(job, {"paths": ["/data/a.hdf"]})


def test_a_run_that_is_to_be_repeated_gives_its_configuration(small: SmallFacility) -> None:
    config = config_of(announcement="{}")
    failed = small.ingest(small.facility(), run_config=config)
    for event in request_events([small.key()], RETRY, {small.key(): failed.run_id}):
        small.instance.report_runless_asset_event(event)

    (request,) = requested(small)
    assert request.run_config == config


def test_a_request_whose_failed_run_is_gone_is_carried_out_without_its_message(small: SmallFacility) -> None:
    for event in request_events([small.key()], RETRY, {small.key(): "gone"}):
        small.instance.report_runless_asset_event(event)

    (request,) = requested(small)
    assert not request.run_config
