"""The picture of each dataset: drawn from the file, attached once, and replaced when the file is reingested.

SciCat takes every attachment that it is sent, also the same one again. Ours are known by the digest that they
carry inside (``files.thumbnail_models.digest_in``): whatever people attach is left alone. API v4 lets us
choose an attachment's id, and refuses a second one of that id; in v3 nobody posts while somebody else may be
about to.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from scicat_dagster.config.models import Settings
from scicat_dagster.dataset.build import BuiltDataset
from scicat_dagster.dataset.ingestion import ExtractedMetadata
from scicat_dagster.errors import IngestionError, Notice, PermanentError, TransientError
from scicat_dagster.files.thumbnail_models import Drawn, Thumbnail, Wanted, digest_in
from scicat_dagster.files.thumbnails import draw
from scicat_dagster.schemas.models import PreviewDefinition, Unusable
from scicat_dagster.schemas.rendering import render
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.correction import Change
from scicat_dagster.scicat.dialects import Attachment
from scicat_dagster.scicat.errors import UnansweredError
from scicat_dagster.scicat.models import AttachmentRecord
from scicat_dagster.scicat.registration import Registration, check_abandoned

FIELD = "preview"
"""What a picture is called among the differences of a dataset, and among what failed."""

_NAMESPACE = uuid.UUID("0b1d2e5c-4d3a-5f5e-9a51-6c1f7e0f8a44")

State = Literal["attached", "was there", "refused", "unanswered", "none"]


class DatasetPreview(BaseModel):
    """What became of the picture of a dataset; ``reason`` where there is none, or it is not attached."""

    model_config = ConfigDict(frozen=True)

    state: State
    thumbnail: Thumbnail | None = None
    reason: str = ""
    notices: tuple[Notice, ...] = ()


def drawn_preview(metadata: ExtractedMetadata, settings: Settings) -> Drawn:
    """The picture of a file as its schema wants it, or why there is none. Nothing is asked of SciCat."""
    definition = metadata.schema_.preview
    if not settings.ingestion.previews:
        return Drawn(reason="The configuration wants none (ingestion.previews).")
    if isinstance(definition, Unusable):
        return Drawn(reason=definition.reason, is_failure=True)
    if not definition.enabled:
        return Drawn(reason="The schema wants none.")
    try:
        wanted = _wanted(definition, metadata)
    except (LookupError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        return Drawn(reason=metadata.evaluation().why(error).text, is_failure=True)
    handling, file = settings.ingestion.file_handling, metadata.file
    within = handling.links_within(file.path)
    return draw(file, wanted, data_directory=handling.data_directory, linked_within=within)


def attach_preview(
    metadata: ExtractedMetadata,
    built: BuiltDataset,
    registration: Registration,
    client: ScicatClient,
    settings: Settings,
) -> DatasetPreview:
    """Make sure that a registered dataset has its picture. What the server refuses is told, and not raised.

    Raises
    ------
    TransientError
        The server could not answer, or somebody else may be about to attach it. Calling again converges.
    """
    drawn = drawn_preview(metadata, settings)
    if drawn.thumbnail is None:
        return DatasetPreview(state="none", reason=drawn.reason, notices=_notices(drawn))
    try:
        state = _attached_once(drawn.thumbnail, built, registration, client)
    except PermanentError as refusal:
        return not_attached(refusal, drawn.thumbnail)
    return DatasetPreview(state=state, thumbnail=drawn.thumbnail)


def not_attached(error: IngestionError, thumbnail: Thumbnail | None = None) -> DatasetPreview:
    """What is shown of a picture that could not be attached; the dataset is registered all the same."""
    state: State = "refused" if isinstance(error, PermanentError) else "unanswered"
    notice = Notice(subject=FIELD, reason=str(error))
    return DatasetPreview(state=state, thumbnail=thumbnail, reason=error.what, notices=(notice,))


@dataclass(frozen=True)
class PreviewDifference:
    """How the picture of a dataset differs from the one of today, and what a person should know about it."""

    changes: tuple[Change, ...] = ()
    notices: tuple[Notice, ...] = ()


def compare_preview(
    metadata: ExtractedMetadata, pid: str, client: ScicatClient, settings: Settings
) -> PreviewDifference:
    """How the picture of a dataset differs; not at all where there is none of today.

    Raises
    ------
    TransientError
        The server could not answer.
    """
    return _compared(metadata, pid, client, settings, lambda _thumbnail, _ours: None)


def renew_preview(
    metadata: ExtractedMetadata, built: BuiltDataset, pid: str, client: ScicatClient, settings: Settings
) -> PreviewDifference:
    """The same, and the picture is replaced where it differs. Raises as :func:`compare_preview`."""

    def replace(thumbnail: Thumbnail, ours: Sequence[AttachmentRecord]) -> None:
        attachment = _attachment(thumbnail, built, pid)
        if ours:
            client.replace_attachment(ours[0].id, attachment)
        else:
            client.create_attachment(attachment)

    return _compared(metadata, pid, client, settings, replace)


def _compared(
    metadata: ExtractedMetadata,
    pid: str,
    client: ScicatClient,
    settings: Settings,
    correct: Callable[[Thumbnail, Sequence[AttachmentRecord]], None],
) -> PreviewDifference:
    """``correct`` is called where the picture differs from those of ours that the dataset has."""
    drawn = drawn_preview(metadata, settings)
    if drawn.thumbnail is None:
        return PreviewDifference(notices=_notices(drawn))
    try:
        ours = _ours(pid, client)
        changes = _difference(drawn.thumbnail, ours)
        if changes:
            correct(drawn.thumbnail, ours)
    except PermanentError as refusal:
        return PreviewDifference(notices=(Notice(subject=FIELD, reason=str(refusal)),))
    return PreviewDifference(changes)


def _wanted(definition: PreviewDefinition, metadata: ExtractedMetadata) -> Wanted:
    schema = metadata.schema_
    title = render(definition.title, metadata.evaluation().values, schema.variables).value
    return Wanted(
        path=definition.path,
        scale=definition.scale,
        percentiles=definition.percentiles,
        title=str(title),
    )


def _notices(drawn: Drawn) -> tuple[Notice, ...]:
    return (Notice(subject=FIELD, reason=drawn.reason),) if drawn.is_failure else ()


def _attached_once(
    thumbnail: Thumbnail, built: BuiltDataset, registration: Registration, client: ScicatClient
) -> State:
    pid = registration.pid
    # Nobody else has known the pid of a dataset that this call created.
    if not registration.created_dataset:
        if _ours(pid, client):
            return "was there"
        dataset = None if client.gives_attachments_ids else client.dataset(pid)
        if dataset is not None:
            check_abandoned(dataset, (), "its preview", client)
    try:
        client.create_attachment(_attachment(thumbnail, built, pid))
    except UnansweredError:
        raise
    except TransientError:
        # It may be stored all the same, or be there since a request that was not answered.
        if not _ours(pid, client):
            raise
        return "was there"
    return "attached"


def _ours(pid: str, client: ScicatClient) -> list[AttachmentRecord]:
    return [found for found in client.attachments(pid) if digest_in(found.thumbnail)]


def _difference(thumbnail: Thumbnail, ours: Sequence[AttachmentRecord]) -> tuple[Change, ...]:
    from_file = {"caption": thumbnail.caption, "picture": thumbnail.digest}
    if not ours:
        return (Change(field=FIELD, from_file=from_file),)
    if digest_in(ours[0].thumbnail) == thumbnail.digest and ours[0].caption == thumbnail.caption:
        return ()
    known = {"caption": ours[0].caption, "picture": digest_in(ours[0].thumbnail)}
    return (Change(field=FIELD, in_catalogue=known, from_file=from_file),)


def _attachment(thumbnail: Thumbnail, built: BuiltDataset, pid: str) -> Attachment:
    groups = built.dataset.get("accessGroups")
    return Attachment(
        dataset=pid,
        thumbnail=thumbnail.data_url,
        caption=thumbnail.caption,
        owner_group=str(built.dataset["ownerGroup"]),
        access_groups=tuple(str(group) for group in groups) if isinstance(groups, list) else (),
        id=str(uuid.uuid5(_NAMESPACE, pid)),
    )
