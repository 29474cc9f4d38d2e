"""Counters and histograms of Dagster's records, and the queries of ``deploy/`` that use them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import requests
import yaml

from scicat_dagster.demo.catalogue import CatalogueServer
from scicat_dagster.diagnostics.checkup import Check, Checkup
from scicat_dagster.diagnostics.endpoint import create_app
from scicat_dagster.kafka.messages import Position, Rejected
from scicat_dagster.orchestration.ingest.rejected_messages import rejected_event
from scicat_dagster.orchestration.operations.health import Home
from scicat_dagster.orchestration.operations.measures import MOST_INSTRUMENTS, Counts, dagster_measures
from scicat_dagster.orchestration.tags import (
    INSTRUMENT,
    KAFKA_LAG,
    LAG_BY_TOPIC,
    PURPOSE_RUN_TAG,
    RAW_DATASET,
    RETRY_NUMBER_TAG,
    ROUND_TAG,
    SECONDS_AT_WORK,
    SECONDS_IN_QUEUE,
    SECONDS_SINCE_MESSAGE,
    SECONDS_UNTIL_REQUESTED,
)
from tests.small_facility import SmallFacility, instance_in

STAGES = (SECONDS_UNTIL_REQUESTED, SECONDS_IN_QUEUE, SECONDS_AT_WORK)

DEPLOY = Path(__file__).parents[3] / "deploy"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with instance_in(tmp_path / "home") as instance:
        yield instance


def counted(counts: Counts, instance: dg.DagsterInstance) -> dict[tuple[str, ...], float]:
    """Every counter and every number of a histogram, by name and labels; without when it began."""
    return {
        (sample.name.removeprefix("scicat_dagster_"), *sample.labels.values()): sample.value
        for metric in counts.measures(instance)
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


def run(home: dg.DagsterInstance, status: dg.DagsterRunStatus, **tags: str) -> None:
    made = dg.DagsterRun("ingest_file", status=status, tags={PURPOSE_RUN_TAG: "ingestion", **tags})
    home.add_run(made)


def register(home: dg.DagsterInstance, file: str, **metadata: Any) -> None:
    event = dg.AssetMaterialization(RAW_DATASET, partition=file, metadata=metadata)
    home.report_runless_asset_event(event)


def test_a_registered_file_is_counted_once_with_its_size_and_time(small: SmallFacility) -> None:
    counts = Counts(time.time())
    before = counted(counts, small.instance)

    assert small.ingest(small.facility()).success
    found = [counted(counts, small.instance) for _ in range(2)]

    assert not any(key[0] == "registered_files_total" for key in before)
    assert found[0] == found[1]
    assert found[0]["registered_files_total", "ODIN"] == 1
    assert found[0]["file_size_bytes_sum", "ODIN"] == small.file.stat().st_size
    assert ("failed_runs_total", "ODIN", "permanent") not in found[0]


def test_the_stages_of_a_file_are_in_histograms_of_their_own(home: dg.DagsterInstance) -> None:
    counts = Counts(time.time() - 1)
    stages = {SECONDS_UNTIL_REQUESTED: 0.2, SECONDS_IN_QUEUE: 40.0, SECONDS_AT_WORK: 3.0}
    metadata = {key: dg.MetadataValue.float(seconds) for key, seconds in stages.items()}
    register(home, "a.hdf", **{INSTRUMENT: dg.MetadataValue.text("odin")}, **metadata)
    # By a backfill, which no message requested.
    register(home, "b.hdf", **{INSTRUMENT: dg.MetadataValue.text("odin")})
    # The broker's clock is ahead.
    register(home, "c.hdf", **{SECONDS_UNTIL_REQUESTED: dg.MetadataValue.float(-2.0)})

    found = counted(counts, home)

    sums = {key[1:]: value for key, value in found.items() if key[0] == "stage_seconds_sum"}
    assert sums == {
        ("odin", "message_to_requested"): 0.2,
        ("odin", "requested_to_begun"): 40.0,
        ("odin", "begun_to_registered"): 3.0,
        ("unknown", "message_to_requested"): 0.0,
    }
    assert found["stage_seconds_bucket", "odin", "requested_to_begun", "30.0"] == 0
    assert found["stage_seconds_bucket", "odin", "requested_to_begun", "60.0"] == 1


def test_a_failed_file_is_counted_by_its_kind(small: SmallFacility) -> None:
    counts = Counts(time.time())
    small.store.clear()

    small.ingest(small.facility())
    found = [counted(counts, small.instance) for _ in range(2)]

    assert found[0] == found[1]
    failed = {key: value for key, value in found[0].items() if key[0] == "failed_runs_total"}
    assert [key[-1] for key in failed] == ["permanent"]
    assert list(failed.values()) == [1]


def test_retries_and_rejections_are_counted(home: dg.DagsterInstance) -> None:
    counts = Counts(time.time() - 1)
    run(home, dg.DagsterRunStatus.SUCCESS)
    run(home, dg.DagsterRunStatus.STARTING, **{RETRY_NUMBER_TAG: "1"})
    run(home, dg.DagsterRunStatus.STARTED, **{ROUND_TAG: "3"})
    home.report_runless_asset_event(
        rejected_event(Rejected(Position("odin", 0, 3), "It is broken.", "Mend it.", b""))
    )

    found = [counted(counts, home) for _ in range(2)]

    assert found[0] == found[1]
    assert found[0]["retried_runs_total", "unknown"] == 2
    assert found[0]["rejected_messages_total",] == 1


def test_what_happened_before_the_start_is_not_counted(home: dg.DagsterInstance) -> None:
    register(home, "a.hdf")
    run(home, dg.DagsterRunStatus.FAILURE)

    found = counted(Counts(time.time() + 1), home)

    assert set(found.values()) == {0}


def test_a_file_may_name_any_instrument_and_the_label_is_bounded(home: dg.DagsterInstance) -> None:
    counts = Counts(time.time() - 1)
    for number in range(MOST_INSTRUMENTS + 5):
        register(home, f"{number}.hdf", **{INSTRUMENT: dg.MetadataValue.text(f"i{number}")})

    found = {
        key[1]: value for key, value in counted(counts, home).items() if key[0] == "registered_files_total"
    }

    assert len(found) == MOST_INSTRUMENTS + 1
    assert found["other"] == 5


# The queries of deploy/


@pytest.fixture
def exposed(small: SmallFacility, home: dg.DagsterInstance, tmp_path: Path) -> set[str]:
    """The names that /metrics has of an instance in which everything has happened."""
    small.instance = home
    measures = dagster_measures(Home(lambda: small.instance))
    assert small.ingest(small.facility()).success
    run(small.instance, dg.DagsterRunStatus.STARTED)
    seconds = dict.fromkeys(STAGES, dg.MetadataValue.float(1.5))
    register(small.instance, "a.hdf", **{SECONDS_SINCE_MESSAGE: dg.MetadataValue.float(4.5)}, **seconds)
    lag = {LAG_BY_TOPIC: dg.MetadataValue.json({"odin": 3})}
    small.instance.report_runless_asset_event(dg.AssetMaterialization(KAFKA_LAG, metadata=lag))
    checkup = Checkup({"disk": lambda: Check(name="disk", ok=True, words="")})
    app = create_app(checkup, measures)
    with CatalogueServer(tmp_path / "unused.sqlite", app=app) as server:
        text = requests.get(f"{server.url}/metrics", timeout=60).text
    families = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    return families | set(re.findall(r"^(\w+)[ {]", text, re.MULTILINE))


def queries_of_alerts() -> list[str]:
    rules = yaml.safe_load((DEPLOY / "prometheus-alerts.yml").read_text())
    return [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def queries_of_dashboard() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [*queries, *(each["query"] for each in dashboard["templating"]["list"] if each["type"] == "query")]


def test_every_query_names_a_metric_that_exists(exposed: set[str]) -> None:
    for query in (*queries_of_alerts(), *queries_of_dashboard()):
        names = set(re.findall(r"scicat_dagster_\w+", query))
        assert names or query.startswith("up{"), query
        assert names <= exposed, query


def test_every_query_about_a_stage_names_one_that_exists(home: dg.DagsterInstance) -> None:
    counts = Counts(time.time() - 1)
    register(home, "a.hdf", **dict.fromkeys(STAGES, dg.MetadataValue.float(1.5)))
    known = {key[2] for key in counted(counts, home) if key[0] == "stage_seconds_count"}

    queries = (*queries_of_alerts(), *queries_of_dashboard())
    named = {stage for query in queries for stage in re.findall(r'stage="(\w+)"', query)}

    assert len(known) == 3
    assert named
    assert named <= known


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus-alerts.yml").read_text())["groups"][0]["rules"]

    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["annotations"].keys() == {"summary", "remedy"}
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_no_panel_lies_upon_another_one() -> None:
    panels = json.loads((DEPLOY / "grafana-dashboard.json").read_text())["panels"]
    covered = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len(covered) == len(set(covered))
    assert max(x for x, _ in covered) < 24


def test_prometheus_can_read_the_alert_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("It needs promtool, of Debian's prometheus.")
    rules = DEPLOY / "prometheus-alerts.yml"

    done = subprocess.run([promtool, "check", "rules", rules], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
