"""Dates as the real server understands them.

Here belong: reading ISO 8601 text, writing the one form in which dates are stored, and the question whether
JavaScript would take a text for a date. Which fields hold dates is not decided here.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime

_YEAR_OR_MONTH = re.compile(r"\d{4}(-\d{2})?")
_STARTS_AS_ISO = re.compile(r"\d{4}(-?\d{2}|-?W\d{2}|-?\d{3}|$)")

_JAVASCRIPT_ISO = re.compile(
    r"\d{4}(-\d{2}(-\d{2})?)?(T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})?)?", re.ASCII
)
_TOKENS = re.compile(
    r"(?P<number>\d+)|(?P<word>[^\W\d]+|[^\x00-\x7f]+|[\[\]^`{|}~\\]+)|(?P<space>\s+)|(?P<symbol>.)",
    re.DOTALL,
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_HALF_DAYS = ("am", "pm")
_ZONES = ("ut", "utc", "gmt", "z", "est", "edt", "cst", "cdt", "mst", "mdt", "pst", "pdt")
_LARGEST_YEAR = 275_760


def read_iso(text: str) -> datetime | None:
    """Read ISO 8601 text; without an offset it is UTC, as on a server whose clock runs on UTC.

    Returns:
        The instant in UTC, or None where the text is not an ISO 8601 date.
    """
    if not _STARTS_AS_ISO.match(text):
        return None
    if shortened := _YEAR_OR_MONTH.fullmatch(text):
        text = f"{text}-01" if shortened.group(1) else f"{text}-01-01"
    try:
        instant = datetime.fromisoformat(text)
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def write_iso(instant: datetime) -> str:
    """Write an instant the way dates leave the server: UTC, milliseconds, ``Z``; finer digits are cut."""
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{instant.microsecond // 1000:03d}Z"


def now() -> str:
    """The present instant in the stored form."""
    return write_iso(datetime.now(UTC))


def stored_form(value: object) -> str | None:
    """What the server stores for a date it was sent: the instant in UTC, or None where it is not a date."""
    instant = read_iso(value) if isinstance(value, str) else None
    return None if instant is None else write_iso(instant)


def javascript_takes_for_date(text: str) -> bool:
    """Whether ``new Date(text)`` is a valid date in the JavaScript engine that the server runs on.

    Beside ISO 8601 the engine has a lenient reader: words before the first number are skipped, so
    ``LOKI 1`` is the first of January. The rules are those of V8, compared with Node 20.
    """
    if _JAVASCRIPT_ISO.fullmatch(text) and read_iso(text) is not None:
        return True
    return _LenientReader().accepts(text)


class _LenientReader:
    """V8's reader for everything that is not ISO 8601, reduced to its verdict: a date, or not."""

    def __init__(self) -> None:
        self._day: list[int] = []
        self._time: list[int] = []
        self._time_is_complete = False
        self._month: int | None = None
        self._saw_number = False
        self._saw_zone = False

    def accepts(self, text: str) -> bool:
        tokens = list(_tokens(text))
        position = 0
        while position < len(tokens):
            kind, part = tokens[position]
            following = tokens[position + 1] if position + 1 < len(tokens) else ("end", "")
            position += 1
            if kind == "number":
                self._saw_number = True
                consumed = self._number(int(part[:9]), following)
                if consumed is None:
                    return False
                position += consumed
            elif kind == "word":
                if not self._word(part.lower(), followed_by_number=following[0] == "number"):
                    return False
            elif part in "+-" and (self._saw_zone or self._time):
                self._saw_number = True
                if following[0] == "number":
                    if len(following[1]) > 4:
                        return False
                    position += 1
            elif part in "+-)" and kind == "symbol" and self._saw_number:
                return False
            elif part == "(":
                position = _after_parenthesis(tokens, position)
        return self._is_a_day() and self._is_a_time()

    def _number(self, number: int, following: tuple[str, str]) -> int | None:
        """Place a number: how many following tokens go with it, or None where it fits nowhere."""
        if following == ("symbol", ":"):
            if self._time_is_complete or len(self._time) >= 3:
                return None
            self._time.append(number)
            return 1
        if self._expects_time(number):
            self._time.append(number)
            if following == ("symbol", "."):
                return 1
            self._time_is_complete = True
            ends_well = following[0] in ("end", "space") or following[1].lower() in ("z", "+", "-")
            return 0 if ends_well else None
        if len(self._day) >= 3:
            return None
        self._day.append(number)
        return 1 if following in (("symbol", "-"), ("symbol", ".")) else 0

    def _expects_time(self, number: int) -> bool:
        return (
            1 <= len(self._time) <= 3
            and not self._time_is_complete
            and number < (60, 60, 1000)[len(self._time) - 1]
        )

    def _word(self, word: str, *, followed_by_number: bool) -> bool:
        if word in _HALF_DAYS and self._time:
            return True
        if word[:3] in _MONTHS:
            self._month = _MONTHS.index(word[:3]) + 1
            return True
        if word in _ZONES and self._saw_number:
            self._saw_zone = True
            return True
        return not self._saw_number and not followed_by_number

    def _is_a_day(self) -> bool:
        if not self._day:
            return False
        first, second, third = (*self._day, 1, 1)[:3]
        year_first = not 1 <= first <= 31
        if self._month is not None:
            year, day = (first, second) if year_first else (second, first)
            month = self._month
        elif year_first:
            year, month, day = first, second, third
        else:
            month, day, year = first, second, third
        return 1 <= month <= 12 and 1 <= day <= 31 and year < _LARGEST_YEAR

    def _is_a_time(self) -> bool:
        return all(number < limit for number, limit in zip(self._time, (25, 60, 60, 1000), strict=False))


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    for match in _TOKENS.finditer(text):
        yield match.lastgroup or "symbol", match.group()


def _after_parenthesis(tokens: list[tuple[str, str]], position: int) -> int:
    depth = 1
    while position < len(tokens) and depth:
        depth += {"(": 1, ")": -1}.get(tokens[position][1], 0)
        position += 1
    return position
