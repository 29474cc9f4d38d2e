"""The sample of a file: its name and proposal, and finding it in the catalogue by them.

Making one that is not there belongs to :mod:`scicat_dagster.usecases.samples`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, JsonValue

from scicat_dagster.errors import Notice, bounded
from scicat_dagster.files.reading import Read
from scicat_dagster.files.values import Reader
from scicat_dagster.schemas.models import SampleAttachment, Unusable
from scicat_dagster.schemas.variables import Catalogue, Evaluation, notice_of

_NAMESPACE = uuid.UUID("6f0a4d3c-5f0b-5c1e-8d4e-0b8c2f6a9e17")

_LONGEST_NAME = 500


class Sample(BaseModel):
    """A sample as a file knows it. Two files that name both alike mean the same sample."""

    model_config = ConfigDict(frozen=True)

    name: str
    proposal_id: str

    @property
    def id(self) -> str:
        """The id that it gets: always the same, so that the catalogue refuses it a second time."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.proposal_id}\0{self.name}"))

    def body(self, access_groups: Sequence[str]) -> dict[str, JsonValue]:
        """The sample as SciCat 5.2 wants it; its proposal owns it, as with scicat-ingestor."""
        return {
            "sampleId": self.id,
            "sampleName": self.name,
            "description": self.name,
            "proposalId": self.proposal_id,
            "ownerGroup": self.proposal_id,
            "accessGroups": list(dict.fromkeys([self.proposal_id, *access_groups])),
            "isPublished": False,
        }


Maker = Callable[[Sample], str]
"""Makes sure that the catalogue has a sample; the answer is its id. Raises LookupError where it cannot."""


class SampleSource(Catalogue, Protocol):
    """What extraction asks the catalogue: addresses that schemas name, and the samples of a proposal."""

    def samples_of_proposal(self, proposal_id: str) -> list[dict[str, Any]]:
        """The samples of a proposal, as the catalogue has them."""


def sample_reads(wanted: SampleAttachment | Unusable) -> tuple[Read, ...]:
    if isinstance(wanted, Unusable) or not wanted.query_sample_name:
        return ()
    return places_of(wanted)


def places_of(wanted: SampleAttachment) -> tuple[Read, Read]:
    """Where a file names its sample, and its proposal."""
    return Read(path=wanted.sample_name_path), Read(path=wanted.proposal_id_path)


def find_sample_id(
    wanted: SampleAttachment | Unusable,
    nexus: Reader,
    catalogue: SampleSource,
    evaluation: Evaluation,
    make: Maker | None = None,
) -> str | None:
    """The sampleId of the one sample of the file's proposal that has the file's sample name.

    Where there is none, ``make`` makes it, if there is one.
    """
    if isinstance(wanted, Unusable):
        evaluation.notices.append(Notice(subject="sample_attachment", reason=wanted.reason))
        return None
    if not wanted.query_sample_name:
        return None
    try:
        name = str(nexus.read_one(wanted.sample_name_path).value)
        proposal_id = str(nexus.read_one(wanted.proposal_id_path).value)
        samples = samples_called(name, catalogue.samples_of_proposal(proposal_id))
        if not samples and make is not None:
            return make(sample_in(nexus, wanted))
        if len(samples) != 1:
            raise LookupError(f"{len(samples)} samples of proposal {proposal_id} are named {name!r}.")
    except (LookupError, ValueError, TypeError) as error:
        evaluation.notices.append(notice_of("sample_attachment", evaluation.why(error)))
        return None
    return str(samples[0].get("sampleId"))


def sample_in(nexus: Reader, wanted: SampleAttachment) -> Sample:
    """The sample that a file names.

    Raises
    ------
    LookupError
        It names none, or no proposal.
    ValueError
        What it says cannot be a name.
    """
    name, proposal = places_of(wanted)
    return Sample(name=_text_at(nexus, name.path), proposal_id=_text_at(nexus, proposal.path))


def _text_at(nexus: Reader, path: str) -> str:
    text = str(nexus.read_one(path).value)
    if not text.strip():
        raise LookupError(f"There is no text at {path}.")
    if len(text) > _LONGEST_NAME or not text.isprintable():
        raise ValueError(f"The text at {path} is not a name: {bounded(repr(text))}")
    return text


def samples_called(name: str, samples: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The samples with a name, by the first of the places for it at which there is one."""
    for name_of in (_sample_name, _description, _characteristics_name):
        if found := [sample for sample in samples if name_of(sample) == name]:
            return found
    return ()


def _sample_name(sample: dict[str, Any]) -> Any:
    # Mandatory since SciCat 5.2, unknown before.
    return sample.get("sampleName")


def _description(sample: dict[str, Any]) -> Any:
    return sample.get("description")


def _characteristics_name(sample: dict[str, Any]) -> Any:
    characteristics = sample.get("sampleCharacteristics")
    named = characteristics.get("name") if isinstance(characteristics, dict) else None
    return named.get("value") if isinstance(named, dict) else named
