"""A plot as a small PNG: a line or an image with its title, axes and units; runs in the child process.

Pillow writes the letters and the file, numpy does the rest. A plotting library would take longer to be
imported than everything else that is done for a small file.
"""

from __future__ import annotations

import hashlib
import io
import math
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from scicat_dagster.files.isolated.nxdata import Axis, Plot, Values
from scicat_dagster.files.thumbnail_models import MARK, MOST_PNG_BYTES, Thumbnail, Wanted, data_url

WIDTH, HEIGHT = 480, 360

_LEFT, _TOP, _RIGHT, _BOTTOM = 64, 30, 14, 46
"""The margins, which hold the title, the labels and the numbers."""

_FINER = 2
"""How much finer the line is drawn than shown, to be smooth."""

_SHADES = 16
"""Between the paper and the ink, and between the paper and the line."""

_COLOURS = 96
"""Of an image, where they fit into the bytes."""

_PAPER, _INK, _LINE = (255, 255, 255), (40, 44, 52), (11, 94, 160)

_RAMP = ((14, 18, 64), (30, 76, 138), (32, 140, 150), (104, 192, 112), (236, 220, 84), (255, 250, 225))
"""From little to much, from dark to light, so that it can be told apart without colours, too."""

_NOTHING = (200, 200, 200)
"""Where there is no value."""

_LARGE_RANGE = 100
"""How many times the usual value the largest one is, from where on a logarithmic scale shows more."""

_MOST_DECADES = 6

_LONGEST_CAPTION = 300

_UNKNOWN_LETTER = "\U0010ffff"

_MICRO = "\u00b5\u03bc"

_SAMPLED_ROWS = 8
"""One of so many tells how large the compressed picture will be."""

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class _Span:
    """What is between the two ends of a side, and how."""

    low: float
    high: float
    is_log: bool = False

    def fractions(self, values: Values) -> Values:
        """Where the values are, from 0 to 1."""
        if self.is_log:
            with np.errstate(divide="ignore", invalid="ignore"):
                values = np.log10(np.where(values > 0, values, self.low))
            low, high = math.log10(self.low), math.log10(self.high)
        else:
            low, high = self.low, self.high
        return np.clip((values - low) / (high - low), 0, 1)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Round numbers within it, and how each is written."""
        if self.is_log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            step = max(1, math.ceil((last - first + 1) / most))
            return [(10.0**power, _number(10.0**power)) for power in range(first, last + 1, step)]
        return _round_numbers(self.low, self.high, most)


def thumbnail_of(plot: Plot, wanted: Wanted) -> Thumbnail:
    """The picture of a plot.

    Raises
    ------
    ValueError
        It has no values.
    """
    if not np.isfinite(plot.values).any():
        raise ValueError("There is no value in what is to be plotted.")
    title = _line(wanted.title or plot.title or plot.label)
    span = _span(plot.values, wanted)
    draw = _line_plot if plot.values.ndim == 1 else _image_plot
    text = Image.new("L", (WIDTH, HEIGHT))
    canvas = draw(plot, span, ImageDraw.Draw(text), text)
    _write(ImageDraw.Draw(text), (WIDTH // 2, 6), title, WIDTH - 16, "ma", size=13)
    png, digest = _encoded(canvas, np.asarray(text))
    return Thumbnail(data_url=data_url(png), caption=_caption(plot, title, span), digest=digest)


def _caption(plot: Plot, title: str, span: _Span) -> str:
    axes = ", ".join(axis.label for axis in reversed(plot.axes))
    scale = "logarithmic" if span.is_log else ""
    about = ", ".join(part for part in (f"{plot.label} by {axes}", plot.note, scale) if part)
    return _line(about if title == plot.label else f"{title}: {about}")[:_LONGEST_CAPTION]


def _line(text: str) -> str:
    """A text of a file as one line without control characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


# Scales


def _span(values: Values, wanted: Wanted) -> _Span:
    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    is_log = bool(len(positive)) and (
        wanted.scale == "log" or (wanted.scale == "auto" and _spreads(finite, positive))
    )
    if values.ndim == 1:
        low, high = float(finite.min()), float(finite.max())
    else:
        # An image's few outliers would leave nothing but darkness to the rest.
        low, high = map(float, np.percentile(positive if is_log else finite, wanted.percentiles))
    if is_log:
        low = max(low if low > 0 else float(positive.min()), high / 10**_MOST_DECADES)
    return _widened(low, high, is_log=is_log)


def _spreads(finite: Values, positive: Values) -> bool:
    return bool(finite.min() >= 0 and finite.max() > _LARGE_RANGE * float(np.median(positive)))


def _widened(low: float, high: float, *, is_log: bool) -> _Span:
    """A span with something in it, also where all values are the same."""
    if is_log:
        return _Span(low, high, is_log=True) if high > low * 1.001 else _Span(low / 2, high * 2, is_log=True)
    if high - low > abs(high) * 1e-12 and high > low:
        return _Span(low, high)
    margin = abs(high) * 0.1 or 1.0
    return _Span(low - margin, high + margin)


def _round_numbers(low: float, high: float, most: int) -> list[tuple[float, str]]:
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    digits = -math.floor(math.log10(step) + 1e-9)
    return [(number * step, _number(number * step, digits)) for number in numbers]


# Plots: each answers the numbers of colours, and writes its labels


def _line_plot(plot: Plot, span: _Span, pen: ImageDraw.ImageDraw, text: Image.Image) -> Pixels:
    left, top, right, bottom = box = (_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM)
    axis = plot.axes[0]
    along = _places(axis, len(plot.values))
    sideways = _widened(float(along.min()), float(along.max()), is_log=False)
    there = np.isfinite(plot.values)
    x = (left + sideways.fractions(along[there]) * (right - left)) * _FINER
    y = (bottom - 4 - span.fractions(plot.values[there]) * (bottom - top - 8)) * _FINER
    fine = Image.new("L", (WIDTH * _FINER, HEIGHT * _FINER))
    points = np.stack([x, y], axis=1).ravel().tolist()
    ImageDraw.Draw(fine).line(points, fill=255, width=_FINER + 1, joint=None)
    for tick, number in sideways.ticks(6):
        place = left + sideways.fractions(np.array([tick]))[0] * (right - left)
        _tick_below(pen, place, bottom, number)
    for tick, number in span.ticks(6):
        place = bottom - 4 - span.fractions(np.array([tick]))[0] * (bottom - top - 8)
        _tick_beside(pen, left, place, number)
    _frame(pen, text, box, axis.label, plot.label)
    shades = np.asarray(fine.reduce(_FINER)) // (256 // _SHADES)
    return shades.astype(np.uint8)


def _places(axis: Axis, points: int) -> Values:
    """Where the points of a line are along its axis, of which there may be more."""
    if axis.values is None:
        return np.arange(points, dtype=np.float64)
    chosen = np.linspace(0, len(axis.values) - 1, points).round().astype(int)
    places: Values = axis.values[chosen]
    return places


def _image_plot(plot: Plot, span: _Span, pen: ImageDraw.ImageDraw, text: Image.Image) -> Pixels:
    left, top, right, bottom = box = _image_box(plot)
    rows, columns = plot.values.shape
    # Rows go upwards, as the values of an axis do.
    down = np.linspace(rows - 1, 0, bottom - top).round().astype(int)
    across = np.linspace(0, columns - 1, right - left).round().astype(int)
    shown = plot.values[np.ix_(down, across)]
    colours = 1 + np.nan_to_num(span.fractions(shown)) * (_COLOURS - 1)
    canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
    canvas[top:bottom, left:right] = 2 * _SHADES + np.where(np.isfinite(shown), colours, 0).astype(np.uint8)
    vertical, horizontal = plot.axes
    for fraction in (0.0, 0.5, 1.0):
        value = _place(horizontal, fraction, plot.shape[1])
        _tick_below(pen, left + fraction * (right - left - 1), bottom, value)
        value = _place(vertical, fraction, plot.shape[0])
        _tick_beside(pen, left, bottom - 1 - fraction * (bottom - top - 1), value)
    _frame(pen, text, box, horizontal.label, vertical.label)
    _legend(pen, text, canvas, span, plot.label)
    return canvas


def _image_box(plot: Plot) -> tuple[int, int, int, int]:
    """Where the image is: in its own proportions where its sides are pixels, if these are no stripe."""
    left, top, right, bottom = _LEFT, _TOP, WIDTH - 92, HEIGHT - _BOTTOM
    rows, columns = plot.shape
    if all(axis.values is None for axis in plot.axes) and max(rows, columns) < 4 * min(rows, columns):
        scale = min((right - left) / columns, (bottom - top) / rows)
        wide, high = max(1, round(columns * scale)), max(1, round(rows * scale))
        left, top = left + (right - left - wide) // 2, top + (bottom - top - high) // 2
        right, bottom = left + wide, top + high
    return left, top, right, bottom


def _legend(pen: ImageDraw.ImageDraw, text: Image.Image, canvas: Pixels, span: _Span, label: str) -> None:
    left, top, right, bottom = WIDTH - 62, _TOP, WIDTH - 52, HEIGHT - _BOTTOM
    ramp = np.linspace(_COLOURS, 1, bottom - top).round().astype(np.uint8)
    canvas[top:bottom, left:right] = 2 * _SHADES + ramp[:, np.newaxis]
    for tick, number in span.ticks(5):
        place = bottom - span.fractions(np.array([tick]))[0] * (bottom - top)
        _write(pen, (right + 3, round(place)), number, WIDTH - right - 4, "lm")
    _write_upwards(text, (left - 20, (top + bottom) // 2), label, bottom - top)


# Letters


def _frame(
    pen: ImageDraw.ImageDraw, text: Image.Image, box: tuple[int, int, int, int], below: str, beside: str
) -> None:
    left, top, right, bottom = box
    pen.rectangle((left - 1, top - 1, right, bottom), outline=150)
    _write(pen, ((left + right) // 2, bottom + 24), below, WIDTH - 40, "ma")
    _write_upwards(text, (max(0, left - 62), (top + bottom) // 2), beside, HEIGHT - 40)


def _tick_below(pen: ImageDraw.ImageDraw, x: float, bottom: int, number: str) -> None:
    pen.line((x, bottom, x, bottom + 3), fill=150)
    _write(pen, (round(x), bottom + 5), number, 80, "ma")


def _tick_beside(pen: ImageDraw.ImageDraw, left: int, y: float, number: str) -> None:
    pen.line((left - 4, y, left - 1, y), fill=150)
    _write(pen, (left - 6, round(y)), number, 44, "rm")


def _write(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, room: int, anchor: str, size: int = 11
) -> None:
    """Write a line, cut where it needs more room."""
    font = _font(size)
    text = "".join(_drawable(letter, size) for letter in _line(text)[: room // 3])
    while text and font.getlength(text) > room:
        text = text.removesuffix("...")[:-1] + "..." if len(text) > 4 else ""
    pen.text(place, text, fill=255, font=font, anchor=anchor)


def _write_upwards(text: Image.Image, place: tuple[int, int], label: str, room: int) -> None:
    """Write a line from below upwards; ``place`` is its left side, and its middle."""
    upright = Image.new("L", (room, 16))
    _write(ImageDraw.Draw(upright), (upright.width // 2, 1), label, upright.width, "ma")
    turned = upright.rotate(90, expand=True)
    left, middle = place
    text.paste(255, (left, middle - turned.height // 2), turned)


def _place(axis: Axis, fraction: float, points: int) -> str:
    """The value at a place along an axis, no finer than the axis' range lets it be read."""
    extent = abs(axis.at(1, points) - axis.at(0, points))
    digits = 2 - math.floor(math.log10(extent)) if 0 < extent < math.inf else 0
    return _number(round(axis.at(fraction, points), digits), digits)


def _number(value: float, digits: int = 0) -> str:
    """A number with at most so many digits behind the point, or with three that count where it is long."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    text = f"{value:.{max(digits, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@cache
def _drawable(letter: str, size: int) -> str:
    """A letter, or what comes nearest to it where the font does not have it, such as 3 for ³."""
    if letter.isascii() or _ink(letter, size) != _ink(_UNKNOWN_LETTER, size):
        return letter
    if letter in _MICRO:
        return "u"
    name = unicodedata.name(letter, "")
    if name.startswith("GREEK"):
        # Unicode has a spelling of its own.
        return name.rpartition(" LETTER ")[2].partition(" ")[0].lower().replace("lamda", "lambda")
    if unicodedata.category(letter) == "Pd" or name == "MINUS SIGN":
        return "-"
    nearest = unicodedata.normalize("NFKD", letter)[:1]
    return nearest if nearest.isascii() else "?"


def _ink(letter: str, size: int) -> bytes:
    image = Image.new("L", (2 * size, 2 * size))
    ImageDraw.Draw(image).text((0, 0), letter, fill=255, font=_font(size))
    return image.tobytes()


@cache
def _font(size: int) -> Any:
    # It comes with Pillow; the machine may have none.
    return ImageFont.load_default(size)


# The file


def _encoded(canvas: Pixels, text: Pixels) -> tuple[bytes, str]:
    """The PNG and the digest of its pixels; with fewer colours where it would be too large."""
    ink = text // (256 // _SHADES)
    coarser = 1
    while coarser < _COLOURS:
        pixels = np.where(ink > 0, ink + _SHADES, _with_fewer_colours(canvas, coarser)).astype(np.uint8)
        # Compressing takes longest, so that first a part tells whether it is worth it.
        if _estimated_bytes(pixels) <= 1.2 * MOST_PNG_BYTES:
            png, digest = _png(pixels)
            if len(png) <= MOST_PNG_BYTES:
                return png, digest
        coarser *= 2
    raise ValueError("The picture cannot be made small enough.")


def _with_fewer_colours(canvas: Pixels, coarser: int) -> Pixels:
    if coarser == 1:
        return canvas
    first = 2 * _SHADES + 1
    return np.where(canvas >= first, (canvas - first) // coarser * coarser + first, canvas)


def _estimated_bytes(pixels: Pixels) -> int:
    return len(zlib.compress(pixels[::_SAMPLED_ROWS].tobytes(), 1)) * _SAMPLED_ROWS


def _png(pixels: Pixels) -> tuple[bytes, str]:
    digest = hashlib.sha256(pixels.tobytes() + _palette()).hexdigest()[:32]
    mark = PngInfo()
    mark.add_text(MARK, digest)
    image = Image.fromarray(pixels)
    image.putpalette(_palette())
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=mark, compress_level=5)
    return stream.getvalue(), digest


@cache
def _palette() -> bytes:
    """The colours by number: of the line, of the letters, none, and of an image."""
    colours = [
        *_between((_PAPER, _LINE), _SHADES),
        *_between((_PAPER, _INK), _SHADES),
        _NOTHING,
        *_between(_RAMP, _COLOURS),
    ]
    return bytes(part for colour in colours for part in colour)


def _between(anchors: Sequence[tuple[int, int, int]], number: int) -> list[tuple[int, ...]]:
    places = np.linspace(0, len(anchors) - 1, number)
    parts = [np.interp(places, range(len(anchors)), part) for part in zip(*anchors, strict=True)]
    return [tuple(int(value) for value in colour) for colour in np.stack(parts, axis=1).round()]
