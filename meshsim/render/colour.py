"""Colour scales: limits, maps that are even to the eye, and the numbers beside the bar."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshsim.check import InputError, check_known

Array = NDArray[Any]
Number = float | int

SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"
MISSING = (190, 190, 190)  # where a field is NaN
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, eq=False)
class Scale:
    """Values to colours.

    Arguments:
        low: the value of the first colour.
        high: the value of the last colour.
        colours: (256, 3) uint8.
        unit: written above the bar.
        under: there are values below `low`; the bar ends in a tip.
        over: there are values above `high`.
    """

    low: Number
    high: Number
    colours: Array
    unit: str = ""
    under: bool = False
    over: bool = False

    def colour(self, values: Array) -> Array:
        """(n,) float to (n, 3) uint8; values outside take the end colours, NaN is grey."""
        missing = ~np.isfinite(values)
        place = (np.where(missing, self.low, values) - self.low) / (self.high - self.low)
        index = (place * 256).clip(0, 255).astype(np.uint8)
        out = self.colours[index]
        out[missing] = MISSING
        return out

    def ticks(self, most: int) -> tuple[list[tuple[float, str]], str]:
        """At most so many round numbers inside the limits, as (place from 0 to 1, text).

        The second result is the power of ten they are to be multiplied with, or "".

        >>> Scale(0.0, 2e-5, np.zeros((256, 3))).ticks(3)
        ([(0.0, '0'), (0.5, '1'), (1.0, '2')], '×10⁻⁵')
        """
        values = nice_ticks(self.low, self.high, most)
        texts, power = tick_texts(values)
        places = [(v - self.low) / (self.high - self.low) for v in values]
        return list(zip(places, texts, strict=True)), power


def nice_ticks(low: Number, high: Number, most: int) -> list[float]:
    """Round numbers between two limits, at most `most` of them (one or more)."""
    from matplotlib.ticker import MaxNLocator

    slack = 1e-9 * (high - low)
    for bins in range(max(most - 1, 1), most + 9):
        found = MaxNLocator(nbins=bins, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        values = [float(v) for v in found if low - slack <= v <= high + slack]
        if values:
            return [0.0 if abs(v) < slack else v for v in values[:most]]
    return [float(low)]


def tick_texts(values: Sequence[Number]) -> tuple[list[str], str]:
    """Texts with as many decimals as the steps need, and the power of ten taken out."""
    largest = max((abs(v) for v in values), default=0.0)
    power = 0
    if largest >= 1e5 or 0 < largest < 1e-3:
        power = math.floor(math.log10(largest) + 1e-9)
    scaled = [v / 10.0**power for v in values]
    step = min((b - a for a, b in pairwise(scaled)), default=largest or 1.0)
    decimals = 0
    while decimals < 12 and any(abs(v - round(v, decimals)) > 0.01 * step for v in scaled):
        decimals += 1
    texts = [f"{v:.{decimals}f}".replace("-", "−") for v in scaled]
    return texts, f"×10{str(power).translate(SUPERSCRIPT)}" if power else ""


def coordinate_texts(values: Sequence[Number]) -> list[str]:
    """Texts that need no power of ten beside them.

    >>> coordinate_texts([0.0, 2e-7])
    ['0', '2×10⁻⁷']
    """
    texts, power = tick_texts(values)
    return [
        text + power if value or not power else "0"
        for text, value in zip(texts, values, strict=True)
    ]


def colour_map(name: str) -> Array:
    """(256, 3) uint8 of a Matplotlib colour map."""
    from matplotlib import colormaps

    check_known(name, colormaps, "colour map")
    return np.asarray(colormaps[name](np.linspace(0, 1, 256), bytes=True))[:, :3]


@dataclass(frozen=True)
class Span:
    """How far values reach.

    Arguments:
        least: the smallest.
        most: the greatest.
        low: where a scale should begin; above `least` where a few values lie far below the rest.
        high: where it should end.
    """

    least: Number
    most: Number
    low: Number
    high: Number


def span(fields: Iterable[Array]) -> Span:
    """The reach of the finite values of some fields; 0 to 1 where there are none.

    A scale leaves out the last half per cent on a side only where that side would take more
    than a third again of the scale; its bar then ends in a tip.

    >>> span([np.linspace(0, 1, 1000), np.array([np.nan, 50.0])])
    Span(least=0.0, most=50.0, low=0.0, high=0.99...)
    """
    least, most, some = math.inf, -math.inf, []
    for values in fields:
        finite = values[np.isfinite(values)]
        if finite.size:
            least, most = min(least, float(finite.min())), max(most, float(finite.max()))
            some.append(finite[:: -(-finite.size // 20_000)])  # enough for two quantiles
    if not some:
        return Span(0.0, 1.0, 0.0, 1.0)
    low, high = (float(q) for q in np.quantile(np.concatenate(some), [0.005, 0.995]))
    spare = (high - low) / 3
    keep_low, keep_high = least >= low - spare, most <= high + spare
    if low == high:
        keep_low = keep_high = True
    return Span(least, most, least if keep_low else low, most if keep_high else high)


def together(spans: Iterable[Span]) -> Span:
    """One span that holds others.

    >>> together([Span(0, 1, 0, 1), Span(-9, 2, -1, 2)])
    Span(least=-9, most=2, low=-1, high=2)
    """
    every = list(spans)
    return Span(
        min(s.least for s in every),
        max(s.most for s in every),
        min(s.low for s in every),
        max(s.high for s in every),
    )


def scale(
    reach: Span,
    *,
    cmap: str | None = None,
    clim: tuple[Number, Number] | None = None,
    unit: str = "",
) -> Scale:
    """A scale for values.

    Without `cmap`, values on both sides of zero get a diverging map, white at zero, with limits
    of equal size; others get a sequential one. A constant field gets limits around its value.

    Raises:
        InputError: `clim` that does not rise, an unknown map.
    """
    low, high = reach.low, reach.high
    if clim is not None:
        low, high = float(clim[0]), float(clim[1])
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"`clim`: expected two rising finite numbers, got {clim}")
    elif high - low <= 1e-6 * max(abs(low), abs(high)):
        half = abs(low) / 2 or 0.5
        low, high = low - half, high + half
    elif low < 0 < high and min(-low, high) >= 0.5 * max(-low, high) and cmap is None:
        low, high = -max(-low, high), max(-low, high)
        cmap = DIVERGING
    colours = colour_map(cmap or SEQUENTIAL)
    return Scale(low, high, colours, unit, reach.least < low, reach.most > high)


def error_scale(errors: Span, *, signed: bool, unit: str = "") -> Scale:
    """A scale for errors, white at zero; unsigned ones use the red half of the map."""
    size = max(-errors.low, errors.high)
    size = size if size > 0 else 1.0
    colours = colour_map(DIVERGING)
    if signed:
        return Scale(-size, size, colours, unit, errors.least < -size, errors.most > size)
    half = colours[np.linspace(128, 255, 256).round().astype(int)]
    return Scale(0.0, size, half, unit, False, errors.most > size)
