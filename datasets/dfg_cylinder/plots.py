"""Pictures of the DFG benchmark: the curves of both coefficients, and how the errors fall."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def draw_series(
    series: NDArray[np.float64], reference: NDArray[np.float64] | None, path: Path
) -> None:
    """Drag and lift over the last second, over FEATFLOW's when there is a `(T, 3)` of it.

    Both are moved in time so that the lift rises through zero at the same instant.
    """
    plt = _pyplot()
    if plt is None:
        return
    figure, axes = plt.subplots(2, 1, figsize=(8, 6), sharex=True)
    curves = [(series, "meshsim", "-")]
    if reference is not None:
        curves.append((reference, "FEATFLOW level 6", "--"))
    for values, label, style in curves:
        times, lift = values[:, 0], values[:, 2]
        rising = np.flatnonzero((lift[:-1] < 0) & (lift[1:] >= 0))
        # the first rise after which a whole .6 s are left
        i = next((k for k in rising[::-1] if times[-1] - times[k] > 0.6), rising[0])
        zero = times[i] - lift[i] * (times[i + 1] - times[i]) / (lift[i + 1] - lift[i])
        for axis, column in zip(axes, (1, 2), strict=True):
            axis.plot(times - zero, values[:, column], style, label=label)
    axes[0].set_ylabel("drag coefficient")
    axes[1].set_ylabel("lift coefficient")
    axes[1].set_xlabel("time after the lift rose through zero (s)")
    axes[1].set_xlim(0, 0.66)
    drag = series[series[:, 0] > series[-1, 0] - 0.7, 1]
    axes[0].set_ylim(drag.min() - 0.02, drag.max() + 0.02)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_convergence(result: dict[str, Any], path: Path) -> None:
    """The relative errors of 2D-2 over the nodes of the mesh and over the step."""
    plt = _pyplot()
    if plt is None:
        return
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.5), sharey=True)
    for axis, rows, key, label in (
        (axes[0], result["2D-2"]["mesh"], "nodes", "velocity nodes (finest step)"),
        (axes[1], result["2D-2"]["step"], "step", "step (s) (finest mesh)"),
    ):
        for name in rows[0]["errors"]:
            errors = [100 * abs(row["errors"][name]) for row in rows]
            axis.loglog([row[key] for row in rows], errors, "o-", label=name)
        axis.set_xlabel(label)
        axis.grid(True, which="both", alpha=0.3)
    axes[0].set_ylabel("error against FEATFLOW level 6 (%)")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed", file=sys.stderr)
        return None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
