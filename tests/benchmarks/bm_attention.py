"""Masked attention on mesh graphs against PyG's operations and torch.sparse, in one process.

Run: python tests/benchmarks/bm_attention.py [--threads N] [--sizes 2k 30k] [--widths 64 128]
     [--modes forward forward+backward] [--dtype float32] [--json]

Interleaved rounds; for each variant the median of (time of PyG / its time) in the same round, with
the range, peak memory over the inputs, and the largest error against float64. It refuses to run if
the kernel under test is not the native one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from functools import partial

import torch
from torch import Tensor

from meshsim import native
from meshsim.benchmarks import Attention, gathered
from meshsim.ops import csr_attention
from meshsim.ops.adjacency import adjacency
from meshsim.ops.attention import entries_by_column
from meshsim.timing import peak_bytes
from tests.benchmarks.meshes import SIZES


def sparse(rowptr: Tensor, col: Tensor, nodes: int, heads: int) -> Attention:
    """Sampled product, sparse softmax and sparse product of torch.sparse, head by head."""
    ones = torch.ones(len(col))

    warnings.filterwarnings("ignore", message=".*[Ss]parse")

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = []
        for a, b, c in zip(*(t.chunk(heads, 1) for t in (q, k, v)), strict=True):
            zero = torch.sparse_csr_tensor(rowptr, col, torch.zeros_like(ones), (nodes, nodes))
            s = torch.sparse.sampled_addmm(zero, a.contiguous(), b.T, alpha=a.shape[1] ** -0.5)
            p = torch.sparse.softmax(s.to_sparse_coo(), 1).to_sparse_csr()
            out.append(p @ c.contiguous())
        return torch.cat(out, 1)

    return run


def variants(edges: Tensor, nodes: int, heads: int) -> dict[str, Attention]:
    """The calls by name, PyG first."""
    table = adjacency(edges, nodes)
    columns = entries_by_column(table.sender, nodes)

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return csr_attention(q, k, v, table.rowptr, table.sender, heads, columns=columns)[0]

    return {
        "PyG": gathered(table.sender, table.receiver, nodes, heads),
        "torch.sparse": sparse(table.rowptr, table.sender, nodes, heads),
        "meshsim": ours,
    }


def measure(options: argparse.Namespace, size: str, width: int) -> dict[str, dict]:
    """{case: {variant: figures}}."""
    edges, nodes = SIZES[size]()
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(nodes, width, generator=generator, dtype=torch.float64) for _ in range(4)]
    given = [x.to(getattr(torch, options.dtype)) for x in exact]
    calls = variants(edges, nodes, options.heads)
    if options.dtype != "float32":
        del calls["torch.sparse"]

    def forward(run: Attention, x: list[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return [run(*x[:3])]

    def both(run: Attention, x: list[Tensor]) -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in x[:3]]
        return list(torch.autograd.grad(run(*leaves), leaves, x[3]))

    out = {}
    for mode, call in (("forward", forward), ("forward+backward", both)):
        if mode not in options.modes:
            continue
        right = call(calls["PyG"], exact)
        runs = {n: c for n, c in calls.items() if mode == "forward" or n != "torch.sparse"}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for i in range(options.rounds + 1):
            for name, run in runs.items():
                began = time.perf_counter()
                call(run, given)
                if i:  # the first round warms up
                    seconds[name].append(time.perf_counter() - began)
        rows = {}
        for name, run in runs.items():
            pairs = zip(seconds["PyG"], seconds[name], strict=True)
            ratios = sorted(a / b for a, b in pairs)
            found = call(run, given)
            errors = [(a - b).abs().max().item() for a, b in zip(found, right, strict=True)]
            rows[name] = {
                "ratio": statistics.median(ratios),
                "low": ratios[0],
                "high": ratios[-1],
                "milliseconds": 1e3 * statistics.median(seconds[name]),
                "peak_bytes": peak_bytes(partial(call, run, given)),
                "error": max(errors),
            }
        out[f"{size} ({nodes} x {edges.shape[1]}) h{width} {mode}"] = rows
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--widths", type=int, nargs="*", default=[64, 128])
    parser.add_argument("--sizes", nargs="*", default=["2k", "30k"], choices=list(SIZES))
    modes = ["forward", "forward+backward"]
    parser.add_argument("--modes", nargs="*", default=modes, choices=modes)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64", "bfloat16"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    running = native.active()["csr_attention"]
    if running["cpu"] != "native":
        raise SystemExit(f"csr_attention runs as {running['cpu']}: {running['why']}")
    found = {}
    for size in options.sizes:
        for width in options.widths:
            found |= measure(options, size, width)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{native.isa()}, {options.threads} threads, {options.dtype}, torch {torch.__version__}")
    for case, rows in found.items():
        print(case)
        for name, row in rows.items():
            print(
                f"  {name:16s}{row['milliseconds']:9.2f} ms  x PyG {row['ratio']:6.2f}"
                f" [{row['low']:.2f}-{row['high']:.2f}]  peak {row['peak_bytes'] / 2**20:7.1f} MB"
                f"  error {row['error']:.1e}"
            )


if __name__ == "__main__":
    main()
