"""Whether a file that is announced now could be registered: Kafka, storage and SciCat answer.

Dagster's own checks are in :mod:`scicat_dagster.orchestration.operations.health`.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from scicat_dagster.config.models import FileHandlingSettings, KafkaSettings, ScicatSettings
from scicat_dagster.config.models import Settings as FacilitySettings
from scicat_dagster.diagnostics.checkup import ASK_AGAIN, Check
from scicat_dagster.diagnostics.report import Report
from scicat_dagster.diagnostics.servers import check_directories, check_kafka
from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.patience import answered
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.session import LoginRefusedError

_SCICAT_SECONDS = 3.0
"""For one answer of SciCat; a connection is tried three times."""


def facility_checks(settings: Callable[[], FacilitySettings]) -> dict[str, Callable[[], Check]]:
    """The checks of the servers and folders that the configuration names, as it is at each evaluation."""
    return {
        "kafka": lambda: kafka_check(settings().kafka),
        "storage": lambda: storage_check(settings().ingestion.file_handling),
        "scicat": ScicatCheck(lambda: settings().scicat),
    }


def kafka_check(settings: KafkaSettings) -> Check:
    """Whether the brokers answer and have the topics."""
    if not settings.topics:
        return Check(name="kafka", ok=True, words="kafka.topics is empty: nothing is read.")
    report = Report(config="")
    check_kafka(settings, report)
    well = f"{', '.join(settings.bootstrap_servers)} answers and has {', '.join(settings.topics)}."
    return _from_report("kafka", report, well)


def storage_check(settings: FileHandlingSettings) -> Check:
    """Whether the data can be read, and our own files written, by the account that asks."""
    report = Report(config="")
    check_directories(settings, (), report)
    folder = settings.data_directory
    if not folder:
        return _from_report("storage", report, "ingestion.file_handling.data_directory is not set.")
    well = f"{folder} can be read."
    if all(check.result == "ok" for check in report.checks):
        try:
            if answered(folder, lambda: _is_empty(folder)):
                well = f"{folder} can be read, but it is empty. Is it mounted?"
        except OSError as error:
            words = f"{folder} cannot be read: {error.strerror}."
            return Check(name="storage", ok=False, words=words, remedy="Look at the storage and its mount.")
    return _from_report("storage", report, well)


def _is_empty(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is None


def _from_report(name: str, report: Report, well: str) -> Check:
    found = [check for check in report.checks if check.result not in {"ok", "warning"}]
    if not found:
        return Check(name=name, ok=True, words=well)
    remedies = dict.fromkeys(ASK_AGAIN if check.result == "unchecked" else check.remedy for check in found)
    words = " ".join(check.what for check in found)
    return Check(name=name, ok=False, words=words, remedy=" ".join(remedies))


class ScicatCheck:
    """Whether SciCat works and knows us. Its login is used again, as long as it is good."""

    def __init__(self, settings: Callable[[], ScicatSettings]) -> None:
        self._current_settings = settings
        self._kept: tuple[ScicatSettings, ScicatClient] | None = None

    def __call__(self) -> Check:
        settings = self._current_settings()
        kept, self._kept = self._kept, None
        if kept is not None and kept[0] != settings:
            kept[1].close()
            kept = None
        client = kept[1] if kept is not None else _quick_client(settings)
        try:
            client.check_health()
            account = client.account()
            if account is None and settings.logs_in:
                # A server that was set up anew does not know the logins that it gave before.
                client.close()
                client = _quick_client(settings)
                account = client.account()
            if account is None:
                raise PermanentError(
                    f"{settings.host} is healthy, but does not know our login.",
                    remedy="Put a valid token, or username and password, into the scicat section.",
                )
        except TransientError as error:
            client.close()
            # Its own remedy is for runs, which try again by themselves.
            return Check(name="scicat", ok=False, words=error.what, remedy=ASK_AGAIN)
        except LoginRefusedError:
            # The client does not try again for minutes, where a new one would: accounts get locked.
            self._kept = (settings, client)
            raise
        except PermanentError:
            client.close()
            raise
        self._kept = (settings, client)
        words = f"{settings.host} is healthy and knows us as {account.name}."
        return Check(name="scicat", ok=True, words=words)


def _quick_client(settings: ScicatSettings) -> ScicatClient:
    seconds = min(settings.timeout_seconds, _SCICAT_SECONDS)
    return ScicatClient(settings.model_copy(update={"timeout": seconds}))
