"""edge_block: all that a message-passing block does on edges, in one operator."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from meshsim.check import InputError
from meshsim.ops.adjacency import Adjacency
from meshsim.ops.gradients import again, through
from meshsim.ops.segment import check_devices, segment_sum

_INPUTS = (
    "Tensor e, Tensor ps, Tensor pd, Tensor src, Tensor dst, Tensor rowptr, Tensor colptr, "
    "Tensor sent, Tensor weight, Tensor bias, Tensor norm, str activation, float eps, bool bf16"
)
torch.library.define(
    "meshsim::edge_block",
    f"({_INPUTS}) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    "meshsim::edge_block_backward",
    f"(Tensor grad_e, Tensor grad_agg, {_INPUTS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    "meshsim::edge_block_",
    "(Tensor(a!) e, Tensor ps, Tensor pd, Tensor src, Tensor dst, Tensor rowptr, Tensor weight, "
    "Tensor bias, Tensor norm, str activation, float eps, bool bf16) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_NAMES = ("e", "ps", "pd", "src", "dst", "rowptr", "colptr", "sent", "weight", "bias", "norm")
_DIFFERENTIABLE = (0, 1, 2, 8, 9, 10)  # e, ps, pd, weight, bias, norm


def composed(
    e: Tensor,
    ps: Tensor,
    pd: Tensor,
    src: Tensor,
    dst: Tensor,
    rowptr: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm: Tensor,
    activation: str,
    eps: float,
    bf16: bool,
) -> tuple[Tensor, Tensor]:
    """The block out of torch's own operations: what `edge_block` must equal."""
    if activation not in ("relu", "silu"):
        raise InputError(f"`activation`: expected relu or silu, got {activation}")
    act = F.relu if activation == "relu" else F.silu
    stored, e = e.dtype, e.to(weight.dtype)
    h = ps.index_select(0, src) + pd.index_select(0, dst) + F.linear(e, weight[0], bias[0])
    for w, b in zip(weight[1:], bias[1:], strict=True):
        h = F.linear(act(h), w, b)  # (E, H)
    e = e + F.layer_norm(h, h.shape[1:], norm[0], norm[1], eps)
    return e.to(stored), segment_sum(e, rowptr, dst)


def _composed(*arguments: Any) -> tuple[Tensor, Tensor]:
    return composed(*arguments[:6], *arguments[8:])  # the tables by sender are for kernels


@torch.library.impl("meshsim::edge_block", "CompositeExplicitAutograd")
def _reference(*arguments: Any) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return _composed(*arguments)


@torch.library.impl("meshsim::edge_block_backward", "CompositeExplicitAutograd")
def _reference_backward(grad_e: Tensor, grad_agg: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return through(_composed, arguments, _DIFFERENTIABLE, (grad_e, grad_agg), twice=False)


@torch.library.impl("meshsim::edge_block_", "CompositeExplicitAutograd")
def _reference_in_place(e: Tensor, *rest: Any) -> Tensor:
    with torch.no_grad():
        new, total = composed(e, *rest)
        e.copy_(new)
    return total


@torch.library.register_fake("meshsim::edge_block_")
def _fake_in_place(e: Tensor, ps: Tensor, *rest: Any) -> Tensor:
    check_devices(e, **dict(zip((*_NAMES[:6], *_NAMES[8:]), (e, ps, *rest), strict=False)))
    return ps.new_empty(ps.shape)


@torch.library.register_fake("meshsim::edge_block")
def _fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    e, ps = arguments[0], arguments[1]
    check_devices(e, **dict(zip(_NAMES, arguments, strict=False)))
    return e.new_empty(e.shape), ps.new_empty(ps.shape)


@torch.library.register_fake("meshsim::edge_block_backward")
def _fake_backward(grad_e: Tensor, grad_agg: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    given = dict(zip(_NAMES, arguments, strict=False))
    check_devices(arguments[0], grad_e=grad_e, grad_agg=grad_agg, **given)
    return tuple(arguments[i].new_empty(arguments[i].shape) for i in _DIFFERENTIABLE)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:11])
    ctx.rest = inputs[11:]
    ctx.set_materialize_grads(False)  # nobody asks for the last block's edges


def _backward(
    ctx: Any, grad_e: Tensor | None, grad_agg: Tensor | None
) -> tuple[Tensor | None, ...]:
    arguments = (*ctx.saved_tensors, *ctx.rest)
    e, ps = arguments[:2]
    if grad_e is None:
        grad_e = e.new_zeros(1, e.shape[1]).expand(e.shape)  # one row, read again and again
    if grad_agg is None:
        grad_agg = ps.new_zeros(ps.shape)
    if again():
        found = through(_composed, arguments, _DIFFERENTIABLE, (grad_e, grad_agg), twice=True)
    else:
        found = torch.ops.meshsim.edge_block_backward(grad_e, grad_agg, *arguments)
    out: list[Tensor | None] = [None] * 14
    for i, grad in zip(_DIFFERENTIABLE, found, strict=True):
        out[i] = grad
    return tuple(out)


torch.library.register_autograd("meshsim::edge_block", _backward, setup_context=_setup)


def edge_block(
    e: Float[Tensor, "E H"],
    ps: Float[Tensor, "N H"],
    pd: Float[Tensor, "N H"],
    edges: Adjacency,
    weight: Float[Tensor, "L H H"],
    bias: Float[Tensor, "L H"],
    norm: Float[Tensor, "2 H"],
    activation: str = "relu",
    eps: float = 1e-5,
    bf16: bool = False,
) -> tuple[Float[Tensor, "E H"], Float[Tensor, "N H"]]:
    """e'_k = e_k + LN(MLP(W₀ e_k + p_s[sender] + p_d[receiver])), and Σ e' over what nodes receive.

    The edge half of a message block (Pfaff et al., ICLR 2021, eq. 2) whose first layer is split:
    its products with node values are done once a node by the caller. Nothing of size E·H but the
    new edges is written; the gradient computes the hidden layers anew from the inputs.

    Arguments:
        e: (E, H) edge values, H a multiple of 16; if they are bfloat16, everything else is float32.
        ps, pd: (N, H) what a node adds as sender and as receiver.
        edges: the graph's tables.
        weight, bias: (L, H, H), (L, H) of the L linear layers, `weight[0]` that of `e`.
        norm: (2, H) weight and bias of the LayerNorm.
        activation: "relu" or "silu".
        bf16: whether products may be rounded to bfloat16; done where that is faster (AMX). Sums
            are float32.

    Returns:
        (E, H) new edges, (N, H) their sums by receiver.
    """
    return torch.ops.meshsim.edge_block(
        *(e, ps, pd, edges.sender, edges.receiver, edges.rowptr, edges.colptr, edges.sent),
        *(weight, bias, norm, activation, eps, bf16),
    )


def edge_block_(
    e: Float[Tensor, "E H"],
    ps: Float[Tensor, "N H"],
    pd: Float[Tensor, "N H"],
    edges: Adjacency,
    weight: Float[Tensor, "L H H"],
    bias: Float[Tensor, "L H"],
    norm: Float[Tensor, "2 H"],
    activation: str = "relu",
    eps: float = 1e-5,
    bf16: bool = False,
) -> Float[Tensor, "N H"]:
    """`edge_block` that overwrites `e`: half the memory, and no gradient.

    Returns:
        (N, H) the sums of the new edges by receiver.
    """
    if torch.is_grad_enabled() and any(t.requires_grad for t in (e, ps, pd, weight, bias, norm)):
        raise InputError("`e`: cannot be overwritten, a gradient is asked for")
    return torch.ops.meshsim.edge_block_(
        *(e, ps, pd, edges.sender, edges.receiver, edges.rowptr),
        *(weight, bias, norm, activation, eps, bf16),
    )
