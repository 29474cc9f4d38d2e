"""A middleware that lets the stand-in fail in the ways in which a real SciCat server and its network fail.

Here belong: the kinds of fault, what each does to one request, and the two plans that say which request gets
which: a script for tests, and seeded chance for long runs. A server that does not listen at all cannot be
made by a middleware: stop the ``CatalogueServer`` and start it again; it keeps its port.
"""

import asyncio
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from types import TracebackType
from typing import Protocol, Self

from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scicat_dagster.demo.catalogue.app import API_PREFIX, NEXT_PREFIX
from scicat_dagster.demo.catalogue.content.answers import JsonAnswer, forbidden, unhandled_error, usual_error
from scicat_dagster.demo.catalogue.store import Store

LOGIN = "auth/login"
HEALTH = "health"
DATASETS = "datasets"

_PROXY_PAGE = "<html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"


class FaultKind(Enum):
    """What goes wrong with a request."""

    INTERNAL_ERROR = "500 with a bare JSON string; not carried out"
    BAD_GATEWAY = "502 with a proxy's HTML page; not carried out"
    UNAVAILABLE = "503; not carried out"
    TOO_MANY = "429 with Retry-After; not carried out"
    RESET = "carried out, and the connection is closed in the middle of the answer"
    STORED_THEN_TIMEOUT = "carried out, and the answer is held back until the client has given up"
    STORED_THEN_ERROR = "carried out, and answered with 500"
    CARRIED_OUT_LATER = "not answered, and carried out some time after the client has given up"
    SLOW = "carried out, and answered late"
    HTML = "200 with an HTML page; not carried out"
    TOKEN_EXPIRED = "carried out after every token has expired"  # noqa: S105 # No secret.
    LOGIN_DOWN = "a login is answered with 503"
    DATABASE_DOWN = "a write is answered with 403, and the next question for the health with 503"

    LISTS_NOTHING = (
        "a list of datasets is answered with an empty one, as while the database is away, and the \
next question for the health with 503"
    )

    def fits(self, call: "Call") -> bool:
        """Whether the fault can happen to a request: some are about one route only."""
        if self is FaultKind.CARRIED_OUT_LATER:
            return call.method not in ("GET", "HEAD") and call.path != LOGIN
        if self is FaultKind.LISTS_NOTHING:
            return call.method == "GET" and call.path == DATASETS
        if self is FaultKind.LOGIN_DOWN:
            return call.path == LOGIN
        if self is FaultKind.DATABASE_DOWN:
            return call.path == HEALTH or (call.method not in ("GET", "HEAD") and call.path != LOGIN)
        return True


@dataclass(frozen=True)
class Call:
    """A request as plans see it.

    Attributes:
        method: Its method.
        path: Its path below the API's root, as it was sent, such as ``datasets/20.500%2Fabc``.
        query: What follows the question mark.
        pid: The ``pid`` or ``datasetId`` in its body, or nothing.
    """

    method: str
    path: str
    query: str = ""
    pid: str = ""


class Plan(Protocol):
    """Decides which request meets which fault; asked once for every request to the API, in their order."""

    def fault(self, call: Call) -> FaultKind | None:
        """The fault that the request meets, or None."""


class Scripted:
    """Faults one by one, each for the first request that it matches.

    Args:
        steps: Kind, method and a regular expression for the whole path below the API's root, without the
            query, such as ``(FaultKind.RESET, "POST", "datasets")``.
    """

    def __init__(self, *steps: tuple[FaultKind, str, str]) -> None:
        self._lock = threading.Lock()
        self._steps = list(steps)

    @property
    def remaining(self) -> tuple[tuple[FaultKind, str, str], ...]:
        """The steps that no request has met yet."""
        with self._lock:
            return tuple(self._steps)

    def add(self, *steps: tuple[FaultKind, str, str]) -> None:
        """Append steps to the script."""
        with self._lock:
            self._steps += steps

    def fault(self, call: Call) -> FaultKind | None:
        """The first step that matches, which is thereby used up."""
        with self._lock:
            for number, (kind, method, path) in enumerate(self._steps):
                if method == call.method and re.fullmatch(path, call.path) and kind.fits(call):
                    del self._steps[number]
                    return kind
        return None


class Random:
    """Faults by chance: the same seed gives the same decisions for requests in the same order.

    Args:
        seed: Where the chance begins.
        probabilities: How likely each kind is, for a request that it fits; together at most 1.
        most_in_a_row: How many faults the same request (method, path, query and pid) may meet one after the
            other, so that things settle; without a bound where None.

    Raises:
        ValueError: The probabilities are negative, or more than 1 together.
    """

    def __init__(
        self, seed: int, probabilities: Mapping[FaultKind, float], *, most_in_a_row: int | None = None
    ) -> None:
        if any(share < 0 for share in probabilities.values()) or sum(probabilities.values()) > 1 + 1e-9:
            raise ValueError("Probabilities are not negative, and at most 1 together.")
        self._lock = threading.Lock()
        self._chance = random.Random(seed)
        self._probabilities = dict(probabilities)
        self._most_in_a_row = most_in_a_row
        self._in_a_row: Counter[Call] = Counter()
        self._stopped = False

    def stop(self) -> None:
        """No more faults from now on."""
        with self._lock:
            self._stopped = True

    def fault(self, call: Call) -> FaultKind | None:
        """The fault that chance has for the request."""
        with self._lock:
            kind = self._drawn()
            spared = self._most_in_a_row is not None and self._in_a_row[call] >= self._most_in_a_row
            if kind is None or self._stopped or spared or not kind.fits(call):
                del self._in_a_row[call]
                return None
            self._in_a_row[call] += 1
            return kind

    def _drawn(self) -> FaultKind | None:
        # Always one number for one request, so that a decision does not shift those after it.
        position = self._chance.random()
        for kind, share in self._probabilities.items():
            if position < share:
                return kind
            position -= share
        return None


class Faults:
    """The stand-in as an ASGI application that fails as planned.

    Only requests to the API fail; the pages and the demo's summary never do. As a context manager, inside
    that of the server, it releases the answers that are still held back before the server stops::

        with Store(path) as store:
            faults = Faults(create_app(store, accounts), plan, store)
            with CatalogueServer(store, accounts, app=faults) as server, faults:
                ...

    Args:
        app: The stand-in, from ``create_app``.
        plan: Which request meets which fault.
        store: The stand-in's store, whose tokens expire.
        slow_seconds: How late a slow answer is.
        longest_hold_seconds: How long an answer is held back for a client that does not give up.
        later_seconds: How long after the client has given up a request is carried out all the same, as by a
            proxy that had kept it.
        retry_after_seconds: What ``Retry-After`` says.

    Attributes:
        counts: How many requests met each kind of fault.
    """

    def __init__(
        self,
        app: ASGIApp,
        plan: Plan,
        store: Store,
        *,
        slow_seconds: float = 1.0,
        longest_hold_seconds: float = 60.0,
        later_seconds: float = 0.1,
        retry_after_seconds: int = 1,
    ) -> None:
        self.counts: Counter[FaultKind] = Counter()
        self._app = app
        self._plan = plan
        self._store = store
        self._slow_seconds = slow_seconds
        self._longest_hold_seconds = longest_hold_seconds
        self._later_seconds = later_seconds
        self._retry_after_seconds = retry_after_seconds
        self._kept = 0
        self._none_kept = threading.Condition()
        self._unreported_outages = 0
        self._lock = threading.Lock()
        self._released = False
        self._held: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def __enter__(self) -> Self:
        with self._lock:
            self._released = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give all answers that are held back, and hold none back from now on."""
        with self._lock:
            self._released = True
            for loop, event in self._held:
                loop.call_soon_threadsafe(event.set)

    def wait_until_all_are_carried_out(self, seconds: float = 30.0) -> None:
        """Wait for the requests that are carried out later; what is looked at then stays so.

        Raises:
            TimeoutError: One of them is still kept.
        """
        with self._none_kept:
            if not self._none_kept.wait_for(lambda: self._kept == 0, seconds):
                raise TimeoutError(f"{self._kept} requests are still kept.")

    def forget(self) -> None:
        """Begin again: nothing was counted, and the database is up."""
        self.counts.clear()
        self._unreported_outages = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, as ASGI wants it."""
        path = _path(scope)
        if path is None:
            await self._app(scope, receive, send)
            return
        body = await _whole_body(receive)
        if body is None:
            return
        call = Call(scope["method"], path, scope["query_string"].decode("latin-1"), _pid(body))
        kind = self._plan.fault(call)
        if kind is not None:
            self.counts[kind] += 1
        receive = _from_the_beginning(body, receive)
        answer = self._instead(kind, call)
        if answer is not None:
            await answer(scope, receive, send)
            return
        if kind is FaultKind.CARRIED_OUT_LATER:
            await self._later(scope, receive)
            return
        if kind is FaultKind.TOKEN_EXPIRED:
            await run_in_threadpool(self._store.expire_tokens)
        app = self._app
        if call.path == HEALTH and self._unreported_outages:
            # Not before the client could hear of it is the database up again.
            self._unreported_outages -= kind not in _NEVER_HEARD
            app = _unhealthy()
        if kind in _AFTERWARDS:
            await self._afterwards(kind, app, scope, receive, send)
        else:
            await app(scope, receive, send)

    def _instead(self, kind: FaultKind | None, call: Call) -> Response | None:
        """The answer to a request that is not carried out; None for one that is."""
        match kind:
            case FaultKind.INTERNAL_ERROR:
                return unhandled_error().answer()
            case FaultKind.BAD_GATEWAY:
                return HTMLResponse(_PROXY_PAGE.format("502 Bad Gateway"), HTTPStatus.BAD_GATEWAY)
            case FaultKind.UNAVAILABLE | FaultKind.LOGIN_DOWN:
                unavailable = HTTPStatus.SERVICE_UNAVAILABLE
                return usual_error(unavailable, unavailable.phrase, named=False).answer()
            case FaultKind.TOO_MANY:
                too_many = HTTPStatus.TOO_MANY_REQUESTS
                answer = usual_error(too_many, f"ThrottlerException: {too_many.phrase}", named=False).answer()
                answer.headers["Retry-After"] = str(self._retry_after_seconds)
                return answer
            case FaultKind.HTML:
                return HTMLResponse(_PROXY_PAGE.format("Log in to the network"))
            case FaultKind.DATABASE_DOWN if call.path == HEALTH:
                return _unhealthy()
            case FaultKind.DATABASE_DOWN:
                self._unreported_outages += 1
                return forbidden().answer()
            case FaultKind.LISTS_NOTHING:
                self._unreported_outages += 1
                return JsonAnswer([])
        return None

    async def _afterwards(
        self, kind: FaultKind, app: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Carry the request out and then do to its answer what the fault is."""
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await app(scope, receive, keep)
        if kind is FaultKind.RESET:
            await _send_half(messages, send)
            return
        if kind is FaultKind.STORED_THEN_ERROR:
            await unhandled_error().answer()(scope, receive, send)
            return
        await self._hold(
            receive, self._slow_seconds if kind is FaultKind.SLOW else self._longest_hold_seconds
        )
        for message in messages:
            await send(message)

    async def _later(self, scope: Scope, receive: Receive) -> None:
        """Keep the request until the client has gone, and then carry it out without an answer."""
        with self._none_kept:
            self._kept += 1
        try:
            request = await receive()
            await self._hold(receive, self._longest_hold_seconds)
            await asyncio.sleep(self._later_seconds)
            await self._app(scope, _once(request), _to_nobody)
        finally:
            with self._none_kept:
                self._kept -= 1
                self._none_kept.notify_all()

    async def _hold(self, receive: Receive, seconds: float) -> None:
        """Wait until the client has gone, or the time is over, or everything is released."""
        held = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            if self._released:
                return
            self._held.add(held)
        reasons = {asyncio.create_task(_until_gone(receive)), asyncio.create_task(_until_set(held[1]))}
        try:
            await asyncio.wait(reasons, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            with self._lock:
                self._held.discard(held)
            for reason in reasons:
                reason.cancel()
            await asyncio.gather(*reasons, return_exceptions=True)


_AFTERWARDS = (FaultKind.RESET, FaultKind.STORED_THEN_TIMEOUT, FaultKind.STORED_THEN_ERROR, FaultKind.SLOW)
_NEVER_HEARD = (FaultKind.RESET, FaultKind.STORED_THEN_TIMEOUT)


def _path(scope: Scope) -> str | None:
    """The path below the API's root of either version, as it was sent; None where it is another thing's."""
    if scope["type"] != "http":
        return None
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    path = raw.decode("latin-1").partition("?")[0]
    for prefix in (API_PREFIX, NEXT_PREFIX):
        if path.startswith(f"{prefix}/"):
            return path.removeprefix(f"{prefix}/").rstrip("/")
    return None


def _pid(body: bytes) -> str:
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    return str(sent.get("pid") or sent.get("datasetId") or "") if isinstance(sent, dict) else ""


def _unhealthy() -> Response:
    database = {"mongodb": {"status": "down"}}
    body = {"status": "error", "info": {}, "error": database, "details": database}
    return JsonAnswer(body, HTTPStatus.SERVICE_UNAVAILABLE)


async def _whole_body(receive: Receive) -> bytes | None:
    """The request's body; None where the client went away before it had sent it."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _from_the_beginning(body: bytes, receive: Receive) -> Receive:
    """What receives a body that was read already, and then whatever comes after it."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


def _once(message: Message) -> Receive:
    pending = [message]

    async def receive() -> Message:
        return pending.pop() if pending else {"type": "http.disconnect"}

    return receive


async def _to_nobody(_: Message) -> None:
    pass


async def _send_half(messages: Iterable[Message], send: Send) -> None:
    """Announce more than is sent. The server closes a connection whose answer is not finished."""
    for message in messages:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message["headers"] if name.lower() != b"content-length"]
            await send({**message, "headers": [*kept, (b"content-length", b"1000000")]})
        elif part := message.get("body", b""):
            await send({"type": "http.response.body", "body": part[: len(part) // 2], "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _until_set(event: asyncio.Event) -> None:
    await event.wait()
