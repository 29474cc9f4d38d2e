"""Is everything alive? Checks of what a facility's configuration names, and their answers over HTTP.

A probe asks often and must never hang: each check runs in a thread of its own, at most once at a time, and
its answer is kept for some seconds. What Dagster knows about itself is checked by ``orchestration.health``;
whether the configuration is right, once and in detail, by :mod:`scicat_dagster.validation`.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel, ConfigDict, computed_field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from scicat_dagster.errors import IngestionError, PermanentError, TransientError
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.settings import FileHandlingSettings, HealthCheckSettings, KafkaSettings, ScicatSettings
from scicat_dagster.settings import Settings as FacilitySettings
from scicat_dagster.validation.live import check_directories, check_kafka
from scicat_dagster.validation.report import Report

LONGEST_WAIT_SECONDS = 10.0
"""What has not answered by then is taken for dead. Probes have to allow for a little more."""

KEPT_SECONDS = 5.0
"""How long an answer is good, so that many probes ask as often as one."""

_SCICAT_SECONDS = 3.0
"""For one answer of SciCat; a connection is tried three times."""

_ASK_AGAIN = "See that it is there and answers."

_LOG = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")


class Check(BaseModel):
    """One thing that was looked at."""

    model_config = ConfigDict(frozen=True)

    name: str
    ok: bool
    words: str
    """What it is like, for a person."""
    remedy: str = ""
    """What to do, where it is not well."""


class Health(BaseModel):
    """Everything that was looked at; scripts read its JSON, so its keys stay as they are."""

    model_config = ConfigDict(frozen=True)

    checks: tuple[Check, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return all(check.ok for check in self.checks)

    def as_text(self) -> str:
        """A row for each check, and its remedy below it."""
        width = max((len(check.name) for check in self.checks), default=0)
        lines = []
        for check in self.checks:
            lines.append(f"{'ok' if check.ok else 'not ok':8}{check.name:{width}}  {check.words}")
            if check.remedy and not check.ok:
                lines.append(f"{'':{8 + width}}  {check.remedy}")
        return "\n".join(lines)


class Question(Generic[_Answer]):
    """Something that is asked in a thread of its own, at most once at a time, and whose answer is kept.

    A storage that hangs holds up this one thread, however often it is asked, and nobody who waits.
    """

    def __init__(self, ask: Callable[[], _Answer], kept_seconds: float = KEPT_SECONDS) -> None:
        self._ask = ask
        self._kept_seconds = kept_seconds
        self._changed = threading.Condition()
        self._is_asked = False
        self._answer: _Answer | None = None
        self._answered_at = -math.inf

    def begin(self) -> None:
        """Ask, unless the last answer is still good or awaited."""
        with self._changed:
            if self._is_asked or self._is_fresh():
                return
            self._is_asked = True
        # A thread that hangs must not keep the process from ending.
        threading.Thread(target=self._answer_it, daemon=True).start()

    def answer(self, seconds: float) -> _Answer | None:
        """The answer to what was begun, waited for so long; None where there is none by then."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_asked, timeout=max(0.0, seconds))
            return None if self._is_asked else self._answer

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._answered_at < self._kept_seconds

    def _answer_it(self) -> None:
        answer: _Answer | None = None
        try:
            answer = self._ask()
        except Exception as error:  # noqa: BLE001 - a database that is away may raise anything
            # Its words may hold an address with a password.
            _LOG.warning("A question has no answer: %s.", type(error).__name__)
        with self._changed:
            self._is_asked, self._answer, self._answered_at = False, answer, time.monotonic()
            self._changed.notify_all()


class Checkup:
    """All checks together, each under its name."""

    def __init__(
        self,
        checks: Mapping[str, Callable[[], Check]],
        *,
        longest_wait_seconds: float = LONGEST_WAIT_SECONDS,
        kept_seconds: float = KEPT_SECONDS,
    ) -> None:
        self._longest_wait_seconds = longest_wait_seconds
        self._questions = {
            name: Question(_explained(name, check), kept_seconds) for name, check in checks.items()
        }

    def look(self) -> Health:
        """How everything is; it takes no longer than the longest wait."""
        deadline = time.monotonic() + self._longest_wait_seconds
        for question in self._questions.values():
            question.begin()
        return Health(
            checks=tuple(
                question.answer(deadline - time.monotonic()) or self._silent(name)
                for name, question in self._questions.items()
            )
        )

    def _silent(self, name: str) -> Check:
        words = f"No answer within {self._longest_wait_seconds:g} s."
        return Check(name=name, ok=False, words=words, remedy=_ASK_AGAIN)


def _explained(name: str, check: Callable[[], Check]) -> Callable[[], Check]:
    """The check, whose failure is an answer as well."""

    def ask() -> Check:
        try:
            return check()
        except IngestionError as error:
            return Check(name=name, ok=False, words=error.what, remedy=error.remedy)
        except Exception as error:  # noqa: BLE001 - a database that is away may raise anything
            # Its words may hold an address with a password.
            words = f"It cannot be looked at: {type(error).__name__}."
            return Check(name=name, ok=False, words=words, remedy=_ASK_AGAIN)

    return ask


def facility_checks(settings: Callable[[], FacilitySettings]) -> dict[str, Callable[[], Check]]:
    """The checks of the servers and folders that the configuration names, as it is at each look."""
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
            with os.scandir(folder) as entries:
                if next(entries, None) is None:
                    well = f"{folder} can be read, but it is empty. Is it mounted?"
        except OSError as error:
            words = f"{folder} cannot be read: {error.strerror}."
            return Check(name="storage", ok=False, words=words, remedy="Look at the storage and its mount.")
    return _from_report("storage", report, well)


def _from_report(name: str, report: Report, well: str) -> Check:
    found = [check for check in report.checks if check.result not in {"ok", "warning"}]
    if not found:
        return Check(name=name, ok=True, words=well)
    remedies = dict.fromkeys(_ASK_AGAIN if check.result == "unchecked" else check.remedy for check in found)
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
            if account is None and settings.username:
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
            return Check(name="scicat", ok=False, words=error.what, remedy=_ASK_AGAIN)
        except PermanentError:
            client.close()
            raise
        self._kept = (settings, client)
        words = f"{settings.host} is healthy and knows us as {account.name}."
        return Check(name="scicat", ok=True, words=words)


def _quick_client(settings: ScicatSettings) -> ScicatClient:
    seconds = min(settings.timeout_seconds, _SCICAT_SECONDS)
    return ScicatClient(settings.model_copy(update={"timeout": seconds}))


def create_app(checkup: Checkup, measures: Sequence[Question[list[Metric]]] = ()) -> Starlette:
    """The endpoint for probes and for Prometheus."""
    registry = CollectorRegistry()
    registry.register(_Metrics(checkup, measures))

    def health(_: Request) -> Response:
        found = checkup.look()
        body = found.model_dump_json(indent=2)
        return Response(body, status_code=200 if found.ok else 503, media_type="application/json")

    async def live(_: Request) -> Response:
        # Not in a thread: all of them may wait for a server that is away, and we are alive all the same.
        return PlainTextResponse("alive\n")

    def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return Starlette(
        routes=[Route("/health", health), Route("/live", live), Route("/metrics", metrics)],
    )


class _Metrics(Collector):
    """What Prometheus gets. What is not known in time is left out, and not said to be nothing."""

    def __init__(self, checkup: Checkup, measures: Sequence[Question[list[Metric]]]) -> None:
        self._checkup = checkup
        self._measures = measures

    def collect(self) -> Iterable[Metric]:
        for measure in self._measures:
            measure.begin()
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        yield from self._checks()
        for measure in self._measures:
            yield from measure.answer(deadline - time.monotonic()) or ()

    def describe(self) -> Iterable[Metric]:
        # Nothing is asked when the endpoint starts.
        return ()

    def _checks(self) -> Iterator[Metric]:
        values = {check.name: float(check.ok) for check in self._checkup.look().checks}
        yield gauge("check_ok", "Whether a health check is well (1) or not (0).", values, label="check")


def gauge(name: str, meaning: str, values: Mapping[str, float], *, label: str) -> Metric:
    """A measure with a value for each of the things that ``label`` tells apart."""
    family = GaugeMetricFamily(f"scicat_dagster_{name}", meaning, labels=[label])
    for of, value in values.items():
        family.add_metric([of], value)
    return family


def listen(settings: HealthCheckSettings) -> socket.socket:
    """Take the port that the configuration names; port 0 is any free one.

    Raises
    ------
    PermanentError
        It is taken, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except (OSError, OverflowError) as error:
        raise PermanentError(
            f"Nobody can listen at {settings.host}:{settings.port}: {error}.",
            remedy="Set health_check.host and health_check.port to a free port of this machine.",
        ) from None


def serve(app: Starlette, listener: socket.socket) -> None:
    """Answer until SIGTERM or SIGINT."""
    config = uvicorn.Config(
        app, loop="asyncio", ws="none", lifespan="off", log_level="warning", access_log=False,
        timeout_graceful_shutdown=math.ceil(LONGEST_WAIT_SECONDS),
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])
