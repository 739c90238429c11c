"""Farthest-point sampling against the usual loop of torch, in one process.

Run: python tests/benchmarks/bm_sampling.py [--points N] [--taken N] [--threads N] [--json]
Ratios are of the loop's time in the same round; the points taken must be the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor

from meshsim import ops
from meshsim.timing import Figures, measure, require
from tests.benchmarks.report import parse, parser, report


def loop(points: Tensor, n: int) -> Tensor:
    """(n,) each next point the one farthest from all before, in float64 as ours."""
    x, taken = points.double(), torch.zeros(n, dtype=torch.int64)
    nearest = x.new_full((len(x),), torch.inf)
    for k in range(1, n):
        nearest = torch.minimum(nearest, (x - x[taken[k - 1]]).square().sum(1))
        taken[k] = nearest.argmax()
    return taken


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    for dim in (2, 3):
        x = torch.rand(options.points, dim, generator=torch.Generator().manual_seed(0))
        calls = {
            "torch": lambda x=x: [loop(x, options.taken)],
            "meshsim": lambda x=x: [ops.farthest_points(x, options.taken)],
        }
        exact = [t.double() for t in calls["torch"]()]
        yield (
            f"{dim}-D, {options.taken} of {options.points} points",
            measure(calls, exact, rounds=options.rounds, seconds=options.seconds),
        )


def main() -> None:
    known = parser(__doc__)
    known.add_argument("--points", type=int, default=30_000)
    known.add_argument("--taken", type=int, default=1_000)
    options = parse(known)
    require(["farthest_points"])
    report(options, cases(options))


if __name__ == "__main__":
    main()
