"""The configuration file as it is in force in this process: read anew when it changed on disk.

An operator who sets ``ingestion.dry_run`` in a running installation wants to stop it now. So nothing keeps
the settings that it started with. A file that cannot be used leaves the last good version in force, and says
so wherever this is shown. What the file may hold is ``settings``' business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from scicat_dagster.errors import Notice
from scicat_dagster.settings import Configuration, ConfigurationError, Settings, load_configuration

RESTART_KEYS: Mapping[str, Callable[[Settings], object]] = {
    "monitoring.freshness_hours": lambda settings: settings.monitoring.freshness_hours,
    "notifications.every_minutes": lambda settings: settings.notifications.every_minutes,
    "reconcile.cron": lambda settings: settings.reconcile.cron,
    "retention.cron": lambda settings: settings.retention.cron,
    "health_check": lambda settings: settings.health_check,
}
"""What Dagster's definitions, or the health endpoint's address, are made of when a process starts."""


class CurrentConfiguration:
    """A configuration file that was loaded, and is loaded again when it has changed on disk."""

    def __init__(self, loaded: Configuration) -> None:
        self._started_with = loaded
        self._good = loaded
        self._broken: ConfigurationError | None = None
        self._seen: tuple[int, ...] | None = None

    def read(self) -> Configuration:
        """What is in force now."""
        # Before the file is read, so that what is written meanwhile is seen the next time.
        identity = _identity(self._good.path)
        if identity != self._seen:
            self._seen = identity
            try:
                self._good = load_configuration(self._good.path, self._good.environment)
            except ConfigurationError as error:
                self._broken = error
            else:
                self._broken = None
        return self._good

    @property
    def broken(self) -> ConfigurationError | None:
        """Why the file as it is on disk is not in force, where that is so."""
        self.read()
        return self._broken

    @property
    def waiting_for_restart(self) -> tuple[str, ...]:
        """The keys that changed since this process started and take effect only when it is restarted."""
        now, before = self.read().settings, self._started_with.settings
        return tuple(key for key, value in RESTART_KEYS.items() if value(now) != value(before))

    def notices(self) -> tuple[Notice, ...]:
        """What a person should know of the configuration."""
        version, found = self.read().version, []
        if self._broken is not None:
            reason = f"{self._broken.what} The version {version} stays in force. {self._broken.remedy}"
            found.append(Notice(subject="configuration", reason=reason))
        if keys := self.waiting_for_restart:
            reason = f"{', '.join(keys)} changed on disk. Restart Dagster, so that this takes effect."
            found.append(Notice(subject="configuration", reason=reason))
        return tuple(found)


def _identity(path: Path) -> tuple[int, ...]:
    """What is different when the file was written or replaced; nothing where it is not there."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
