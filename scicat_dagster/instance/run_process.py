"""The process that executes a run: which it is, whether it is still at work, and how it is ended.

A process says on its run which it is (a tag, with the run's own id, for a re-execution carries its parent's
tags), and in its own name which run it executes (``ps`` shows it). So whoever is on the same machine can tell
without asking it whether it is at work, also when it hangs in C, when it is an orphan, when its number was
given to another process, and when it has gone on to the next run.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg

from scicat_dagster.orchestration.failures.crashes import note_crash
from scicat_dagster.orchestration.tags import NO_REASON, PROCESS_TAG, REASON_TAG

NOT_BEGUN = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING)
"""Of a run: launched, and no process has begun to execute it."""

GRACE_SECONDS = 10.0
"""How long a process that was asked to end may take before it is killed."""

_PROCESSES = Path("/proc")

_LONGEST_NAME = 15
"""The characters that Linux keeps of a process's name."""

_LOOK_SECONDS = 0.1


@contextmanager
def at_work(
    instance: dg.DagsterInstance, run_id: str, tags: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Let this process be known as the one that executes the run; ``tags`` are written with it."""
    run = instance.get_run_by_id(run_id)
    # A re-execution carries its parent's tags.
    cleared = {REASON_TAG: NO_REASON} if run is not None and REASON_TAG in run.tags else {}
    with known_as(run_id) as own:
        instance.add_run_tags(run_id, {**own, **cleared, **(tags or {})})
        yield


@contextmanager
def known_as(run_id: str) -> Iterator[Mapping[str, str]]:
    """Name this process after a run that it executes, which may not exist yet; its tags are to be added."""
    before = _name(os.getpid())
    rename_process(_name_of_work(run_id))
    try:
        yield {PROCESS_TAG: f"{_identity(os.getpid())} {run_id}"}
    finally:
        rename_process(before)


def is_begun(run: dg.DagsterRun) -> bool:
    """Whether a process has begun to execute the run, wherever it is, and whatever became of it."""
    return bool(_process(run))


def is_on_this_machine(run: dg.DagsterRun) -> bool:
    """Whether the process that executes the run, or did so, is one of this machine."""
    return _process(run).split()[:1] == [_machine()]


def is_at_work(run: dg.DagsterRun) -> bool:
    """Whether a process of this machine executes the run now.

    The tag alone does not say so: a process has many runs.
    """
    process = _process(run)
    if not process or process != _identity(_process_id(process)):
        return False
    return not _PROCESSES.is_dir() or _name(_process_id(process)) == _name_of_work(run.run_id)


def end_run(instance: dg.DagsterInstance, run_id: str) -> bool:
    """End a run's process on this machine, and see that the run has a final status.

    SIGTERM first, on which Dagster interrupts the op and says so; SIGKILL for what loops or waits in C. False
    where not even that ended it, as behind a mount that is stalled.
    """
    run = instance.get_run_by_id(run_id)
    if run is None:
        return False
    for number in (signal.SIGTERM, signal.SIGKILL):
        if is_at_work(run):
            with suppress(ProcessLookupError):
                os.kill(_process_id(_process(run)), number)
            _wait_for_its_end(run)
    if is_at_work(run):
        return False
    ended = instance.get_run_by_id(run_id)
    if ended is not None and not ended.is_finished:
        # Should it be Dagster's monitoring that ends it, because it hangs.
        note_crash(instance, ended)
        instance.report_run_canceled(ended, "The process of the run was ended.")
    return True


def report_lost(instance: dg.DagsterInstance, run_id: str) -> None:
    """Give a run its final status whose process on this machine is gone; any other is left alone."""
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished or is_at_work(run):
        return
    if run.status is dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, "The process of the run is gone.")
    else:
        note_crash(instance, run)
        instance.report_run_failed(run, "The process of the run is gone: it crashed or was killed.")


def rename_process(name: str) -> None:
    """Name this process, where the system knows such names; ``ps -o pid,comm`` shows them."""
    with suppress(OSError):
        (_PROCESSES / "self" / "comm").write_text(name[:_LONGEST_NAME])


def _wait_for_its_end(run: dg.DagsterRun) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    while is_at_work(run) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)


def _name_of_work(run_id: str) -> str:
    return f"run {run_id}"[:_LONGEST_NAME]


def _name(process_id: int) -> str:
    with suppress(OSError):
        return (_PROCESSES / str(process_id) / "comm").read_text().removesuffix("\n")
    return ""


def _process(run: dg.DagsterRun) -> str:
    """The identity of the process that the run itself was given, not the one that it re-executes; or none."""
    identity, _, run_id = run.tags.get(PROCESS_TAG, "").rpartition(" ")
    return identity if run_id == run.run_id else ""


def _process_id(identity: str) -> int:
    return int(identity.split()[1])


def _identity(process_id: int) -> str:
    """Machine, process and, where the system tells, when it began: numbers are used again. Empty: none."""
    began = ""
    try:
        if _PROCESSES.is_dir():
            state, *fields = (_PROCESSES / str(process_id) / "stat").read_text().rpartition(")")[2].split()
            if state == "Z":
                return ""
            began = fields[18]
        else:
            os.kill(process_id, 0)
    except OSError:
        return ""
    return f"{_machine()} {process_id} {began}".strip()


def _machine() -> str:
    """Where a process's number means something: containers of one machine may share its name."""
    with suppress(OSError):
        return f"{socket.gethostname()}/{(_PROCESSES / 'self' / 'ns' / 'pid').stat().st_ino}"
    return socket.gethostname()
