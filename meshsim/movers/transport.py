"""The deformation method: one linear solve, then points that flow to the density wanted.

ρ_t = 1 − t + tρ goes from the mesh at rest to the density ρ (mean 1) while points follow
dx/dt = u/ρ_t with ∇·u = 1 − ρ, u·n = 0 (see `flux`). The continuous map is one to one on any
domain, convex or not, and distributes ρ equally: ρ(x) det(∂x/∂ξ) = 1 (Moser 1965; Dacorogna and
Moser 1990; Liao and Anderson 1992).

The discrete one is made so: a step that turns a corner of a cell is taken in two halves, up to
`HALVINGS` times, and then as far as `Guard` lets it go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meshsim.check import InputError
from meshsim.movers.boundary import Sides
from meshsim.movers.flux import Elastic, Potential, Times
from meshsim.movers.guard import Guard
from meshsim.movers.monitor import check_monitor
from meshsim.movers.simplices import Array, Indices, Simplices, measures
from meshsim.movers.walk import Walk

HALVINGS = 3


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
        guard: the safeguard.

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
        self.corners = grid.cells if corners is None else corners
        if (measures(grid.points, self.corners) <= 0).any():
            raise InputError("`corners`: expected simplices of positive measure")
        self.guard = Guard(self.corners, grid.boundary, self.sides.back)
        self._flux = (
            Potential(grid, self.sides) if bulk is None else Elastic(grid, self.sides, bulk)
        )
        self.shares = torch.from_numpy(grid.lumped)
        self.walk = Walk(grid)
        self._gradients = torch.from_numpy(grid.gradients)
        # Those of curved sides are brought back after each step instead.
        self._straight = np.setdiff1d(np.unique(grid.boundary), self.sides.bent)
        self._free = self.sides.free()[self._straight]  # (B, D, D)

    def slopes(self, values: Float[Tensor, "N c"]) -> Float[Tensor, "N c D"]:
        """Gradients at points, the cells' averaged by measure (Clément 1975). Differentiable."""
        share = self.shares[:, None]
        return torch.stack([Times.apply(values, d) / share for d in self.grid.derivatives], 2)

    def velocity(
        self, density: Float[Tensor, " N"], strain: Float[Tensor, "N P"] | None = None
    ) -> tuple[Tensor, Tensor]:
        """u (N, D) and ρ (N,) of mean 1. Differentiable."""
        total = (self.shares * density).sum()
        rho = density * (self.shares.sum() / total)
        return self._flux(rho, strain), rho

    def carry(
        self, density: Float[Tensor, " N"], strain: Float[Tensor, "N P"] | None = None
    ) -> Carried:
        """Follow the flow from rest to the density, by safe steps only.

        Arguments:
            density: (N,) float64, positive, at the points at rest: how many cells are wanted there.
            strain: see `Elastic`; the potential flux knows of none.
        """
        with torch.no_grad():
            slope, rho = self.velocity(density, strain)
        self.walk.rest()
        flow = np.concatenate([slope.numpy(), rho.numpy()[:, None]], 1)  # (N, D + 1)
        x, way, h = self.grid.points, [0.0, 0.0], 1 / self.steps
        for k in range(self.steps):
            x = self._advance(flow, x, k * h, h, HALVINGS, way)
        return Carried(torch.from_numpy(x.copy()), way[1] / way[0] if way[0] > 0 else 1.0)

    def drift(
        self, density: Float[Tensor, " N"], strain: Float[Tensor, "N P"] | None = None
    ) -> Float[Tensor, "N D"]:
        """Points as `carry` gives them where it has nothing to guard; differentiable."""
        slope, rho = self.velocity(density, strain)
        self.walk.rest()
        flow, x, h = torch.cat([slope, rho[:, None]], 1), self.points, 1 / self.steps
        for k in range(self.steps):
            middle = self._held(x + 0.5 * h * self._speed_of(flow, x, k * h))
            x = self._held(x + h * self._speed_of(flow, middle, (k + 0.5) * h))
        return x

    def _speed_of(self, flow: Tensor, x: Tensor, t: float) -> Tensor:
        """`_speed` in torch, differentiable."""
        ids, share = (torch.from_numpy(v) for v in self.walk.find(x.detach().numpy()))
        # barycentric coordinates are linear in x
        away = (self._gradients[ids] @ (x - x.detach())[:, :, None]).squeeze(2)
        found = ((share.T + away)[:, :, None] * flow[self.cells[ids]]).sum(1)
        speed = found[:, :-1] / (1.0 - t + t * found[:, -1:])
        straight, free = torch.from_numpy(self._straight), torch.from_numpy(self._free)
        return speed.index_copy(0, straight, (free @ speed[straight][:, :, None]).squeeze(2))

    def _held(self, x: Tensor) -> Tensor:
        back = torch.from_numpy(self.sides.back(x.detach().numpy()))
        return x + (back - x).detach()

    def _advance(
        self, flow: Array, x: Array, t: float, h: float, depth: int, way: list[float]
    ) -> Array:
        """One step, or its halves; `way` adds up how far points were to go and went."""
        middle = self.sides.back(x + 0.5 * h * self._speed(flow, x, t))
        goal = self.sides.back(x + h * self._speed(flow, middle, t + 0.5 * h))
        wrong = len(self.guard.wrong(x, goal)) > 0
        if depth and wrong:
            x = self._advance(flow, x, t, h / 2, depth - 1, way)
            return self._advance(flow, x, t + h / 2, h / 2, depth - 1, way)
        taken = self.guard.safe(x, goal) if wrong else goal
        way[0] += float(np.linalg.norm(goal - x, axis=1).sum())
        way[1] += float(np.linalg.norm(taken - x, axis=1).sum())
        return taken

    def _speed(self, flow: Array, x: Array, t: float) -> Array:
        """u/ρ_t at points (N, D)."""
        ids, share = self.walk.find(x)
        corners = self.grid.cells[ids]
        found = flow[corners[:, 0]] * share[0][:, None]
        for k in range(1, len(share)):
            found += flow[corners[:, k]] * share[k][:, None]
        speed: Array = found[:, :-1] / (1.0 - t + t * found[:, -1:])
        edge = self._straight
        speed[edge] = (self._free @ speed[edge][:, :, None])[:, :, 0]
        return speed


def as_density(monitor: Any, grid: Simplices) -> Tensor:
    """(N,) a monitor function, or its values, at the points at rest; checked."""
    values: Array = np.asarray(monitor(grid.points) if callable(monitor) else monitor)
    check_monitor(values, grid.points)
    return torch.from_numpy(values.astype(np.float64))
