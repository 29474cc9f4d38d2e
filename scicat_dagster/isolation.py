"""Work on untrusted input in a child process, with a limit on its time and on its memory.

libhdf5 can loop indefinitely or crash on a damaged file, and no Python code can interrupt it; a regular
expression can search for years. One warm process (:mod:`scicat_dagster.files.isolated.process`) serves this
process and all its forks, which inherit the socket to it: started before the fork (``start``), it costs
nothing afterwards. It forks a child for each request. The socket carries requests in one direction only, each
with the file descriptors of the answer, so that nobody can receive what is meant for another one. When the
last holder of the socket is gone, the warm process ends.

Who works on many files can let one child answer for those of them that nothing is wrong with
(:func:`shared_child`): a process costs several times as much as the values of a small file.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError

from scicat_dagster.errors import TransientError
from scicat_dagster.patience import LATER_SECONDS

Task = Literal["hdf5", "draw", "search", "several"]

MOST_FILES = 32
"""Descriptors that go with a request."""

LARGEST_ANSWER_BYTES = 64 * 1024 * 1024
"""Four times what a catalogue takes in a request (16 MiB), because a schema may reduce long lists."""


class Limits(BaseModel):
    """What one child may use."""

    model_config = ConfigDict(frozen=True)

    seconds: PositiveFloat = 60.0
    """Wall time. A file takes milliseconds, on a slow storage seconds; a run that ends after a minute keeps a
    worker for less than Dagster's own limits.
    """
    memory_bytes: PositiveInt = 1 << 30
    """Address space beyond what the warm process has mapped: a chunk of the largest allowed size needs some
    768 MB (compressed, and inflated into a buffer that grows by doubling).
    """


LIMITS = Limits()

_SHARED_LIFE_SECONDS = 600.0
_SHARED_ANSWER_SECONDS = 5.0
"""What takes longer is asked in a child of its own, which has all the time that it may have."""

GROWTH_BYTES = 64 * 1024 * 1024
"""What a shared child may keep of the files before; with more it ends, and the next file gets another one."""


class Request(BaseModel):
    """What the warm process is asked for; what the task works on is in the file descriptors beside it."""

    model_config = ConfigDict(frozen=True)

    task: Task
    limits: Limits


class Ending(BaseModel):
    """How a child ended: what the warm process reports to the client."""

    model_config = ConfigDict(frozen=True)

    exit_code: int
    """As ``os.waitstatus_to_exitcode``: negative for the number of a signal."""
    was_too_slow: bool = False
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0


_REAPED_WITHIN_SECONDS = 10.0
"""After its deadline a child is killed; one that waits for a storage cannot be until the storage answers."""

_SHARED_ENDS_WITHIN_SECONDS = 1.0

_BUSY = 0.05
"""Of its time: a child that computed for less was waiting for a storage. One in a loop gets its share of a
busy machine, which is more.
"""

_KEPT_ENVIRONMENT = ("HDF5_", "PYTHON", "LC_", "LD_LIBRARY_PATH", "LANG", "PATH", "TZ", "VIRTUAL_ENV")
"""No secret of ours is where libhdf5 reads untrusted files."""

# The child of a child: nobody has to wait for its end.
_PROGRAM = """
import os, sys
if os.fork():
    os._exit(0)
from scicat_dagster.files.isolated.process import serve
serve(int(sys.argv[1]))
"""


class CrashedError(Exception):
    """The child crashed or was killed, also when it was tried once more."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"signal {-self.exit_code}" if self.exit_code < 0 else f"exit code {self.exit_code}"


class EndlessError(Exception):
    """The child was computing until its deadline."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class NoAnswerError(TransientError):
    """The child waited for something until its deadline, or the warm process is gone."""


class _LostError(Exception):
    """The warm process ended without a report."""


def ask(task: Task, request: bytes, *, files: Sequence[int] = (), limits: Limits = LIMITS) -> bytes:
    """The answer to a request, computed in a child process. ``files`` are descriptors that the child gets.

    A child that crashed is tried once more, because the machine may have ended it for want of memory. What a
    shared child could not answer is asked in one of its own first.

    Raises
    ------
    CrashedError
        It crashed twice.
    EndlessError
        It was computing until its deadline.
    NoAnswerError
        It waited for the storage until its deadline, or no child could be started.
    """
    shared = _shared.get()
    if shared is not None and (answered := shared.answer(task, request, files, limits)) is not None:
        return answered
    crash = 0
    for _ in range(2):
        try:
            ending, answer = _asked(task, request, files, limits)
        except _LostError:
            continue
        _warm.count(ending)
        if ending.was_too_slow:
            if ending.cpu_seconds < _BUSY * limits.seconds:
                raise _silent(limits)
            raise EndlessError(limits.seconds)
        if ending.exit_code == 0:
            return answer
        crash = ending.exit_code
    if crash:
        raise CrashedError(crash)
    raise _no_answer("The process that reads files in isolation ended.")


class SharedChild:
    """A child that answers one request after another, until it fails at one, or somebody ends it."""

    def __init__(self) -> None:
        self._line: socket.socket | None = None
        self._report: socket.socket | None = None

    def answer(self, task: Task, request: bytes, files: Sequence[int], limits: Limits) -> bytes | None:
        """The answer to a request; None where a child of its own has to be asked."""
        with _shared_memory(request) as memory:
            message = Request(task=task, limits=limits).model_dump_json().encode()
            try:
                line = self._line or self._started()
                line.settimeout(min(limits.seconds, _SHARED_ANSWER_SECONDS))
                socket.send_fds(line, [message], [memory, *files])
                is_answered = bool(line.recv(1))
            except (OSError, _LostError):
                is_answered = False
            if not is_answered:
                self.end()
                return None
            return _content(memory)

    def end(self) -> None:
        """Let the next request have another child; to be called where something is wrong with a file."""
        line, report = self._line, self._report
        self._line = self._report = None
        if line is None or report is None:
            return
        with report:
            line.close()
            report.settimeout(_SHARED_ENDS_WITHIN_SECONDS)
            try:
                _warm.count(Ending.model_validate_json(report.recv(4096)))
            except (OSError, ValidationError):
                # It is busy or gone; the warm process kills whatever nobody waits for.
                return

    def _started(self) -> socket.socket:
        report, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        line, its_line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        limits = Limits(seconds=_SHARED_LIFE_SECONDS, memory_bytes=LIMITS.memory_bytes + GROWTH_BYTES)
        message = Request(task="several", limits=limits).model_dump_json().encode()
        self._line, self._report = line, report
        with theirs, its_line, _shared_memory(b"") as memory:
            _warm.send(message, [theirs.fileno(), memory, its_line.fileno()])
        return line


_shared: ContextVar[SharedChild | None] = ContextVar("shared_child", default=None)


@contextmanager
def shared_child() -> Iterator[SharedChild]:
    """Let one child answer what this thread asks meanwhile, for as long as it answers.

    Whoever finds that something is wrong with a file ends the child, so that what was left of that file
    cannot meet the next one.
    """
    child = SharedChild()
    before = _shared.set(child)
    try:
        yield child
    finally:
        _shared.reset(before)
        child.end()


def start() -> None:
    """Start the warm process unless there is one: before a fork, so that all forks share it."""
    _warm.connected()


def largest_child_bytes() -> int:
    """The most memory that a child has had of those that this process asked for."""
    return _warm.largest_child_bytes


def child_cpu_seconds() -> float:
    """The CPU time that all children took that this process asked for."""
    return _warm.child_cpu_seconds


def _silent(limits: Limits) -> NoAnswerError:
    return NoAnswerError(
        f"The storage did not answer within {limits.seconds:g} s.",
        remedy="See that its mount does not hang; it is tried again.",
        # No worker is to wait for the same storage again and again.
        retry_after_seconds=LATER_SECONDS,
    )


def _no_answer(what: str) -> NoAnswerError:
    return NoAnswerError(what, remedy="See that the storage is healthy and the machine has memory left.")


def _asked(task: Task, request: bytes, files: Sequence[int], limits: Limits) -> tuple[Ending, bytes]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, _shared_memory(request) as memory:
        descriptors = [theirs.fileno(), memory, *files]
        _warm.send(Request(task=task, limits=limits).model_dump_json().encode(), descriptors)
        theirs.close()
        return _reported(ours, limits), _content(memory)


def _content(memory: int) -> bytes:
    return os.pread(memory, min(os.fstat(memory).st_size, LARGEST_ANSWER_BYTES), 0)


@contextmanager
def _shared_memory(content: bytes) -> Iterator[int]:
    """A descriptor of memory that holds the request, and afterwards the answer."""
    descriptor = os.memfd_create("isolation")
    try:
        os.pwrite(descriptor, content, 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _reported(report: socket.socket, limits: Limits) -> Ending:
    report.settimeout(limits.seconds + _REAPED_WITHIN_SECONDS)
    try:
        return Ending.model_validate_json(report.recv(4096))
    except TimeoutError:
        raise _silent(limits) from None
    except (ConnectionError, ValidationError):
        raise _LostError from None


class _Warm:
    """The socket to the warm process, which is started at the first need and when it is gone."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._inode = 0
        self.largest_child_bytes = 0
        self.child_cpu_seconds = 0.0
        self._starting = threading.Lock()

    def connected(self) -> socket.socket:
        with self._starting:
            if self._socket is None or not self._is_still_ours(self._socket):
                self._socket = _started()
                self._inode = os.fstat(self._socket.fileno()).st_ino
            return self._socket

    def count(self, ending: Ending) -> None:
        self.largest_child_bytes = max(self.largest_child_bytes, ending.peak_memory_bytes)
        self.child_cpu_seconds += ending.cpu_seconds

    def send(self, message: bytes, descriptors: list[int]) -> None:
        used = self.connected()
        try:
            socket.send_fds(used, [message], descriptors)
        except OSError:
            # It ended since the last request.
            self._forget(used)
            used = self.connected()
            try:
                socket.send_fds(used, [message], descriptors)
            except OSError:
                self._forget(used)
                raise _LostError from None

    def _forget(self, used: socket.socket) -> None:
        with self._starting:
            if self._socket is used:
                used.close()
                self._socket = None

    def _is_still_ours(self, kept: socket.socket) -> bool:
        # Who daemonizes closes all descriptors, and their numbers are used again.
        try:
            return os.fstat(kept.fileno()).st_ino == self._inode
        except OSError:
            return False

    def after_fork(self) -> None:
        # Another thread may have held the lock.
        self._starting = threading.Lock()


_warm = _Warm()


os.register_at_fork(after_in_child=_warm.after_fork)


def _started() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {name: value for name, value in os.environ.items() if name.startswith(_KEPT_ENVIRONMENT)}
    with theirs:
        subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            env=environment | {"OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # A signal to the group of a worker that is asked to end is not for the file that it still reads.
            start_new_session=True,
            check=True,
        )
    return ours


def search(request: bytes, _files: Sequence[int]) -> bytes:
    """The first match and its groups as JSON, or null."""
    asked = json.loads(request)
    found = re.search(asked["pattern"], asked["text"])
    return json.dumps(None if found is None else [found.group(0), *found.groups()]).encode()
