"""A NeXus file with several NXentry, and a schema that makes a dataset of each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from tests.small_facility import FILE_TIME, SmallFacility

ENTRIES = ("raw_data_1", "raw_data_2", "raw_data_10")


def entry_schema() -> dict[str, Any]:
    """The schema as it is written."""
    fields: dict[str, tuple[str, str]] = {
        "datasetName": ("<title> (<entry>)", "string"),
        "principalInvestigator": ("Ada Lovelace", "string"),
        "creationLocation": ("Test", "string"),
        "owner": ("Ada Lovelace", "string"),
        "contactEmail": ("ada@example.org", "email"),
        "sourceFolder": ("<folder>", "string"),
        "creationTime": ("2026-11-01T12:00:00+00:00", "date"),
        "ownerGroup": ("ess_proposal_443503", "string"),
    }
    schema: dict[str, Any] = {
        key: {"field_type": "high_level", "machine_name": key, "value": value, "type": kind}
        for key, (value, kind) in fields.items()
    }
    schema["temperature"] = {
        "field_type": "scientific_metadata",
        "machine_name": "temperature",
        "value": "<temperature>",
        "type": "float",
    }
    return {
        "id": "several",
        "name": "Several entries",
        "order": 1,
        "selector": "*",
        "entries": "raw_data_*",
        "variables": {
            "title": {"source": "NXS", "path": "/<entry>/title", "value_type": "string"},
            "temperature": {"source": "NXS", "path": "/<entry>/sample/temperature", "value_type": "float"},
            "folder": {
                "source": "VALUE",
                "operator": "dirname",
                "value": "<data_file_path>",
                "value_type": "string",
            },
        },
        "schema": schema,
    }


def write_schema(small: SmallFacility, schema: dict[str, Any]) -> None:
    """Let the facility have this schema and no other."""
    small.schema.write_text(yaml.safe_dump(schema, sort_keys=False))


def write_entries(path: Path, names: tuple[str, ...] = ENTRIES) -> Path:
    """A file with these NXentry, each with other values, and a group that is none."""
    with h5py.File(path, "w") as file:
        for number, name in enumerate(names):
            entry = file.create_group(name)
            entry.attrs["NX_class"] = "NXentry"
            entry["title"] = f"Measurement {number}"
            entry["instrument/name"] = "ODIN"
            entry["sample/temperature"] = 10.0 * number
            entry["sample/temperature"].attrs["units"] = "K"
            data = entry.create_group("data")
            data.attrs.update(NX_class="NXdata", signal="counts")
            data["counts"] = np.arange(50.0) ** (number % 3 + 1)
        file.create_group("raw_data_log").attrs["NX_class"] = "NXcollection"
    os.utime(path, (FILE_TIME, FILE_TIME))
    return path
