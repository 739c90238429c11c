"""No cell tangled over ten thousand meshes, whatever the monitor, the domain and the weights.

    python tests/verify/movers.py [--meshes N] [--seed S]

Domains: squares of 5 to 30 cells a side, random polygons with up to two holes, rings with curved
sides, boxes of tetrahedra, quads and hexahedra of warped blocks; monitors: sums of Gaussians,
rings, fronts and white noise, contrasts up to 100:1; weights: untrained, random and large, and
those that the package ships. Prints a table and asserts no corner inside out, no facet turned
round, the measure of polygonal domains kept to 1e-10.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch

from meshsim.mesh import Mesh
from meshsim.movers import Simplices, ball, shock
from meshsim.movers.fields import Gaussians
from meshsim.movers.learned import SHIPPED, Density, LearnedMover, load_density
from meshsim.movers.meshes import corners
from meshsim.movers.simplices import Array, Indices
from meshsim.solvers.domains import box, polygon, random_polygon
from tests.movers.grids import ring, square

Domain = tuple[Simplices, Indices | None]


def warped_blocks(rng: np.random.Generator, dim: int) -> Domain:
    """Quads or hexahedra, their inner points moved by up to a fifth of a side."""
    n = int(rng.integers(3, 13 if dim == 2 else 6))
    at = np.linspace(0, 1, n + 1)
    x = np.stack(np.meshgrid(*[at] * dim, indexing="ij"), -1).reshape(-1, dim)
    inside = ((x > 0) & (x < 1)).all(1)
    x[inside] += rng.uniform(-0.2, 0.2, (inside.sum(), dim)) / n
    steps = (n + 1) ** np.arange(dim)[::-1]
    low = (np.indices((n,) * dim).reshape(dim, -1).T * steps).sum(1)
    flat = [0, steps[0], steps[0] + steps[1], steps[1]]
    local = flat if dim == 2 else [*flat, *(np.array(flat) + steps[2])]
    kind = "quad" if dim == 2 else "hexahedron"
    of = corners(Mesh(x, {kind: low[:, None] + np.array(local)}))
    return of.grid, of.corners


def domains(rng: np.random.Generator) -> dict[str, Callable[[], Domain]]:
    polygons = []
    while len(polygons) < 100:
        outline, holes = random_polygon(rng)
        polygons.append(polygon(outline, float(rng.uniform(0.04, 0.09)), holes))
    boxes = [box(size) for size in (0.25, 0.2, 0.15)]
    return {
        "square": lambda: (square(int(rng.integers(5, 31))), None),
        "polygon": lambda: (polygons[int(rng.integers(100))], None),
        "ring": lambda: (ring(int(rng.integers(2, 7))), None),
        "box": lambda: (boxes[int(rng.integers(3))], None),
        "quads": lambda: warped_blocks(rng, 2),
        "hexahedra": lambda: warped_blocks(rng, 3),
    }


def monitors(rng: np.random.Generator, points: Array) -> dict[str, Array]:
    """One of each kind, of a contrast up to 100:1, at points."""
    dim, low, size = points.shape[1], points.min(0), float(np.ptp(points, axis=0).max())
    contrast = float(np.exp(rng.uniform(np.log(2), np.log(100)))) - 1
    unit = Gaussians.draw(rng, dim)
    field = Gaussians(unit.heights, low + size * unit.centres, size * unit.widths)
    centre = low + size * rng.random(dim)
    way = rng.standard_normal(dim)
    radius, sharp = float(rng.uniform(0.1, 0.5)) * size, float(np.exp(rng.uniform(1, 5)))
    return {
        "Gaussians": field.monitor(points, contrast, int(rng.integers(1, 3))),
        "ring": ball(centre, radius, contrast, sharp)(points),
        "front": shock(way, float(way @ centre), contrast, sharp)(points),
        "noise": (1 + contrast) ** rng.random(len(points)),
    }


def weights(rng: np.random.Generator) -> Density:
    torch.manual_seed(int(rng.integers(2**31)))
    density = Density(power=float(rng.uniform(0, 1.5)))
    for p in density.layers.parameters():
        torch.nn.init.normal_(p, std=float(rng.uniform(0, 3)))
    return density


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--meshes", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(given.seed)
    made = domains(rng)
    movers: dict[str, Callable[[], Density]] = {
        "untrained": Density,
        "random": lambda: weights(rng),
        "equal": lambda: Density(power=1.0),
    }
    if SHIPPED.exists():
        movers["shipped"] = load_density
    table: dict[tuple[str, str], list[float]] = defaultdict(list)
    done = tangled = turn = 0
    off, began = 0.0, time.monotonic()
    while done < given.meshes:
        name = list(made)[turn % len(made)]
        turn += 1
        grid, ids = made[name]()
        values = monitors(rng, grid.points)
        for kind, m in values.items():
            label = list(movers)[int(rng.integers(len(movers)))]
            mover = LearnedMover(movers[label](), feature=1e-3 if name == "polygon" else 15.0)
            moved = mover.move(grid, m, ids)
            transport = mover.prepare(grid, ids)
            x = moved.points
            wrong = transport.guard.tangled(x) + int(
                name != "ring" and len(transport.guard.wrong(transport.grid.points, x))
            )
            tangled += wrong > 0
            if name != "ring":
                size = grid.signed(moved.points).sum() / grid.measures.sum()
                off = max(off, abs(float(size) - 1))
            table[name, kind].append(moved.share)
            done += 1
    print(f"{done} meshes, {time.monotonic() - began:.0f} s; movers: {', '.join(movers)}\n")
    print("| domain | monitor | meshes | mean share of the step | least |")
    print("|---|---|---|---|---|")
    for (name, kind), rows in table.items():
        print(f"| {name} | {kind} | {len(rows)} | {np.mean(rows):.3f} | {min(rows):.3f} |")
    print(f"\n{tangled} tangled; the measure off by at most {off:.1e}")
    holds = tangled == 0 and off < 1e-10
    print("holds" if holds else "DOES NOT HOLD")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
