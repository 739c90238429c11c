"""Masked attention on mesh graphs against PyG's operations and torch.sparse, in one process.

Run: python tests/benchmarks/bm_attention.py [--threads N] [--sizes 2k 30k] [--widths 64 128]
     [--modes forward forward+backward] [--dtype float32] [--json]

Interleaved rounds; for each variant the median of (time of PyG / its time) in the same round, with
the range, peak memory over the inputs, and the error against float64. It refuses to run if the
kernel under test is not the native one.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from meshsim.benchmarks import Attention, gathered
from meshsim.ops import csr_attention
from meshsim.ops.adjacency import adjacency
from meshsim.ops.attention import entries_by_column
from meshsim.timing import Figures, measure, require
from tests.benchmarks.meshes import SIZES
from tests.benchmarks.report import MODES, parse, parser, report


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


def forward(run: Attention, x: list[Tensor]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return (run(*x[:3]),)


def both(run: Attention, x: list[Tensor]) -> tuple[Tensor, ...]:
    leaves = [t.detach().requires_grad_() for t in x[:3]]
    return torch.autograd.grad(run(*leaves), leaves, x[3])


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    for size in options.sizes:
        edges, nodes = SIZES[size]()
        calls = variants(edges, nodes, options.heads)
        for width in options.widths:
            generator = torch.Generator().manual_seed(0)
            exact = list(torch.randn(4, nodes, width, generator=generator, dtype=torch.float64))
            given = [x.to(getattr(torch, options.dtype)) for x in exact]
            for mode, call in zip(MODES, (forward, both), strict=True):
                if mode not in options.modes:
                    continue
                sparse_too = mode == "forward" and options.dtype == "float32"
                runs = {n: c for n, c in calls.items() if n != "torch.sparse" or sparse_too}
                yield (
                    f"{size} ({nodes} x {edges.shape[1]}) h{width} {mode}",
                    measure(
                        {name: partial(call, run, given) for name, run in runs.items()},
                        call(calls["PyG"], exact),
                        rounds=options.rounds,
                        seconds=options.seconds,
                    ),
                )


def main() -> None:
    known = parser(__doc__)
    known.add_argument("--heads", type=int, default=4)
    known.add_argument("--widths", type=int, nargs="*", default=[64, 128])
    known.add_argument("--sizes", nargs="*", default=["2k", "30k"], choices=list(SIZES))
    known.add_argument("--modes", nargs="*", default=MODES, choices=MODES)
    known.add_argument("--dtype", default="float32", choices=["float32", "float64", "bfloat16"])
    options = parse(known)
    require(["csr_attention"])
    report(options, cases(options))


if __name__ == "__main__":
    main()
