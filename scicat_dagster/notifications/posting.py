"""POSTs of JSON to addresses that are secrets. No error and no log holds one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import requests
from pydantic import SecretStr

from scicat_dagster.errors import PermanentError, TransientError

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Destination:
    """A server that takes JSON."""

    key: str
    """Where the configuration has its address, by which errors name it."""
    address: SecretStr
    later: str
    """What a person is told to do while it is away."""
    token: SecretStr = field(default_factory=lambda: SecretStr(""))
    """Sent as a bearer token, where there is one."""

    def post(self, body: Mapping[str, Any]) -> int:
        """Send a body; the status of the answer.

        Raises
        ------
        TransientError
            There is no answer.
        """
        token = self.token.get_secret_value()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            # A redirect would turn the POST into a GET, which many servers take for fine.
            with (
                _unlogged(),
                requests.post(
                    self.address.get_secret_value(),
                    json=body,
                    headers=headers,
                    timeout=TIMEOUT_SECONDS,
                    allow_redirects=False,
                    stream=True,
                ) as response,
            ):
                return response.status_code
        except requests.RequestException as error:
            # Its own words hold the address.
            kind = "did not answer in time" if isinstance(error, requests.Timeout) else "cannot be reached"
            raise TransientError(
                f"The server of {self.key} {kind} ({type(error).__name__}).", remedy=self.later
            ) from None

    def judge(self, status: int) -> None:
        """Whether a status means that the server has the body.

        Raises
        ------
        TransientError
            It may take the body later.
        PermanentError
            It refuses the body, or the address is not valid.
        """
        if status >= 500 or status in {408, 425, 429}:
            raise TransientError(f"The server of {self.key} answered {status}.", remedy=self.later)
        if status >= 300:
            remedy = f"See that {self.key} is right and still valid."
            raise PermanentError(f"The server of {self.key} answered {status}.", remedy=remedy)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep what this thread sends out of the HTTP library's log, whose details name each request's path."""
    ours = threading.get_ident()

    def is_anothers(record: logging.LogRecord) -> bool:
        return record.thread != ours

    log = logging.getLogger("urllib3.connectionpool")
    log.addFilter(is_anothers)
    try:
        yield
    finally:
        log.removeFilter(is_anothers)
