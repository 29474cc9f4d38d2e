"""What the demo's facility measures: decided from a seed and a number, before anything is written.

Here: :class:`PlannedFile` and the pure function that makes it. Not here: how it becomes a file (``nexus``),
how the file is announced (``demo.file_writer``).
"""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from scicat_dagster.demo.people import COMMISSIONING, PROPOSALS, Person, Proposal

FIRST_START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
"""When file number 0 was started; each further number starts a quarter of an hour later."""

_FIRST_RUN_NUMBER = 40_000
_RUN_NUMBERS_PER_FILE = 10
_SECONDS_BETWEEN_STARTS = 900
_YEAR = timedelta(days=365)


@dataclass(frozen=True)
class Chopper:
    """A disk chopper's settings."""

    name: str
    rotation_speed_hz: float
    phase_degree: float


@dataclass(frozen=True)
class PlannedFile:
    """All that one NeXus file will say, but for the detector's events, which follow from ``job_id``."""

    index: int
    run_number: int
    job_id: str
    """UUID of the file writer's job."""
    proposal: Proposal
    title: str
    start_time: datetime
    end_time: datetime
    sample: str
    temperature_kelvin: float
    users: tuple[Person, ...]
    choppers: tuple[Chopper, ...]
    source_power_megawatt: float
    event_count: int
    """Number of detector events; 8 bytes each before compression."""
    rotation_angles: tuple[float, ...] = ()
    """Of a tomography, in degrees: each angle's frame is in a file of its own."""

    def path(self, data_directory: Path) -> Path:
        """Where it goes: ``<data_directory>/<instrument>/<year>/<proposal>/raw/<proposal>_<run>.hdf``.

        That of a tomography ends in ``_master.hdf``.
        """
        proposal = self.proposal
        folder = data_directory / proposal.instrument.directory / str(self.start_time.year)
        name = f"{proposal.proposal_id}_{self.run_number}{'_master' if self.rotation_angles else ''}.hdf"
        return folder / proposal.proposal_id / "raw" / name

    def frame_paths(self, data_directory: Path) -> tuple[Path, ...]:
        """Where the frames of a tomography go, beside its master file."""
        master = self.path(data_directory)
        return tuple(
            master.with_name(f"{master.stem.removesuffix('_master')}_frames_{number}.hdf")
            for number, _ in enumerate(self.rotation_angles, start=1)
        )


def plan_file(seed: int, index: int) -> PlannedFile:
    """Plan file number ``index`` of the sequence that ``seed`` stands for.

    The same two numbers always give the same plan. ``index`` counts from 0; of one seed, any three
    consecutive ones meet each instrument once, and any six each proposal once. Job ids and paths differ.
    """
    # A text as seed gives the same sequence in every Python version and process.
    dice = random.Random(f"{seed}/{index}")
    proposal = PROPOSALS[index % len(PROPOSALS)]
    start = FIRST_START + timedelta(
        seconds=index * _SECONDS_BETWEEN_STARTS, milliseconds=dice.randrange(60_000)
    )
    sample = dice.choice(proposal.samples)
    temperature = round(dice.uniform(*proposal.temperature_kelvin), 2)
    further_users = [person for person in proposal.team if person != proposal.principal_investigator]
    present = dice.sample(further_users, dice.randint(1, len(further_users)))
    return PlannedFile(
        index=index,
        run_number=_FIRST_RUN_NUMBER + _RUN_NUMBERS_PER_FILE * index,
        job_id=str(uuid.UUID(int=dice.getrandbits(128), version=4)),
        proposal=proposal,
        title=f"{sample} at {temperature:g} K",
        start_time=start,
        end_time=start + timedelta(milliseconds=dice.randrange(60_000, 840_000)),
        sample=sample,
        temperature_kelvin=temperature,
        users=(proposal.principal_investigator, *present),
        choppers=tuple(
            Chopper(
                name,
                rotation_speed_hz=float(dice.choice((14, 28, 56))),
                phase_degree=round(dice.uniform(0, 360), 3),
            )
            for name in ("band_chopper", "overlap_chopper")
        ),
        source_power_megawatt=round(dice.uniform(1.2, 2.0), 3),
        event_count=dice.randrange(8_000, 24_000),
    )


def next_attempt(plan: PlannedFile) -> PlannedFile:
    """The same measurement under the next run number and another job id, which no :func:`plan_file` gives."""
    return replace(
        plan,
        run_number=plan.run_number + 1,
        job_id=str(uuid.uuid5(uuid.UUID(plan.job_id), "next attempt")),
    )


def year_before(plan: PlannedFile) -> PlannedFile:
    """The same measurement a year earlier, under a run number, a job id and a path of its own."""
    return replace(
        plan,
        run_number=plan.run_number + 5,
        job_id=str(uuid.uuid5(uuid.UUID(plan.job_id), "year before")),
        start_time=plan.start_time - _YEAR,
        end_time=plan.end_time - _YEAR,
    )


def never_ended(plan: PlannedFile) -> PlannedFile:
    """The measurement that was under way when the file writer crashed, under a run number of its own."""
    return replace(
        plan,
        run_number=plan.run_number + 7,
        job_id=str(uuid.uuid5(uuid.UUID(plan.job_id), "never ended")),
    )


def tomography(plan: PlannedFile) -> PlannedFile:
    """A tomography of the same sample, under a run number of its own."""
    return replace(
        plan,
        run_number=plan.run_number + 3,
        job_id=str(uuid.uuid5(uuid.UUID(plan.job_id), "tomography")),
        rotation_angles=(0.0, 60.0, 120.0),
    )


def of_new_instrument(plan: PlannedFile) -> PlannedFile:
    """A measurement at the same time at the instrument that has no schema yet."""
    return replace(
        plan,
        proposal=COMMISSIONING,
        title="First lysozyme pattern",
        sample=COMMISSIONING.samples[0],
        users=COMMISSIONING.team,
        job_id=str(uuid.uuid5(uuid.UUID(plan.job_id), "new instrument")),
    )
