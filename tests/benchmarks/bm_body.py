"""Distances and winding numbers of a body's surface, and points on it, beside VTK and trimesh.

Run: python tests/benchmarks/bm_body.py [--triangles N] [--queries M] [--threads T] [--json]

The body is a rounded box with a wavy roof. Queries are drawn from a box three times as long ("far")
and from about its surface ("near"). The sum of all solid angles is asked for a few queries only.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meshsim.geometry import winding
from meshsim.geometry.cells import Cells
from meshsim.geometry.distance import closest_points
from meshsim.geometry.sampling import sample_surface
from meshsim.geometry.tree import Surface
from meshsim.geometry.winding import winding_numbers
from meshsim.timing import Call, Figures, measure, require
from tests.benchmarks.report import parse, parser, report

FEW = 200  # queries of the sum


def plus_one(_: str, found: list[Tensor]) -> list[Tensor]:
    """Errors of numbers that may all be nought: theirs, not in relation to nothing."""
    return [t + 1 for t in found]


def body(triangles: int) -> tuple[Tensor, Tensor]:
    """About so many triangles, thin ones at two poles."""
    import trimesh

    n = max(round((triangles / 4) ** 0.5), 4)
    mesh = trimesh.creation.uv_sphere(count=[n, n])
    x = np.array(mesh.vertices)
    x = np.sign(x) * np.abs(x) ** 0.6 * [2.2, 0.9, 0.7]
    x[:, 2] += 0.1 * np.sin(3 * x[:, 0])
    return torch.from_numpy(x), torch.from_numpy(np.array(mesh.faces)).long()


def places(points: Tensor, nodes: Tensor, m: int) -> dict[str, Tensor]:
    """Queries far and near."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(m, 3, dtype=torch.float64, generator=generator) - 0.5
    near = sample_surface(points, [Cells("triangle", nodes)], m, 0).points
    noise = torch.randn(m, 3, dtype=torch.float64, generator=generator)
    return {"far": drawn * torch.tensor([12.0, 6.0, 4.0]).double(), "near": near + 0.01 * noise}


def distances(surface: Surface, points: Tensor, nodes: Tensor, q: Tensor) -> dict[str, Call]:
    import pyvista

    mesh = pyvista.PolyData(
        points.numpy(), np.column_stack([np.full(len(nodes), 3), nodes.numpy()]).ravel()
    )

    def vtk() -> list[Tensor]:
        _, at = mesh.find_closest_cell(q.numpy(), return_closest_point=True)
        return [torch.from_numpy(np.linalg.norm(q.numpy() - at, axis=1))]

    return {"meshsim": lambda: [closest_points(surface, q).distance], "VTK": vtk}


def windings(surface: Surface, q: Tensor) -> dict[str, Call]:
    """The ways to a winding number, for few queries."""

    def every() -> list[Tensor]:
        return [torch.stack([winding._angles(surface.corners - p).sum() for p in q])]

    def afar() -> list[Tensor]:
        return [winding._seen(surface, q, 0.1, 0.1 / 32)]

    return {
        "ray and rim": lambda: [winding_numbers(surface, q)],
        "sum of angles": every,
        "boxes from afar, 0.1": afar,
    }


def samples(points: Tensor, nodes: Tensor, n: int) -> dict[str, Call]:
    import trimesh

    mesh = trimesh.Trimesh(points.numpy(), nodes.numpy(), process=False)
    exact = mesh.area_faces / mesh.area

    def off(face: np.ndarray) -> list[Tensor]:
        """How far counts of faces are from their shares, of points."""
        return [torch.from_numpy(np.bincount(face, minlength=len(exact)) - n * exact).abs().max()]

    return {
        "meshsim": lambda: off(sample_surface(points, [Cells("triangle", nodes)], n).face.numpy()),
        "trimesh": lambda: off(trimesh.sample.sample_surface(mesh, n, seed=0)[1]),
    }


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    how: dict[str, Any] = {"over": True, "rounds": options.rounds, "seconds": options.seconds}
    points, nodes = body(options.triangles)
    size = f"{len(nodes)} triangles"
    make: dict[str, Call] = {
        "meshsim": lambda: Surface(points, [Cells("triangle", nodes)]) and None
    }
    yield f"tree of {size}", measure(make, [], **how)
    surface = Surface(points, [Cells("triangle", nodes)])
    for name, q in places(points, nodes, options.queries).items():
        calls = distances(surface, points, nodes, q)
        yield f"distance {name}, {len(q)} × {size}", measure(calls, calls["VTK"](), **how)
        ray: dict[str, Call] = {"meshsim": lambda q=q: [winding_numbers(surface, q)]}
        found = ray["meshsim"]()
        exact = plus_one("", [found[0].round()])
        yield f"winding number {name}, {len(q)} × {size}", measure(ray, exact, take=plus_one, **how)
        few = windings(surface, q[:FEW])
        exact = plus_one("", [t.round() for t in few["sum of angles"]()])
        yield (
            f"winding number {name}, {len(q[:FEW])} × {size}",
            measure(few, exact, take=plus_one, **how),
        )
        rows = torch.arange(len(nodes))
        holed = Surface(points, [Cells("triangle", nodes[rows % (len(nodes) // 100) > 0])])
        few = windings(holed, q[:FEW])
        case = f"winding number {name}, with a hundred holes, {len(q[:FEW])} × {size}"
        yield case, measure(few, plus_one("", few["sum of angles"]()), take=plus_one, **how)
    calls = samples(points, nodes, options.queries)
    nothing = plus_one("", [torch.zeros(()).double()])
    yield (
        f"samples {options.queries} × {size}, error: of counts",
        measure(calls, nothing, take=plus_one, **how),
    )


def main() -> None:
    known = parser(__doc__, seconds=20.0)
    known.add_argument("--triangles", type=int, default=50_000)
    known.add_argument("--queries", type=int, default=100_000)
    options = parse(known)
    require(["knn", "morton_order"])
    report(options, cases(options), "VTK and trimesh have one thread")


if __name__ == "__main__":
    main()
