"""What a channel has not been told yet: a pure function of what failed and what it was told."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, ValidationError

from scicat_dagster.errors import PermanentError
from scicat_dagster.orchestration.failures.failed_files import FailedFile
from scicat_dagster.orchestration.failures.policy import LOGIN


def short_name(path: str) -> str:
    """Eight characters for a file in a cursor, which may not become long."""
    digest_of_path = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return base64.urlsafe_b64encode(digest_of_path).decode()


PATIENCE = timedelta(hours=1)
"""How long a file may fail and be tried again by itself before anybody is told."""

MOST_REPORTED = 1000
"""Files in the cursor of each channel. Of those that are more, only when they failed tells whether they are
news."""


class Told(BaseModel):
    """What a channel was told, as far as it is still so."""

    model_config = ConfigDict(frozen=True)

    files: frozenset[str] = frozenset()
    """Short names of the files, at most ``MOST_REPORTED``."""
    count: int = 0
    """How many there are, also of those that are not in ``files``."""
    at: datetime | None = None
    """When it was told, if there are more than are in ``files``."""
    repaired: int = 0
    """How many it was told about that were repaired since, which it was not told."""
    conditions: frozenset[str] = frozenset()
    """The names of what is not well."""
    rejected: int | None = None
    """The storage id of the last rejected message; None before anything was looked at."""


class DigestCursor(BaseModel):
    """What each channel was told, by its name."""

    model_config = ConfigDict(frozen=True)

    version: int = 2
    channels: dict[str, Told] = {}

    @classmethod
    def parse(cls, text: str | None) -> "DigestCursor":
        """A cursor as it was stored; nothing stored is that nobody was told anything.

        Raises
        ------
        PermanentError
            The text is none of ours.
        """
        if not text:
            return cls()
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            raise PermanentError(
                "The sensor's cursor is not one that it stored.",
                remedy="Reset it; everybody is then told about all failed files once more.",
            ) from None


@dataclass(frozen=True)
class News:
    """What a channel has to be told."""

    new: tuple[FailedFile, ...]
    still_failed: int
    repaired: int
    if_told: Told
    """What is to be stored when it was sent."""
    if_not: Told
    """What is to be stored when it was not sent."""

    @property
    def is_due(self) -> bool:
        """Whether there is something new, or everything is repaired; what is between can wait."""
        return bool(self.new) or (self.repaired > 0 and self.still_failed == 0)


def news(failed: Sequence[FailedFile], under_way: Iterable[str], told: Told, now: datetime) -> News:
    """What is new for a channel that was told this before.

    A file that is worked on is neither repaired nor new: it was failed a moment ago and may be so again.
    """
    was_told = {
        short_name(file.path): file
        for file in failed
        if short_name(file.path) in told.files or _was_due(file, told.at)
    }
    names = {short_name(path) for path in under_way}
    flying = {name for name in told.files if name in names and name not in was_told}
    new = tuple(file for file in failed if _due_at(file) <= now and short_name(file.path) not in was_told)
    still_failed = len(was_told) + len(flying)
    repaired = told.repaired + max(0, told.count - still_failed)
    return News(
        new=new,
        still_failed=still_failed,
        repaired=repaired,
        if_told=_reported([*was_told.values(), *new], flying, at=now, repaired=0),
        if_not=_reported(list(was_told.values()), flying, at=told.at, repaired=repaired),
    )


def _reported(files: Sequence[FailedFile], flying: Iterable[str], at: datetime | None, repaired: int) -> Told:
    # Those first whose time tells less about whether they were told.
    ordered = sorted(files, key=lambda file: file.needs_manual_intervention)
    named = list(dict.fromkeys([*sorted(flying), *(short_name(file.path) for file in ordered)]))
    is_too_much = len(named) > MOST_REPORTED
    return Told(
        files=frozenset(named[:MOST_REPORTED]),
        count=len(named),
        at=at if is_too_much else None,
        repaired=repaired,
    )


def _due_at(file: FailedFile) -> datetime:
    """From when on people are told about a file."""
    is_for_people = file.needs_manual_intervention or file.kind == LOGIN
    return file.last if is_for_people else file.since + PATIENCE


def _was_due(file: FailedFile, at: datetime | None) -> bool:
    return at is not None and _due_at(file) <= at
