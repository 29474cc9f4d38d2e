"""Whether messages that wait are read: for how long their number did not get smaller."""

from __future__ import annotations

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
