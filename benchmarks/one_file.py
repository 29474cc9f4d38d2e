"""Registering one file in a process of its own, without Dagster: what a home-made daemon does for each file.

``python -m benchmarks.one_file FILE`` with the configuration in ``SCICAT_INGESTOR_CONFIG``. The same domain
functions as a run's ops; it is what the bursts of ``benchmarks.service`` are compared with.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from scicat_dagster.config.loading import CONFIGURATION_VARIABLE, load_configuration
from scicat_dagster.dataset import ingestion
from scicat_dagster.files.readiness import wait_until_complete
from scicat_dagster.files.sidecars import write_sidecars
from scicat_dagster.schemas.loading import load_schemas
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.registration import register


def main() -> None:
    """Register the file that is the one argument."""
    configuration = load_configuration(Path(os.environ[CONFIGURATION_VARIABLE]), os.environ)
    settings = configuration.settings
    schemas = load_schemas(configuration.schemas_directory, configuration.fallback_schema)
    client = ScicatClient(settings.scicat)
    file = wait_until_complete(Path(sys.argv[1]), settings.ingestion.file_handling.retry_delays())
    (metadata,) = ingestion.extract_metadata(file, schemas, client, settings)
    description = ingestion.describe_files(file, settings)
    write_sidecars(description)
    register(ingestion.build(metadata, description, settings), client, settings.ingestion)
    client.close()


if __name__ == "__main__":
    main()
