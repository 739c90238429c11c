"""Segment reductions against what else torch and PyG offer, side by side in one process.

Run: python tests/benchmarks/bm_segment.py [--threads N] [--variant reference|native] …
Prints, for a small 2-D mesh and a large 3-D one, the 20th percentile of interleaved calls and
how many times faster meshsim is; fails if results differ from a float64 loop-free sum or if the
variant under test is not the one active.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch_geometric.utils import scatter

from meshsim import native, ops

SIZES = {"2-D": (950, 6, 64), "3-D": (30_000, 13, 128)}  # nodes, mean degree, width
Call = Callable[[Tensor], Tensor]


def receivers(nodes: int, degree: int) -> Tensor:
    """Sorted receivers with degrees around the mean, none of them for the last node."""
    generator = torch.Generator().manual_seed(0)
    degrees = torch.randint(
        degree // 2, 2 * degree - degree // 2 + 1, (nodes,), generator=generator
    )
    degrees[-1] = 0
    return torch.arange(nodes).repeat_interleave(degrees)


def contenders(reduce: str, index: Tensor, rowptr: Tensor, width: int) -> dict[str, Call]:
    nodes = len(rowptr) - 1
    wide = index[:, None].expand(-1, width)
    ours = {"sum": ops.segment_sum, "mean": ops.segment_mean, "max": ops.segment_max}[reduce]
    torch_name = {"sum": "sum", "mean": "mean", "max": "amax"}[reduce]

    def scattered(x: Tensor) -> Tensor:
        zero = x.new_zeros(nodes, width)
        return zero.scatter_reduce(0, wide, x, torch_name, include_self=False)

    out: dict[str, Call] = {
        "meshsim": (lambda x: ours(x, rowptr, index)[0])
        if reduce == "max"
        else (lambda x: ours(x, rowptr, index)),
        "index_add": lambda x: x.new_zeros(nodes, width).index_add(0, index, x),
        "scatter_reduce": scattered,
        "segment_reduce": lambda x: torch.segment_reduce(
            x, reduce, offsets=rowptr, axis=0, unsafe=True, initial=0.0 if reduce == "sum" else None
        ),
        "PyG scatter": lambda x: scatter(x, index, 0, nodes, reduce),
    }
    if reduce != "sum":
        del out["index_add"]
    return out


def time_all(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """20th percentile of interleaved calls, in milliseconds."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if i:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    return {name: sorted(s)[len(s) // 5] * 1e3 for name, s in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--reductions", nargs="*", default=["sum", "mean", "max"])
    parser.add_argument("--variant", default="reference", choices=["reference", "native"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for reduce in options.reductions:
        running = native.active()[f"segment_{reduce}"]["cpu"]
        if running != options.variant:
            raise SystemExit(f"segment_{reduce} runs as {running}, not {options.variant}")
    print(f"variant {options.variant}, {options.threads} threads, torch {torch.__version__}")
    print(f"{'':34s}{'forward':>22s}{'forward+backward':>26s}")
    for size in options.sizes:
        nodes, degree, width = SIZES[size]
        index = receivers(nodes, degree)
        rowptr = torch.searchsorted(index, torch.arange(nodes + 1))
        x = torch.randn(len(index), width, generator=torch.Generator().manual_seed(0))
        weight = torch.randn(nodes, width, generator=torch.Generator().manual_seed(1))
        for reduce in options.reductions:
            calls = contenders(reduce, index, rowptr, width)
            exact = contenders(reduce, index, rowptr, width)["scatter_reduce"](x.double())
            for name, call in calls.items():
                error = (call(x).double()[:-1] - exact[:-1]).abs().max().item()
                if error > 1e-4:
                    raise SystemExit(f"{size} {reduce}: {name} is off by {error}")
            leaf = x.clone().requires_grad_()

            def both(call: Call, leaf: Tensor = leaf, weight: Tensor = weight) -> None:
                leaf.grad = None
                call(leaf).backward(weight)

            with torch.no_grad():
                forward = time_all(
                    {n: lambda c=c, x=x: c(x) for n, c in calls.items()}, options.repeats
                )
            full = time_all({n: lambda c=c: both(c) for n, c in calls.items()}, options.repeats)
            print(f"{size} {reduce}: {len(index)} rows of {width} into {nodes}")
            for name in calls:
                a, b = forward[name], full[name]
                print(
                    f"    {name:30s}{a:10.3f} ms {a / forward['meshsim']:8.2f}x"
                    f"{b:14.3f} ms {b / full['meshsim']:8.2f}x"
                )


if __name__ == "__main__":
    main()
