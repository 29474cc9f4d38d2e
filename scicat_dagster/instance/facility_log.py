"""Dagster's log, handed to where the facility's configuration wants it. Named in ``dagster.yaml``.

Dagster gives each handler of ``python_logs`` what a run says and does
(https://docs.dagster.io/guides/log-debug/logging/python-logging). Where it goes is
:mod:`scicat_dagster.diagnostics.log_handlers`'.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from scicat_dagster.config.loading import CONFIGURATION_VARIABLE, ConfigurationError
from scicat_dagster.diagnostics.log_handlers import log_handlers
from scicat_dagster.limits import LONGEST_TEXT
from scicat_dagster.orchestration.shared_configuration import shared_configuration
from scicat_dagster.orchestration.tags import INSTRUMENT_TAG, PARTITION_TAG, PID, TOPIC_TAG


class FacilityLog(logging.Handler):
    """Hands each record to the handlers of the configuration that is in force, with its run and file."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record over; whoever logged it never waits for a handler's failure, nor meets it."""
        path = os.environ.get(CONFIGURATION_VARIABLE)
        if not path:
            return
        try:
            configuration = shared_configuration(Path(path)).read()
            handlers = log_handlers(configuration.settings.logging, configuration.path.parent)
        except ConfigurationError:
            # The run says so itself.
            return
        if not handlers:
            return
        ours = _described(record)
        for handler in handlers:
            if ours.levelno >= handler.level:
                handler.handle(ours)


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
