"""A facility with five registered files, three of them by a schema that is wrong: to test reingestion."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import yaml

from scicat_dagster.config.loading import Configuration, load_configuration
from scicat_dagster.dataset import ingestion
from scicat_dagster.demo.catalogue import Account, Accounts, CatalogueServer, Store
from scicat_dagster.files.reading import look_at
from scicat_dagster.files.sidecars import write_sidecars
from scicat_dagster.kafka.messages import FileWritten
from scicat_dagster.schemas.loading import load_schemas
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.registration import register

PASSWORD = "pa55word-nobody-may-see"
VARIABLE = "REINGEST_TEST_PASSWORD"
LONG_AGO = 1_730_000_000

INGESTOR = Account(
    "ingestor", PASSWORD, ("experiments",),
    may_create_datasets=True, may_create_any_group=True, may_read_all=True,
)  # fmt: skip

CONFIGURATION = """\
dataset: {{default_owner_group: experiments}}
ingestion:
  schemas_directory: schemas
  file_handling: {{data_directory: "{data}", data_file_open_max_tries: 1}}
scicat: {{host: "{host}", username: ingestor, password: "${{{variable}}}", timeout: 20}}
"""


def schema(instrument: str, run_path: str) -> dict[str, Any]:
    """A schema; the path of the run number is what may be wrong about it."""

    def value(template: str, kind: str = "string") -> dict[str, str]:
        return {"source": "VALUE", "value": template, "value_type": kind}

    def high_level(name: str, template: str, kind: str = "string") -> dict[str, str]:
        return {"field_type": "high_level", "machine_name": name, "value": template, "type": kind}

    def entry(name: str, template: str, kind: str) -> dict[str, str]:
        return {"field_type": "scientific_metadata", "machine_name": name, "value": template, "type": kind}

    return {
        "id": f"schema-{instrument}",
        "name": instrument.capitalize(),
        "instrument": instrument,
        "order": 1,
        "selector": f"filename:contains:/{instrument}/",
        "variables": {
            "job_id": {"source": "NXS", "path": "/entry/entry_identifier_uuid", "value_type": "string"},
            "run": {"source": "NXS", "path": run_path, "value_type": "integer"},
            "title": {"source": "NXS", "path": "/entry/title", "value_type": "string"},
            "folder": {**value("<data_file_path>"), "operator": "dirname"},
        },
        "schema": {
            "name": high_level("datasetName", "<title>"),
            "keywords": {**high_level("keywords", "neutrons"), "value": ["neutrons"], "type": "string[]"},
            "owner": high_level("owner", "Ada Lovelace"),
            "contact": high_level("contactEmail", "ada@example.org", "email"),
            "folder": high_level("sourceFolder", "<folder>"),
            "created": high_level("creationTime", "<now>", "date"),
            "pi": high_level("principalInvestigator", "Ada Lovelace"),
            "location": high_level("creationLocation", f"ESS:{instrument.upper()}"),
            "job_id": entry("job_id", "<job_id>", "string"),
            "run": entry("run_number", "<run>", "integer"),
            "announced": entry("announced_by", "<message_service_id>", "string"),
        },
    }


@dataclass
class CorrectedFacility:
    """Files of ODIN, whose schema takes a wrong number for the run's, and of DREAM."""

    folder: Path
    server: CatalogueServer

    @property
    def store(self) -> Store:
        return self.server.store

    @property
    def config(self) -> Path:
        return self.folder / "config.yml"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def odin(self) -> list[Path]:
        return sorted((self.data / "odin").iterdir())

    @property
    def dream(self) -> list[Path]:
        return sorted((self.data / "dream").iterdir())

    @property
    def configuration(self) -> Configuration:
        return load_configuration(self.config, {VARIABLE: PASSWORD})

    def write_schema(self, instrument: str, run_path: str) -> None:
        path = self.folder / "schemas" / f"{instrument}.imsc.yml"
        path.write_text(yaml.safe_dump(schema(instrument, run_path), sort_keys=False))

    def correct_the_schema(self) -> None:
        self.write_schema("odin", "/entry/run_number")

    def write_file(self, instrument: str, number: int) -> Path:
        path = self.data / instrument / f"{number}.nxs"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            entry = file.create_group("entry")
            entry["entry_identifier_uuid"] = f"f22acb1c-950b-11ef-a3ef-{number:012d}"
            entry["run_number"] = number
            entry["proposal_number"] = 443503
            entry["title"] = f"Run {number}"
        os.utime(path, (LONG_AGO, LONG_AGO))
        return path

    def register(self, path: Path) -> None:
        configuration = self.configuration
        settings = configuration.settings
        written = FileWritten(
            file_path=str(path), job_id="", service_id="writer-1", topic="t", partition=0, offset=0
        )
        with closing(ScicatClient(settings.scicat)) as client:
            schemas = load_schemas(configuration.schemas_directory, "")
            (metadata,) = ingestion.extract_metadata(look_at(path), schemas, client, settings, written)
            files = ingestion.describe_files(metadata.file, settings, written)
            write_sidecars(files)
            register(ingestion.build(metadata, files, settings), client, settings.ingestion)

    def dataset(self, path: Path) -> dict[str, Any]:
        (found,) = [
            document
            for document in self.store.datasets()
            if document["scientificMetadata"]["job_id"]["value"].endswith(f"-{int(path.stem):012d}")
        ]
        return found

    def edit(self, path: Path, **changes: Any) -> None:
        """What a person does in SciCat; metadata is added to the one that there is."""

        def edited(document: dict[str, Any]) -> dict[str, Any]:
            metadata = {**document["scientificMetadata"], **changes.get("scientificMetadata", {})}
            return {**document, **changes, "scientificMetadata": metadata}

        self.store.change_dataset(self.dataset(path)["pid"], edited)

    def run_number(self, path: Path) -> Any:
        return self.dataset(path)["scientificMetadata"]["run_number"]["value"]


@contextmanager
def corrected_facility(folder: Path) -> Iterator[CorrectedFacility]:
    """The facility before its schema is corrected."""
    (folder / "schemas").mkdir()
    with CatalogueServer(folder / "catalogue.sqlite", Accounts((INGESTOR,))) as server:
        facility = CorrectedFacility(folder, server)
        facility.config.write_text(
            CONFIGURATION.format(data=facility.data, host=server.api_root, variable=VARIABLE)
        )
        facility.write_schema("odin", "/entry/proposal_number")
        facility.write_schema("dream", "/entry/run_number")
        for instrument, number in (("odin", 1), ("odin", 2), ("odin", 3), ("dream", 4), ("dream", 5)):
            facility.register(facility.write_file(instrument, number))
        yield facility
