"""A single run that writes nothing, asked for in the launchpad: what it shows instead."""

from __future__ import annotations

from typing import Any

import dagster as dg
import yaml

from tests.small_facility import SmallFacility

ASSET = dg.AssetKey("raw_dataset")
PID = "20.500.12269/f22acb1c-950b-11ef-a3ef-fa163e9aae0a"
DRY_RUN = {"ops": {"raw_dataset": {"ops": {"wait_for_file": {"config": {"dry_run": True}}}}}}


def set_variables(small: SmallFacility, **values: Any) -> None:
    """Give variables of the schema fixed values."""
    schema = yaml.safe_load(small.schema.read_text())
    for name, value in values.items():
        kind = schema["variables"][name]["value_type"]
        schema["variables"][name] = {"source": "VALUE", "value": value, "value_type": kind}
    small.schema.write_text(yaml.safe_dump(schema, sort_keys=False))


def observed(result: dg.ExecuteInProcessResult, small: SmallFacility) -> dict[str, Any]:
    """The latest observation, of a run that went well."""
    assert result.success
    (record,) = small.instance.fetch_observations(ASSET, limit=1).records
    assert record.asset_observation is not None
    return {name: value.value for name, value in record.asset_observation.metadata.items()}


def test_a_single_run_can_write_nothing_and_show_what_it_would_post(small: SmallFacility) -> None:
    shown = observed(small.ingest(small.facility(), run_config=DRY_RUN), small)

    assert small.store.count_datasets() == 0
    assert not (small.directory / "data" / "ingestor").exists()
    assert small.instance.get_latest_materialization_event(ASSET) is None
    assert shown["would be posted"]["dataset"]["pid"] == PID
    assert shown["difference"] == "The file is not registered."


def test_a_dry_run_of_a_registered_file_shows_the_difference(small: SmallFacility) -> None:
    small.ingest(small.facility())
    before = (small.store.datasets(), small.store.origdatablocks(PID))
    set_variables(small, run_number=7)

    shown = observed(small.ingest(small.facility(), run_config=DRY_RUN), small)

    assert (small.store.datasets(), small.store.origdatablocks(PID)) == before
    assert shown["pid"] == PID
    rows = {str(record.data["field"]): record.data for record in shown["difference"].records}
    assert rows["scientificMetadata.run_number"]["in the catalogue"] == "31010"
    assert rows["scientificMetadata.run_number"]["from the file"] == "7"
    assert rows["creationTime"]["what"] == "left alone"


def test_a_dry_run_needs_no_catalogue_to_show_what_it_would_post(small: SmallFacility) -> None:
    people = {"pi_firstname": "Ada", "pi_lastname": "Lovelace", "pi_email": "ada@example.org"}
    set_variables(small, **people, instruments_data=[{"id": "odin"}])
    facility = small.facility(dry_run=True)
    small.server.stop()

    shown = observed(small.ingest(facility), small)

    assert shown["would be posted"]["dataset"]["owner"] == "Ada Lovelace"
    assert "Nobody can say. SciCat cannot be reached" in shown["difference"]


def test_the_run_after_a_dry_run_registers_the_file(small: SmallFacility) -> None:
    small.ingest(small.facility(), run_config=DRY_RUN)

    assert small.ingest(small.facility()).success

    assert small.store.count_datasets() == small.store.count_origdatablocks() == 1
