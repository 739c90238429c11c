"""Flow past a cylinder in a channel, shedding vortices: trajectories for learned simulators.

    python prepare.py -o DIR --flows 16 [--geometry random] [--frames 300] [--workers 2]

Every trajectory is one file. A finished file is not computed again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from meshsim.check import InputError, WorkError
from meshsim.data.workers import start_worker
from meshsim.solvers.channel import Channel, no_slip
from meshsim.solvers.navier_stokes import FlowProblem, March
from meshsim.solvers.taylor_hood import TaylorHood

VISCOSITY = 1e-3  # m²/s
LENGTH = 1.6  # m; the height is the benchmark's .41
SUBSTEP = 0.0067  # s, at most


@dataclass(frozen=True)
class Case:
    """One flow: cylinder, inflow and how it is recorded."""

    centre_x: float = 0.2
    centre_y: float = 0.2
    radius: float = 0.05
    inflow: float = 1.5
    frames: int = 300
    dt: float = 0.02
    mesh_size: float = 1.0
    spin_up: float = 20.0

    @property
    def reynolds(self) -> float:
        """Mean inflow velocity × diameter / viscosity."""
        return 2.0 / 3.0 * self.inflow * 2.0 * self.radius / VISCOSITY


def solve(case: Case) -> dict[str, np.ndarray]:
    """The trajectory of a case, from its first fully developed frame on, as the arrays of a file.

    The flow starts from the one without inertia with a sideways push behind the cylinder, and runs
    until the range of the cross velocity at three places in the wake no longer changes.
    """
    channel = Channel(length=LENGTH, centre=(case.centre_x, case.centre_y), radius=case.radius)
    size = case.mesh_size
    spaces = TaylorHood(channel.mesh(cylinder=0.028 * size, wake=0.065 * size, far=0.1 * size))
    inflow = channel.inflow(case.inflow)
    problem = FlowProblem(
        spaces,
        viscosity=VISCOSITY,
        prescribed={"inflow": inflow, "wall": no_slip, "cylinder": no_slip},
    )
    velocity, _ = problem.stokes()
    velocity[:, 1] += _push(spaces.points, case)
    velocity[problem.fixed] = problem.boundary_values(0.0)[problem.fixed]
    substeps = int(np.ceil(case.dt / SUBSTEP - 1e-9))
    # the first turnover only throws the start out: large steps do for it
    first = March(problem, step=1.5 * SUBSTEP, velocity=velocity)
    first.advance(int(np.ceil(1.2 * LENGTH / inflow.mean / first.step)))
    march = March(
        problem,
        step=case.dt / substeps,
        velocity=first.velocity,
        pressure=first.pressure,
        time=first.time,
    )
    spent = _develop(march, spaces, case)

    frames = np.empty((case.frames, spaces.nodes, 2), dtype=np.float32)
    pressures = np.empty((case.frames, spaces.nodes), dtype=np.float32)
    for k in range(case.frames):
        if k:
            march.advance(substeps)
        frames[k] = march.velocity
        pressures[k] = spaces.at_nodes(march.pressure)
    if not np.isfinite(frames).all():
        raise WorkError(f"cylinder_flow: the flow diverged ({case})")
    boundaries = {
        f"boundary/{name}/line": spaces.edges(name)[:, [0, 2, 2, 1]].reshape(-1, 2)
        for name in ("inflow", "outflow", "wall", "cylinder")
    }
    parameters = {
        "inflow": case.inflow,
        "reynolds": case.reynolds,
        "radius": case.radius,
        "centre_x": case.centre_x,
        "centre_y": case.centre_y,
        "nu": VISCOSITY,
    }
    return {
        "points": spaces.points,
        "cells/triangle": spaces.linear_triangles(),
        **boundaries,
        "times": case.dt * np.arange(case.frames),
        "point/velocity": frames,
        "point/pressure": pressures,
        **{f"parameter/{name}": np.float64(value) for name, value in parameters.items()},
        "spin_up": np.float64(spent),
    }


def _push(points: np.ndarray, case: Case) -> np.ndarray:
    # a symmetric flow would stay symmetric for seconds, and a small push takes seconds to grow:
    # one and a half times the inflow, sideways, leaves the wake near its final amplitude
    x = points[:, 0] - case.centre_x - 3.0 * case.radius
    y = points[:, 1] - case.centre_y
    return 1.5 * case.inflow * np.exp(-(x**2 + y**2) / (1.5 * case.radius) ** 2)


def _develop(march: March, spaces: TaylorHood, case: Case) -> float:
    """Advance until the wake repeats itself; returns the time this took (s)."""
    r = case.radius
    places = [
        (case.centre_x + 4 * r, case.centre_y),
        (case.centre_x + 10 * r, 0.205),
        (LENGTH - 0.15, 0.205),
    ]
    probes = [int(np.argmin(np.hypot(*(spaces.points - place).T))) for place in places]
    # the slowest shedding here has a period of .5 s: a window holds more than one whole period
    window = int(np.ceil(0.6 / march.step))
    spans: list[np.ndarray] = []
    while march.time < case.spin_up:
        series = np.empty((window, len(probes)))
        for k in range(window):
            march.advance()
            series[k] = march.velocity[probes, 1]
        spans = [*spans, np.ptp(series, axis=0)][-4:]
        # four windows, because a flow that sheds only just approaches its amplitude over seconds;
        # the absolute part ends the spin-up of a flow that does not shed at all
        change = np.ptp(spans, axis=0)
        if len(spans) == 4 and np.all(change < 0.015 * spans[-1] + 0.002 * case.inflow):
            break
    return march.time


def cases(
    flows: int,
    *,
    frames: int,
    dt: float,
    geometry: str,
    inflow: Sequence[float],
    seed: int,
    mesh_size: float = 1.0,
    spin_up: float = 20.0,
) -> list[Case]:
    """The cases of a data set; the same for the same arguments.

    Two inflow values are the ends of a range, drawn from evenly (one draw in each of `flows` equal
    parts); any other number of values is used as it is, one a flow, from the start again when there
    are more flows.
    """
    if geometry not in ("fixed", "random"):
        raise InputError(f"geometry: expected 'fixed' or 'random', got {geometry!r}")
    if flows < 1 or frames < 1 or not dt > 0 or not len(inflow):
        raise InputError(
            "flows, frames, dt, inflow: expected at least 1, at least 1, above 0, at least one "
            f"value, got {flows}, {frames}, {dt}, {list(inflow)}"
        )
    random = np.random.default_rng(seed)
    if len(inflow) == 2:
        low, high = inflow
        values = low + (high - low) * (np.arange(flows) + random.uniform(size=flows)) / flows
    else:
        values = np.resize(np.asarray(inflow, dtype=float), flows)
    result = []
    for k in range(flows):
        x, y, r = (random.uniform(*b) for b in ((0.2, 0.45), (0.15, 0.26), (0.045, 0.06)))
        place = {} if geometry == "fixed" else {"centre_x": x, "centre_y": y, "radius": r}
        recorded = {"frames": frames, "dt": dt, "mesh_size": mesh_size, "spin_up": spin_up}
        result.append(Case(inflow=float(values[k]), **recorded, **place))
    return result


def generate(
    out: Path,
    *,
    flows: int,
    frames: int = 300,
    dt: float = 0.02,
    geometry: str = "fixed",
    inflow: Sequence[float] = (1.2, 1.8),
    seed: int = 0,
    workers: int = 1,
    mesh_size: float = 1.0,
    spin_up: float = 20.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write `flow_000.npz`, … into a folder and return their paths.

    Arguments:
        out: the folder; made when it is not there.
        flows: number of trajectories.
        frames: number of frames of each.
        dt: time between frames (s).
        geometry: "fixed", or "random" for a cylinder of another place and radius in each flow.
        inflow: the largest inflow velocity (m/s): the two ends of a range, or a list of values.
        seed: of the draws.
        workers: processes that solve side by side.
        mesh_size: factor on the edge lengths of the mesh.
        spin_up: the longest time to wait for the flow to repeat itself before frame 0 (s).
        progress: called with (finished, of) after each flow.

    Raises:
        InputError: an argument is out of range, or a finished file belongs to another case.
    """
    todo = cases(
        flows,
        frames=frames,
        dt=dt,
        geometry=geometry,
        inflow=inflow,
        seed=seed,
        mesh_size=mesh_size,
        spin_up=spin_up,
    )
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"flow_{k:03d}.npz" for k in range(flows)]
    missing = [
        (case, path) for case, path in zip(todo, paths, strict=True) if not _done(path, case)
    ]
    finished = flows - len(missing)
    if progress:
        progress(finished, flows)
    if workers <= 1 or len(missing) <= 1:
        for case, path in missing:
            _write(case, path)
            finished += 1
            if progress:
                progress(finished, flows)
        return paths
    context = get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker)
    try:
        jobs = [pool.submit(_write, case, path) for case, path in missing]
        for job in as_completed(jobs):
            job.result()
            finished += 1
            if progress:
                progress(finished, flows)
    except KeyboardInterrupt:  # it need not wait for the flows that are being solved
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return paths


def _done(path: Path, case: Case) -> bool:
    if not path.exists():
        return False
    with np.load(path) as file:
        found = {name[5:]: float(file[name]) for name in file.files if name.startswith("case/")}
    wanted = {name: float(value) for name, value in asdict(case).items()}
    if found != wanted:
        raise InputError(
            f"{path}: holds another case (expected {wanted}, got {found}); "
            "give another folder or delete the file"
        )
    return True


def _write(case: Case, path: Path) -> None:
    arrays = solve(case)
    arrays |= {f"case/{name}": np.float64(value) for name, value in asdict(case).items()}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--flows", type=int, default=16)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--dt", type=float, default=0.02)
    parser.add_argument("--geometry", choices=("fixed", "random"), default="fixed")
    parser.add_argument("--inflow", type=float, nargs="+", default=(1.2, 1.8))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args(arguments)
    try:
        generate(
            **vars(given),
            progress=lambda done, of: print(f"{done}/{of} flows", file=sys.stderr),
        )
    except (InputError, WorkError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, WorkError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
