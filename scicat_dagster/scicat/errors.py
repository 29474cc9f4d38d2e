"""What a SciCat server's answer means: the text it holds, and whether trying again can help.

The server has five shapes of error body, and hides a missing login behind 403 and 404; see the functions.
Talking to the server belongs to ``client``.
"""

from __future__ import annotations

import json
from typing import Any

import requests
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError

from scicat_dagster.errors import IngestionError, PermanentError, TransientError

_TRANSIENT = frozenset({408, 425, 429})
_LONGEST_QUOTE = 2000
_LONGEST_NUMBER = 8


class UnansweredError(TransientError):
    """No answer came, or none that says what became of the request: it may still be carried out."""


class RefusedError(PermanentError):
    """The server understood the request and refuses it."""


def server_text(response: requests.Response) -> str:
    """What the server says in an error body, whichever of its shapes it has.

    The shapes are: ``{message, error, statusCode}``; the same with a list of messages; ``{status, message}``
    whose message is a JSON text of nested ``{property, children, constraints}``; a bare JSON string; and a
    raw database error. A body that is none of these is quoted.
    """
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return _quoted(response.text.strip() or response.reason or "nothing")
    if isinstance(body, str):
        return _quoted(body)
    if isinstance(body, dict):
        message = body.get("message")
        if isinstance(message, list):
            return _quoted("; ".join(str(part) for part in message))
        if isinstance(message, str):
            return _quoted("; ".join(_constraints(message)) or message)
        if isinstance(body.get("errors"), dict):
            return _quoted("; ".join(_database_messages(body["errors"])))
    return _quoted(json.dumps(body))


def explain(response: requests.Response, doing: str) -> IngestionError:
    """The failure that an answer stands for; ``doing`` says what was asked, as in "creating the dataset"."""
    status = response.status_code
    details = {"status": f"{status} {response.reason}", "answer": server_text(response)}
    what = f"SciCat answered {status} when {doing}: {details['answer']}"
    if 300 <= status < 400:
        target = response.headers.get("Location", "elsewhere")
        return RefusedError(
            f"SciCat redirects to {target} when {doing}.",
            remedy="Set scicat.host to the address of the API itself.",
            details=details,
        )
    if status >= 500 or status in _TRANSIENT:
        return TransientError(
            what,
            remedy="It is tried again; look at the SciCat server if it goes on.",
            details=details,
            retry_after_seconds=_retry_after(response),
        )
    return RefusedError(what, remedy=_REMEDIES.get(status, _REMEDIES[400]), details=details)


def unreachable(
    error: requests.RequestException, doing: str, *, retry_after_seconds: float | None = None
) -> UnansweredError:
    """The failure that a broken connection or a time-out stands for.

    ``retry_after_seconds`` is how long the request may still be under way, where it may have been sent.
    """
    is_late = isinstance(error, requests.Timeout) or isinstance(_reason(error), ReadTimeoutError)
    kind = "did not answer in time" if is_late else "cannot be reached"
    return UnansweredError(
        f"SciCat {kind} when {doing} ({type(error).__name__}).",
        remedy="It is tried again; look at the network and the SciCat server if it goes on.",
        retry_after_seconds=None if _was_never_sent(error) else retry_after_seconds,
    )


def _was_never_sent(error: requests.RequestException) -> bool:
    return isinstance(error, requests.ConnectTimeout) or isinstance(
        _reason(error), NewConnectionError | ConnectTimeoutError
    )


def _reason(error: requests.RequestException) -> object:
    """What urllib3 said, also where it gave up after several tries."""
    cause = error.args[0] if error.args else None
    return getattr(cause, "reason", cause)


_REMEDIES = {
    400: "Correct the schema so that the server accepts the dataset, then try the file again.",
    401: "Correct the user name and password, or the token, in the configuration's scicat section.",
    403: "Give the ingestor's account the right to do this in SciCat, then try the file again.",
    404: "See that scicat.host and scicat.api_endpoints are right and that the entry exists.",
    413: "Take large entries out of the schema, or raise the server's limit.",
}


def _constraints(message: str) -> list[str]:
    try:
        problems = json.loads(message)
    except ValueError:
        return []
    return list(_flat_constraints(problems, "")) if isinstance(problems, list) else []


def _flat_constraints(problems: list[Any], place: str) -> list[str]:
    found: list[str] = []
    for problem in problems:
        if isinstance(problem, dict):
            where = f"{place}.{problem.get('property', '')}".lstrip(".")
            found += [f"{where}: {text}" for text in (problem.get("constraints") or {}).values()]
            found += _flat_constraints(problem.get("children") or [], where)
    return found


def _database_messages(errors: dict[str, Any]) -> list[str]:
    return [
        f"{name}: {error.get('message', '')}" for name, error in errors.items() if isinstance(error, dict)
    ]


def _retry_after(response: requests.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < _LONGEST_NUMBER else None


def _quoted(text: str) -> str:
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}…"
