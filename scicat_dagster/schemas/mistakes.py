"""Mistakes in a schema file: where they are, and what they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from scicat_dagster.errors import Notice, message_of
from scicat_dagster.nearest import nearest, suggestion


class Mistake(BaseModel):
    """One thing that is wrong in a schema file."""

    model_config = ConfigDict(frozen=True)

    place: str
    """The keys on the way to it, such as ``variables.pi.operator``; empty for the whole thing."""
    what: str
    """What is wrong, as a sentence that follows a colon."""
    remedy: str = ""
    """What to write, where more can be said than to correct it."""
    line: int = 0
    """Where it is in its file, from 1; 0 where that is not known."""
    file: Path | None = None
    """The base of the schema that it is in; None for the schema's own file."""
    key: str = ""
    """The key at its place that has to be changed, where the place does not name it."""

    def __str__(self) -> str:
        return f"{self.place}: {self.what}" if self.place else self.what

    def in_words(self) -> str:
        """The same with the name of the base that it is in."""
        return f"{self.file.name}: {self}" if self.file else str(self)

    def below(self, place: str) -> Mistake:
        """The same mistake, seen from further outside."""
        return self.model_copy(update={"place": f"{place}.{self.place}" if self.place else place})

    def at(self, lines: Mapping[str, int]) -> Mistake:
        """The same mistake with its line: of the key, or of what surrounds it where that is missing."""
        place = f"{self.place}.{self.key}" if self.key else self.place
        while place not in lines and "." in place:
            place = place.rpartition(".")[0]
        return self.model_copy(update={"line": lines.get(place, 0)})

    def as_notice(self, file: str = "") -> Notice:
        """The same for a run; ``file`` is the name of the schema file."""
        file = self.file.name if self.file else file
        where = f" ({file}, line {self.line})" if file and self.line else ""
        sentence = f"{self.what[:1].upper()}{self.what[1:]}"
        return Notice(subject=self.place, reason=f"{sentence}{where}")

    @property
    def key_at_top(self) -> str:
        """The key of the schema file that it is below, such as ``variables``."""
        return self.place.partition(".")[0]

    @property
    def item(self) -> str:
        """The variable, field or section that it is in, such as ``variables.pi``."""
        return ".".join(self.place.split(".")[:2])


def one_for_each_item(mistakes: Iterable[Mistake]) -> list[Mistake]:
    """The mistakes with those of the same variable or field as one, so that each takes one line."""
    by_item: dict[tuple[Path | None, str], list[Mistake]] = {}
    for mistake in mistakes:
        by_item.setdefault((mistake.file, mistake.item), []).append(mistake)
    return [found[0] if len(found) == 1 else _together(item, found) for (_, item), found in by_item.items()]


def _together(item: str, mistakes: list[Mistake]) -> Mistake:
    inner = (mistake.model_copy(update={"place": _below(item, mistake.place)}) for mistake in mistakes)
    return Mistake(
        place=item,
        what=" ".join(str(mistake) for mistake in inner),
        remedy=" ".join(dict.fromkeys(mistake.remedy for mistake in mistakes if mistake.remedy)),
        line=min(mistake.line for mistake in mistakes),
        file=mistakes[0].file,
    )


def _below(item: str, place: str) -> str:
    return place.removeprefix(item).removeprefix(".")


def mistakes_in(error: ValidationError) -> tuple[Mistake, ...]:
    """What pydantic found, in the words of the schema file."""
    return tuple(
        Mistake(
            place=".".join(str(part) for part in detail["loc"] if part not in _UNION_TAGS),
            what=_sentence(detail),
            remedy=_remedy(detail),
        )
        for detail in error.errors(include_url=False)
    )


def unknown_key(key: str, known: frozenset[str]) -> Mistake:
    """A key that means nothing where it is."""
    meant = nearest(key, known)
    return Mistake(
        place=key,
        what=f"is not a known key and has no effect{suggestion(key, known) or '.'}",
        remedy=f"Write `{meant}:` instead of `{key}:`."
        if meant
        else f"Remove it; the keys there are {', '.join(sorted(known))}.",
    )


_UNION_TAGS = frozenset({"NXS", "SC", "VALUE"})


def _remedy(detail: ErrorDetails) -> str:
    match detail["type"]:
        case "missing":
            return f"Add `{detail['loc'][-1]}:` there."
        case "literal_error" if isinstance(detail["input"], str):
            meant = nearest(detail["input"], _allowed(detail))
            return f"Write `{meant}`." if meant else ""
        case _:
            return ""


def _allowed(detail: ErrorDetails) -> list[str]:
    return [name.strip(" '") for name in detail["ctx"]["expected"].replace(" or ", ",").split(",")]


def _sentence(detail: ErrorDetails) -> str:
    match detail["type"]:
        case "missing":
            return "is missing."
        case "union_tag_not_found":
            return "needs `source: NXS`, `SC` or `VALUE`."
        case "union_tag_invalid":
            return f"unknown source {detail['ctx']['tag']!r}; use NXS, SC or VALUE."
        case "literal_error" if isinstance(detail["input"], str):
            known = _allowed(detail)
            meant = suggestion(detail["input"], known) or f"; use one of {', '.join(known)}."
            return f"{detail['input']!r} is not known{meant}"
        case _:
            message = message_of(detail)
            return message if message.endswith("?") else f"{message.rstrip('.')}."
