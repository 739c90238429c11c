"""The DFG benchmark "flow around a cylinder", solved and compared: 2D-1 (steady), 2D-2 (periodic).

    python prepare.py --case 2D-2 [--level 3] [--dt 0.0025] [-o DIR]
    python prepare.py --convergence -o DIR

One JSON document goes to standard output, progress to standard error. Every run leaves a file in
the folder; a run that is there already is not computed again, and finer runs start from coarser.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time as clock
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.interpolate import CloughTocher2DInterpolator

from meshsim.check import InputError, WorkError
from meshsim.solvers.channel import Channel, no_slip
from meshsim.solvers.navier_stokes import FlowProblem, March
from meshsim.solvers.taylor_hood import TaylorHood

Array = NDArray[np.float64]

VISCOSITY = 1e-3  # m²/s
MAXIMUM = {"2D-1": 0.3, "2D-2": 1.5}  # m/s, of the inflow: Reynolds numbers 20 and 100
LEVELS = {1: 2.0, 2: 2.0**0.5, 3: 1.0}  # factor on the finest edge lengths
FINEST = 3
EDGES = {"cylinder": 0.004, "wake": 0.017, "far": 0.03}  # m
STEPS = (0.005, 0.0025, 0.00125)  # s
STEP = STEPS[1]  # of the runs that others start from, and of the comparison of meshes
SERIES = "redbKIT__redbKIT/Problems/FEM_CFD_Dfg2D/ReferenceValues_Re100Periodic/bdforces_q2_lv6_dt4"
# of FEATFLOW's series (level 6, Δt = 1/1600 s), for where its file is not found
POINT = {"cd_max": 3.2274, "cl_max": 0.9866, "cl_min": -1.0213, "strouhal": 0.3018}
RESULT = ("cd_max", "cl_max", "cl_min", "strouhal", "cd", "cl", "dp")


def problem(case: str, level: int) -> FlowProblem:
    """The flow problem of a case on a mesh level (1 coarse, 3 fine).

    Raises:
        InputError: no such case or level.
    """
    if case not in MAXIMUM:
        raise InputError(f"case: expected one of {sorted(MAXIMUM)}, got {case!r}")
    if level not in LEVELS:
        raise InputError(f"level: expected one of {sorted(LEVELS)}, got {level}")
    channel = Channel()
    mesh = channel.mesh(**{name: LEVELS[level] * size for name, size in EDGES.items()})
    inflow = channel.inflow(MAXIMUM[case])
    return FlowProblem(
        TaylorHood(mesh),
        viscosity=VISCOSITY,
        prescribed={"inflow": inflow, "wall": no_slip, "cylinder": no_slip},
    )


def coefficients(case: str, force: Array) -> Array:
    """Drag and lift coefficients `2 F / (Ū² D)` of forces `(…, 2)`."""
    mean = 2.0 / 3.0 * MAXIMUM[case]
    return 2.0 * force / (mean**2 * 2.0 * Channel().radius)


def pressure_difference(spaces: TaylorHood, pressure: Array) -> float:
    """Pressure at the front of the cylinder less that at its back (m²/s²)."""
    vertices = spaces.points[: spaces.vertices]
    front, back = (np.argmin(np.hypot(*(vertices - (x, 0.2)).T)) for x in (0.15, 0.25))
    return float(pressure[front] - pressure[back])


def steady(level: int) -> dict[str, Any]:
    """The values of 2D-1 on a mesh level, and how many nodes it has."""
    flow = problem("2D-1", level)
    velocity, pressure = flow.steady()
    drag, lift = coefficients(
        "2D-1", flow.force(flow.momentum_residual(velocity, pressure), "cylinder")
    )
    values = {
        "cd": float(drag),
        "cl": float(lift),
        "dp": pressure_difference(flow.spaces, pressure),
    }
    return {name: values.get(name) for name in RESULT} | {"nodes": flow.spaces.nodes}


@dataclass(frozen=True)
class Shedding:
    """A run of 2D-2: its series and its last state.

    `series` is `(T, 4)`: time (s), drag and lift coefficient, pressure difference (m²/s²).
    """

    series: Array
    velocity: Array
    pressure: Array
    nodes: int
    seconds: float

    def save(self, path: Path) -> None:
        """Write to a file that is either whole or not there."""
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        with part.open("wb") as file:
            np.savez(file, **vars(self))
        os.replace(part, path)

    @classmethod
    def load(cls, path: Path) -> Shedding:
        """Read what `save` wrote."""
        with np.load(path) as file:
            return cls(
                series=file["series"],
                velocity=file["velocity"],
                pressure=file["pressure"],
                nodes=int(file["nodes"]),
                seconds=float(file["seconds"]),
            )


def shedding(level: int, step: float, folder: Path, *, longest: float = 8.0) -> Shedding:
    """Run 2D-2 until it is periodic, starting from the next coarser run.

    Momentum and continuity are solved together: the splitting error of pressure correction would
    be the largest error here (at 2,165 nodes and .005 s it changes the lift by 15 %).

    Arguments:
        level: of the mesh.
        step: of time (s).
        folder: where runs are kept.
        longest: time solved at most (s).

    Raises:
        WorkError: not periodic in this time.
    """
    path = folder / f"run_level{level}_step{step:g}.npz"
    if path.exists():
        return Shedding.load(path)
    flow = problem("2D-2", level)
    if step != STEP:
        start = shedding(level, STEP, folder)
        velocity, pressure = start.velocity, start.pressure
    elif level > 1:
        start = shedding(level - 1, step, folder)
        coarse = problem("2D-2", level - 1)
        velocity, pressure = transfer(coarse, start.velocity, start.pressure, flow)
    else:
        velocity, pressure = _tipped(flow)
    march = March(flow, step=step, velocity=velocity, pressure=pressure, coupled=True)
    rows: list[list[float]] = []
    began, said = clock.process_time(), clock.monotonic()
    while not periodic(np.array(rows)):
        if march.time > longest:
            raise WorkError(f"2D-2: expected a periodic flow within {longest:g} s, got none")
        march.advance()
        drag, lift = coefficients("2D-2", flow.force(march.residual, "cylinder"))
        rows.append([march.time, drag, lift, pressure_difference(flow.spaces, march.pressure)])
        if clock.monotonic() - said > 10:
            said = clock.monotonic()
            print(
                f"level {level}, step {step:g} s: {march.time:.3f} s, cl {lift:+.4f}",
                file=sys.stderr,
                flush=True,
            )
    run = Shedding(
        series=np.array(rows),
        velocity=march.velocity,
        pressure=march.pressure,
        nodes=flow.spaces.nodes,
        seconds=clock.process_time() - began,
    )
    run.save(path)
    return run


def _tipped(flow: FlowProblem) -> tuple[Array, Array]:
    """The flow without inertia, tipped by a sideways push, after three seconds of large steps."""
    velocity, _ = flow.stokes()
    x, y = (flow.spaces.points - (0.35, 0.2)).T
    velocity[:, 1] += 1.5 * MAXIMUM["2D-2"] * np.exp(-(x**2 + y**2) / 0.075**2)
    velocity[flow.fixed] = flow.boundary_values(0.0)[flow.fixed]
    march = March(flow, step=0.005, velocity=velocity)
    march.advance(600)
    return march.velocity, march.pressure


def transfer(
    source: FlowProblem, velocity: Array, pressure: Array, target: FlowProblem
) -> tuple[Array, Array]:
    """A flow on another mesh, by cubic interpolation: good to start from, not conservative."""
    points, wanted = source.spaces.points, target.spaces.points
    there = CloughTocher2DInterpolator(points, velocity)(wanted)
    vertices, new = source.spaces.vertices, target.spaces.vertices
    level = CloughTocher2DInterpolator(points[:vertices], pressure)(wanted[:new])
    # points that rounding puts outside the hull lie on the boundary
    there, level = np.nan_to_num(there), np.nan_to_num(level)
    there[target.fixed] = target.boundary_values(0.0)[target.fixed]
    return there, level


def peaks(times: Array, values: Array) -> tuple[Array, Array]:
    """Times and values of the maxima of a series, by the parabola through three samples each."""
    inner = values[1:-1]
    at = np.flatnonzero((inner >= values[:-2]) & (inner > values[2:])) + 1
    before, top, after = values[at - 1], values[at], values[at + 1]
    bend = before - 2.0 * top + after  # below zero at a maximum
    shift = 0.5 * (before - after) / bend
    step = times[1] - times[0]
    return times[at] + shift * step, top - 0.125 * (before - after) ** 2 / bend


def crossings(times: Array, values: Array) -> Array:
    """Times at which a series rises through zero, by the cubic through four samples each."""
    rise = np.flatnonzero((values[:-1] < 0) & (values[1:] >= 0))
    rise = rise[(rise >= 1) & (rise < len(values) - 2)]
    step = times[1] - times[0]
    result = []
    for i in rise:
        cubic = np.polynomial.Polynomial.fit([-1, 0, 1, 2], values[i - 1 : i + 3], 3)
        roots = cubic.roots()
        inside = roots[np.abs(roots.imag) < 1e-12].real
        nearest = inside[np.argmin(np.abs(inside - 0.5))]
        result.append(times[i] + nearest * step)
    return np.array(result)


def periodic(series: Array, *, tolerance: float = 2e-4) -> bool:
    """Whether the last three maxima and minima of the lift agree, relative to its amplitude.

    The difference of two periods shrinks to about .6 of itself in each, so what is left to come is
    less than twice the tolerance.
    """
    if len(series) < 10:
        return False
    times, lift = series[:, 0], series[:, 2]
    if times[-1] - times[0] < 1.4:  # four periods, the first of them thrown away
        return False
    late = times > times[0] + 0.35
    high = peaks(times[late], lift[late])[1][-3:]
    low = peaks(times[late], -lift[late])[1][-3:]
    if len(high) < 3 or len(low) < 3:
        return False
    return bool(max(np.ptp(high), np.ptp(low)) < tolerance * (high[-1] + low[-1]))


def measure(series: Array) -> dict[str, Any]:
    """The values of 2D-2 from the last periods of a series `(T, 4)` (or `(T, 3)` without dp).

    `dp` is the pressure difference half a period after the lift's last maximum but one, as the
    benchmark asks.
    """
    times, drag, lift = series[:, 0], series[:, 1], series[:, 2]
    zeros = crossings(times, lift)[-4:]
    period = float(np.mean(np.diff(zeros)))
    last = times > zeros[-1] - 1.05 * period
    top, height = peaks(times, lift)
    difference = None
    if series.shape[1] > 3:
        when = top[top + 0.5 * period < times[-1]][-1] + 0.5 * period
        difference = float(np.interp(when, times, series[:, 3]))
    return {
        "cd_max": float(peaks(times[last], drag[last])[1].max()),
        "cl_max": float(height[-1]),
        "cl_min": float(-peaks(times, -lift)[1][-1]),
        "strouhal": 2.0 * Channel().radius / (period * 2.0 / 3.0 * MAXIMUM["2D-2"]),
        "cd": None,
        "cl": None,
        "dp": difference,
    }


def reference() -> Array | None:
    """FEATFLOW's series `(T, 3)` of time, drag and lift, when its file is found."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    path = Path(os.environ.get("MESHSIM_REAL_DATA") or beside) / SERIES
    return np.loadtxt(path)[:, [1, 3, 4]] if path.exists() else None


def convergence(folder: Path) -> dict[str, Any]:
    """Three meshes at the middle step, three steps on the finest mesh, and the errors of each.

    Writes `convergence.json` and two pictures. `runs` holds the three meshes first.
    """
    curve = reference()
    found = POINT if curve is None else measure(curve)
    truth = {name: found[name] for name in POINT}
    runs: list[dict[str, Any]] = []
    for level, step in [*((n, STEP) for n in LEVELS), *((FINEST, s) for s in STEPS if s != STEP)]:
        run = shedding(level, step, folder)
        values = measure(run.series)
        row = {"level": level, "nodes": run.nodes, "dt": step, "seconds": round(run.seconds)}
        errors = {name: values[name] / true - 1.0 for name, true in truth.items()}
        runs.append(row | values | {"errors": errors})
        print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    result = {
        "reference": truth,
        "runs": runs,
        "2D-1": [{"level": level} | steady(level) for level in LEVELS],
    }
    (folder / "convergence.json").write_text(json.dumps(result, indent=2) + "\n")
    draw_convergence(runs, folder / "convergence.png")
    draw_series(shedding(FINEST, STEPS[-1], folder).series, curve, folder / "forces.png")
    return result


def draw_series(series: Array, curve: Array | None, path: Path) -> None:
    """Drag and lift over two periods, with FEATFLOW's; both from an upward zero of the lift on."""
    figure = Figure((9, 5.5), dpi=110, layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for values, label, style in (
        (curve, "FEATFLOW, level 6", {"color": "#b33", "lw": 3, "alpha": 0.5}),
        (series, "meshsim", {"color": "#124", "lw": 1.2}),
    ):
        if values is None:
            continue
        zeros = crossings(values[:, 0], values[:, 2])
        begin = zeros[np.flatnonzero(zeros < values[-1, 0] - 0.64)[-1:]]
        times = values[:, 0] - (begin[0] if len(begin) else zeros[0])
        shown = (times > -0.01) & (times < 0.68)
        for axis, column in zip(axes, (1, 2), strict=True):
            axis.plot(times[shown], values[shown, column], label=label, **style)
    for axis, name in zip(axes, ("drag coefficient", "lift coefficient"), strict=True):
        axis.set_ylabel(name)
        axis.grid(color="#e3e5e9")
    axes[0].set_title("DFG benchmark 2D-2: flow around a cylinder, Re 100", loc="left")
    axes[0].legend(
        frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2
    )
    axes[1].set_xlabel("time from an upward zero of the lift (s)")
    axes[1].set_xlim(0, 0.66)
    figure.savefig(path)


def draw_convergence(runs: list[dict[str, Any]], path: Path) -> None:
    """The errors against FEATFLOW over the nodes of the mesh and over the step."""
    figure = Figure((9, 4), dpi=110, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    meshes = sorted((r for r in runs if r["dt"] == STEP), key=lambda r: r["nodes"])
    steps = sorted((r for r in runs if r["level"] == FINEST), key=lambda r: r["dt"])
    for axis, rows, key in ((axes[0], meshes, "nodes"), (axes[1], steps, "dt")):
        for name in POINT:
            errors = [100 * abs(row["errors"][name]) for row in rows]
            axis.loglog([row[key] for row in rows], errors, "o-", label=name.replace("_", " "))
        axis.grid(color="#e3e5e9", which="both", lw=0.5)
    axes[0].set_xlabel(f"velocity nodes (step {STEP:g} s)")
    axes[0].set_ylabel("error against FEATFLOW (%)")
    axes[1].set_xlabel("time step in s (finest mesh)")
    axes[0].legend(frameon=False)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=sorted(MAXIMUM), default="2D-2")
    parser.add_argument("--level", type=int, choices=sorted(LEVELS), default=FINEST)
    parser.add_argument("--dt", type=float, default=STEP, help="step of 2D-2 (s)")
    parser.add_argument("--convergence", action="store_true", help="all levels and steps")
    parser.add_argument("-o", "--output", type=Path, default=Path("dfg_cylinder"))
    given = parser.parse_args(arguments)
    try:
        given.output.mkdir(parents=True, exist_ok=True)
        if given.convergence:
            result = convergence(given.output)
        elif given.case == "2D-1":
            values = steady(given.level)
            result = {name: values[name] for name in RESULT}
        else:
            run = shedding(given.level, given.dt, given.output)
            result = measure(run.series)
            draw_series(run.series, reference(), given.output / "forces.png")
    except (InputError, WorkError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, WorkError) else 2
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
