"""The configuration file that the processes of one Dagster instance share."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

from scicat_dagster.config.current import CurrentConfiguration
from scicat_dagster.config.loading import ConfigurationError, load_configuration


@cache
def shared_configuration(path: Path) -> CurrentConfiguration:
    """The process's own of a file; the last good version is kept in DAGSTER_HOME for all of them.

    A process that begins while the file is broken begins with that version, and says so like the others.

    Raises
    ------
    ConfigurationError
        The file cannot be used, and there is no version that could stay in force.
    """
    kept = kept_version(path)
    try:
        loaded = load_configuration(path, os.environ)
    except ConfigurationError:
        if kept is None or not kept.exists():
            raise
        loaded = load_configuration(path, os.environ, kept=kept)
    return CurrentConfiguration(loaded, kept)


def kept_version(path: Path) -> Path | None:
    """Where the last good version of a file is kept; nowhere without a DAGSTER_HOME."""
    home = os.environ.get("DAGSTER_HOME")
    if not home:
        return None
    name = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:12]
    return Path(home) / "scicat_dagster" / f"configuration-{name}.yml"
