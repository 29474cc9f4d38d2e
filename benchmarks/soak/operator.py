"""The operator of a soak: what a person does to a facility at work, sensibly or not."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import yaml

from benchmarks.soak.facility import Facility
from benchmarks.soak.plan import Deed, DeedKind
from scicat_dagster.config.loading import CONFIGURATION_VARIABLE
from scicat_dagster.demo.laptop import UNFINISHED
from scicat_dagster.orchestration.failures.failed_files import failed_files

_BROKEN = "kafka: [this is\nnot: YAML"


@dataclass
class Operator:
    """Does what is planned, where there is something to do it to."""

    facility: Facility
    chance: random.Random
    say: Callable[[str], None]
    deeds: Counter[DeedKind] = field(default_factory=Counter)
    dismissed: set[str] = field(default_factory=set)
    """Failed files whose partitions were deleted, and which will be requested again in the end."""
    _good: str = ""
    """The configuration file while a broken one is in its place."""
    _broken_until: float = 0.0

    def does(self, deed: Deed) -> bool:
        """Do it; False where there is nothing to do it to at the moment."""
        match deed.kind:
            case DeedKind.DELETE_PARTITION:
                done = self._delete_partition()
            case DeedKind.CANCEL_RUN:
                done = self._cancel_run()
            case DeedKind.CHANGE_LIMIT:
                done = self._change_limit()
            case DeedKind.BREAK_CONFIGURATION:
                done = self._break_configuration(deed.seconds)
        if done:
            self.deeds[deed.kind] += 1
        return done

    def mend(self, *, at_once: bool = False) -> None:
        """Put the good configuration file back, when it is time or at once."""
        if self._good and (at_once or time.monotonic() > self._broken_until):
            self._config.write_text(self._good)
            self._good = ""
            self.say("the configuration file is mended")

    @property
    def _config(self) -> Path:
        return Path(self.facility.processes.environment[CONFIGURATION_VARIABLE])

    def _delete_partition(self) -> bool:
        failed = [file.path for file in failed_files(self.facility.instance)]
        if not failed:
            return False
        path = self.chance.choice(failed)
        self.facility.instance.delete_dynamic_partition("nexus_files", path)
        self.dismissed.add(path)
        self.say(f"partition deleted: {Path(path).name}")
        return True

    def _cancel_run(self) -> bool:
        runs = self.facility.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED), limit=20)
        if not runs:
            return False
        run = self.chance.choice(list(runs))
        # What the UI's Terminate does. It may have ended meanwhile.
        if not self.facility.instance.run_coordinator.cancel_run(run.run_id):
            return False
        self.say(f"run cancelled: {run.run_id}")
        return True

    def _change_limit(self) -> bool:
        if self._good:
            return False
        settings = yaml.safe_load(self._config.read_text())
        most = self.facility.processes.most_at_once
        limit = settings["ingestion"]["max_offline_ingestors"]
        settings["ingestion"]["max_offline_ingestors"] = max(1, most // 2) if limit == most else most
        self._config.write_text(yaml.safe_dump(settings))
        self.say(f"max_offline_ingestors: {settings['ingestion']['max_offline_ingestors']}")
        return True

    def _break_configuration(self, seconds: float) -> bool:
        if self._good:
            return False
        self._good = self._config.read_text()
        self._broken_until = time.monotonic() + seconds
        self._config.write_text(_BROKEN)
        self.say(f"the configuration file is broken for {seconds:.0f} s")
        return True
