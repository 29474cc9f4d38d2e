"""The plan of a soak: what happens to what, decided from the seed before anything starts."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from scicat_dagster.demo.file_writer import Extras
from scicat_dagster.demo.measurement import PlannedFile, plan_file

_MOST_FILES_IN_A_BURST = 8
_OUTAGES = {0: (6.0,), 500: (20.0, 300.0)}
"""How long the broker is away, one time after the other, in a soak of at least so many files."""

_SHARE_OF_HOSTILE = 0.2
"""Of the bursts have such a message among theirs."""
_FILES_FOR_A_DEED = 12


class FileFault(StrEnum):
    """What is wrong with a file."""

    NONE = "none"
    LATE = "announced before it exists"
    TRUNCATED = "cut off for good"
    NOT_HDF5 = "not HDF5"

    @property
    def permanent(self) -> bool:
        """Whether the file can never be registered."""
        return self in (FileFault.TRUNCATED, FileFault.NOT_HDF5)


class Victim(StrEnum):
    """Which process is killed."""

    RUN_WORKER = "run worker"
    WORKER_GROUP = "worker group"
    CODE_SERVER = "code server"
    DAEMON = "daemon"
    EVERYTHING = "everything of Dagster at once"


class Manner(StrEnum):
    """How a process is ended."""

    KILL = "SIGKILL"
    TERMINATE = "SIGTERM"
    EXIT = "exit 0"
    """It is asked to in its own way, and says that all is well."""


class DeedKind(StrEnum):
    """What a person does."""

    DELETE_PARTITION = "deletes the partition of a failed file"
    CANCEL_RUN = "cancels a run"
    CHANGE_LIMIT = "changes max_offline_ingestors"
    BREAK_CONFIGURATION = "saves a broken configuration file"


class Hostile(StrEnum):
    """A message that nobody's file writer sends."""

    NESTED = "nested metadata"
    """It announces a good file, once more."""
    LONG_PATH = "a path that is too long"
    GARBAGE = "garbage"


@dataclass(frozen=True)
class SoakFile:
    """A file, what is wrong with it, and how long after its announcement it appears if it is late."""

    file: PlannedFile
    fault: FileFault = FileFault.NONE
    late_seconds: float = 0.0


@dataclass(frozen=True)
class Burst:
    """Files that are announced one right after the other, at ``at`` seconds, and the mishaps among them."""

    at: float
    files: tuple[SoakFile, ...]
    extras: Extras
    hostile: tuple[Hostile, ...] = ()


@dataclass(frozen=True)
class Kill:
    """The end of a process, once so many files are in the catalogue and then so many seconds later."""

    victim: Victim
    after_files: int
    delay: float
    manner: Manner = Manner.KILL


@dataclass(frozen=True)
class Deed:
    """What a person does once so many files are in the catalogue; ``seconds`` is how long it stays so."""

    kind: DeedKind
    after_files: int
    seconds: float


@dataclass(frozen=True)
class Outage:
    """The broker is away."""

    at: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """All that the soak does to the facility but for the faults of requests, which have the same seed."""

    bursts: tuple[Burst, ...]
    kills: tuple[Kill, ...]
    outages: tuple[Outage, ...]
    deeds: tuple[Deed, ...] = ()

    @property
    def files(self) -> list[SoakFile]:
        """All files in the order of their announcement."""
        return [file for burst in self.bursts for file in burst.files]


def make_plan(
    seed: int, files: int, kills: int, *, victims: Sequence[Victim], seconds_per_file: float
) -> Plan:
    """The plan that a seed stands for; ``seconds_per_file`` is how fast files are announced on average."""
    chance = random.Random(f"soak/{seed}")  # noqa: S311 - no secret
    bursts = list(_bursts(_files(seed, files, chance), chance, seconds_per_file))
    durations = next(found for least, found in reversed(_OUTAGES.items()) if files >= least)
    outages = []
    for number, seconds in enumerate(durations, start=1):
        # Before a burst, so that the daemon finds the broker down and then finds it full.
        place = len(bursts) * number // (len(durations) + 1)
        outages.append(Outage(bursts[place].at, seconds))
        bursts[place:] = [replace(burst, at=burst.at + seconds + 0.5) for burst in bursts[place:]]
    return Plan(
        tuple(bursts),
        tuple(_kills(files, kills, victims, chance)),
        tuple(outages),
        tuple(_deeds(files, chance)),
    )


def _files(seed: int, files: int, chance: random.Random) -> list[SoakFile]:
    planned = [SoakFile(plan_file(seed, index)) for index in range(files)]
    late = [FileFault.LATE] * max(1, files // 15)
    broken = [FileFault.TRUNCATED, FileFault.NOT_HDF5] * max(1, files // 200)
    special = [*broken, *late][:files]
    for index, fault in zip(chance.sample(range(files), len(special)), special, strict=True):
        planned[index] = SoakFile(planned[index].file, fault, chance.uniform(3, 30))
    return planned


def _bursts(files: list[SoakFile], chance: random.Random, seconds_per_file: float) -> Iterator[Burst]:
    at = 0.0
    while files:
        size = chance.randint(1, _MOST_FILES_IN_A_BURST)
        now, files = files[:size], files[size:]
        mishaps = [chance.random() < share for share in (0.5, 0.3, 0.3)]
        extras = Extras(duplicate=mishaps[0], broken=mishaps[1], failed=mishaps[2])
        yield Burst(at, tuple(now), extras, _hostile(chance))
        at += chance.uniform(0.15, 1.85) * seconds_per_file * size


def _hostile(chance: random.Random) -> tuple[Hostile, ...]:
    return tuple(kind for kind in Hostile if chance.random() < _SHARE_OF_HOSTILE)


def _deeds(files: int, chance: random.Random) -> Iterator[Deed]:
    """Each kind at least once."""
    number = max(len(DeedKind), files // _FILES_FOR_A_DEED)
    kinds = [kind for _, kind in zip(range(number), itertools.cycle(DeedKind), strict=False)]
    moments = sorted(chance.randint(0, int(files * 0.7)) for _ in kinds)
    for kind, after_files in zip(chance.sample(kinds, number), moments, strict=True):
        yield Deed(kind, after_files, chance.uniform(3, 8))


def _kills(files: int, kills: int, victims: Sequence[Victim], chance: random.Random) -> Iterator[Kill]:
    order: list[Victim] = []
    while len(order) < kills:
        order += chance.sample(list(victims), len(victims))
    moments = sorted(chance.randint(0, int(files * 0.7)) for _ in range(kills))
    manners = itertools.cycle(chance.sample(list(Manner), len(Manner)))
    for victim, after_files, manner in zip(order[:kills], moments, manners, strict=False):
        yield Kill(victim, after_files, chance.uniform(0, 3), manner)
