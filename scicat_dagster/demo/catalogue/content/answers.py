"""How answers look: JSON as the real server writes it, and its five shapes of error.

Here belong: response classes, the error shapes, and the reading of request text as JSON with the messages
that the real server's engine gives. When an error is due is not decided here.
"""

import json
import math
import re
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse, Response

JsonObject = dict[str, Any]

_STRINGS_AND_CONSTANTS = re.compile(r'"(?:\\.|[^"\\])*"|-?Infinity|NaN')
_EXCERPT = 10
_LARGEST_EXACT_INTEGER = 2**53
_DATABASE_MODEL = "DatasetClass"


class JsonAnswer(JSONResponse):
    """A JSON body with the content type that the real server sends."""

    media_type = "application/json; charset=utf-8"


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: The HTTP status.
        body: The JSON body, in one of the five shapes.
    """

    def __init__(self, status: int, body: object) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body

    def answer(self) -> Response:
        """The error as a response."""
        return JsonAnswer(self.body, status_code=self.status)


class BadJsonError(Exception):
    """A text that is not JSON; the message is the one of the server's JSON reader."""


def usual_error(status: int, message: str | list[str], *, named: bool = True) -> ApiError:
    """The first shape, and the second where the message is a list: message, name of the status, status.

    Args:
        status: The HTTP status.
        message: One text, or the list of broken rules.
        named: Whether the body holds the status's name in ``error``.
    """
    body: JsonObject = {"message": message}
    if named:
        body["error"] = HTTPStatus(status).phrase
    return ApiError(status, {**body, "statusCode": status})


def forbidden(message: str = "Forbidden resource") -> ApiError:
    """The answer to a caller without the right, which is also what an expired token gets."""
    return usual_error(HTTPStatus.FORBIDDEN, message)


def unauthorized() -> ApiError:
    """The answer to a wrong password, and of the one route that tells a caller that nobody is logged in."""
    return usual_error(HTTPStatus.UNAUTHORIZED, "Unauthorized", named=False)


def encoded_validation_error(violations: str) -> ApiError:
    """The third shape: the broken rules are JSON inside a JSON text."""
    return ApiError(HTTPStatus.BAD_REQUEST, {"status": int(HTTPStatus.BAD_REQUEST), "message": violations})


def unhandled_error() -> ApiError:
    """The fourth shape: the body is one JSON text and nothing else."""
    return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal server error")


def database_error(empty: JsonObject) -> ApiError:
    """The fifth shape: the database's own validation error object.

    Args:
        empty: The mandatory fields that were empty, with the values they had.
    """
    errors = {}
    for path, value in empty.items():
        message = f"Path `{path}` is required."
        properties: JsonObject = {"message": message, "type": "required", "path": path, "value": value}
        if isinstance(value, str):
            properties["length"] = len(value)
        errors[path] = {
            "name": "ValidatorError",
            "message": message,
            "properties": properties,
            "kind": "required",
            "path": path,
            "value": value,
        }
    reasons = ", ".join(f"{path}: {error['message']}" for path, error in errors.items())
    failed = f"{_DATABASE_MODEL} validation failed"
    body = {
        "errors": errors,
        "_message": failed,
        "name": "ValidationError",
        "message": f"{failed}: {reasons}",
    }
    return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, body)


def read_json(text: str) -> Any:
    """Read JSON the way the server's engine does: no NaN, and numbers of one kind.

    Raises:
        BadJsonError: The text is not JSON.
    """
    try:
        value = json.loads(text, parse_float=_number, parse_int=_integer, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise BadJsonError(_message(text, error)) from None
    except _ConstantError:
        raise BadJsonError(_unexpected_token(text, _position_of_constant(text))) from None
    except RecursionError:
        raise BadJsonError("Maximum call stack size exceeded") from None
    # Half a surrogate pair cannot be stored as UTF-8; the real server loses it too.
    if "\\ud" in text.lower():
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value


class _ConstantError(Exception):
    pass


def _refuse_constant(name: str) -> Any:
    raise _ConstantError(name)


def _number(text: str) -> int | float | None:
    number = float(text)
    if math.isinf(number):
        return None
    return int(number) if number.is_integer() and abs(number) <= _LARGEST_EXACT_INTEGER else number


def _integer(text: str) -> int | float | None:
    # Python refuses to read integers of thousands of digits, and JavaScript rounds those beyond 2**53.
    return int(text) if len(text) < 16 else _number(text)


def _position_of_constant(text: str) -> int:
    for match in _STRINGS_AND_CONSTANTS.finditer(text):
        if not match.group().startswith('"'):
            return match.start()
    return 0


def _message(text: str, error: json.JSONDecodeError) -> str:
    position = error.pos
    if error.msg.startswith("Unterminated string"):
        return f"Unterminated string in JSON at position {len(text)}"
    if position >= len(text):
        return "Unexpected end of JSON input"
    if error.msg.startswith("Expecting property name"):
        return f"Expected property name or '}}' in JSON at position {position}"
    if error.msg.startswith("Expecting ':'"):
        return f"Expected ':' after property name in JSON at position {position}"
    if error.msg.startswith("Expecting ','"):
        return f"Expected ',' or '}}' after property value in JSON at position {position}"
    if error.msg.startswith("Extra data"):
        return f"Unexpected non-whitespace character after JSON at position {position}"
    if error.msg.startswith("Invalid control character"):
        return f"Bad control character in string literal in JSON at position {position}"
    if error.msg.startswith("Invalid \\"):
        return f"Bad escaped character in JSON at position {position}"
    return _unexpected_token(text, position)


def _unexpected_token(text: str, position: int) -> str:
    start = max(position - _EXCERPT, 0)
    end = min(position + _EXCERPT, len(text))
    if len(text) <= 2 * _EXCERPT:
        start, end = 0, len(text)
    before = "..." if start else ""
    after = "..." if end < len(text) else ""
    return f"Unexpected token '{text[position]}', {before}\"{text[start:end]}\"{after} is not valid JSON"
