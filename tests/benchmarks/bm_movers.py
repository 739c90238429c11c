"""Mesh movers side by side: errors, tangling, how equally they distribute, time.

Run: python tests/benchmarks/bm_movers.py [--sets NAME…] [--movers NAME…] [--share S]
     [--weights DIR] [--json]

For each set and mover: error reduction (e₀ − e)/e₀ of the finite element solution, mean and median
over all meshes (a tangled one counts as −100 %) and mean over untangled ones as papers give it; the
share improved; tangled cells; σ/μ of the monitor's mass over cells, over that at rest; the worst
cell's quality over that at rest; time over the classical solver's, preparation of the mesh included
and once more on a mesh already prepared. The classical solver is quasi-Newton to 1e-3, and is
damped as a control: every mover can be told to go part of the way. Where it converges to a tangled
mesh, that one is damped and judged; where it does not converge, the last good one.

In the flows (Burgers, swirl) the mesh is moved from rest before every step, by the monitor of the
solution so far; the error is the root mean square over the run.

--weights has movers trained by `datasets/mesh_movers/train.py`, KIND-SEED.safetensors with KIND
one of um2n, m-uniform, data-free and density: a row for each kind, the mean over seeds with their
spread, at the damping that is best on eight validation fields of UM2N's squares, and undamped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file

from meshsim.check import InputError, WorkError
from meshsim.movers import MongeAmpere, Simplices
from meshsim.movers.boundary import Sides
from meshsim.movers.dmm import DataFreeMover
from meshsim.movers.guard import Guard
from meshsim.movers.learned import BULK, SHIPPED, Density, LearnedMover, load_density
from meshsim.movers.monitor import masses
from meshsim.movers.peers import DataFree, UM2NMover
from meshsim.movers.simplices import Array
from meshsim.movers.um2n import UM2N
from meshsim.timing import machine
from tests.benchmarks.mover_cases import SETS, Case, validation
from tests.benchmarks.mover_flows import FLOWS, Flow

DAMPED = (0.25, 0.5, 0.6, 0.75, 1.0)
EVERY = [*SETS, *FLOWS]


class Moment(NamedTuple):
    """What a mover is asked in a flow."""

    grid: Simplices
    monitor: Callable[[Array], Array]


Given = Case | Moment
Move = Callable[[Given], Array]


class Timed:
    """A mover with its times: on a mesh that it has not seen, and on one that it has."""

    def __init__(self, prepare: Callable[[Simplices], Move]):
        self.prepare = prepare

    def __call__(self, case: Case) -> tuple[Array, float, float]:
        """Points, seconds with preparation, seconds without."""
        fresh = Simplices(case.grid.points, case.grid.cells)
        began = time.perf_counter()
        move = self.prepare(fresh)
        move(case)
        first = time.perf_counter() - began
        began = time.perf_counter()
        points = move(case)
        return points, first, time.perf_counter() - began


def classical(grid: Simplices) -> Move:
    solver = MongeAmpere(grid, "quasi-newton", rtol=1e-3, most=100)

    def move(case: Given) -> Array:
        found = solver.move(case.monitor)
        return found.points if found.tangled is None else found.tangled

    return move


def learned(
    density: Density | None, bulk: Mapping[int, float] | None
) -> Callable[[Simplices], Move]:
    def prepare(grid: Simplices) -> Move:
        mover = LearnedMover(density, bulk=bulk)
        mover.prepare(grid)
        return lambda case: mover.move(grid, case.monitor).points

    return prepare


def trained(folder: Path) -> dict[str, Timed]:
    """Movers by "KIND SEED" out of files of weights."""
    out = {}
    for file in sorted(folder.glob("*-[0-9].safetensors")):
        kind, seed = file.stem.rsplit("-", 1)
        if kind == "density":
            out[f"retrained {seed}"] = Timed(learned(load_density(file), BULK))
        elif kind == "data-free":
            free = DataFreeMover()
            free.load_state_dict(load_file(file))
            out[f"data-free {seed}"] = Timed(published(DataFree(free)))
        else:
            net = UM2N()
            net.load_state_dict(load_file(file))
            out[f"{kind} {seed}"] = Timed(published(UM2NMover(net)))
    return out


def published(mover: UM2NMover | DataFree) -> Callable[[Simplices], Move]:
    def prepare(grid: Simplices) -> Move:
        if isinstance(mover, UM2NMover):
            mover.prepare(grid)

        def move(case: Given) -> Array:
            found = mover.move(grid, case.monitor)
            return found.points if found.tangled is None else found.tangled

        return move

    return prepare


def part(grid: Simplices, points: Array, share: float) -> Array:
    """Points that go a share of their way only, those of curved sides along them.

    What is sound undamped is kept sound as `Mover` keeps it.
    """
    if share == 1.0:
        return points
    goal, sides = grid.points + share * (points - grid.points), Sides(grid)
    if (grid.signed(points) > 0).all():
        return Guard(grid.cells, grid.boundary, sides.back).safe(grid.points, goal)
    return sides.back(goal)


def best_damping(mover: Timed) -> float:
    """The share of the way that makes errors least on validation fields."""
    gains = dict.fromkeys(DAMPED, 0.0)
    for case in validation(8):
        points, _, _ = mover(case)
        before = case.error(case.grid.points)
        for s in DAMPED:
            gains[s] += judge(case, part(case.grid, points, s), before, 1)["gain"]
    return max(DAMPED, key=gains.__getitem__)


def over_seeds(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Rows of "KIND SEED × …" as one, with the spread of their gains."""
    groups: dict[str, list[dict[str, float]]] = {}
    for name, row in found.items():
        head, _, tail = name.partition(" × ")
        kind, _, seed = head.rpartition(" ")
        one = f"{kind} × {tail}" if seed.isdigit() else name
        groups.setdefault(one, []).append(row)
    out = {}
    for name, rows in groups.items():
        out[name] = {key: float(np.mean([r[key] for r in rows])) for key in rows[0]}
        out[name]["deviation"] = float(np.std([r["gain"] for r in rows]))
        out[name]["seeds"] = float(len(rows))
    return out


def movers() -> dict[str, Timed]:
    out = {"classical": Timed(classical), "deformation": Timed(learned(Density(power=1.0), None))}
    out["elastic"] = Timed(learned(Density(power=1.0), BULK))
    out["untrained"] = Timed(learned(Density(), BULK))
    if SHIPPED.exists():
        out["ours"] = Timed(learned(None, BULK))
    return out


def quality(grid: Simplices, points: Array) -> float:
    """The worst cell: its measure over that of a regular one of the same edges, 1 at best."""
    x = points[grid.cells]
    k = x.shape[1]
    squares = sum(((x[:, i] - x[:, j]) ** 2).sum(1) for i in range(k) for j in range(i))
    mean = np.sqrt(np.asarray(squares) / (k * (k - 1) / 2))
    regular = mean**2 * np.sqrt(3) / 4 if grid.dim == 2 else mean**3 / (6 * np.sqrt(2))
    return float((grid.signed(points) / regular).min())


def judge(case: Case, points: Array, before: float, mass: float) -> dict[str, float]:
    """Figures of one mesh."""
    grid = case.grid
    bad = int((grid.signed(points) <= 0).sum())
    share = masses(grid, case.monitor(points), points)
    return {
        "gain": -1.0 if bad else 1 - case.error(points) / before,
        "tangled": float(bad),
        "spread": float(share.std() / share.mean()) / mass,
        "quality": quality(grid, points) / quality(grid, grid.points),
    }


def shares(name: str, damping: dict[str, float]) -> dict[str, float]:
    """{what it is called: share of the way} that a mover is judged at."""
    if name in damping:
        return {"best": damping[name], "1": 1.0}
    return {f"{s:g}": s for s in (DAMPED[::-1] if name == "classical" else (0.75, 1.0))}


def measure(
    cases: list[Case], made: dict[str, Timed], damping: dict[str, float]
) -> dict[str, dict[str, float]]:
    """{variant: means of figures} over the cases of a set."""
    rows: dict[str, list[dict[str, float]]] = {}
    for case in cases:
        grid = case.grid
        before = case.error(grid.points)
        values = case.monitor(grid.points)[grid.cells].mean(1)
        mass = float(values.std() / values.mean())
        rows.setdefault("uniform", []).append(judge(case, grid.points, before, mass))
        base: tuple[float, float] | None = None
        for name, mover in made.items():
            try:
                points, first, again = mover(case)
            except InputError:  # the data-free mover on what is no box
                continue
            base = base or (first, again)
            for tail, s in shares(name, damping).items():
                row = judge(case, part(grid, points, s), before, mass)
                row["first"], row["again"] = base[0] / first, base[1] / again
                rows.setdefault(f"{name} × {tail}", []).append(row)
    return summary(rows)


def summary(rows: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Means over the meshes or flows of a set, then over seeds."""
    out = {}
    for name, found in rows.items():
        gains = np.array([r["gain"] for r in found])
        sound = np.array([r["tangled"] == 0 for r in found])
        out[name] = {
            "gain": float(gains.mean()),
            "median": float(np.median(gains)),
            "untangled": float(gains[sound].mean()) if sound.any() else float("nan"),
            "improved": float((gains > 0).mean()),
            "tangled": float(sum(r["tangled"] for r in found)),
            "spread": float(np.mean([r["spread"] for r in found])),
            "quality": float(np.mean([r["quality"] for r in found])),
            **{k: float(np.median([r.get(k, np.nan) for r in found])) for k in ("first", "again")},
        }
    return over_seeds(out)


def follow(flow: Flow, mover: Timed, share: float, rest: float) -> dict[str, float]:
    """Figures of a flow whose mesh is moved before every step; it ends where a mesh is tangled.

    Arguments:
        rest: the error on the mesh at rest.
    """
    grid = flow.grid
    go = mover.prepare(grid)
    spreads, worst, seconds = [], [], []
    bad = 0

    def move(x: Array, u: Array) -> Array:
        nonlocal bad
        monitor = flow.monitor(x, u)
        began = time.perf_counter()
        points = go(Moment(grid, monitor))
        seconds.append(time.perf_counter() - began)
        there = part(grid, points, share)
        if bad := int((grid.signed(there) <= 0).sum()):
            raise WorkError("tangled")
        mass = [masses(grid, monitor(p), p) for p in (there, grid.points)]
        spreads.append(np.divide(*(float(m.std() / m.mean()) for m in mass)))
        worst.append(quality(grid, there) / quality(grid, grid.points))
        return there

    try:
        gain = 1 - flow.error(flow.run(move)) / rest
    except WorkError:
        gain = -1.0
    return {
        "gain": gain,
        "tangled": float(bad),
        "spread": float(np.mean(spreads)) if spreads else float("nan"),
        "quality": float(np.mean(worst)) if worst else float("nan"),
        "seconds": float(np.mean(seconds)),
    }


def measure_flows(
    flows: list[Flow], made: dict[str, Timed], damping: dict[str, float]
) -> dict[str, dict[str, float]]:
    """As `measure`; a time is the mean of a move, on a mesh prepared."""
    rows: dict[str, list[dict[str, float]]] = {}
    for flow in flows:
        rest = flow.error(flow.run())
        base = None
        for name, mover in made.items():
            for tail, share in shares(name, damping).items():
                row = follow(flow, mover, share, rest)
                if name == "classical" and share == 1.0:
                    base = row["seconds"]
                row["again"] = base / row["seconds"] if base else float("nan")
                rows.setdefault(f"{name} × {tail}", []).append(row)
    return summary(rows)


def spread(row: dict[str, float]) -> str:
    return f" ± {row['deviation']:.1%}" if row["seeds"] > 1 else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="*", default=EVERY, choices=EVERY)
    names = list(movers())
    parser.add_argument("--movers", nargs="*", default=names, choices=names)
    parser.add_argument("--share", type=float, default=1.0, help="of each set's meshes")
    parser.add_argument("--weights", type=Path, help="folder of trained movers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found: dict[str, Any] = {}
    made = {name: mover for name, mover in movers().items() if name in given.movers}
    others = trained(given.weights) if given.weights else {}
    damping = {name: best_damping(mover) for name, mover in others.items()}
    made |= others
    if damping and not given.json:
        print("damping:", ", ".join(f"{name} {s:g}" for name, s in damping.items()))
    if not given.json:
        print(f"{machine()}, {given.threads} threads; times over the classical solver's, as ratios")
    for name in given.sets:
        cases: list[Any]
        if name in FLOWS:
            cases = FLOWS[name](given.share)
            found[name] = measure_flows(cases, made, damping)
        else:
            cases = SETS[name](given.share)
            found[name] = measure(cases, made, damping)
        if given.json:
            continue
        points = int(np.mean([len(c.grid.points) for c in cases]))
        print(f"\n### {name}: {len(cases)} meshes of {points} points\n")
        print(
            "| mover | gain | median | untangled | improved | tangled cells | σ/μ | worst cell"
            " | × faster | prepared |\n|---|---|---|---|---|---|---|---|---|---|"
        )
        for variant, row in found[name].items():
            print(
                f"| {variant} | {row['gain']:+.1%}{spread(row)} | {row['median']:+.1%}"
                f" | {row['untangled']:+.1%}"
                f" | {row['improved']:.0%} | {row['tangled']:.0f} | {row['spread']:.2f}"
                f" | {row['quality']:.2f} | {row['first']:.1f} | {row['again']:.1f} |",
                flush=True,
            )
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
