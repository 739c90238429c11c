"""One message block against PyG, PhysicsNeMo's fastest form and torch.compile, in one process.

Run: python tests/benchmarks/bm_blocks.py [--threads N] [--sizes 2k 30k] [--json]
     [--variant native|reference]

Interleaved rounds; for each variant the median of (time of PyG / its time) in the same round, with
the range, peak memory over the inputs in units of E·H·4 bytes, and the error against float64.
Fails if the variant under test is not the one active.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meshsim import native
from meshsim.nn import MessageBlock, pass_messages
from meshsim.ops.adjacency import adjacency
from tests.benchmarks.meshes import peak_bytes, tetra_graph, triangle_graph

SIZES: dict[str, Callable[[], tuple[Tensor, int]]] = {
    "2k": lambda: triangle_graph(2_000),
    "30k": lambda: tetra_graph(30_000),
    "300k": lambda: tetra_graph(300_000),
}
Block = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def concatenated(block: MessageBlock, sender: Tensor, receiver: Tensor) -> Block:
    """As in PyG: gather, concatenate, MLP, scatter."""

    def run(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        e = e + block.edge(torch.cat([e, x[sender], x[receiver]], 1))
        total = torch.zeros_like(x).index_add_(0, receiver, e)
        return x + block.node(torch.cat([x, total], 1)), e

    return run


def split(block: MessageBlock, sender: Tensor, receiver: Tensor) -> Block:
    """As PhysicsNeMo's `do_concat_trick`: the first layer's node products once a node."""

    def run(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        first = block.edge.layers[0]
        w_edge, w_sender, w_receiver = first.weight.split(block.width, 1)
        h = F.linear(e, w_edge, first.bias)
        h = h + F.linear(x, w_sender)[sender] + F.linear(x, w_receiver)[receiver]
        e = e + block.edge.after_first(h)
        total = torch.zeros_like(x).index_add_(0, receiver, e)
        return x + block.node(torch.cat([x, total], 1)), e

    return run


def bfloat16(run: Block) -> Block:
    def low(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return run(x, e)

    return low


def variants(block: MessageBlock, edges: Tensor, nodes: int, compiled: bool) -> dict[str, Block]:
    table = adjacency(edges, nodes)
    sender, receiver = edges

    def ours(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        return pass_messages([block], x, e, table)

    out = {
        "PyG": concatenated(block, sender, receiver),
        "split": split(block, sender, receiver),
        "split autocast": bfloat16(split(block, sender, receiver)),
        "meshsim": ours,
        "meshsim bf16 products": bfloat16(ours),
    }
    if compiled:
        out["torch.compile(split)"] = torch.compile(split(block, sender, receiver), dynamic=False)
    return out


def errors(run: Block, exact: Block, x: Tensor, e: Tensor, block: nn.Module) -> tuple[float, float]:
    """Relative errors of values and of the LayerNorm's gradients against float64."""
    found, right = [], []
    for call, dtype, out in ((run, torch.float32, found), (exact, torch.float64, right)):
        block.to(dtype)
        a, b = x.to(dtype).requires_grad_(), e.to(dtype).requires_grad_()
        y = torch.cat(call(a, b))
        out += [y, torch.autograd.grad((y * y).sum() / 2, block.edge.norm.weight)[0]]
    block.float()
    values, norms = ((f.double() - r).norm() / r.norm() for f, r in zip(found, right, strict=True))
    return float(values), float(norms)


def measure(options: argparse.Namespace, size: str) -> dict[str, dict[str, dict[str, float]]]:
    edges, nodes = SIZES[size]()
    torch.manual_seed(0)
    block = MessageBlock(options.width, 2, "relu")
    x, e = torch.randn(nodes, options.width), torch.randn(edges.shape[1], options.width)
    runs = variants(block, edges, nodes, options.compile)
    exact = runs["PyG"]
    unit = e.numel() * 4

    def forward(run: Block) -> None:
        with torch.no_grad():
            run(x, e)

    def both(run: Block) -> None:
        a, b = x.detach().requires_grad_(), e.detach().requires_grad_()
        torch.autograd.grad(run(a, b), [a, b, *block.parameters()], (x, e))

    out: dict[str, dict[str, dict[str, float]]] = {}
    accuracy = {name: errors(run, exact, x, e, block) for name, run in runs.items()}
    for mode, call in (("forward", forward), ("forward+backward", both)):
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for i in range(options.rounds + 1):
            for name, run in runs.items():
                began = time.perf_counter()
                call(run)
                if i:
                    seconds[name].append(time.perf_counter() - began)
        rows = {}
        for name, run in runs.items():
            pairs = zip(seconds["PyG"], seconds[name], strict=True)
            ratios = sorted(a / b for a, b in pairs)
            rows[name] = {
                "ratio": statistics.median(ratios),
                "low": ratios[0],
                "high": ratios[-1],
                "milliseconds": 1e3 * statistics.median(seconds[name]),
                "peak_bytes": (peak := peak_bytes(partial(call, run))),
                "units": peak / unit,
                "error": accuracy[name][0],
                "norm_error": accuracy[name][1],
            }
        out[f"{size} {mode}"] = rows
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--sizes", nargs="*", default=["2k", "30k"], choices=list(SIZES))
    parser.add_argument("--variant", default="native", choices=["reference", "native"])
    parser.add_argument("--compile", action="store_true", help="torch.compile too (slow to start)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    running = native.active()["edge_block"]
    if running["cpu"] != options.variant:
        raise SystemExit(f"edge_block runs as {running['cpu']}: {running['why']}")
    found = {}
    for size in options.sizes:
        found |= measure(options, size)
    if options.json:
        print(json.dumps(found))
        return
    print(
        f"{options.variant} ({native.isa()}), {options.threads} threads, torch {torch.__version__}"
    )
    for case, rows in found.items():
        print(case)
        for name, row in rows.items():
            print(
                f"  {name:24s}{row['milliseconds']:9.1f} ms  x PyG {row['ratio']:6.2f}"
                f" [{row['low']:.2f}-{row['high']:.2f}]  peak {row['units']:5.2f} E·H·4"
                f"  error {row['error']:.1e}, of LayerNorm's gradient {row['norm_error']:.1e}"
            )


if __name__ == "__main__":
    main()
