"""Make the pictures of the documentation from a real run of the demo: ``python docs/take_screenshots.py``.

Needs the `test` extra and Debian's chromium and chromium-driver.
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
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import quote

import dagster as dg
import requests
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from scicat_dagster.demo.facility.measurement import plan_file
from scicat_dagster.demo.file_writer import Announcer, MessageKind, written_message
from scicat_dagster.demo.laptop import SEED, Laptop, run_headless, running_laptop

IMAGES = Path(__file__).parent / "images"
FILES = 6

_WAIT_SECONDS = 180.0


def main() -> None:
    """Run the demo with one file that is broken, and take the pictures once everything is settled."""
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="scicat-dagster-") as directory,
        webhook() as digests,
        running_laptop(Path(directory), 3000) as laptop,
        health_endpoint(laptop) as health,
    ):
        run_headless(laptop, FILES, timeout_seconds=300, report=print)
        broken = write_broken_file(laptop)
        wait_until(lambda: bool(failed_runs(laptop)), "the broken file has failed")
        wait_until(lambda: bool(digests), "somebody was told")
        print(json.dumps(digests[0], indent=2))
        browser = open_browser()
        try:
            for name, (address, expected) in pages(laptop, broken, health).items():
                take(browser, address, expected, IMAGES / f"{name}.png")
        finally:
            browser.quit()


def pages(laptop: Laptop, broken: Path, health: str) -> dict[str, tuple[str, str]]:
    """By picture: the address, and a text that is there once the page is complete."""
    run = laptop.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]), limit=1)[0]
    dataset = laptop.catalogue.store.datasets()[0]
    pid = str(dataset["pid"]).replace("/", "%2F")
    url = laptop.dagster_url
    partition = quote(str(broken), safe="")
    sensor = "locations/scicat_dagster.definitions/sensors/failure_digest_sensor"
    return {
        "runs": (f"{url}/runs", "Success"),
        "run": (f"{url}/runs/{run.run_id}", "seconds from message"),
        "asset": (f"{url}/assets/raw_dataset", "schema id"),
        "rejected": (f"{url}/assets/rejected_messages?view=events", "what to do"),
        "dataset": (f"{laptop.catalogue.url}/datasets/{pid}", str(dataset["datasetName"])),
        "partition": (f"{url}/assets/raw_dataset?view=partitions&partition={partition}", broken.name),
        "why": (f"{url}/runs/{failed_runs(laptop)[0].run_id}", "what to do"),
        "checks": (f"{url}/assets/raw_dataset?view=checks", "catalogue_agrees"),
        "lag": (f"{url}/assets/kafka_lag?view=overview", "messages waiting"),
        "health": (f"{health}/health", "wrdn_sensor"),
        "digest": (f"{url}/{sensor}", "failure_digest_sensor"),
    }


def write_broken_file(laptop: Laptop) -> Path:
    """A file that is no HDF5, long finished, and announced."""
    plan = plan_file(SEED, 990)
    path = plan.path(laptop.data_directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("This is no HDF5 file.\n")
    os.utime(path, (time.time() - 3600, time.time() - 3600))
    topic = plan.proposal.instrument.topic
    message = written_message(plan, path)
    Announcer(laptop.broker.bootstrap_servers).send(topic, MessageKind.WRITTEN, message, key=plan.job_id)
    return path


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


def take(browser: webdriver.Chrome, address: str, expected: str, picture: Path) -> None:
    """Open a page, wait until it shows what it should, and keep its picture."""
    browser.get(address)
    WebDriverWait(browser, 60).until(
        lambda driver: (
            expected in (driver.find_element(By.TAG_NAME, "body").get_attribute("textContent") or "")
        )
    )
    browser.save_screenshot(str(picture))


def open_browser() -> webdriver.Chrome:
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
        "--window-size=1700,1250",
    ):
        options.add_argument(argument)
    options.binary_location = "/usr/bin/chromium"
    return webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))


if __name__ == "__main__":
    main()
