"""MeshGraphNet against the same network written with PyG, side by side in one process.

Run: python tests/benchmarks/bm_meshgraphnet.py [--nodes 950] [--width 64] [--depth 8] …
Interleaved rounds; ratios are of PyG's time in the same round, errors against PyG's network in
float64. Fails if the two networks disagree or if an operator's variant is not the one asked for.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from meshsim.benchmarks import Messages
from meshsim.models import MeshGraphNet
from meshsim.timing import against, interleave, machine, peak_bytes, relative_error, require

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


class Plain(nn.Module):
    """The usual PyG implementation: gather, concatenate, MLP, scatter."""

    def __init__(self, nodes_in: int, edges_in: int, out: int, recipe: Recipe):
        super().__init__()
        self.encode_node = recipe.mlp(nodes_in, recipe.width)
        self.encode_edge = recipe.mlp(edges_in, recipe.width)
        self.blocks = nn.ModuleList(
            Messages(
                recipe.mlp(3 * recipe.width, recipe.width),
                recipe.mlp(2 * recipe.width, recipe.width),
            )
            for _ in range(recipe.depth)
        )
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
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.bf16_products:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    require(["edge_block", "node_block"], options.variant)

    graph = ring_graph(options.nodes, options.degree)
    torch.manual_seed(0)
    recipe = Recipe(options.width, options.depth, options.hidden_layers, options.activation)
    plain = Plain(12, 3, 3, recipe)
    ours = MeshGraphNet(12, 3, {"u": 3}, **asdict(recipe))
    ours.load_state_dict(dict(zip(ours.state_dict(), plain.state_dict().values(), strict=True)))
    nets = {"PyG": plain, "meshsim": lambda g: ours(g)["mesh"]["u"]}
    weights = {"PyG": plain, "meshsim": ours}
    with torch.no_grad():
        found = {name: net(graph) for name, net in nets.items()}
        double = SimpleNamespace(**{k: _double(v) for k, v in vars(graph).items()})
        exact = plain.double()(double)
        plain.float()
    errors = {name: relative_error([y], [exact]) for name, y in found.items()}
    if errors["meshsim"] > (0.1 if options.bf16_products else 1e-4):
        raise SystemExit(f"the networks disagree: errors {errors}")

    def infer(name: str) -> None:
        with torch.no_grad():
            nets[name](graph)

    def train(name: str) -> None:
        weights[name].zero_grad()
        nets[name](graph).square().mean().backward()

    case = (
        f"{options.nodes} nodes, {options.nodes * options.degree} edges, width {options.width},"
        f" {options.depth} blocks"
    )
    report = {}
    for mode, work in (("forward", infer), ("forward+backward", train)):
        bound = {name: partial(work, name) for name in nets}
        rows = against(interleave(bound, options.repeats), "PyG")
        for name, row in rows.items():
            row.update(peak_bytes=peak_bytes(bound[name]), error=errors[name])
        report[f"{case} {mode}"] = rows
    if options.json:
        print(json.dumps(report))
        return
    print(f"{machine()}, {options.threads} threads")
    for title, rows in report.items():
        print(title)
        for name, row in rows.items():
            print(
                f"  {name:8s}{row['milliseconds']:9.1f} ms  x PyG {row['ratio']:6.2f}"
                f" [{row['low']:.2f}-{row['high']:.2f}]  error {row['error']:.1e}"
            )


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


if __name__ == "__main__":
    main()
