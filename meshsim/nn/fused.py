"""The message block as one autograd node, with its gradient written by hand.

Same mathematics as the composed form in `message.py`, and the same order of operations forward.
Backward, gradients that nobody else needs are overwritten instead of allocated anew: on the CPU
first touches of fresh memory cost as much as the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from meshsim.nn.mlp import MLP
from meshsim.ops.adjacency import Adjacency
from meshsim.ops.segment import segment_sum

Composed = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def can_fuse(x: Tensor, e: Tensor, edge: MLP, node: MLP) -> bool:
    """Whether `fused_block` covers this case: hidden layers, LayerNorm, one plain precision."""
    weight = edge.layers[0].weight
    return (
        edge.norm is not None
        and node.norm is not None
        and min(len(edge.layers), len(node.layers)) > 1
        and x.dtype == e.dtype == weight.dtype
        and weight.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled(x.device.type)
        and not torch.compiler.is_exporting()
    )


def fused_block(
    x: Tensor, e: Tensor, edges: Adjacency, edge: MLP, node: MLP, composed: Composed
) -> tuple[Tensor, Tensor]:
    """One message block: new nodes (N, H), new edges (E, H).

    Arguments:
        x, e: (N, H), (E, H).
        edges: the graph's tables.
        edge, node: the block's networks.
        composed: the same block out of autograd's own operations, for second derivatives.
    """
    parts = (edge.tensors(), node.tensors())
    return _Block.apply(x, e, edges, edge.activation, composed, len(parts[0]), *parts[0], *parts[1])


def _activate(h: Tensor, name: str) -> Tensor:
    if name == "relu":
        return h.relu_()
    return F.silu(h) if name == "silu" else F.gelu(h)


def _activate_backward(grad: Tensor, h: Tensor, name: str) -> None:
    """Overwrite the gradient of an activation's result by that of its argument `h`.

    ReLU's argument may have been overwritten by its result.
    """
    aten = torch.ops.aten
    if name == "relu":
        aten.threshold_backward.grad_input(grad, h, 0, grad_input=grad)
    elif name == "silu":
        aten.silu_backward.grad_input(grad, h, grad_input=grad)
    else:
        aten.gelu_backward.grad_input(grad, h, approximate="none", grad_input=grad)


def _forward(
    h: Tensor, residual: Tensor, parameters: Sequence[Tensor], activation: str
) -> list[Tensor]:
    """From the first layer's result to [residual + LN(MLP), what `_backward` needs…]."""
    *layers, gamma, beta = parameters
    before, after = [h], [_activate(h, activation)]  # (R, H) each
    # mm, then add: addmm would first write the bias to every row of cold memory
    for weight, bias in zip(layers[2:-2:2], layers[3:-2:2], strict=True):
        before.append(after[-1].mm(weight.t()).add_(bias))
        after.append(_activate(before[-1], activation))
    last = after[-1].mm(layers[-2].t()).add_(layers[-1])  # (R, H)
    y, mean, rstd = torch.native_layer_norm(last, gamma.shape, gamma, beta, 1e-5)
    return [y.add_(residual), last, mean, rstd, *before, *after]


def _backward(
    grad: Tensor, kept: Sequence[Tensor], parameters: Sequence[Tensor], activation: str
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of the first layer's result and of all parameters but that layer's weight."""
    *layers, gamma, beta = parameters
    last, mean, rstd, *hidden = kept
    before, after = hidden[: len(hidden) // 2], hidden[len(hidden) // 2 :]
    d, d_gamma, d_beta = torch.ops.aten.native_layer_norm_backward(
        grad, last, gamma.shape, mean, rstd, gamma, beta, [True, True, True]
    )  # (R, H), (H,), (H,)
    out = [d_gamma, d_beta]
    spare = None
    for weight, h, a in zip(layers[-2:0:-2], before[::-1], after[::-1], strict=True):
        out[:0] = [d.t().mm(a), d.sum(0)]
        new = d.mm(weight) if spare is None else torch.mm(d, weight, out=spare)  # (R, H)
        _activate_backward(new, h, activation)
        d, spare = new, d
    return d, [d.sum(0), *out]


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        e: Tensor,
        edges: Adjacency,
        activation: str,
        composed: Composed,
        split: int,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        edge, node = parameters[:split], parameters[split:]
        width = x.shape[1]
        w_edge, w_sender, w_receiver = edge[0].split(width, 1)  # (H, H) each
        w_ends = torch.cat([w_sender, w_receiver])  # (2H, H)
        bias = torch.cat([edge[1], torch.zeros_like(edge[1])])  # (2H,)
        ends = torch.addmm(bias, x, w_ends.t())  # (N, 2H)
        h = edges.edge_values(ends).addmm_(e, w_edge.t())  # (E, H)
        new_e, *kept_e = _forward(h, e, edge, activation)
        total = segment_sum(new_e, edges.rowptr, edges.receiver)  # (N, H)

        w_node, w_total = node[0].split(width, 1)  # (H, H) each
        h = torch.addmm(node[1], x, w_node.t()).addmm_(total, w_total.t())  # (N, H)
        new_x, *kept_x = _forward(h, x, node, activation)
        ctx.edges, ctx.activation, ctx.composed = edges, activation, composed
        ctx.split, ctx.n_kept = split, len(kept_e)
        ctx.save_for_backward(x, e, total, w_ends, *kept_e, *kept_x, *parameters)
        return new_x, new_e

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor, grad_e: Tensor) -> tuple[Tensor | None, ...]:
        x, e, total, w_ends, *rest = ctx.saved_tensors
        n_parameters = len(ctx.needs_input_grad) - 6
        kept, parameters = rest[:-n_parameters], rest[-n_parameters:]
        if torch.is_grad_enabled():
            return _twice(ctx, x, e, parameters, grad_x, grad_e)
        edge, node = parameters[: ctx.split], parameters[ctx.split :]
        edges, width = ctx.edges, x.shape[1]

        d, d_node = _backward(grad_x, kept[ctx.n_kept :], node, ctx.activation)  # (N, H)
        w_node, w_total = node[0].split(width, 1)
        d_first = torch.cat([d.t().mm(x), d.t().mm(total)], 1)  # (H, 2H)
        new_grad_x = torch.addmm(grad_x, d, w_node)  # (N, H)

        g = d.mm(w_total).index_select(0, edges.receiver).add_(grad_e)  # (E, H)
        h, d_edge = _backward(g, kept[: ctx.n_kept], edge, ctx.activation)  # (E, H)
        d_ends = edges.node_values(h)  # (N, 2H)
        new_grad_x.addmm_(d_ends, w_ends)
        d_w_ends = d_ends.t().mm(x)  # (2H, H)
        d_w = torch.cat([h.t().mm(e), d_w_ends[:width], d_w_ends[width:]], 1)  # (H, 3H)
        g.addmm_(h, edge[0][:, :width])
        return new_grad_x, g, None, None, None, None, d_w, *d_edge, d_first, *d_node


def _twice(
    ctx: Any, x: Tensor, e: Tensor, parameters: Sequence[Tensor], grad_x: Tensor, grad_e: Tensor
) -> tuple[Tensor | None, ...]:
    """A gradient that can be differentiated again: through the composed form."""
    inputs = [x, e, *parameters]
    wanted = [ctx.needs_input_grad[i] for i in (0, 1, *range(6, 6 + len(parameters)))]
    found = iter(
        torch.autograd.grad(
            ctx.composed(x, e),
            [t for t, w in zip(inputs, wanted, strict=True) if w],
            [grad_x, grad_e],
            create_graph=True,
            allow_unused=True,
        )
    )
    grads = [next(found) if w else None for w in wanted]
    return *grads[:2], None, None, None, None, *grads[2:]
