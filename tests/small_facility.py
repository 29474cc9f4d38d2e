"""A facility with one real NeXus file, its schema and the SciCat stand-in, for tests of the orchestration."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from scicat_dagster.config.current import CurrentConfiguration
from scicat_dagster.config.loading import load_configuration
from scicat_dagster.definitions import build_definitions
from scicat_dagster.demo.catalogue import CatalogueServer, Store
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.partitions import key_of

DATA = Path(__file__).parent / "data"
FILE_TIME = 1_730_000_000


@contextmanager
def instance_in(folder: Path, **settings: object) -> Iterator[dg.DagsterInstance]:
    """A Dagster home with these sections in its ``dagster.yaml``, opened."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dagster.yaml").write_text(yaml.safe_dump({"telemetry": {"enabled": False}, **settings}))
    with dg.DagsterInstance.from_config(str(folder)) as opened:
        yield opened


@dataclass
class SmallFacility:
    """A facility in a temporary folder; ``configure`` changes its configuration file."""

    directory: Path
    server: CatalogueServer
    instance: dg.DagsterInstance
    kafka: dict[str, object]
    health_check: dict[str, object] = field(default_factory=dict)
    events: dict[str, object] = field(default_factory=dict)
    reconcile: dict[str, object] = field(default_factory=dict)
    api: str = "auto"
    password: str = "pwd"

    @property
    def file(self) -> Path:
        return self.directory / "data" / "raw" / "small-coda.hdf"

    @property
    def schema(self) -> Path:
        return self.directory / "schemas" / "small-coda.imsc.yml"

    @property
    def store(self) -> Store:
        return self.server.store

    def add_proposal(self) -> None:
        """Make the file's proposal known to the catalogue."""
        self.store.add_proposal(
            "443503",
            title="CODA",
            pi_firstname="Ada",
            pi_lastname="Lovelace",
            pi_email="ada@example.org",
            owner_group="ess_proposal_443503",
        )

    def facility(self, **ingestion: object) -> Facility:
        """The resource that ops and sensors get, from a configuration file with these ingestion keys."""
        config = self.directory / "config.yml"
        config.write_text(
            yaml.safe_dump(
                {
                    "scicat": {
                        "host": self.server.api_root,
                        "api": self.api,
                        "username": "ingestor",
                        "password": self.password,
                    },
                    "kafka": self.kafka,
                    "health_check": self.health_check,
                    "events": self.events,
                    "reconcile": self.reconcile,
                    "ingestion": {
                        "file_handling": {"data_directory": str(self.directory / "data")},
                        **ingestion,
                    },
                }
            )
        )
        return Facility(
            CurrentConfiguration(load_configuration(config, {})), wait_seconds=0.0, op_pauses=(0.0,)
        )

    def key(self, file: Path | None = None) -> str:
        """The partition key of a file, by default of the one that is there."""
        return key_of(str(file or self.file), str(self.directory / "data"))

    def ingest(
        self, facility: Facility, file: Path | None = None, run_config: Mapping[str, object] | None = None
    ) -> dg.ExecuteInProcessResult:
        """Run the job for one file; ops are tried again once and at once, so that no test waits for that."""
        data_directory = facility.settings.ingestion.file_handling.data_directory
        key = key_of(str(file or self.file), data_directory)
        self.instance.add_dynamic_partitions("nexus_files", [key])
        return self._execute(facility, {}, partition_key=key, run_config=run_config)

    def ingest_range(self, facility: Facility, files: Sequence[Path]) -> dg.ExecuteInProcessResult:
        """Run the job for several files at once, as a backfill does."""
        self.instance.add_dynamic_partitions("nexus_files", [self.key(file) for file in files])
        places = {
            "dagster/asset_partition_range_start": self.key(files[0]),
            "dagster/asset_partition_range_end": self.key(files[-1]),
        }
        return self._execute(facility, places)

    def _execute(
        self, facility: Facility, tags: Mapping[str, str], **chosen: Any
    ) -> dg.ExecuteInProcessResult:
        definitions = build_definitions(facility.configuration, facility)
        try:
            return definitions.resolve_job_def("ingest_file").execute_in_process(
                instance=self.instance,
                tags={"dagster/max_retries": "0", **tags},
                raise_on_error=False,
                **chosen,
            )
        finally:
            facility.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallFacility]:
    with small_facility(tmp_path) as facility:
        yield facility


@contextmanager
def small_facility(tmp_path: Path) -> Iterator[SmallFacility]:
    """The facility in a folder, with its catalogue and an instance in memory."""
    for folder in ("schemas", "data/raw"):
        (tmp_path / folder).mkdir(parents=True)
    with (
        CatalogueServer(tmp_path / "catalogue.sqlite") as server,
        dg.DagsterInstance.ephemeral(settings={"telemetry": {"enabled": False}}) as instance,
    ):
        server.store.add_instrument("ODIN")
        facility = SmallFacility(tmp_path, server, instance, kafka={})
        facility.add_proposal()
        shutil.copy(DATA / "small-coda.imsc.yml", facility.schema)
        shutil.copy(DATA / "small-coda.hdf", facility.file)
        # Long ago, so that nothing waits to see whether it is still being written.
        os.utime(facility.file, (FILE_TIME, FILE_TIME))
        yield facility
