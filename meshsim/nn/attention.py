"""Masked attention on graphs, its rotary positions, and the transformer block around it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meshsim.check import InputError
from meshsim.nn.norm import RMSNorm
from meshsim.ops.attention import csr_attention
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


def rotate(x: Float[Tensor, "N H"], by: Rotation, heads: int) -> Float[Tensor, "N H"]:
    """Turn pairs of each head's numbers: pair t is (x_t, x_{t + R}).

    Arguments:
        x: (N, H).
        by: of `rotation`, (N, R) each.
        heads: how many heads lie side by side.
    """
    cos, sin = (t.to(x.dtype)[:, None] for t in by)  # (N, 1, R)
    r = cos.shape[2]
    a, b, rest = x.unflatten(1, (heads, -1)).split([r, r, x.shape[1] // heads - 2 * r], 2)
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], 2).flatten(1)


class MaskedAttention(nn.Module):
    """Multi-head attention over the entries of a sparse mask.

    y = W_o [heads of softmax_j(q_i·k_j / √depth + b_ij) v_j], q, k, v = W x (Vaswani et al.,
    NeurIPS 2017, §3.2.2); j runs over what the mask lists for i.

    Arguments:
        width: H, a multiple of `heads`.
        heads: number of heads.

    Raises:
        InputError: `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        if heads < 1 or width % heads:
            raise InputError(f"`heads`: expected a divisor of the width {width}, got {heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

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
        q, k, v = self.qkv(x).chunk(3, 1)  # (N, H) each
        if by is not None:
            q, k = rotate(q, by, self.heads), rotate(k, by, self.heads)
        bias = None if bias is None else bias.to(q.dtype)
        columns = (mask.colptr, mask.eperm)
        y, _ = csr_attention(q, k, v, mask.rowptr, mask.col, self.heads, None, bias, columns)
        return self.out(y)


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

    def forward(self, x: Float[Tensor, "N H"]) -> Float[Tensor, "N H"]:
        """Rows (N, H) to rows (N, H)."""
        gate, up = self.inner(x).chunk(2, 1)  # (N, expansion H) each
        return self.out(F.gelu(gate) * up)


class TransformerBlock(nn.Module):
    """x ← x + Attention(RMSNorm x), x ← x + GatedMLP(RMSNorm x).

    Garnier et al. (arXiv:2508.18051), §3: a transformer block whose attention mask is the mesh.

    Arguments:
        width: H.
        heads: of the attention.
        expansion: of the gated MLP.
    """

    def __init__(self, width: int, heads: int = 4, expansion: int = 3):
        super().__init__()
        self.before_attention = RMSNorm(width)
        self.attention = MaskedAttention(width, heads)
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
