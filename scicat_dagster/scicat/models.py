"""What we read of SciCat's answers (API v3). Everything else in them is kept but not looked at."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class DatasetRecord(BaseModel):
    """A dataset as the catalogue has it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    pid: str
    sourceFolder: str = ""  # noqa: N815 - the API's names
    datasetName: str = ""  # noqa: N815
    scientificMetadata: dict[str, Any] = Field(default_factory=dict)  # noqa: N815
    createdAt: datetime | None = None  # noqa: N815

    def metadata_value(self, key: str) -> Any:
        """The value of an entry of the scientific metadata, or None."""
        entry = self.scientificMetadata.get(key)
        return entry.get("value") if isinstance(entry, dict) else None


class FileRecord(BaseModel):
    """A file of an origdatablock; ``path`` is relative to the dataset's sourceFolder, or absolute."""

    model_config = ConfigDict(extra="allow", frozen=True)

    path: str
    size: int | float
    chk: str | None = None


class OrigDatablockRecord(BaseModel):
    """An origdatablock as the catalogue has it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str = Field(alias="_id")
    datasetId: str  # noqa: N815
    chkAlg: str | None = None  # noqa: N815
    dataFileList: tuple[FileRecord, ...] = ()  # noqa: N815
    createdAt: datetime | None = None  # noqa: N815
