"""The digest: one message about everything that needs manual intervention, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from scicat_dagster.wording import local, numbered

MOST_LISTED = 20
"""Files in one message; the others are counted."""

MOST_REASONS = 10

_LONGEST_TEXT = 300

_OTHERS = "other reasons, and files whose reason was not looked up"


class FailedEntry(BaseModel):
    """A file that failed, as people are told about it."""

    model_config = ConfigDict(frozen=True)

    file: str
    since: datetime
    kind: str
    reason: str
    what_to_do: str
    runs: int
    run_url: str = ""
    """The page of its latest run."""


class ReasonCount(BaseModel):
    """How many files failed for a reason."""

    model_config = ConfigDict(frozen=True)

    reason: str
    files: int


class Condition(BaseModel):
    """Something that is not well with the facility as a whole, such as a server that is away."""

    model_config = ConfigDict(frozen=True)

    name: str
    what: str
    what_to_do: str
    since: datetime | None = None


class Back(BaseModel):
    """Something that was away and answers again."""

    model_config = ConfigDict(frozen=True)

    name: str
    since: datetime
    until: datetime


class Digest(BaseModel):
    """What one message says. Its length is bounded, however many files failed."""

    model_config = ConfigDict(frozen=True)

    facility: str
    """The name of this ingestor, for people who have several."""
    new: int
    """Files that failed and that were not told about yet."""
    still_failed: int
    """Files that were told about before and are not repaired."""
    repaired: int
    """Files that were told about before and are no longer failed."""
    reasons: tuple[ReasonCount, ...] = ()
    """Why the new ones failed, the most frequent reason first."""
    files: tuple[FailedEntry, ...] = ()
    """Some of the new ones."""
    conditions: tuple[Condition, ...] = ()
    """What is not well since the last message."""
    well_again: tuple[str, ...] = ()
    """The names of conditions that were told about before and are over."""
    rejected: int = 0
    """Announcements since the last message that led to no file, and gaps in what Kafka has."""
    away: tuple[Condition, ...] = ()
    """Dependencies that went away."""
    back: tuple[Back, ...] = ()
    """Dependencies that were away and answer again."""
    waiting: int = 0
    """Files that wait for what is away."""
    dagster_url: str = ""
    """The address of Dagster's pages; empty where it is not configured."""

    @property
    def subject(self) -> str:
        """The whole message in a line."""
        name = " ".join(f"scicat_dagster {self.facility}".split())
        said = [f"{_label(each.name)} is away" for each in self.away]
        said += [f"{_label(each.name)} is back" for each in self.back]
        if self.conditions:
            said.append(f"not well: {', '.join(condition.name for condition in self.conditions)}")
        if self.new:
            said.append(f"{numbered(self.new, 'file')} failed")
        if self.rejected:
            said.append(f"{numbered(self.rejected, 'message')} led to no file")
        if self.well_again:
            said.append(f"well again: {', '.join(self.well_again)}")
        return f"[{name}] {'; '.join(said) or 'all failed files are repaired'}"

    def as_text(self) -> str:
        """The message for a person."""
        parts = [*self._dependencies()]
        parts += [
            f"Not well: {condition.name}. {condition.what}\n  {condition.what_to_do}"
            for condition in self.conditions
        ]
        if self.well_again:
            parts.append(f"Well again: {', '.join(self.well_again)}.")
        if self.rejected:
            parts.append(
                f"{numbered(self.rejected, 'message')} led to no file; "
                "`scicat-dagster messages list` has the reasons."
            )
        if self.new or self.repaired or self.still_failed:
            parts.append(self._summary())
        if self.reasons:
            parts.append("\n".join(f"{count.files} × {count.reason}" for count in self.reasons))
        parts += [
            f"{entry.file}\n  since {local(entry.since)}, {entry.kind}, "
            f"runs: {entry.runs}\n  {entry.reason}\n  {entry.what_to_do}"
            + (f"\n  {entry.run_url}" if entry.run_url else "")
            for entry in self.files
        ]
        if self.new > len(self.files):
            parts.append(f"… and {numbered(self.new - len(self.files), 'file')} more.")
        if self.new or self.still_failed:
            parts.append("`scicat-dagster failures` lists all that are not repaired.")
        if self.dagster_url:
            parts.append(f"{self.dagster_url}/assets/today")
        return "\n\n".join(parts)

    def as_json(self) -> dict[str, Any]:
        """The message for a program, with the text in it."""
        return {"subject": self.subject, "text": self.as_text(), **self.model_dump(mode="json")}

    def _dependencies(self) -> Iterator[str]:
        for each in self.away:
            since = f" since {local(each.since)}" if each.since is not None else ""
            yield f"{_label(each.name)} is away{since}. {each.what}\n  {each.what_to_do}"
        if self.away:
            waiting = numbered(self.waiting, "file")
            yield f"{waiting} wait; nothing is lost, and they are registered when it is back."
        for back in self.back:
            yield f"{_label(back.name)} is back; it was away from {local(back.since)} to {local(back.until)}."
        if self.back and not self.away:
            yield f"{numbered(self.waiting, 'file')} that waited are registered now, one after the other."

    def _summary(self) -> str:
        said = []
        if self.new:
            said.append(f"{numbered(self.new, 'file')} failed.")
        if self.repaired:
            were = "was" if self.repaired == 1 else "were"
            said.append(f"{numbered(self.repaired, 'file')} that failed before {were} repaired.")
        if self.still_failed:
            are = "is" if self.still_failed == 1 else "are"
            said.append(f"{numbered(self.still_failed, 'file')} that failed before {are} not repaired.")
        elif not self.new:
            said.append("None is left.")
        return " ".join(said)


def digest(
    facility: str, new: Sequence[FailedEntry], *, more: int = 0, still_failed: int = 0, repaired: int = 0
) -> Digest:
    """The message about the files in ``new``, and ``more`` new ones whose reasons nobody looked up."""
    counts: dict[str, int] = {}
    for entry in new:
        reason = _common(entry)
        counts[reason] = counts.get(reason, 0) + 1
    frequent = sorted(counts.items(), key=lambda item: -item[1])
    reasons = [ReasonCount(reason=reason, files=number) for reason, number in frequent[:MOST_REASONS]]
    others = more + sum(number for _, number in frequent[MOST_REASONS:])
    if others:
        reasons.append(ReasonCount(reason=_OTHERS, files=others))
    return Digest(
        facility=facility,
        new=len(new) + more,
        still_failed=still_failed,
        repaired=repaired,
        reasons=tuple(reasons),
        files=tuple(
            entry.model_copy(
                update={
                    "file": _short(entry.file),
                    "reason": _short(entry.reason),
                    "what_to_do": _short(entry.what_to_do),
                }
            )
            for entry in new[:MOST_LISTED]
        ),
    )


_LABELS = {"kafka": "Kafka", "storage": "The storage", "scicat": "SciCat"}


def _label(name: str) -> str:
    return _LABELS.get(name, name)


def _common(entry: FailedEntry) -> str:
    """The reason without the file's name, so that files with the same reason are counted together."""
    return _short(entry.reason.replace(entry.file, "…"))


def _short(text: str) -> str:
    # A path may hold bytes that are not text.
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
