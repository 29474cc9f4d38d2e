"""Registration: from whatever the catalogue holds to exactly one dataset with one origdatablock.

Every call starts by looking, and writes only what is missing, so that it may be repeated after any failure
at any point: a crash between the two writes, a time-out after the server stored something, two executions
for one file. What a single request means belongs to ``client``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict, JsonValue

from scicat_dagster.dataset import BuiltDataset
from scicat_dagster.errors import Notice, PermanentError
from scicat_dagster.scicat.client import ConflictError, ScicatClient
from scicat_dagster.scicat.errors import RefusedError
from scicat_dagster.scicat.models import DatasetRecord, FileRecord, OrigDatablockRecord
from scicat_dagster.settings import IngestionSettings


class Registration(BaseModel):
    """What the catalogue holds for a file now, and what of it this call wrote."""

    model_config = ConfigDict(frozen=True)

    pid: str
    created_dataset: bool
    created_origdatablock: bool
    notices: tuple[Notice, ...] = ()


def register(built: BuiltDataset, client: ScicatClient, settings: IngestionSettings) -> Registration:
    """Make sure that the catalogue holds the dataset and its origdatablock.

    Raises
    ------
    PermanentError
        The server refuses it; the pid belongs to another file; the file was registered with another size or
        checksum; or nothing could tell afterwards whether the file had been registered.
    TransientError
        The server could not answer. Calling again converges.
    """
    key = settings.check_if_dataset_exists_by_metadata_key
    pid = _registered_before(built, client, settings)
    created_dataset = False
    if pid is None:
        _check_recognisable(built, key)
        try:
            pid = client.create_dataset(built.dataset).pid
            created_dataset = True
        except ConflictError:
            pid = str(built.dataset["pid"])
            _check_ours(pid, built, client, key)
    # A dataset that was created just now has no blocks, and some accounts may not read what they create.
    blocks = [] if created_dataset else _listing(client.origdatablocks(pid), built)
    if not blocks:
        client.create_origdatablock({**built.origdatablock, "datasetId": pid})
    else:
        _check_same_content(blocks[0], built, pid)
    return Registration(
        pid=pid,
        created_dataset=created_dataset,
        created_origdatablock=not blocks,
        notices=_duplicates(blocks, pid),
    )


def _registered_before(built: BuiltDataset, client: ScicatClient, settings: IngestionSettings) -> str | None:
    """The pid under which this very file is registered already, found by its metadata."""
    key = settings.check_if_dataset_exists_by_metadata_key
    value = _metadata_value(built, key)
    if not settings.check_if_dataset_exists_by_metadata or value in (None, ""):
        return None
    for record in client.datasets_with_metadata(key, value):
        if _is_same_file(record, client.origdatablocks(record.pid), built, key):
            return record.pid
    return None


def _check_recognisable(built: BuiltDataset, key: str) -> None:
    if "pid" not in built.dataset and _metadata_value(built, key) in (None, ""):
        raise PermanentError(
            f"The dataset has neither a pid nor the metadata entry {key}, so that a second execution would "
            "register it twice.",
            remedy=f"Let the schema assign {key} in scientific_metadata, or set dataset.allow_dataset_pid.",
        )


def _check_ours(pid: str, built: BuiltDataset, client: ScicatClient, key: str) -> None:
    """Make sure that the dataset which has our pid is for our file."""
    try:
        record = client.dataset(pid)
    except RefusedError as refusal:
        raise PermanentError(
            f"There is a dataset {pid} already, and this account may not read it, so nobody can tell here "
            "whether it is for this file.",
            remedy="Give the ingestor's account the right to read the datasets that it creates.",
            details=refusal.details,
        ) from None
    if record is None or not _is_same_file(record, client.origdatablocks(pid), built, key):
        raise _foreign(pid, record, built)


def _is_same_file(
    record: DatasetRecord, blocks: Sequence[OrigDatablockRecord], built: BuiltDataset, key: str
) -> bool:
    """Whether a dataset of the catalogue is for the file in hand.

    Its file list decides. A dataset without one was left by a crash before its block was written: there the
    folder and the identifying metadata entry (or, without one, the name) have to agree.
    """
    if blocks:
        folder = PurePosixPath(record.sourceFolder)
        return any(
            str(folder / file.path) == built.data_file for block in blocks for file in block.dataFileList
        )
    ours, theirs = _metadata_value(built, key), record.metadata_value(key)
    if record.sourceFolder.rstrip("/") != str(built.dataset["sourceFolder"]).rstrip("/"):
        return False
    if ours or theirs:
        return bool(ours == theirs)
    return record.datasetName == built.dataset.get("datasetName", record.datasetName)


def _listing(blocks: Sequence[OrigDatablockRecord], built: BuiltDataset) -> list[OrigDatablockRecord]:
    """Those of a dataset's blocks that list the file in hand."""
    return [block for block in blocks if _entry(block, built) is not None]


def _entry(block: OrigDatablockRecord, built: BuiltDataset) -> FileRecord | None:
    folder = PurePosixPath(str(built.dataset["sourceFolder"]))
    for file in block.dataFileList:
        if str(folder / file.path) == built.data_file:
            return file
    return None


def _check_same_content(block: OrigDatablockRecord, built: BuiltDataset, pid: str) -> None:
    registered = _entry(block, built)
    ours = _our_entry(built)
    if registered is None:
        return
    same_algorithm = block.chkAlg == built.origdatablock.get("chkAlg")
    checksums_differ = bool(same_algorithm and registered.chk and ours.chk and registered.chk != ours.chk)
    if registered.size != ours.size or checksums_differ:
        raise PermanentError(
            f"{built.data_file} is registered as {pid}, but it has changed since.",
            remedy="Find out which content is right; the catalogue was left as it is.",
            details={
                "registered": f"{registered.size} bytes, {registered.chk or 'no checksum'}",
                "on disk": f"{ours.size} bytes, {ours.chk or 'no checksum'}",
            },
        )


def _our_entry(built: BuiltDataset) -> FileRecord:
    listed = built.origdatablock["dataFileList"]
    assert isinstance(listed, list)  # noqa: S101 - BuiltDataset always lists the data file first
    return FileRecord.model_validate(listed[0])


def _duplicates(blocks: Sequence[OrigDatablockRecord], pid: str) -> tuple[Notice, ...]:
    if len(blocks) < 2:
        return ()
    identifiers = ", ".join(block.id for block in blocks)
    reason = f"{len(blocks)} origdatablocks of {pid} list this file ({identifiers}); remove all but one."
    return (Notice(subject="origdatablocks", reason=reason),)


def _foreign(pid: str, record: DatasetRecord | None, built: BuiltDataset) -> PermanentError:
    theirs = f"{record.datasetName} in {record.sourceFolder}" if record else "a dataset that is gone again"
    return PermanentError(
        f"The pid {pid} belongs to a dataset of another file.",
        remedy="Give the two files different pids (see the schema's pid), then re-execute the run.",
        details={"in the catalogue": theirs, "this file": built.data_file},
    )


def _metadata_value(built: BuiltDataset, key: str) -> JsonValue:
    metadata = built.dataset.get("scientificMetadata")
    entry = metadata.get(key) if isinstance(metadata, dict) else None
    return entry.get("value") if isinstance(entry, dict) else None
