"""Dagster's log, handed to where the facility's configuration wants it. Named in ``dagster.yaml``.

Dagster gives each handler of ``python_logs`` what a run says and does
(https://docs.dagster.io/guides/log-debug/logging/python-logging). Where it goes is
:mod:`scicat_dagster.diagnostics.log_handlers`'.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import dagster as dg

from scicat_dagster.config.loading import CONFIGURATION_VARIABLE, Configuration, ConfigurationError
from scicat_dagster.diagnostics.log_handlers import log_handlers
from scicat_dagster.limits import LONGEST_TEXT
from scicat_dagster.orchestration.shared_configuration import shared_configuration
from scicat_dagster.orchestration.tags import INSTRUMENT_TAG, PARTITION_TAG, PID, TOPIC_TAG

_given: ContextVar[Configuration | None] = ContextVar("configuration of the log", default=None)


@contextmanager
def logged_as(configuration: Configuration) -> Iterator[None]:
    """Where a command registers files: its configuration says where their log goes, not the environment's."""
    token = _given.set(configuration)
    try:
        yield
    finally:
        _given.reset(token)


class FacilityLog(logging.Handler):
    """Hands each record to the handlers of the configuration that is in force, with its run and file."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record over; whoever logged it never waits for a handler's failure, nor meets it."""
        try:
            configuration = _in_force()
        except ConfigurationError:
            # The run says so itself.
            return
        if configuration is None:
            return
        handlers = log_handlers(configuration.settings.logging, configuration.path.parent)
        if not handlers:
            return
        ours = _described(record)
        for handler in handlers:
            if ours.levelno >= handler.level:
                handler.handle(ours)


def _in_force() -> Configuration | None:
    if (given := _given.get()) is not None:
        return given
    path = os.environ.get(CONFIGURATION_VARIABLE)
    return shared_configuration(Path(path)).read() if path else None


def _described(record: logging.LogRecord) -> logging.LogRecord:
    meta: Mapping[str, Any] = getattr(record, "dagster_meta", {})
    message, level = str(meta.get("orig_message") or record.getMessage()), record.levelno
    event = meta.get("dagster_event")
    if isinstance(event, dg.DagsterEvent) and event.is_step_materialization:
        # Dagster says of all its events that they are for debugging. This one is what the log is read for.
        materialization = event.step_materialization_data.materialization
        pid = materialization.metadata.get(PID)
        message, level = f"Registered {materialization.partition or ''} as {pid and pid.value}.", logging.INFO
    elif isinstance(event, dg.DagsterEvent) and event.message:
        message = event.message
    about = _about(meta)
    return logging.makeLogRecord(
        {
            "name": record.name,
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "msg": message[:LONGEST_TEXT],
            "created": record.created,
            "about": about,
        }
    )


def _about(meta: Mapping[str, Any]) -> dict[str, str]:
    tags: Mapping[str, str] = meta.get("job_tags") or {}
    known = {
        "run": meta.get("run_id"),
        "file": tags.get(PARTITION_TAG),
        "instrument": tags.get(INSTRUMENT_TAG),
        "topic": tags.get(TOPIC_TAG),
        "op": meta.get("op_name"),
    }
    return {name: str(value) for name, value in known.items() if value}
