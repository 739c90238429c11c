"""MeshGraphNet: encode, pass messages, decode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from meshsim.check import InputError
from meshsim.nn import MLP, MessageBlock, pass_messages
from meshsim.ops.adjacency import adjacency

if TYPE_CHECKING:
    from meshsim.graph import MeshGraph

CHUNK = 65536  # rows


# Room for the edges of a pass, dropped with the encoded edges: the steps of a rollout share it.
_rooms = WeakTensorKeyDictionary()


def _copied(edges: Float[Tensor, "E H"]) -> Float[Tensor, "E H"]:
    if edges not in _rooms:
        _rooms[edges] = torch.empty_like(edges)
    return _rooms[edges].copy_(edges)


class MeshGraphNet(nn.Module):
    """Encode-process-decode network on a mesh graph (Pfaff et al., ICLR 2021, §3.2).

    Nodes and edges are encoded by MLPs, `depth` message blocks with weights of their own
    update both, and an MLP without LayerNorm decodes the nodes. It normalises nothing: give it
    normalised inputs.

    Arguments:
        nodes_in: columns of `graph.x`.
        edges_in: columns of `graph.edge_attr`.
        outputs: {field: components}.
        width: H.
        depth: number of message blocks.
        hidden_layers: of every MLP.
        activation: "relu", "silu" or "gelu".

    Attributes:
        edge_dtype: what edge values are kept in between blocks where no gradient is asked for.
            torch.bfloat16 ("relu" and "silu" only) takes half the memory of float32 and costs
            accuracy. None, the default, is the weights' own.

    Raises:
        InputError: no outputs, or sizes below 1.

    >>> import torch
    >>> from types import SimpleNamespace as Graph
    >>> graph = Graph(x=torch.zeros(2, 5), edge_attr=torch.zeros(2, 3),
    ...               edge_index=torch.tensor([[1, 0], [0, 1]]))
    >>> net = MeshGraphNet(5, 3, {"velocity": 2, "pressure": 1}, width=8, depth=2)
    >>> {name: y.shape for name, y in net(graph)["mesh"].items()}
    {'velocity': torch.Size([2, 2]), 'pressure': torch.Size([2, 1])}
    """

    def __init__(
        self,
        nodes_in: int,
        edges_in: int,
        outputs: Mapping[str, int],
        *,
        width: int = 128,
        depth: int = 15,
        hidden_layers: int = 2,
        activation: str = "relu",
    ):
        super().__init__()
        sizes = {"nodes_in": nodes_in, "edges_in": edges_in, "width": width, "depth": depth}
        for name, size in (*sizes.items(), *((f"outputs[{k}]", n) for k, n in outputs.items())):
            if size < 1:
                raise InputError(f"`{name}`: expected 1 or more, got {size}")
        if not outputs:
            raise InputError("`outputs`: expected at least one field, got none")
        self.nodes_in, self.edges_in, self.outputs = nodes_in, edges_in, dict(outputs)
        self.width, self.depth = width, depth
        self.hidden_layers, self.activation = hidden_layers, activation
        self.edge_dtype: torch.dtype | None = None

        def mlp(inputs: int, out: int, norm: bool = True) -> MLP:
            return MLP(
                inputs,
                out,
                width=width,
                hidden_layers=hidden_layers,
                activation=activation,
                norm=norm,
            )

        self.encode_node = mlp(nodes_in, width)
        self.encode_edge = mlp(edges_in, width)
        blocks = (MessageBlock(width, hidden_layers, activation) for _ in range(depth))
        self.blocks: Sequence[MessageBlock] = nn.ModuleList(blocks)  # type: ignore[assignment]
        self.decode = mlp(width, sum(outputs.values()), norm=False)

    @property
    def hops(self) -> int:
        """How many edges away a node can lie and still be felt: one a block."""
        return self.depth

    @property
    def arguments(self) -> dict[str, Any]:
        """What to call the constructor with to get this architecture again; plain data."""
        return {
            "nodes_in": self.nodes_in,
            "edges_in": self.edges_in,
            "outputs": dict(self.outputs),
            "width": self.width,
            "depth": self.depth,
            "hidden_layers": self.hidden_layers,
            "activation": self.activation,
        }

    def encode_edges(self, graph: MeshGraph) -> Float[Tensor, "E H"]:
        """(E, H): the encoded edges, which do not change from step to step of a rollout."""
        self._check(graph.edge_attr, self.edges_in, "edge_attr")
        low = None if torch.is_grad_enabled() else self.edge_dtype
        return self._end(self.encode_edge, graph.edge_attr, low)

    def forward(
        self, graph: MeshGraph, edges: Float[Tensor, "E H"] | None = None
    ) -> dict[str, dict[str, Float[Tensor, "N c"]]]:
        """Predict every field at every node.

        Arguments:
            graph: with `x` (N, nodes_in), `edge_attr` (E, edges_in) and `edge_index` (2, E)
                sorted by receiver.
            edges: (E, H) of `encode_edges`, where many steps share them.

        Returns:
            {"mesh": {field: (N, components)}}.
        """
        self._check(graph.x, self.nodes_in, "x")
        table = adjacency(graph.edge_index, graph.x.shape[0])
        x = self._end(self.encode_node, graph.x)  # (N, H)
        if edges is None:
            e = self.encode_edges(graph)  # (E, H)
        else:
            e = edges if torch.is_grad_enabled() else _copied(edges)
        x, _ = pass_messages(tuple(self.blocks), x, e, table, overwrite=e is not edges)
        y = self._end(self.decode, x)  # (N, sum of components)
        parts = y.split(list(self.outputs.values()), 1)
        return {"mesh": dict(zip(self.outputs, parts, strict=True))}

    @staticmethod
    def _end(net: MLP, rows: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        # On a CPU the ends of the network stay exact: bfloat16 would hardly make them faster.
        low = torch.is_autocast_enabled(rows.device.type) and not rows.is_cpu
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=low):
            if torch.is_grad_enabled() or len(rows) <= 2 * CHUNK:
                return net(rows).to(dtype or rows.dtype)
            out = rows.new_empty(len(rows), net.layers[-1].out_features, dtype=dtype)
            for i in range(0, len(rows), CHUNK):  # hidden layers of one part at a time
                out[i : i + CHUNK] = net(rows[i : i + CHUNK])
            return out

    @staticmethod
    def _check(rows: Tensor, width: int, name: str) -> None:
        if rows.shape[-1] != width:
            raise InputError(f"`graph.{name}`: expected {width} columns, got {tuple(rows.shape)}")
