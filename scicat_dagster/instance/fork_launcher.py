"""Dagster's run launcher for one machine without extra services. Named in ``dagster.yaml``.

Dagster's own starts a Python for each run, which loads Dagster for two to three seconds before it does
anything. Here a process loads everything once, and each run is a fork of it. Warm workers, on any number of
machines, are ``warm_worker_launcher``'s.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any, Self

import dagster as dg

from scicat_dagster.dagster_internals import (
    PRELOADED_MODULES,
    CheckRunHealthResult,
    ConfigurableClass,
    ConfigurableClassData,
    InstanceRef,
    LaunchRunContext,
    RunLauncher,
    UserConfigSchema,
    WorkerStatus,
    setup_interrupt_handlers,
)
from scicat_dagster.instance.run_execution import execute_run
from scicat_dagster.instance.run_process import (
    at_work,
    end_run,
    is_at_work,
    is_begun,
    is_on_this_machine,
    report_lost,
)
from scicat_dagster.orchestration.failures.crashes import lost_run_health

_LOADED = [*PRELOADED_MODULES, "scicat_dagster.instance.fork_preload"]


class ForkLauncher(RunLauncher, ConfigurableClass):
    """Executes each run in a fork of a process that has loaded Dagster and this package.

    The configuration file is read by each run; a new version of the package needs a restart.
    """

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._forks: ForkServerContext = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload(_LOADED)
        self._running: list[ForkServerProcess] = []
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """Where Dagster found this class and its configuration."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """It has no settings."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """Called by Dagster with the ``config`` of ``run_launcher``."""
        return cls(inst_data=inst_data, **config_value)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Begin the run in a process of its own."""
        self._running = [process for process in self._running if process.is_alive()]
        process = self._forks.Process(
            target=_execute, args=(self._instance.get_ref(), context.dagster_run.run_id)
        )
        process.start()
        self._running.append(process)
        threading.Thread(
            target=_see_to_its_end,
            args=(process, self._instance.get_ref(), context.dagster_run.run_id),
            name="end of a run",
            daemon=True,
        ).start()

    def join(self, timeout: int = 30) -> None:
        """Wait for the runs that were launched here, for so many seconds each."""
        for process in self._running:
            process.join(timeout)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether Dagster may ask for what became of a run's process."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the process of a run is still there, as far as this machine can tell."""
        if is_on_this_machine(run) and not is_at_work(run):
            return lost_run_health(self._instance, run, "The process of the run is gone.")
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def terminate(self, run_id: str) -> bool:
        """End a run, by force where it does not react; False where its process is on another machine."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        if is_begun(run) and not is_on_this_machine(run):
            return False
        return end_run(self._instance, run_id)


def _execute(reference: InstanceRef, run_id: str) -> None:
    setup_interrupt_handlers()
    with dg.DagsterInstance.from_ref(reference) as instance, at_work(instance, run_id):
        execute_run(instance, run_id)


def _see_to_its_end(process: ForkServerProcess, reference: InstanceRef, run_id: str) -> None:
    """Report a run whose process was killed, at once: Dagster's monitoring ignores a run that is starting.

    A run that is being cancelled is reported by whoever does that. If it is Dagster's monitoring, because the
    run has lasted too long, the run fails and is tried again, and a word from here would come after that.
    """
    process.join()
    if process.exitcode != 0:
        with dg.DagsterInstance.from_ref(reference) as instance:
            run = instance.get_run_by_id(run_id)
            if run is not None and run.status is not dg.DagsterRunStatus.CANCELING:
                report_lost(instance, run_id)
