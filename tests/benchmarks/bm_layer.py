"""A layer of masked attention, its linear maps included, against PyG, in one process.

Run: python tests/benchmarks/bm_layer.py [--threads N] [--sizes 30k] [--width 128] [--json]

Interleaved rounds; the ratio is of PyG's operations with the same linear maps, `TransformerConv`
stands beside. Errors are against float64; peak is memory over the inputs.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch_geometric.nn import TransformerConv

from meshsim.benchmarks import gathered
from meshsim.nn import MaskedAttention
from meshsim.ops.widen import widen
from meshsim.timing import Figures, measure, require
from tests.benchmarks.meshes import SIZES
from tests.benchmarks.report import parse, parser, report

HEADS = 4


def convolution(layer: MaskedAttention, width: int) -> TransformerConv:
    """PyG's layer with the query, key and value maps of ours; it has no outer one."""
    conv = TransformerConv(width, width // HEADS, HEADS, root_weight=False, bias=False)
    with torch.no_grad():
        weights = layer.qkv.weight.chunk(3)
        maps = (conv.lin_query, conv.lin_key, conv.lin_value)
        for linear, weight in zip(maps, weights, strict=True):
            linear.weight.copy_(weight)  # without biases, as ours
    return conv


def one(options: argparse.Namespace, size: str) -> tuple[str, Figures]:
    edges, nodes = SIZES[size]()
    torch.manual_seed(0)
    layer = MaskedAttention(options.width, HEADS)
    conv = convolution(layer, options.width)
    mask = widen(edges, torch.tensor([0, nodes]))
    row = torch.arange(nodes).repeat_interleave(mask.rowptr.diff())
    plain = gathered(mask.col, row, nodes, HEADS)
    entries = torch.stack([mask.col, row])
    x = torch.randn(nodes, options.width)

    def theirs(x: Tensor = x) -> list[Tensor]:
        return [layer.out(plain(*layer.qkv(x).chunk(3, 1)))]

    calls = {
        "PyG": theirs,
        "PyG TransformerConv": lambda: [layer.out(conv(x, entries))],
        "meshsim": lambda: [layer(x, mask)],
    }
    with torch.no_grad():
        layer.double()
        exact = theirs(x.double())
        layer.float()
        rows = measure(calls, exact, rounds=options.rounds, seconds=options.seconds)
    return f"{size} layer forward, {nodes} nodes, {len(mask.col)} entries", rows


def main() -> None:
    known = parser(__doc__, seconds=30.0)
    known.add_argument("--width", type=int, default=128)
    known.add_argument("--sizes", nargs="*", default=["30k"], choices=list(SIZES))
    options = parse(known)
    require(["csr_attention"])
    report(options, (one(options, size) for size in options.sizes))


if __name__ == "__main__":
    main()
