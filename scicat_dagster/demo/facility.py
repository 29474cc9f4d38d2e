"""The demo's facility: what is true of it before any file is written.

People, proposals and instruments (``people``), its ingestor's configuration file and schema files (package
data), and where to find these two. Not here: anything that runs.
"""

from __future__ import annotations

from pathlib import Path

CONFIG_FILE = Path(__file__).parent / "data" / "config.yml"
"""The ingestor's configuration, in which each ``${NAME:-default}`` can be set by the environment."""

SCHEMAS_DIRECTORY = Path(__file__).parent / "data" / "schemas"
"""One ``*.imsc.yml`` file per instrument."""
