"""Repairing many files at once: failed files by their reason, tried again or dismissed.

Which files have failed, and what a failure is, belongs to ``failures``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from scicat_dagster.errors import Problem, without_file
from scicat_dagster.orchestration.failures.failed_files import (
    FailedFile,
    failed_files,
    problem_of,
    unregistered_files,
)
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.partitions import delete_partition
from scicat_dagster.orchestration.past_files.in_flight import files_in_flight
from scicat_dagster.orchestration.past_files.requests import request_events
from scicat_dagster.orchestration.tags import RETRY


@dataclass(frozen=True)
class Failure:
    """A file that failed, and why."""

    file: FailedFile
    problem: Problem

    @property
    def reason(self) -> str:
        """Why, without the name of the file."""
        return without_file(self.problem.what, self.file.file)

    @property
    def remedy(self) -> str:
        """What to do, without the name of the file."""
        return without_file(self.problem.remedy, self.file.file)


def failures(instance: dg.DagsterInstance, reason: str = "", names: Names = UNPREFIXED) -> list[Failure]:
    """The files that failed and are not repaired, whose reason holds a text; in any case."""
    found = [Failure(file, problem_of(instance, file)) for file in failed_files(instance, names=names)]
    return [each for each in found if reason.casefold() in each.problem.what.casefold()]


def dry_runs(instance: dg.DagsterInstance, names: Names = UNPREFIXED) -> list[Failure]:
    """The files of which there were dry runs only, as if they had failed for that."""
    found = unregistered_files(instance, names=names).dry_runs
    return [Failure(file, problem_of(instance, file)) for file in found]


def by_reason(found: Sequence[Failure]) -> list[list[Failure]]:
    """The files with the same reason together, the most frequent reason first."""
    groups: dict[tuple[str, str], list[Failure]] = {}
    for each in found:
        groups.setdefault((each.reason, each.file.kind), []).append(each)
    return sorted(groups.values(), key=len, reverse=True)


def retry(instance: dg.DagsterInstance, found: Sequence[Failure], names: Names = UNPREFIXED) -> list[str]:
    """Request a run for each file, with the announcement that its failed run had; the answer is which.

    Those that a run or request is under way for already are left out.
    """
    in_flight = files_in_flight(instance, names)
    runs = {each.file.path: each.file.told_run_id for each in found if each.file.path not in in_flight}
    for event in request_events(list(runs), RETRY, runs, names):
        instance.report_runless_asset_event(event)
    return list(runs)


def dismiss(instance: dg.DagsterInstance, name: str, names: Names = UNPREFIXED) -> str | None:
    """Delete the partition of the unregistered file that a path or partition key means; None without one.

    The file is no longer listed, and not tried again. Its runs stay.
    """
    unregistered = unregistered_files(instance, names=names)
    known = [file.path for file in (*unregistered.failed, *unregistered.dry_runs)]
    meant = [key for key in known if name == key or name.endswith(f"/{key}")]
    if not meant:
        return None
    delete_partition(instance, meant[0], names)
    return meant[0]
