"""token_block: all that a transformer block does on nodes, in one operator."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from meshsim.check import InputError
from meshsim.ops.gradients import again, through

_INPUTS = (
    "Tensor x, Tensor y, Tensor weight, Tensor bias, Tensor norm, Tensor cos, Tensor sin, "
    "int heads, bool next, float eps, bool bf16"
)
torch.library.define(
    "meshsim::token_block",
    f"({_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    "meshsim::token_block_backward",
    f"(Tensor grad_x, Tensor grad_q, Tensor grad_k, Tensor grad_v, Tensor after, {_INPUTS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Rows (…, H) divided by √(mean x² + eps), times `weight`; in float32 at least."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    share = wide.square().mean(-1, keepdim=True).add(eps).rsqrt()  # (…, 1)
    return (wide * share * weight.to(wide.dtype)).to(x.dtype)


def rotate(x: Float[Tensor, "N H"], cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """Turn pairs of each head's numbers: pair t is (x_t, x_{t + R}).

    Arguments:
        x: (N, H).
        cos, sin: (N, R).
        heads: how many heads lie side by side.
    """
    cos, sin = cos.to(x.dtype)[:, None], sin.to(x.dtype)[:, None]  # (N, 1, R)
    r = cos.shape[2]
    a, b, rest = x.unflatten(1, (heads, -1)).split([r, r, x.shape[1] // heads - 2 * r], 2)
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], 2).flatten(1)


def composed(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm: Tensor,
    cos: Tensor,
    sin: Tensor,
    heads: int,
    next: bool,
    eps: float,
    bf16: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The block out of torch's own operations: what `token_block` must equal."""
    parts = len(bias) // 2 - 1
    if parts < 1 or len(weight) != 1 + 3 * parts + 3 * next:
        raise InputError(
            f"`weight`: expected {1 + 3 * parts + 3 * next} matrices for `bias` of"
            f" {len(bias)} rows, got {len(weight)}"
        )
    x = x + F.linear(y, weight[0], bias[0])
    m = rms_norm(x, norm[0], eps)
    out = bias[-1]
    for c in range(parts):
        gate = F.linear(m, weight[1 + 3 * c], bias[1 + 2 * c])
        up = F.linear(m, weight[2 + 3 * c], bias[2 + 2 * c])
        out = out + F.linear(F.gelu(gate) * up, weight[3 + 3 * c])
    x = x + out
    if not next:
        none = x.new_empty(0, x.shape[1])
        return x, none, none.clone(), none.clone()
    m = rms_norm(x, norm[1], eps)
    q, k, v = (F.linear(m, w) for w in weight[-3:])
    return x, rotate(q, cos, sin, heads), rotate(k, cos, sin, heads), v


@torch.library.impl("meshsim::token_block", "CompositeExplicitAutograd")
def _reference(*arguments: Any) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return composed(*arguments)


@torch.library.impl("meshsim::token_block_backward", "CompositeExplicitAutograd")
def _reference_backward(
    grad_x: Tensor, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor, after: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    return _through((grad_x, grad_q, grad_k, grad_v), arguments, twice=False)


def _through(
    grads: tuple[Tensor, ...], arguments: tuple[Any, ...], twice: bool
) -> tuple[Tensor, ...]:
    used = 4 if arguments[8] else 1  # results that have rows
    return through(composed, arguments, range(5), grads[:used], twice)


@torch.library.register_fake("meshsim::token_block")
def _fake(*arguments: Any) -> tuple[Tensor, ...]:
    x, next = arguments[0], arguments[8]
    shape = x.shape if next else (0, x.shape[1])
    return x.new_empty(x.shape), *(x.new_empty(shape) for _ in range(3))


@torch.library.register_fake("meshsim::token_block_backward")
def _fake_backward(
    grad_x: Tensor, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor, after: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in arguments[:5])  # x, y, weight, bias, norm


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:7], output[0])
    ctx.rest = inputs[7:]


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    *given, after = ctx.saved_tensors
    arguments = (*given, *ctx.rest)
    if again():
        found = _through(grads, arguments, twice=True)
    else:
        found = torch.ops.meshsim.token_block_backward(*grads, after, *arguments)
    return *found, None, None, None, None, None, None


torch.library.register_autograd("meshsim::token_block", _backward, setup_context=_setup)


def token_block(
    x: Float[Tensor, "N H"],
    y: Float[Tensor, "N H"],
    weight: Float[Tensor, "W H H"],
    bias: Float[Tensor, "B H"],
    norm: Float[Tensor, "M H"],
    cos: Float[Tensor, "N R"],
    sin: Float[Tensor, "N R"],
    heads: int,
    next: bool = False,
    eps: float = 1e-6,
    bf16: bool = False,
) -> tuple[Float[Tensor, "N H"], Float[Tensor, "P H"], Float[Tensor, "P H"], Float[Tensor, "P H"]]:
    """What follows attention in a transformer block, and what the next block's attention needs.

    x₁ = x + W_o y + b_o,  x' = x₁ + Σ_c W_c [GELU(G_c m + g_c) ⊙ (U_c m + u_c)] + b,
    m = RMSNorm(x₁) (Shazeer, arXiv:2002.05202, eq. 6; Garnier et al., arXiv:2508.18051, §3), and
    q, k, v = W RMSNorm'(x') with q and k turned by `cos` and `sin`. Nothing of the gated MLP's
    width is written; the gradient computes it anew.

    Arguments:
        x, y: (N, H) node values and what the heads of their attention give, H a multiple of 16.
        weight: (1 + 3 C, H, H): W_o, then G_c, U_c, W_c of each part c of the gated MLP; with
            `next` three more, the next block's of q, k, v.
        bias: (2 + 2 C, H): b_o, then g_c, u_c, then b.
        norm: (1, H) weight of RMSNorm; with `next` (2, H).
        cos, sin: (N, R), R at most half of a head's depth, 0 for none.
        heads: of the next block's attention.
        next: whether there is a next block.
        eps: of both norms.
        bf16: whether products may be rounded to bfloat16; done where that is faster (AMX). Sums
            are float32.

    Returns:
        x' (N, H), and q, k, v (N, H), with no rows if there is no next block.
    """
    return torch.ops.meshsim.token_block(x, y, weight, bias, norm, cos, sin, heads, next, eps, bf16)
