"""PhysicsNeMo's message block with the weights of ours, and its radius search, if it is installed.

It needs a torchvision made for the torch at hand, and torch-scatter; in an environment of its own,
since its requirements differ from constraints.txt.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.metadata import version

import torch
from torch import Tensor, nn

from meshsim.benchmarks import Block, torch_layers
from meshsim.nn import MessageBlock

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from physicsnemo.nn.functional.neighbors.radius_search import radius_search
        from physicsnemo.nn.module.gnn_layers.mesh_edge_block import MeshEdgeBlock
        from physicsnemo.nn.module.gnn_layers.mesh_node_block import MeshNodeBlock
    WHAT = f"PhysicsNeMo {version('nvidia-physicsnemo')}"
except (ImportError, RuntimeError) as error:  # a torchvision of another torch: RuntimeError
    MeshEdgeBlock = None
    WHAT = f"PhysicsNeMo is not installed ({error})"


def installed() -> bool:
    """Whether its blocks can be measured; `WHAT` says which version or why not."""
    return MeshEdgeBlock is not None


def message_block(
    block: MessageBlock, edges: Tensor, nodes: int, trick: bool
) -> tuple[Block, list[nn.Parameter]]:
    """Its edge and node block, and all their weights.

    Arguments:
        block: its linear layers and norms are shared.
        edges: (2, E).
        nodes: N.
        trick: `do_concat_trick`, the node products once a node; its sum runs under torch.compile.
    """
    from torch_geometric.data import Data

    width, relu = block.width, nn.ReLU()
    graph = Data(edge_index=edges, num_nodes=nodes)
    sizes = (width, width, width, width, len(block.edge.layers) - 1, relu)
    edge = MeshEdgeBlock(*sizes, do_concat_trick=trick)
    node = MeshNodeBlock("sum", *sizes)
    node.node_mlp.model = torch_layers(block.node)
    last = node.node_mlp.model[0] = nn.Linear(2 * width, width)  # it puts the sum before the node
    with torch.no_grad():
        last.weight.copy_(block.node.layers[0].weight.roll(width, 1))
        last.bias.copy_(block.node.layers[0].bias)
    edge.edge_mlp.model = torch_layers(block.edge)
    if trick:
        edge.edge_mlp.model = edge.edge_mlp.model[1:]
        first = block.edge.layers[0]
        parts = first.weight.detach().split(width, 1)
        for name, w in zip(("lin_efeat", "lin_src", "lin_dst"), parts, strict=True):
            setattr(edge.edge_mlp, name, nn.Parameter(w.clone()))
        edge.edge_mlp.bias = first.bias

    def run(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        e, _ = edge(e, x, graph)
        return node(e, x, graph)[1], e

    return run, [*edge.parameters(), *node.parameters()]


def within(points: Tensor, r: float) -> Callable[[], Tensor]:
    """Its radius search of points among themselves (Warp's hash grid): (2, E) pairs."""
    return lambda: torch.as_tensor(radius_search(points, points, r))
