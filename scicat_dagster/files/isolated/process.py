"""The warm process: it has loaded what the tasks need, and forks a child for each request.

It has one thread and no open HDF5 file, so that forking is safe. A child has limits on its memory, its time
and the size of its answer; it is killed at its deadline, and when the process that asked is gone. A child
with the task ``several`` is asked again and again, by a line of its own, until it has grown.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scicat_dagster.files.isolated.drawing_task import answer as draw
from scicat_dagster.files.isolated.drawing_task import warm_up as warm_up_drawing
from scicat_dagster.files.isolated.hdf5 import answer as read_hdf5
from scicat_dagster.files.isolated.hdf5 import warm_up
from scicat_dagster.isolation import (
    GROWTH_BYTES,
    LARGEST_ANSWER_BYTES,
    MOST_FILES,
    Ending,
    Limits,
    Request,
    Task,
    search,
)

_LARGEST_MESSAGE = 4096
_DESCRIPTORS = 2 + MOST_FILES
_PR_SET_PDEATHSIG = 1
_MOST_LIKELY_VICTIM = "1000"
"""For the kernel's out-of-memory killer: the child, and not the worker whose file it reads."""


@dataclass
class _Child:
    process: int
    client: socket.socket
    alive: int
    """The reading end of a pipe that the child holds open as long as it lives."""
    deadline: float
    was_too_slow: bool = False


@dataclass
class _Server:
    control: socket.socket
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    by_descriptor: dict[int, _Child] = field(default_factory=dict)

    def run(self) -> None:
        self.selector.register(self.control, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in self.selector.select(self._seconds_left())}
            for descriptor in ready:
                if (child := self.by_descriptor.get(descriptor)) is not None:
                    self._attend(child, descriptor)
            self._kill_late_ones()
            # Last, because a new child's descriptors may have the numbers of those that were just closed.
            if self.control.fileno() in ready and not self._accept():
                return

    def _seconds_left(self) -> float | None:
        deadlines = [child.deadline for child in self._running() if not child.was_too_slow]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _running(self) -> list[_Child]:
        return list({child.process: child for child in self.by_descriptor.values()}.values())

    def _accept(self) -> bool:
        """Fork a child for the next request; False when nobody is left who could ask."""
        message, descriptors, _, _ = socket.recv_fds(self.control, _LARGEST_MESSAGE, _DESCRIPTORS)
        if not message:
            return False
        try:
            request = Request.model_validate_json(message)
            client, memory, *files = descriptors
        except ValueError:
            _close(descriptors)
            return True
        child = self._forked(request, socket.socket(fileno=client), memory, files)
        _close([memory, *files])
        for descriptor in (child.alive, child.client.fileno()):
            self.by_descriptor[descriptor] = child
            self.selector.register(descriptor, selectors.EVENT_READ)
        return True

    def _forked(self, request: Request, client: socket.socket, memory: int, files: list[int]) -> _Child:
        alive, held_by_child = os.pipe()
        parent = os.getpid()
        process = os.fork()
        if process == 0:
            _work(parent, request, memory, files)
        os.close(held_by_child)
        return _Child(process, client, alive, time.monotonic() + request.limits.seconds)

    def _attend(self, child: _Child, descriptor: int) -> None:
        if descriptor == child.alive:
            self._report(child)
        else:
            # Clients send nothing: this one is gone.
            self._forget(descriptor)
            _kill(child)

    def _report(self, child: _Child) -> None:
        """Tell the client how its child ended."""
        self._forget(child.alive)
        os.close(child.alive)
        _, status, usage = os.wait4(child.process, 0)
        ending = Ending(
            exit_code=os.waitstatus_to_exitcode(status),
            was_too_slow=child.was_too_slow,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            peak_memory_bytes=usage.ru_maxrss * 1024,
        )
        self._forget(child.client.fileno())
        with child.client:
            try:
                child.client.send(ending.model_dump_json().encode(), socket.MSG_DONTWAIT)
            except OSError:
                # It is gone.
                return

    def _forget(self, descriptor: int) -> None:
        if self.by_descriptor.pop(descriptor, None) is not None:
            self.selector.unregister(descriptor)

    def _kill_late_ones(self) -> None:
        now = time.monotonic()
        for child in self._running():
            if not child.was_too_slow and child.deadline <= now:
                child.was_too_slow = True
                _kill(child)


def serve(descriptor: int) -> None:
    """Serve the requests that come through a socket, until nobody holds its other end."""
    warm_up()
    warm_up_drawing()
    # What is here stays; looking through it for garbage would copy it into each child.
    gc.freeze()
    with socket.socket(fileno=descriptor) as control:
        _Server(control).run()


def _work(parent: int, request: Request, memory: int, files: list[int]) -> None:
    """What a child does; it never returns."""
    code = 1
    try:
        _confine(parent, request.limits)
        _answer(request.task, memory, files)
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it is must not go on in the warm process's loop
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(code)


def _answer(task: Task, memory: int, files: Sequence[int]) -> None:
    """Put the answer where the request was."""
    size = os.fstat(memory).st_size
    content = _TASKS[task](os.pread(memory, size, 0), files)
    os.ftruncate(memory, 0)
    with os.fdopen(memory, "wb", closefd=False) as stream:
        stream.seek(0)
        stream.write(content)


def _answer_several(_nothing: bytes, files: Sequence[int]) -> bytes:
    """Answer what comes by the line, until its other end is closed or this process has grown."""
    beginning = _mapped_bytes()
    with socket.socket(fileno=files[0]) as line:
        while _mapped_bytes() - beginning < GROWTH_BYTES:
            message, descriptors, _, _ = socket.recv_fds(line, _LARGEST_MESSAGE, _DESCRIPTORS)
            if not message:
                break
            memory, *others = descriptors
            request = Request.model_validate_json(message)
            resource.setrlimit(resource.RLIMIT_AS, _memory_limit(request.limits))
            _answer(request.task, memory, others)
            _close(descriptors)
            line.send(b"1")
    return b""


def _confine(parent: int, limits: Limits) -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    allowed = _mapped_bytes() + limits.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_ANSWER_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Path("/proc/self/oom_score_adj").write_text(_MOST_LIKELY_VICTIM)


def _mapped_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _memory_limit(limits: Limits) -> tuple[int, int]:
    """The soft limit for one request, beyond what is mapped already, and the hard one, which stays."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    return min(_mapped_bytes() + limits.memory_bytes, hard), hard


def _kill(child: _Child) -> None:
    # Nobody has waited for it yet, so that its number is its own.
    os.kill(child.process, signal.SIGKILL)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


_TASKS: Mapping[Task, Callable[[bytes, Sequence[int]], bytes]] = {
    "hdf5": read_hdf5,
    "draw": draw,
    "search": search,
    "several": _answer_several,
}

_LIBC = ctypes.CDLL(None)
