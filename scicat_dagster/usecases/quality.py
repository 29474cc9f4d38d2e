"""Judging what was registered: is what the catalogue now holds of some files complete and right?

Nothing here stops a file; what must not be registered at all is refused by ``dataset`` and ``registration``.
How a verdict is shown is the orchestration's business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, JsonValue

from scicat_dagster.config.models import ApiEndpoints
from scicat_dagster.dataset.build import BuiltDataset
from scicat_dagster.dataset.fields import RECOMMENDED
from scicat_dagster.errors import Notice, TransientError
from scicat_dagster.schemas.variables import Catalogue
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.errors import RefusedError
from scicat_dagster.scicat.models import (
    DatasetRecord,
    FileRecord,
    OrigDatablockRecord,
    RegisteredDataset,
)


class Verdict(BaseModel):
    """One question about the files of a run and its answer; ``findings`` are what is not as it should be."""

    model_config = ConfigDict(frozen=True)

    question: str
    findings: tuple[Notice, ...] = ()
    unanswered: str = ""
    """Why nobody can tell, where that is so."""

    @property
    def is_good(self) -> bool:
        """Whether everything is as it should be."""
        return not self.findings and not self.unanswered


CATALOGUE_AGREES = "catalogue_agrees"

QUESTIONS: Mapping[str, str] = {
    "variables_resolved": "Every variable and field of the schema could be evaluated.",
    "fields_present": f"The recommended fields are filled: {', '.join(RECOMMENDED)}.",
    CATALOGUE_AGREES: "The catalogue lists each file once, with the size and checksum that it has on disk, "
    "and each dataset has the size and number of files of its origdatablocks.",
    "references_known": "The proposal and the instrument that the dataset names are in the catalogue.",
}


def judge(
    registered: Mapping[str, BuiltDataset],
    client: ScicatClient,
    answers: Catalogue,
    endpoints: ApiEndpoints,
    questions: Collection[str] = tuple(QUESTIONS),
) -> Iterator[Verdict]:
    """The verdicts on the datasets that were registered, by pid. Asks the catalogue; never raises.

    ``answers`` is whom to ask for proposals and instruments, which other files name, too.
    """
    built = list(registered.values())
    found: Mapping[str, Callable[[], Iterator[Notice]]] = {
        "variables_resolved": lambda: _unresolved(built),
        "fields_present": lambda: _empty_fields(built),
        CATALOGUE_AGREES: lambda: _disagreements(registered, client),
        "references_known": lambda: _unknown_references(built, answers, endpoints),
    }
    for question, find in found.items():
        if question in questions:
            yield _asked(question, find)


def _asked(question: str, find: Callable[[], Iterator[Notice]]) -> Verdict:
    try:
        return Verdict(question=question, findings=tuple(find()))
    except TransientError as error:
        # The file is registered; that the catalogue went away afterwards is no reason to fail it.
        return Verdict(question=question, unanswered=str(error))


def _unresolved(built: Sequence[BuiltDataset]) -> Iterator[Notice]:
    for dataset in built:
        for notice in dataset.notices:
            yield Notice(subject=f"{_name(dataset)}: {notice.subject}", reason=notice.reason)


def _empty_fields(built: Sequence[BuiltDataset]) -> Iterator[Notice]:
    for dataset in built:
        for field in RECOMMENDED:
            if not dataset.dataset.get(field):
                yield Notice(subject=f"{_name(dataset)}: {field}", reason="The schema gives it no value.")


def _disagreements(registered: Mapping[str, BuiltDataset], client: ScicatClient) -> Iterator[Notice]:
    blocks: dict[str, list[OrigDatablockRecord]] = {}
    for block in client.origdatablocks_of(list(registered)):
        blocks.setdefault(block.datasetId, []).append(block)
    for pid, built in registered.items():
        yield from _wrongly_listed(built, blocks.get(pid, []))
    for record in _records(list(registered), client):
        if record.pid in registered:
            sums = RegisteredDataset(record, blocks.get(record.pid, [])).wrong_sums
            yield from _wrong_sums(registered[record.pid], record, sums)


def _records(pids: Sequence[str], client: ScicatClient) -> Iterable[DatasetRecord]:
    """The datasets that this account may read."""
    if len(pids) != 1:
        return client.datasets_called(pids)
    # One request, where a list takes two: that it is empty says nothing by itself.
    try:
        record = client.dataset(pids[0])
    except RefusedError:
        return ()
    return () if record is None else (record,)


def _wrongly_listed(built: BuiltDataset, blocks: Sequence[OrigDatablockRecord]) -> Iterator[Notice]:
    ours = _data_file(built)
    listed = [file for block in blocks for file in block.dataFileList if _is_the_data_file(file, built)]
    if len(listed) != 1:
        yield Notice(subject=_name(built), reason=f"The catalogue lists it {len(listed)} times.")
    for file in listed:
        if file.size != ours.size or (file.chk and ours.chk and file.chk != ours.chk):
            yield Notice(
                subject=_name(built),
                reason=f"The catalogue has {file.size} bytes, {file.chk or 'no checksum'}; "
                f"the file has {ours.size} bytes, {ours.chk or 'no checksum'}.",
            )


def _wrong_sums(
    built: BuiltDataset, record: DatasetRecord, sums: Mapping[str, int | float]
) -> Iterator[Notice]:
    for field, value in sums.items():
        yield Notice(
            subject=f"{_name(built)}: {field}",
            reason=f"The dataset has {getattr(record, field)}, its origdatablocks have {value} together. "
            "`scicat-dagster reingest --update` corrects it.",
        )


def _unknown_references(
    built: Sequence[BuiltDataset], answers: Catalogue, endpoints: ApiEndpoints
) -> Iterator[Notice]:
    for field, endpoint in (("proposalId", endpoints.proposals), ("instrumentId", endpoints.instruments)):
        named = {str(dataset.dataset[field]) for dataset in built if dataset.dataset.get(field)}
        for identifier in sorted(named):
            try:
                answers.fetch(f"{endpoint}/{quote(identifier, safe='')}")
            except LookupError as error:
                yield Notice(subject=f"{field} {identifier}", reason=str(error))


def _is_the_data_file(file: FileRecord, built: BuiltDataset) -> bool:
    folder = PurePosixPath(str(built.dataset.get("sourceFolder", "")))
    return str(folder / file.path) == built.data_file


def _data_file(built: BuiltDataset) -> FileRecord:
    entries: JsonValue = built.origdatablock.get("dataFileList")
    assert isinstance(entries, list)  # noqa: S101 - build_dataset puts the data file first
    return FileRecord.model_validate(entries[0])


def _name(built: BuiltDataset) -> str:
    return PurePosixPath(built.data_file).name
