"""Segment reductions against what else torch, PyG and torch_scatter offer, in one process.

Run: python tests/benchmarks/bm_segment.py [--threads N] [--sizes …] [--reductions …] [--json]
Calls are interleaved; a ratio is a peer's time over meshsim's in the same round, its median given
with the range; above 1 meshsim is faster. `copy` is what moving the rows once costs. Beside it
stand the largest error against float64 and the memory that each call asked for. It refuses to run
if the kernels under test are not the native ones.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch_geometric.utils import scatter as pyg_scatter
from torch_geometric.utils import softmax as pyg_softmax

from meshsim import native, ops

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


def peak_bytes(call: Callable[[], object]) -> int:
    """The most memory that torch held for it at any time, its result included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = call()
    del kept
    now = most = 0
    events = profiler.profiler.kineto_results.events()
    memory = [e for e in events if e.name() == "[memory]"]
    for event in sorted(memory, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def ratios(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Times over meshsim's by round, rising; meshsim's own are milliseconds."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    began, rounds = time.perf_counter(), 0
    while rounds < 4 or (time.perf_counter() - began < seconds and rounds < 400):
        took = {}
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            took[name] = time.perf_counter() - start
        if rounds:  # the first round warms up
            for name, t in took.items():
                found[name].append(1e3 * t if name == "meshsim" else t / took["meshsim"])
        rounds += 1
    return {name: sorted(values) for name, values in found.items()}


def summary(
    calls: dict[str, Call], x: Tensor, seconds: float, rows: int | None
) -> dict[str, dict[str, float]]:
    """The figures of one case by contender; `rows` of the result have a defined value."""
    oracle = next(call for name, call in calls.items() if name != "meshsim")
    exact = value(oracle(x.double()))[:rows]
    into = torch.empty_like(x)
    bound: dict[str, Callable[[], object]] = {n: lambda c=c: c(x) for n, c in calls.items()}
    bound["copy"] = lambda: into.copy_(x)
    out = {}
    for name, times in ratios(bound, seconds).items():
        off = 0.0
        if name != "copy" and exact.numel():
            off = (value(calls[name](x))[:rows].double() - exact).abs().max().item()
        out[name] = {
            "ratio": 1.0 if name == "meshsim" else times[len(times) // 2],
            "low": 1.0 if name == "meshsim" else times[0],
            "high": 1.0 if name == "meshsim" else times[-1],
            "peak_bytes": peak_bytes(bound[name]),
            "error": off,
        }
        if name == "meshsim":
            out[name]["ms"] = times[len(times) // 2]
    return out


def show(case: str, figures: dict[str, dict[str, float]]) -> None:
    print(f"{case}: {figures['meshsim']['ms']:.4f} ms")
    for name, f in figures.items():
        print(
            f"    {name:24s}{f['ratio']:8.2f}x  [{f['low']:.2f}-{f['high']:.2f}]"
            f"{f['peak_bytes'] / 2**20:10.2f} MB  error {f['error']:.1e}"
        )


def refuse(names: list[str]) -> None:
    """Leave unless every one of these operators runs as compiled code."""
    active = native.active()
    for name in names:
        if active[name]["cpu"] != "native":
            raise SystemExit(f"{name} runs as {active[name]['cpu']}: {active[name]['why']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each case")
    parser.add_argument("--sizes", nargs="*", default=list(SIZES)[:-1], choices=list(SIZES))
    parser.add_argument("--reductions", nargs="*", default=REDUCTIONS, choices=REDUCTIONS)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64", "bfloat16"])
    parser.add_argument("--backward", action="store_true", help="forward and backward")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    refuse([f"segment_{name}" for name in options.reductions])
    report = {}
    if not options.json:
        print(f"{options.threads} threads, torch {torch.__version__}, {options.dtype}")
        if torch_scatter() is None:
            print("torch_scatter is not installed: left out")
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
            case = f"{size} {reduce}, {len(index)} x {width}"
            with torch.set_grad_enabled(options.backward):
                report[case] = summary(calls, x, options.seconds, None if by_row else nodes - 1)
            if not options.json:
                show(case, report[case])
    if options.json:
        print(json.dumps(report))


def backward(call: Call) -> Call:
    """The gradient of Σ y cos y′ for the call's values y."""

    def both(x: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        y = value(call(leaf))
        (grad,) = torch.autograd.grad(y, leaf, y.detach())
        return grad

    return both


if __name__ == "__main__":
    main()
