"""Message passing on a mesh at rest and on a moved one, joined by learned interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from meshsim.check import InputError, check_finite, check_shape
from meshsim.nn import MLP
from meshsim.nn.mlp import add_linear
from meshsim.ops import interpolate, knn, locate, segment_mean
from meshsim.ops.adjacency import Adjacency, adjacency

INSIDE, BESIDE = 1e-6, 0.5  # of a cell's height: rounding; how far a cell is continued


class Stencil(NamedTuple):
    """What interpolation from N source points to M others is made of.

    Attributes:
        table: (M, D + 1 + k) int64, the corners of the cell around, then the k nearest points.
        share: (M, D + 1) barycentric coordinates in that cell.
        away: (M, k, D) to the k nearest, over the distance of the farthest of them.
        window: (M, k) (1 − |away|²)²: nothing for the farthest, so that which of equally far ones
            are listed does not matter.
    """

    table: Int[Tensor, "M K"]
    share: Float[Tensor, "M S"]
    away: Float[Tensor, "M k D"]
    window: Float[Tensor, "M k"]


class MovedMesh(NamedTuple):
    """Points at rest and moved (N, D), edges (2, E) for both, and the stencils from one set to the
    other: `there` from rest to moved, and `back`."""

    points: Float[Tensor, "N D"]
    moved: Float[Tensor, "N D"]
    edge_index: Int[Tensor, "2 E"]
    there: Stencil
    back: Stencil


def moved_mesh(
    points: Float[Tensor, "N D"],
    moved: Float[Tensor, "N D"],
    cells: Int[Tensor, "C S"],
    edge_index: Int[Tensor, "2 E"],
    neighbours: int = 12,
) -> MovedMesh:
    """The tables of a mesh and of what a mover made of it; no gradients flow through them.

    Arguments:
        points: (N, D) float at rest, D = 2, 3.
        moved: (N, D) the same points moved, no cell inside out; `points` for no movement.
        cells: (C, D + 1) int64, simplices.
        edge_index: (2, E) int64, row 0 senders, row 1 receivers, rising.
        neighbours: k, how many points learned weights are over.

    Raises:
        InputError: shapes or indices do not fit, or a coordinate is not finite.

    >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> mesh = moved_mesh(points, points / 2, torch.tensor([[0, 1, 2]]), torch.tensor([[1], [0]]))
    >>> mesh.there.share[1]
    tensor([0.5000, 0.5000, 0.0000])
    """
    if points.dim() != 2 or points.shape[1] not in (2, 3):
        raise InputError(f"`points`: expected shape (N, 2) or (N, 3), got {tuple(points.shape)}")
    check_shape(moved, tuple(points.shape), "moved")
    check_shape(cells, (None, points.shape[1] + 1), "cells")
    check_shape(edge_index, (2, None), "edge_index")
    check_finite(points, "points")
    check_finite(moved, "moved")
    if neighbours < 1:
        raise InputError(f"`neighbours`: expected 1 or more, got {neighbours}")
    there = _stencil(points, moved, cells, neighbours)
    return MovedMesh(points, moved, edge_index, there, _stencil(moved, points, cells, neighbours))


def _stencil(source: Tensor, target: Tensor, cells: Tensor, neighbours: int) -> Stencil:
    x, y = source.detach().double(), target.detach().double()
    near, far = knn(x, y, min(neighbours, len(x)))  # (M, k) each
    ids, share = locate(x, cells, y, INSIDE)
    lost = (ids < 0).nonzero().squeeze(1)
    if len(lost):  # beyond a curved side: the cell beside it, continued
        ids[lost], share[lost] = locate(x, cells, y[lost], BESIDE)
        lost = (ids < 0).nonzero().squeeze(1)
    corners = cells[ids.clamp(min=0)]  # (M, D + 1)
    corners[lost] = near[lost, :1]  # far outside: the nearest point's value
    share[lost] = torch.eye(1, corners.shape[1], dtype=share.dtype, device=share.device)
    reach = far[:, -1:].clamp(min=torch.finfo(far.dtype).tiny)
    away = (x[near] - y[:, None]) / reach[:, :, None]  # (M, k, D)
    window = (1 - (far / reach) ** 2) ** 2
    kind = source.dtype
    return Stencil(torch.cat([corners, near], 1), share.to(kind), away.to(kind), window.to(kind))


def join(meshes: Sequence[MovedMesh]) -> MovedMesh:
    """One mesh of several that do not touch; its values are theirs, one after the other."""
    counts = torch.tensor([0, *(len(mesh.points) for mesh in meshes)]).cumsum(0).tolist()
    points, moved, edges, *stencils = zip(*meshes, strict=True)
    joined = []
    for parts in stencils:
        table, *rest = zip(*parts, strict=True)
        shifted = [t + n for t, n in zip(table, counts, strict=False)]
        joined.append(Stencil(torch.cat(shifted), *map(torch.cat, rest)))
    edge_index = torch.cat([e + n for e, n in zip(edges, counts, strict=False)], 1)
    return MovedMesh(torch.cat(points), torch.cat(moved), edge_index, *joined)


def _small(inputs: int, outputs: int, width: int, zero: bool = False) -> MLP:
    """An MLP of one hidden layer; with `zero` it begins as f = 0."""
    net = MLP(inputs, outputs, width=width, hidden_layers=1, activation="silu", norm=False)
    if zero:
        nn.init.zeros_(net.layers[-1].weight)
        nn.init.zeros_(net.layers[-1].bias)
    return net


class LearnedInterpolation(nn.Module):
    """Values at other points: y_m = Σ_i λ_mi u_i + Σ_k c_mk u_k with Σ_k c_mk = 0.

    λ are the linear weights in the cell around; c is over the k nearest points, a network of where
    they lie: c_k = ω_k (f(a_k, ⟨a⟩) − ⟨f⟩), a_k a network of the way to point k, ω the window of
    `Stencil`, ⟨·⟩ the mean that it weights. Hu et al. (ICLR 2024) learn weights bound to nothing;
    these are exact for constants always, and for linear fields as long as c = 0, as it is to begin
    with.

    Arguments:
        dim: D.
        width: of both networks.
    """

    def __init__(self, dim: int, width: int = 16):
        super().__init__()
        self.look = _small(dim + 1, width, width)
        self.weigh = _small(2 * width, 1, width, zero=True)

    def forward(self, values: Float[Tensor, "N C"], at: Stencil) -> Float[Tensor, "M C"]:
        """Values (N, C) at the source points to (M, C) at the others."""
        m, k, _ = at.away.shape
        total = at.window.sum(1, keepdim=True)
        part = (at.window / total.clamp(min=torch.finfo(total.dtype).tiny))[:, :, None]
        ways = torch.cat([at.away, at.away.norm(dim=2, keepdim=True)], 2)  # (M, k, D + 1)
        seen = self.look(ways.flatten(0, 1)).view(m, k, -1)  # (M, k, W)
        first = self.weigh.layers[0]
        w_own, w_mean = first.weight.split(seen.shape[2], 1)
        mean = F.linear((part * seen).sum(1), w_mean, first.bias)[:, None]  # once a point
        f = self.weigh.after_first((F.linear(seen, w_own) + mean).flatten(0, 1)).view(m, k, 1)
        change = at.window * (f - (part * f).sum(1, keepdim=True)).squeeze(2)  # (M, k)
        rows = torch.arange(m, device=values.device)
        return interpolate(values, at.table, rows, torch.cat([at.share, change], 1))


class _Block(nn.Module):
    """m_ij = φ(h_i, h_j, u_i − u_j, x_i − x_j), h_i ← h_i + ψ(h_i, mean_j m_ij)."""

    def __init__(self, fields: int, dim: int, width: int):
        super().__init__()
        self.parts = [width, width, fields, dim + 1]
        self.message = _small(sum(self.parts), width, width)
        self.update = _small(2 * width, width, width)

    def forward(self, h: Tensor, u: Tensor, ways: Tensor, edges: Adjacency) -> Tensor:
        first = self.message.layers[0]
        w_receiver, w_sender, w_u, w_x = first.weight.split(self.parts, 1)
        # What is linear in a node's own values is computed once a node.
        own = torch.cat([h, u], 1)
        sent = F.linear(own, torch.cat([w_sender, -w_u], 1))
        received = F.linear(own, torch.cat([w_receiver, w_u], 1), first.bias)
        rows = edges.edge_values(torch.cat([sent, received], 1))  # (E, H)
        messages = self.message.after_first(add_linear(rows, ways, w_x))
        mean = segment_mean(messages, edges.rowptr, edges.receiver)  # (N, H)
        return h + self.update(torch.cat([h, mean], 1))


class MPPDE(nn.Module):
    """The network of a message-passing PDE solver (Brandstetter et al., ICLR 2022, §3.2).

    Encoder, rounds of messages, decoder; begins as zero. It normalises no rows, unlike theirs, and
    neither positions nor times are inputs.

    Arguments:
        fields, dim: C, D.
        width, depth: H, rounds of messages.
        difference: the unit of u_i − u_j.
    """

    def __init__(self, fields: int, dim: int, width: int, depth: int, difference: float = 1.0):
        super().__init__()
        self.difference = difference
        self.encode = _small(fields, width, width)
        self.blocks = nn.ModuleList(_Block(fields, dim, width) for _ in range(depth))
        self.decode = _small(width, fields, width, zero=True)

    def forward(
        self, u: Float[Tensor, "N C"], ways: Float[Tensor, "E G"], edges: Adjacency
    ) -> Float[Tensor, "N C"]:
        """From values (N, C), and x_i − x_j with its length on each edge (E, D + 1), to (N, C)."""
        h, u = self.encode(u), u / self.difference
        for block in self.blocks:
            h = block(h, u, ways, edges)
        return self.decode(h)


class MovingMeshNet(nn.Module):
    """u_{t+1} = RC(u_t) + G₁(u_t at rest) + I₂(G₂(I₁ u_t on the moved mesh)).

    MM-PDE (Hu et al., ICLR 2024): G₁, G₂ are `MPPDE` networks, I₁, I₂ learned interpolation, RC(u)
    = u + f(u) of each point's values. It begins as u_{t+1} = u_t. Which mover moved the mesh is the
    caller's affair: with the points at rest for the moved ones this is the control of what movement
    brings. It normalises nothing: give it normalised values.

    Arguments:
        fields, dim: C, D.
        width, depth: of G₁ and G₂.
        length: the unit of coordinates, about an edge.
        difference: the unit of differences of values, about those over an edge.
        branch: with I₂ G₂ I₁; if not, the moved points are not looked at.
        residual: with RC. With neither it is the plain network that the paper compares to.

    Raises:
        InputError: sizes below 1, or units that are not positive.

    >>> points, cells = torch.tensor([[0., 0.], [1., 0.], [0., 1.]]), torch.tensor([[0, 1, 2]])
    >>> mesh = moved_mesh(points, 0.9 * points, cells, torch.tensor([[1, 0], [0, 2]]))
    >>> MovingMeshNet(1, width=8, depth=1)(torch.ones(3, 1), mesh).squeeze(1)
    tensor([1., 1., 1.], grad_fn=...)
    """

    def __init__(
        self,
        fields: int,
        dim: int = 2,
        *,
        width: int = 64,
        depth: int = 6,
        length: float = 1.0,
        difference: float = 1.0,
        branch: bool = True,
        residual: bool = True,
    ):
        super().__init__()
        sizes: dict[str, Any] = {"fields": fields, "dim": dim, "width": width, "depth": depth}
        for name, size in sizes.items():
            if size < 1:
                raise InputError(f"`{name}`: expected 1 or more, got {size}")
        units = {"length": length, "difference": difference}
        for name, unit in units.items():
            if not unit > 0:
                raise InputError(f"`{name}`: expected more than 0, got {unit}")
        self.arguments = sizes | units | {"branch": branch, "residual": residual}
        self.fields, self.dim, self.length = fields, dim, length
        self.at_rest = MPPDE(fields, dim, width, depth, difference)
        self.on_moved = MPPDE(fields, dim, width, depth, difference) if branch else None
        self.there = LearnedInterpolation(dim) if branch else None
        self.back = LearnedInterpolation(dim) if branch else None
        self.residue = _small(fields, fields, width, zero=True) if residual else None

    @property
    def hops(self) -> int | None:
        """How many edges away a node can lie and still be felt; None through a moved mesh."""
        return len(self.at_rest.blocks) if self.on_moved is None else None

    def forward(self, u: Float[Tensor, "N C"], mesh: MovedMesh) -> Float[Tensor, "N C"]:
        """The next values (N, C).

        Arguments:
            u: (N, C) now, at the points at rest.
            mesh: of `moved_mesh`, or several of `join`.
        """
        check_shape(mesh.points, (None, self.dim), "mesh.points")
        check_shape(u, (len(mesh.points), self.fields), "u")
        edges = adjacency(mesh.edge_index, len(u))
        out = self.at_rest(u, self._ways(mesh.points, edges), edges)
        if self.residue is not None:
            out = out + u + self.residue(u)
        change = self.branch(u, mesh)
        return out if change is None else out + change

    def branch(self, u: Float[Tensor, "N C"], mesh: MovedMesh) -> Float[Tensor, "N C"] | None:
        """I₂(G₂(I₁ u)) (N, C), None without that branch."""
        if self.on_moved is None or self.there is None or self.back is None:
            return None
        edges = adjacency(mesh.edge_index, len(u))
        change = self.on_moved(self.there(u, mesh.there), self._ways(mesh.moved, edges), edges)
        return self.back(change, mesh.back)

    def _ways(self, points: Tensor, edges: Adjacency) -> Tensor:
        way = (points[edges.receiver] - points[edges.sender]) / self.length  # (E, D)
        return torch.cat([way, way.norm(dim=1, keepdim=True)], 1)
