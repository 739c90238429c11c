"""MeshGraphNet against the same network written with PyG, side by side in one process.

Run: python tests/benchmarks/bm_meshgraphnet.py [--nodes 950] [--width 64] [--depth 8] …
Prints milliseconds (20th percentile and minimum of interleaved calls) and the ratio; fails if
the two networks disagree or if an operator's variant is not the one asked for.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from meshsim import native
from meshsim.models import MeshGraphNet

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}


@dataclass(frozen=True)
class Recipe:
    """Widths and depths of both networks."""

    width: int
    depth: int
    hidden_layers: int
    activation: str

    def mlp(self, inputs: int, outputs: int, norm: bool = True) -> nn.Sequential:
        widths = [inputs, *[self.width] * self.hidden_layers, outputs]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), ACTIVATIONS[self.activation]()]
        return nn.Sequential(*layers[:-1], *[nn.LayerNorm(outputs)] * norm)


class PlainBlock(MessagePassing):
    def __init__(self, recipe: Recipe):
        super().__init__(aggr="sum")
        width = recipe.width
        self.edge, self.node = recipe.mlp(3 * width, width), recipe.mlp(2 * width, width)

    def forward(self, x: Tensor, e: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        e = e + self.edge_updater(edge_index, x=x, e=e)
        return x + self.node(torch.cat([x, self.propagate(edge_index, e=e)], 1)), e

    def edge_update(self, x_i: Tensor, x_j: Tensor, e: Tensor) -> Tensor:
        return self.edge(torch.cat([e, x_j, x_i], 1))

    def message(self, e: Tensor) -> Tensor:
        return e


class Plain(nn.Module):
    """The usual PyG implementation: gather, concatenate, MLP, scatter."""

    def __init__(self, nodes_in: int, edges_in: int, out: int, recipe: Recipe):
        super().__init__()
        self.encode_node = recipe.mlp(nodes_in, recipe.width)
        self.encode_edge = recipe.mlp(edges_in, recipe.width)
        self.blocks = nn.ModuleList(PlainBlock(recipe) for _ in range(recipe.depth))
        self.decode = recipe.mlp(recipe.width, out, norm=False)

    def forward(self, graph: SimpleNamespace) -> Tensor:
        x, e = self.encode_node(graph.x), self.encode_edge(graph.edge_attr)
        for block in self.blocks:
            x, e = block(x, e, graph.edge_index)
        return self.decode(x)


def ring_graph(nodes: int, degree: int) -> SimpleNamespace:
    """Each node receives from `degree` nodes within reach, as in a well-numbered mesh."""
    generator = torch.Generator().manual_seed(0)
    receiver = torch.arange(nodes).repeat_interleave(degree)
    near = torch.randint(-60, 61, receiver.shape, generator=generator)
    sender = (receiver + near) % nodes
    return SimpleNamespace(
        x=torch.randn(nodes, 12, generator=generator),
        edge_attr=torch.randn(len(receiver), 3, generator=generator),
        edge_index=torch.stack([sender, receiver]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=950)
    parser.add_argument("--degree", type=int, default=6)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--hidden-layers", type=int, default=2)
    parser.add_argument("--activation", default="relu", choices=list(ACTIVATIONS))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variant", default="native", choices=["native", "reference"])
    parser.add_argument("--bf16-products", action="store_true", help="oneDNN bf16 matmul")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.bf16_products:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    for op in ("edge_block", "node_block"):
        if native.active()[op]["cpu"] != options.variant:
            raise SystemExit(f"{op} runs as {native.active()[op]['cpu']}, not {options.variant}")

    graph = ring_graph(options.nodes, options.degree)
    torch.manual_seed(0)
    recipe = Recipe(options.width, options.depth, options.hidden_layers, options.activation)
    plain = Plain(12, 3, 3, recipe)
    ours = MeshGraphNet(12, 3, {"u": 3}, **asdict(recipe))
    ours.load_state_dict(dict(zip(ours.state_dict(), plain.state_dict().values(), strict=True)))
    nets = {"PyG": plain, "meshsim": lambda g: ours(g)["mesh"]["u"]}
    difference = (nets["PyG"](graph) - nets["meshsim"](graph)).abs().max().item()
    if difference > (0.1 if options.bf16_products else 1e-4):
        raise SystemExit(f"the networks disagree by {difference}")

    def infer(name: str) -> None:
        with torch.no_grad():
            nets[name](graph)

    def train(name: str) -> None:
        (plain if name == "PyG" else ours).zero_grad()
        nets[name](graph).square().mean().backward()

    print(
        f"{options.nodes} nodes, {options.nodes * options.degree} edges, width {options.width}, "
        f"{options.depth} blocks of {options.activation} MLPs with {options.hidden_layers} hidden "
        f"layers, {options.threads} threads, largest difference {difference:.1e}"
    )
    for title, work in (("forward", infer), ("forward+backward", train)):
        seconds: dict[str, list[float]] = {name: [] for name in nets}
        for _ in range(options.repeats):
            for name in nets:
                began = time.perf_counter()
                work(name)
                seconds[name].append(time.perf_counter() - began)
        ordered = {name: sorted(s) for name, s in seconds.items()}
        fifth = {name: s[len(s) // 5] * 1e3 for name, s in ordered.items()}
        text = ", ".join(f"{n} {fifth[n]:.1f} ms (min {ordered[n][0] * 1e3:.1f})" for n in nets)
        print(f"{title:17s} {text}, PyG/meshsim {fifth['PyG'] / fifth['meshsim']:.2f}")


if __name__ == "__main__":
    main()
