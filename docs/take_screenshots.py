"""Make the pictures of the documentation from a real run of the demo: ``python docs/take_screenshots.py``.

Needs the `test` extra and Debian's chromium and chromium-driver.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import dagster as dg
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from scicat_dagster.demo.laptop import Laptop, run_headless, running_laptop

IMAGES = Path(__file__).parent / "images"
FILES = 6


def main() -> None:
    """Run the demo, and take the pictures once all its files are registered."""
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="scicat-dagster-") as directory,
        running_laptop(Path(directory), 3000) as laptop,
    ):
        run_headless(laptop, FILES, timeout_seconds=300, report=print)
        browser = open_browser()
        try:
            for name, (address, expected) in pages(laptop).items():
                take(browser, address, expected, IMAGES / f"{name}.png")
        finally:
            browser.quit()


def pages(laptop: Laptop) -> dict[str, tuple[str, str]]:
    """By picture: the address, and a text that is there once the page is complete."""
    run = laptop.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]), limit=1)[0]
    dataset = laptop.catalogue.store.datasets()[0]
    pid = str(dataset["pid"]).replace("/", "%2F")
    url = laptop.dagster_url
    return {
        "runs": (f"{url}/runs", "Success"),
        "run": (f"{url}/runs/{run.run_id}", "seconds from message"),
        "asset": (f"{url}/assets/raw_dataset", "schema id"),
        "rejected": (f"{url}/assets/rejected_messages?view=events", "what to do"),
        "dataset": (f"{laptop.catalogue.url}/datasets/{pid}", str(dataset["datasetName"])),
    }


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
