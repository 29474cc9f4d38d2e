"""Waiting for a storage: for a while and not longer. What hangs here is a thread that reads an empty pipe."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from scicat_dagster.patience import LATER_SECONDS, Signs, SilentStorageError, answered

BRIEF = 0.05


class Pipe:
    """A place whose storage hangs until somebody writes into the pipe."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.asked = 0
        self.done = threading.Event()
        self._end, self._other = os.pipe()

    def ask(self) -> bytes:
        self.asked += 1
        return os.read(self._end, 1)

    def recover(self) -> None:
        os.write(self._other, b"x")


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Pipe]:
    pipe = Pipe(tmp_path / "hanging")
    yield pipe
    pipe.recover()


def test_an_answer_comes_as_it_is(tmp_path: Path) -> None:
    assert answered(tmp_path, lambda: [1, 2]) == [1, 2]


def test_an_error_comes_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        answered(tmp_path, (tmp_path / "nowhere").stat)


def test_a_storage_that_hangs_is_named_and_asked_again_later(hanging: Pipe) -> None:
    with pytest.raises(SilentStorageError) as silent:
        answered(hanging.place, hanging.ask, seconds=BRIEF)

    assert silent.value.what == f"The storage of {hanging.place} did not answer within {BRIEF:g} s."
    assert silent.value.retry_after_seconds == LATER_SECONDS


def test_a_place_that_hangs_is_not_asked_a_second_time_and_others_are(hanging: Pipe, tmp_path: Path) -> None:
    for _ in range(3):
        with pytest.raises(SilentStorageError):
            answered(hanging.place, hanging.ask, seconds=BRIEF)

    assert hanging.asked == 1
    assert answered(tmp_path, lambda: "well") == "well"


def test_a_place_is_asked_again_once_it_has_answered(hanging: Pipe) -> None:
    late: list[bytes] = []
    done = threading.Event()

    def keep(answer: bytes) -> None:
        late.append(answer)
        done.set()

    with pytest.raises(SilentStorageError):
        answered(hanging.place, hanging.ask, seconds=BRIEF, late=keep)
    hanging.recover()

    assert done.wait(30)
    assert late == [b"x"]
    assert answered(hanging.place, lambda: "well") == "well"


def test_a_long_call_is_waited_for_as_long_as_it_gives_signs(tmp_path: Path) -> None:
    signs, pause = Signs(), threading.Event()

    def read() -> str:
        for _ in range(8):
            pause.wait(BRIEF)
            signs.heard()
        return "all"

    assert answered(tmp_path, read, signs=signs, seconds=4 * BRIEF) == "all"


def test_a_call_that_nobody_waits_for_ends_at_its_next_sign(hanging: Pipe) -> None:
    signs, ended, went_on = Signs(), threading.Event(), threading.Event()

    def write() -> None:
        try:
            hanging.ask()
            signs.heard()
            went_on.set()
        finally:
            ended.set()

    with pytest.raises(SilentStorageError):
        answered(hanging.place, write, signs=signs, seconds=BRIEF)
    hanging.recover()

    assert ended.wait(30)
    assert not went_on.is_set()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_asks_for_itself(hanging: Pipe) -> None:
    with pytest.raises(SilentStorageError):
        answered(hanging.place, hanging.ask, seconds=BRIEF)
    child = os.fork()
    if child == 0:
        # Neither the thread that hangs nor the idle ones are here.
        os._exit(0 if answered(hanging.place, lambda: "well") == "well" else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_failure_can_be_sent_to_another_process() -> None:
    sent = pickle.loads(pickle.dumps(SilentStorageError("/data/1.nxs", 30.0)))

    assert (sent.what, sent.place, sent.seconds) == (
        "The storage of /data/1.nxs did not answer within 30 s.",
        "/data/1.nxs",
        30.0,
    )
