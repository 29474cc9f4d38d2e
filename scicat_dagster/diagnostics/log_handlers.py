"""Where the facility's log goes: the handlers that the section ``logging`` of its configuration asks for.

Files, the system's log and Graylog, as scicat-ingestor has them. Which records there are, and what they are
about, is for whoever hands them over.
"""

from __future__ import annotations

import atexit
import json
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from logging.handlers import SysLogHandler, WatchedFileHandler
from pathlib import Path

from pygelf import GelfUdpHandler

from scicat_dagster.config.models import GraylogServer, LoggingSettings

SYSTEM_LOG = "/dev/log"

_LINE = "%(asctime)s %(levelname)s %(message)s%(about)s"

_QUIET_SECONDS = 60.0
"""After a message that could not be sent; looking a host's name up may take many seconds."""


@cache
def log_handlers(settings: LoggingSettings, folder: Path) -> tuple[logging.Handler, ...]:
    """The handlers of this process, which stay as long as the section is the same.

    A file's relative path begins in ``folder``, that of the configuration file.
    """
    found: list[logging.Handler] = [_Graylog(server) for server in settings.servers]
    if settings.file_log:
        found.append(_file(settings, folder))
    if settings.system_log:
        facility = SysLogHandler.facility_names[settings.system_log_facility]
        system = SysLogHandler(address=SYSTEM_LOG, facility=facility)
        system.setFormatter(_Line("scicat_dagster: %(levelname)s %(message)s%(about)s"))
        found.append(system)
    for handler in found:
        handler.setLevel(settings.logging_level)
        # Whoever configures logging in this process makes logging forget it.
        atexit.register(handler.close)
    return tuple(found)


def about(record: logging.LogRecord) -> Mapping[str, str]:
    """What a record is about: its run, file and instrument, as far as whoever made it knew them."""
    known: Mapping[str, str] = getattr(record, "about", {})
    return known


def _file(settings: LoggingSettings, folder: Path) -> logging.Handler:
    # A process may live for months; logrotate and the like move the file away.
    name = folder / settings.file_log_base_name
    if settings.file_log_timestamp:
        name = name.with_name(f"{name.name}_{datetime.now(UTC):%Y%m%d}")
    handler = WatchedFileHandler(name.with_name(f"{name.name}.log"), encoding="utf-8", delay=True)
    prefix = settings.log_message_prefix.replace("%", "%%")
    handler.setFormatter(_Json() if settings.file_log_json else _Line(f"{prefix}{_LINE}"))
    return handler


class _Line(logging.Formatter):
    """One line, with what it is about at its end."""

    def format(self, record: logging.LogRecord) -> str:
        known = " ".join(f"{name}={json.dumps(value)}" for name, value in about(record).items())
        line = logging.makeLogRecord({**record.__dict__, "about": f" [{known}]" if known else ""})
        return super().format(line).replace("\n", "\\n")


class _Json(logging.Formatter):
    """One JSON object in a line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        said = {"time": moment, "level": record.levelname, "message": record.getMessage()}
        return json.dumps({**said, **about(record)}, ensure_ascii=False)


class _Graylog(GelfUdpHandler):  # type: ignore[misc] # It has no types.
    """GELF by UDP (https://go2docs.graylog.org/current/getting_in_log_data/gelf.html)."""

    def __init__(self, server: GraylogServer) -> None:
        super().__init__(server.host, server.port)
        self._facility = server.facility
        self._quiet_until = 0.0

    def makePickle(self, record: logging.LogRecord) -> bytes:  # noqa: N802 - the base class's
        # Graylog shows additional fields by their names; each begins with an underscore.
        self.additional_fields = {"_facility": self._facility} | {
            f"_{name}": value for name, value in about(record).items()
        }
        packed: bytes = super().makePickle(record)
        return packed

    def send(self, s: bytes) -> None:
        now = time.monotonic()
        if now < self._quiet_until:
            return
        try:
            super().send(s)
        except OSError:
            # The log must not hold up the files; logging prints the error once.
            self._quiet_until = now + _QUIET_SECONDS
            raise
