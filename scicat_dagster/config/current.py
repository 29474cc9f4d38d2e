"""The configuration file as it is in force in this process: read anew when it changed on disk.

An operator who sets ``ingestion.dry_run`` in a running installation wants to stop it now. So nothing keeps
the settings that it started with. A file that cannot be used leaves the last good version in force, and says
so wherever this is shown. What the file may hold is ``settings``' business.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from scicat_dagster.config.loading import Configuration, ConfigurationError, load_configuration
from scicat_dagster.config.models import Settings
from scicat_dagster.errors import Notice

RESTART_KEYS: Mapping[str, Callable[[Settings], object]] = {
    "monitoring.freshness_hours": lambda settings: settings.monitoring.freshness_hours,
    "notifications.every_minutes": lambda settings: settings.notifications.every_minutes,
    "reconcile.cron": lambda settings: settings.reconcile.cron,
    "retention.cron": lambda settings: settings.retention.cron,
    "reconcile.watch_minutes": lambda settings: settings.reconcile.watch_minutes > 0,
    "events": lambda settings: settings.events.has_receivers,
    "health_check": lambda settings: (settings.health_check.host, settings.health_check.port),
}
"""What Dagster's definitions, or the health endpoint's address, are made of when a process starts."""


class CurrentConfiguration:
    """A configuration file that was loaded, and is loaded again when it has changed on disk.

    ``kept`` is where the last good version is kept for other processes, and for those that are to come: one
    that began before the operator pulled the brake, and meets a broken file, must not go on without it.
    """

    def __init__(self, loaded: Configuration, kept: Path | None = None) -> None:
        self._started_with = loaded
        self._good = loaded
        self._kept = kept
        self._broken: ConfigurationError | None = None
        self._seen: tuple[int, ...] | None = None

    def read(self) -> Configuration:
        """What is in force now."""
        # Before the file is read, so that what is written meanwhile is seen the next time.
        identity = _identity(self._good.path)
        if identity != self._seen:
            self._seen = identity
            try:
                self._good = load_configuration(self._good.path, self._good.environment, self._good.overrides)
            except ConfigurationError as error:
                self._broken = error
                self._good = self._last_good()
            else:
                self._broken = None
                self._keep()
        return self._good

    def _last_good(self) -> Configuration:
        """What any process has last read and could use."""
        return self._kept_version() or self._good

    def _kept_version(self) -> Configuration | None:
        if self._kept is None or not self._kept.exists():
            return None
        try:
            good = self._good
            return load_configuration(good.path, good.environment, good.overrides, kept=self._kept)
        except ConfigurationError:
            return None

    def _keep(self) -> None:
        kept = self._kept_version()
        if self._kept is None or (kept is not None and kept.version == self._good.version):
            return
        # That it cannot be kept, on a disk that is full say, is no reason not to work.
        with suppress(OSError):
            keep_version(self._good, self._kept)

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


def keep_version(configuration: Configuration, kept: Path) -> None:
    """Write a version where only this account can read it: it may hold secrets."""
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = kept.with_name(f".{kept.name}.{os.getpid()}")
    modified = configuration.version.modified_at.timestamp()
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(configuration.text)
        os.utime(unfinished, (modified, modified))
        unfinished.replace(kept)
    finally:
        unfinished.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, ...]:
    """What is different when the file was written or replaced; nothing where it is not there."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
