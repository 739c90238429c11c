"""Masked attention on graphs, its rotary positions, and the transformer block around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meshsim import native
from meshsim.check import InputError
from meshsim.nn.norm import RMSNorm
from meshsim.ops.attention import csr_attention
from meshsim.ops.tokens import rotate, token_block
from meshsim.ops.widen import Mask

Rotation = tuple[Tensor, Tensor]


def rotation(
    places: Float[Tensor, "N D"], depth: int, base: float = 100.0
) -> tuple[Float[Tensor, "N R"], Float[Tensor, "N R"]]:
    """Cosines and sines of rotary positions in D dimensions.

    Each axis a takes m = depth // (2 D) pairs of a head's numbers; pair t of it turns by
    x_a base^(−t/m) (RoFormer, Su et al., Neurocomputing 2024, eq. 14–15, an axis at a time). A
    rotated q_i·k_j depends on x_i − x_j only.

    Arguments:
        places: (N, D) in units in which 1 is the shortest distance to tell apart.
        depth: of a head; numbers beyond 2 m D stay as they are.
        base: the slowest pair turns about `base` times slower than the fastest.

    Returns:
        (N, m D) each.

    >>> rotation(torch.zeros(3, 2), 8)[0].shape
    torch.Size([3, 4])
    """
    dim = max(places.shape[1], 1)
    m = depth // (2 * dim)
    turn = base ** (-torch.arange(m, dtype=places.dtype, device=places.device) / max(m, 1))
    angle = (places[:, :, None] * turn).flatten(1)  # (N, m D)
    return angle.cos(), angle.sin()


class MaskedAttention(nn.Module):
    """Multi-head attention over the entries of a sparse mask.

    y = W_o [heads of softmax_j(q_i·k_j / √depth + b_ij) v_j], q, k, v = W x (Vaswani et al.,
    NeurIPS 2017, §3.2.2); j runs over what the mask lists for i. With a gate the heads are
    multiplied by σ(W_g x) first (Qiu et al., NeurIPS 2025, arXiv:2505.06708).

    Arguments:
        width: H, a multiple of `heads`.
        heads: number of heads.
        gate: whether the output is gated.

    Raises:
        InputError: `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int = 4, gate: bool = False):
        super().__init__()
        if heads < 1 or width % heads:
            raise InputError(f"`heads`: expected a divisor of the width {width}, got {heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.gate = nn.Linear(width, width) if gate else None

    def forward(
        self,
        x: Float[Tensor, "N H"],
        mask: Mask,
        by: Rotation | None = None,
        bias: Float[Tensor, "E G"] | None = None,
    ) -> Float[Tensor, "N H"]:
        """Rows (N, H) to rows (N, H).

        Arguments:
            x: (N, H).
            mask: whom each row attends to, see `meshsim.ops.widen`.
            by: of `rotation`, turns queries and keys.
            bias: (E, heads), added to the logits.
        """
        q, k, v = self.project(x, by)
        bias = None if bias is None else bias.to(q.dtype)
        columns = (mask.colptr, mask.eperm)
        y, _ = csr_attention(q, k, v, mask.rowptr, mask.col, self.heads, None, bias, columns)
        return self.out(y if self.gate is None else self.gate(x).sigmoid() * y)

    def project(
        self, x: Float[Tensor, "N H"], by: Rotation | None
    ) -> tuple[Float[Tensor, "N H"], Float[Tensor, "N H"], Float[Tensor, "N H"]]:
        """Queries, keys and values (N, H) of rows (N, H), the first two turned by `by`."""
        q, k, v = self.qkv(x).chunk(3, 1)
        if by is not None:
            q, k = rotate(q, *by, self.heads), rotate(k, *by, self.heads)
        return q, k, v


class GatedMLP(nn.Module):
    """y = W_o (GELU(W_g x) ⊙ W_u x), Shazeer (arXiv:2002.05202), eq. 6.

    Arguments:
        width: H.
        expansion: the hidden width is `expansion` H.
    """

    def __init__(self, width: int, expansion: int = 3):
        super().__init__()
        self.inner = nn.Linear(width, 2 * expansion * width)
        self.out = nn.Linear(expansion * width, width)

    def forward(self, x: Float[Tensor, "*N H"]) -> Float[Tensor, "*N H"]:
        """Rows (…, H) to rows (…, H)."""
        gate, up = self.inner(x).chunk(2, -1)  # (…, expansion H) each
        return self.out(F.gelu(gate) * up)


class TransformerBlock(nn.Module):
    """x ← x + Attention(RMSNorm x), x ← x + GatedMLP(RMSNorm x).

    Garnier et al. (arXiv:2508.18051), §3: a transformer block whose attention mask is the mesh.

    Arguments:
        width: H.
        heads: of the attention.
        expansion: of the gated MLP.
        gate: whether the attention's output is gated.
    """

    def __init__(self, width: int, heads: int = 4, expansion: int = 3, gate: bool = False):
        super().__init__()
        self.before_attention = RMSNorm(width)
        self.attention = MaskedAttention(width, heads, gate)
        self.before_mlp = RMSNorm(width)
        self.mlp = GatedMLP(width, expansion)

    def forward(
        self,
        x: Float[Tensor, "N H"],
        mask: Mask,
        by: Rotation | None = None,
        bias: Float[Tensor, "E G"] | None = None,
    ) -> Float[Tensor, "N H"]:
        """Rows (N, H) to rows (N, H); arguments as for `MaskedAttention`."""
        x = x + self.attention(self.before_attention(x), mask, by, bias)
        return x + self.mlp(self.before_mlp(x))


def attend(
    blocks: Sequence[TransformerBlock],
    x: Float[Tensor, "N H"],
    mask: Mask,
    by: Rotation | None = None,
    biases: Sequence[Tensor | None] = (),
) -> Float[Tensor, "N H"]:
    """Blocks one after the other, on compiled operators where those are loaded and fit.

    Arguments:
        blocks: at least one, of one width.
        x: (N, H).
        mask, by: as for `MaskedAttention`.
        biases: (E, heads) or None for each block; none at all if empty.

    Returns:
        (N, H).
    """
    biases = biases or [None] * len(blocks)
    if not all(_has_native(block, x) for block in blocks):
        for block, bias in zip(blocks, biases, strict=True):
            x = block(x, mask, by, bias)
        return x
    bf16 = torch.is_autocast_enabled(x.device.type)
    turns = by or (x.new_empty(len(x), 0), x.new_empty(len(x), 0))
    columns = (mask.colptr, mask.eperm)
    heads = blocks[0].attention.heads
    with torch.autocast(x.device.type, enabled=False):
        q, k, v = blocks[0].attention.project(blocks[0].before_attention(x), by)
        for block, after, bias in zip(blocks, [*blocks[1:], None], biases, strict=True):
            y, _ = csr_attention(q, k, v, mask.rowptr, mask.col, heads, None, bias, columns)
            weights = _token_weights(block, after)
            eps = block.before_mlp.eps
            x, q, k, v = token_block(x, y, *weights, *turns, heads, after is not None, eps, bf16)
    return x


def _has_native(block: TransformerBlock, x: Tensor) -> bool:
    width = block.attention.out.in_features
    return (
        native.has_kernel("token_block", x.device.type.upper())
        and not torch.compiler.is_exporting()
        and width % 16 == 0
        and block.attention.gate is None
        and x.dtype in (torch.float32, torch.float64)
        and x.dtype == block.attention.out.weight.dtype
    )


def _token_weights(
    block: TransformerBlock, after: TransformerBlock | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, biases and norms as `token_block` has them."""
    attention, mlp, h = block.attention, block.mlp, block.attention.out.in_features
    gate_up = mlp.inner.weight.view(2, -1, h, h).transpose(0, 1)  # (C, 2, H, H)
    down = mlp.out.weight.view(h, -1, h).transpose(0, 1)  # (C, H, H)
    parts = torch.cat([gate_up, down[:, None]], 1).flatten(0, 1)  # (3C, H, H)
    weights = [attention.out.weight[None], parts]
    bias = mlp.inner.bias.view(2, -1, h).transpose(0, 1).reshape(-1, h)  # (2C, H)
    norms: list[Tensor] = [block.before_mlp.weight]
    if after is not None:
        weights.append(after.attention.qkv.weight.view(3, h, h))
        norms.append(after.before_attention.weight)
    biases = torch.cat([attention.out.bias[None], bias, mlp.out.bias[None]])
    return torch.cat(weights), biases, torch.stack(norms)
