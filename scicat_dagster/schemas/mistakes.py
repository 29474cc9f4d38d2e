"""Mistakes in a schema file: where they are, and what they are."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from scicat_dagster.errors import message_of
from scicat_dagster.nearest import suggestion


class Mistake(BaseModel):
    """One thing that is wrong in a schema file."""

    model_config = ConfigDict(frozen=True)

    place: str
    """The keys on the way to it, such as ``variables.pi.operator``; empty for the whole thing."""
    what: str
    """What is wrong, as a sentence that follows a colon."""

    def __str__(self) -> str:
        return f"{self.place}: {self.what}" if self.place else self.what

    def below(self, place: str) -> Mistake:
        """The same mistake, seen from further outside."""
        return self.model_copy(update={"place": f"{place}.{self.place}" if self.place else place})


def mistakes_in(error: ValidationError) -> tuple[Mistake, ...]:
    """What pydantic found, in the words of the schema file."""
    return tuple(
        Mistake(
            place=".".join(str(part) for part in detail["loc"] if part not in _UNION_TAGS),
            what=_sentence(detail),
        )
        for detail in error.errors(include_url=False)
    )


def unknown_key(key: str, known: frozenset[str]) -> Mistake:
    """A key that means nothing where it is."""
    return Mistake(place=key, what=f"is not a known key and has no effect{suggestion(key, known) or '.'}")


_UNION_TAGS = frozenset({"NXS", "SC", "VALUE"})


def _sentence(detail: ErrorDetails) -> str:
    match detail["type"]:
        case "missing":
            return "is missing."
        case "union_tag_not_found":
            return "needs `source: NXS`, `SC` or `VALUE`."
        case "union_tag_invalid":
            return f"unknown source {detail['ctx']['tag']!r}; use NXS, SC or VALUE."
        case "literal_error" if isinstance(detail["input"], str):
            known = [name.strip(" '") for name in detail["ctx"]["expected"].replace(" or ", ",").split(",")]
            meant = suggestion(detail["input"], known) or f"; use one of {', '.join(known)}."
            return f"{detail['input']!r} is not known{meant}"
        case _:
            message = message_of(detail)
            return message if message.endswith("?") else f"{message.rstrip('.')}."
