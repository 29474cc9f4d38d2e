"""What the tests of the domain share: the same examples on every machine, and a schema to vary."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Continuous integration must not find on Tuesday what it did not find on Monday.
settings.register_profile("unit", derandomize=True, max_examples=50, deadline=None, database=None)
settings.load_profile("unit")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real files that came from a facility."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def aged() -> Callable[[Path, float], Path]:
    """Make a file look as if it had been modified so many seconds ago (negative: in the future)."""

    def age(path: Path, seconds: float) -> Path:
        then = time.time() - seconds
        os.utime(path, (then, then))
        return path

    return age


@pytest.fixture
def schema_document() -> dict[str, Any]:
    """A schema file with everything mandatory and nothing else, to be changed by a test."""

    def high_level(name: str, value: str, kind: str = "string") -> dict[str, str]:
        return {"field_type": "high_level", "machine_name": name, "value": value, "type": kind}

    return {
        "id": "schema-1",
        "name": "Odin",
        "instrument": "odin",
        "order": 10,
        "selector": "*",
        "variables": {},
        "schema": {
            "owner": high_level("owner", "Ada Lovelace"),
            "contact": high_level("contactEmail", "ada@example.org", "email"),
            "folder": high_level("sourceFolder", "/data/odin"),
            "created": high_level("creationTime", "2024-10-28T09:06:41Z", "date"),
            "pi": high_level("principalInvestigator", "Ada Lovelace"),
            "location": high_level("creationLocation", "ESS:ODIN"),
            "group": high_level("ownerGroup", "odin"),
        },
    }
