"""Data-free mesh mover: a network for the Monge–Ampère potential, trained on its equation alone.

x = ξ + ∇φ_θ(ξ; m), with φ conditioned on the monitor and no moved mesh to learn from (Hu et al.,
Better Neural PDE Solvers Through Data-Free Mesh Movers, ICLR 2024). Unlike theirs, whose decoder is
a network of branch and trunk side by side, φ is a sum of cosines whose weights the branch gives:
∂φ/∂n = 0 on the box then holds by itself, and what the loss asks for is nearly linear in them.
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
    """The terms of the loss, each a mean of squares; that of the boundary is zero for cosines."""

    equation: Tensor
    convexity: Tensor

    def total(self) -> Tensor:
        """Their sum with the paper's weights."""
        return self.equation + self.convexity


class DataFreeMover(nn.Module):
    """A potential on the box [0, 1]^D, φ(ξ; m) = Σ_k c_k(m) / |πk|² Π_d cos πk_d ξ_d.

    Arguments:
        dim: D, 2 or 3.
        width: of the branch, a network from the monitor's raster to the weights c_k.
        modes: waves along an axis, at most.

    >>> net = DataFreeMover(2, width=16)
    >>> net.places(net.encode(torch.ones(1, 1, 32, 32)), torch.rand(5, 2)).shape
    torch.Size([5, 2])
    """

    waves: Tensor

    def __init__(self, dim: int = 2, width: int = 256, modes: int = 6):
        super().__init__()
        self.dim = dim
        axis = torch.arange(modes + 1.0)
        self.register_buffer("waves", torch.cartesian_prod(*[axis] * dim)[1:])  # (K, D)
        fewer: nn.Module = nn.AvgPool3d(4) if dim == 3 else nn.Identity()
        inputs = (RASTER if dim == 2 else RASTER // 4) ** dim
        last = nn.Linear(width // 2, len(self.waves))
        nn.init.zeros_(last.weight)  # the mesh stays where it is to begin with
        nn.init.zeros_(last.bias)
        self.branch = nn.Sequential(
            fewer,
            nn.Flatten(),
            nn.Linear(inputs, width),
            nn.GELU(),
            nn.Linear(width, width // 2),
            nn.GELU(),
            last,
        )

    def encode(self, raster: Float[Tensor, "B 1 ..."]) -> Float[Tensor, "B K"]:
        """The weights of the cosines, from log m on the raster of the box less its mean."""
        shape = (len(raster), -1, *[1] * (raster.dim() - 2))
        values = raster.log()
        values = values - values.flatten(1).mean(1).view(shape)
        out: Tensor = self.branch(values)
        return out

    def potential(self, code: Float[Tensor, "B K"], places: Float[Tensor, "n D"]) -> Tensor:
        """φ (n,) at places; `code` has one row, or one for each place."""
        basis = torch.cos(torch.pi * places[:, None] * self.waves).prod(2)  # (n, K)
        basis = basis / (torch.pi * self.waves).square().sum(1)
        out: Tensor = (code * basis).sum(1)
        return out

    def places(self, code: Float[Tensor, "B K"], places: Float[Tensor, "n D"]) -> Tensor:
        """x = ξ + ∇φ (n, D), by differentiation; keeps no graph."""
        with torch.enable_grad():
            at = places.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.potential(code, at).sum(), at)
        return places + slope.detach()

    def residuals(
        self,
        code: Float[Tensor, "B K"],
        inside: Float[Tensor, "n D"],
        monitor: Callable[[Tensor], Tensor],
        fields: int = 1,
    ) -> Residuals:
        """m(x) det(I + ∇∇φ) / mean − 1 inside, and min(0, 1 + φ_dd).

        Arguments:
            code: one row, or a row for each place.
            inside: places ξ.
            monitor: m at moved places (n, D), gives (n,), of the field of each row; differentiable.
            fields: how many there are, each with as many rows, one after the other.
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
        density = density.reshape(fields, -1)
        equation = ((density / density.mean(1, keepdim=True).detach() - 1) ** 2).mean()
        diagonal = torch.diagonal(hessian, dim1=1, dim2=2)
        return Residuals(equation, (F.relu(-diagonal) ** 2).sum(1).mean())
