"""Registration: from whatever the catalogue holds to exactly one dataset that lists each file once.

Every call starts by looking, and writes only what is missing, so that it may be repeated after any failure
at any point: a crash between two writes, a time-out after the server stored something, two executions for
one file. What a single request means belongs to ``client``.

The file list is one origdatablock. One that would be larger than a request may be is split into several; the
one with the data file is posted last. So a dataset that lists the data file is complete, and is left as it
is; in one that does not, each file is looked for in all blocks, and those that are missing are posted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter

from scicat_dagster.config.models import IngestionSettings
from scicat_dagster.dataset.build import LARGEST_BODY_BYTES, BuiltDataset
from scicat_dagster.errors import Notice, PermanentError, TransientError
from scicat_dagster.scicat.client import ConflictError, ScicatClient
from scicat_dagster.scicat.errors import RefusedError, UnansweredError
from scicat_dagster.scicat.models import (
    DatasetRecord,
    FileRecord,
    OrigDatablockRecord,
    PostedJob,
    RegisteredDataset,
)
from scicat_dagster.scicat.session import LoginRenewedError

LARGEST_BLOCK_BYTES = LARGEST_BODY_BYTES // 2
"""Larger file lists are split. MongoDB takes 16 MiB at most, too, and a list is larger there than as JSON."""

_POSTS_OF_A_BLOCK = 3
_ROOM_FOR_A_PID = 100
"""In bytes; the server may be the one who makes it."""

_FILES = TypeAdapter(list[FileRecord])


class Registration(BaseModel):
    """What the catalogue holds for a file now, and what of it this call wrote."""

    model_config = ConfigDict(frozen=True)

    pid: str
    created_dataset: bool
    created_origdatablock: bool
    notices: tuple[Notice, ...] = ()
    jobs: tuple[PostedJob, ...] = ()
    """Those of the schema; see ``scicat.jobs``."""

    @property
    def is_new_as_sent(self) -> bool:
        """Whether this call made all of it, and the server's answers show nothing but what was sent."""
        return self.created_dataset and self.created_origdatablock and not self.notices


def register(
    built: BuiltDataset,
    client: ScicatClient,
    settings: IngestionSettings,
    *,
    before_listing: Callable[[], None] = lambda: None,
    most_bytes: int = LARGEST_BLOCK_BYTES,
) -> Registration:
    """Make sure that the catalogue holds the dataset and its file list, in blocks of ``most_bytes`` at most.

    ``before_listing`` is called before a block is posted, and so not for a file that is registered already:
    it makes sure that the listed files are there.

    Raises
    ------
    PermanentError
        The server refuses it; an entry of the file list is too large; the pid belongs to another file; the
        file was registered with another size or checksum; or nothing could tell afterwards whether the file
        had been registered.
    TransientError
        The server could not answer, or another registration of this file seems to be under way. Calling
        again converges.
    """

    def converged(candidates: Sequence[DatasetRecord]) -> Registration:
        existing = _registered_before(built, candidates, client, settings)
        if existing is None:
            return register_new(built, client, settings, before_listing=before_listing, most_bytes=most_bytes)
        return _complete(built, existing, client, before_listing, most_bytes)

    try:
        with client.confirmed_by_write():
            with client.believing_empty_lists():
                candidates = _candidates(built, client, settings)
            return converged(candidates)
    except LoginRenewedError:
        return converged(_candidates(built, client, settings))


def register_new(
    built: BuiltDataset,
    client: ScicatClient,
    settings: IngestionSettings,
    *,
    before_listing: Callable[[], None] = lambda: None,
    most_bytes: int = LARGEST_BLOCK_BYTES,
) -> Registration:
    """The same for a file that is one of the :func:`unregistered`, without looking for it once more.

    Should it have been registered meanwhile, the server refuses its pid, and what there is is completed.
    """
    registration = _create(built, client, settings, before_listing, most_bytes)
    notices = (*registration.notices, *client.left_out(built.dataset))
    return registration.model_copy(update={"notices": notices})


def unregistered(
    files: Iterable[BuiltDataset], client: ScicatClient, settings: IngestionSettings
) -> frozenset[str]:
    """Those of the data files of which the catalogue, asked for all at once, knows nothing by their metadata.

    Only files whose pids we give are among them, because nothing else keeps somebody from registering them
    between the answer and our request. Where the catalogue cannot tell there are none.
    """
    key = settings.check_if_dataset_exists_by_metadata_key
    if not settings.check_if_dataset_exists_by_metadata:
        return frozenset()
    values = {
        built.data_file: _metadata_value(built, key)
        for built in files
        if "pid" in built.dataset and not built.entry
    }
    texts = {file: value for file, value in values.items() if isinstance(value, str) and value}
    times = Counter(texts.values())
    # Two files with one value are looked at one after the other.
    single = {file: value for file, value in texts.items() if times[value] == 1}
    try:
        known = client.metadata_values(key, list(single.values()))
    except TransientError:
        return frozenset()
    return frozenset(file for file, value in single.items() if value not in known)


def _create(
    built: BuiltDataset,
    client: ScicatClient,
    settings: IngestionSettings,
    before_listing: Callable[[], None],
    most_bytes: int,
) -> Registration:
    # First of all: a file list that cannot be posted is refused before anything is written.
    bodies = _bodies(built, list(_our_files(built).values()), most_bytes)
    if "pid" not in built.dataset:
        _confirm_unregistered(built, client, settings)
    try:
        pid = client.create_dataset(built.dataset).pid
    except ConflictError:
        existing = _with_our_pid(built, client, settings)
        return _complete(built, existing, client, before_listing, most_bytes)
    before_listing()
    notices = [notice for body in bodies for notice in _create_first_block(body, pid, client)]
    return Registration(pid=pid, created_dataset=True, created_origdatablock=True, notices=tuple(notices))


def _complete(
    built: BuiltDataset,
    existing: RegisteredDataset,
    client: ScicatClient,
    before_listing: Callable[[], None],
    most_bytes: int,
) -> Registration:
    """Add what a dataset that is there lacks."""
    pid = existing.record.pid
    listing = _listing(existing.blocks, existing.record, built)
    if listing:
        _check_same_content(listing[0], existing.record, built)
        notices = _duplicates(listing, pid)
        return Registration(pid=pid, created_dataset=False, created_origdatablock=False, notices=notices)
    before_listing()
    missing = [entry for path, entry in _our_files(built).items() if path not in existing.listed]
    notices = _add_missing(built, existing, _bodies(built, missing, most_bytes), client)
    return Registration(pid=pid, created_dataset=False, created_origdatablock=True, notices=notices)


def registered_dataset(
    built: BuiltDataset, client: ScicatClient, settings: IngestionSettings
) -> RegisteredDataset | None:
    """The dataset as which the file in hand is registered, with the content that it has now. Writes nothing.

    Raises
    ------
    PermanentError
        As :func:`register`: the pid belongs to another file, or the file has changed since.
    TransientError
        The server could not answer.
    """
    existing = _registered_before(built, _candidates(built, client, settings), client, settings)
    if existing is None and "pid" in built.dataset:
        existing = _visible(str(built.dataset["pid"]), client)
        if existing is not None:
            _check_ours(existing, built, settings)
    if existing is None:
        return None
    for block in _listing(existing.blocks, existing.record, built)[:1]:
        _check_same_content(block, existing.record, built)
    return existing


def _candidates(
    built: BuiltDataset, client: ScicatClient, settings: IngestionSettings
) -> Sequence[DatasetRecord]:
    """The datasets as which this very file may be registered already, under whatever pid.

    They are found by the metadata entry that identifies the measurement, or by folder and name where that is
    not known, as for a file without an announcement, or not to be asked for. Of several datasets of one file
    each is known by its pid alone: they have all of that in common.
    """
    if built.entry:
        return []
    value = _identifier(built, settings)
    if value is not None:
        return client.datasets_with_metadata(settings.check_if_dataset_exists_by_metadata_key, value)
    folder, name = str(built.dataset["sourceFolder"]), str(built.dataset.get("datasetName") or "")
    return client.datasets_named(folder, name) if name else []


def _identifier(built: BuiltDataset, settings: IngestionSettings) -> JsonValue:
    """The value of the entry that identifies the measurement; None where it is not to be looked for."""
    if not settings.check_if_dataset_exists_by_metadata:
        return None
    value = _metadata_value(built, settings.check_if_dataset_exists_by_metadata_key)
    return None if value == "" else value


def _registered_before(
    built: BuiltDataset,
    candidates: Sequence[DatasetRecord],
    client: ScicatClient,
    settings: IngestionSettings,
) -> RegisteredDataset | None:
    """That one of the candidates as which this very file is registered."""
    if _identifier(built, settings) is None:
        return _listing_the_file(built, candidates, client)
    key = settings.check_if_dataset_exists_by_metadata_key
    for record in candidates:
        found = RegisteredDataset(record, client.origdatablocks(record.pid))
        if _is_same_file(found, built, key):
            return found
    if candidates and built.pid_is_derived:
        raise _same_measurement(candidates[0], built, key)
    return None


def _listing_the_file(
    built: BuiltDataset, candidates: Sequence[DatasetRecord], client: ScicatClient
) -> RegisteredDataset | None:
    """That one of some datasets of the file's folder and name that lists it.

    One without a list may be that of another file, whose registration is under way: a campaign's files often
    share folder and title.
    """
    blocks: dict[str, list[OrigDatablockRecord]] = {}
    for block in client.origdatablocks_of([record.pid for record in candidates]):
        blocks.setdefault(block.datasetId, []).append(block)
    found = (RegisteredDataset(record, blocks.get(record.pid, [])) for record in candidates)
    return next((dataset for dataset in found if built.data_file in dataset.listed), None)


def _our_files(built: BuiltDataset) -> dict[str, JsonValue]:
    """The entries of the file list by the files' full paths, the data file first."""
    entries = built.origdatablock["dataFileList"]
    assert isinstance(entries, list)  # noqa: S101 - BuiltDataset always lists files
    folder = PurePosixPath(str(built.dataset["sourceFolder"]))
    return {str(folder / file.path): entry for file, entry in zip(_records(entries), entries, strict=True)}


def _bodies(built: BuiltDataset, entries: Sequence[JsonValue], most_bytes: int) -> list[dict[str, JsonValue]]:
    """Bodies that list these files and are small enough, in the order in which to post them.

    The datasetId is still to be set.
    """
    room = most_bytes - _bytes({**built.origdatablock, "dataFileList": []}) - _ROOM_FOR_A_PID
    parts: list[list[JsonValue]] = []
    left = 0
    for entry in entries:
        needed = _bytes(entry) + len(", ")
        if needed > room:
            raise PermanentError(
                f"An entry of the file list has {needed} bytes, more than there is room for in a request "
                f"({max(room, 0)}).",
                remedy="Shorten the file's path or the dataset's access groups.",
            )
        if needed > left or not parts:
            parts.append([])
            left = room
        parts[-1].append(entry)
        left -= needed
    # Backwards, so that the data file comes last.
    return [{**built.origdatablock, "dataFileList": part, "size": _size(part)} for part in reversed(parts)]


def _create_first_block(body: dict[str, JsonValue], pid: str, client: ScicatClient) -> tuple[Notice, ...]:
    """Add a block to a dataset that we have just created, so that nobody else adds it.

    A server that answers with an error may have stored the block all the same, so that it is looked for
    before it is posted again. After a time-out the request may still be under way: that is for a later call.
    """
    for _ in range(_POSTS_OF_A_BLOCK):
        try:
            stored = client.create_origdatablock({**body, "datasetId": pid})
        except TransientError as error:
            failure = error
        else:
            return _stored_otherwise(body, stored)
        found = _readable(pid, client)
        if found.listed.issuperset(_body_paths(body, found.record)):
            return ()
        if isinstance(failure, UnansweredError):
            break
    raise failure


def _stored_otherwise(body: dict[str, JsonValue], stored: OrigDatablockRecord) -> tuple[Notice, ...]:
    """A notice where the server's answer shows another list than the one that was sent."""
    sent, kept = (
        {(file.path, file.size, file.chk) for file in files}
        for files in (_records(body["dataFileList"]), stored.dataFileList)
    )
    if sent == kept:
        return ()
    lost = f"{len(sent - kept)} of the {len(sent)} files that were sent"
    reason = f"The server answered that in {stored.id} {lost} are not as they were: path, size or checksum."
    return (Notice(subject="origdatablock", reason=reason),)


def _add_missing(
    built: BuiltDataset,
    existing: RegisteredDataset,
    bodies: Sequence[dict[str, JsonValue]],
    client: ScicatClient,
) -> tuple[Notice, ...]:
    """Add the blocks that a dataset lacks; the rule when two registrations do so at once is in here.

    Whoever creates a dataset adds its blocks at once. Somebody else who finds it incomplete waits until no
    request of whoever added the latest part can be under way any more. Should two add a block all the same,
    each looks again: the block that the server created first stays, and who added the other one removes it.
    Where the server forbids that, both are reported.
    """
    check_abandoned(existing.record, existing.blocks, "all of its file list", client)
    notices: tuple[Notice, ...] = ()
    for body in bodies:
        # By somebody else, while we added the one before.
        if not existing.listed.issuperset(_body_paths(body, existing.record)):
            existing, more = _add(built, existing.record, body, client)
            notices += more
    return notices


def check_abandoned(
    record: DatasetRecord, blocks: Sequence[OrigDatablockRecord], lacking: str, client: ScicatClient
) -> None:
    """Make sure that no request of whoever created a dataset can still be about to add what it lacks.

    ``lacking`` names that in the reason.

    Raises
    ------
    TransientError
        The latest of the dataset and these blocks is too young.
    """
    grace = client.longest_under_way_seconds
    moments = [record.createdAt, *(block.createdAt for block in blocks)]
    ages = [max(client.seconds_since(moment), 0.0) for moment in moments if moment is not None]
    age = min(ages, default=grace)
    if age < grace:
        raise TransientError(
            f"The latest part of the dataset {record.pid} was created {age:.0f} s ago, and {lacking} is not "
            "there yet: another registration of this file is under way, or was interrupted.",
            remedy="Nothing to do: it is added when that can no longer be under way.",
            retry_after_seconds=grace - age + 1,
        )


def _add(
    built: BuiltDataset, record: DatasetRecord, body: dict[str, JsonValue], client: ScicatClient
) -> tuple[RegisteredDataset, tuple[Notice, ...]]:
    """Add one block, remove it again where somebody else was first, and say what the dataset has now."""
    # Where it is not answered the failure says how long nobody is to look for the block.
    ours = client.create_origdatablock({**body, "datasetId": record.pid})
    files = _body_paths(body, record)
    # With the data file a block is all that matters; one without it may be removed only if nothing gets lost.
    deciding = {built.data_file} if built.data_file in files else files
    now = RegisteredDataset(record, client.origdatablocks(record.pid))
    before = RegisteredDataset(record, [block for block in now.blocks if _creation(block) < _creation(ours)])
    rivals = [block for block in before.blocks if files & _paths(block.dataFileList, record)]
    if not rivals:
        return now, ()
    if before.listed.issuperset(deciding):
        try:
            client.delete_origdatablock(ours.id)
        except RefusedError:
            pass
        else:
            return now, ()
    return now, _duplicates([*rivals, ours], record.pid)


def _creation(block: OrigDatablockRecord) -> tuple[datetime, str]:
    return block.createdAt or datetime.max.replace(tzinfo=UTC), block.id


def _paths(files: Iterable[FileRecord], record: DatasetRecord) -> set[str]:
    """The full paths of listed files, by the dataset's own folder: the schema's may be another one by now."""
    return {str(PurePosixPath(record.sourceFolder) / file.path) for file in files}


def _body_paths(body: dict[str, JsonValue], record: DatasetRecord) -> set[str]:
    return _paths(_records(body["dataFileList"]), record)


def _records(entries: JsonValue) -> list[FileRecord]:
    return _FILES.validate_python(entries)


def _size(entries: list[JsonValue]) -> int | float:
    return sum(file.size for file in _records(entries))


def _bytes(body: JsonValue) -> int:
    return len(json.dumps(body).encode())


def _confirm_unregistered(built: BuiltDataset, client: ScicatClient, settings: IngestionSettings) -> None:
    """Make sure that the catalogue does not hold a dataset to which nobody but the server gives a pid.

    A pid of ours would be refused the second time; here nothing else prevents a second dataset. A server
    whose database is away answers a list with nothing, after half a minute: so an empty list counts only
    when another one after it is empty as well, and the database was there in between.
    """
    key = settings.check_if_dataset_exists_by_metadata_key
    value = _metadata_value(built, key)
    if not settings.check_if_dataset_exists_by_metadata or value in (None, ""):
        raise PermanentError(
            "The dataset has no pid, and its metadata cannot be looked for, so that a second execution would "
            "register it twice.",
            remedy=f"Set ingestion.check_if_dataset_exists_by_metadata and let the schema assign {key} in "
            "scientific_metadata, or set dataset.allow_dataset_pid.",
        )
    client.check_health()
    if _registered_before(built, _candidates(built, client, settings), client, settings) is not None:
        raise TransientError(
            "The catalogue did not list the dataset of this file a moment ago, and now it does.",
            remedy="Nothing to do: it is looked at again.",
        )


def _with_our_pid(
    built: BuiltDataset, client: ScicatClient, settings: IngestionSettings
) -> RegisteredDataset:
    """The dataset that has our pid, which must be for our file."""
    existing = _readable(str(built.dataset["pid"]), client)
    _check_ours(existing, built, settings)
    return existing


def _check_ours(existing: RegisteredDataset, built: BuiltDataset, settings: IngestionSettings) -> None:
    if not _is_same_file(existing, built, settings.check_if_dataset_exists_by_metadata_key):
        raise _foreign(existing.record, built)


def _readable(pid: str, client: ScicatClient) -> RegisteredDataset:
    """A dataset that exists, with its blocks."""
    existing = _visible(pid, client)
    if existing is None:
        raise TransientError(
            f"There was a dataset {pid} a moment ago, and now there is none.",
            remedy="It is tried again; see who removes datasets if it goes on.",
        )
    return existing


def _visible(pid: str, client: ScicatClient) -> RegisteredDataset | None:
    """A dataset with its blocks, if there is one. Who may not read it would see no blocks at all."""
    try:
        record = client.dataset(pid)
    except RefusedError as refusal:
        raise PermanentError(
            f"The dataset {pid} exists, and this account may not read it, so that nobody can tell here whose "
            "it is and whether its file list is complete.",
            remedy="Give the ingestor's account the right to read the datasets that it creates.",
            details=refusal.details,
        ) from None
    return None if record is None else RegisteredDataset(record, client.origdatablocks(pid))


def _is_same_file(existing: RegisteredDataset, built: BuiltDataset, key: str) -> bool:
    """Whether a dataset of the catalogue is for the file in hand.

    Its file list decides. A dataset that lists nothing, or nothing but our sidecars, was left by a crash
    before its blocks were written: there the pid has to be the one that we would give, if we give one, and
    the folder and the identifying metadata entry have to agree, or the name where that is all there is. One
    with another pid may be that of another file of the same job. A pid that is made of the file's path says
    it all.
    """
    record = existing.record
    if built.data_file in existing.listed:
        return True
    if built.pid_is_derived and record.pid == built.dataset["pid"]:
        return True
    if not existing.listed.issubset(_our_files(built)):
        return False
    if record.sourceFolder.rstrip("/") != str(built.dataset["sourceFolder"]).rstrip("/"):
        return False
    if record.pid != built.dataset.get("pid", record.pid):
        return False
    ours, theirs = _metadata_value(built, key), record.metadata_value(key)
    same_name = record.datasetName == built.dataset.get("datasetName", record.datasetName)
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
    return FileRecord.model_validate(_our_files(built)[built.data_file])


def _duplicates(blocks: Sequence[OrigDatablockRecord], pid: str) -> tuple[Notice, ...]:
    if len(blocks) < 2:
        return ()
    identifiers = ", ".join(block.id for block in blocks)
    reason = f"{len(blocks)} origdatablocks of {pid} list this file ({identifiers}); remove all but one."
    return (Notice(subject="origdatablocks", reason=reason),)


def _foreign(record: DatasetRecord, built: BuiltDataset) -> PermanentError:
    return PermanentError(
        f"The pid {record.pid} belongs to a dataset of another file.",
        remedy="Give the two files different pids (see the schema's pid), then try the file again.",
        details={
            "in the catalogue": f"{record.datasetName} in {record.sourceFolder}",
            "this file": built.data_file,
        },
    )


def _same_measurement(record: DatasetRecord, built: BuiltDataset, key: str) -> PermanentError:
    return PermanentError(
        f"The dataset {record.pid} has the same {key}, and does not list this file.",
        remedy="If the file was moved, correct the dataset's sourceFolder and file list; if one job writes "
        f"several files, let the schema assign the pid, or give {key} another value for each file.",
        details={
            "in the catalogue": f"{record.datasetName} in {record.sourceFolder}",
            "this file": built.data_file,
        },
    )


def _metadata_value(built: BuiltDataset, key: str) -> JsonValue:
    metadata = built.dataset.get("scientificMetadata")
    entry = metadata.get(key) if isinstance(metadata, dict) else None
    return entry.get("value") if isinstance(entry, dict) else None
