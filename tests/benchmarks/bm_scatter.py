"""The functions of torch_scatter, ours against its own, PyG and torch, in one process.

Run: python tests/benchmarks/bm_scatter.py [--threads N] [--sizes …] [--reductions …] [--json]
As bm_segment.py, for indices in sorted and in random order; `--last` reduces along the last
dimension, torch_scatter's default, instead of the first.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch_geometric.utils import scatter as pyg_scatter
from torch_geometric.utils import softmax as pyg_softmax

from meshsim import ops
from meshsim.timing import Figures, require
from tests.benchmarks.bm_segment import (
    SIZES,
    Call,
    arguments,
    compare,
    peers,
    receivers,
    torch_scatter,
)
from tests.benchmarks.report import parse, report

REDUCTIONS = ["sum", "mean", "max", "softmax"]


def contenders(reduce: str, index: torch.Tensor, n: int, dim: int) -> dict[str, Call]:
    peer = torch_scatter()
    ours = getattr(ops, f"scatter_{reduce}")
    out: dict[str, Call] = {"meshsim": lambda x: ours(x, index, dim, dim_size=n)}
    if reduce == "softmax":
        out["PyG"] = lambda x: pyg_softmax(x, index, num_nodes=n, dim=dim)
    else:
        out["PyG"] = lambda x: pyg_scatter(x, index, dim, n, reduce)
    if peer:
        theirs = getattr(peer, f"scatter_{reduce}")
        out["torch_scatter"] = lambda x: theirs(x, index, dim, dim_size=n)
    if reduce == "sum" and dim == 0:
        out["index_add"] = lambda x: x.new_zeros(n, x.shape[1]).index_add_(0, index, x)
    return out


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    for size in options.sizes:
        nodes, degree, width = SIZES[size]
        index, _ = receivers(nodes, degree)
        generator = torch.Generator().manual_seed(0)
        shape = (width, len(index)) if options.last else (len(index), width)
        x = torch.randn(shape, generator=generator)
        orders = {"sorted": index, "random": index[torch.randperm(len(index), generator=generator)]}
        for order, at in orders.items():
            for reduce in options.reductions:
                calls = contenders(reduce, at, nodes, -1 if options.last else 0)
                rows = compare(calls, x, options, None)
                yield f"{size} {reduce}, {order}, {len(index)} x {width}", rows


def main() -> None:
    known = arguments(__doc__, list(SIZES)[1:-1], REDUCTIONS)
    known.add_argument("--last", action="store_true")
    options = parse(known)
    torch.set_grad_enabled(False)
    require([f"scatter_{name}" for name in options.reductions])
    report(options, cases(options), peers())


if __name__ == "__main__":
    main()
