"""A layer of masked attention, its linear maps included, against PyG, in one process.

Run: python tests/benchmarks/bm_layer.py [--threads N] [--sizes 30k] [--width 128] [--json]

Interleaved rounds; the ratio is of PyG's operations with the same linear maps, `TransformerConv`
stands beside. Errors are against float64; peak is memory over the inputs.
"""

from __future__ import annotations

import argparse
import json

import torch
from torch import Tensor
from torch_geometric.nn import TransformerConv

from meshsim.benchmarks import gathered
from meshsim.nn import MaskedAttention
from meshsim.ops.widen import widen
from meshsim.timing import against, interleave, machine, peak_bytes, relative_error, require
from tests.benchmarks.meshes import SIZES

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


def measure(options: argparse.Namespace, size: str) -> dict[str, dict[str, dict[str, float]]]:
    """{case: {variant: figures}}."""
    edges, nodes = SIZES[size]()
    torch.manual_seed(0)
    layer = MaskedAttention(options.width, HEADS)
    conv = convolution(layer, options.width)
    mask = widen(edges, torch.tensor([0, nodes]))
    row = torch.arange(nodes).repeat_interleave(mask.rowptr.diff())
    plain = gathered(mask.col, row, nodes, HEADS)
    entries = torch.stack([mask.col, row])
    x = torch.randn(nodes, options.width)

    def theirs(x: Tensor = x) -> Tensor:
        return layer.out(plain(*layer.qkv(x).chunk(3, 1)))

    calls = {
        "PyG": theirs,
        "PyG TransformerConv": lambda: layer.out(conv(x, entries)),
        "meshsim": lambda: layer(x, mask),
    }
    with torch.no_grad():
        layer.double()
        exact = theirs(x.double())
        layer.float()
        rows = against(interleave(calls, options.rounds, 30.0), "PyG")
        for name, call in calls.items():
            rows[name]["peak_bytes"] = peak_bytes(call)
            rows[name]["error"] = relative_error([call()], [exact])
    return {f"{size} layer forward, {nodes} nodes, {len(mask.col)} entries": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--sizes", nargs="*", default=["30k"], choices=list(SIZES))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    require(["csr_attention"])
    found: dict[str, dict[str, dict[str, float]]] = {}
    for size in options.sizes:
        found |= measure(options, size)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{machine()}, {options.threads} threads")
    for case, rows in found.items():
        print(case)
        for name, row in rows.items():
            print(
                f"  {name:20s}{row['milliseconds']:9.2f} ms  x PyG {row['ratio']:6.2f}"
                f" [{row['low']:.2f}-{row['high']:.2f}]  peak {row['peak_bytes'] / 2**20:7.1f} MB"
                f"  error {row['error']:.1e}"
            )


if __name__ == "__main__":
    main()
