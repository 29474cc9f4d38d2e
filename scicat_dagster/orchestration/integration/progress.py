"""How far the stored events of an asset were dealt with: the cursor of a sensor that leaves none out.

Storage ids alone do not tell: a database with several writers gives them out before it shows the events, so
that an event may appear behind a later one. And one that could not be dealt with must not hold up the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import dagster as dg
from pydantic import BaseModel, ConfigDict

from scicat_dagster.orchestration.events import events_after

SETTLED_AFTER = timedelta(seconds=30)
"""From then on no event appears any more before one that is this old."""

MOST_DONE = 2000
"""Behind one that is not done: the cursor has to stay small, and somebody has to look at that one."""


class Progress(BaseModel):
    """Which events are done."""

    model_config = ConfigDict(frozen=True)

    settled: int = 0
    """Every event up to this storage id is done."""
    done: tuple[int, ...] = ()
    """The storage ids behind it that are done."""

    @classmethod
    def parse(cls, cursor: str | None) -> Progress:
        """The progress that a cursor holds; the beginning where there is none."""
        return cls.model_validate_json(cursor) if cursor else cls()

    def seen(
        self, key: dg.AssetKey, fetch: Callable[..., Any], most: int
    ) -> tuple[Sequence[dg.EventLogRecord], Sequence[dg.EventLogRecord]]:
        """The events behind what is settled in their order, and those of them that are to be done, at most
        ``most``; none while too many wait for one that cannot be done.
        """
        done = frozenset(self.done)
        room = max(0, min(most, MOST_DONE - len(done)))
        behind = list(islice(events_after(key, self.settled, 0.0, fetch), len(done) + room))
        return behind, [record for record in behind if record.storage_id not in done][:room]

    def after(
        self, behind: Sequence[dg.EventLogRecord], done: Collection[int], now: datetime | None = None
    ) -> Progress:
        """The progress when these are done as well, of the events that were behind it."""
        all_done = frozenset(self.done) | frozenset(done)
        latest = ((now or datetime.now(UTC)) - SETTLED_AFTER).timestamp()
        settled = self.settled
        for record in behind:
            if record.storage_id not in all_done or record.timestamp > latest:
                break
            settled = record.storage_id
        return Progress(settled=settled, done=tuple(sorted(each for each in all_done if each > settled)))
