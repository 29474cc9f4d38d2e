"""Make the pictures of the documentation from a real run of the demo: ``python docs/take_screenshots.py``.

Some are taken while all is well, the others after two mishaps: a schema with a misspelt path, and a file that
is not HDF5. Needs the `test` extra and Debian's chromium and chromium-driver.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import quote

import dagster as dg
import requests
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import element_to_be_clickable
from selenium.webdriver.support.ui import WebDriverWait

from scicat_dagster.demo.file_writer import Announcer, MessageKind, write_and_announce, written_message
from scicat_dagster.demo.laptop import SEED, Laptop, run_headless, running_laptop
from scicat_dagster.demo.measurement import plan_file
from scicat_dagster.orchestration.tags import RAW_DATASET

IMAGES = Path(__file__).parent / "images"
FILES = 6
NUMBERS = range(970, 982)
BROKEN_NUMBER = 990
LOKIS_NUMBER = 991
MISSPELT = "/entry/sample/temperatur_log/value"

_WAIT_SECONDS = 180.0
_PLOT_SECONDS = 3.0


@dataclass(frozen=True)
class Picture:
    """A picture of a page, taken when the page shows a text."""

    name: str
    address: str
    shows: str
    clicks: tuple[str, ...] = ()
    """XPaths of what is clicked before, one after the other, as soon as each is there."""


def main() -> None:
    """Run the demo, take pictures, let something go wrong, and take pictures of how that looks."""
    IMAGES.mkdir(exist_ok=True)
    with (
        # A long path would run into what stands beside it.
        tempfile.TemporaryDirectory(prefix="demo-") as directory,
        webhook() as digests,
        running_laptop(Path(directory), 3000) as laptop,
        health_endpoint(laptop) as health,
        browser() as driver,
    ):
        run_headless(laptop, FILES, timeout_seconds=300, report=print)
        # One by one, as a facility does; the first ones were announced before Dagster was up.
        for number in NUMBERS:
            register_file(laptop, number)
        for picture in of_a_good_day(laptop, health):
            take(driver, picture)
        misspell_schema(laptop)
        register_file(laptop, LOKIS_NUMBER)
        broken = write_broken_file(laptop)
        wait_until(lambda: bool(failed_runs(laptop)), "the broken file has failed")
        wait_until(lambda: bool(digests), "somebody was told")
        print(json.dumps(digests[0], indent=2))
        for picture in of_a_bad_day(laptop, broken):
            take(driver, picture)


def of_a_good_day(laptop: Laptop, health: str) -> list[Picture]:
    """The pictures of what is as it should be."""
    url = laptop.dagster_url
    run = laptop.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]), limit=1)[0]
    dataset = laptop.catalogue.store.datasets()[0]
    pid = quote(str(dataset["pid"]), safe="")
    event = laptop.instance.fetch_materializations(RAW_DATASET, limit=1).records[0]
    latest = quote(str(event.partition_key), safe="")
    return [
        Picture("run", f"{url}/runs/{run.run_id}", "seconds from message"),
        Picture("asset", f"{url}/assets/raw_dataset", "schema id"),
        Picture(
            "plots",
            f"{url}/assets/raw_dataset",
            "variables and fields that failed",
            (button("Plots"), button("Events")),
        ),
        Picture(
            "preview",
            f"{url}/assets/raw_dataset?view=partitions&partition={latest}",
            "Close",
            ("//*[contains(text(), 'Show Markdown')]",),
        ),
        Picture("dataset", f"{laptop.catalogue.url}/datasets/{pid}", str(dataset["datasetName"])),
        Picture("lag", f"{url}/assets/kafka_lag?view=overview", "Fails if more than"),
        Picture("lineage", f"{url}/asset-groups", "announcements"),
        Picture("health", f"{health}/health", "wrdn_sensor"),
    ]


def of_a_bad_day(laptop: Laptop, broken: Path) -> list[Picture]:
    """The pictures of what went wrong, and of how people see it."""
    url = laptop.dagster_url
    asset = f"{url}/assets/raw_dataset"
    key = str(broken.relative_to(laptop.data_directory))
    why = f"{url}/runs/{failed_runs(laptop)[0].run_id}?logs={quote('type:STEP_FAILURE')}"
    sensor = f"{url}/locations/scicat_dagster/sensors/failure_digest_sensor"
    # Newest first: the last of those that remember a file is the one that told about it.
    telling = f"(//tr[contains(., '\"count\":1')]{button('0 runs requested')})[last()]"
    return [
        Picture("today", f"{url}/assets/today", "95th percentile"),
        Picture("runs", f"{url}/runs", "Failure"),
        Picture("rejected", f"{url}/assets/rejected_messages?view=events", "what to do"),
        Picture(
            "partition",
            f"{asset}?view=partitions&partition={quote(key, safe='')}",
            broken.name,
        ),
        Picture("why", why, "what to do"),
        Picture("checks", f"{asset}?view=checks&checkDetail=variables_resolved", MISSPELT),
        Picture("digest", sensor, "View logs"),
        Picture("told", sensor, "webhook was told", (telling,)),
    ]


def button(label: str) -> str:
    """The XPath of a button."""
    return f"//button[normalize-space(.)='{label}']"


def misspell_schema(laptop: Laptop) -> None:
    """What happens to curators; the file is registered all the same, without what is at that path."""
    schema = laptop.directory / "schemas" / "loki.imsc.yml"
    schema.write_text(schema.read_text().replace("/entry/sample/temperature_log/value", MISSPELT))


def register_file(laptop: Laptop, number: int) -> None:
    """One more file, from its announcement to its registration."""
    announcer = Announcer(laptop.broker.bootstrap_servers)
    path = write_and_announce(plan_file(SEED, number), laptop.data_directory, announcer)
    key = str(path.relative_to(laptop.data_directory))
    wait_until(lambda: key in registered(laptop), f"{path} is registered")


def write_broken_file(laptop: Laptop) -> Path:
    """A file that is not HDF5, long finished, and announced."""
    plan = plan_file(SEED, BROKEN_NUMBER)
    path = plan.path(laptop.data_directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("This is not an HDF5 file.\n")
    os.utime(path, (time.time() - 3600, time.time() - 3600))
    topic = plan.proposal.instrument.topic
    message = written_message(plan, path)
    Announcer(laptop.broker.bootstrap_servers).send(topic, MessageKind.WRITTEN, message, key=plan.job_id)
    return path


def registered(laptop: Laptop) -> set[str]:
    """The partitions of the files in the catalogue, by Dagster's account."""
    return laptop.instance.get_materialized_partitions(dg.AssetKey("raw_dataset"))


def failed_runs(laptop: Laptop) -> list[dg.DagsterRun]:
    """The runs that failed."""
    return list(laptop.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that happens in another process."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(1)


@contextmanager
def webhook() -> Iterator[list[object]]:
    """A server that takes the digests; the demo's configuration gets its address from the environment."""
    received: list[object] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    os.environ["SCICAT_DEMO_WEBHOOK"] = f"http://127.0.0.1:{server.server_port}/"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield received
    finally:
        server.shutdown()


@contextmanager
def health_endpoint(laptop: Laptop) -> Iterator[str]:
    """``scicat-dagster health --serve`` beside the demo."""
    command = [
        str(Path(sys.executable).parent / "scicat-dagster"), "health", "--serve",
        "--config", str(laptop.directory / "config.yml"),
    ]  # fmt: skip
    address = "http://127.0.0.1:28081"

    def answers() -> bool:
        try:
            return requests.get(f"{address}/live", timeout=2).ok
        except requests.RequestException:
            return False

    with subprocess.Popen(command) as process:  # noqa: S603 - our own command
        try:
            wait_until(answers, "the health endpoint is up")
            yield address
        finally:
            process.terminate()


def take(driver: webdriver.Chrome, picture: Picture) -> None:
    """Open a page, wait until it shows what it should and nothing that turns, and keep its picture."""
    driver.get(picture.address)
    wait = WebDriverWait(driver, 60)
    for place in picture.clicks:
        wait.until(element_to_be_clickable((By.XPATH, place))).click()
    wait.until(lambda _: picture.shows in text_of(driver) and not driver.find_elements(By.XPATH, _SPINNER))
    if driver.find_elements(By.TAG_NAME, "canvas"):
        # Plots are drawn by and by, and nothing tells when they are done.
        time.sleep(_PLOT_SECONDS)
    driver.execute_script(_RENAME, str(Path(sys.prefix).parent), "/opt/scicat-dagster")
    driver.save_screenshot(str(IMAGES / f"{picture.name}.png"))


_SPINNER = "//*[contains(@class, 'Spinner_spinner')]"

_RENAME = """
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const text = texts.currentNode;
        if (text.data.includes(arguments[0])) text.data = text.data.replaceAll(arguments[0], arguments[1]);
    }
"""
"""Stack traces would say where this machine keeps its programs."""


def text_of(driver: webdriver.Chrome) -> str:
    """All that the page says, also what has to be scrolled to."""
    return driver.find_element(By.TAG_NAME, "body").get_attribute("textContent") or ""


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """A headless Chromium."""
    options = webdriver.ChromeOptions()
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-sync",
        "--window-size=1900,1250",
    ):
        options.add_argument(argument)
    options.binary_location = "/usr/bin/chromium"
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    try:
        yield driver
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
