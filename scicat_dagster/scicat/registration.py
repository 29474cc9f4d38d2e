"""Registration: from whatever the catalogue holds to exactly one dataset with one origdatablock.

Every call starts by looking, and writes only what is missing, so that it may be repeated after any failure
at any point: a crash between the two writes, a time-out after the server stored something, two executions
for one file. What a single request means belongs to ``client``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict, JsonValue

from scicat_dagster.dataset import BuiltDataset
from scicat_dagster.errors import Notice, PermanentError, TransientError
from scicat_dagster.scicat.client import ConflictError, ScicatClient
from scicat_dagster.scicat.errors import RefusedError
from scicat_dagster.scicat.models import DatasetRecord, FileRecord, OrigDatablockRecord
from scicat_dagster.settings import IngestionSettings

_POSTS_OF_A_BLOCK = 3


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
        The server could not answer, or another registration of this file seems to be under way. Calling
        again converges.
    """
    existing = _registered_before(built, client, settings)
    if existing is None:
        _check_recognisable(built, settings)
        try:
            pid = client.create_dataset(built.dataset).pid
        except ConflictError:
            existing = _with_our_pid(built, client, settings)
        else:
            _create_first_block(built, pid, client)
            return Registration(pid=pid, created_dataset=True, created_origdatablock=True)
    listing = _listing(existing.blocks, existing.record, built)
    if listing:
        _check_same_content(listing[0], existing.record, built)
        notices = _duplicates(listing, existing.record.pid)
        return Registration(
            pid=existing.record.pid, created_dataset=False, created_origdatablock=False, notices=notices
        )
    notices = _add_missing_block(built, existing.record, client)
    return Registration(
        pid=existing.record.pid, created_dataset=False, created_origdatablock=True, notices=notices
    )


@dataclass(frozen=True)
class _Existing:
    """A dataset that the catalogue holds for our file, with its blocks."""

    record: DatasetRecord
    blocks: Sequence[OrigDatablockRecord]


def _registered_before(
    built: BuiltDataset, client: ScicatClient, settings: IngestionSettings
) -> _Existing | None:
    """The dataset as which this very file is registered already, found by its metadata."""
    key = settings.check_if_dataset_exists_by_metadata_key
    value = _metadata_value(built, key)
    if not settings.check_if_dataset_exists_by_metadata or value in (None, ""):
        return None
    for record in client.datasets_with_metadata(key, value):
        found = _Existing(record, client.origdatablocks(record.pid))
        if _is_same_file(found, built, key):
            return found
    return None


def _create_first_block(built: BuiltDataset, pid: str, client: ScicatClient) -> None:
    """Add the block to a dataset that we have just created, so that nobody else adds it.

    A server that answers with an error may have stored the block all the same, so that it is looked for
    before it is posted again. After a time-out the request may still be under way: that is for a later call.
    """
    for _ in range(_POSTS_OF_A_BLOCK):
        try:
            client.create_origdatablock({**built.origdatablock, "datasetId": pid})
        except TransientError as error:
            failure = error
        else:
            return
        if _readable(pid, client).blocks:
            return
        if "status" not in failure.details:
            break
    raise failure


def _add_missing_block(
    built: BuiltDataset, record: DatasetRecord, client: ScicatClient
) -> tuple[Notice, ...]:
    """Add the block that a dataset lacks; the rule when two registrations do so at once is in here.

    Whoever creates a dataset adds its block at once. Somebody else who finds it without one waits until no
    request of the creator can be under way any more. Should two add it all the same, each looks again: the
    block that the server created first stays, and who added the other one removes it. Where the server
    forbids that, both are reported.
    """
    grace = 1.5 * client.timeout_seconds
    age = grace if record.createdAt is None else client.seconds_since(record.createdAt)
    if age < grace:
        raise TransientError(
            f"The dataset {record.pid} was created {age:.0f} s ago and has no origdatablock yet: another "
            "registration of this file is under way, or was interrupted.",
            remedy="Nothing to do: it is completed when that can no longer be under way.",
            retry_after_seconds=grace - age + 1,
        )
    try:
        ours = client.create_origdatablock({**built.origdatablock, "datasetId": record.pid})
    except TransientError as error:
        if "status" not in error.details:
            # Our request may still be under way; nobody is to look for its block before that is over.
            error.retry_after_seconds = grace
        raise
    listing = sorted(
        _listing(client.origdatablocks(record.pid), record, built),
        key=lambda block: (block.createdAt or datetime.max.replace(tzinfo=UTC), block.id),
    )
    if len(listing) < 2 or listing[0].id == ours.id:
        return ()
    try:
        client.delete_origdatablock(ours.id)
    except RefusedError:
        return _duplicates(listing, record.pid)
    return ()


def _check_recognisable(built: BuiltDataset, settings: IngestionSettings) -> None:
    key = settings.check_if_dataset_exists_by_metadata_key
    if "pid" in built.dataset:
        return
    if not settings.check_if_dataset_exists_by_metadata or _metadata_value(built, key) in (None, ""):
        raise PermanentError(
            "The dataset has no pid, and its metadata cannot be looked for, so that a second execution would "
            "register it twice.",
            remedy=f"Set ingestion.check_if_dataset_exists_by_metadata and let the schema assign {key} in "
            "scientific_metadata, or set dataset.allow_dataset_pid.",
        )


def _with_our_pid(built: BuiltDataset, client: ScicatClient, settings: IngestionSettings) -> _Existing:
    """The dataset that has our pid, which must be for our file."""
    existing = _readable(str(built.dataset["pid"]), client)
    if not _is_same_file(existing, built, settings.check_if_dataset_exists_by_metadata_key):
        raise _foreign(existing.record, built)
    return existing


def _readable(pid: str, client: ScicatClient) -> _Existing:
    """A dataset that exists, with its blocks. An account that may not read it would see no blocks at all."""
    try:
        record = client.dataset(pid)
    except RefusedError as refusal:
        raise PermanentError(
            f"The dataset {pid} exists, and this account may not read it, so that nobody can tell here whose "
            "it is and whether its file list is complete.",
            remedy="Give the ingestor's account the right to read the datasets that it creates.",
            details=refusal.details,
        ) from None
    if record is None:
        raise TransientError(
            f"There was a dataset {pid} a moment ago, and now there is none.",
            remedy="It is tried again; see who removes datasets if it goes on.",
        )
    return _Existing(record, client.origdatablocks(pid))


def _is_same_file(existing: _Existing, built: BuiltDataset, key: str) -> bool:
    """Whether a dataset of the catalogue is for the file in hand.

    Its file list decides. A dataset without one was left by a crash before its block was written: there the
    folder and the identifying metadata entry have to agree, and the name where that is all there is or where
    the pid is not the one that we would give.
    """
    record = existing.record
    if existing.blocks:
        return bool(_listing(existing.blocks, record, built))
    if record.sourceFolder.rstrip("/") != str(built.dataset["sourceFolder"]).rstrip("/"):
        return False
    same_name = record.datasetName == built.dataset.get("datasetName", record.datasetName)
    if record.pid != built.dataset.get("pid", record.pid):
        return same_name
    ours, theirs = _metadata_value(built, key), record.metadata_value(key)
    return bool(ours == theirs) if ours or theirs else same_name


def _listing(
    blocks: Sequence[OrigDatablockRecord], record: DatasetRecord, built: BuiltDataset
) -> list[OrigDatablockRecord]:
    """Those of a dataset's blocks that list the file in hand."""
    return [block for block in blocks if _entry(block, record, built) is not None]


def _entry(block: OrigDatablockRecord, record: DatasetRecord, built: BuiltDataset) -> FileRecord | None:
    # The dataset's own folder: the schema's may be another one by now.
    folder = PurePosixPath(record.sourceFolder)
    for file in block.dataFileList:
        if str(folder / file.path) == built.data_file:
            return file
    return None


def _check_same_content(block: OrigDatablockRecord, record: DatasetRecord, built: BuiltDataset) -> None:
    registered = _entry(block, record, built)
    ours = _our_entry(built)
    if registered is None:
        return
    same_algorithm = block.chkAlg == built.origdatablock.get("chkAlg")
    checksums_differ = bool(same_algorithm and registered.chk and ours.chk and registered.chk != ours.chk)
    if registered.size != ours.size or checksums_differ:
        raise PermanentError(
            f"{built.data_file} is registered as {record.pid}, but it has changed since.",
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


def _foreign(record: DatasetRecord, built: BuiltDataset) -> PermanentError:
    return PermanentError(
        f"The pid {record.pid} belongs to a dataset of another file.",
        remedy="Give the two files different pids (see the schema's pid), then re-execute the run.",
        details={
            "in the catalogue": f"{record.datasetName} in {record.sourceFolder}",
            "this file": built.data_file,
        },
    )


def _metadata_value(built: BuiltDataset, key: str) -> JsonValue:
    metadata = built.dataset.get("scientificMetadata")
    entry = metadata.get(key) if isinstance(metadata, dict) else None
    return entry.get("value") if isinstance(entry, dict) else None
