"""Radius search and k nearest neighbours against scipy's k-d tree, side by side in one process.

Run: python tests/benchmarks/bm_neighbors.py [--points N] [--threads N] [--json]
Each call builds its tree anew. scipy's radius search is `query_pairs`, which gives each pair once
and no rows: less than what is asked of meshsim. Ratios are of a peer's time over meshsim's in the
same round; errors are of the number of pairs and of the distances. Indices must equal the torch
reference's on a part of the queries.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from meshsim import ops
from meshsim.ops import neighbors
from meshsim.timing import Call, Figures, measure, require
from tests.benchmarks import physicsnemo_peer
from tests.benchmarks.report import parse, parser, report

K = 16


def clouds(n: int) -> dict[str, Tensor]:
    """Uniform points, and boundary layers whose spacing shrinks a thousand- and a millionfold."""
    out = {}
    for dim in (3, 2):
        uniform = torch.rand(n, dim, generator=torch.Generator().manual_seed(0))
        out[f"{dim}-D uniform"] = uniform
        for decades in (3, 6):
            layer = uniform.clone()
            layer[:, -1] = 10 ** (-decades * layer[:, -1])
            out[f"{dim}-D graded 1e{decades}"] = layer
    return out


def pairs(name: str, found: Any) -> list[Tensor]:
    """How many pairs a radius search gave, both ways and each point with itself."""
    if name == "scipy cKDTree":
        pair, points = found
        return [torch.tensor([2.0 * len(pair) + points])]
    return [torch.tensor([float(len(found[1]))])]


def radius(points: Tensor, r: float, with_physicsnemo: bool) -> dict[str, Call]:
    x, n = points.double().numpy(), len(points)
    calls: dict[str, Call] = {
        "meshsim": lambda: ops.radius(points, points, r),
        "scipy cKDTree": lambda: (cKDTree(x).query_pairs(r, output_type="ndarray"), n),
    }
    if with_physicsnemo:
        calls["PhysicsNeMo"] = physicsnemo_peer.within(points, r)
    return calls


def check(name: str, points: Tensor) -> float:
    """Compare with the reference on some of the points, and give a radius with about K of them."""
    some = points[: min(len(points), 2000)]
    indices, distances = ops.knn(points, some, K)
    r = float(np.median(distances[:, -1].double().numpy()))
    known = neighbors._knn(points, some, K)
    found, expected = ops.radius(points, some, r), neighbors._radius(points, some, r)
    if not torch.equal(indices, known[0]) or not torch.equal(found[1], expected[1]):
        raise SystemExit(f"{name}: neighbours differ from the reference's")
    return r


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    how: dict[str, Any] = {"base": "meshsim", "over": True}
    how |= {"rounds": options.rounds, "seconds": options.seconds}
    for name, points in clouds(options.points).items():
        r = check(name, points)
        calls = radius(points, r, name == "3-D uniform" and physicsnemo_peer.installed())
        exact = pairs("scipy cKDTree", calls["scipy cKDTree"]())
        exact = [t.double() for t in exact]
        yield f"radius {name} {len(points)}", measure(calls, exact, take=pairs, **how)
        x = points.double().numpy()
        nearest: dict[str, Call] = {
            "meshsim": lambda p=points: ops.knn(p, p, K)[1:],
            "scipy cKDTree": lambda x=x: [torch.from_numpy(cKDTree(x).query(x, K)[0])],
        }
        yield f"knn {name} {len(points)}", measure(nearest, nearest["scipy cKDTree"](), **how)


def main() -> None:
    known = parser(__doc__)
    known.add_argument("--points", type=int, default=100_000)
    options = parse(known)
    require(["radius", "knn"])
    report(options, cases(options), "scipy has one thread")


if __name__ == "__main__":
    main()
