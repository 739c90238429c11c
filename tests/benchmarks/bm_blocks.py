"""One message block against PyG, PhysicsNeMo and torch.compile, in one process.

Run: python tests/benchmarks/bm_blocks.py [--threads N] [--sizes 2k 30k] [--only PyG meshsim]
     [--compile] [--variant native|reference] [--json]

Interleaved rounds; for each variant the median of (time of PyG / its time) in the same round, with
the range, peak memory over the inputs and memory kept for the backward pass in units of E·H·4
bytes, and the errors against float64.

PyG, `split` and PhysicsNeMo run torch's own modules with our parameters; the gradients of torch's
LayerNorm are wrong under autocast on a CPU. Fails if the variant under test is not active.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meshsim import native
from meshsim.benchmarks import Block, Messages, torch_layers
from meshsim.nn import MessageBlock, pass_messages
from meshsim.ops.adjacency import adjacency
from meshsim.timing import (
    against,
    interleave,
    machine,
    peak_bytes,
    relative_error,
    require,
    saved_tensors,
)
from tests.benchmarks import physicsnemo_peer
from tests.benchmarks.meshes import SIZES

Row = dict[str, float]


@dataclass(frozen=True)
class Variant:
    """A way to compute a block: the call, its weights, and the type that edges are kept in."""

    run: Block
    weights: list[nn.Parameter]
    edges: torch.dtype = torch.float32


def split(block: MessageBlock, sender: Tensor, receiver: Tensor) -> Block:
    """PhysicsNeMo's `do_concat_trick` in torch: the first layer's node products once a node."""
    after_first, node = torch_layers(block.edge)[1:], torch_layers(block.node)

    def run(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        first = block.edge.layers[0]
        w_edge, w_sender, w_receiver = first.weight.split(block.width, 1)
        h = F.linear(e, w_edge, first.bias)
        h = h + F.linear(x, w_sender)[sender] + F.linear(x, w_receiver)[receiver]
        e = e + after_first(h)
        total = torch.zeros_like(x).index_add_(0, receiver, e)
        return x + node(torch.cat([x, total], 1)), e

    return run


def bfloat16(run: Block) -> Block:
    def low(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return run(x, e)

    return low


def variants(block: MessageBlock, edges: Tensor, nodes: int, compiled: bool) -> dict[str, Variant]:
    """All that can be measured here, PyG first."""
    weights = list(block.parameters())
    table = adjacency(edges, nodes)
    plain = Messages(block.edge, block.node)

    def theirs(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        return plain(x, e, edges)

    def ours(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        return pass_messages([block], x, e, table)

    trick = split(block, *edges)
    out = {
        "PyG": Variant(theirs, weights),
        "PyG autocast": Variant(bfloat16(theirs), weights),
        "split": Variant(trick, weights),
        "split autocast": Variant(bfloat16(trick), weights),
        "meshsim": Variant(ours, weights),
        "meshsim bf16 products": Variant(bfloat16(ours), weights),
    }
    if compiled:
        out["torch.compile(PyG)"] = Variant(torch.compile(theirs, dynamic=False), weights)
        out["torch.compile(split)"] = Variant(torch.compile(trick, dynamic=False), weights)
    if physicsnemo_peer.installed():
        for name, quick in (("PhysicsNeMo", False), ("PhysicsNeMo trick", True)):
            run, own = physicsnemo_peer.message_block(block, edges, nodes, quick)
            out[name] = Variant(run, own)
            out[f"{name} autocast"] = Variant(bfloat16(run), own)
    out["meshsim bf16 edges"] = Variant(bfloat16(ours), weights, torch.bfloat16)
    if native.isa() in ("portable", "avx2"):  # torch's bfloat16 products take ten times as long
        print("autocast is left out: no bfloat16 instructions here", file=sys.stderr)
        out = {name: variant for name, variant in out.items() if "autocast" not in name}
    return out


def gradients(variant: Variant, x: Tensor, e: Tensor, norm: Tensor) -> tuple[Tensor, ...]:
    """Values, and the gradients of Σ y²/2: of the edge norm's weight, the nodes and the edges."""
    a, b = x.clone().requires_grad_(), e.to(variant.edges, copy=True).requires_grad_()
    y = torch.cat([t.to(x.dtype) for t in variant.run(a, b)])
    return y.detach(), *torch.autograd.grad((y * y).sum() / 2, [norm, a, b])


def steady_error(found: Tensor, exact: Tensor) -> float:
    """The relative error without the hundredth of the rows (R, H) that are farthest off.

    Rounding turns a ReLU on or off here and there, in float32 as it falls out: one of them changes
    a row's gradient by far more than all other rounding together.
    """
    off = (found.double() - exact).norm(dim=1)
    keep = off <= off.sort().values[-1 - len(off) // 100]
    return relative_error([found[keep]], [exact[keep]])


def errors(
    runs: dict[str, Variant], block: MessageBlock, x: Tensor, e: Tensor
) -> dict[str, list[float]]:
    """Errors against PyG in float64: of values, of the LayerNorm's and the inputs' gradients."""
    norm = block.edge.norm.weight
    block.double()
    exact = gradients(Variant(runs["PyG"].run, [], torch.float64), x.double(), e.double(), norm)
    block.float()
    out = {}
    for name, variant in runs.items():
        found = gradients(variant, x, e, norm)
        pairs = list(zip(found, exact, strict=True))
        both = [relative_error([f], [t]) for f, t in pairs[:2]]
        out[name] = [*both, max(steady_error(f, t) for f, t in pairs[2:])]
    return out


def measure(options: argparse.Namespace, size: str) -> dict[str, dict[str, Row]]:
    """{case: {variant: figures}}."""
    edges, nodes = SIZES[size]()
    torch.manual_seed(0)
    block = MessageBlock(options.width, 2, "relu")
    x, e = torch.randn(nodes, options.width), torch.randn(edges.shape[1], options.width)
    runs = variants(block, edges, nodes, options.compile)
    if options.only:
        runs = {name: runs[name] for name in options.only if name in runs}
    given = {name: (x, e.to(v.edges)) for name, v in runs.items()}
    tables = [edges, *vars(adjacency(edges, nodes)).values()]

    def forward(name: str) -> None:
        with torch.no_grad():
            runs[name].run(*given[name])

    def both(name: str) -> None:
        a, b = (t.detach().requires_grad_() for t in given[name])
        y = runs[name].run(a, b)
        torch.autograd.grad(y, [a, b, *runs[name].weights], [t.detach() for t in y])

    def kept(name: str) -> tuple[float, float]:
        a, b = (t.detach().requires_grad_() for t in given[name])
        found = saved_tensors(lambda: runs[name].run(a, b), [*runs[name].weights, *tables])
        sizes = [t.untyped_storage().nbytes() for t in found]
        wide = [t.untyped_storage().nbytes() for t in found if t.numel() >= e.numel()]
        return sum(sizes), sum(wide)

    accuracy = errors(runs, block, x, e)
    calls: dict[str, Callable[[str], None]] = {"forward": forward, "forward+backward": both}
    out: dict[str, dict[str, Row]] = {}
    for mode in options.modes:
        bound = {name: partial(calls[mode], name) for name in runs}
        rows = against(interleave(bound, options.rounds, options.seconds), "PyG")
        for name, row in rows.items():
            row["peak_bytes"] = peak_bytes(bound[name])
            row["units"] = row["peak_bytes"] / (4 * e.numel())
            row["error"], row["norm_error"], row["grad_error"] = accuracy[name]
            if mode != "forward":
                row["saved_units"], row["saved_on_edges"] = (
                    s / (4 * e.numel()) for s in kept(name)
                )
        out[f"{size} {mode}"] = rows
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=90.0, help="for each case, about")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--sizes", nargs="*", default=["2k", "30k"], choices=list(SIZES))
    modes = ["forward", "forward+backward"]
    parser.add_argument("--modes", nargs="*", default=modes, choices=modes)
    parser.add_argument("--only", nargs="*", help="variants by name, PyG among them")
    parser.add_argument("--variant", default="native", choices=["reference", "native"])
    parser.add_argument("--compile", action="store_true", help="torch.compile too (slow to start)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    require(["edge_block", "node_block"], options.variant)
    found: dict[str, dict[str, Row]] = {}
    for size in options.sizes:
        found |= measure(options, size)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{machine()}, {options.threads} threads; {physicsnemo_peer.WHAT}")
    for case, rows in found.items():
        print(case)
        for name, row in rows.items():
            kept = ""
            if "saved_units" in row:
                kept = f", kept {row['saved_units']:.2f} ({row['saved_on_edges']:.2f} on edges)"
            print(
                f"  {name:28s}{row['milliseconds']:9.1f} ms  x PyG {row['ratio']:6.2f}"
                f" [{row['low']:.2f}-{row['high']:.2f}]  peak {row['units']:5.2f} E·H·4{kept}"
                f"  error {row['error']:.1e}, of LayerNorm's gradient {row['norm_error']:.1e},"
                f" of inputs' {row['grad_error']:.1e}"
            )


if __name__ == "__main__":
    main()
