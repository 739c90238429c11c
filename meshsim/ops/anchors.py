"""anchor_blocks: queries through the blocks of an anchored transformer, in one operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from meshsim.check import InputError, check_shape
from meshsim.ops.gradients import again, through
from meshsim.ops.segment import check_rowptr
from meshsim.ops.tokens import rms_norm, rotate

_INPUTS = (
    "Tensor x, Tensor k, Tensor v, Tensor ptr, Tensor weight, Tensor bias, Tensor norm, "
    "Tensor cos, Tensor sin, int heads, float eps"
)
torch.library.define(
    "meshsim::anchor_blocks", f"({_INPUTS}) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,)
)
torch.library.define(
    "meshsim::anchor_blocks_backward",
    f"(Tensor grad, {_INPUTS}, int[] which) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)
# Rows at a time: products of one size, so that no row's bits depend on other rows.
_TILE, _TILE_ON_GPU = 256, 1 << 18
_CHUNK = 1024  # rows whose insides the gradient holds at a time
_ROWS = (0, 7, 8)  # arguments that have a row for each query: x, cos, sin


def composed(
    x: Tensor,
    k: Tensor,
    v: Tensor,
    ptr: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm: Tensor,
    cos: Tensor,
    sin: Tensor,
    heads: int,
    eps: float,
) -> Tensor:
    """The blocks out of torch's own operations: what `anchor_blocks` must equal."""
    _check(x, k, v, ptr, weight, bias, norm, cos, sin, heads)
    parts = [slice(a, b) for a, b in zip(ptr[:-1].tolist(), ptr[1:].tolist(), strict=True)]
    out = [x[:0]]
    tile = _TILE_ON_GPU if x.is_cuda and not torch.is_grad_enabled() else _TILE
    for first in range(0, max(len(x), 1), tile):
        rows = slice(first, first + tile)
        missing = max(0, first + tile - len(x))
        y, c, s = (F.pad(t[rows], (0, 0, 0, missing)) for t in (x, cos, sin))
        for i, part in enumerate(parts):
            y = _block(y, k[part], v[part], weight[i], bias[i], norm[i], c, s, heads, eps)
        out.append(y[: tile - missing])
    return torch.cat(out)


def _block(
    x: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm: Tensor,
    cos: Tensor,
    sin: Tensor,
    heads: int,
    eps: float,
) -> Tensor:
    q = F.linear(rms_norm(x, norm[0], eps), weight[0], bias[0])
    q = rotate(q, cos, sin, heads)
    q, k, v = (t.unflatten(1, (heads, -1)).transpose(0, 1) for t in (q, k, v))
    if q.is_cuda and not torch.is_grad_enabled():  # without a table of rows × anchors
        found = torch.zeros_like(q)
        if k.shape[1]:  # with a batch: else no fused kernel takes it
            found = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
    else:
        found = (q @ k.mT / q.shape[2] ** 0.5).softmax(2) @ v  # (heads, rows, depth)
    x = x + F.linear(found.transpose(0, 1).flatten(1), weight[1], bias[1])
    m = rms_norm(x, norm[1], eps)
    out = bias[-1]
    for c in range(len(weight) // 3):
        gate, up, down = weight[2 + 3 * c : 5 + 3 * c]
        g, u = bias[2 + 2 * c : 4 + 2 * c]
        out = out + F.linear(F.gelu(F.linear(m, gate, g)) * F.linear(m, up, u), down)
    return x + out


def _check(
    x: Tensor,
    k: Tensor,
    v: Tensor,
    ptr: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm: Tensor,
    cos: Tensor,
    sin: Tensor,
    heads: int,
) -> None:
    check_shape(x, (None, None), "x")
    rows, width = x.shape
    if heads < 1 or width % heads:
        raise InputError(f"`heads`: expected a divisor of the width {width}, got {heads}")
    check_shape(k, (None, width), "k")
    check_shape(v, (len(k), width), "v")
    check_shape(weight, (None, None, width, width), "weight")
    blocks, count = weight.shape[:2]
    if blocks == 0 or count < 5 or count % 3 != 2:
        raise InputError(
            f"`weight`: expected shape (L, 2 + 3 C, {width}, {width}), got {tuple(weight.shape)}"
        )
    check_rowptr(ptr, len(k), "ptr")
    check_shape(ptr, (blocks + 1,), "ptr")
    check_shape(bias, (blocks, 3 + count // 3 * 2, width), "bias")
    check_shape(norm, (blocks, 2, width), "norm")
    check_shape(cos, (rows, None), "cos")
    check_shape(sin, tuple(cos.shape), "sin")
    if 2 * cos.shape[1] > width // heads:
        raise InputError(
            f"`cos`: expected at most {width // heads // 2} columns, got {cos.shape[1]}"
        )


@torch.library.impl("meshsim::anchor_blocks", "CompositeExplicitAutograd")
def _reference(*arguments: Any) -> Tensor:
    with torch.no_grad():
        return composed(*arguments)


@torch.library.impl("meshsim::anchor_blocks_backward", "CompositeExplicitAutograd")
def _reference_backward(grad: Tensor, *arguments: Any) -> list[Tensor]:
    *given, which = arguments
    check_shape(grad, tuple(given[0].shape), "grad")
    _check(*given[:10])
    found = [torch.zeros_like(given[i]) for i in which]
    for first in range(0, len(grad), _CHUNK):
        rows = slice(first, first + _CHUNK)
        part = [t[rows] if i in _ROWS else t for i, t in enumerate(given)]
        for i, total, d in zip(which, found, _through(grad[rows], part, which, False), strict=True):
            (total[rows] if i in _ROWS else total).add_(d)
    return found


def _through(
    grad: Tensor, arguments: Sequence[Any], which: Sequence[int], twice: bool
) -> tuple[Tensor, ...]:
    def compute(*arguments: Any) -> tuple[Tensor]:
        return (composed(*arguments),)

    return through(compute, arguments, which, (grad,), twice)


@torch.library.register_fake("meshsim::anchor_blocks")
def _fake(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("meshsim::anchor_blocks_backward")
def _fake_backward(grad: Tensor, *arguments: Any) -> list[Tensor]:
    return [arguments[i].new_empty(arguments[i].shape) for i in arguments[-1]]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:9])
    ctx.rest = inputs[9:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    arguments = (*ctx.saved_tensors, *ctx.rest)
    which = [i for i, needed in enumerate(ctx.needs_input_grad) if needed]
    if again():
        found = _through(grad, arguments, which, twice=True)
    else:
        found = torch.ops.meshsim.anchor_blocks_backward(grad, *arguments, which)
    by_place = dict(zip(which, found, strict=True))
    return tuple(by_place.get(i) for i in range(len(arguments)))


torch.library.register_autograd("meshsim::anchor_blocks", _backward, setup_context=_setup)


def anchor_blocks(
    x: Float[Tensor, "N H"],
    k: Float[Tensor, "S H"],
    v: Float[Tensor, "S H"],
    ptr: Int[Tensor, " P"],
    weight: Float[Tensor, "L W H H"],
    bias: Float[Tensor, "L B H"],
    norm: Float[Tensor, "L 2 H"],
    cos: Float[Tensor, "N R"],
    sin: Float[Tensor, "N R"],
    heads: int,
    eps: float = 1e-6,
) -> Float[Tensor, "N H"]:
    """Queries through L transformer blocks whose keys and values are given: no query sees another.

    For each block q = rotate(W_q RMSNorm(x) + b_q) by the query's angles, for each head
    y = softmax(q kᵀ / √depth) v over the block's anchors (Vaswani et al., NeurIPS 2017, eq. 1;
    only anchors give keys and values: Alkin et al., "AB-UPT", TMLR 2025), x ← x + W_o y + b_o and
    x ← x + Σ_c D_c [GELU(G_c m + g_c) ⊙ (U_c m + u_c)] + b with m = RMSNorm'(x) (Shazeer,
    arXiv:2002.05202, eq. 6).

    A row's result has the same bits whatever rows are beside it. Compiled, a tile of queries
    stays in cache through all blocks. The gradient computes everything anew, in torch's operations.

    Arguments:
        x: (N, H) queries, H; only multiples of 16 run compiled.
        k, v: (S, H) keys, turned already, and values of all blocks, one block after the other.
        ptr: (L + 1,) int64, block l has the rows ptr[l] … ptr[l + 1]; with none y is 0.
        weight: (L, 2 + 3 C, H, H): W_q, W_o, then G_c, U_c, D_c of each part c of the gated MLP.
        bias: (L, 3 + 2 C, H): b_q, b_o, then g_c, u_c of each part, then b.
        norm: (L, 2, H) weights of RMSNorm and RMSNorm'.
        cos, sin: (N, R), R at most half of a head's depth, 0 for none: see `rotate`.
        heads: of the attention; depth is H / heads.
        eps: of the norms.

    Returns:
        (N, H).

    Raises:
        InputError: shapes do not fit, or `ptr` does not rise from 0 to S.

    >>> zero, none = torch.zeros(1, 5, 16, 16), torch.empty(3, 0)
    >>> bias, k = torch.zeros(1, 5, 16), torch.ones(2, 16)
    >>> bias[:, 1] = 2.0  # b_o
    >>> anchor_blocks(torch.ones(3, 16), k, k, torch.tensor([0, 2]), zero, bias,
    ...               torch.ones(1, 2, 16), none, none, heads=2)[0, :2]
    tensor([3., 3.])
    """
    arguments = (x, k, v, ptr, weight, bias, norm, cos, sin, heads, eps)
    if x.dim() == 2 and x.shape[1] % 16:  # the compiled one does not cover it
        return composed(*arguments)
    return torch.ops.meshsim.anchor_blocks(*arguments)
