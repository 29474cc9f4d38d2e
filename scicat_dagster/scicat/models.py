"""What we read of SciCat's answers. Everything else in them is kept but not looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class DatasetRecord(BaseModel):
    """A dataset as the catalogue has it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    pid: str
    sourceFolder: str = ""  # noqa: N815 - the API's names
    datasetName: str = ""  # noqa: N815
    scientificMetadata: dict[str, Any] = Field(default_factory=dict)  # noqa: N815
    createdAt: datetime | None = None  # noqa: N815
    size: int | float | None = None
    numberOfFiles: int | None = None  # noqa: N815

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
    size: int | float = 0
    chkAlg: str | None = None  # noqa: N815
    dataFileList: tuple[FileRecord, ...] = ()  # noqa: N815
    createdAt: datetime | None = None  # noqa: N815


class JobRecord(BaseModel):
    """A job as the catalogue has it; its ``jobParams`` as API v4 has them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str = Field(alias="_id")
    type: str = ""
    jobParams: dict[str, Any] = Field(default_factory=dict)  # noqa: N815


class PostedJob(BaseModel):
    """What became of a job that a schema wants posted; ``name`` is its name there."""

    model_config = ConfigDict(frozen=True)

    name: str
    type: str = ""
    state: Literal["posted", "was there", "refused", "not looked for"]
    id: str = ""
    reason: str = ""


class AttachmentRecord(BaseModel):
    """An attachment as the catalogue has it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str = Field(alias="_id")
    caption: str = ""
    thumbnail: str = ""


@dataclass(frozen=True)
class RegisteredDataset:
    """A dataset as the catalogue has it, with its origdatablocks."""

    record: DatasetRecord
    blocks: Sequence[OrigDatablockRecord]

    @property
    def listed(self) -> set[str]:
        """The files that any of the blocks lists, by their full paths."""
        # By the dataset's own folder: the schema's may be another one by now.
        folder = PurePosixPath(self.record.sourceFolder)
        return {str(folder / file.path) for block in self.blocks for file in block.dataFileList}

    @property
    def wrong_sums(self) -> dict[str, int | float]:
        """What the size and the number of files should be by the blocks, where the dataset has another value.

        Servers after 5.2.1 add each block to what the dataset was posted with, which scicat-ingestor does.
        """
        if not self.blocks:
            return {}
        size = sum(block.size for block in self.blocks)
        number = sum(len(block.dataFileList) for block in self.blocks)
        has = {"size": self.record.size, "numberOfFiles": self.record.numberOfFiles}
        return {
            field: value
            for field, value in {"size": size, "numberOfFiles": number}.items()
            if has[field] not in (None, value)
        }
