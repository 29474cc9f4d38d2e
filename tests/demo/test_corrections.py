"""The demo's datasets can be brought up to date after a schema was corrected, whoever owns them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from scicat_dagster.config.loading import Configuration, load_configuration
from scicat_dagster.dataset import ingestion
from scicat_dagster.demo.catalogue import Accounts, CatalogueServer, demo_accounts
from scicat_dagster.demo.file_writer import write_past_file
from scicat_dagster.demo.laptop import lay_out, seed
from scicat_dagster.demo.measurement import plan_file
from scicat_dagster.files.reading import look_at
from scicat_dagster.schemas.loading import load_schemas
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.registration import register
from scicat_dagster.usecases.reingest import Reingestion
from scicat_dagster.usecases.thumbnails import attach_preview


@dataclass
class Demo:
    """The demo's facility without Dagster: six files, two of each instrument."""

    configuration: Configuration
    server: CatalogueServer
    client: ScicatClient
    files: list[Path]

    def edit_schema(self, instrument: str, field: str, value: str) -> None:
        """What a curator does to a schema file."""
        path = self.configuration.schemas_directory / f"{instrument}.imsc.yml"
        schema = yaml.safe_load(path.read_text())
        schema["schema"][field]["value"] = value
        path.write_text(yaml.safe_dump(schema, sort_keys=False))

    def register_all(self) -> None:
        settings = self.configuration.settings
        schemas = load_schemas(self.configuration.schemas_directory, "")
        for file in self.files:
            (metadata,) = ingestion.extract_metadata(look_at(file), schemas, self.client, settings)
            files = ingestion.describe_files(metadata.file, settings)
            built = ingestion.build(metadata, files, settings)
            registration = register(built, self.client, settings.ingestion)
            attach_preview(metadata, built, registration, self.client, settings)

    def update_all(self) -> dict[str, str]:
        """What becomes of each file in ``reingest --update``."""
        schemas = load_schemas(self.configuration.schemas_directory, "")
        reingestion = Reingestion(self.configuration.settings, schemas, self.client)
        return {str(file): reingestion.updated(str(file))[0].state for file in self.files}

    def samples(self) -> list[str]:
        """The samples that the catalogue knows, one of each dataset."""
        return sorted(
            document["scientificMetadata"]["sample_name"]["value"]
            for document in self.server.store.datasets()
        )


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    lay_out(tmp_path)
    with CatalogueServer(tmp_path / "catalogue.sqlite", Accounts(demo_accounts())) as server:
        seed(server.store)
        environment = {
            "SCICAT_DEMO_PASSWORD": "pwd",
            "SCICAT_DEMO_DATA_DIRECTORY": str(tmp_path / "data"),
            "SCICAT_DEMO_SCICAT_PORT": str(server.port),
        }
        configuration = load_configuration(tmp_path / "config.yml", environment)
        with closing(ScicatClient(configuration.settings.scicat)) as client:
            files = [write_past_file(plan_file(5, index), tmp_path / "data") for index in range(6)]
            yield Demo(configuration, server, client, files)


@pytest.mark.parametrize("owner_group", ["ingestor", "proposal_<proposal_id>"])
def test_a_corrected_schema_changes_its_own_datasets_only(demo: Demo, owner_group: str) -> None:
    demo.edit_schema("odin", "owner_group", owner_group)
    demo.edit_schema("odin", "sample_name", "<title>")
    demo.register_all()
    before = demo.server.store.datasets()

    demo.edit_schema("odin", "sample_name", "<sample_name>")
    states = demo.update_all()

    odin = {str(file) for file in demo.files if "/odin/" in str(file)}
    assert {file for file, state in states.items() if state == "updated"} == odin
    assert {state for file, state in states.items() if file not in odin} == {"up to date"}
    unchanged = [document for document in demo.server.store.datasets() if document in before]
    assert len(unchanged) == len(demo.files) - len(odin)
    assert demo.samples() == sorted(plan_file(5, index).sample for index in range(6))
    assert set(demo.update_all().values()) == {"up to date"}
