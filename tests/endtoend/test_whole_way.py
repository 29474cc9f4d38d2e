"""The whole way with real processes: Apache Kafka, code server, daemon, run workers, SciCat, and the UI."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import dagster as dg
import pytest
import yaml
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from scicat_dagster.demo import people
from scicat_dagster.demo.file_writer import Announcer, Extras, write_files
from scicat_dagster.demo.laptop import SEED
from scicat_dagster.demo.measurement import plan_file
from scicat_dagster.orchestration.partitions import paths_of
from tests.endtoend.browsing import chromium
from tests.endtoend.conftest import REJECTED, Processes

pytestmark = pytest.mark.endtoend

OPS = ["wait_for_file", "extract_metadata", "describe_files", "build_dataset", "register_dataset"]


def break_schema(path: Path) -> None:
    """No id, so that it is broken as a whole; it keeps claiming its files."""
    schema = yaml.safe_load(path.read_text())
    del schema["id"]
    path.write_text(yaml.safe_dump(schema, sort_keys=False))


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as driver:
        yield driver


def test_announced_files_become_datasets_and_the_rest_is_visible(
    on_apache_kafka: Processes, browser: webdriver.Chrome
) -> None:
    facility = on_apache_kafka
    for name, partitions in people.TOPICS.items():
        facility.broker.create_topic(name, partitions)
    # DREAM's files fail: every third one.
    break_schema(facility.directory / "schemas" / "dream.imsc.yml")
    plans = [plan_file(seed=7, index=index) for index in range(6)]
    summary = write_files(
        plans,
        facility.data_directory,
        Announcer(facility.broker.bootstrap_servers),
        extras=Extras(duplicate=True, broken=True, failed=True),
    )
    dream = {str(path) for path in summary.files if "/dream/" in str(path)}
    good = {str(path) for path in summary.files} - dream
    assert dream
    assert good

    facility.start_dagster()
    facility.wait_for(
        lambda: (
            facility.registered() >= good
            and len(facility.failed_runs()) >= len(dream)
            and facility.unfinished_runs() == 0
        ),
        "every file registered or failed",
        seconds=150,
    )

    check_catalogue(facility, good)
    check_rejections(facility)
    check_failures(facility, dream)
    check_pages(facility, browser)
    check_no_secret(facility)


def check_catalogue(facility: Processes, good: set[str]) -> None:
    store = facility.server.store
    assert store.count_datasets() == store.count_origdatablocks() == len(good)
    listed = {
        str(Path(str(dataset["sourceFolder"])) / block["dataFileList"][0]["path"])
        for dataset in store.datasets()
        for block in store.origdatablocks(str(dataset["pid"]))
    }
    assert listed == good
    assert facility.registered() == good
    assert store.poisoned() == {}


def check_rejections(facility: Processes) -> None:
    records = facility.instance.fetch_observations(REJECTED, limit=10).records
    reasons = sorted(str(record.asset_observation.metadata["reason"].value) for record in records)  # type: ignore[union-attr]
    assert len(reasons) == 2
    assert reasons[0].startswith("It is a broken wrdn message")
    assert reasons[1].startswith("The file writer failed")


def check_failures(facility: Processes, dream: set[str]) -> None:
    failed = facility.failed_runs()
    # One run per file: a permanent failure is not tried again.
    keys = [run.tags["dagster/partition"] for run in failed]
    assert sorted(paths_of(keys, str(facility.data_directory))) == sorted(dream)
    assert len(keys) == len(dream)
    for run in failed:
        logs = facility.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
        failure = logs[0].get_dagster_event().step_failure_data.user_failure_data
        assert failure is not None
        assert "id: is missing" in str(failure.metadata["reason"].value)


def check_pages(facility: Processes, browser: webdriver.Chrome) -> None:
    url = facility.start_webserver()
    run = facility.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]), limit=1)[0]
    pid = next(
        str(dataset["pid"])
        for dataset in facility.server.store.datasets()
        if str(dataset["pid"]).endswith(run.tags[".dagster/scicat_job_id"])
    )
    browser.get(f"{url}/runs/{run.run_id}")

    def shown(driver: webdriver.Chrome) -> bool:
        text = driver.find_element(By.TAG_NAME, "body").get_attribute("textContent") or ""
        return all(name in text for name in OPS) and pid in text

    WebDriverWait(browser, 60).until(shown)


def check_no_secret(facility: Processes) -> None:
    """Nothing that any process wrote (logs, databases, results of ops) holds the password or a token."""
    secrets = [facility.accounts.password, *facility.accounts.tokens]
    assert len(secrets) > 1
    written = [path for path in facility.directory.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in written)
    for path in written:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path


@pytest.mark.parametrize("files", [4])
def test_the_demo_registers_all_its_files_and_its_numbers_agree(files: int, tmp_path: Path) -> None:
    finished = subprocess.run(
        [
            str(Path(sys.executable).with_name("scicat-dagster")),
            "demo", "--files", str(files), "--exit-when-done", "--directory", str(tmp_path / "demo"),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )  # fmt: skip

    assert finished.returncode == 0, finished.stderr
    account = json.loads(finished.stdout)
    assert account.pop("seconds") > 0
    plans = [plan_file(SEED, index) for index in range(files)]
    assert account == {
        "written": files,
        "registered": files,
        "failed": 0,
        "rejected": 2,
        "datasets": files,
        "origdatablocks": files,
        "samples": len({(plan.proposal.proposal_id, plan.sample) for plan in plans}),
    }


def test_the_demo_goes_on_after_an_outage_of_its_catalogue(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("scicat-dagster")),
            "demo", "--files", "8", "--pause", "1", "--outage", "5", "--directory", str(tmp_path / "demo"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    # Ends the wait for its next line, should it hang.
    watch = Timer(240, demo.kill)
    watch.start()
    said: list[str] = []
    assert demo.stderr is not None
    with demo, demo.stderr:
        for line in demo.stderr:
            said.append(line.strip())
            # Two may be registered between two lines: there is a tomography, too.
            if registered_in(line) >= 8 and "away" not in line:
                demo.send_signal(signal.SIGINT)
    watch.cancel()

    assert demo.returncode == 0, "\n".join(said)
    assert any("SciCat is away" in line for line in said)
    assert max(map(registered_in, said)) >= 8, "\n".join(said)


def registered_in(line: str) -> int:
    """The number in ``3 files registered, 0 failed``; 0 in other lines."""
    found = re.match(r"(\d+) files registered", line.strip())
    return int(found[1]) if found else 0
