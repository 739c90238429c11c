"""Segment reductions against what else torch, PyG and torch_scatter offer, in one process.

Run: python tests/benchmarks/bm_segment.py [--threads N] [--sizes …] [--reductions …] [--json]
Calls are interleaved; a ratio is a peer's time over meshsim's in the same round, its median given
with the range; above 1 meshsim is faster. `copy` is what moving the rows once costs. Beside it
stand peak memory over the inputs and the error against float64. It refuses to run if the kernels
under test are not the native ones.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch_geometric.utils import scatter as pyg_scatter
from torch_geometric.utils import softmax as pyg_softmax

from meshsim import ops
from meshsim.timing import Figures, measure, require
from tests.benchmarks.report import parse, parser, report

# nodes, mean degree, width: next to nothing, a small 2-D mesh, one column, heads, large 3-D meshes
SIZES = {
    "empty": (0, 5, 16),
    "ten": (2, 5, 16),
    "2-D": (950, 12, 64),
    "column": (30_000, 13, 1),
    "heads": (30_000, 13, 4),
    "3-D": (30_000, 13, 128),
    "3-D large": (300_000, 14, 128),
}
REDUCTIONS = ["sum", "mean", "max", "softmax", "logsumexp"]
Call = Callable[[Tensor], Any]


def receivers(nodes: int, degree: int) -> tuple[Tensor, Tensor]:
    """Sorted receivers with degrees around the mean, none for the last node, and their rowptr."""
    generator = torch.Generator().manual_seed(0)
    low, high = degree // 2, 2 * degree - degree // 2 + 1
    degrees = torch.randint(low, high, (nodes,), generator=generator)
    degrees[-1:] = 0
    rowptr = torch.zeros(nodes + 1, dtype=torch.int64)
    rowptr[1:] = degrees.cumsum(0)
    return torch.arange(nodes).repeat_interleave(degrees), rowptr


def torch_scatter() -> Any:
    try:
        return importlib.import_module("torch_scatter")
    except ImportError:
        return None


def contenders(reduce: str, index: Tensor, rowptr: Tensor, width: int) -> dict[str, Call]:
    """The calls by name, meshsim first; each gives values, or values and more."""
    nodes, peer = len(rowptr) - 1, torch_scatter()
    ours: Call = getattr(ops, f"segment_{reduce}")
    out: dict[str, Call] = {"meshsim": lambda x: ours(x, rowptr, index)}
    reference = f"segment_{reduce}"
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd)
    op = getattr(torch.ops.meshsim, reference).default
    out["reference"] = lambda x: op.redispatch(key, x, rowptr, index)
    if reduce == "softmax":
        out["PyG softmax"] = lambda x: pyg_softmax(x, index, num_nodes=nodes)
        out["PyG softmax by ptr"] = lambda x: pyg_softmax(x, ptr=rowptr)
        if peer:
            out["torch_scatter"] = lambda x: peer.scatter_softmax(x, index, 0, dim_size=nodes)
        return out
    if reduce == "logsumexp":
        if peer and len(index):
            out["torch_scatter"] = lambda x: peer.scatter_logsumexp(x, index, 0, dim_size=nodes)
        return out
    wide = index[:, None].expand(-1, width)
    torch_name = {"sum": "sum", "mean": "mean", "max": "amax"}[reduce]
    if reduce == "sum":
        out["index_add"] = lambda x: x.new_zeros(nodes, width).index_add_(0, index, x)
    out["scatter_reduce"] = lambda x: x.new_zeros(nodes, width).scatter_reduce_(
        0, wide, x, torch_name, include_self=False
    )
    if nodes:
        out["segment_reduce"] = lambda x: torch.segment_reduce(
            x, reduce, offsets=rowptr, axis=0, unsafe=True, initial=0.0 if reduce == "sum" else None
        )
    out["PyG scatter"] = lambda x: pyg_scatter(x, index, 0, nodes, reduce)
    if peer:
        out["torch_scatter scatter"] = lambda x: peer.scatter(x, index, 0, None, nodes, reduce)
        out["torch_scatter csr"] = lambda x: peer.segment_csr(x, rowptr, reduce=reduce)
    return out


def value(y: Any) -> Tensor:
    return y[0] if isinstance(y, tuple) else y


def compare(
    calls: dict[str, Call], x: Tensor, options: argparse.Namespace, rows: int | None
) -> Figures:
    """The figures of one case by contender; `rows` of the result have a defined value."""
    oracle = next(call for name, call in calls.items() if name != "meshsim")
    into = torch.empty_like(x)

    def copy() -> None:
        into.copy_(x)

    return measure(
        {**{name: partial(call, x) for name, call in calls.items()}, "copy": copy},
        [value(oracle(x.double()))[:rows]],
        base="meshsim",
        over=True,
        rounds=options.rounds,
        seconds=options.seconds,
        take=lambda _, y: [value(y)[:rows]],
    )


def backward(call: Call) -> Call:
    """The gradient of Σ y²/2 for the call's values y."""

    def both(x: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        y = value(call(leaf))
        (grad,) = torch.autograd.grad(y, leaf, y.detach())
        return grad

    return both


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    for size in options.sizes:
        nodes, degree, width = SIZES[size]
        index, rowptr = receivers(nodes, degree)
        x = torch.randn(len(index), width, generator=torch.Generator().manual_seed(0))
        x = x.to(getattr(torch, options.dtype))
        for reduce in options.reductions:
            calls = contenders(reduce, index, rowptr, width)
            if options.backward:
                calls = {n: backward(c) for n, c in calls.items() if n != "reference"}
            by_row = reduce == "softmax" or options.backward
            with torch.set_grad_enabled(options.backward):
                rows = compare(calls, x, options, None if by_row else nodes - 1)
            yield f"{size} {reduce}, {len(index)} x {width}", rows


def arguments(doc: str | None, sizes: list[str], reductions: list[str]) -> argparse.ArgumentParser:
    """The options of this file and of bm_scatter.py."""
    known = parser(doc, seconds=3.0)
    known.set_defaults(rounds=400)  # of calls that take microseconds
    known.add_argument("--sizes", nargs="*", default=sizes, choices=list(SIZES))
    known.add_argument("--reductions", nargs="*", default=reductions, choices=reductions)
    return known


def peers() -> str:
    return "" if torch_scatter() else "torch_scatter is not installed: left out"


def main() -> None:
    known = arguments(__doc__, list(SIZES)[:-1], REDUCTIONS)
    known.add_argument("--dtype", default="float32", choices=["float32", "float64", "bfloat16"])
    known.add_argument("--backward", action="store_true", help="forward and backward")
    options = parse(known)
    require([f"segment_{name}" for name in options.reductions])
    report(options, cases(options), peers())


if __name__ == "__main__":
    main()
