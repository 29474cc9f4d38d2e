"""Samples: what a file that may still be written names, and making each sample once in the catalogue.

SciCat takes every sample that it is sent under a new id. Ours is derived from proposal and name, and the
server refuses it a second time: whoever posts it at the same moment, or again after an answer that was lost,
makes no second one. Samples that others made are known by their name.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from scicat_dagster.config.models import Settings
from scicat_dagster.dataset.samples import Sample, places_of, sample_in, samples_called
from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.files.reading import Contents, read_growing
from scicat_dagster.isolation import LIMITS, Limits
from scicat_dagster.schemas.loading import SchemaCollection
from scicat_dagster.schemas.models import SampleAttachment
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.errors import RefusedError


class MadeSample(BaseModel):
    """What became of the sample of a file; ``reason`` where there is none."""

    model_config = ConfigDict(frozen=True)

    state: Literal["made", "was there", "would be made", "none"]
    sample: Sample | None = None
    id: str = ""
    reason: str = ""


def sample_of_run(
    path: Path,
    schemas: SchemaCollection,
    settings: Settings,
    sleep: Callable[[float], None] = time.sleep,
    *,
    limits: Limits = LIMITS,
) -> Sample | str:
    """The sample that a file names which may still be written, or why there is none.

    The file is looked at as many times, and as far apart, as the configuration says, because its writer may
    not have begun. One that opens and names no sample in the end has none: measurements of an empty beam do.

    Raises
    ------
    NotReadyError
        It is not there, or cannot be read yet.
    TransientError
        The storage failed.
    PermanentError
        As for :func:`scicat_dagster.files.reading.look_at`.
    """
    wanted = places_in(schemas, str(path))
    handling = settings.ingestion.file_handling
    for delay in handling.retry_delays():
        try:
            return sample_in(_read(path, wanted, handling.data_directory, limits), wanted)
        except (TransientError, LookupError, ValueError):
            sleep(delay)
    try:
        return sample_in(_read(path, wanted, handling.data_directory, limits), wanted)
    except (LookupError, ValueError) as error:
        return str(error)


def places_in(schemas: SchemaCollection, path: str) -> SampleAttachment:
    """Where the files of a path name their sample: as their schema says, or else as NeXus and upstream do."""
    try:
        wanted = schemas.select(path).sample_attachment
    except PermanentError:
        return SampleAttachment()
    return wanted if isinstance(wanted, SampleAttachment) else SampleAttachment()


def _read(path: Path, wanted: SampleAttachment, data_directory: str, limits: Limits) -> Contents:
    return read_growing(path, places_of(wanted), data_directory=data_directory, limits=limits)


def look_for(sample: Sample, client: ScicatClient) -> MadeSample | None:
    """The sample that the catalogue has, whoever made it; None where there is none.

    Raises
    ------
    PermanentError
        This account may not ask for samples.
    TransientError
        The server could not answer.
    """
    try:
        found = samples_called(sample.name, client.samples_of_proposal(sample.proposal_id))
    except LookupError as error:
        raise PermanentError(f"The samples cannot be looked for. {error}", remedy=_ASK_FOR_RIGHT) from None
    if found:
        return MadeSample(state="was there", sample=sample, id=str(found[0].get("sampleId")))
    # It is not in the list where this account may create for any group, and read of its own only.
    if client.has_sample(sample.id):
        return MadeSample(state="was there", sample=sample, id=sample.id)
    return None


def make_sample(sample: Sample, client: ScicatClient, settings: Settings) -> MadeSample:
    """Make sure that the catalogue has a sample, once. Calling again converges.

    Raises
    ------
    PermanentError
        The server refuses it.
    TransientError
        The server could not answer; it may have made the sample all the same.
    """
    if (found := look_for(sample, client)) is not None:
        return found
    try:
        client.create_sample(sample.body(settings.dataset.default_access_groups))
    except RefusedError as refusal:
        what = f"The sample {sample.name!r} of proposal {sample.proposal_id} is not made. {refusal.what}"
        raise PermanentError(what, remedy=_ASK_FOR_RIGHT, details=refusal.details) from None
    except TransientError:
        # Its id is taken since we looked, or it was stored and only the answer was lost.
        if not client.has_sample(sample.id):
            raise
        return MadeSample(state="was there", sample=sample, id=sample.id)
    return MadeSample(state="made", sample=sample, id=sample.id)


_ASK_FOR_RIGHT = (
    "Let the ingestor's account create samples for every group in SciCat (SAMPLE_PRIVILEGED_GROUPS), then "
    "try the file again."
)
