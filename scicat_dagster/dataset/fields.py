"""The fields of a raw dataset as SciCat demands them, field by field.

Source: SciCat's ``CreateDatasetDto`` of API v3.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

MANDATORY = (
    "owner",
    "contactEmail",
    "sourceFolder",
    "creationTime",
    "principalInvestigator",
    "creationLocation",
    "ownerGroup",
)
"""Without any of these a raw dataset is refused, or (with an empty owner) the server fails."""

RECOMMENDED = ("datasetName", "description", "proposalId", "instrumentId")
"""A dataset can be registered without these, but people will look for it by them."""

_EMAIL = re.compile(r"[^@\s;,]+@[^@\s;,.]+(\.[^@\s;,.]+)+")


def _email(text: str) -> str:
    if not _EMAIL.fullmatch(text.strip()):
        raise ValueError(f"{text!r} is not an e-mail address")
    return text.strip()


def _emails(text: str) -> str:
    return "; ".join(_email(part) for part in text.split(";"))


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


def _iso_date(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an ISO 8601 date") from None
    return text


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_number_as_text)]
Filled = Annotated[Text, AfterValidator(_filled)]
Date = Annotated[str, AfterValidator(_iso_date)]


class RawDataset(BaseModel):
    """The body of ``POST /datasets`` for a raw dataset. Fields that are None are not sent."""

    model_config = ConfigDict(extra="allow")

    pid: Filled | None = None
    type: Literal["raw"] = "raw"
    datasetName: Filled | None = None  # noqa: N815 - the API's names
    owner: Filled
    ownerEmail: Annotated[str, AfterValidator(_email)] | None = None  # noqa: N815
    contactEmail: Annotated[str, AfterValidator(_emails)]  # noqa: N815
    sourceFolder: Filled  # noqa: N815
    creationTime: Date  # noqa: N815
    startTime: Date | None = None  # noqa: N815
    endTime: Date | None = None  # noqa: N815
    principalInvestigator: Filled  # noqa: N815
    creationLocation: Filled  # noqa: N815
    instrumentId: Text | None = None  # noqa: N815
    proposalId: Text | None = None  # noqa: N815
    sampleId: Text | None = None  # noqa: N815
    principalInvestigators: list[Filled] | None = None  # noqa: N815 - of several, beside the one of v3
    instrumentIds: list[Filled] | None = None  # noqa: N815
    proposalIds: list[Filled] | None = None  # noqa: N815
    sampleIds: list[Filled] | None = None  # noqa: N815
    runNumber: Text | None = None  # noqa: N815
    description: Text | None = None
    comment: Text | None = None
    ownerGroup: Filled  # noqa: N815
    accessGroups: list[str] | None = None  # noqa: N815
    keywords: list[str] | None = None
    isPublished: bool = False  # noqa: N815
    scientificMetadata: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)  # noqa: N815
