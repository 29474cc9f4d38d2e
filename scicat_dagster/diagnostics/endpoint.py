"""The health endpoint: ``/health`` and ``/live`` for probes, ``/metrics`` for Prometheus."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from scicat_dagster.config.models import HealthCheckSettings
from scicat_dagster.diagnostics.checkup import LONGEST_WAIT_SECONDS, Checkup, Question
from scicat_dagster.errors import PermanentError


def create_app(
    checkup: Checkup,
    measures: Sequence[Question[list[Metric]]] = (),
    more: Sequence[Route] = (),
) -> Starlette:
    """The endpoint for probes and for Prometheus, with ``more`` routes beside theirs."""
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
        routes=[Route("/health", health), Route("/live", live), Route("/metrics", metrics), *more],
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
