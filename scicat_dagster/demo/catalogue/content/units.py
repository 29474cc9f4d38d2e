"""The SI values that the server adds to metadata with a value and a unit.

Here belong: the units and their factors, and the walk through a metadata tree. The spelling of the SI units
is that of the recorded answers. A unit that is not listed stays as it is, which is also what the real
server does with units it does not know.
"""

import math
from typing import Any

_PREFIXES = {
    "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "c": 1e-2, "k": 1e3, "M": 1e6, "G": 1e9,
}  # fmt: skip
_ENERGY = "(kg m^2) / s^2"
_PREFIXED = {
    "m": (1.0, "m"),
    "s": (1.0, "s"),
    "g": (1e-3, "kg"),
    "K": (1.0, "K"),
    "A": (1.0, "A"),
    "Hz": (1.0, "s^-1"),
    "eV": (1.602176565e-19, _ENERGY),
    "J": (1.0, _ENERGY),
}
_PLAIN = {
    "angstrom": (1e-10, "m"),
    "Å": (1e-10, "m"),
    "deg": (math.pi / 180, "rad"),
    "rad": (1.0, "rad"),
    "m/s": (1.0, "m / s"),
    "min": (60.0, "s"),
    "hour": (3600.0, "s"),
}
_UNITS = {
    **{
        f"{prefix}{unit}": (factor * scale, si)
        for unit, (scale, si) in _PREFIXED.items()
        for prefix, factor in _PREFIXES.items()
    },
    **_PREFIXED,
    **_PLAIN,
}
_ZERO_CELSIUS = 273.15


def with_si(metadata: dict[str, Any]) -> dict[str, Any]:
    """Copy a metadata tree, with ``valueSI`` and ``unitSI`` beside every value that has a unit.

    Groups without a unit of their own are walked through; everything else is copied unchanged.
    """
    return {name: _entry_with_si(entry) for name, entry in metadata.items()}


def _entry_with_si(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    unit = entry.get("unit")
    if "value" in entry and isinstance(unit, str) and unit:
        value_si, unit_si = _to_si(entry["value"], unit)
        return {**entry, "valueSI": value_si, "unitSI": unit_si}
    return entry if "unit" in entry else with_si(entry)


def _to_si(value: Any, unit: str) -> tuple[Any, str]:
    # A pair is a range and is converted; a longer list is not.
    if isinstance(value, list):
        pair = [_number(item) for item in value]
        if len(pair) != 2 or any(number is None for number in pair):
            return value, unit
        converted = [_convert(number, unit) for number in pair if number is not None]
        return [number for number, _ in converted], converted[0][1]
    number = _number(value)
    if number is None:
        return value, unit
    converted_value, unit_si = _convert(number, unit)
    return (value, unit) if unit_si == unit and unit not in _UNITS else (converted_value, unit_si)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _convert(number: float, unit: str) -> tuple[int | float, str]:
    if unit in ("degC", "celsius"):
        return _as_javascript_writes(number + _ZERO_CELSIUS), "K"
    factor, unit_si = _UNITS.get(unit, (1.0, unit))
    return _as_javascript_writes(number * factor), unit_si


def _as_javascript_writes(number: float) -> int | float:
    return int(number) if number.is_integer() and abs(number) < 1e15 else number
