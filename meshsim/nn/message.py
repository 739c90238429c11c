"""The message-passing block of MeshGraphNets."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meshsim.nn.fused import can_fuse, fused_block
from meshsim.nn.mlp import MLP, add_linear
from meshsim.ops.adjacency import Adjacency
from meshsim.ops.segment import segment_sum


class MessageBlock(nn.Module):
    """One round of messages, Pfaff et al. (ICLR 2021), eq. 2 with the sum over receivers.

    e'_ij = e_ij + LN(MLP_e([e_ij, x_i, x_j])),  x'_j = x_j + LN(MLP_x([x_j, Σ_i e'_ij])),
    i sends and j receives.

    The first edge layer is applied in parts, W [e, x_i, x_j] = W_e e + W_s x_i + W_r x_j: the
    node products are computed once a node rather than once an edge.

    Arguments:
        width: H, of nodes and edges alike.
        hidden_layers: of both MLPs.
        activation: "relu", "silu" or "gelu".

    >>> from meshsim.ops.adjacency import adjacency
    >>> edges = adjacency(torch.tensor([[1, 0], [0, 1]]), 2)
    >>> x, e = MessageBlock(4)(torch.zeros(2, 4), torch.zeros(2, 4), edges)
    """

    def __init__(self, width: int, hidden_layers: int = 2, activation: str = "relu"):
        super().__init__()
        self.width = width
        self.edge = MLP(
            3 * width, width, width=width, hidden_layers=hidden_layers, activation=activation
        )
        self.node = MLP(
            2 * width, width, width=width, hidden_layers=hidden_layers, activation=activation
        )

    def forward(
        self, x: Float[Tensor, "N H"], e: Float[Tensor, "E H"], edges: Adjacency
    ) -> tuple[Float[Tensor, "N H"], Float[Tensor, "E H"]]:
        """New node values and edge values.

        Arguments:
            x: (N, H).
            e: (E, H).
            edges: the graph's tables, see `meshsim.ops.adjacency`.
        """
        if can_fuse(x, e, self.edge, self.node):
            return fused_block(x, e, edges, self.edge, self.node, partial(self.composed, edges))
        return self.composed(edges, x, e)

    def composed(
        self, edges: Adjacency, x: Float[Tensor, "N H"], e: Float[Tensor, "E H"]
    ) -> tuple[Float[Tensor, "N H"], Float[Tensor, "E H"]]:
        """The block out of operations that autograd knows; `forward` gives the same."""
        first = self.edge.layers[0]
        w_edge, w_sender, w_receiver = first.weight.split(self.width, 1)  # (H, H) each
        bias = torch.cat([first.bias, torch.zeros_like(first.bias)])  # (2H,)
        ends = F.linear(x, torch.cat([w_sender, w_receiver]), bias)  # (N, 2H)
        h = add_linear(edges.edge_values(ends), e, w_edge)  # (E, H)
        e = self.edge.after_first(h).add_(e)  # (E, H)
        total = segment_sum(e, edges.rowptr, edges.receiver)  # (N, H)

        first = self.node.layers[0]
        w_node, w_total = first.weight.split(self.width, 1)  # (H, H) each
        h = add_linear(F.linear(x, w_node, first.bias), total, w_total)  # (N, H)
        return self.node.after_first(h).add_(x), e
