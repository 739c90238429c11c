"""MeshGraphNet against the same network written with PyG, side by side in one process.

Run: python tests/benchmarks/bm_meshgraphnet.py [--sizes 2k] [--width 128] [--depth 15] …
Interleaved rounds; ratios are of PyG's time in the same round, errors against PyG's network in
float64. `bf16 products` is ours under autocast. Fails if the two networks disagree or if an
operator's variant is not the one asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from meshsim.benchmarks import Messages, torch_layers
from meshsim.models import MeshGraphNet
from meshsim.nn import MLP
from meshsim.timing import Figures, measure, require
from tests.benchmarks.meshes import SIZES
from tests.benchmarks.report import MODES, parse, parser, report

BF16 = "meshsim bf16 products"


class Plain(nn.Module):
    """The usual PyG implementation: gather, concatenate, MLP, scatter."""

    def __init__(
        self, nodes_in: int, edges_in: int, out: int, width: int, depth: int, hidden_layers: int
    ):
        super().__init__()
        mlp = partial(MLP, width=width, hidden_layers=hidden_layers)
        self.encode_node = torch_layers(mlp(nodes_in, width))
        self.encode_edge = torch_layers(mlp(edges_in, width))
        self.blocks = nn.ModuleList(
            Messages(mlp(3 * width, width), mlp(2 * width, width)) for _ in range(depth)
        )
        self.decode = torch_layers(mlp(width, out, norm=False))

    def forward(self, graph: SimpleNamespace) -> Tensor:
        x, e = self.encode_node(graph.x), self.encode_edge(graph.edge_attr)
        for block in self.blocks:
            x, e = block(x, e, graph.edge_index)
        return self.decode(x)


def graph_of(size: str) -> SimpleNamespace:
    """Random node and edge values on a mesh."""
    edges, nodes = SIZES[size]()
    generator = torch.Generator().manual_seed(0)
    return SimpleNamespace(
        x=torch.randn(nodes, 12, generator=generator),
        edge_attr=torch.randn(edges.shape[1], 3, generator=generator),
        edge_index=edges,
    )


def cases(options: argparse.Namespace, size: str) -> Iterator[tuple[str, Figures]]:
    graph = graph_of(size)
    torch.manual_seed(0)
    how = {"width": options.width, "depth": options.depth, "hidden_layers": options.hidden_layers}
    plain, ours = Plain(12, 3, 3, **how), MeshGraphNet(12, 3, {"u": 3}, **how)
    ours.load_state_dict(dict(zip(ours.state_dict(), plain.state_dict().values(), strict=True)))
    nets: dict[str, nn.Module] = {"PyG": plain, "meshsim": ours, BF16: ours}

    def run(name: str) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=name == BF16):
            y = nets[name](graph)
        return y if name == "PyG" else y["mesh"]["u"]

    def infer(name: str) -> list[Tensor]:
        with torch.no_grad():
            return [run(name)]

    def train(name: str) -> list[Tensor]:
        nets[name].zero_grad()
        y = run(name)
        y.square().mean().backward()
        return [y.detach()]

    with torch.no_grad():
        exact = plain.double()(SimpleNamespace(**{k: _double(v) for k, v in vars(graph).items()}))
        plain.float()
    sizes = f"{len(graph.x)} nodes, {graph.edge_index.shape[1]} edges, width {options.width}"
    for mode, work in zip(MODES, (infer, train), strict=True):
        bound = {name: partial(work, name) for name in nets}
        rows = measure(bound, [exact], rounds=options.rounds, seconds=options.seconds)
        if rows["meshsim"]["error"] > 1e-4:
            raise SystemExit(f"the networks disagree: {rows['meshsim']['error']:.1e}")
        yield f"{size} {mode}, {sizes}, {options.depth} blocks", rows


def main() -> None:
    known = parser(__doc__, seconds=120.0)
    known.set_defaults(rounds=20)
    known.add_argument("--sizes", nargs="*", default=["2k"], choices=list(SIZES))
    known.add_argument("--width", type=int, default=128)
    known.add_argument("--depth", type=int, default=15)
    known.add_argument("--hidden-layers", type=int, default=2)
    known.add_argument("--variant", default="native", choices=["native", "reference"])
    options = parse(known)
    require(["edge_block", "node_block"], options.variant)
    every = (case for size in options.sizes for case in cases(options, size))
    report(options, every)


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


if __name__ == "__main__":
    main()
