"""Files that are registered already, looked at again with the schemas of today.

After a schema was corrected, the datasets that were made with it are wrong. For each file the dataset is
built anew and compared with the catalogue's; what is done about the difference is
``scicat_dagster.scicat.correction``'s business. Files that are not registered are left to discovery.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from scicat_dagster.config.models import FileHandlingSettings, Settings
from scicat_dagster.dataset.build import BuiltDataset
from scicat_dagster.dataset.ingestion import ExtractedMetadata
from scicat_dagster.dataset.rebuild import build_again, choose_again, extract_again
from scicat_dagster.errors import IngestionError, Notice, TransientError, bounded
from scicat_dagster.schemas.loading import SchemaCollection
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.correction import Change, Correction, apply, check_also, compare
from scicat_dagster.scicat.models import RegisteredDataset
from scicat_dagster.scicat.registration import registered_dataset
from scicat_dagster.usecases.thumbnails import PreviewDifference, compare_preview, renew_preview
from scicat_dagster.usecases.walk import Criteria, FoundFile, Refused, Unreadable, walk

State = Literal["up to date", "differs", "updated", "not registered", "failed"]


Work = Callable[[BuiltDataset, ExtractedMetadata, RegisteredDataset], tuple[Correction, PreviewDifference]]
"""What is done about one dataset: how it differs, and its picture."""


class Reingested(BaseModel):
    """What became of one file, or of one dataset of it.

    ``reason`` and ``remedy`` are those of a file that failed; ``is_transient`` where trying again may help.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    entry: str = ""
    """The name of the NXentry that the dataset is of, where the file is several datasets."""
    state: State
    pid: str | None = None
    changes: tuple[Change, ...] = ()
    warnings: tuple[Notice, ...] = ()
    reason: str = ""
    remedy: str = ""
    is_transient: bool = False

    def as_text(self) -> str:
        """The same for a person, as a table of the differences."""
        entry = f" ({self.entry})" if self.entry else ""
        lines = [f"{self.state:<14}  {self.file}{entry}" + (f"  {self.pid}" if self.pid else "")]
        width = max((len(change.field) for change in self.changes), default=0)
        lines += [f"  {change.field:<{width}}  {change.in_words()}" for change in self.changes]
        lines += [f"  warning: {notice.subject}: {notice.reason}" for notice in self.warnings]
        lines += [f"  {text}" for text in (self.reason, self.remedy) if text]
        return "\n".join(lines)


@dataclass(frozen=True)
class Reingestion:
    """What is needed to look at files again; ``also`` as for ``correction.compare``."""

    settings: Settings
    schemas: SchemaCollection
    catalogue: ScicatClient
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_also(self.also)

    def compared(self, file: str) -> Sequence[Reingested]:
        """How the catalogue differs from each dataset of a file; nothing is changed."""

        def look(
            built: BuiltDataset, metadata: ExtractedMetadata, registered: RegisteredDataset
        ) -> tuple[Correction, PreviewDifference]:
            correction = compare(built, metadata.schema_, registered, self.also)
            previews = compare_preview(metadata, registered.record.pid, self.catalogue, self.settings)
            return correction, previews

        return self._done(file, look, "differs")

    def updated(self, file: str) -> Sequence[Reingested]:
        """Bring each dataset of a file up to date."""

        def change(
            built: BuiltDataset, metadata: ExtractedMetadata, registered: RegisteredDataset
        ) -> tuple[Correction, PreviewDifference]:
            pid = registered.record.pid
            correction = apply(built, metadata.schema_, pid, self.catalogue, self.also)
            return correction, renew_preview(metadata, built, pid, self.catalogue, self.settings)

        return self._done(file, change, "updated")

    def is_for(self, file: str, schema: str) -> bool:
        """Whether a file's schema has this id or name; also where nobody knows, for the file to say why."""
        try:
            chosen = choose_again(file, self.schemas, self.settings)
        except IngestionError:
            return True
        return schema in {chosen.id, chosen.name}

    def _done(
        self,
        file: str,
        work: Work,
        state: State,
    ) -> Sequence[Reingested]:
        try:
            extracted = extract_again(file, self.schemas, self.catalogue, self.settings)
            datasets = zip(extracted, build_again(extracted, self.settings), strict=True)
            return [self._dataset_done(metadata, built, work, state) for metadata, built in datasets]
        except IngestionError as error:
            failed = Reingested(
                file=file,
                state="failed",
                reason=error.what,
                remedy=error.remedy,
                is_transient=isinstance(error, TransientError),
            )
        except Exception as error:  # noqa: BLE001 - the files after it must be looked at all the same
            failed = Reingested(
                file=file,
                state="failed",
                reason=bounded(f"{file}: {type(error).__name__}: {error}"),
                remedy="Report this: it is a bug of scicat-dagster.",
            )
        return [failed]

    def _dataset_done(
        self, metadata: ExtractedMetadata, built: BuiltDataset, work: Work, state: State
    ) -> Reingested:
        file, entry = built.data_file, built.entry
        built = built.model_copy(update={"dataset": self.catalogue.held(built.dataset)})
        registered = registered_dataset(built, self.catalogue, self.settings.ingestion)
        if registered is None:
            return Reingested(file=file, entry=entry, state="not registered", warnings=built.notices)
        correction, preview = work(built, metadata, registered)
        correction = _extended(correction, preview.changes)
        return Reingested(
            file=file,
            entry=entry,
            state=state if correction.wanted else "up to date",
            pid=correction.pid,
            changes=correction.changes,
            warnings=(*built.notices, *preview.notices),
        )


def _extended(correction: Correction, changes: tuple[Change, ...]) -> Correction:
    return correction.model_copy(update={"changes": (*correction.changes, *changes)})


def listed_files(
    places: Iterable[str], criteria: Criteria, handling: FileHandlingSettings
) -> Iterator[str | Unreadable | Refused]:
    """The files that are meant by files and folders, each once, and what could not be looked at.

    ``criteria`` choose among the files in folders; a file that is named itself is always meant.

    Raises
    ------
    PermanentError
        A folder is none that files may be registered from.
    """
    seen = set()
    for place in places:
        entries = walk([place], criteria, handling) if Path(place).is_dir() else (place,)
        for entry in entries:
            found = entry.path if isinstance(entry, FoundFile) else entry
            if found not in seen:
                seen.add(found)
                yield found


def counted(files: Sequence[Reingested]) -> dict[State, int]:
    """How many files are in each state."""
    return {state: sum(file.state == state for file in files) for state in STATES}


STATES: tuple[State, ...] = ("up to date", "differs", "updated", "not registered", "failed")
