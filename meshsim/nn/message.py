"""The message-passing block of MeshGraphNets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice
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
    ends, *stacks = _weights(blocks)
    low = bf16 and (not x.is_cpu or native.isa() == "amx")  # torch is slow in it elsewhere
    with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
        ps, pd = F.linear(x, ends).to(x.dtype).split(x.shape[1], 1)  # (N, H) each
    for i, block in enumerate(blocks):
        weight, bias, norm, *node = stacks[6 * i : 6 * i + 6]
        how: dict[str, Any] = {"activation": block.edge.activation, "bf16": bf16}
        if overwrite and not torch.is_grad_enabled():
            total = edge_block_(e, ps, pd, edges, weight, bias, norm, **how)
        else:
            e, total = edge_block(e, ps, pd, edges, weight, bias, norm, **how)
            overwrite = True  # what this call has made is nobody else's
        weight, bias, norm = node
        x, ps, pd = node_block(x, total, weight, bias, norm, i + 1 < len(blocks), **how)
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


def _weights(blocks: Sequence[MessageBlock]) -> tuple[Tensor, ...]:
    """All weights as the operators take them: see `_stack`."""
    parameters = [t for block in blocks for t in (*block.edge.tensors(), *block.node.tensors())]
    cuts = tuple((len(block.edge.layers), len(block.node.layers)) for block in blocks)
    # what traces a graph looks through plain operations
    stack = _stack if torch.compiler.is_compiling() else _Stack.apply
    return stack(cuts, *parameters)


def _stack(cuts: Sequence[tuple[int, int]], *parameters: Tensor) -> tuple[Tensor, ...]:
    """Weights (2H, H) of the first block's senders and receivers, then six stacks a block.

    Of its edges and of its nodes: weights, biases (L, H), LayerNorm's weight and bias (2, H).
    Those of its nodes end with the weights of the next block's senders and receivers.

    Arguments:
        cuts: how many layers each block has for edges and for nodes.
        parameters: `MLP.tensors` of both, block after block.
    """
    nets, ends = _split(cuts, parameters), []
    for edge, _ in nets:
        ends.append(edge[0].split(len(edge[0]), 1)[1:])  # (H, H) each
    out = [torch.cat(ends[0])]
    for (edge, node), after in zip(nets, [*ends[1:], ()], strict=True):
        width = len(edge[0])
        own = [edge[0][:, :width], *edge[2:-2:2]]
        out += [torch.stack(own), torch.stack(edge[1:-2:2]), torch.stack(edge[-2:])]
        own = [*node[0].split(width, 1), *node[2:-2:2], *after]
        out += [torch.stack(own), torch.stack(node[1:-2:2]), torch.stack(node[-2:])]
    return tuple(out)


def _split(
    cuts: Sequence[tuple[int, int]], parameters: Sequence[Tensor]
) -> list[tuple[list[Tensor], list[Tensor]]]:
    """The parameters of each block's edges and nodes."""
    rest = iter(parameters)
    return [(list(islice(rest, 2 * a + 2)), list(islice(rest, 2 * b + 2))) for a, b in cuts]


class _Stack(torch.autograd.Function):
    """`_stack` as one node of autograd: one a slice costs more than the work on a small mesh."""

    @staticmethod
    def forward(
        ctx: Any, cuts: Sequence[tuple[int, int]], *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.cuts = cuts
        return _stack(cuts, *parameters)

    @staticmethod
    def backward(ctx: Any, ends: Tensor, *grads: Tensor) -> tuple[Tensor | None, ...]:
        found: list[Tensor] = []
        ends = ends.view(2, -1, ends.shape[1])
        for i, cut in enumerate(ctx.cuts):
            edge, node = grads[6 * i : 6 * i + 3], grads[6 * i + 3 : 6 * i + 6]
            found += _unstack(edge, [edge[0][0], *ends], 1, cut[0])
            found += _unstack(node, [node[0][0], node[0][1]], 2, cut[1])
            ends = node[0][-2:]
        return None, *found


def _unstack(
    grads: Sequence[Tensor], first: Sequence[Tensor], later: int, layers: int
) -> list[Tensor]:
    """Gradients in the order of `MLP.tensors`, of the parts of the first weight and of stacks."""
    weights, biases, norm = grads
    all_weights = [torch.cat(list(first), 1), *weights[later : later + layers - 1]]
    out = [t for pair in zip(all_weights, biases, strict=True) for t in pair]
    return [*out, norm[0], norm[1]]
