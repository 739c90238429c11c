"""Edges and faces of tetrahedra against numpy, side by side in one process.

Run: python tests/benchmarks/bm_tables.py [--side N] [--pairs N] [--json]
A cube of 6 N³ tetrahedra, as it is made and with points and cells in disorder. Ratios are medians
of interleaved pairs, with the lowest and highest; results must be equal.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meshsim import native, ops
from meshsim.benchmarks import EDGES, FACES, cube, numpy_faces


def numpy_edges(cells: Any, n: int) -> Any:
    pairs = cells[:, EDGES.numpy()].reshape(-1, 2)
    return np.unique(pairs.min(1) * n + pairs.max(1))


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


def cases(name: str, cells: Tensor, n: int, pairs: int) -> dict[str, dict[str, dict[str, float]]]:
    ids, known = torch.arange(len(cells)), cells.numpy()
    edges = ops.cells_to_edges([(cells, EDGES)], n)
    table = ops.cells_to_faces([(cells, FACES, ids)], n, 3)
    owner, neighbour = numpy_faces(known)
    key = torch.from_numpy(numpy_edges(known, n))
    if not torch.equal(edges[:, 0] * n + edges[:, 1], key):
        raise SystemExit(f"{name}: edges differ from numpy's")
    if not np.array_equal(table.owner, owner) or not np.array_equal(table.neighbour, neighbour):
        raise SystemExit(f"{name}: faces differ from numpy's")
    calls = {
        "edges": (lambda: ops.cells_to_edges([(cells, EDGES)], n), lambda: numpy_edges(known, n)),
        "faces": (
            lambda: ops.cells_to_faces([(cells, FACES, ids)], n, 3),
            lambda: numpy_faces(known),
        ),
    }
    out = {}
    for op, variant in (("edges", "np.unique"), ("faces", "np.lexsort")):
        ratios = paired(*calls[op], pairs)
        out[f"{op} {name} {len(cells)}"] = {
            variant: {
                "ratio": statistics.median(ratios),
                "low": min(ratios),
                "high": max(ratios),
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "error": 0.0,
            }
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=55, help="55: a million tetrahedra")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for op in ("cells_to_edges", "cells_to_faces"):
        if native.active()[op]["cpu"] != "native":
            raise SystemExit(f"{op} does not run natively: {native.active()[op]['why']}")
    cells, n = cube(options.side)
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randperm(n, generator=generator)[cells]
    mixed = mixed[torch.randperm(len(cells), generator=generator)]
    results = cases("in order", cells, n, options.pairs)
    results.update(cases("in disorder", mixed, n, options.pairs))
    if options.json:
        print(json.dumps(results))
        return
    print(f"{options.threads} threads of torch, numpy {np.__version__}")
    for case, variants in results.items():
        for variant, v in variants.items():
            print(
                f"{case:28s}{v['ratio']:7.2f}x of {variant}  [{v['low']:.2f}-{v['high']:.2f}]"
                f"  peak {v['peak_bytes'] / 1e6:.0f} MB"
            )


if __name__ == "__main__":
    main()
