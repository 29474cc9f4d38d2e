"""A schema file that is exchanged while a facility works: later runs see it, runs in progress do not mix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dagster as dg
import yaml

from scicat_dagster.config.current import CurrentConfiguration
from scicat_dagster.config.loading import load_configuration
from scicat_dagster.definitions import build_definitions
from scicat_dagster.demo.catalogue import CatalogueServer, create_app
from scicat_dagster.demo.catalogue.faults import Call, FaultKind, Faults, Plan, Scripted
from scicat_dagster.orchestration.facility import Facility
from tests.small_facility import SmallFacility

NAME = "schema_version"


def give_version(small: SmallFacility, version: str) -> None:
    """Exchange the schema file for one that says ``version`` in its name, in a variable and in a field."""
    schema = yaml.safe_load(small.schema.read_text())
    schema["name"] = f"Schema {version}"
    schema["variables"][NAME] = {"source": "VALUE", "value": version, "value_type": "string"}
    schema["schema"][NAME] = {
        "field_type": "scientific_metadata",
        "machine_name": NAME,
        "human_name": f"Human {version}",
        "value": f"{version} of <{NAME}>",
        "type": "string",
    }
    exchanged = small.schema.with_name("new")
    exchanged.write_text(yaml.safe_dump(schema, sort_keys=False))
    exchanged.replace(small.schema)


def registered(small: SmallFacility) -> dict[str, object]:
    (dataset,) = small.store.datasets()
    entry: dict[str, object] = dataset["scientificMetadata"][NAME]
    return entry


class ExchangeWhileExtracting:
    """No faults: the schema file is exchanged when a run that has read it asks for the proposal."""

    def __init__(self, small: SmallFacility) -> None:
        self._small = small
        self.exchanged = False

    def fault(self, call: Call) -> FaultKind | None:
        if call.path.startswith("proposals/") and not self.exchanged:
            self.exchanged = True
            give_version(self._small, "two")
        return None


@contextmanager
def catalogue_with(small: SmallFacility, plan: Plan) -> Iterator[SmallFacility]:
    """The facility with a catalogue that asks a plan what to do about each request."""
    faults = Faults(create_app(small.store, small.server.accounts), plan, small.store)
    with CatalogueServer(small.store, small.server.accounts, app=faults) as server, faults:
        yield replace(small, server=server)


def job_of(configuration: str) -> dg.JobDefinition:
    """The job as another process makes it: from the configuration file alone."""
    loaded = load_configuration(Path(configuration), {})
    definitions = build_definitions(loaded, Facility(CurrentConfiguration(loaded), op_pauses=()))
    return definitions.resolve_job_def("ingest_file")


def execute(
    small: SmallFacility, reexecution_options: dg.ReexecutionOptions | None = None
) -> dg.JobExecutionResult:
    """Execute the job as the daemon has it executed: what passes between ops is stored."""
    small.instance.add_dynamic_partitions("nexus_files", [small.key()])
    job = dg.build_reconstructable_job(__name__, "job_of", (str(small.directory / "config.yml"),))
    tags = {"dagster/partition": small.key(), "dagster/max_retries": "0"}
    return dg.execute_job(job, small.instance, tags=tags, reexecution_options=reexecution_options)


def test_the_next_run_sees_the_new_schema_without_a_restart(small: SmallFacility) -> None:
    give_version(small, "one")
    facility = small.facility()
    small.ingest(facility)
    assert registered(small)["value"] == "one of one"
    small.store.clear()
    small.add_proposal()

    give_version(small, "two")
    assert small.ingest(facility).success

    assert registered(small) == {
        "value": "two of two", "unit": "", "human_name": "Human two", "type": "string",
    }  # fmt: skip


def test_a_run_that_has_read_the_old_schema_does_not_mix_it_with_the_new_one(small: SmallFacility) -> None:
    give_version(small, "one")
    plan = ExchangeWhileExtracting(small)
    with catalogue_with(small, plan) as facility:
        assert facility.ingest(facility.facility()).success

    assert plan.exchanged
    assert registered(small) == {
        "value": "one of one", "unit": "", "human_name": "Human one", "type": "string",
    }  # fmt: skip


def test_a_run_that_is_retried_from_its_failed_op_keeps_the_schema_that_it_began_with(
    small: SmallFacility,
) -> None:
    give_version(small, "one")
    with catalogue_with(small, Scripted((FaultKind.UNAVAILABLE, "POST", "datasets"))) as facility:
        facility.facility().close()
        with execute(facility) as failed:
            assert not failed.success
        give_version(small, "two")
        again = dg.ReexecutionOptions.from_failure(failed.run_id, small.instance)
        with execute(facility, again) as done:
            assert done.success
            ran = {event.step_key for event in done.all_events if event.is_step_success}

    assert ran == {"raw_dataset.register_dataset"}
    assert registered(small)["value"] == "one of one"
