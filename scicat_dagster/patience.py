"""Waiting for a storage that may hang, as behind a mount whose server is gone: for a while, and not longer.

Nothing can interrupt such a call, so that it is made in a thread: what hangs is that thread, and whoever
wanted the answer says so and goes on. Reading HDF5 is :mod:`scicat_dagster.isolation`'s.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from scicat_dagster.errors import TransientError

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
"""A healthy storage answers in milliseconds. A run keeps a place from others for so long."""

LATER_SECONDS = 300.0
"""A mount that hangs does so for minutes: nothing waits for it in a worker meanwhile."""

_CLOSING_SECONDS = 1.0


class SilentStorageError(TransientError):
    """The storage did not answer: its mount hangs, or it is very slow."""

    def __init__(self, place: str, seconds: float) -> None:
        super().__init__(
            f"The storage of {place} did not answer within {seconds:g} s.",
            remedy="See that its mount does not hang; it is tried again.",
            retry_after_seconds=LATER_SECONDS,
        )
        self.place = place
        self.seconds = seconds

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.place, self.seconds)


class _UnwantedError(Exception):
    """Nobody waits for the answer any more."""


class Signs:
    """The signs of life of a call that may take long, such as one that reads a whole file."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.is_wanted = True

    def heard(self) -> None:
        """Say that the storage has answered a part. Ends the call where nobody waits for it any more."""
        if not self.is_wanted:
            raise _UnwantedError
        self.last = time.monotonic()


def answered(
    place: Path | str,
    ask: Callable[[], T],
    *,
    signs: Signs | None = None,
    late: Callable[[T], object] = lambda _: None,
    seconds: float | None = None,
) -> T:
    """What ``ask`` returns or raises, in the time that a storage has for it.

    Where an earlier call about the same place still hangs, its end is waited for, and no other one is made
    before: a service that asks every minute for a weekend would have thousands of threads.

    Parameters
    ----------
    place
        The file or folder that is asked about.
    signs
        Of a call that may take longer than that: the time counts from the last one.
    late
        Called with an answer that comes when nobody waits for it any more, such as an open file.
    seconds
        How long to wait; :data:`PATIENCE_SECONDS` where nothing is said.

    Raises
    ------
    SilentStorageError
        There is no answer in time.
    """
    name, patience = str(place), PATIENCE_SECONDS if seconds is None else seconds
    before = _hanging.get(name)
    if before is not None and not before.ends_within(patience):
        raise SilentStorageError(name, patience)
    _hanging.pop(name, None)
    call = _Call(ask, signs or Signs(), late)
    _hand_to_a_thread(call)
    if not call.wait(patience):
        _hanging[name] = call
        raise SilentStorageError(name, patience)
    return call.answer()


def close_patiently(file: int) -> None:
    """Close a descriptor. Some mounts hang in that, too; then it is closed when the mount answers."""
    call = _Call(lambda: os.close(file), Signs(), lambda _: None)
    _hand_to_a_thread(call)
    call.wait(_CLOSING_SECONDS)


class _Call(Generic[T]):
    """A call in another thread, of which somebody may still want the answer."""

    def __init__(self, ask: Callable[[], T], signs: Signs, late: Callable[[T], object]) -> None:
        self._ask = ask
        self._signs = signs
        self._late = late
        self._changed = threading.Condition()
        self._outcome: Callable[[], T] | None = None
        self._process = os.getpid()

    def ends_within(self, seconds: float) -> bool:
        """Whether it hangs no more by then; a fork has none of the threads."""
        if self._process != os.getpid():
            return True
        with self._changed:
            return self._changed.wait_for(lambda: self._outcome is not None, seconds)

    def make(self) -> None:
        """Make the call, in the thread that may hang."""
        try:
            found = self._ask()
        except BaseException as error:  # noqa: BLE001 - it is raised where the answer is wanted
            self._settle(_raising(error))
            return
        if not self._settle(lambda: found):
            self._late(found)

    def wait(self, seconds: float) -> bool:
        """Whether there is an outcome so many seconds after the last sign of life, or before."""
        with self._changed:
            while self._outcome is None:
                left = self._signs.last + seconds - time.monotonic()
                if left <= 0:
                    self._signs.is_wanted = False
                    return False
                self._changed.wait(left)
            return True

    def answer(self) -> T:
        """What was returned; raises what was raised."""
        if self._outcome is None:
            raise RuntimeError("There is no outcome yet.")
        return self._outcome()

    def _settle(self, outcome: Callable[[], T]) -> bool:
        with self._changed:
            self._outcome = outcome
            self._changed.notify_all()
            return self._signs.is_wanted


def _raising(error: BaseException) -> Callable[[], Any]:
    def outcome() -> Any:
        raise error

    return outcome


_Calls = SimpleQueue["_Call[Any]"]

_hanging: dict[str, _Call[Any]] = {}
"""By their places the calls that nobody waits for any more."""

_idle: deque[_Calls] = deque()
"""Of threads that have nothing to do: starting one takes longer than most answers."""

os.register_at_fork(after_in_child=_idle.clear)


def _hand_to_a_thread(call: _Call[Any]) -> None:
    try:
        calls = _idle.pop()
    except IndexError:
        calls = SimpleQueue()
        # One that hangs must not keep the process from ending.
        threading.Thread(target=_make_calls, args=(calls,), name="storage", daemon=True).start()
    calls.put(call)


def _make_calls(calls: _Calls) -> None:
    while True:
        calls.get().make()
        _idle.append(calls)
