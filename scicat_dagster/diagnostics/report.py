"""What was looked at and what came of it, for a person and for scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from scicat_dagster.errors import IngestionError, Notice, TransientError
from scicat_dagster.schemas.models import ENTRY_VARIABLE
from scicat_dagster.usecases.preview import PreviewSchema
from scicat_dagster.wording import numbered

Subject = Literal["configuration", "schema", "kafka", "scicat", "directory", "file"]

Importance = Literal["mandatory", "recommended"]

Result = Literal["ok", "warning", "mistake", "unchecked"]
"""``unchecked``: nobody can say now, because a server or a storage does not answer."""

EXIT_CODES: dict[Result, int] = {"ok": 0, "warning": 0, "mistake": 1, "unchecked": 2}

_WORST_FIRST: tuple[Result, ...] = ("mistake", "unchecked", "warning", "ok")


class Check(BaseModel):
    """One thing that was looked at."""

    check: Subject
    result: Result
    what: str
    remedy: str = ""
    file: str = ""
    """The data file or schema that it is about."""


class FieldState(BaseModel):
    """A field that a dataset must or should have, and whether it gets a value.

    ``unknown`` where that depends on what was not asked: SciCat, or an announcement.
    """

    field: str
    importance: Importance
    state: Literal["filled", "missing", "unknown"]
    reason: str = ""


class FileReport(BaseModel):
    """What would become of one real file.

    ``registrable`` is None where it cannot be told. ``unresolved`` are the variables and fields that failed,
    ``unknown`` those that need what was not asked.
    """

    model_config = ConfigDict(populate_by_name=True)

    file: str
    schema_: PreviewSchema | None = Field(default=None, serialization_alias="schema")
    registrable: bool | None = None
    fields: list[FieldState] = []
    unresolved: list[Notice] = []
    unknown: list[Notice] = []
    entry: str = ""
    """The name of the NXentry that the dataset is of, where the file is several datasets."""

    @property
    def source(self) -> str:
        """What the dataset is made of, for people."""
        return f"{self.file} ({self.entry})" if self.entry else self.file


class Report(BaseModel):
    """Everything that was looked at; facilities script its JSON, so its keys stay as they are."""

    config: str
    checks: list[Check] = []
    files: list[FileReport] = []
    schemas: int = 0
    """How many schemas were looked at."""

    @property
    def result(self) -> Result:
        """The worst of all results; a mistake counts more than what could not be looked at."""
        found = {check.result for check in self.checks}
        return next((result for result in _WORST_FIRST if result in found), "ok")

    def add(self, check: Subject, result: Result, what: str, remedy: str = "", file: str = "") -> None:
        """Add a check."""
        self.checks.append(Check(check=check, result=result, what=what, remedy=remedy, file=file))

    def failed(self, check: Subject, error: IngestionError, about: str = "", file: str = "") -> None:
        """Add a check that a failure ended; a transient one says nothing about what was to be checked."""
        what = f"{about}: {error.what}" if about else error.what
        if isinstance(error, TransientError):
            # Its own remedy is for runs, which try again by themselves.
            self.add(check, "unchecked", what, "See that it is there and answers, then run this again.", file)
        else:
            self.add(check, "mistake", what, error.remedy, file)

    def as_json(self) -> str:
        """The whole report for scripts."""
        document = {"result": self.result, **self.model_dump(mode="json", by_alias=True)}
        return json.dumps(document, indent=2, ensure_ascii=False)

    def as_text(self) -> str:
        """The table for a person: a row for each check, its remedy below it, and a line that counts."""
        width = max((len(check.check) for check in self.checks), default=0)
        lines = []
        before = ""
        for check in self.checks:
            if check.file and check.file != before:
                lines.append(f"{'':11}{check.check:{width}}  {check.file}")
            before = check.file
            lines.append(f"{check.result:11}{check.check:{width}}  {check.what}")
            if check.remedy and check.result != "ok":
                lines.append(f"{'':{11 + width}}  {check.remedy}")
        return "\n".join([*lines, self._summary()])

    def _summary(self) -> str:
        counts = {result: sum(check.result == result for check in self.checks) for result in EXIT_CODES}
        unchecked = f", {counts['unchecked']} could not be checked" if counts["unchecked"] else ""
        looked_at = numbered(self.schemas, "schema")
        files = {file.file for file in self.files}
        checked = (
            f"the configuration, {looked_at} and {numbered(len(files), 'file')}"
            if files
            else f"the configuration and {looked_at}"
        )
        mistakes, warnings = numbered(counts["mistake"], "mistake"), numbered(counts["warning"], "warning")
        return f"{mistakes}, {warnings}{unchecked}; checked {checked}"


def said_once(checks: Sequence[Check], file: str, entries: Mapping[str, str]) -> list[Check]:
    """The checks of a file's NXentry, each once for all that it is about; those of most NXentry first.

    ``entries`` has the name of each NXentry by what its checks are about. Two checks are the same one if they
    differ by no more than where a path has the entry's name, which is then written as in a schema.
    """
    alike: dict[tuple[str, ...], list[Check]] = {}
    for check in checks:
        name = entries[check.file]
        texts = (_of_any_entry(text, name) for text in (check.what, check.remedy))
        alike.setdefault((check.result, *texts), []).append(check)
    of_entries: dict[tuple[str, ...], list[Check]] = {}
    for (_, what, remedy), same in alike.items():
        names = tuple(dict.fromkeys(entries[check.file] for check in same))
        found = of_entries.setdefault(names, [])
        if len(names) == 1:
            found += same
            continue
        which = f"all {len(names)} NXentry" if len(names) == len(entries) else ", ".join(names)
        found.append(same[0].model_copy(update={"what": what, "remedy": remedy, "file": f"{file} ({which})"}))
    # Sorting keeps the order of those that are of as many.
    ordered = sorted(of_entries, key=len, reverse=True)
    return [check for names in ordered for check in of_entries[names]]


def _of_any_entry(text: str, entry: str) -> str:
    return text.replace(f"/{entry}/", f"/<{ENTRY_VARIABLE}>/")
