"""Runs that started and never ended: the file writer crashed, or its message was lost.

A run counts from its announcement, from the time at which it is to stop, or from when its file was modified
last, whichever is the latest: a long measurement does not count as long as its file grows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from scicat_dagster.kafka.started_runs import KEPT, OpenRun
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.usecases.discover import discover
from scicat_dagster.usecases.walk import FoundFile


class OnDisk(BaseModel):
    """What lies at the path of a run's file."""

    model_config = ConfigDict(frozen=True)

    state: Literal["there", "not there", "unknown"]
    size: int = 0
    modified: datetime | None = None


UNKNOWN = OnDisk(state="unknown")
"""The storage does not say."""


class UnendedRun(BaseModel):
    """A run whose end was never announced, as people are told about it."""

    model_config = ConfigDict(frozen=True)

    run: OpenRun
    on_disk: OnDisk

    @property
    def where(self) -> str:
        """Whether its file lies on disk."""
        if self.on_disk.modified is None:
            return "no" if self.on_disk.state == "not there" else "unknown: the storage does not answer"
        modified = self.on_disk.modified.isoformat(timespec="seconds")
        return f"yes: {self.on_disk.size} bytes, modified last at {modified}"

    @property
    def remedy(self) -> str:
        """What a person can do."""
        match self.on_disk.state:
            case "there":
                return (
                    "See in the file writer's log whether it finished the file. If so, its message was lost: "
                    f"register the file with `scicat-dagster ingest {self.run.file}`. If not, "
                    f"`scicat-dagster messages dismiss {self.run.job_id}` ends this report."
                )
            case "not there":
                return (
                    "See in the file writer's log why it wrote no file, or where to. Nothing can be "
                    f"registered; `scicat-dagster messages dismiss {self.run.job_id}` ends this report."
                )
        return "See that the storage is mounted and answers."


def overdue(runs: Iterable[OpenRun], longest: timedelta, now: datetime) -> list[OpenRun]:
    """The runs that are expected to be over since longer than that, and whose end is still awaited."""
    return [run for run in runs if longest < now - run.expected_end < KEPT]


def looked_at(paths: Iterable[str]) -> dict[str, OnDisk]:
    """What lies at each path. A storage that hangs lets us hang, too."""
    return {path: _look_at(Path(path)) for path in paths}


def unended(
    late: Sequence[OpenRun], on_disk: Mapping[str, OnDisk], longest: timedelta, now: datetime
) -> tuple[UnendedRun, ...]:
    """Those of the overdue runs whose file nobody has touched for as long, either."""
    found = (UnendedRun(run=run, on_disk=on_disk.get(run.file, UNKNOWN)) for run in late)
    return tuple(
        each for each in found if each.on_disk.modified is None or now - each.on_disk.modified > longest
    )


def registered(found: Sequence[UnendedRun], catalogue: ScicatClient) -> set[str]:
    """The jobs of those whose file the catalogue has, whoever registered it.

    Raises
    ------
    PermanentError, TransientError
        The catalogue could not answer, or does not know us.
    """
    files = {each.run.file: each for each in found}
    asked = [
        FoundFile(path=path, root="", instrument=each.run.instrument, size=each.on_disk.size, modified=0.0)
        for path, each in files.items()
    ]
    known = {file.path for file in discover(asked, catalogue).files if file.state != "missing"}
    return {each.run.job_id for each in found if each.run.file in known}


def _look_at(path: Path) -> OnDisk:
    try:
        status = os.stat(path)  # noqa: PTH116 - beside the error classes of the system
    except (FileNotFoundError, NotADirectoryError):
        return OnDisk(state="not there")
    except (OSError, ValueError):
        return UNKNOWN
    return OnDisk(state="there", size=status.st_size, modified=datetime.fromtimestamp(status.st_mtime, UTC))
