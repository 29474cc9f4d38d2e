"""Everything that the UI lists says what it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from scicat_dagster.config.current import CurrentConfiguration
from scicat_dagster.config.loading import load_configuration
from scicat_dagster.definitions import build_definitions
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.tags import OWNERS

KAFKA = {"topics": ["odin.file-writer"], "bootstrap_servers": "127.0.0.1:1"}
"""A topic whose name holds all that Kafka allows."""


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[dg.RepositoryDefinition]:
    """A facility's definitions as Dagster loads them."""
    path = tmp_path / "config.yml"
    # With a freshness policy, which makes another asset of raw_dataset.
    scicat = {"host": "http://127.0.0.1:1/api/v3", "username": "ingestor", "password": "pwd"}
    path.write_text(yaml.safe_dump({"scicat": scicat, "monitoring": {"freshness_hours": 24}, "kafka": KAFKA}))
    facility = Facility(CurrentConfiguration(load_configuration(path, {})))
    yield build_definitions(facility.configuration, facility).get_repository_def()
    facility.close()


def explains_itself(description: str | None) -> bool:
    return description is not None and len(description.split()) >= 5 and description.endswith(".")


def test_every_asset_is_explained_and_has_its_place(repository: dg.RepositoryDefinition) -> None:
    nodes = list(repository.asset_graph.asset_nodes)

    assert len(nodes) == 12
    for node in nodes:
        assert explains_itself(node.description), node.key
        assert node.group_name != "default", node.key
        assert node.kinds, node.key
        assert node.owners == OWNERS, node.key
        assert "purpose" in node.tags, node.key


def test_every_check_is_explained(repository: dg.RepositoryDefinition) -> None:
    specs = [repository.asset_graph.get_check_spec(key) for key in repository.asset_graph.asset_check_keys]

    assert len(specs) == 8
    for spec in specs:
        assert explains_itself(spec.description), spec.name


def test_every_job_and_its_ops_are_explained(repository: dg.RepositoryDefinition) -> None:
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]

    assert len(jobs) == 8
    # The op of an asset shows the asset's kinds.
    assets = {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()}
    for job in jobs:
        assert explains_itself(job.description), job.name
        assert job.owners == OWNERS, job.name
        assert "purpose" in job.tags, job.name
        for node in job.graph.iterate_op_defs():
            assert explains_itself(node.description), node.name
            has_kinds = any(name.startswith("dagster/kind/") for name in node.tags)
            assert has_kinds or node.name in assets, node.name


def test_every_sensor_and_schedule_is_explained(repository: dg.RepositoryDefinition) -> None:
    assert len(repository.sensor_defs) == 10
    assert len(repository.schedule_defs) == 3
    for sensor in repository.sensor_defs:
        assert explains_itself(sensor.description), sensor.name
        assert "purpose" in sensor.tags, sensor.name
        # Dagster gives a sensor that watches runs no place for owners.
        assert sensor.owners == OWNERS, sensor.name
    for schedule in repository.schedule_defs:
        assert explains_itself(schedule.description), schedule.name
        assert schedule.owners == OWNERS, schedule.name
        assert "purpose" in schedule.tags, schedule.name
