"""Which files a sweep looks at, and which missing ones need a run: pure functions."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from scicat_dagster.config.models import ReconcileSettings, Settings
from scicat_dagster.errors import PermanentError
from scicat_dagster.usecases.walk import Criteria

SETTLED_AFTER = timedelta(hours=1)
"""The sweep leaves younger files to the announcement that is on its way."""


@dataclass(frozen=True)
class Plan:
    """What a sweep does about the files that the catalogue does not hold."""

    in_flight: Sequence[str]
    """Left out, because a run is under way or will be."""
    failed: Sequence[str]
    """Left out, because a person or `retry_sensor` looks after them."""
    wanted: Sequence[str]


def plan_sweep(missing: Iterable[str], in_flight: Collection[str], failed: Collection[str]) -> Plan:
    """Sort out which missing files need a run. What is in flight has not failed, whatever came before."""
    flying: list[str] = []
    left: list[str] = []
    wanted: list[str] = []
    for path in missing:
        (flying if path in in_flight else left if path in failed else wanted).append(path)
    return Plan(flying, left, wanted)


def roots_of(settings: Settings) -> Sequence[str]:
    """The folders that are searched when nobody names any.

    Raises
    ------
    PermanentError
        The configuration names none, either.
    """
    data_directory = settings.ingestion.file_handling.data_directory
    roots = settings.reconcile.roots or ((data_directory,) if data_directory else ())
    if not roots:
        raise PermanentError(
            "Nobody says where the facility's files are.",
            remedy="Set reconcile.roots or ingestion.file_handling.data_directory in the configuration.",
        )
    return roots


def sweep_criteria(settings: ReconcileSettings, now: datetime) -> Criteria:
    """Which files a sweep looks at."""
    since = now - timedelta(days=settings.since_days) if settings.since_days else None
    return Criteria(since=since, until=now - SETTLED_AFTER)
