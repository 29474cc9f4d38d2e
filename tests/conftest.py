"""What every test may use: brokers, a database, examples, a small facility. Folders have their own, too."""

from pathlib import Path

import pytest

pytest_plugins = ["tests.brokers", "tests.databases", "tests.examples", "tests.small_facility"]


_WITHOUT_SERVICE = ("config", "dataset", "files", "notifications", "schemas", "kafka/test_messages.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = [Path(__file__).parent / place for place in _WITHOUT_SERVICE]
    for item in items:
        if any(item.path.is_relative_to(place) for place in places):
            item.add_marker(pytest.mark.unit)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        default="",
        metavar="URL",
        help="A SciCat (…/api) for tests/scicat/test_contract.py.",
    )
