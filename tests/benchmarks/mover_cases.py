"""What movers are judged on: meshes, monitors, and the error of a solution on a moved mesh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from meshsim.movers import Simplices, ball
from meshsim.movers.fields import Gaussians
from meshsim.movers.peers import monitor_of
from meshsim.movers.simplices import Array
from meshsim.solvers.domains import L_SHAPE, SQUARE, box, polygon, random_polygon, structured
from meshsim.solvers.elliptic import l2_error, solve

Field = Callable[[Array], Array]


@dataclass(frozen=True)
class Case:
    """A mesh at rest, a monitor function of space, and the error with the points elsewhere."""

    name: str
    grid: Simplices
    monitor: Field
    exact: Field
    source: Field
    reaction: float

    def error(self, points: Array) -> float:
        """The L² error of −Δu + c u = f in linear elements; the mesh must not be tangled."""
        moved = Simplices(points, self.grid.cells)
        return l2_error(
            moved, solve(moved, self.source, self.exact, self.reaction, 3), self.exact, 3
        )


def of_gaussians(name: str, grid: Simplices, seed: int, reaction: float = 1.0) -> Case:
    """UM2N's field and monitor, 1 + 5 |∇∇u|² / max, scaled to the mesh's box."""
    u = Gaussians.draw_in(np.random.default_rng(seed), grid.points)
    monitor = monitor_of(u, grid)
    return Case(name, grid, monitor, u, lambda x: reaction * u(x) - u.laplacian(x), reaction)


def of_waves(name: str, grid: Simplices, wave: str, n: int, reaction: float) -> Case:
    """u = cos nπx cos nπy or sin nπx sin nπy; the same monitor."""
    k = n * np.pi
    first, second = (np.cos, np.sin) if wave == "cos" else (np.sin, np.cos)

    def exact(x: Array) -> Array:
        out: Array = first(k * x).prod(1)
        return out

    def squares(x: Array) -> Array:
        mixed = second(k * x).prod(1)
        out: Array = 2 * k**4 * (exact(x) ** 2 + mixed**2)
        return out

    most = float(squares(grid.points).max())
    return Case(
        name,
        grid,
        lambda x: 1 + 5 * squares(x) / most,
        exact,
        lambda x: (reaction + 2 * k * k) * exact(x),
        reaction,
    )


def of_front(name: str, grid: Simplices, radius: float, width: float) -> Case:
    """u = tanh((|x − ½| − R) / w), a spherical front, with a monitor that gathers on it."""
    dim = grid.dim

    def parts(x: Array) -> tuple[Array, Array]:
        r = np.linalg.norm(x - 0.5, axis=1).clip(1e-9)
        return r, np.tanh((r - radius) / width)

    def source(x: Array) -> Array:
        r, t = parts(x)
        slope = (1 - t * t) / width
        out: Array = 2 * t * slope / width - (dim - 1) / r * slope
        return out

    monitor = ball((0.5,) * dim, radius, 5.0, 1 / (2 * radius * width))
    return Case(name, grid, monitor, lambda x: parts(x)[1], source, 0.0)


def channel() -> Simplices:
    """The DFG channel with its cylinder, about 1,000 points; the circle as a polygon of 48."""
    turn = 2 * np.pi * np.arange(48) / 48
    hole = [(0.2 + 0.05 * np.cos(t), 0.2 + 0.05 * np.sin(t)) for t in turn]
    outline = [(0.0, 0.0), (2.2, 0.0), (2.2, 0.41), (0.0, 0.41)]

    def size(x: float, y: float) -> float:
        return float(min(0.0066 + 0.2 * max(np.hypot(x - 0.2, y - 0.2) - 0.05, 0.0), 0.04))

    return polygon(outline, size, [hole])


def squares(count: int) -> list[Case]:
    """Held-out fields of UM2N's squares, on its two unstructured meshes in turn."""
    grids = [polygon(SQUARE, 0.05), polygon(SQUARE, 0.055)]
    return [of_gaussians(f"field {s}", grids[s % 2], 500_000 + s) for s in range(count)]


def validation(count: int) -> list[Case]:
    """Fields on UM2N's squares that no set has, to choose dampings by."""
    grid = polygon(SQUARE, 0.055)
    return [of_gaussians(f"field {s}", grid, 400_000 + s) for s in range(count)]


def analytic(reaction: float) -> list[Case]:
    """Waves and Gaussians on three meshes of the square."""
    out = []
    for grid in (structured(20), polygon(SQUARE, 0.05), polygon(SQUARE, 0.03)):
        for wave, n in (("cos", 2), ("sin", 2), ("sin", 4)):
            out.append(of_waves(f"{wave} {n}πx", grid, wave, n, reaction))
        for s in range(3):
            out.append(of_gaussians(f"Gaussians {s}", grid, 600_000 + s, reaction))
    return out


def polygons(count: int) -> list[Case]:
    """Random polygons, most not convex, some with holes, each with a field of its own."""
    out = []
    for seed in range(count):
        rng = np.random.default_rng(700_000 + seed)
        outline, holes = random_polygon(rng)
        grid = polygon(outline, float(rng.uniform(0.025, 0.045)), holes)
        out.append(of_gaussians(f"polygon {seed}", grid, 700_000 + seed))
    return out


def several(grid: Simplices, count: int, first: int) -> list[Case]:
    return [of_gaussians(f"field {s}", grid, first + s) for s in range(count)]


SETS: dict[str, Callable[[float], list[Case]]] = {
    "UM2N squares": lambda share: squares(max(int(200 * share), 2)),
    "Poisson": lambda share: analytic(0.0)[: max(int(18 * share), 2)],
    "Helmholtz": lambda share: analytic(1.0)[: max(int(18 * share), 2)],
    "L-shape": lambda share: several(polygon(L_SHAPE, 0.04), max(int(50 * share), 2), 800_000),
    "polygons": lambda share: polygons(max(int(200 * share), 2)),
    "channel": lambda share: several(channel(), max(int(50 * share), 2), 900_000),
    "3-D box": lambda share: [
        of_front(f"front {r:.2f}", box(0.11), r, 0.06)
        for r in np.linspace(0.2, 0.4, max(int(10 * share), 2))
    ],
}
