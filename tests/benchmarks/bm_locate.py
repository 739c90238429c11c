"""locate and interpolate against scipy's Delaunay and torch, in one process.

Run: python tests/benchmarks/bm_locate.py [--points N] [--queries N] [--threads N] [--json]
Random points in a square and a cube, scipy's triangulation of them, queries well inside. scipy
walks from cell to neighbouring cell and has the neighbours at hand; ours builds its tree at every
call. Ratios are of the peer's time in the same round; values are linear, so that errors are exact.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import Delaunay
from torch import Tensor

from meshsim import ops
from meshsim.timing import Call, Figures, measure, require
from tests.benchmarks.report import parse, parser, report


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    for dim in (2, 3):
        generator = torch.Generator().manual_seed(0)
        points = torch.rand(options.points, dim, dtype=torch.float64, generator=generator)
        at = 0.1 + 0.8 * torch.rand(options.queries, dim, dtype=torch.float64, generator=generator)
        slope = torch.randn(dim, options.width, dtype=torch.float64, generator=generator)
        values, exact = points @ slope, [at @ slope]
        mesh = Delaunay(points.numpy())
        cells = torch.from_numpy(mesh.simplices).long()
        ids, weights = ops.locate(points, cells, at)

        def scipy(mesh: Delaunay = mesh, values: Tensor = values, at: Tensor = at) -> list[Tensor]:
            found = LinearNDInterpolator(mesh, values.numpy())(at.numpy())
            return [torch.from_numpy(found)]

        def ours(
            points: Tensor = points, cells: Tensor = cells, at: Tensor = at, values: Tensor = values
        ) -> list[Tensor]:
            return [ops.interpolate(values, cells, *ops.locate(points, cells, at))]

        known = (values, cells, ids, weights)

        def gathered(known: tuple[Tensor, ...] = known) -> list[Tensor]:
            values, cells, ids, weights = known
            return [(values[cells[ids]] * weights[:, :, None]).sum(1)]

        def spread(known: tuple[Tensor, ...] = known) -> list[Tensor]:
            return [ops.interpolate(*known)]

        sizes = f"{dim}-D, {len(cells)} cells, {len(at)} queries of {options.width}"
        peers: dict[str, dict[str, Call]] = {
            "locate and interpolate": {"scipy": scipy, "meshsim": ours},
            "interpolate": {"torch": gathered, "meshsim": spread},
        }
        for name, calls in peers.items():
            rows = measure(calls, exact, rounds=options.rounds, seconds=options.seconds)
            yield f"{name}, {sizes}", rows


def main() -> None:
    known = parser(__doc__)
    known.add_argument("--points", type=int, default=20_000)
    known.add_argument("--queries", type=int, default=100_000)
    known.add_argument("--width", type=int, default=4)
    options = parse(known)
    require(["locate", "interpolate"])
    report(options, cases(options), "scipy has one thread")


if __name__ == "__main__":
    main()
