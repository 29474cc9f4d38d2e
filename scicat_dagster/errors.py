"""The two kinds of failure that a file can meet, and notices, for every part of the project.

Only the kinds live here. *Which* situation is which kind is said where the situation is met; what Dagster
does with each kind is said once, in ``orchestration.failures``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from scicat_dagster.limits import LONGEST_TEXT


def bounded(text: str) -> str:
    """A text for people, cut where it is too long: what a file or message holds may be quoted in it."""
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]}… ({len(text)} characters)"


def with_name_only(text: str, file: str) -> str:
    """A text about a file with its name instead of its path.

    ``file`` is its path, or the end of it. Whatever else looks like a path, as one within an HDF5 file or the
    folder that the file should lie in, is what the text is about and stays.
    """
    return _replaced(text, file, file.rpartition("/")[2])


def without_file(text: str, file: str) -> str:
    """A text about a file without its name, so that files with the same problem can be counted together.

    ``file`` is its path, or the end of it: whatever comes before that is left out as well.
    """
    return _replaced(_replaced(text, file, "…"), file.rpartition("/")[2], "…", before="")


def _replaced(text: str, file: str, instead: str, before: str = r"(?:(?:/[^\s'\"]*)?/)?") -> str:
    """Where a file is named, and not another one whose name is longer."""
    if not file:
        return text
    return re.sub(rf"(?<![\w.-]){before}{re.escape(file)}(?!\w)", lambda _: instead, text)


def message_of(detail: ErrorDetails) -> str:
    """What is wrong with a value that pydantic refused: the text of our own validator, or else pydantic's."""
    cause = detail.get("ctx", {}).get("error")
    return str(cause) if isinstance(cause, ValueError | AssertionError) else detail["msg"]


def messages_of(error: ValidationError) -> str:
    """All that pydantic refused of a value, with the place of each."""
    return "; ".join(f"{'.'.join(map(str, each['loc']))} {message_of(each)}" for each in error.errors())


class UnknownHereError(LookupError):
    """Neither the file nor the schema is wrong: what was asked for cannot be known where we are."""


class NotInCatalogueError(LookupError):
    """Neither the file nor the schema is wrong: SciCat was asked, and holds nothing of the kind."""


@dataclass(frozen=True)
class Reason:
    """Why a variable or field has no value."""

    text: str
    is_unknown: bool = False
    """Whether it is only not known here, without SciCat or without an announcement."""
    is_of_catalogue: bool = False
    """Whether it is SciCat that lacks something, and neither the file nor the schema."""


class Notice(BaseModel):
    """Something that did not stop a file, but that a person should see: a variable or field that failed."""

    model_config = ConfigDict(frozen=True)

    subject: Annotated[str, AfterValidator(bounded)]
    """What it is about, such as ``variables.pi_email`` or ``schema.contact_email``."""
    reason: Annotated[str, AfterValidator(bounded)]
    is_unknown: bool = Field(default=False, exclude=True)
    """As of a :class:`Reason`; stays in the process that looks at a file without SciCat."""
    is_of_catalogue: bool = Field(default=False, exclude=True)
    """As of a :class:`Reason`; stays in the process that looks at a file."""


class Problem(BaseModel):
    """What went wrong, what a person can do, and facts that help to judge the case; no secret is in it."""

    model_config = ConfigDict(frozen=True)

    what: Annotated[str, AfterValidator(bounded)]
    remedy: Annotated[str, AfterValidator(bounded)] = ""
    details: dict[str, Annotated[str, AfterValidator(bounded)]] = {}


class IngestionError(Exception):
    """A file (or the whole facility) cannot be registered now.

    Raised only through its two subclasses. ``what`` says what happened and names the file, field or address;
    ``remedy`` says what a person can do. Neither ever holds a secret. ``details`` are further facts that help
    to judge the case (a server's answer, two values that differ), as name and text.
    """

    @property
    def problem(self) -> Problem:
        """The same without the traceback, to be stored or shown."""
        return Problem(what=self.what, remedy=self.remedy, details=self.details)

    def __init__(self, what: str, *, remedy: str, details: dict[str, str] | None = None) -> None:
        super().__init__(bounded(what), bounded(remedy))
        self.what = bounded(what)
        self.remedy = bounded(remedy)
        self.details: dict[str, str] = {name: bounded(text) for name, text in (details or {}).items()}

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}".strip()

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.remedy, self.details)


class TransientError(IngestionError):
    """Worth another try without anybody doing anything: a network, a mount, a server that is away.

    ``retry_after_seconds`` is how long to wait at least, where that is known.
    """

    def __init__(
        self,
        what: str,
        *,
        remedy: str,
        details: dict[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(what, remedy=remedy, details=details)
        self.retry_after_seconds = retry_after_seconds


class PermanentError(IngestionError):
    """Trying again gives the same answer until a person acts: a schema, a right, a broken file."""


def _rebuild(kind: type[IngestionError], what: str, remedy: str, details: dict[str, str]) -> IngestionError:
    return kind(what, remedy=remedy, details=details)
