"""Meshes of plane polygons with holes, and of boxes, by gmsh, to train and judge movers on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from meshsim.check import InputError, MissingExtra
from meshsim.movers.simplices import Array, Simplices

SQUARE = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
L_SHAPE = ((0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.5, 0.5), (0.5, 1.0), (0.0, 1.0))
Ring = Sequence[tuple[float, float]]


def structured(n: int) -> Simplices:
    """The unit square as n × n squares, each cut from its upper left corner (Firedrake's)."""
    at = np.linspace(0, 1, n + 1)
    x = np.stack(np.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2)
    low = (np.arange(n)[:, None] * (n + 1) + np.arange(n)).reshape(-1)
    right, up, far = low + n + 1, low + 1, low + n + 2
    cells = np.concatenate([np.stack([low, right, up], 1), np.stack([right, far, up], 1)])
    return Simplices(x, cells)


@contextmanager
def _gmsh() -> Iterator[Any]:
    try:
        import gmsh
    except (ImportError, OSError) as error:  # OSError: gmsh loads libGLU when imported
        raise MissingExtra("gmsh", "solve") from error
    # interruptible=False leaves Python's signal handlers alone
    gmsh.initialize(argv=["meshsim"], readConfigFiles=False, interruptible=False)
    try:
        gmsh.option.setNumber("General.Terminal", 0)
        gmsh.option.setNumber("General.NumThreads", 1)
        yield gmsh
    finally:
        gmsh.finalize()


def _cells(gmsh: Any, dim: int) -> Simplices:
    tags, xyz, _ = gmsh.model.mesh.getNodes()
    _, nodes = gmsh.model.mesh.getElementsByType(2 if dim == 2 else 4)
    used, cells = np.unique(nodes.astype(np.int64), return_inverse=True)
    order = np.argsort(tags)
    rows = order[np.searchsorted(tags[order], used)]
    return Simplices(xyz.reshape(-1, 3)[rows, :dim], cells.reshape(-1, dim + 1))


def polygon(
    outline: Ring,
    size: float | Callable[[float, float], float],
    holes: Sequence[Ring] = (),
    seed: int = 1,
) -> Simplices:
    """Triangles in a polygon without its holes.

    Arguments:
        outline, holes: corners in order, either way round.
        size: of edges, or a function of the place.
        seed: of gmsh's perturbation.

    Raises:
        InputError: gmsh cannot mesh it (sides cross, a hole reaches out).
        MissingExtra: gmsh is not installed.
    """
    with _gmsh() as gmsh:
        geo = gmsh.model.geo
        loops = []
        for ring in (outline, *holes):
            points = [geo.addPoint(x, y, 0) for x, y in ring]
            sides = [
                geo.addLine(a, b) for a, b in zip(points, [*points[1:], points[0]], strict=True)
            ]
            loops.append(geo.addCurveLoop(sides))
        geo.addPlaneSurface(loops, 1)
        geo.synchronize()
        for option in ("FromPoints", "FromCurvature", "ExtendFromBoundary"):
            gmsh.option.setNumber(f"Mesh.MeshSize{option}", 0)

        def wanted(dim: int, tag: int, x: float, y: float, z: float, given: float) -> float:
            return float(size(x, y) if callable(size) else size)

        gmsh.model.mesh.setSizeCallback(wanted)
        gmsh.option.setNumber("Mesh.RandomSeed", seed)
        gmsh.option.setNumber("Mesh.Algorithm", 6)
        try:
            gmsh.model.mesh.generate(2)
        except Exception as error:
            raise InputError(f"`outline`: gmsh cannot mesh it: {error}") from error
        return _cells(gmsh, 2)


def box(size: float, seed: int = 1) -> Simplices:
    """Tetrahedra in the unit cube with edges of about `size`.

    Raises:
        MissingExtra: gmsh is not installed.
    """
    with _gmsh() as gmsh:
        gmsh.model.occ.addBox(0, 0, 0, 1, 1, 1)
        gmsh.model.occ.synchronize()
        gmsh.option.setNumber("Mesh.MeshSizeMax", size)
        gmsh.option.setNumber("Mesh.RandomSeed", seed)
        gmsh.model.mesh.generate(3)
        return _cells(gmsh, 3)


def random_polygon(
    rng: np.random.Generator, most_holes: int = 2
) -> tuple[list[tuple[float, float]], list[list[tuple[float, float]]]]:
    """A polygon of 5 to 10 corners around (½, ½), rarely convex, with up to `most_holes`, 0 to 2.

    Corners lie at jittered angles with radii of 0.28 to 0.5. Holes are polygons of 3 to 6 corners
    within the largest circle left around the middle, apart from one another.
    """
    n = int(rng.integers(5, 11))
    angle = 2 * np.pi * (np.arange(n) + rng.uniform(-0.3, 0.3, n)) / n
    radius = rng.uniform(0.28, 0.5, n)
    outline = 0.5 + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    inner = _clearance(outline)
    holes = []
    count, turn = int(rng.integers(0, most_holes + 1)), 0.0
    for i in range(count):
        reach = 0.35 * inner if count == 1 else 0.2 * inner
        turn = float(rng.uniform(0, 2 * np.pi)) if i == 0 else turn + np.pi
        away = rng.uniform(0.0, 0.3) * inner if count == 1 else 0.45 * inner
        middle = 0.5 + away * np.array([np.cos(turn), np.sin(turn)])
        k = int(rng.integers(3, 7))
        around = 2 * np.pi * (np.arange(k) + rng.uniform(-0.2, 0.2, k)) / k
        size = reach * rng.uniform(0.6, 1.0, k)
        ring = middle + size[:, None] * np.stack([np.cos(around), np.sin(around)], 1)
        holes.append([(float(x), float(y)) for x, y in ring])
    return [(float(x), float(y)) for x, y in outline], holes


def _clearance(ring: Array) -> float:
    """The distance from (½, ½) to the nearest side."""
    a, b = ring, np.roll(ring, -1, 0)
    way, to = b - a, 0.5 - a
    t = np.clip((way * to).sum(1) / (way * way).sum(1), 0, 1)
    return float(np.linalg.norm(a + t[:, None] * way - 0.5, axis=1).min())
