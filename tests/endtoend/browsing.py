"""A browser for the tests that look at the UI."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException

_CHROMIUM = Path("/usr/bin/chromium")
_DRIVER = Path("/usr/bin/chromedriver")
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1600,1200",
)


@contextmanager
def chromium(*arguments: str) -> Iterator[webdriver.Chrome]:
    """A browser without a window; the test is skipped where there is none."""
    if not (_CHROMIUM.exists() and _DRIVER.exists()):
        pytest.skip("No Chromium with its driver on this machine.")
    options = webdriver.ChromeOptions()
    for argument in (*_ARGUMENTS, *arguments):
        options.add_argument(argument)
    options.binary_location = str(_CHROMIUM)
    try:
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(_DRIVER)))
    except WebDriverException as error:
        pytest.skip(f"Chromium does not start: {error.msg}")
    try:
        yield driver
    finally:
        driver.quit()
