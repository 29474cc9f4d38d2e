"""The storm: files, faults, kills and outages, as they are planned."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
from streaming_data_types import serialise_wrdn

from benchmarks.soak.facility import Facility, look
from benchmarks.soak.operator import Operator
from benchmarks.soak.plan import Burst, Deed, FileFault, Hostile, Kill, Manner, Outage, Plan, SoakFile, Victim
from scicat_dagster.demo.file_writer import READ_ONLY, MessageKind, write_files, written_message
from scicat_dagster.demo.measurement import PlannedFile
from scicat_dagster.demo.nexus import write_beginning, write_end

_LATEST_SECONDS_PER_FILE = 6.0
_LOOK_SECONDS = 5.0
"""A kill that waits for files to be registered happens after so many seconds for each of them anyway."""


@dataclass
class Storm:
    """Carries a plan out."""

    facility: Facility
    plan: Plan
    chance: random.Random
    say: Callable[[str], None]
    operator: Operator
    kills: Counter[Victim] = field(default_factory=Counter)
    manners: Counter[Manner] = field(default_factory=Counter)
    outages: int = 0
    hostile: Counter[Hostile] = field(default_factory=Counter)
    _looked: float = 0.0

    def rage(self, deadline: float) -> None:
        """Do everything that is planned; kills for which nothing is left are left out.

        Raises
        ------
        SoakError
            A part ended by itself.
        DeliveryError
            The broker does not take messages.
        """
        began = time.monotonic()
        agenda = self._agenda()
        kills, deeds = list(self.plan.kills), list(self.plan.deeds)
        while (agenda or kills or deeds) and time.monotonic() < deadline:
            seconds = time.monotonic() - began
            while agenda and agenda[0][0] <= seconds:
                agenda.pop(0)[1]()
            self.operator.mend()
            # Also while the configuration file is broken: who begins then has the last good version.
            if kills and self._is_due(kills[0], seconds) and self._killed(kills[0]):
                kills.pop(0)
            due = [deed for deed in deeds if self._is_due(deed, seconds)]
            if (done := next((deed for deed in due if self.operator.does(deed)), None)) is not None:
                deeds.remove(done)
            if (kills or deeds) and not agenda and self._is_over():
                self.say(f"nothing is left to work on: {len(kills)} kills and {len(deeds)} deeds left out")
                break
            self.facility.processes.check()
            time.sleep(0.2)
        self.operator.mend(at_once=True)

    def _agenda(self) -> list[tuple[float, Callable[[], None]]]:
        """What has its time, in the order of time."""
        agenda: list[tuple[float, Callable[[], None]]] = []
        for burst in self.plan.bursts:
            agenda.append((burst.at, lambda burst=burst: self._announce(burst)))  # type: ignore[misc]
            for late in burst.files:
                if late.fault is FileFault.LATE:
                    moment = burst.at + late.late_seconds
                    agenda.append((moment, lambda late=late: self._write(late)))  # type: ignore[misc]
        if self.facility.broker is not None:
            for outage in self.plan.outages:
                agenda.append((outage.at - 0.01, lambda outage=outage: self._broker_down(outage)))  # type: ignore[misc]
                agenda.append((outage.at + outage.seconds, self.facility.broker.set_up))
        return sorted(agenda, key=lambda item: item[0])

    def _broker_down(self, outage: Outage) -> None:
        assert self.facility.broker is not None  # noqa: S101 - planned only where there is one
        self.facility.broker.set_down()
        self.outages += 1
        self.say(f"the broker is down for {outage.seconds:g} s")

    def _announce(self, burst: Burst) -> None:
        facility = self.facility
        healthy = [file.file for file in burst.files if file.fault is FileFault.NONE]
        write_files(healthy, facility.data_directory, facility.announcements, extras=burst.extras)
        for file in burst.files:
            if file.fault is FileFault.NONE:
                continue
            if file.fault.permanent:
                self._write(file)
            message = written_message(file.file, file.file.path(facility.data_directory))
            topic = file.file.proposal.instrument.topic
            facility.announcements.send(topic, MessageKind.WRITTEN, message, key=file.file.job_id)
        for kind in burst.hostile:
            self._send_hostile(kind, burst.files[0])
        self.say(f"{len(burst.files)} files announced")

    def _send_hostile(self, kind: Hostile, file: SoakFile) -> None:
        path = file.file.path(self.facility.data_directory)
        match kind:
            case Hostile.NESTED:
                value = hostile_message(file.file, path, metadata="[" * 255 + "]" * 255)
            case Hostile.LONG_PATH:
                value = hostile_message(file.file, path.with_name("x" * 200).joinpath(*["y" * 200] * 20))
            case Hostile.GARBAGE:
                value = bytes(4) + b"\0\xff\0\xfe" + self.chance.randbytes(1000)
        # The first is read like any other; of the others is expected what is of a broken one.
        meant = MessageKind.DUPLICATE if kind is Hostile.NESTED else MessageKind.BROKEN
        self.facility.announcements.send(
            file.file.proposal.instrument.topic, meant, value, key=file.file.job_id
        )
        self.hostile[kind] += 1

    def _write(self, file: SoakFile) -> None:
        path = file.file.path(self.facility.data_directory)
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.fault is FileFault.NOT_HDF5:
            path.write_text("This is not HDF5 file.\n" * 100)
        else:
            with h5py.File(path, "x") as content:
                write_beginning(content, file.file)
                write_end(content, file.file)
        if file.fault is FileFault.TRUNCATED:
            os.truncate(path, path.stat().st_size // 2)
        if file.fault.permanent:
            # A broken file of the last minute might still be in the making.
            os.utime(path, (time.time() - 3600, time.time() - 3600))
        path.chmod(READ_ONLY)

    def _is_due(self, planned: Kill | Deed, seconds: float) -> bool:
        registered = self.facility.store.count_origdatablocks() >= planned.after_files
        return registered or seconds > _LATEST_SECONDS_PER_FILE * (planned.after_files + 5)

    def _killed(self, kill: Kill) -> bool:
        time.sleep(kill.delay)
        if not self.facility.processes.kill(kill.victim, kill.manner, self.chance):
            return False
        self.kills[kill.victim] += 1
        self.manners[kill.manner] += 1
        self.say(f"ended by {kill.manner}: {kill.victim}")
        return True

    def _is_over(self) -> bool:
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return False
        self._looked = time.monotonic()
        now = look(self.facility)
        return not now.is_behind and now.unfinished == 0


def hostile_message(file: PlannedFile, path: Path, metadata: str | None = None) -> bytes:
    """A well-formed ``wrdn`` with contents of our choice."""
    return bytes(serialise_wrdn("hostile", file.job_id, False, str(path), metadata))  # noqa: FBT003
