"""node_block: all that a message-passing block does on nodes, in one operator."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from meshsim.check import InputError
from meshsim.ops.gradients import again, through
from meshsim.ops.segment import check_devices

_INPUTS = (
    "Tensor x, Tensor agg, Tensor weight, Tensor bias, Tensor norm, bool next, "
    "str activation, float eps, bool bf16"
)
torch.library.define(
    "meshsim::node_block",
    f"({_INPUTS}) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    "meshsim::node_block_backward",
    f"(Tensor grad_x, Tensor grad_ps, Tensor grad_pd, {_INPUTS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_NAMES = ("x", "agg", "weight", "bias", "norm")
_DIFFERENTIABLE = range(5)  # all of these


def composed(
    x: Tensor,
    agg: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm: Tensor,
    next: bool,
    activation: str,
    eps: float,
    bf16: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The block out of torch's own operations: what `node_block` must equal."""
    if activation not in ("relu", "silu"):
        raise InputError(f"`activation`: expected relu or silu, got {activation}")
    act = F.relu if activation == "relu" else F.silu
    h = F.linear(x, weight[0], bias[0]) + F.linear(agg, weight[1])
    for w, b in zip(weight[2 : len(bias) + 1], bias[1:], strict=True):
        h = F.linear(act(h), w, b)  # (N, H)
    x = x + F.layer_norm(h, h.shape[1:], norm[0], norm[1], eps)
    if not next:
        return x, x.new_empty(0, x.shape[1]), x.new_empty(0, x.shape[1])
    return x, F.linear(x, weight[-2]), F.linear(x, weight[-1])


@torch.library.impl("meshsim::node_block", "CompositeExplicitAutograd")
def _reference(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        return composed(*arguments)


@torch.library.impl("meshsim::node_block_backward", "CompositeExplicitAutograd")
def _reference_backward(
    grad_x: Tensor, grad_ps: Tensor, grad_pd: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    return _through((grad_x, grad_ps, grad_pd), arguments, twice=False)


def _through(
    grads: tuple[Tensor, ...], arguments: tuple[Any, ...], twice: bool
) -> tuple[Tensor, ...]:
    used = 3 if arguments[5] else 1  # results that have rows
    return through(composed, arguments, _DIFFERENTIABLE, grads[:used], twice)


@torch.library.register_fake("meshsim::node_block")
def _fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, next = arguments[0], arguments[5]
    check_devices(x, **dict(zip(_NAMES, arguments, strict=False)))
    shape = x.shape if next else (0, x.shape[1])
    return x.new_empty(x.shape), x.new_empty(shape), x.new_empty(shape)


@torch.library.register_fake("meshsim::node_block_backward")
def _fake_backward(
    grad_x: Tensor, grad_ps: Tensor, grad_pd: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    grads = {"grad_x": grad_x, "grad_ps": grad_ps, "grad_pd": grad_pd}
    check_devices(arguments[0], **grads, **dict(zip(_NAMES, arguments, strict=False)))
    return tuple(t.new_empty(t.shape) for t in arguments[:5])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.rest = inputs[5:]


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    arguments = (*ctx.saved_tensors, *ctx.rest)
    if again():
        found = _through(grads, arguments, twice=True)
    else:
        found = torch.ops.meshsim.node_block_backward(*grads, *arguments)
    return *found, None, None, None, None


torch.library.register_autograd("meshsim::node_block", _backward, setup_context=_setup)


def node_block(
    x: Float[Tensor, "N H"],
    agg: Float[Tensor, "N H"],
    weight: Float[Tensor, "W H H"],
    bias: Float[Tensor, "L H"],
    norm: Float[Tensor, "2 H"],
    next: bool = False,
    activation: str = "relu",
    eps: float = 1e-5,
    bf16: bool = False,
) -> tuple[Float[Tensor, "N H"], Float[Tensor, "P H"], Float[Tensor, "P H"]]:
    """x' = x + LN(MLP(W_x x + W_a agg)), and what the nodes add to the next block's edges.

    The node half of a message block (Pfaff et al., ICLR 2021, eq. 2). In the same pass it
    multiplies x' with the parts of the next block's first edge layer that belong to senders and
    receivers: the `ps` and `pd` of the next `edge_block`.

    Arguments:
        x, agg: (N, H) node values and sums of their edges, H a multiple of 16.
        weight: (L + 1, H, H): of x, of agg, of the L − 1 later layers; with `next` two more,
            the next block's of senders and of receivers.
        bias: (L, H).
        norm: (2, H) weight and bias of the LayerNorm.
        next: whether there is a next block.
        activation: "relu" or "silu".
        bf16: whether products may be rounded to bfloat16; done where that is faster (AMX). Sums
            are float32.

    Returns:
        x' (N, H), and ps, pd (N, H), with no rows if there is no next block.
    """
    return torch.ops.meshsim.node_block(x, agg, weight, bias, norm, next, activation, eps, bf16)
