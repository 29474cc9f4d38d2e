"""How numbers and times are said to people."""

from datetime import datetime


def numbered(number: int, noun: str) -> str:
    """A number of things in words: ``1 file``, ``2 files``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def local(moment: datetime) -> str:
    """A time as the clock of this machine shows it, and its zone: who reads it may be elsewhere."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M %Z")
