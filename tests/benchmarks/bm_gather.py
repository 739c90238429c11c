"""gather_sum, sums over the neighbours in a mesh, against torch's ways, in one process.

Run: python tests/benchmarks/bm_gather.py [--threads N] [--sizes 2k 30k] [--width 128] [--json]
Ratios are of the time of a gather and index_add_ in the same round, errors against float64.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from meshsim.ops.adjacency import adjacency
from meshsim.ops.gather import gather_sum, transpose
from meshsim.timing import Figures, measure, require
from tests.benchmarks.meshes import SIZES
from tests.benchmarks.report import MODES, parse, parser, report

Sum = Callable[[Tensor], Tensor]


def variants(edges: Tensor, n: int) -> dict[str, Sum]:
    """The calls by name, the usual one first."""
    table = adjacency(edges, n)
    sender, receiver, rowptr = table.sender, table.receiver, table.rowptr
    back = transpose(sender, rowptr, n)
    warnings.filterwarnings("ignore", message=".*[Ss]parse")
    matrix = torch.sparse_csr_tensor(rowptr, sender, torch.ones(len(sender)), (n, n))
    return {
        "gather, index_add_": lambda x: x.new_zeros(x.shape).index_add_(0, receiver, x[sender]),
        "embedding_bag": lambda x: embedding_bag(
            sender, x, rowptr, mode="sum", include_last_offset=True
        ),
        "torch.sparse": lambda x: matrix @ x,
        "meshsim": lambda x: gather_sum(x, sender, rowptr, *back),
    }


def forward(run: Sum, x: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return (run(x),)


def both(run: Sum, x: Tensor) -> tuple[Tensor, ...]:
    leaf = x.detach().requires_grad_()
    y = run(leaf)
    return torch.autograd.grad(y, leaf, y.detach())


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    for size in options.sizes:
        edges, n = SIZES[size]()
        calls = variants(edges, n)
        x = torch.randn(n, options.width, generator=torch.Generator().manual_seed(0))
        for mode, call in zip(MODES, (forward, both), strict=True):
            exact = call(calls["gather, index_add_"], x.double())
            bound = {name: partial(call, run, x) for name, run in calls.items()}
            yield (
                f"{size} ({n} x {edges.shape[1]}) h{options.width} {mode}",
                measure(bound, exact, rounds=options.rounds, seconds=options.seconds),
            )


def main() -> None:
    known = parser(__doc__)
    known.add_argument("--sizes", nargs="*", default=["2k", "30k"], choices=list(SIZES))
    known.add_argument("--width", type=int, default=128)
    options = parse(known)
    require(["gather_sum"])
    report(options, cases(options))


if __name__ == "__main__":
    main()
