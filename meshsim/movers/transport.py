"""The deformation method: one linear solve, then points that flow to the density wanted.

ρ_t = 1 − t + tρ goes from the mesh at rest to the density ρ (mean 1) while points follow
dx/dt = u/ρ_t with ∇·u = 1 − ρ, u·n = 0 (see `flux`). The continuous map is one to one on any
domain, convex or not, and distributes ρ equally: ρ(x) det(∂x/∂ξ) = 1 (Moser 1965; Dacorogna and
Moser 1990; Liao and Anderson 1992).

The discrete one is made so. A step from a mesh whose corners are all positive is taken only if
they all stay positive and no facet of the boundary turns round, so that points of a side keep
their order and the map is one to one as a whole. Where they do not, it is taken in two halves, up
to `HALVINGS` times; then the points concerned go half as far, again and again; after `TRIES` every
point goes at most `SAFE` of the least width of the simplices around it. That cannot fail: points
that each go less than half the width w of a simplex leave it on the side of itself that it was,
since on the way to being flat they would all have to lie on one line (plane), within w/2 of where
they were, and w is the least distance between two such that hold them. For facets the same holds
in their line (plane).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.check import InputError
from meshsim.movers.boundary import Sides
from meshsim.movers.flux import Elastic, Potential
from meshsim.movers.monitor import check_monitor
from meshsim.movers.simplices import Array, Indices, Simplices
from meshsim.ops import interpolate, locate

HALVINGS = 3
WALK, OUTSIDE = 30, 1e-9
TRIES = 6
SAFE = 0.45  # below one half


@dataclass(frozen=True)
class Carried:
    """Where points went.

    Attributes:
        points: (N, D) float64.
        share: mean over points of how much of their way the safeguard left, 0 to 1.
    """

    points: Tensor
    share: float


class Transport:
    """Carries the points of a mesh to a density of cells, and never turns a cell inside out.

    Arguments:
        grid: the mesh at rest.
        corners: (K, D + 1) int, the simplices that must stay positive; those of `grid` if None.
        steps: of the flow, each of second order.
        bulk: None for the potential flux, which distributes equally; λ for the elastic one, which
            spares the shape of cells; see `flux`.
        feature, fixed: see `Sides`.

    Attributes:
        shares: (N,) the points' own shares of the mesh.

    >>> grid = Simplices([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], [[0, 1, 2], [0, 2, 3]])
    >>> Transport(grid).carry(torch.ones(4).double()).points[2]
    tensor([1., 1.], dtype=torch.float64)
    """

    def __init__(
        self,
        grid: Simplices,
        corners: Indices | None = None,
        steps: int = 4,
        bulk: float | None = None,
        feature: float = 15.0,
        fixed: bool = False,
    ):
        self.grid, self.steps = grid, steps
        self.sides = Sides(grid, feature, fixed)
        self.points = torch.from_numpy(grid.points)
        self.cells = torch.from_numpy(grid.cells)
        self.corners = torch.from_numpy(grid.cells if corners is None else corners)
        if (measures(self.points, self.corners) <= 0).any():
            raise InputError("`corners`: expected simplices of positive measure")
        self._facets = torch.from_numpy(grid.boundary)
        self._flux = (
            Potential(grid, self.sides) if bulk is None else Elastic(grid, self.sides, bulk)
        )
        self.shares = torch.from_numpy(grid.lumped)
        self._gradients = torch.from_numpy(grid.gradients)
        first = self.points[self.cells[:, 0]]
        self._affine = torch.cat([first, self._gradients.flatten(1)], 1)  # (C, D + D (D + 1))
        self._beyond = torch.from_numpy(_beyond(grid.cells))
        # A cell of each point, the first: at rest, and where it was seen last.
        number = torch.arange(len(self.cells))[:, None].expand_as(self.cells).reshape(-1)
        home = torch.zeros(len(grid.points), dtype=torch.int64)
        home = home.scatter_reduce(0, self.cells.reshape(-1), number, "amin", include_self=False)
        self._home = self._in = home
        # The points of curved sides, for which a step is only right after the way back.
        self._curved = bool(len(self.sides.bent))
        edge = np.setdiff1d(np.unique(grid.boundary), self.sides.bent)
        self._straight = torch.from_numpy(edge)
        self._free = torch.from_numpy(self.sides.free()[edge])  # (B, D, D)

    def velocity(self, density: Float[Tensor, " N"]) -> tuple[Tensor, Tensor]:
        """u (N, D) and ρ (N,) of mean 1. Differentiable."""
        total = (self.shares * density).sum()
        rho = density * (self.shares.sum() / total)
        return self._flux(rho), rho

    def carry(self, density: Float[Tensor, " N"], guard: bool = True) -> Carried:
        """Follow the flow from rest to the density.

        Arguments:
            density: (N,) float64, positive, at the points at rest: how many cells are wanted
                there. Differentiable in it where `guard` is off.
            guard: take safe steps only; off for training.
        """
        slope, rho = self.velocity(density)
        self._in = self._home  # not from the call before: the same bits whatever that was
        flow = torch.cat([slope, rho[:, None]], 1)  # (N, D + 1)
        x, way = self.points, [0.0, 0.0]
        for k in range(self.steps):
            h = 1 / self.steps
            if guard:
                x = self._advance(flow, x, k * h, h, HALVINGS, way)
            else:
                x = self._step(flow, x, k * h, h)
        return Carried(x, way[1] / way[0] if way[0] > 0 else 1.0)

    def _step(self, flow: Tensor, x: Tensor, t: float, h: float) -> Tensor:
        middle = self._onto(x + 0.5 * h * self._speed(flow, x, t))
        return self._onto(x + h * self._speed(flow, middle, t + 0.5 * h))

    def _advance(
        self, flow: Tensor, x: Tensor, t: float, h: float, depth: int, way: list[float]
    ) -> Tensor:
        """One step, or its halves; `way` adds up how far points were to go and went."""
        goal = self._step(flow, x, t, h)
        if depth and len(self._wrong(x, goal)):
            x = self._advance(flow, x, t, h / 2, depth - 1, way)
            return self._advance(flow, x, t + h / 2, h / 2, depth - 1, way)
        taken = self.safe(x, goal)
        way[0] += float((goal - x).norm(dim=1).sum())
        way[1] += float((taken - x).norm(dim=1).sum())
        return taken

    def _speed(self, flow: Tensor, x: Tensor, t: float) -> Tensor:
        """u/ρ_t at points (N, D)."""
        ids, weights = self._find(x.detach())
        if x.requires_grad:  # barycentric coordinates are linear in x
            away = (self._gradients[ids] @ (x - x.detach())[:, :, None]).squeeze(2)
            weights = weights + away
        found = interpolate(flow, self.cells, ids, weights)
        dim = self.grid.dim
        speed = found[:, :dim] / (1.0 - t + t * found[:, dim:])
        along = (self._free @ speed[self._straight][:, :, None]).squeeze(2)
        return speed.index_copy(0, self._straight, along)

    def _find(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A cell (N,) around each point, and its shares there (N, D + 1).

        From where it was last a point goes from cell to cell, each time through the side that it
        is farthest beyond; one that comes to a border so is looked for in all cells.
        """
        ids, weights = self._in.clone(), x.new_empty(len(x), x.shape[1] + 1)
        rows = torch.arange(len(x))
        for _ in range(WALK):
            share = self._shares(ids[rows], x[rows])
            weights[rows] = share
            least, corner = share.min(1)
            out = least < -OUTSIDE
            there = self._beyond[ids[rows], corner]
            on = out & (there >= 0)
            ids[rows[on]] = there[on]
            if not on.any():
                break
            rows = rows[on]
        lost = (weights.amin(1) < -OUTSIDE).nonzero().squeeze(1)
        if len(lost):
            ids[lost], weights[lost] = locate(self.points, self.cells, x[lost], OUTSIDE)
            lost = (ids < 0).nonzero().squeeze(1)
        if len(lost):  # rounding, or the middle of a step beyond a curved side
            ids, weights = self._nearest(x, ids, weights, lost)
        self._in = ids
        return ids, weights

    def _shares(self, ids: Tensor, x: Tensor) -> Tensor:
        """(n, D + 1) barycentric coordinates of points in cells (n,)."""
        dim = x.shape[1]
        row = self._affine.index_select(0, ids)
        way = x - row[:, :dim]
        share = row[:, dim::dim] * way[:, :1]
        for d in range(1, dim):
            share += row[:, dim + d :: dim] * way[:, d : d + 1]
        share[:, 0] += 1.0
        return share

    def _nearest(
        self, x: Tensor, ids: Tensor, weights: Tensor, lost: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Points outside count as in the cell that they are least outside of, at its border."""
        from scipy.spatial import cKDTree

        centres = self.grid.points[self.grid.cells].mean(1)
        near = min(8, len(centres))
        _, some = cKDTree(centres).query(x[lost].numpy(), near)
        at = torch.from_numpy(np.asarray(some).reshape(len(lost), near))
        first = self.points[self.cells[at, 0]]  # (m, 8, D)
        shares = (self._gradients[at] @ (x[lost][:, None] - first)[..., None]).squeeze(3)
        shares[:, :, 0] += 1.0
        best = shares.amin(2).argmax(1)
        rows = torch.arange(len(lost))
        share = shares[rows, best].clamp(min=0.0)
        ids, weights = ids.clone(), weights.clone()
        ids[lost] = at[rows, best]
        weights[lost] = share / share.sum(1, keepdim=True)
        return ids, weights

    def _onto(self, x: Tensor) -> Tensor:
        """Points of curved sides back on them."""
        if not self._curved:
            return x
        back = torch.from_numpy(self.sides.back(x.detach().numpy()))
        return x + (back - x).detach()

    def safe(self, x: Tensor, goal: Tensor) -> Tensor:
        """As far from x towards goal, (N, D), as leaves every corner positive; see the module.

        Raises:
            InputError: a corner at x is not positive already.
        """
        way = goal - x
        share = x.new_ones(len(x))
        for _ in range(TRIES):
            there = self._onto(x + share[:, None] * way)
            wrong = self._wrong(x, there)
            if not len(wrong):
                return there
            hurt = torch.zeros_like(share, dtype=torch.bool)
            hurt[wrong] = True
            share = torch.where(hurt, 0.5 * share, share)
        if (measures(x, self.corners) <= 0).any():
            raise InputError("`x`: expected a mesh whose corners are positive")
        reach = SAFE * self._room(x)  # (N,)
        for _ in range(2):
            length = way.norm(dim=1)
            way = way * (reach / length.clamp(min=1e-300)).clamp(max=1.0)[:, None]
            there = self._onto(x + way)
            way = there - x
            # On a bent side the way back may lengthen a step: then that point stays.
            way = torch.where((way.norm(dim=1) > reach)[:, None], 0.0, way)
        there = x + way
        if len(self._wrong(x, there)):  # rounding, in cells of no width
            return x
        return there

    def tangled(self, x: Tensor) -> int:
        """How many corners are flat or inside out with the points at x (N, D)."""
        return int((measures(x, self.corners) <= 0).sum())

    def _room(self, x: Tensor) -> Tensor:
        """(N,) the least width of the simplices around each point."""
        out = x.new_full((len(x),), torch.inf)
        for ids in (self.corners, self._facets):
            least = widths(x, ids).repeat_interleave(ids.shape[1])
            out = out.scatter_reduce(0, ids.reshape(-1), least, "amin")
        return out

    def _wrong(self, x: Tensor, there: Tensor) -> Tensor:
        """Points of corners that are not positive, and of facets turned round since x."""
        flat = measures(there, self.corners) <= 0
        turned = (_normals(x, self._facets) * _normals(there, self._facets)).sum(1) <= 0
        if not (flat.any() or turned.any()):
            return self.corners.new_zeros(0)
        return torch.cat([self.corners[flat].reshape(-1), self._facets[turned].reshape(-1)])


def _beyond(cells: Indices) -> Indices:
    """(C, D + 1) the cell beyond the side opposite to each corner, −1 outside."""
    k = cells.shape[1]
    sides = np.stack([np.delete(cells, i, 1) for i in range(k)], 1).reshape(-1, k - 1)
    sides = np.sort(sides, 1)
    order = np.lexsort(sides.T)
    same = (sides[order[1:]] == sides[order[:-1]]).all(1)
    out = np.full(len(sides), -1)
    a, b = order[:-1][same], order[1:][same]
    out[a], out[b] = b // k, a // k
    return out.reshape(-1, k)


def measures(x: Float[Tensor, "N D"], ids: Int[Tensor, "K k"]) -> Float[Tensor, " K"]:
    """Signed measures of simplices; twice them in 2-D, six times in 3-D."""
    e = x[ids[:, 1:]] - x[ids[:, :1]]  # (K, D, D)
    if x.shape[1] == 2:
        return e[:, 0, 0] * e[:, 1, 1] - e[:, 0, 1] * e[:, 1, 0]
    return (e[:, 0] * torch.linalg.cross(e[:, 1], e[:, 2])).sum(1)


def _normals(x: Tensor, ids: Tensor) -> Tensor:
    """Vectors (B, D) that turn with facets (B, D): along edges in the plane, normals in space."""
    p = x[ids]
    if x.shape[1] == 2:
        return p[:, 1] - p[:, 0]
    return torch.linalg.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])


def widths(x: Float[Tensor, "N D"], ids: Int[Tensor, "K k"]) -> Float[Tensor, " K"]:
    """The least distance between two parallel lines (planes) that hold a simplex between them.

    The smallest height of a triangle; of a tetrahedron also the distances of opposite edges. Of
    facets (K, D), edges in the plane and triangles in space, within their line or plane.
    """
    p = x[ids]  # (K, D + 1, D)
    if ids.shape[1] == 2:
        return (p[:, 1] - p[:, 0]).norm(dim=1)
    size = measures(x, ids).abs() if ids.shape[1] > x.shape[1] else _normals(x, ids).norm(dim=1)
    if ids.shape[1] == 3:
        longest = torch.stack(
            [(p[:, a] - p[:, b]).norm(dim=1) for a, b in ((0, 1), (1, 2), (2, 0))]
        )
        return size / longest.amax(0)
    spans = []
    for a, b, c in combinations(range(4), 3):
        spans.append(torch.linalg.cross(p[:, b] - p[:, a], p[:, c] - p[:, a]).norm(dim=1))
    for a, b, c, d in ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2)):
        spans.append(torch.linalg.cross(p[:, b] - p[:, a], p[:, d] - p[:, c]).norm(dim=1))
    return size / torch.stack(spans).amax(0)


def as_density(monitor: Any, grid: Simplices) -> Tensor:
    """(N,) a monitor function, or its values, at the points at rest; checked."""
    values: Array = np.asarray(monitor(grid.points) if callable(monitor) else monitor)
    check_monitor(values, grid.points)
    return torch.from_numpy(values.astype(np.float64))
