"""Whether messages that wait are read: how long their number did not get smaller, and whether none waits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta

PATIENCE = timedelta(minutes=10)
"""How long messages may wait without their number getting smaller."""


class LagWatch:
    """For each topic the smallest lag, and since when there was no smaller one."""

    def __init__(self) -> None:
        self._smallest: dict[str, tuple[int, float]] = {}

    def stuck(self, lag: Mapping[str, int], now: float) -> dict[str, int]:
        """The topics whose lag did not get smaller for ``PATIENCE``, by the monotonic clock."""
        found: dict[str, int] = {}
        for topic, count in lag.items():
            smallest, since = self._smallest.get(topic, (count + 1, now))
            if count == 0 or count < smallest:
                self._smallest[topic] = (count, now)
            elif now - since >= PATIENCE.total_seconds():
                found[topic] = count
        return found


class CaughtUp:
    """Since when there is nothing left of what was announced by then: neither unread nor unstored.

    A poll that read everything is not enough: its runs are requested while its cursor is stored.
    """

    def __init__(self) -> None:
        self._at = -math.inf
        self._polled: tuple[str, float] | None = None

    def begin(self, stored_cursor: str | None) -> None:
        """A poll begins behind what is stored."""
        if self._polled is not None and self._polled[0] == stored_cursor:
            self._at = self._polled[1]
        self._polled = None

    def end(self, cursor: str, lag: Mapping[str, int], now: float) -> None:
        """A poll that ended here left so many messages; ``now`` is of the monotonic clock."""
        self._polled = None if any(lag.values()) else (cursor, now)

    def was_within(self, seconds: float, now: float) -> bool:
        """Whether that was so within the last seconds."""
        return now - self._at <= seconds
