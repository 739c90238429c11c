"""Anchored attention: anchors alone give keys and values; a block around it; supernodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from meshsim.check import InputError
from meshsim.nn.attention import GatedMLP, Rotation, rotation
from meshsim.nn.fourier import SineCosine, unrounded
from meshsim.nn.mlp import MLP
from meshsim.nn.norm import RMSNorm
from meshsim.ops.neighbors import knn


class Keys(NamedTuple):
    """Keys, turned already, and values of the tokens that a block attends to: (B, A, H) each."""

    k: Tensor
    v: Tensor

    @classmethod
    def joined(cls, parts: list[Keys], like: Tensor) -> Keys:
        """The tokens of several sets one after the other; of none, (B, 0, H) as `like` is."""
        if not parts:
            return cls(like[:, :0], like[:, :0])
        if len(parts) == 1:
            return parts[0]
        return cls(torch.cat([p.k for p in parts], 1), torch.cat([p.v for p in parts], 1))


def turned(x: Float[Tensor, "B N H"], by: Rotation, heads: int) -> Float[Tensor, "B N H"]:
    """`meshsim.nn.rotate` for batches: by (B, N, R) cosines and sines; in float32 at least."""
    wide = torch.promote_types(x.dtype, torch.float32)
    cos, sin = (t.to(wide)[:, :, None] for t in by)  # (B, N, 1, R)
    r = cos.shape[3]
    depth = x.shape[2] // heads
    a, b, rest = x.unflatten(2, (heads, depth)).split([r, r, depth - 2 * r], 3)
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], 3).flatten(2).to(x.dtype)


def rotations(pos: Float[Tensor, "B N D"], depth: int, length: float, base: float) -> Rotation:
    """`meshsim.nn.rotation` of batches of positions, `length` being the unit of distance."""
    cos, sin = rotation(pos.flatten(0, 1) / length, depth, base)
    return cos.unflatten(0, pos.shape[:2]), sin.unflatten(0, pos.shape[:2])


class AnchorBlock(nn.Module):
    """A transformer block whose keys and values come from anchors, not from what it updates.

    x ← x + g₁ ⊙ Attention(n₁(x), K, V), x ← x + g₂ ⊙ GatedMLP(n₂(x)) with n_i(x) = RMSNorm(x) ⊙
    (1 + s_i) + t_i; s, t, g − 1 are linear in the conditions and 0 at the start (Peebles and Xie,
    ICCV 2023, §3.2). Rows do not see each other: Alkin et al., "AB-UPT", TMLR 2025.

    Under `torch.autocast` the products of attention and gated MLP are rounded; rows x, norms,
    modulation and the turning of queries and keys are not.

    Arguments:
        width: H.
        heads: of the attention.
        expansion: of the gated MLP.
        conditions: columns of the conditions; 0 for none.
        tokens: whether keys come from tokens of another kind, which then have a norm of their own.
    """

    def __init__(
        self,
        width: int,
        heads: int = 4,
        expansion: int = 2,
        conditions: int = 0,
        tokens: bool = False,
    ):
        super().__init__()
        if heads < 1 or width % heads:
            raise InputError(f"`heads`: expected a divisor of the width {width}, got {heads}")
        self.heads = heads
        self.before_attention = RMSNorm(width)
        self.before_keys = RMSNorm(width) if tokens else None
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.before_mlp = RMSNorm(width)
        self.mlp = GatedMLP(width, expansion)
        self.modulate = None
        if conditions:
            self.modulate = nn.Linear(conditions, 6 * width)
            nn.init.zeros_(self.modulate.weight)
            nn.init.zeros_(self.modulate.bias)

    def modulation(self, condition: Float[Tensor, "B P"] | None) -> tuple[Tensor, ...] | None:
        """Scales, shifts and gates (B, 1, H): s₁, t₁, g₁, s₂, t₂, g₂."""
        if self.modulate is None or condition is None:
            return None
        with unrounded(condition):
            s1, t1, g1, s2, t2, g2 = self.modulate(condition)[:, None].chunk(6, 2)
        return 1 + s1, t1, 1 + g1, 1 + s2, t2, 1 + g2

    def keys(
        self,
        tokens: Float[Tensor, "B A H"],
        by: Rotation | None,
        modulation: tuple[Tensor, ...] | None = None,
    ) -> Keys:
        """Keys and values of tokens; arguments as for `forward`."""
        if self.before_keys is not None:
            m = self.before_keys(tokens)
        else:
            m = self._normed(self.before_attention, tokens, modulation, 0)
        k, v = self.kv(m).chunk(2, 2)
        return Keys(k if by is None else turned(k, by, self.heads), v)

    def forward(
        self,
        x: Float[Tensor, "B N H"],
        keys: Keys,
        by: Rotation | None = None,
        modulation: tuple[Tensor, ...] | None = None,
    ) -> Float[Tensor, "B N H"]:
        """Rows (B, N, H) to rows (B, N, H).

        Arguments:
            x: (B, N, H).
            keys: of `keys`, of A tokens; from none an attention of 0 comes.
            by: of `rotations`, at the rows.
            modulation: of `modulation`.
        """
        q = self.q(self._normed(self.before_attention, x, modulation, 0))
        if by is not None:
            q = turned(q, by, self.heads)
        if keys.k.shape[1]:
            given = (q, *(t.to(q.dtype) for t in keys))
            parts = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in given)
            y = self.out(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        else:
            y = self.out(torch.zeros_like(q))
        x = x + (y if modulation is None else y * modulation[2])
        y = self.mlp(self._normed(self.before_mlp, x, modulation, 3))
        return x + (y if modulation is None else y * modulation[5])

    def together(
        self,
        x: Mapping[str, Tensor],
        by: Mapping[str, Rotation],
        condition: Float[Tensor, "B P"] | None = None,
        sees: str = "s",
        tokens: tuple[Tensor, Rotation] | None = None,
        again: bool = False,
    ) -> tuple[dict[str, Tensor], dict[str, Keys]]:
        """Rows of several branches at once, and the keys that those of each attend to.

        Arguments:
            x: {branch: (B, N, H)}.
            by: {branch: of `rotations`, at the rows}.
            condition: (B, P), of `modulation`.
            sees: "s" the rows of the same branch, "c" those of the others, "j" those of all.
            tokens: to attend to instead of these, and their rotations.
            again: recompute in the backward pass.
        """
        m = self.modulation(condition)
        if tokens is not None:
            seen = dict.fromkeys(x, self.keys(*tokens, m))
        else:
            own = {name: self.keys(x[name], by[name], m) for name in x}
            seen = {}
            for name in x:
                which = [k for o, k in own.items() if sees == "j" or (o == name) == (sees == "s")]
                seen[name] = Keys.joined(which, x[name])
        return {name: self._run(x[name], seen[name], by[name], m, again) for name in x}, seen

    def answered(
        self,
        x: Float[Tensor, "B N H"],
        keys: Keys,
        by: Rotation,
        condition: Float[Tensor, "B P"] | None = None,
        again: bool = False,
    ) -> Float[Tensor, "B N H"]:
        """`forward` from the conditions themselves; arguments as for `together`."""
        return self._run(x, keys, by, self.modulation(condition), again)

    def _run(
        self,
        x: Tensor,
        keys: Keys,
        by: Rotation,
        modulation: tuple[Tensor, ...] | None,
        again: bool,
    ) -> Tensor:
        if not (again and torch.is_grad_enabled()):
            return self.forward(x, keys, by, modulation)
        from torch.utils.checkpoint import checkpoint

        return checkpoint(self.forward, x, keys, by, modulation, use_reentrant=False)

    @staticmethod
    def _normed(norm: RMSNorm, x: Tensor, by: tuple[Tensor, ...] | None, first: int) -> Tensor:
        y = norm(x)
        return y if by is None else y * by[first] + by[first + 1]

    def folded(self, modulation: tuple[Tensor, ...] | None) -> tuple[Tensor, Tensor, Tensor]:
        """What the block does to one sample's rows, as `meshsim.ops.anchor_blocks` has it.

        Returns:
            weight (2 + 3C, H, H), bias (3 + 2C, H), norm (2, H), the modulation worked in.
        """
        h = self.q.in_features
        norms: list[Tensor] = [self.before_attention.weight, self.before_mlp.weight]
        gates: list[Tensor | float] = [1.0, 1.0]
        shifts: list[Tensor | None] = [None, None]
        if modulation is not None:
            s1, t1, g1, s2, t2, g2 = (t[0, 0] for t in modulation)
            norms, gates, shifts = [norms[0] * s1, norms[1] * s2], [g1, g2], [t1, t2]

        def scaled(weight: Tensor, by: Tensor | float) -> Tensor:
            return weight * by[:, None] if isinstance(by, Tensor) else weight

        zero = self.out.bias.new_zeros(h)
        inner: Tensor = self.mlp.inner.bias
        if shifts[1] is not None:
            inner = inner + self.mlp.inner.weight @ shifts[1]
        b_q = zero if shifts[0] is None else self.q.weight @ shifts[0]
        gate_up = self.mlp.inner.weight.view(2, -1, h, h).transpose(0, 1)  # (C, 2, H, H)
        down = scaled(self.mlp.out.weight, gates[1]).reshape(h, -1, h).transpose(0, 1)  # (C, H, H)
        parts = torch.cat([gate_up, down[:, None]], 1).flatten(0, 1)  # (3C, H, H)
        weight = torch.cat([self.q.weight[None], scaled(self.out.weight, gates[0])[None], parts])
        ends = [b_q[None], (self.out.bias * gates[0])[None]]
        middle = inner.view(2, -1, h).transpose(0, 1).reshape(-1, h)  # (2C, H)
        bias = torch.cat([*ends, middle, (self.mlp.out.bias * gates[1])[None]])
        return weight, bias, torch.stack(norms)


class SupernodePooling(nn.Module):
    """The geometry's points gathered into tokens at a few of them.

    t_i = W [e(x_i) ; mean over neighbours j of MLP(e(x_j − x_i), |x_j − x_i|, f_j)], the first S of
    the points being the supernodes i (Alkin et al., "Universal Physics Transformers", NeurIPS
    2024, §3). Neighbours are the k nearest, or all within `reach` (at most k, the nearest).

    Arguments:
        dim: D.
        inputs: columns of the points' features f.
        width: H.
        neighbours: k.
        reach: radius; 0 for the k nearest however far.
        waves: wavelengths for each axis of e; 0 leaves absolute positions out, and the tokens do
            not change when all points are moved.
    """

    def __init__(
        self,
        dim: int,
        inputs: int,
        width: int,
        neighbours: int = 16,
        reach: float = 0.0,
        waves: int = 6,
    ):
        super().__init__()
        self.neighbours, self.reach = neighbours, reach
        self.near = SineCosine(dim, max(waves, 4), 2.0, 0.1)
        self.far = SineCosine(dim, waves) if waves else None
        self.message = MLP(
            self.near.width + 1 + inputs, width, width=width, hidden_layers=1, norm=False,
            activation="gelu",
        )  # fmt: skip
        self.out = nn.Linear(width + inputs + (self.far.width if self.far else 0), width)

    def forward(
        self, pos: Float[Tensor, "B G D"], x: Float[Tensor, "B G F"], count: int
    ) -> Float[Tensor, "B S H"]:
        """Points (B, G, D) with features (B, G, F) to tokens (B, S, H) at the first S = `count`."""
        own_pos, own_x = pos[:, :count], x[:, :count]
        parts = [self.gathered(pos, x, own_pos), own_x]
        parts += [] if self.far is None else [self.far(own_pos)]
        with unrounded(pos):
            return self.out(torch.cat(parts, -1))

    def gathered(
        self, pos: Float[Tensor, "B G D"], x: Float[Tensor, "B G F"], at: Float[Tensor, "B N D"]
    ) -> Float[Tensor, "B N H"]:
        """The mean message of the points about any places (B, N, D)."""
        index, weight = self._neighbours(pos.detach(), at.detach())  # (B N, K) each
        there = pos.flatten(0, 1)[index] - at.flatten(0, 1)[:, None]  # (B N, K, D)
        far = there.square().sum(-1, keepdim=True)
        far = torch.where(far > 0, far, 1).sqrt() * (far > 0)  # its gradient at 0 is 0
        rows = torch.cat([self.near(there), far, x.flatten(0, 1)[index]], -1)
        with unrounded(rows):
            first = self.message.layers[0](rows.flatten(0, 1))
        message = self.message.after_first(first).unflatten(0, index.shape)  # (B N, K, H)
        return (message * weight[..., None]).sum(1).unflatten(0, at.shape[:2])

    def _neighbours(self, pos: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the flattened points, and the share of each: (B N, K)."""
        size, points, _ = pos.shape
        every = torch.arange(size + 1, device=pos.device)
        k = min(self.neighbours, points)
        index, far = knn(
            pos.flatten(0, 1), at.flatten(0, 1), k, every * points, every * at.shape[1]
        )
        near = far <= self.reach if self.reach else torch.ones_like(far, dtype=torch.bool)
        weight = near.to(pos.dtype)
        return index, weight / weight.sum(1, keepdim=True).clamp_min(1)
