"""How numbers are said to people."""


def numbered(number: int, noun: str) -> str:
    """A number of things in words: ``1 file``, ``2 files``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
