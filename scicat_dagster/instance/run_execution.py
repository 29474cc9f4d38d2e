"""Executing a run in this process: what a warm worker and a fork have in common, and nothing else."""

from __future__ import annotations

import dagster as dg

from scicat_dagster.dagster_internals import _execute_run_command_body


def execute_run(instance: dg.DagsterInstance, run_id: str) -> int:
    """Execute a run; 1 if it failed."""
    return _execute_run_command_body(run_id, instance, _keep_to_itself, set_exit_code_on_failure=True)


def _keep_to_itself(_event: dg.DagsterEvent) -> None:
    """Events go into the database; nobody listens here."""
