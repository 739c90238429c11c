"""The message-passing block of MeshGraphNets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meshsim import native
from meshsim.nn.fused import can_fuse, fused_block
from meshsim.nn.mlp import MLP, add_linear
from meshsim.ops import edge_block, edge_block_, node_block, segment_sum
from meshsim.ops.adjacency import Adjacency


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

    def project(self, x: Float[Tensor, "N H"]) -> tuple[Float[Tensor, "N H"], Float[Tensor, "N H"]]:
        """What each node adds to the first edge layer, as sender and as receiver: (N, H) each."""
        _, w_sender, w_receiver = self.edge.layers[0].weight.split(self.width, 1)
        return F.linear(x, w_sender).to(x.dtype), F.linear(x, w_receiver).to(x.dtype)


def pass_messages(
    blocks: Sequence[MessageBlock],
    x: Float[Tensor, "N H"],
    e: Float[Tensor, "E H"],
    edges: Adjacency,
    overwrite: bool = False,
) -> tuple[Float[Tensor, "N H"], Float[Tensor, "E H"]]:
    """Blocks one after the other, on compiled operators where those are loaded and fit.

    Arguments:
        blocks: at least one, of one width.
        x, e: (N, H), (E, H). Edges in bfloat16 beside nodes in float32 stay so: they are rounded
            after every block, and half the memory of a large mesh is saved.
        edges: the graph's tables.
        overwrite: whether `e` may be, where no gradient is asked for.

    Returns:
        New node values (N, H) and edge values (E, H).
    """
    rounded = e.dtype == torch.bfloat16 != x.dtype  # which only the operators take
    if not rounded and not all(has_native(block, x, e) for block in blocks):
        for block in blocks:
            x, e = block(x, e, edges)
        return x, e
    bf16 = torch.is_autocast_enabled(x.device.type)
    ps, pd = blocks[0].project(x)  # (N, H) each
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        how: dict[str, Any] = {"activation": block.edge.activation, "bf16": bf16}
        if overwrite and not torch.is_grad_enabled():
            total = edge_block_(e, ps, pd, edges, *_edge_weights(block), **how)
        else:
            e, total = edge_block(e, ps, pd, edges, *_edge_weights(block), **how)
            overwrite = True  # what this call has made is nobody else's
        x, ps, pd = node_block(x, total, *_node_weights(block, after), after is not None, **how)
    return x, e


def has_native(block: MessageBlock, x: Tensor, e: Tensor) -> bool:
    """Whether compiled operators cover a block for these values."""
    dtype = x.dtype
    return (
        native.has_kernel("edge_block", x.device.type.upper())
        and not torch.compiler.is_exporting()
        and block.width % 16 == 0
        and block.edge.activation in ("relu", "silu")
        and block.edge.norm is not None
        and block.node.norm is not None
        and 1 <= len(block.edge.layers) <= 4
        and dtype in (torch.float32, torch.float64)
        and e.dtype == dtype == block.edge.layers[0].weight.dtype
    )


def _edge_weights(block: MessageBlock) -> tuple[Tensor, Tensor, Tensor]:
    first, *later = block.edge.layers
    weights = [first.weight[:, : block.width], *(layer.weight for layer in later)]
    return torch.stack(weights), *_rest(block.edge)


def _node_weights(block: MessageBlock, after: MessageBlock | None) -> tuple[Tensor, Tensor, Tensor]:
    first, *later = block.node.layers
    weights = [*first.weight.split(block.width, 1), *(layer.weight for layer in later)]
    if after is not None:
        weights += after.edge.layers[0].weight.split(block.width, 1)[1:]
    return torch.stack(weights), *_rest(block.node)


def _rest(net: MLP) -> tuple[Tensor, Tensor]:
    """Biases (L, H) and the LayerNorm's weight and bias (2, H)."""
    assert net.norm is not None
    biases = torch.stack([layer.bias for layer in net.layers])
    return biases, torch.stack([net.norm.weight, net.norm.bias])
