"""The curves of a training run."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meshsim.check import InputError
from meshsim.render.colour import SEQUENTIAL, colour_map
from meshsim.render.output import save_figure, target

Columns = dict[str, list[float]]

TIMES = 6  # of a series, in one plot over a line


def _read(path: Path) -> Columns:
    """The numbers of a CSV file by column; what is no number is NaN."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from error

    def number(text: Any) -> float:
        try:
            return float(text)
        except (TypeError, ValueError):
            return math.nan

    return {key: [number(row[key]) for row in rows] for key in (rows[0] if rows else {}) if key}


def curves(log: str | Path, out: str | Path = "training.png", *, width: int = 1100) -> Path:
    """Draw the loss, the learning rate and the validation errors of a run over its steps.

    Arguments:
        log: the run's `log.csv` (columns "step", "loss" and others); `validation.csv` beside it
            is drawn too when it is there.
        out: a .png.
        width: in pixels.

    Returns:
        `out`.

    Raises:
        InputError: no such file, or no steps and losses in it.
    """
    from matplotlib.figure import Figure

    path, source = target(out, (".png",)), Path(log)
    training = _read(source)
    if not training.get("step") or "loss" not in training:
        raise InputError(f"{source}: expected columns step and loss with at least one row")
    beside = source.with_name("validation.csv")
    validation = _read(beside) if beside.exists() else {}
    errors = {k: v for k, v in validation.items() if k not in ("step", "seconds", "score")}
    panels = 2 if errors and validation.get("step") else 1
    figure = Figure((width / 100, (2.0 + 2.2 * panels)), dpi=100, layout="constrained")
    axes = figure.subplots(panels, 1, squeeze=False, sharex=True)[:, 0]
    _lines(axes[0], training["step"], {"loss": training["loss"]})
    axes[0].set_title("training", loc="left", weight="bold", size=11)
    if "lr" in training:
        rate = axes[0].twinx()
        rate.plot(training["step"], training["lr"], color="#9a9da5", lw=1)
        rate.set_ylabel("learning rate", color="#62656d")
        rate.set_ylim(bottom=0)
    if panels == 2:
        _lines(axes[1], validation["step"], errors)
        axes[1].set_title("validation", loc="left", weight="bold", size=11)
    axes[-1].set_xlabel("step")
    return save_figure(figure, path)


def over_line(rows: Mapping[str, Sequence[Any]], out: str | Path, *, width: int = 1000) -> Path:
    """Draw fields over the distance along a line, one panel a field; a series has several lines.

    Of more than six times evenly chosen ones are drawn, the first and the last among them.

    Arguments:
        rows: columns as `meshsim sample --line` writes them: "distance", perhaps "time", places,
            and the fields; what is no number leaves a gap.
        out: a .png.
        width: in pixels.

    Returns:
        `out`.

    Raises:
        InputError: no fields.
    """
    from matplotlib.figure import Figure

    path = target(out, (".png",))
    names = [name for name in rows if name not in ("time", "x", "y", "z", "distance")]
    if not names:
        raise InputError("there are no fields to draw")
    times = rows.get("time", [0.0] * len(rows["distance"]))
    every = list(dict.fromkeys(times))
    chosen = every
    if len(every) > TIMES:
        step = (len(every) - 1) / (TIMES - 1)
        chosen = [every[round(i * step)] for i in range(TIMES)]
    colours = colour_map(SEQUENTIAL)[[round(220 * i / max(len(chosen) - 1, 1)) for i in
                                      range(len(chosen))]] / 255  # fmt: skip
    figure = Figure((width / 100, 0.6 + 2.0 * len(names)), dpi=100, layout="constrained")
    axes = figure.subplots(len(names), 1, squeeze=False, sharex=True)[:, 0]
    for axis, name in zip(axes, names, strict=True):
        for time, ink in zip(chosen, colours, strict=True):
            at = [i for i, t in enumerate(times) if t == time]
            values = [math.nan if rows[name][i] == "" else float(rows[name][i]) for i in at]
            along = [rows["distance"][i] for i in at]
            axis.plot(along, values, lw=1.3, color=ink, label=f"t = {time:.4g}")
        axis.set_ylabel(name)
        axis.grid(True, color="#e3e5e9")
        axis.set_axisbelow(True)
    axes[-1].set_xlabel("distance")
    if len(chosen) > 1:
        axes[0].legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    elif "time" in rows:
        axes[0].set_title(f"t = {chosen[0]:.4g}", loc="left", size=11)
    return save_figure(figure, path)


def _lines(axis: Any, steps: list[float], lines: Columns) -> None:
    marker = "o" if len(steps) < 30 else None
    for name, values in lines.items():
        axis.plot(steps, values, label=name.replace("_", " "), lw=1.3, marker=marker, ms=3)
    if any(v > 0 for values in lines.values() for v in values):
        axis.set_yscale("log", nonpositive="mask")
    axis.grid(True, which="major", color="#e3e5e9")
    axis.set_axisbelow(True)
    if len(lines) == 1:
        axis.set_ylabel(next(iter(lines)))
    else:
        axis.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0))
