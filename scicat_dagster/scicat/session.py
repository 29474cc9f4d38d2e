"""A session with one SciCat server: its login, which is renewed, and whether an answer is meant for us.

Up to SciCat 5.1 an unauthenticated caller gets what an anonymous one gets (writes 403, reads 404 or an empty
list), so every such answer is checked with ``auth/whoami`` before it is believed; since 5.2 an expired token
is a 401. Which routes there are belongs to ``client``, time-outs and sizes to ``transport``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from pydantic import JsonValue

from scicat_dagster.config.models import ScicatSettings
from scicat_dagster.errors import IngestionError, PermanentError, TransientError
from scicat_dagster.scicat.errors import UnansweredError, explain, server_text, unreachable
from scicat_dagster.scicat.tokens import expiry_of
from scicat_dagster.scicat.transport import READS, new_session, read_whole

IDLE_SECONDS = 4.0
"""A connection unused for longer is not used again: the server closes them after 5 s."""


RENEWAL_SECONDS = 60.0
"""A login is renewed this long before it expires."""


REFUSAL_SECONDS = 300.0
"""A login that was refused is not tried again for so long: many servers lock an account after a few tries."""


_LOGIN_REFUSED = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


_LOGIN_REMEDY = "Correct the user name and password, or the id token, in the configuration's scicat section."


_LONGEST_ID_TOKEN = 16_384


class LoginRefusedError(PermanentError):
    """SciCat does not accept our login. That is about every file alike, until somebody corrects it."""


class LoginRenewedError(TransientError):
    """A write was not carried out, because an empty list that it follows from was given to another login."""


class _Bearer(requests.auth.AuthBase):
    # A callable `auth`, because requests would otherwise prefer a ~/.netrc entry to our header.
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def __repr__(self) -> str:
        return "<Bearer>"


@dataclass(frozen=True)
class Account:
    """Whom the server takes us for, and the groups that it says we are in. It does not say our rights."""

    name: str
    groups: tuple[str, ...]


class ScicatSession:
    """A logged-in caller of one SciCat server. Not to be shared between threads or across a fork."""

    def __init__(self, settings: ScicatSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._last_use = clock()
        self._token = settings.token.get_secret_value()
        self._expires_at = expiry_of(self._token)
        self._believes_empty_lists = False
        self._unconfirmed_token = ""
        """The token with which an empty list was asked for that no later answer has confirmed."""
        self._refusal: tuple[float, LoginRefusedError] | None = None
        self._server_time = datetime.now(UTC)
        self._server_time_at = clock()
        self._session = new_session()

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def seconds_since(self, moment: datetime) -> float:
        """How long ago something was by the server's own clock, as of its latest answer."""
        return (self._server_time - moment).total_seconds()

    @property
    def longest_under_way_seconds(self) -> float:
        """How long a request that was not answered may still be carried out, by a proxy that keeps it say."""
        return 1.5 * self._settings.timeout_seconds

    def whoami(self) -> str | None:
        """The name of the account that the server takes us for; None for an anonymous caller."""
        account = self.account()
        return account.name if account else None

    def account(self) -> Account | None:
        """The account that the server takes us for; None for an anonymous caller."""
        doing = "asking who we are"
        self._log_in_if_due()
        response = self._request("GET", self._absolute("auth/whoami"), doing, None, self._token)
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            return None
        if not response.ok:
            raise explain(response, doing)
        if not response.content:
            return None
        answer = self._json(response, doing)
        if not isinstance(answer, dict):
            return None
        groups = answer.get("currentGroups")
        return Account(
            name=str(answer.get("username") or answer.get("_id")),
            groups=tuple(str(group) for group in groups) if isinstance(groups, list) else (),
        )

    @contextmanager
    def confirmed_by_write(self) -> Iterator[None]:
        """Within it the first write confirms an empty list that was believed before.

        A server that accepts a write knows the token, and has known it before. A write with another token, or
        one that the server answers like an anonymous caller's, raises :class:`LoginRenewedError`; then what
        was not there has to be looked for again.
        """
        try:
            yield
        finally:
            self._unconfirmed_token = ""

    @contextmanager
    def believing_empty_lists(self) -> Iterator[None]:
        """Within it an empty list counts without asking who we are; see :meth:`confirmed_by_write`."""
        self._believes_empty_lists = True
        try:
            yield
        finally:
            self._believes_empty_lists = False

    def check_health(self) -> None:
        """Make sure that the server and its database work; asked as nobody.

        Raises
        ------
        TransientError
            They do not, or the server does not answer.
        RefusedError
            The server has no such address.
        """
        doing = "asking for its health"
        response = self._request("GET", self._absolute(self._settings.health_address), doing, None, "")
        if not response.ok:
            raise explain(response, doing)
        self._json(response, doing)

    def _absolute(self, url: str) -> str:
        return url if url.startswith(("https://", "http://")) else self._settings.address(url)

    def _is_ours(self, url: str) -> bool:
        ours, theirs = urlsplit(self._settings.root), urlsplit(url)
        # Beside the API there may be other services, which our token is not for.
        is_below = f"{theirs.path}/".startswith(f"{ours.path.rstrip('/')}/")
        return (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc) and is_below

    def _ask(
        self,
        method: str,
        url: str,
        doing: str,
        body: dict[str, JsonValue] | None = None,
        condition: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """The answer to an authenticated request.

        An answer that an anonymous caller would get as well is believed only when the server knows us; when
        it does not, or says that the token has expired, the login is renewed and the request repeated, once.
        Repeating a write is safe here: the server has refused it.

        Raises
        ------
        PermanentError
            The token has expired and there is no password to renew it with.
        LoginRenewedError
            See :meth:`confirmed_by_write`.
        TransientError
            The server could not answer, or does not know us in spite of a new login.
        """
        url = self._absolute(url)
        self._log_in_if_due()
        confirms = method not in READS and bool(self._unconfirmed_token)
        if confirms and self._unconfirmed_token != self._token:
            raise _renewed(doing)
        response = self._request(method, url, doing, body, self._token, condition)
        if self._is_meant_for_us(response, url):
            if confirms:
                self._unconfirmed_token = ""
            return response
        if confirms:
            raise _renewed(doing)
        self._log_in_anew()
        response = self._request(method, url, doing, body, self._token, condition)
        if not self._is_meant_for_us(response, url):
            raise still_nobody(doing)
        return response

    def _is_meant_for_us(self, response: requests.Response, url: str) -> bool:
        """Whether the server has answered the account that we log in as, and not an anonymous caller."""
        if not self._is_ours(url):
            return True
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            return False
        if self._believes_empty_lists and _is_empty_list(response):
            self._unconfirmed_token = self._token
            return True
        return not _would_answer_anybody(response) or self.whoami() is not None

    def _request(
        self,
        method: str,
        url: str,
        doing: str,
        body: Any,
        token: str,
        condition: Mapping[str, str] | None = None,
    ) -> requests.Response:
        now = self._clock()
        if now - self._last_use > IDLE_SECONDS:
            self._session.close()
        seconds = self._settings.timeout_seconds
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        headers |= condition or {}
        # A schema may name any URL; our token and our headers are for our server only.
        ours = self._is_ours(url)
        if ours:
            extra = self._settings.additional_headers
            headers |= {name: value.get_secret_value() for name, value in extra.items()}
        try:
            response = self._session.request(
                method,
                url,
                data=None if body is None else json.dumps(body, allow_nan=False).encode(),
                headers=headers,
                auth=_Bearer(token if ours else ""),
                # Here, because the session's would give way to REQUESTS_CA_BUNDLE.
                verify=self._settings.verify,
                timeout=(min(seconds, 10.0), seconds),
                allow_redirects=False,
                stream=True,
            )
            read_whole(response)
        except requests.RequestException as error:
            under_way = None if method in READS else self.longest_under_way_seconds
            raise unreachable(error, doing, retry_after_seconds=under_way) from None
        finally:
            self._last_use = self._clock()
        if 300 <= response.status_code < 400:
            raise explain(response, doing)
        if ours:
            self._server_time, self._server_time_at = _date_of(response), self._clock()
        return response

    def _log_in_if_due(self) -> None:
        if not self._settings.logs_in:
            return
        if not self._token or self._expires_within(RENEWAL_SECONDS):
            self._log_in()

    def _expires_within(self, seconds: float) -> bool:
        """Whether the token is valid for less than that, as far as anybody here can tell."""
        if self._expires_at is None:
            return False
        # By the server's clock, which is the one that counts.
        elapsed = self._clock() - self._server_time_at
        return self._server_time + timedelta(seconds=elapsed + seconds) > self._expires_at

    def _log_in_anew(self) -> None:
        """Replace a login that the server does not know, or no longer."""
        if not self._settings.logs_in:
            raise _token_refused(self._expires_at if self._expires_within(0) else None)
        self._log_in()

    def _log_in(self) -> None:
        if self._refusal is not None and self._clock() < self._refusal[0] + REFUSAL_SECONDS:
            raise self._refusal[1]
        path, doing, body = _login_request(self._settings)
        response = self._request("POST", self._absolute(path), doing, body, "")
        if response.status_code in _LOGIN_REFUSED:
            failure = explain(response, doing)
            refusal = LoginRefusedError(failure.what, remedy=_LOGIN_REMEDY, details=failure.details)
            self._refusal = self._clock(), refusal
            raise refusal
        if not response.ok:
            raise explain(response, doing)
        answer = self._json(response, doing)
        token = (answer.get("access_token") or answer.get("id")) if isinstance(answer, dict) else None
        if not isinstance(answer, dict) or not isinstance(token, str):
            raise TransientError(
                f"SciCat gave no token when {doing}.", remedy="Look at the SciCat server's login."
            )
        self._token = token
        self._expires_at = expiry_of(token) or self._end_of(answer.get("ttl") or answer.get("expires_in"))

    def _end_of(self, lifetime: JsonValue) -> datetime | None:
        """When something that the server has just made for so many seconds ends, by its own clock."""
        try:
            return (
                self._server_time + timedelta(seconds=lifetime) if isinstance(lifetime, int | float) else None
            )
        except OverflowError:
            return None

    def _explained(self, response: requests.Response, doing: str) -> IngestionError:
        """Like ``errors.explain``, but tells a missing right from a database that is down: both are a 403."""
        if response.status_code == 403:
            endpoint = self._absolute(self._settings.health_address)
            asking = "asking for its health"
            health = self._request("GET", endpoint, asking, None, "")
            # A 404 is a health_endpoint that is wrong, and says nothing about the database.
            if health.ok:
                self._json(health, asking)
            elif health.status_code != 404:
                return TransientError(
                    f"SciCat is not healthy: {server_text(health)}",
                    remedy="It is tried again; look at the SciCat server and its database.",
                )
        return explain(response, doing)

    def _json(self, response: requests.Response, doing: str) -> JsonValue:
        try:
            answer: JsonValue = response.json()
        except (ValueError, RecursionError):
            kind = response.headers.get("Content-Type", "no type")
            raise UnansweredError(
                f"SciCat answered {response.status_code} with {kind} instead of JSON when {doing}.",
                remedy="See that scicat.host is the API's address, and what stands between here and it.",
            ) from None
        return answer


def _login_request(settings: ScicatSettings) -> tuple[str, str, dict[str, str]]:
    """The path, what is done, and the body of a login.

    Raises
    ------
    LoginRefusedError
        The file with the id token cannot be read.
    """
    if settings.login == "oidc":
        return "auth/oidc/token", "exchanging the id token", {"idToken": _id_token(settings.oidc_token_file)}
    path = "auth/ldap" if settings.login == "ldap" else "auth/login"
    body = {"username": settings.username, "password": settings.password.get_secret_value()}
    return path, f"logging in as {settings.username}", body


def _id_token(path: str) -> str:
    try:
        with Path(path).open(encoding="ascii") as file:
            token = file.read(_LONGEST_ID_TOKEN).strip()
    except (OSError, UnicodeError) as error:
        # The text of a decoding error quotes the file.
        why = error.strerror if isinstance(error, OSError) else "it is not a token"
        raise LoginRefusedError(
            f"scicat.oidc_token_file, {path}, cannot be read: {why}.",
            remedy="See that whoever issues the id token writes it there, and that this account may read it.",
        ) from None
    if not token:
        raise LoginRefusedError(
            f"scicat.oidc_token_file, {path}, is empty.",
            remedy="See that whoever issues the id token writes it there.",
        )
    return token


def _date_of(response: requests.Response) -> datetime:
    try:
        return parsedate_to_datetime(response.headers.get("Date", "")).replace(tzinfo=UTC)
    except ValueError:
        return datetime.now(UTC)


def _would_answer_anybody(response: requests.Response) -> bool:
    """Whether an anonymous caller would be answered so: refused, not found, or an empty list."""
    return response.status_code in {403, 404} or _is_empty_list(response)


def _is_empty_list(response: requests.Response) -> bool:
    return response.ok and response.content.strip() == b"[]"


def still_nobody(doing: str) -> TransientError:
    return TransientError(
        f"SciCat does not know our login when {doing}, although it has just given it.",
        remedy="It is tried again; look at the server's clock and token lifetime if it goes on.",
    )


def _renewed(doing: str) -> LoginRenewedError:
    return LoginRenewedError(
        f"SciCat did not know our login any more when {doing}.",
        remedy="Nothing to do: what it did not list is looked for again.",
    )


def _token_refused(expired_at: datetime | None) -> LoginRefusedError:
    when = f"expired at {expired_at:%Y-%m-%d %H:%M} UTC" if expired_at else "has expired or is wrong"
    return LoginRefusedError(
        f"SciCat does not accept our login: the token {when}.",
        remedy="Put a valid token (or username and password, which renew it) into the configuration.",
    )
