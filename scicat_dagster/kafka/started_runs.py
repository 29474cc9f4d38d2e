"""The runs that have started and whose end was not announced: what messages make of them, in whichever order.

Their number is bounded, and so is the time for which an end is awaited. Storing them is not done here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from scicat_dagster.kafka.messages import RunStarted

KEPT = timedelta(days=30)
"""How long the end of a run is awaited."""

MOST_OPEN = 500
"""Runs that are followed, the latest: more of them mean that nobody announces written files."""

MOST_OVER = 200
"""Ends that are kept for a start that is read after them, from another partition or once more."""

_LONGEST_PLAN = timedelta(days=366)
"""Between a message and the dates in it; others are mistakes of whoever sent it."""


class OpenRun(BaseModel):
    """A run that has started and of which no end is known."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    file: str
    """Canonical absolute path."""
    instrument: str = ""
    started: datetime
    expected_end: datetime
    """When it is to stop; when it started, where nobody said so."""


class StartedRuns(BaseModel):
    """All runs that are followed, in the order in which they started."""

    model_config = ConfigDict(frozen=True)

    open: tuple[OpenRun, ...] = ()
    over: tuple[str, ...] = ()
    """Jobs whose end was read, the latest last."""

    def after(self, started: Iterable[RunStarted], ended: Collection[str], now: datetime) -> StartedRuns:
        """The same when these messages were read, in whichever order."""
        runs = {run.job_id: run for run in self.open}
        runs |= {each.job_id: open_run(each, now) for each in started}
        closed = dict.fromkeys((*self.over, *sorted(ended)))
        kept = [run for run in runs.values() if run.job_id not in closed and now - run.expected_end < KEPT]
        latest = sorted(kept, key=lambda run: run.started)[-MOST_OPEN:]
        return StartedRuns(open=tuple(latest), over=tuple(closed)[-MOST_OVER:])


def open_run(started: RunStarted, now: datetime) -> OpenRun:
    """A run as its message announces it; dates that cannot be meant do not count."""
    announced = min(_moment(started.announced_at_ms) or now, now)
    begin = _near(_moment(started.started_at_ms), announced)
    end = _near(_moment(started.stops_at_ms), announced)
    # One that is announced again, or late, has not ended before that.
    latest = max(announced, begin, end)
    return OpenRun(
        job_id=started.job_id,
        file=started.file_path,
        instrument=started.instrument,
        started=begin,
        expected_end=latest,
    )


def _moment(milliseconds: int | None) -> datetime | None:
    try:
        return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        # Producers may set the time of a message to anything.
        return None


def _near(moment: datetime | None, announced: datetime) -> datetime:
    return moment if moment is not None and abs(moment - announced) < _LONGEST_PLAN else announced
