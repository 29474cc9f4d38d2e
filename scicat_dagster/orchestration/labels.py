"""The labels of the definitions, by which the UI's lists can be searched: whose they are, and what for.

Not here: the tags of runs, which belong to those who set and read them.
"""

import warnings

import dagster as dg

# Dagster may still change how owners of jobs and sensors are given: ours to follow, not a facility's to read
# at each start.
warnings.filterwarnings("ignore", message="Parameter `owners`", category=dg.BetaWarning)

OWNERS = ["team:data-catalogue"]
"""A facility may name itself here: ``team:...`` or an e-mail address."""

# On assets, jobs, sensors and schedules. A job with tags gets `run_tags={}` as well: Dagster would otherwise
# write the job's tags into the database for each run.
INGESTION = {"purpose": "ingestion"}
PAST_FILES = {"purpose": "past-files"}
CORRECTION = {"purpose": "correction"}
OVERSIGHT = {"purpose": "oversight"}
UPKEEP = {"purpose": "upkeep"}


def kinds(*names: str) -> dict[str, str]:
    """The tags by which the UI shows what an op works with, as it does for an asset's ``kinds``."""
    return {f"dagster/kind/{name}": "" for name in names}
