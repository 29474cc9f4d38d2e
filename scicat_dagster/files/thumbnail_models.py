"""What is asked of the child process that draws, what it answers, and how our pictures are known again."""

from __future__ import annotations

import base64
import binascii
from typing import Literal

from pydantic import BaseModel, ConfigDict

Scale = Literal["auto", "linear", "log"]

MOST_PNG_BYTES = 24 * 1024
"""Each picture is kept in SciCat's database and in Dagster's, for as long as the dataset and its run."""

MARK = "scicat_dagster"
"""The keyword of a text inside our PNGs; the text is the digest of the picture."""

_PNG = "data:image/png;base64,"

_MARKED_WITHIN_BYTES = 4096


class Wanted(BaseModel):
    """What is to be drawn, and how; see ``schemas.models.PreviewDefinition``."""

    model_config = ConfigDict(frozen=True)

    path: str = ""
    scale: Scale = "auto"
    percentiles: tuple[float, float] = (0.5, 99.5)
    title: str = ""


class DrawingRequest(BaseModel):
    """What the child is asked. The file's name is for its sentences only; the file itself is open already."""

    model_config = ConfigDict(frozen=True)

    file: str
    wanted: Wanted
    linked: dict[str, int | str] = {}
    """For the files that links may lead to, the place of each among the descriptors, or why it is not."""


class Thumbnail(BaseModel):
    """A picture of what is in a file."""

    model_config = ConfigDict(frozen=True)

    data_url: str
    """The PNG, at most :data:`MOST_PNG_BYTES` before it is written in base64."""
    caption: str
    digest: str
    """Of the pixels, so that the same picture is the same whatever compressed it."""


class Drawn(BaseModel):
    """What the child answers: a picture, or why there is none.

    ``is_failure`` where there should have been one; a file in which nothing is meant to be plotted is none.
    """

    model_config = ConfigDict(frozen=True)

    thumbnail: Thumbnail | None = None
    reason: str = ""
    is_failure: bool = False
    lacking: tuple[str, ...] = ()
    """Files that links led to, and that were not among the descriptors."""


def data_url(png: bytes) -> str:
    """A PNG as SciCat wants thumbnails."""
    return f"{_PNG}{base64.b64encode(png).decode()}"


def digest_in(url: str) -> str:
    """The digest that one of our pictures carries; empty where it is somebody else's."""
    if not url.startswith(_PNG):
        return ""
    try:
        beginning = base64.b64decode(url[len(_PNG) :][:_MARKED_WITHIN_BYTES], validate=True)
    except binascii.Error:
        return ""
    mark = b"tEXt" + MARK.encode() + b"\0"
    where = beginning.find(mark)
    if where < 4:
        return ""
    # The length of a chunk is before its name.
    length = int.from_bytes(beginning[where - 4 : where]) - len(MARK) - 1
    start = where + len(mark)
    return beginning[start : start + length].decode("ascii", "replace")
