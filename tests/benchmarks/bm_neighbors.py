"""Radius search and k nearest neighbours against scipy's k-d tree, side by side in one process.

Run: python tests/benchmarks/bm_neighbors.py [--points N] [--threads N] [--json]
Each call builds its tree anew. scipy's radius search is `query_pairs`, which gives each pair once
and no rows: less than what is asked of meshsim. Ratios are medians of interleaved pairs, with the
lowest and highest; indices must equal the torch reference's on a part of the queries.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from meshsim import native, ops
from meshsim.ops import neighbors
from tests.benchmarks import physicsnemo_peer

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


def paired(ours: Callable[[], object], theirs: Callable[[], object], pairs: int) -> list[float]:
    """How many times longer `theirs` takes, for each of some interleaved pairs."""
    ours(), theirs()
    ratios = []
    for _ in range(pairs):
        a = time.perf_counter()
        ours()
        b = time.perf_counter()
        theirs()
        ratios.append((time.perf_counter() - b) / (b - a))
    return ratios


def distance_error(points: Tensor, indices: Tensor, distances: Tensor) -> float:
    """Largest relative error of the distances against float64."""
    x = points.double()
    exact = (x[indices] - x[: len(indices), None]).norm(dim=2)
    return float(((distances.double() - exact).abs() / exact.clamp(min=1e-300)).max())


def cases(name: str, points: Tensor, pairs: int) -> dict[str, dict[str, dict[str, float]]]:
    x = points.double().numpy()
    n = len(points)
    some = points[: min(n, 2000)]
    indices, distances = ops.knn(points, some, K)
    r = float(np.median(distances[:, -1].double().numpy()))
    known = neighbors._knn(points, some, K)
    found, expected = ops.radius(points, some, r), neighbors._radius(points, some, r)
    if not torch.equal(indices, known[0]) or not torch.equal(found[1], expected[1]):
        raise SystemExit(f"{name}: neighbours differ from the reference's")
    theirs = {
        "radius": lambda: cKDTree(x).query_pairs(r, output_type="ndarray"),
        "knn": lambda: cKDTree(x).query(x, K),
    }
    ours = {
        "radius": lambda: ops.radius(points, points, r),
        "knn": lambda: ops.knn(points, points, K),
    }
    error = {"radius": 0.0, "knn": distance_error(points, indices, distances)}
    out = {}
    for op in ours:
        ratios = paired(ours[op], theirs[op], pairs)
        out[f"{op} {name} {n}"] = {
            "scipy cKDTree": {
                "ratio": statistics.median(ratios),
                "low": min(ratios),
                "high": max(ratios),
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "error": error[op],
            }
        }
    if name == "3-D uniform" and physicsnemo_peer.installed():
        theirs_too = physicsnemo_peer.within(points, r)
        ratios = paired(ours["radius"], theirs_too, pairs)
        count = len(ours["radius"]()[1])
        out[f"radius {name} {n}"]["PhysicsNeMo"] = {
            "ratio": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "error": abs(theirs_too().shape[1] / count - 1),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for op in ("radius", "knn"):
        if native.active()[op]["cpu"] != "native":
            raise SystemExit(f"{op} does not run natively: {native.active()[op]['why']}")
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name, points in clouds(options.points).items():
        results.update(cases(name, points, options.pairs))
    if options.json:
        print(json.dumps(results))
        return
    print(f"{options.threads} threads of torch (scipy has one), torch {torch.__version__}")
    for case, variants in results.items():
        for variant, v in variants.items():
            print(
                f"{case:28s}{v['ratio']:7.2f}x of {variant}"
                f"  [{v['low']:.2f}-{v['high']:.2f}]  error {v['error']:.1e}"
            )


if __name__ == "__main__":
    main()
