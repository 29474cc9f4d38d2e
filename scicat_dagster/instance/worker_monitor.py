"""The monitor of one group of warm workers: a small process beside them, on the same machine.

Every few seconds it writes a heartbeat into Dagster's database, gives the runs whose worker process is gone
their final status, and ends the processes of the runs that are to be cancelled. Everybody else needs nothing
but the database: who cancels a run says so there, and a group without a heartbeat is gone with its machine.

It is a process of its own because the group's main process must be free to fork: a thread that holds a lock
at that moment would leave it locked indefinitely in the new worker.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass

import dagster as dg

from scicat_dagster.instance.run_process import (
    NOT_BEGUN,
    end_run,
    is_at_work,
    is_begun,
    rename_process,
    report_lost,
)
from scicat_dagster.orchestration.tags import GROUP_TAG

HEARTBEAT_SECONDS = 3.0

SILENT_SECONDS = 30.0
"""After so long without a heartbeat a group is gone."""

_MOST_SECONDS_PER_LOOK = 10.0

_AT_WORK = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

_PR_SET_PDEATHSIG = 1


def watch(group: str) -> None:
    """Start the process that looks after a group's runs, and start it again when it ends."""
    threading.Thread(target=_keep_watching, args=(group,), name="worker monitor", daemon=True).start()


def _keep_watching(group: str) -> None:
    while True:
        process = multiprocessing.get_context("fork").Process(
            target=_look_after, args=(group, os.getpid()), daemon=True
        )
        process.start()
        process.join()
        # It ends when the database is away, and says why in the worker's log.
        time.sleep(HEARTBEAT_SECONDS)


def _look_after(group: str, workers: int) -> None:
    # The main process answers these by finishing its runs; its fork inherits that.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent(workers)
    rename_process("worker monitor")
    ending: dict[str, threading.Thread] = {}
    missed: set[str] = set()
    with dg.DagsterInstance.get() as instance:
        while True:
            instance.daemon_cursor_storage.set_cursor_values({_key(group): str(time.time_ns())})
            runs = instance.get_runs(dg.RunsFilter(statuses=_AT_WORK, tags={GROUP_TAG: group}))
            gone = {run.run_id: run for run in runs if is_begun(run) and not is_at_work(run)}
            for run in gone.values():
                # One that was starting is handed to another process at once: that one is given its time.
                if run.status not in NOT_BEGUN or run.run_id in missed:
                    report_lost(instance, run.run_id)
            missed = set(gone)
            for run in runs:
                if run.status is dg.DagsterRunStatus.CANCELING and run.run_id not in {*gone, *ending}:
                    ending[run.run_id] = threading.Thread(target=end_run, args=(instance, run.run_id))
                    ending[run.run_id].start()
            ending = {run_id: thread for run_id, thread in ending.items() if thread.is_alive()}
            time.sleep(HEARTBEAT_SECONDS)


def _end_with_parent(parent: int) -> None:
    """Workers that are killed together with their machine's supervisor leave nothing behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit()


@dataclass
class _Silence:
    heartbeat: str
    seconds: float
    looked: float


class Heartbeats:
    """Which groups are silent, by what one process has seen of their heartbeats.

    Clocks of several machines are not compared: a group lives if its heartbeat is another one than before.
    A pause between two looks counts for a few seconds only, so that nobody is missed for a heartbeat that
    could not be written, or read, while the database was away.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Silence] = {}

    def is_silent(self, instance: dg.DagsterInstance, group: str) -> bool:
        """Whether the group has given no sign of life for :data:`SILENT_SECONDS` of looking."""
        key = _key(group)
        heartbeat = instance.daemon_cursor_storage.get_cursor_values({key}).get(key, "")
        now = time.monotonic()
        seen = self._seen.get(group)
        if seen is None or seen.heartbeat != heartbeat:
            self._seen[group] = _Silence(heartbeat, 0.0, now)
            return False
        seen.seconds += min(now - seen.looked, _MOST_SECONDS_PER_LOOK)
        seen.looked = now
        return seen.seconds >= SILENT_SECONDS


def _key(group: str) -> str:
    return f"scicat_dagster/heartbeat/{group}"
