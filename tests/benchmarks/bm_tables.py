"""Edges and faces of tetrahedra against numpy, side by side in one process.

Run: python tests/benchmarks/bm_tables.py [--side N] [--threads N] [--json]
A cube of 6 N³ tetrahedra, as it is made and with points and cells in disorder. Ratios are of
numpy's time over meshsim's in the same round; errors are of numbers that must be equal.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meshsim import ops
from meshsim.benchmarks import EDGES, FACES, cube, numpy_faces
from meshsim.timing import Call, Figures, measure, require
from tests.benchmarks.report import parse, parser, report


def numpy_edges(cells: Any, n: int) -> Any:
    pairs = cells[:, EDGES.numpy()].reshape(-1, 2)
    return np.unique(pairs.min(1) * n + pairs.max(1))


def contenders(cells: Tensor, n: int) -> dict[str, tuple[dict[str, Call], Any]]:
    """{operator: (calls by name, what is compared of a result)}."""
    ids, known = torch.arange(len(cells)), cells.numpy()

    def keys(name: str, found: Any) -> list[Tensor]:
        return [found[:, 0] * n + found[:, 1] if name == "meshsim" else torch.from_numpy(found)]

    def ends(name: str, found: Any) -> list[Tensor]:
        both = (found.owner, found.neighbour) if name == "meshsim" else found
        return [torch.as_tensor(t) for t in both]

    return {
        "edges": (
            {
                "meshsim": lambda: ops.cells_to_edges([(cells, EDGES)], n),
                "np.unique": lambda: numpy_edges(known, n),
            },
            keys,
        ),
        "faces": (
            {
                "meshsim": lambda: ops.cells_to_faces([(cells, FACES, ids)], n, 3),
                "np.lexsort": lambda: numpy_faces(known),
            },
            ends,
        ),
    }


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    cells, n = cube(options.side)
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randperm(n, generator=generator)[cells]
    mixed = mixed[torch.randperm(len(cells), generator=generator)]
    for order, some in (("in order", cells), ("in disorder", mixed)):
        for op, (calls, take) in contenders(some, n).items():
            name, peer = list(calls.items())[1]
            exact = [t.double() for t in take(name, peer())]
            rows = measure(
                calls,
                exact,
                base="meshsim",
                over=True,
                rounds=options.rounds,
                seconds=options.seconds,
                take=take,
            )
            if any(row["error"] for row in rows.values()):
                raise SystemExit(f"{op} {order}: different from numpy's")
            yield f"{op} {order} {len(cells)}", rows


def main() -> None:
    known = parser(__doc__)
    known.set_defaults(rounds=5)
    known.add_argument("--side", type=int, default=55, help="55: a million tetrahedra")
    options = parse(known)
    require(["cells_to_edges", "cells_to_faces"])
    report(options, cases(options), f"numpy {np.__version__}, on one thread")


if __name__ == "__main__":
    main()
