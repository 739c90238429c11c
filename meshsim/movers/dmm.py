"""Data-free mesh mover: a network for the Monge–Ampère potential, trained on its equation alone.

x = ξ + ∇φ_θ(ξ; m), with φ conditioned on the monitor and no moved mesh to learn from (Hu et al.,
Better Neural PDE Solvers Through Data-Free Mesh Movers, ICLR 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

RASTER = 32  # samples of the monitor along an axis of the box


class Residuals(NamedTuple):
    """The three terms of the loss, each a mean of squares."""

    equation: Tensor
    boundary: Tensor
    convexity: Tensor

    def total(self, boundary: float = 1000.0, convexity: float = 1.0) -> Tensor:
        """Their sum with the paper's weights."""
        return self.equation + boundary * self.boundary + convexity * self.convexity


class DataFreeMover(nn.Module):
    """A potential φ(ξ; m) on the box [0, 1]^D: a branch for the monitor, a trunk for the place.

    Arguments:
        dim: D, 2 or 3.
        width: of branch, trunk and decoder.

    >>> net = DataFreeMover(2, width=16)
    >>> net.places(net.encode(torch.ones(1, 1, 32, 32)), torch.rand(5, 2)).shape
    torch.Size([5, 2])
    """

    def __init__(self, dim: int = 2, width: int = 128):
        super().__init__()
        self.dim = dim
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dim]
        self.branch = nn.Sequential(
            conv(1, 8, 5, stride=2, padding=2),
            nn.Tanh(),
            conv(8, 16, 5, stride=2, padding=2),
            nn.Tanh(),
            conv(16, 8, 5, stride=2, padding=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(8 * (RASTER // 8) ** dim, width),
            nn.Tanh(),
        )
        self.trunk = nn.Sequential(
            nn.Linear(dim, width // 4), nn.Tanh(), nn.Linear(width // 4, width)
        )
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)  # the mesh stays where it is to begin with
        self.decoder = nn.Sequential(nn.Tanh(), nn.Linear(2 * width, width), nn.Tanh(), last)

    def encode(self, raster: Float[Tensor, "B 1 ..."]) -> Float[Tensor, "B H"]:
        """What the trunk is told of monitors: log m on the raster of the box, less its mean."""
        shape = (len(raster), -1, *[1] * (raster.dim() - 2))
        values = raster.log()
        values = values - values.flatten(1).mean(1).view(shape)
        out: Tensor = self.branch(values)
        return out

    def potential(self, code: Float[Tensor, "B H"], places: Float[Tensor, "n D"]) -> Tensor:
        """φ (n,) at places; `code` has one row, or one for each place."""
        rows = code.expand(len(places), -1) if len(code) == 1 else code
        out: Tensor = self.decoder(torch.cat([rows, self.trunk(places)], 1)).squeeze(1)
        return out

    def places(self, code: Float[Tensor, "B H"], places: Float[Tensor, "n D"]) -> Tensor:
        """x = ξ + ∇φ (n, D), by differentiation; keeps no graph."""
        with torch.enable_grad():
            at = places.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.potential(code, at).sum(), at)
        return places + slope.detach()

    def residuals(
        self,
        code: Float[Tensor, "B H"],
        inside: Float[Tensor, "n D"],
        border: Float[Tensor, "b D"],
        normals: Float[Tensor, "b D"],
        monitor: Callable[[Tensor], Tensor],
        border_code: Tensor | None = None,
    ) -> Residuals:
        """m(x) det(I + ∇∇φ) / mean − 1 inside, ∂φ/∂n on the border, and min(0, 1 + φ_dd).

        Arguments:
            code: one row, or a row for each place inside; `border_code` likewise.
            inside, border: places ξ. normals: (b, D) unit.
            monitor: m at moved places (n, D), gives (n,), of the field of each row; differentiable.
        """
        at = inside.detach().requires_grad_()
        phi = self.potential(code, at)
        (slope,) = torch.autograd.grad(phi.sum(), at, create_graph=True)
        rows = [
            torch.autograd.grad(slope[:, d].sum(), at, create_graph=True)[0]
            for d in range(self.dim)
        ]
        hessian = torch.stack(rows, 1) + torch.eye(self.dim, dtype=inside.dtype)  # (n, D, D)
        density = monitor(inside + slope) * torch.linalg.det(hessian)
        equation = ((density / density.mean().detach() - 1) ** 2).mean()
        edge = border.detach().requires_grad_()
        on = self.potential(code if border_code is None else border_code, edge)
        (flow,) = torch.autograd.grad(on.sum(), edge, create_graph=True)
        boundary = ((flow * normals).sum(1) ** 2).mean()
        diagonal = torch.diagonal(hessian, dim1=1, dim2=2)
        return Residuals(equation, boundary, (F.relu(-diagonal) ** 2).sum(1).mean())
