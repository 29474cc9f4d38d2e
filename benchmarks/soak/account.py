"""The account: what became of everything that was announced."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.soak.facility import Facility, Look
from benchmarks.soak.plan import DeedKind, Hostile, Manner, Plan, Victim
from benchmarks.soak.settling import Settling
from benchmarks.soak.storm import Storm
from scicat_dagster.config.loading import CONFIGURATION_VARIABLE
from scicat_dagster.demo.catalogue import Store
from scicat_dagster.demo.catalogue.faults import FaultKind
from scicat_dagster.demo.file_writer import MessageKind
from scicat_dagster.orchestration.failures.failed_files import FailedFile, problem_of
from scicat_dagster.orchestration.ingest.rejected_messages import rejections
from scicat_dagster.scicat.dialects import V4
from scicat_dagster.usecases.preview import preview_file

_COMPARED = (
    "pid", "datasetName", "description", "sourceFolder", "proposalId", "instrumentId", "sampleId", "owner",
    "ownerEmail", "contactEmail", "ownerGroup", "accessGroups", "creationLocation", "principalInvestigator",
)  # fmt: skip
"""What a dataset's entry has to say as if nothing had failed."""


@dataclass(frozen=True)
class Report:
    """What became of everything; printed as JSON."""

    files: int
    seed: int
    seconds: float
    settled: bool
    """Nothing was in flight any more at the end, and every file was accounted for."""
    announced: int
    registered: int
    """Announced files that are in the catalogue with their file list."""
    failed_visible: dict[str, int]
    """Files whose latest run failed, by reason."""
    failed_without_fault: list[str]
    """Those of them that had nothing wrong with them."""
    lost: list[str]
    """Announced files that are neither in the catalogue nor failed."""
    not_green: list[str]
    """Files in the catalogue of which Dagster does not know."""
    unannounced: int
    """Files in the catalogue that nobody announced."""
    differing: dict[str, str]
    """Files whose entry is not what is built from them when nothing fails, and what is different."""
    duplicate_datasets: int
    duplicate_blocks: int
    datasets: int
    origdatablocks: int
    rejected: int
    rejected_expected: int
    runs: int
    unfinished_runs: int
    messages: dict[str, int]
    file_faults: dict[str, int]
    kills: dict[str, int]
    kill_manners: dict[str, int]
    deeds: dict[str, int]
    """What a person did meanwhile."""
    hostile_messages: dict[str, int]
    broker_outages: int
    faults: dict[str, int]
    re_executed_by_hand: int

    @property
    def is_good(self) -> bool:
        """Whether the project kept what it promises."""
        return (
            self.settled
            and not (self.lost or self.not_green or self.failed_without_fault or self.unannounced)
            and not self.differing
            and self.duplicate_datasets == self.duplicate_blocks == 0
            and self.datasets == self.origdatablocks == self.registered
            and self.rejected == self.rejected_expected
        )


def listed_files(store: Store) -> tuple[Counter[str], Counter[str]]:
    """How many datasets, and how many origdatablocks, of the catalogue list each file."""
    datasets: Counter[str] = Counter()
    blocks: Counter[str] = Counter()
    for dataset in store.datasets():
        folder = Path(str(dataset["sourceFolder"]))
        found = store.origdatablocks(str(dataset["pid"]))
        listed = [str(folder / block["dataFileList"][0]["path"]) for block in found]
        blocks.update(listed)
        datasets.update(set(listed))
    return datasets, blocks


def _differing(facility: Facility) -> Iterator[tuple[str, str]]:
    """Build every registered file anew, now that nothing fails, and compare what could have been spoilt."""
    environment = facility.processes.environment
    config = Path(environment[CONFIGURATION_VARIABLE])
    for dataset in facility.store.datasets():
        for block in facility.store.origdatablocks(str(dataset["pid"])):
            path = Path(str(dataset["sourceFolder"])) / str(block["dataFileList"][0]["path"])
            built = preview_file(path, config, environment)
            # What would be posted may have the lists of API v4; the documents have both.
            read = V4().read_dataset(built.dataset or {})
            ours = _comparable(
                read if isinstance(read, dict) else {}, built.origdatablock or {"dataFileList": [{}]}
            )
            theirs = _comparable(dataset, block)
            different = [key for key, value in ours.items() if theirs[key] != value]
            different += [error.reason for error in built.errors]
            if different:
                yield str(path), ", ".join(different)


def _comparable(dataset: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """What is the same in a body that is posted and in the document that the server makes of it."""
    found = {key: dataset.get(key) for key in _COMPARED}
    # The server adds units to the values.
    found["metadata"] = sorted(dataset.get("scientificMetadata", {}))
    return found | {key: block["dataFileList"][0].get(key) for key in ("size", "chk")}


def account(
    facility: Facility, plan: Plan, storm: Storm, settling: Settling, last: Look, **measured: Any
) -> Report:
    """Compare what was announced with what is in the catalogue."""
    files = settling.files
    datasets, blocks = listed_files(facility.store)
    failed = last.failed.keys() & files.keys()
    sent = facility.announcements.sent
    return Report(
        files=len(files),
        announced=len(files),
        registered=len(files.keys() & datasets.keys()),
        failed_visible=dict(Counter(_reason(facility, last.failed[path]) for path in sorted(failed))),
        failed_without_fault=sorted(path for path in failed if not files[path].fault.permanent),
        lost=sorted(files.keys() - datasets.keys() - failed),
        not_green=sorted((files.keys() & datasets.keys()) - last.green),
        unannounced=len(datasets.keys() - files.keys()),
        differing=dict(_differing(facility)),
        duplicate_datasets=datasets.total() - len(datasets),
        duplicate_blocks=blocks.total() - datasets.total(),
        datasets=facility.store.count_datasets(),
        origdatablocks=facility.store.count_origdatablocks(),
        rejected=sum(1 for _ in rejections(facility.instance)),
        rejected_expected=sent.get(MessageKind.BROKEN, 0) + sent.get(MessageKind.FAILED, 0),
        runs=last.runs,
        unfinished_runs=last.unfinished,
        messages={str(kind): number for kind, number in sorted(sent.items())},
        file_faults=dict(Counter(str(file.fault) for file in plan.files if file.fault)),
        kills={str(victim): storm.kills[victim] for victim in Victim},
        kill_manners={str(manner): storm.manners[manner] for manner in Manner},
        deeds={str(kind): storm.operator.deeds[kind] for kind in DeedKind},
        hostile_messages={str(kind): storm.hostile[kind] for kind in Hostile},
        broker_outages=storm.outages,
        faults={kind.name.lower(): facility.faults.counts[kind] for kind in FaultKind},
        re_executed_by_hand=settling.requests.total(),
        **measured,
    )


def _reason(facility: Facility, failed: FailedFile) -> str:
    """Why it failed, without what is different for each file."""
    reason = problem_of(facility.instance, failed).what
    return re.sub(r"\S*/\S+|\d+", "…", reason)
