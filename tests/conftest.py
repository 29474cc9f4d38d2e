"""What every test may use: brokers, a database, examples, a small facility. Folders have their own, too."""

import pytest

pytest_plugins = ["tests.brokers", "tests.databases", "tests.examples", "tests.small_facility"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        default="",
        metavar="URL",
        help="A SciCat (…/api) for tests/scicat/test_contract.py.",
    )
