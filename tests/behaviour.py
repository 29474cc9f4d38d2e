"""What the package does, without a word of what it says: ``python -m tests.behaviour FOLDER`` prints it.

``test_rewording`` runs this with the package as it is and with each of its sentences reworded.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
from click.testing import CliRunner

from scicat_dagster.cli import main
from scicat_dagster.kafka.messages import KafkaMessage, Position
from scicat_dagster.orchestration.failures.failed_files import failed_files, problem_of
from scicat_dagster.orchestration.ingest.rejected_messages import rejected_event, rejections
from scicat_dagster.orchestration.ingest.retry_sensor import due
from scicat_dagster.orchestration.ingest.tick import plan_tick
from scicat_dagster.orchestration.operations.measures import measures
from scicat_dagster.orchestration.past_files.deferred_files import deferred_files
from scicat_dagster.orchestration.past_files.requests import Position as RequestPosition
from scicat_dagster.orchestration.past_files.requests import request_events, requested_files
from scicat_dagster.orchestration.tags import KAFKA_LAG, LAG_BY_TOPIC
from tests.small_facility import FILE_TIME, SmallFacility, instance_in, small_facility


def registered(small: SmallFacility) -> Any:
    """A file that is registered, again, and compared with the catalogue."""
    small.ingest(small.facility())
    small.ingest(small.facility())
    config = str(small.directory / "config.yml")
    found = CliRunner().invoke(main, ["reingest", str(small.file), "--config", config, "--json"])
    return (
        small.store.count_datasets(),
        small.store.count_origdatablocks(),
        sorted(small.store.datasets()[0]["scientificMetadata"]),
        found.exit_code,
    )


def failed(small: SmallFacility) -> Any:
    """Files that fail in several ways: their kinds, and which of them are tried again."""
    once = small.facility(file_handling={"data_file_open_max_tries": 1})
    broken = small.file.with_name("broken.hdf")
    broken.write_text("not HDF5")
    os.utime(broken, (FILE_TIME, FILE_TIME))
    for file in (broken, small.file.with_name("late.hdf")):
        small.ingest(once, file)
    small.store.clear()
    small.ingest(once, small.file)
    found = failed_files(small.instance)
    later = found[-1].last.replace(year=found[-1].last.year + 1)
    return (
        sorted((Path(file.path).name, file.kind, file.needs_manual_intervention) for file in found),
        sorted(Path(file.path).name for file in due(found, later)),
        all(problem_of(small.instance, file).remedy for file in found),
    )


def deferred(small: SmallFacility) -> Any:
    """What a batch run leaves."""
    files = [small.file, small.file.with_name("late.hdf")]
    run = small.ingest_range(small.facility(), files).dagster_run
    stored = small.instance.get_run_by_id(run.run_id)
    assert stored is not None
    return deferred_files(small.instance, stored)


def rejected(small: SmallFacility) -> Any:
    """A message that is kept, and read back."""
    message = KafkaMessage(Position("odin", 0, 7), b"\x00\x00\x00\x00wrdnbroken")
    for each in plan_tick([message]).rejected:
        small.instance.report_runless_asset_event(rejected_event(each))
    return [(str(kept.position), kept.value.hex(), kept.length) for kept in rejections(small.instance)]


def requested(small: SmallFacility) -> Any:
    """Files that are requested."""
    for event in request_events(["a.hdf", "b.hdf"], "discover"):
        small.instance.report_runless_asset_event(event)
    return [(file.path, file.requester) for file in requested_files(small.instance, RequestPosition())]


def measured(small: SmallFacility) -> Any:
    """The labels of measures."""
    lag = {LAG_BY_TOPIC: dg.MetadataValue.json({"odin": 3})}
    with instance_in(small.directory / "home") as home:
        home.report_runless_asset_event(dg.AssetMaterialization(KAFKA_LAG, metadata=lag))
        return sorted(
            (sample.name, *sample.labels.values())
            for metric in measures(home, 0.0)
            for sample in metric.samples
        )


def validated(small: SmallFacility) -> Any:
    """What is known of a file without SciCat, and what is wrong with a configuration."""
    small.facility()
    config = small.directory / "config.yml"
    report = CliRunner().invoke(main, ["validate", str(config), "--against", str(small.file), "--json"])
    (file,) = json.loads(report.stdout)["files"]
    states = sorted((field["field"], field["state"]) for field in file["fields"])
    unknown = sorted(notice["subject"] for notice in file["unknown"])
    config.write_text(config.read_text() + "\nspelling: mistake\n")
    return states, unknown, CliRunner().invoke(main, ["validate", str(config)]).exit_code


SCENES: tuple[Callable[[SmallFacility], Any], ...] = (
    registered, failed, deferred, rejected, requested, measured, validated,
)  # fmt: skip


def all_of_it(folder: Path) -> dict[str, Any]:
    """What becomes of each scene, each in a facility of its own."""
    found = {}
    for scene in SCENES:
        place = folder / scene.__name__
        with small_facility(place) as small:
            found[scene.__name__] = scene(small)
    return found


if __name__ == "__main__":
    print(json.dumps(all_of_it(Path(sys.argv[1])), default=str))
