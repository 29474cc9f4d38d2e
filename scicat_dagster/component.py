"""The facility as a component of Dagster, for projects that load their definitions from ``defs.yaml``.

See https://docs.dagster.io/guides/build/components.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import dagster as dg
from pydantic import Field

from scicat_dagster.definitions import build_definitions
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.names import Names
from scicat_dagster.orchestration.shared_configuration import shared_configuration


class IngestComponent(dg.Component, dg.Model, dg.Resolvable):
    """Registers the NeXus files of one facility or instrument as SciCat datasets.

    Each instance of it has a configuration file of its own: its topics, its SciCat, its schemas. What Dagster
    knows of it (assets, partitions, jobs, sensors, cursors) has its key prefix, so that several are well
    together.
    """

    config: str = Field(
        description="The facility's configuration file, absolute or relative to the folder of defs.yaml.",
        examples=["odin.yml", "/etc/scicat_dagster/odin.yml"],
    )
    key_prefix: Annotated[
        str,
        dg.Resolver.default(
            description="What its asset keys begin with, such as odin or ess/odin: letters, digits and "
            "single underscores. It is part of what Dagster stores, so that it stays as it is. Empty: the "
            "names are those of an installation with one facility.",
            examples=["odin", "ess/odin"],
        ),
    ] = ""

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """All definitions of the facility.

        Raises
        ------
        PermanentError
            The configuration file cannot be used, or the prefix cannot be part of a name.
        """
        names = Names.parse(self.key_prefix)
        current = shared_configuration(Path(context.path).absolute() / self.config)
        return build_definitions(current.read(), Facility(current, names=names))
