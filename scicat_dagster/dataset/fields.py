"""The fields of a raw dataset as SciCat demands them, field by field.

Source: SciCat's ``CreateDatasetDto`` of API v3.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)

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

MANDATORY_FOR_DERIVED = ("inputDatasets", "usedSoftware")
"""Without these a derived dataset is refused as well."""

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


def _web_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{text!r} is not a web address")
    return text


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_number_as_text)]
Filled = Annotated[Text, AfterValidator(_filled)]
Date = Annotated[str, AfterValidator(_iso_date)]


class Relationship(BaseModel):
    """What a dataset is related to, as SciCat has it since 4.28; the older form, with a pid, is read, too."""

    model_config = ConfigDict(extra="forbid")

    identifier: Filled
    identifierType: Text = "Other"  # noqa: N815
    relationship: Text = "IsReferencedBy"
    entityType: Text = "Other"  # noqa: N815
    externalId: Text | None = None  # noqa: N815

    @model_validator(mode="before")
    @classmethod
    def _older_form(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or "pid" not in raw or "identifier" in raw:
            return raw
        others = {name: value for name, value in raw.items() if name != "pid"}
        # It was always another dataset of the same catalogue.
        return {"identifier": raw["pid"], "identifierType": "Local", "entityType": "Dataset", **others}


class Technique(BaseModel):
    """A technique by its pid, such as one of PaNET."""

    model_config = ConfigDict(extra="allow")

    pid: Filled
    name: Filled


class DatasetBody(BaseModel):
    """The body of ``POST /datasets``, in the names of v3. Fields that are None are not sent.

    ``type`` is raw, derived, or by API v4 one of the facility's own.
    """

    model_config = ConfigDict(extra="allow")

    pid: Filled | None = None
    type: Filled = "raw"
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
    techniques: list[Technique] | None = None
    relationships: list[Relationship] | None = None
    inputDatasets: list[Filled] | None = None  # noqa: N815
    usedSoftware: list[Filled] | None = None  # noqa: N815
    isPublished: bool = False  # noqa: N815
    scientificMetadataSchema: Annotated[str, AfterValidator(_web_address)] | None = None  # noqa: N815
    scientificMetadata: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)  # noqa: N815
