"""UM2N: a graph transformer that learns the Monge–Ampère map from points and monitor (Song et al.,
NeurIPS 2024), and the losses that it and its label-free successor are trained with."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meshsim.movers.boundary import Sides
from meshsim.movers.simplices import Simplices
from meshsim.ops import interpolate, locate, segment_softmax, segment_sum


class Neighbours(NamedTuple):
    """The edges of a mesh both ways, sorted by receiver, and where its points may go.

    Attributes:
        sender, receiver: (E,) int64; rowptr: (N + 1,).
        free: (N, D, D) projections onto the directions in which each point may move.
        boundary: (N,) bool.
    """

    sender: Int[Tensor, " E"]
    receiver: Int[Tensor, " E"]
    rowptr: Int[Tensor, " R"]
    free: Float[Tensor, "N D D"]
    boundary: Tensor

    @classmethod
    def of(cls, grid: Simplices, sides: Sides | None = None) -> Neighbours:
        """Those of a mesh; its points slide along straight and curved sides."""
        cells, n = torch.from_numpy(grid.cells), len(grid.points)
        k = cells.shape[1]
        pairs = [cells[:, [a, b]] for a in range(k) for b in range(k) if a != b]
        receiver, sender = torch.unique(torch.cat(pairs), dim=0).T
        counts = torch.bincount(receiver, minlength=n)
        rowptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        on = torch.zeros(n, dtype=torch.bool)
        on[torch.from_numpy(grid.boundary).reshape(-1)] = True
        free = torch.from_numpy((sides or Sides(grid)).free())
        return cls(sender.contiguous(), receiver.contiguous(), rowptr, free, on)


class DeformAttention(nn.Module):
    """Graph attention that moves each point to a convex combination of its neighbours.

    α_ij = softmax_j SELU(0.2 (a·W h_i + b·W h_j)), averaged over heads; x'_i = Σ_j α_ij x_j lies
    in the convex hull of the neighbours of i (DeformGAT of M2N and UM2N).
    """

    def __init__(self, inputs: int, outputs: int, heads: int = 6):
        super().__init__()
        self.heads, self.outputs = heads, outputs
        self.linear = nn.Linear(inputs, heads * outputs, bias=False)
        self.ends = nn.Parameter(torch.empty(2, heads, outputs))
        nn.init.xavier_uniform_(self.ends)

    def forward(
        self, h: Float[Tensor, "N F"], x: Float[Tensor, "N D"], near: Neighbours
    ) -> tuple[Float[Tensor, "N O"], Float[Tensor, "N D"]]:
        """New features (N, outputs) and places (N, D)."""
        w = self.linear(h).view(len(h), self.heads, self.outputs)
        at = torch.einsum("nho,kho->knh", w, self.ends)  # (2, N, heads)
        logits = F.selu(0.2 * (at[0, near.receiver] + at[1, near.sender]))
        share = segment_softmax(logits, near.rowptr, near.receiver)  # (E, heads)
        sent = w.index_select(0, near.sender)  # (E, heads, outputs)
        messages = torch.bmm(share[:, None] / self.heads, sent).squeeze(1)  # (E, outputs)
        mean = share.mean(1, keepdim=True) * x.index_select(0, near.sender)
        return F.selu(segment_sum(messages, near.rowptr)), segment_sum(mean, near.rowptr)


class _Transformer(nn.Module):
    """A block of dense self-attention over all points, before LayerNorms."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.LayerNorm(4 * width),
            nn.Linear(4 * width, width),
        )
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, h: Tensor) -> Tensor:
        n, width = h.shape
        q, k, v = self.qkv(self.norms[0](h)).view(n, 3, self.heads, -1).permute(1, 2, 0, 3)
        mixed = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        h = h + self.out(mixed.permute(1, 0, 2).reshape(n, width))
        out: Tensor = self.scale * h + self.feed(self.norms[1](h))
        return out


class UM2N(nn.Module):
    """Points and monitor to moved points, trained once for all equations.

    Encoder: (x, m / max m) → transformer over all points. Decoder: layers of `DeformAttention`,
    each seeing the places that all before it chose; boundary points keep to their side.

    Arguments:
        dim: D.
        width, heads: of the encoder.
        widths: features after each layer of the decoder.

    >>> UM2N(2, widths=(16, 8))
    UM2N(...)
    """

    def __init__(
        self,
        dim: int = 2,
        width: int = 64,
        heads: int = 4,
        widths: tuple[int, ...] = (508, 250, 120, 20),
        decoder_heads: int = 6,
    ):
        super().__init__()
        self.dim = dim
        self.into = nn.Sequential(nn.Linear(dim + 1, width), nn.GELU(), nn.Linear(width, width))
        self.encoder = _Transformer(width, heads)
        self.latent = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 16))
        self.lift = nn.Linear(16 + 16 + dim + 1, 256)
        # What an edge knows of its ends, summed at the receiver.
        self.edge = nn.Sequential(nn.Linear(dim + 3, 64), nn.SELU(), nn.Linear(64, 15), nn.SELU())
        inputs = [self.lift.out_features, *(w + dim * (i + 2) for i, w in enumerate(widths))]
        self.layers = nn.ModuleList(
            DeformAttention(a, b, decoder_heads) for a, b in zip(inputs, widths, strict=False)
        )

    def forward(
        self, points: Float[Tensor, "N D"], monitor: Float[Tensor, " N"], near: Neighbours
    ) -> Float[Tensor, "N D"]:
        """Moved points (N, D) of points at rest (N, D) and m > 0 there (N,)."""
        m = (monitor / monitor.max())[:, None].to(points.dtype)
        way = points[near.sender] - points[near.receiver]  # (E, D)
        length = way.norm(dim=1, keepdim=True)
        pair = torch.cat([way, length, m[near.receiver], m[near.sender]], 1)
        local = torch.cat([self.edge(pair), length], 1)
        local = segment_sum(local, near.rowptr)  # (N, 16)
        wide = self.latent(self.encoder(self.into(torch.cat([points, m], 1))))
        on = near.boundary[:, None].to(points.dtype)
        h, x, places = self.lift(torch.cat([wide, local, points, on], 1)), points, [points]
        for layer in self.layers:
            h, goal = layer(h, x, near)
            x = points + (near.free.to(x.dtype) @ (goal - points)[:, :, None]).squeeze(2)
            places.append(x)
            h = torch.cat([h, *places], 1)
        return x


def measures(x: Float[Tensor, "N D"], ids: Int[Tensor, "K k"]) -> Float[Tensor, " K"]:
    """Signed measures of simplices, differentiable; twice them in 2-D, six times in 3-D."""
    e = x[ids[:, 1:]] - x[ids[:, :1]]  # (K, D, D)
    if x.shape[1] == 2:
        return e[:, 0, 0] * e[:, 1, 1] - e[:, 0, 1] * e[:, 1, 0]
    return (e[:, 0] * torch.linalg.cross(e[:, 1], e[:, 2])).sum(1)


def area_loss(x: Tensor, target: Tensor, cells: Tensor) -> Tensor:
    """Σ_K | |K| − |K*| |, the volume loss of UM2N, measures signed by the target's orientation."""
    wanted = measures(target, cells)
    return (measures(x, cells) * wanted.sign() - wanted.abs()).abs().sum() / 2


def coordinate_loss(x: Tensor, target: Tensor) -> Tensor:
    """The mean distance of coordinates, L1."""
    return (x - target).abs().mean()


def chamfer_loss(x: Tensor, target: Tensor) -> Tensor:
    """Mean squared distance to the nearest point of the other set, both ways."""
    far = torch.cdist(x, target)
    return (far.amin(0) ** 2).mean() + (far.amin(1) ** 2).mean()


def uniformity_loss(
    x: Float[Tensor, "N D"],
    rest: Float[Tensor, "N D"],
    monitor: Float[Tensor, " N"],
    cells: Int[Tensor, "C k"],
) -> Float[Tensor, ""]:
    """The M-uniform loss: the variance of m_K |K| among the cells around a point, over points.

    m is interpolated from the mesh at rest; masses are relative to their mean (UGM2N, NeurIPS
    2025). Needs no labels.
    """
    ids, weights = locate(rest, cells, x.detach().to(rest.dtype), 1e-9)
    inside = ids >= 0
    first = rest[cells[ids.clamp(min=0)]]  # (N, k, D)
    edges = (first[:, 1:] - first[:, :1]).transpose(1, 2)
    local = torch.linalg.solve(edges, (x - first[:, 0])[:, :, None]).squeeze(2)
    now = torch.cat([1 - local.sum(1, keepdim=True), local], 1)
    weights = torch.where(inside[:, None], now, weights)
    m = torch.where(inside, interpolate(monitor, cells, ids.clamp(min=0), weights), monitor)
    mass = m[cells].mean(1) * measures(x, cells).abs()
    mass = mass / mass.mean()
    k, n = cells.shape[1], len(x)
    spread, flat = mass.repeat_interleave(k), cells.reshape(-1)
    count = torch.bincount(flat, minlength=n).to(mass.dtype)
    mean = mass.new_zeros(n).index_add(0, flat, spread) / count
    square = mass.new_zeros(n).index_add(0, flat, spread**2) / count
    return 100 * (square - mean**2).mean()
