"""The DFG benchmark "flow around a cylinder": drag, lift, pressure difference and frequency.

    python datasets/dfg_cylinder/prepare.py --case 2D-1
    python datasets/dfg_cylinder/prepare.py --case 2D-2 [--level 2] [--dt 0.00125] [-o DIR]
    python datasets/dfg_cylinder/prepare.py --case 2D-2 --convergence -o DIR

Prints one JSON document; progress goes to standard error. Schäfer and Turek, 1996; the reference
for 2D-2 is FEATFLOW's series of level 6 (found through MESHSIM_REAL_DATA), drawn beside ours.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import CloughTocher2DInterpolator

from meshsim.solvers.channel import Channel, no_slip
from meshsim.solvers.navier_stokes import FlowProblem, March
from meshsim.solvers.taylor_hood import TaylorHood

VISCOSITY = 1e-3  # m²/s
MAXIMUM = {"2D-1": 0.3, "2D-2": 1.5}  # inflow on the axis, m/s
DIAMETER = 0.1  # m
# edge lengths (m) on the cylinder, in the wake and elsewhere
LEVELS = ((0.0125, 0.04, 0.06), (0.0075, 0.025, 0.04), (0.005, 0.017, 0.03))
STEPS = (0.005, 0.0025, 0.00125)  # s
SPIN_UP, SETTLE, MEASURE = 5.0, 1.4, 1.2  # s
KEYS = ("cd_max", "cl_max", "cl_min", "strouhal", "cd", "cl", "dp")
SERIES = (
    "redbKIT__redbKIT/Problems/FEM_CFD_Dfg2D/ReferenceValues_Re100Periodic/bdforces_q2_lv6_dt4"
)


def problem(case: str, level: int) -> FlowProblem:
    """The benchmark's flow on the mesh of a level."""
    channel = Channel()
    cylinder, wake, far = LEVELS[level]
    return FlowProblem(
        TaylorHood(channel.mesh(cylinder=cylinder, wake=wake, far=far)),
        viscosity=VISCOSITY,
        prescribed={
            "inflow": channel.inflow(MAXIMUM[case]),
            "wall": no_slip,
            "cylinder": no_slip,
        },
    )


def coefficient(case: str) -> float:
    """2 / (U² D) with U the mean inflow: from a force per density to its coefficient."""
    return 2.0 / ((2.0 / 3.0 * MAXIMUM[case]) ** 2 * DIAMETER)


def pressure_difference(flow: FlowProblem, pressure: np.ndarray) -> float:
    """p(0.15, 0.2) − p(0.25, 0.2); both are vertices of the mesh."""
    places = flow.spaces.points[: flow.spaces.vertices]
    front, back = (int(np.hypot(*(places - p).T).argmin()) for p in ((0.15, 0.2), (0.25, 0.2)))
    for i, x in ((front, 0.15), (back, 0.25)):
        assert np.hypot(*(places[i] - (x, 0.2))) < 1e-9, "the pressure points are not vertices"
    return float(pressure[front] - pressure[back])


def steady(level: int) -> dict[str, Any]:
    """Case 2D-1 (Re 20): Newton's method."""
    flow = problem("2D-1", level)
    velocity, pressure = flow.steady()
    drag, lift = flow.force(flow.momentum_residual(velocity, pressure), "cylinder")
    scale = coefficient("2D-1")
    return dict.fromkeys(KEYS) | {
        "cd": scale * drag,
        "cl": scale * lift,
        "dp": pressure_difference(flow, pressure),
    }


@dataclass
class State:
    """A flow at one time, and the mesh it is on."""

    flow: FlowProblem
    velocity: np.ndarray
    pressure: np.ndarray

    def on(self, other: FlowProblem) -> State:
        """Interpolated to another mesh, with that mesh's boundary values."""
        here, there = self.flow.spaces, other.spaces
        velocity = CloughTocher2DInterpolator(here.points, self.velocity)(there.points)
        pressure = CloughTocher2DInterpolator(here.points[: here.vertices], self.pressure)(
            there.points[: there.vertices]
        )
        velocity, pressure = np.nan_to_num(velocity), np.nan_to_num(pressure)
        velocity[other.fixed] = other.boundary_values(0.0)[other.fixed]
        return State(other, velocity, pressure)


def march(
    state: State, step: float, duration: float, what: str, *, coupled: bool = True
) -> tuple[State, np.ndarray]:
    """Advance; returns the end and, at each step, time, cd, cl and Δp, `(n, 4)`."""
    flow, scale = state.flow, coefficient("2D-2")
    run = March(
        flow, step=step, velocity=state.velocity, pressure=state.pressure, coupled=coupled
    )
    rows = np.empty((round(duration / step), 4))
    began = said = time.monotonic()
    for k in range(len(rows)):
        run.advance()
        drag, lift = scale * flow.force(run.residual, "cylinder")
        rows[k] = run.time, drag, lift, pressure_difference(flow, run.pressure)
        now = time.monotonic()
        if now - said > 10:
            said = now
            left = (now - began) / (k + 1) * (len(rows) - k - 1)
            print(f"{what}: {(k + 1) / len(rows):.0%}, {left:.0f} s left", file=sys.stderr)
    return State(flow, run.velocity, run.pressure), rows


def developed(folder: Path | None) -> State:
    """The coarsest mesh with a developed street: from rest, pushed sideways, then left alone."""
    flow = problem("2D-2", 0)
    kept = folder / "developed.npz" if folder else None
    if kept is not None and kept.exists():
        with np.load(kept) as file:
            return State(flow, file["velocity"], file["pressure"])
    velocity, pressure = flow.stokes()
    x, y = flow.spaces.points.T
    velocity[:, 1] += 1.5 * np.exp(-((x - 0.35) ** 2 + (y - 0.2) ** 2) / 0.075**2)
    velocity[flow.fixed] = flow.boundary_values(0.0)[flow.fixed]
    start = State(flow, velocity, np.zeros_like(pressure))
    state, _ = march(start, 0.01, SPIN_UP, "spin-up", coupled=False)
    if kept is not None:
        save(kept, velocity=state.velocity, pressure=state.pressure)
    return state


def save(path: Path, **arrays: Any) -> None:
    """Write an .npz at once: a half-written file is never found."""
    part = path.with_suffix(".part.npz")
    np.savez(part, **arrays)
    os.replace(part, path)


def periodic(level: int, step: float, folder: Path | None) -> tuple[dict[str, Any], np.ndarray]:
    """Case 2D-2 (Re 100): the periodic flow; what is finished in `folder` is not run again."""
    kept = folder / f"level{level}_dt{step:g}.npz" if folder else None
    if kept is not None and kept.exists():
        with np.load(kept) as file:
            return measure(file["rows"]), file["rows"]
    state = developed(folder).on(problem("2D-2", level))
    state, _ = march(state, max(step, 0.0025), SETTLE, f"level {level}, settling")
    _, rows = march(state, step, MEASURE, f"level {level}, dt {step:g}")
    if kept is not None:
        save(kept, rows=rows)
    return measure(rows), rows


def measure(rows: np.ndarray) -> dict[str, Any]:
    """Extrema and frequency of a periodic flow over its last two periods.

    Maxima are those of parabolas through three samples; the period is that between upward zeros
    of the lift. `dp` is taken half a period after the largest lift, as the benchmark asks.
    """
    t, cd, cl, dp = rows.T
    up = np.flatnonzero((cl[:-1] < 0) & (cl[1:] >= 0))
    zeros = t[up] - cl[up] * (t[up + 1] - t[up]) / (cl[up + 1] - cl[up])
    period = float(np.diff(zeros)[-2:].mean())
    last = t > t[-1] - 2.0 * period
    tops, times = peaks(t[last], cl[last])
    half = times[0] + period / 2.0
    return {
        "cd_max": float(peaks(t[last], cd[last])[0].max()),
        "cl_max": float(tops.max()),
        "cl_min": float(-peaks(t[last], -cl[last])[0].max()),
        "strouhal": DIAMETER / period,  # over the mean inflow, 1 m/s
        "cd": float(cd[last].mean()),
        "cl": float(cl[last].mean()),
        "dp": float(np.interp(half, t, dp)),
    }


def peaks(t: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Height and time of the local maxima, by the parabola through three samples."""
    i = np.flatnonzero((x[1:-1] >= x[:-2]) & (x[1:-1] > x[2:])) + 1
    slope, curve = x[i + 1] - x[i - 1], x[i - 1] - 2 * x[i] + x[i + 1]
    return x[i] - slope**2 / (8 * curve), t[i] - (t[i + 1] - t[i]) * slope / (2 * curve)


def reference() -> dict[str, float] | None:
    """FEATFLOW's level 6 for 2D-2, from its series of t, cd, cl; None when the file is absent."""
    rows = reference_rows()
    if rows is None:
        return None
    found = measure(np.column_stack([rows, np.zeros(len(rows))]))
    return {key: found[key] for key in ("cd_max", "cl_max", "cl_min", "strouhal")}


def reference_rows() -> np.ndarray | None:
    root = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    path = Path(os.environ.get("MESHSIM_REAL_DATA", root)) / SERIES
    return np.loadtxt(path)[:, [1, 3, 4]] if path.exists() else None


def convergence(folder: Path) -> dict[str, Any]:
    """Three meshes at the finest step, three steps on the finest mesh, and the errors of each."""
    runs = [(level, STEPS[-1]) for level in range(3)] + [(2, step) for step in STEPS[:-1]]
    truth = reference()
    table = []
    for level, step in runs:
        found, _ = periodic(level, step, folder)
        nodes = problem("2D-2", level).spaces.nodes
        row: dict[str, Any] = {"level": level, "nodes": nodes, "dt": step} | found
        if truth is not None:
            row["errors"] = {key: found[key] / value - 1.0 for key, value in truth.items()}
        table.append(row)
    result = {"reference": truth, "runs": table, "2D-1": [steady(level) for level in range(3)]}
    (folder / "convergence.json").write_text(json.dumps(result, indent=2))
    draw_convergence(result, folder / "convergence.png")
    return result


def draw(rows: np.ndarray, path: Path) -> None:
    """Drag and lift over two periods, ours and FEATFLOW's, shifted to the same upward zero."""
    from matplotlib.figure import Figure

    figure = Figure((9, 5.5), dpi=110, layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for values, label, style in (
        (reference_rows(), "FEATFLOW, level 6", {"color": "#b33", "lw": 3, "alpha": 0.5}),
        (rows, "meshsim", {"color": "#124", "lw": 1.2}),
    ):
        if values is None:
            continue
        t, cl = values[:, 0], values[:, 2]
        up = np.flatnonzero((cl[:-1] < 0) & (cl[1:] >= 0))
        at = up[-3] if len(up) > 2 else up[0]
        zero = t[at] - cl[at] * (t[at + 1] - t[at]) / (cl[at + 1] - cl[at])
        for axis, column in zip(axes, (1, 2), strict=True):
            axis.plot(t - zero, values[:, column], label=label, **style)
    for axis, name in zip(axes, ("drag coefficient", "lift coefficient"), strict=True):
        axis.set_ylabel(name)
        axis.grid(color="#e3e5e9")
    axes[0].set_title("DFG benchmark 2D-2: flow around a cylinder, Re 100", loc="left")
    axes[0].legend(frameon=False, loc="upper right")
    axes[1].set_xlabel("time from an upward zero of the lift (s)")
    axes[1].set_xlim(0, 0.67)
    figure.savefig(path)


def draw_convergence(result: dict[str, Any], path: Path) -> None:
    """The errors against FEATFLOW over edge length and over step."""
    from matplotlib.figure import Figure

    if result["reference"] is None:
        return
    figure = Figure((9, 4), dpi=110, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    meshes = sorted((r for r in result["runs"] if r["dt"] == STEPS[-1]), key=lambda r: r["nodes"])
    steps = sorted((r for r in result["runs"] if r["level"] == 2), key=lambda r: r["dt"])
    for key in result["reference"]:
        for axis, rows, x in (
            (axes[0], meshes, [r["nodes"] for r in meshes]),
            (axes[1], steps, [r["dt"] for r in steps]),
        ):
            y = [100 * abs(r["errors"][key]) for r in rows]
            axis.loglog(x, y, "o-", label=key.replace("_", " "))
    axes[0].set_xlabel("velocity nodes (finest step)")
    axes[0].set_ylabel("error against FEATFLOW (%)")
    axes[1].set_xlabel("time step in s (finest mesh)")
    axes[0].legend(frameon=False)
    for axis in axes:
        axis.grid(color="#e3e5e9", which="both", lw=0.5)
    figure.savefig(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=("2D-1", "2D-2"), required=True)
    parser.add_argument("--level", type=int, choices=range(len(LEVELS)), default=2)
    parser.add_argument("--dt", type=float, default=STEPS[-1], help="time step of 2D-2 (s)")
    parser.add_argument("--convergence", action="store_true", help="all levels and steps")
    parser.add_argument("-o", "--output", type=Path, help="keeps states, tables and pictures")
    given = parser.parse_args()
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
    if given.convergence:
        print(json.dumps(convergence(given.output or Path(".")), indent=2))
        return 0
    if given.case == "2D-1":
        print(json.dumps(steady(given.level)))
        return 0
    found, rows = periodic(given.level, given.dt, given.output)
    draw(rows, (given.output or Path(".")) / "forces.png")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
