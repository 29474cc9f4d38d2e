"""A client for the routes of SciCat's v3 API that registration needs.

One session, connections reused, explicit time-outs; reads are repeated once or twice where that is harmless,
writes never. A caller who is not logged in is *not* told so by the server (writes get 403, reads 404 or an
empty list), so every such answer is checked with ``auth/whoami`` before it is believed. What to write, and in
which order, belongs to ``registration``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import requests
from pydantic import JsonValue, ValidationError
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.scicat.errors import explain, server_words, unreachable
from scicat_dagster.scicat.models import DatasetRecord, OrigDatablockRecord
from scicat_dagster.settings import ScicatSettings

IDLE_SECONDS = 4.0
"""A connection unused for longer is not used again: the server closes them after 5 s."""

RENEWAL_SECONDS = 60.0
"""A login is renewed this long before it expires."""

_MOST_RECORDS = 1000

_Record = TypeVar("_Record", DatasetRecord, OrigDatablockRecord)


class ConflictError(PermanentError):
    """There is a dataset with this pid already."""


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


class ScicatClient:
    """A logged-in caller of one SciCat server. Not to be shared between threads or across a fork."""

    def __init__(self, settings: ScicatSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._last_use = clock()
        self._token = settings.token.get_secret_value()
        self._expires_at: float | None = None
        self._session = requests.Session()
        self._session.verify = settings.verify
        for name, value in settings.additional_headers.items():
            self._session.headers[name] = value.get_secret_value()
        repeated_reads = Retry(
            total=2, status=0, backoff_factor=0.2, allowed_methods=frozenset({"GET", "HEAD"})
        )
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=repeated_reads))

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def dataset_page(self, pid: str) -> str:
        """The web page that shows a dataset to a person."""
        return f"{self._settings.frontend_url}/datasets/{quote(pid, safe='')}"

    def fetch(self, url: str) -> JsonValue:
        """The answer to a GET of ``url``, relative to the API's root or absolute.

        Raises
        ------
        LookupError
            There is no such entry, or this account may not see it.
        TransientError
            The server could not answer.
        """
        response = self._send("GET", self._absolute(url), f"asking for {url}")
        if response.status_code in {403, 404} and self._logged_in():
            raise LookupError(f"SciCat answered {response.status_code} for {url}: {server_words(response)}")
        if 400 <= response.status_code < 500 and response.status_code not in {403, 404, 408, 425, 429}:
            raise LookupError(f"SciCat answered {response.status_code} for {url}: {server_words(response)}")
        if not response.ok:
            raise self._explained(response, f"asking for {url}")
        if not response.content:
            raise LookupError(f"SciCat answered nothing for {url}.")
        return self._json(response, f"asking for {url}")

    def create_dataset(self, body: dict[str, JsonValue]) -> DatasetRecord:
        """Create a dataset.

        Raises
        ------
        ConflictError
            Its pid is taken.
        RefusedError
            The server refuses it.
        TransientError
            The server could not answer; it may have created the dataset all the same.
        """
        doing = "creating the dataset"
        response = self._write(self._settings.api_endpoints.datasets, body, doing)
        if response.status_code == 409:
            raise ConflictError(server_words(response), remedy="Look at the dataset that has this pid.")
        return self._record(response, doing, DatasetRecord)

    def create_origdatablock(self, body: dict[str, JsonValue]) -> OrigDatablockRecord:
        """Create an origdatablock. The server does not check whether there is one like it already.

        Raises as :meth:`create_dataset`; in particular after a 500 the block may be stored.
        """
        doing = "creating the origdatablock"
        response = self._write(self._settings.api_endpoints.origdatablocks, body, doing)
        return self._record(response, doing, OrigDatablockRecord)

    def dataset(self, pid: str) -> DatasetRecord | None:
        """The dataset with a pid; None where there is none.

        Raises
        ------
        RefusedError
            It exists and this account may not read it.
        TransientError
            The server could not answer.
        """
        doing = f"asking for the dataset {pid}"
        response = self._send("GET", self._absolute(f"{self._datasets}/{quote(pid, safe='')}"), doing)
        if response.status_code == 404 and self._logged_in():
            return None
        return self._record(response, doing, DatasetRecord)

    def datasets_with_metadata(self, key: str, value: JsonValue) -> list[DatasetRecord]:
        """The readable datasets whose scientific metadata has this value under a key."""
        # `inq`, because the server turns a plain text that looks like a date into one, which never matches.
        where = {f"scientificMetadata.{key}.value": {"inq": [value]}}
        doing = f"looking for datasets with {key} {value}"
        return self._records(self._datasets, where, doing, DatasetRecord)

    def origdatablocks(self, pid: str) -> list[OrigDatablockRecord]:
        """The origdatablocks of a dataset."""
        doing = f"asking for the origdatablocks of {pid}"
        endpoint = self._settings.api_endpoints.origdatablocks
        return self._records(endpoint, {"datasetId": pid}, doing, OrigDatablockRecord)

    def samples_of_proposal(self, proposal_id: str) -> list[dict[str, Any]]:
        """The samples of a proposal, as the catalogue has them."""
        where = {"proposalId": {"inq": [proposal_id]}}
        url = f"{self._settings.api_endpoints.samples}?filter={quote(_filter(where))}"
        answer = self.fetch(url)
        return [sample for sample in answer if isinstance(sample, dict)] if isinstance(answer, list) else []

    def whoami(self) -> str | None:
        """The name of the account that the server takes us for; None for an anonymous caller."""
        response = self._send("GET", self._absolute("auth/whoami"), "asking who we are")
        if not response.ok:
            raise explain(response, "asking who we are")
        if not response.content:
            return None
        answer = self._json(response, "asking who we are")
        return str(answer.get("username") or answer.get("_id")) if isinstance(answer, dict) else None

    @property
    def _datasets(self) -> str:
        return self._settings.api_endpoints.datasets

    def _absolute(self, url: str) -> str:
        return url if url.startswith(("https://", "http://")) else f"{self._settings.host}/{url.lstrip('/')}"

    def _write(self, endpoint: str, body: dict[str, JsonValue], doing: str) -> requests.Response:
        """A POST; once more if it was refused only because our login had run out."""
        url = self._absolute(endpoint)
        response = self._send("POST", url, doing, body)
        if response.status_code == 403 and self.whoami() is None and self._renew_login():
            response = self._send("POST", url, doing, body)
        return response

    def _send(
        self, method: str, url: str, doing: str, body: dict[str, JsonValue] | None = None
    ) -> requests.Response:
        self._log_in_if_due()
        return self._request(method, url, doing, body, self._bearer_for(url))

    def _request(
        self, method: str, url: str, doing: str, body: Any, auth: requests.auth.AuthBase
    ) -> requests.Response:
        now = self._clock()
        if now - self._last_use > IDLE_SECONDS:
            self._session.close()
        seconds = self._settings.timeout_seconds
        try:
            return self._session.request(
                method,
                url,
                data=None if body is None else json.dumps(body, allow_nan=False).encode(),
                headers={"Accept": "application/json"}
                | ({} if body is None else {"Content-Type": "application/json"}),
                auth=auth,
                timeout=(min(seconds, 10.0), seconds),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise unreachable(error, doing) from None
        finally:
            self._last_use = self._clock()

    def _bearer_for(self, url: str) -> _Bearer:
        # A schema may name any URL; our token is for our server only.
        ours, theirs = urlsplit(self._settings.host), urlsplit(url)
        is_ours = (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc)
        return _Bearer(self._token if is_ours else "")

    def _log_in_if_due(self) -> None:
        if not self._settings.username:
            return
        if not self._token or (
            self._expires_at is not None and self._clock() > self._expires_at - RENEWAL_SECONDS
        ):
            self._log_in()

    def _renew_login(self) -> bool:
        if not self._settings.username:
            return False
        self._log_in()
        return True

    def _log_in(self) -> None:
        doing = f"logging in as {self._settings.username}"
        body = {
            "username": self._settings.username,
            "password": self._settings.password.get_secret_value(),
        }
        response = self._request("POST", self._absolute("auth/login"), doing, body, _Bearer(""))
        if not response.ok:
            raise explain(response, doing)
        answer = self._json(response, doing)
        token = (answer.get("access_token") or answer.get("id")) if isinstance(answer, dict) else None
        if not isinstance(answer, dict) or not isinstance(token, str):
            raise TransientError(
                f"SciCat gave no token when {doing}.", remedy="Look at the SciCat server's login."
            )
        lifetime = answer.get("ttl") or answer.get("expires_in")
        self._token = token
        self._expires_at = self._clock() + lifetime if isinstance(lifetime, int | float) else None

    def _logged_in(self) -> bool:
        """Whether the server knows us; renews the login where it can, else says that it has run out.

        Raises
        ------
        TransientError
            The login had run out and is renewed: what was asked has to be asked again.
        PermanentError
            The token has run out and there is no password to renew it with.
        """
        if self.whoami() is not None:
            return True
        if self._renew_login():
            raise TransientError("The login to SciCat had run out.", remedy="It is renewed and tried again.")
        raise _token_expired()

    def _explained(self, response: requests.Response, doing: str) -> Exception:
        """Like ``errors.explain``, but tells the three meanings of a 403 apart."""
        if response.status_code != 403:
            return explain(response, doing)
        if self.whoami() is None:
            if self._settings.username:
                return TransientError(
                    f"SciCat took us for nobody when {doing}, although we had logged in.",
                    remedy="It is tried again; look at the server's clock and token lifetime if it goes on.",
                )
            return _token_expired()
        health = self._request(
            "GET", self._absolute(self._settings.health_endpoint), "asking for its health", None, _Bearer("")
        )
        if health.status_code >= 500:
            return TransientError(
                f"SciCat's database is down: {server_words(health)}",
                remedy="It is tried again; look at the SciCat server.",
            )
        return explain(response, doing)

    def _json(self, response: requests.Response, doing: str) -> JsonValue:
        try:
            answer: JsonValue = response.json()
        except (ValueError, RecursionError):
            kind = response.headers.get("Content-Type", "no type")
            raise TransientError(
                f"SciCat answered {response.status_code} with {kind} instead of JSON when {doing}.",
                remedy="See that scicat.host is the API's address, and what stands between here and it.",
            ) from None
        return answer

    def _record(self, response: requests.Response, doing: str, kind: type[_Record]) -> _Record:
        if not response.ok:
            raise self._explained(response, doing)
        return _parsed(self._json(response, doing), doing, kind)

    def _records(
        self, endpoint: str, where: dict[str, Any], doing: str, kind: type[_Record]
    ) -> list[_Record]:
        response = self._send("GET", self._absolute(f"{endpoint}?filter={quote(_filter(where))}"), doing)
        if not response.ok:
            raise self._explained(response, doing)
        answer = self._json(response, doing)
        if not isinstance(answer, list):
            raise _unexpected(doing)
        return [_parsed(item, doing, kind) for item in answer]


def _parsed(answer: JsonValue, doing: str, kind: type[_Record]) -> _Record:
    try:
        return kind.model_validate(answer)
    except ValidationError:
        raise _unexpected(doing) from None


def _unexpected(doing: str) -> TransientError:
    return TransientError(
        f"SciCat's answer is not what its API promises when {doing}.",
        remedy="See that scicat.host is the API's address and that its version is supported.",
    )


def _filter(where: dict[str, Any]) -> str:
    return json.dumps({"where": where, "limits": {"limit": _MOST_RECORDS}})


def _token_expired() -> PermanentError:
    return PermanentError(
        "SciCat takes us for nobody: the token has expired or is wrong.",
        remedy="Put a valid token (or username and password, which renew it) into the configuration.",
    )
