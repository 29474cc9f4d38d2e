"""Checks that are asked at the same time and answer within seconds, even where one hangs."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, computed_field

from scicat_dagster.errors import IngestionError

LONGEST_WAIT_SECONDS = 10.0
"""What has not answered by then is taken for dead. Probes have to allow for a little more."""

KEPT_SECONDS = 5.0
"""How long an answer is good, so that many probes ask as often as one."""

ASK_AGAIN = "See that it is there and answers."

_LOG = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")


class Check(BaseModel):
    """One thing that was looked at."""

    model_config = ConfigDict(frozen=True)

    name: str
    ok: bool
    words: str
    """What it is like, for a person."""
    remedy: str = ""
    """What to do, where it is not well."""
    cause: str = Field(default="", exclude=True)
    """The name of another check of which this follows; whoever is told of that needs no word of this."""


class Health(BaseModel):
    """Everything that was looked at; scripts read its JSON, so its keys stay as they are."""

    model_config = ConfigDict(frozen=True)

    checks: tuple[Check, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return all(check.ok for check in self.checks)

    def as_text(self) -> str:
        """A row for each check, and its remedy below it."""
        width = max((len(check.name) for check in self.checks), default=0)
        lines = []
        for check in self.checks:
            lines.append(f"{'ok' if check.ok else 'not ok':8}{check.name:{width}}  {check.words}")
            if check.remedy and not check.ok:
                lines.append(f"{'':{8 + width}}  {check.remedy}")
        return "\n".join(lines)


class Question(Generic[_Answer]):
    """Something that is asked in a thread of its own, at most once at a time, and whose answer is kept.

    A storage that hangs holds up this one thread, however often it is asked, and nobody who waits.
    """

    def __init__(self, ask: Callable[[], _Answer], kept_seconds: float = KEPT_SECONDS) -> None:
        self._ask = ask
        self._kept_seconds = kept_seconds
        self._changed = threading.Condition()
        self._is_asked = False
        self._answer: _Answer | None = None
        self._answered_at = -math.inf

    def begin(self) -> None:
        """Ask, unless the last answer is still good or awaited."""
        with self._changed:
            if self._is_asked or self._is_fresh():
                return
            self._is_asked = True
        # A thread that hangs must not keep the process from ending.
        threading.Thread(target=self._answer_it, daemon=True).start()

    def answer(self, seconds: float) -> _Answer | None:
        """The answer to what was begun, waited for so long; None where there is none by then."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_asked, timeout=max(0.0, seconds))
            return None if self._is_asked else self._answer

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._answered_at < self._kept_seconds

    def _answer_it(self) -> None:
        answer: _Answer | None = None
        try:
            answer = self._ask()
        except Exception as error:  # noqa: BLE001 - a database that is away may raise anything
            # Its words may hold an address with a password.
            _LOG.warning("A question has no answer: %s.", type(error).__name__)
        with self._changed:
            self._is_asked, self._answer, self._answered_at = False, answer, time.monotonic()
            self._changed.notify_all()


class Checkup:
    """All checks together, each under its name."""

    def __init__(
        self,
        checks: Mapping[str, Callable[[], Check]],
        *,
        longest_wait_seconds: float = LONGEST_WAIT_SECONDS,
        kept_seconds: float = KEPT_SECONDS,
    ) -> None:
        self._longest_wait_seconds = longest_wait_seconds
        self._questions = {
            name: Question(_explained(name, check), kept_seconds) for name, check in checks.items()
        }

    def look(self) -> Health:
        """How everything is; it takes no longer than the longest wait."""
        deadline = time.monotonic() + self._longest_wait_seconds
        for question in self._questions.values():
            question.begin()
        return Health(
            checks=tuple(
                question.answer(deadline - time.monotonic()) or self._silent(name)
                for name, question in self._questions.items()
            )
        )

    def _silent(self, name: str) -> Check:
        words = f"No answer within {self._longest_wait_seconds:g} s."
        return Check(name=name, ok=False, words=words, remedy=ASK_AGAIN)


def _explained(name: str, check: Callable[[], Check]) -> Callable[[], Check]:
    """The check, whose failure is an answer as well."""

    def ask() -> Check:
        try:
            return check()
        except IngestionError as error:
            return Check(name=name, ok=False, words=error.what, remedy=error.remedy)
        except Exception as error:  # noqa: BLE001 - a database that is away may raise anything
            # Its words may hold an address with a password.
            words = f"It cannot be looked at: {type(error).__name__}."
            return Check(name=name, ok=False, words=words, remedy=ASK_AGAIN)

    return ask
