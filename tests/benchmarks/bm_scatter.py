"""The functions of torch_scatter, ours against its own, PyG and torch, in one process.

Run: python tests/benchmarks/bm_scatter.py [--threads N] [--sizes …] [--reductions …] [--json]
As bm_segment.py, for indices in sorted and in random order; `--last` reduces along the last
dimension, torch_scatter's default, instead of the first.
"""

from __future__ import annotations

import argparse
import json

import torch
from bm_segment import SIZES, Call, receivers, refuse, show, summary, torch_scatter
from torch import Tensor
from torch_geometric.utils import scatter as pyg_scatter
from torch_geometric.utils import softmax as pyg_softmax

from meshsim import ops

REDUCTIONS = ["sum", "mean", "max", "softmax"]


def contenders(reduce: str, index: Tensor, n: int, dim: int) -> dict[str, Call]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each case")
    parser.add_argument("--sizes", nargs="*", default=list(SIZES)[1:-1], choices=list(SIZES))
    parser.add_argument("--reductions", nargs="*", default=REDUCTIONS, choices=REDUCTIONS)
    parser.add_argument("--last", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    refuse([f"scatter_{name}" for name in options.reductions])
    report = {}
    if not options.json:
        print(f"{options.threads} threads, torch {torch.__version__}")
        if torch_scatter() is None:
            print("torch_scatter is not installed: left out")
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
                case = f"{size} {reduce}, {order}, {len(index)} x {width}"
                report[case] = summary(calls, x, options.seconds, None)
                if not options.json:
                    show(case, report[case])
    if options.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
