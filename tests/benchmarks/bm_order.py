"""Morton's order against numpy, reverse Cuthill–McKee against scipy, in one process.

Run: python tests/benchmarks/bm_order.py [--points N] [--size 30k] [--threads N] [--json]
Ratios are of the peer's time in the same round. Morton's orders must be equal; of the others the
`error` is by how much the bandwidth is larger than the smaller of the two.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor

from meshsim import ops
from meshsim.ops import order
from meshsim.timing import Figures, measure, require
from tests.benchmarks.meshes import SIZES
from tests.benchmarks.report import parse, parser, report


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    how: dict[str, Any] = {"rounds": options.rounds, "seconds": options.seconds}
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(options.points, 3, generator=generator)
    calls = {"numpy": lambda: [order._morton(x)], "meshsim": lambda: [ops.morton_order(x)]}
    yield f"morton, {options.points} points", measure(calls, [calls["numpy"]()[0].double()], **how)

    edges, n = SIZES[options.size]()
    sender, receiver = torch.randperm(n, generator=generator)[edges]
    edges = torch.stack([sender, receiver])

    def scipy() -> Tensor:
        ends = sender.numpy(), receiver.numpy()
        graph = csr_array((torch.ones(len(sender)).numpy(), ends), shape=(n, n))
        return torch.from_numpy(reverse_cuthill_mckee(graph, symmetric_mode=True).astype("int64"))

    def width(_: str, found: Tensor) -> list[Tensor]:
        place = torch.empty(n, dtype=torch.int64).scatter_(0, found, torch.arange(n))
        return [(place[sender] - place[receiver]).abs().amax().double()]

    both = {"scipy": scipy, "meshsim": lambda: ops.rcm_order(edges, n)}
    best = min(width(name, call())[0] for name, call in both.items())
    yield f"rcm, {n} nodes, {len(sender)} edges", measure(both, [best], take=width, **how)


def main() -> None:
    known = parser(__doc__)
    known.add_argument("--points", type=int, default=300_000)
    known.add_argument("--size", default="30k", choices=list(SIZES))
    options = parse(known)
    require(["morton_order", "rcm_order"])
    report(options, cases(options), "the peers have one thread")


if __name__ == "__main__":
    main()
