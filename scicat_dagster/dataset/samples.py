"""Finding the sample of a file in the catalogue, by its name and proposal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from scicat_dagster.errors import Notice
from scicat_dagster.files.reading import Read
from scicat_dagster.files.values import Reader
from scicat_dagster.schemas.models import SampleAttachment, Unusable
from scicat_dagster.schemas.variables import Catalogue, Evaluation, notice_of


class SampleSource(Catalogue, Protocol):
    """What extraction asks the catalogue: addresses that schemas name, and the samples of a proposal."""

    def samples_of_proposal(self, proposal_id: str) -> list[dict[str, Any]]:
        """The samples of a proposal, as the catalogue has them."""


def sample_reads(wanted: SampleAttachment | Unusable) -> tuple[Read, ...]:
    if isinstance(wanted, Unusable) or not wanted.query_sample_name:
        return ()
    return Read(path=wanted.sample_name_path), Read(path=wanted.proposal_id_path)


def find_sample_id(
    wanted: SampleAttachment | Unusable, nexus: Reader, catalogue: SampleSource, evaluation: Evaluation
) -> str | None:
    """The sampleId of the one sample of the file's proposal that has the file's sample name."""
    if isinstance(wanted, Unusable):
        evaluation.notices.append(Notice(subject="sample_attachment", reason=wanted.reason))
        return None
    if not wanted.query_sample_name:
        return None
    try:
        name = str(nexus.read_one(wanted.sample_name_path).value)
        proposal_id = str(nexus.read_one(wanted.proposal_id_path).value)
        samples = _samples_called(name, catalogue.samples_of_proposal(proposal_id))
        if len(samples) != 1:
            raise LookupError(f"{len(samples)} samples of proposal {proposal_id} are named {name!r}.")
    except (LookupError, ValueError, TypeError) as error:
        evaluation.notices.append(notice_of("sample_attachment", evaluation.why(error)))
        return None
    return str(samples[0].get("sampleId"))


def _samples_called(name: str, samples: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
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
