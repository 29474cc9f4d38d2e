"""Settling: nothing fails any more, and a person requests what is still failed."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import dagster as dg
from dagster._cli.job import execute_launch_command
from dagster_shared.cli import WorkspaceOpts

from benchmarks.soak.facility import Facility, Look, look
from benchmarks.soak.plan import SoakFile
from scicat_dagster.orchestration.partitions import key_of, path_of

_LOOK_SECONDS = 2.0
_QUIET_SECONDS = 6.0
"""How long nothing may change when every file is accounted for: more than a sensor's interval."""
_PATIENCE_SECONDS = 240.0
"""How long nothing may change when a file is not: more than any pause of Dagster's, as of a run that was lost
before it began."""
_MOST_REQUESTS_BY_HAND = 3


@dataclass
class Settling:
    """Waits until nothing changes any more."""

    facility: Facility
    files: Mapping[str, SoakFile]
    say: Callable[[str], None]
    dismissed: set[str] = field(default_factory=set)
    """The keys of partitions that a person deleted, and who requests them after all."""
    requests: Counter[str] = field(default_factory=Counter)
    _requested: set[str] = field(default_factory=set)

    def settle(self, deadline: float) -> tuple[Look, bool]:
        """The last look, and whether everything settled in time."""
        self.facility.fault_plan.stop()
        self.facility.faults.release()
        last = look(self.facility)
        since = time.monotonic()
        while time.monotonic() < deadline:
            self._request_dismissed()
            self._request_by_hand(last)
            time.sleep(_LOOK_SECONDS)
            self.facility.processes.check()
            now = look(self.facility)
            if now.fingerprint != last.fingerprint:
                since = time.monotonic()
                self.say(_progress(now, len(self.files)))
            last = now
            if time.monotonic() - since > (_QUIET_SECONDS if self._is_settled(now) else _PATIENCE_SECONDS):
                return now, self._is_settled(now)
        return last, False

    def _is_settled(self, now: Look) -> bool:
        return (
            not now.is_behind and now.unfinished == 0 and self.files.keys() <= now.green | now.failed.keys()
        )

    def _request_by_hand(self, now: Look) -> None:
        """What a person does about failures that were not the file's fault."""
        for path, failed in now.failed.items():
            tired = self.requests[path] >= _MOST_REQUESTS_BY_HAND
            if failed.kind == "permanent" or failed.run_id in self._requested or tired:
                continue
            if not self.facility.processes.is_up:
                return
            self._requested.add(failed.run_id)
            self._request(path, failed.run_config)

    def _request_dismissed(self) -> None:
        """What a person does who deleted a partition and wants its file after all."""
        while self.dismissed and self.facility.processes.is_up:
            key = self.dismissed.pop()
            instance = self.facility.instance
            (latest,) = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": key}), limit=1)
            instance.add_dynamic_partitions("nexus_files", [key])
            self._request(path_of(key, str(self.facility.data_directory)), latest.run_config)

    def _request(self, path: str, run_config: Mapping[str, object]) -> None:
        self.requests[path] += 1
        execute_launch_command(
            instance=self.facility.instance,
            workspace_opts=WorkspaceOpts(workspace=[str(self.facility.processes.workspace)]),
            job_name="ingest_file",
            config_json=json.dumps(run_config),
            tags=json.dumps({"dagster/partition": key_of(path, str(self.facility.data_directory))}),
        )


def _progress(now: Look, files: int) -> str:
    return (
        f"{len(now.green)} of {files} files green, {len(now.failed)} failed, {now.unfinished} runs unfinished"
    )
