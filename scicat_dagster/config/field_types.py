"""Types of the configuration's values: what a file may write for each, and how it is understood.

Reading the file is ``loading``'s; which keys there are is said in ``models``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr


def comma_separated(value: object) -> object:
    value = as_text(value)
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def as_text(value: object) -> object:
    # YAML reads an unquoted group or proposal number as a number.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value


def _header_value(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value().strip()
    if not (value.isascii() and value.isprintable()):
        raise ValueError("holds characters that no HTTP header can")
    return SecretStr(value)


# The input types are for the JSON Schema, which tells editors what else may be written.
Text = Annotated[str, BeforeValidator(as_text, json_schema_input_type=str | float)]

Names = Annotated[
    tuple[Text, ...], BeforeValidator(comma_separated, json_schema_input_type=Text | tuple[Text, ...])
]

Secret = Annotated[SecretStr, BeforeValidator(as_text, json_schema_input_type=str | float)]

HeaderSecret = Annotated[Secret, AfterValidator(_header_value)]

PATH_TYPES = ("relative", "absolute")


def path_type(value: object) -> object:
    # As in scicat-ingestor, where everything but `relative` is absolute. It is named as a mistake.
    return "absolute" if isinstance(value, str) and value not in PATH_TYPES else value


_OFFSET_RESETS = {
    "beginning": "earliest",
    "smallest": "earliest",
    "end": "latest",
    "largest": "latest",
}
"""Kafka's client has several names for each."""


def offset_reset(value: object) -> object:
    return _OFFSET_RESETS.get(value, value) if isinstance(value, str) else value


def known_algorithm(name: str) -> str:
    if name == "blake3":
        return name
    if name not in hashlib.algorithms_available or name.startswith("shake_"):
        raise ValueError(
            "is not a checksum algorithm; use blake3 or one of hashlib's, such as blake2b, sha256 or md5"
        )
    return name


def file_name_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    if not patterns:
        raise ValueError("must have at least one pattern, such as *.nxs")
    for pattern in patterns:
        if "/" in pattern:
            raise ValueError(
                f"holds {pattern!r}, which is the pattern of a path; name patterns of file names"
            )
    return patterns


def api_root(url: str) -> str:
    if not re.match(r"https?://[^/]", url):
        raise ValueError("must begin with https:// (or http://) and name a host")
    if "@" in url.split("/")[2]:
        raise ValueError("must not hold a user name or password; use scicat.username and scicat.password")
    return url.rstrip("/")


def below_root(path: Any, host: str) -> Any:
    """A path of the API relative to its root, where it is written from the server's root or as an address."""
    if not isinstance(path, str):
        return path
    root = re.sub(r"/v\d+$", "", host.rstrip("/"))
    for beginning in (root, urlsplit(root).path):
        if path.startswith(f"{beginning}/"):
            return path.removeprefix(f"{beginning}/")
    return path


_CRON_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))

_CRON_PART = re.compile(r"(?:\*|(?P<first>\d+)(?:-(?P<last>\d+))?)(?:/(?P<step>\d+))?")


def cron_expression(text: str) -> str:
    # Dagster would refuse all definitions because of one schedule that it cannot read.
    fields = text.split()
    if len(fields) != len(_CRON_FIELDS):
        raise ValueError("must be a cron expression of five fields, such as `0 3 * * *` for three each night")
    for field, (name, lowest, highest) in zip(fields, _CRON_FIELDS, strict=True):
        for part in field.split(","):
            read = _CRON_PART.fullmatch(part)
            if read is None:
                raise ValueError(f"holds {part!r} for the {name}, which is not a number, range or step")
            numbers = [int(number) for number in (read["first"], read["last"]) if number]
            if any(not lowest <= number <= highest for number in numbers) or numbers != sorted(numbers):
                raise ValueError(f"holds {part!r} for the {name}, which goes from {lowest} to {highest}")
            if read["step"] and not 0 < int(read["step"]) <= highest:
                raise ValueError(f"holds {part!r} for the {name}, whose step is useless")
    return " ".join(fields)


def webhook_address(secret: SecretStr) -> SecretStr:
    address = secret.get_secret_value().strip()
    is_text = address.isascii() and address.isprintable()
    if address and not (re.match(r"https?://[^/\s]", address) and is_text):
        raise ValueError("must be an address that begins with https:// (or http://) and names a host")
    return SecretStr(address)


def mail_address(address: str) -> str:
    if address and not (re.fullmatch(r"[^@\s,<>]+@[^@\s,<>]+", address) and address.isascii()):
        raise ValueError("must be an e-mail address such as odin@example.org, without a name around it")
    return address


def ascii_secret(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().isascii():
        raise ValueError("holds characters that no login at a mail server can")
    return secret


def upper_case(value: Any) -> Any:
    """A word that may be given in any case."""
    return value.upper() if isinstance(value, str) else value


def or_default(default: object) -> Callable[[Any], Any]:
    """A validator that takes an empty text, as sample files have it, for the default."""

    def replaced(value: Any) -> Any:
        return default if value == "" else value

    return replaced
