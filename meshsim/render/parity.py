"""Predicted against computed numbers, one dot a design."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray

from meshsim.check import InputError, check_finite, check_length, check_shape
from meshsim.mesh import ArrayLike, as_tensor
from meshsim.physics.designs import r_squared, spearman
from meshsim.render.output import save_figure, target
from meshsim.render.values import with_unit

Array = NDArray[Any]
Predictions: TypeAlias = ArrayLike | Mapping[str, ArrayLike]

SERIES = ("#2f57b3", "#d9822b", "#2f7d3b", "#8a4fa3", "#b3352f", "#62656d")
MARKERS = "osD^vX"


@dataclass(frozen=True, eq=False)
class Parity:
    """What a parity plot shows.

    Arguments:
        truth: (n,) float64 computed numbers.
        series: {who predicted: (n,) float64}.
        figures: {who predicted: (R², Spearman's rank correlation)}, NaN where undefined.
        limits: of both axes, the same; every dot lies within.
    """

    truth: Array
    series: Mapping[str, Array]
    figures: Mapping[str, tuple[float, float]]
    limits: tuple[float, float]


def pairs(truth: ArrayLike, prediction: Predictions) -> Parity:
    """The numbers of a parity plot.

    Arguments:
        truth: (n,) one number a design.
        prediction: (n,) or {who: (n,)}.

    Raises:
        InputError: no designs, series of another length, numbers that are not finite.

    >>> shown = pairs([1.0, 2.0, 3.0], {"model": [1.0, 2.0, 4.0]})
    >>> shown.figures["model"], shown.limits
    ((0.5, 1.0), (0.85, 4.15))
    """
    given = prediction if isinstance(prediction, Mapping) else {"prediction": prediction}
    known = _numbers(truth, "truth", None)
    if not len(known) or not given:
        raise InputError(
            f"parity: expected one design and one series or more, got {len(known)} and {len(given)}"
        )
    if len(given) > len(SERIES):
        raise InputError(f"`prediction`: expected at most {len(SERIES)} series, got {len(given)}")
    series = {who: _numbers(v, f"prediction of {who}", len(known)) for who, v in given.items()}
    every = torch.cat([known, *series.values()])
    low, high = float(every.min()), float(every.max())
    room = 0.05 * (high - low) or 0.5 * abs(low) or 0.5
    return Parity(
        known.numpy(),
        {who: v.numpy() for who, v in series.items()},
        {who: (r_squared(known, v), spearman(known, v)) for who, v in series.items()},
        (low - room, high + room),
    )


def _numbers(values: ArrayLike, name: str, count: int | None) -> torch.Tensor:
    out = as_tensor(values).detach().cpu().double()
    check_shape(out, (None,), name)
    if count is not None:
        check_length(out, count, name, "designs")
    check_finite(out, name)
    return out


def parity(
    truth: ArrayLike,
    prediction: Predictions,
    out: str | Path = "parity.png",
    *,
    name: str,
    unit: str = "",
    title: str | None = None,
    width: int = 700,
) -> Path:
    """Draw predicted against computed numbers over designs, beside the diagonal.

    Each series says its R² = 1 − Σ (p − t)² / Σ (t − t̄)² and Spearman's rank correlation: the
    first how well it matches, the second how well it orders (`meshsim.physics.designs`).

    Arguments:
        truth: (n,) computed, one number a design: a drag, a lift.
        prediction: (n,) predicted, or {who: (n,)} for several series, at most six.
        out: a .png.
        name: of the quantity.
        unit: of the quantity.
        title: None: the name.
        width: in pixels; the picture is square.

    Returns:
        `out`.

    Raises:
        InputError: what `pairs` raises; another suffix.
        WorkError: `out` cannot be written.
    """
    from matplotlib.figure import Figure

    path = target(out, (".png",))
    shown = pairs(truth, prediction)
    figure = Figure((width / 100, width / 100), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.plot(shown.limits, shown.limits, color="#9a9da5", lw=1, zorder=1)
    style = zip(shown.series.values(), SERIES, MARKERS, strict=False)
    dots = [
        axes.scatter(
            shown.truth, values, s=30, color=colour, marker=marker, alpha=0.8, lw=0, zorder=2
        )
        for values, colour, marker in style
    ]
    labels = [_label(who, *shown.figures[who]) for who in shown.series]
    axes.set_xlim(shown.limits)
    axes.set_ylim(shown.limits)
    axes.set_aspect("equal")
    axes.set_yticks(axes.get_xticks())
    axes.set_ylim(shown.limits)
    axes.grid(True, which="major", color="#e3e5e9")
    axes.set_axisbelow(True)
    axes.set_xlabel(with_unit(f"{name}, computed", unit), parse_math=False)
    axes.set_ylabel(with_unit(f"{name}, predicted", unit), parse_math=False)
    told = f"{name}: {len(shown.truth)} designs" if title is None else title
    axes.set_title(told, loc="left", weight="bold", size=11, parse_math=False)
    # outside, where it hides no dot
    legend = figure.legend(
        dots, labels, frameon=False, fontsize=9, loc="outside lower left", handletextpad=0.2
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return save_figure(figure, path)


def _label(who: str, fit: float, order: float) -> str:
    def told(value: float) -> str:
        return "–" if math.isnan(value) else f"{value:.3f}".replace("-", "−")

    return f"{who}: R² {told(fit)}, Spearman {told(order)}"
