"""HTTP as the client wants it: reads repeated, each answer bounded in time and size, nothing followed.

What is asked and what an answer means belongs to ``client``.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Retry

READS = frozenset({"GET", "HEAD"})
"""The methods that may be repeated whatever became of the first request."""

LARGEST_ANSWER_BYTES = 64_000_000
"""Unpacked: a thousand datasets, or a file list of 200,000 files. SciCat never answers more."""

_PART_BYTES = 65_536

# Answers are never repeated here, whatever their Retry-After says: Dagster decides when to try again.
_REPEATED_READS = Retry(
    total=2, status=0, backoff_factor=0.2, allowed_methods=READS, respect_retry_after_header=False
)


def new_session() -> requests.Session:
    """A session whose ``timeout`` for reading bounds the whole answer: status, headers and body together."""
    session = _Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, _BoundedAdapter(max_retries=_REPEATED_READS))
    return session


def read_whole(response: requests.Response) -> None:
    """Read the body of a streamed response into memory, as far as an answer may be long.

    Raises
    ------
    requests.Timeout
        It is not over when the time-out of the request is.
    requests.RequestException
        It is larger than any answer, or breaks off.
    """
    body = io.BytesIO()
    with _connection_of(response) as connection:
        while part := connection.read1(_PART_BYTES, decode_content=True):
            body.write(part)
            if body.tell() > LARGEST_ANSWER_BYTES:
                raise requests.exceptions.ContentDecodingError("The answer is too large.")
    body.seek(0)
    response.raw = body


@contextmanager
def _connection_of(response: requests.Response) -> Iterator[Any]:
    """What the body is read from: given back for the next request, or closed where it was not read whole."""
    is_whole = False
    try:
        yield response.raw
        is_whole = True
    except ReadTimeoutError as error:
        raise requests.ReadTimeout(str(error)) from None
    except HTTPError as error:
        raise requests.ConnectionError(str(error)) from None
    finally:
        if is_whole:
            response.raw.release_conn()
        else:
            response.raw.close()


class _Session(requests.Session):
    """Looks once for each server what the environment says of proxies: it was a sixth of a request's work."""

    def __init__(self) -> None:
        super().__init__()
        self._of_servers: dict[tuple[object, ...], Any] = {}

    def merge_environment_settings(self, url: Any, proxies: Any, *own: Any) -> Any:
        wanted = urlsplit(url)
        server = wanted.scheme, wanted.netloc, str(proxies), *own
        if server not in self._of_servers:
            self._of_servers[server] = super().merge_environment_settings(url, proxies, *own)
        return dict(self._of_servers[server])


class _UntilDeadline(io.RawIOBase):
    """What a socket receives, until a moment of the monotonic clock.

    A socket's own time-out is one for each read: a server that sends a byte now and then is never late.
    """

    def __init__(self, sock: socket.socket, received: io.RawIOBase, deadline: float) -> None:
        self._sock = sock
        self._received = received
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("The answer is not over in time.")
        self._sock.settimeout(remaining)
        return self._received.readinto(buffer)

    def close(self) -> None:
        self._received.close()
        super().close()


class _BoundedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, deadline: float, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_UntilDeadline(sock, self.fp.detach(), deadline))


def _bound_answer(connection: HTTPConnection) -> None:
    """Let the time-out for reading be one for the whole answer that comes next."""
    if isinstance(connection.timeout, int | float):
        deadline = time.monotonic() + connection.timeout
        # What http.client makes the response with.
        connection.response_class = partial(_BoundedResponse, deadline=deadline)  # type: ignore[assignment]


class _BoundedHttp(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override] # As urllib3's own.
        _bound_answer(self)
        return super().getresponse()


class _BoundedHttps(HTTPSConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override] # As urllib3's own.
        _bound_answer(self)
        return super().getresponse()


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _BoundedHttp


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _BoundedHttps


class _BoundedAdapter(HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
