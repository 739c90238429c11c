"""Random fields to train movers on and to judge them by: sums of Gaussians, fronts, rings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meshsim.check import check_known
from meshsim.movers.simplices import Array


@dataclass(frozen=True)
class Gaussians:
    """u = Σ_k z_k exp(−Σ_d ((x_d − c_kd) / s_kd)²), with its derivatives.

    Arguments:
        heights: (K,) z. centres: (K, D) c. widths: (K, D) s.

    >>> Gaussians(np.ones(1), np.zeros((1, 2)), np.ones((1, 2)))(np.zeros((1, 2)))
    array([1.])
    """

    heights: Array
    centres: Array
    widths: Array

    @classmethod
    def draw(cls, rng: np.random.Generator, dim: int = 2) -> Gaussians:
        """A field of UM2N's squares: 1 to 6 Gaussians, z and c uniform in [0, 1],
        s = max(N(1/4, 1/6), 1/8) (Song et al., NeurIPS 2024)."""
        count = int(rng.integers(1, 7))
        return cls(
            rng.uniform(0, 1, count),
            rng.uniform(0, 1, (count, dim)),
            np.maximum(rng.normal(1 / 4, 1 / 6, (count, dim)), 1 / 8),
        )

    @classmethod
    def draw_in(cls, rng: np.random.Generator, points: Array) -> Gaussians:
        """Such a field scaled to the box of points (N, D), by its longest side."""
        low, size = points.min(0), float(np.ptp(points, axis=0).max())
        unit = cls.draw(rng, points.shape[1])
        return cls(unit.heights, low + size * unit.centres, size * unit.widths)

    def _terms(self, x: Array) -> tuple[Array, Array]:
        t = (x[:, None, :] - self.centres) / self.widths  # (n, K, D)
        return self.heights * np.exp(-(t**2).sum(2)), t

    def __call__(self, x: Array) -> Array:
        """(n,) u at points (n, D)."""
        out: Array = self._terms(x)[0].sum(1)
        return out

    def hessian(self, x: Array) -> Array:
        """(n, D, D) ∇∇u at points (n, D)."""
        u, t = self._terms(x)
        s = self.widths
        outer = 4 * (t / s)[:, :, :, None] * (t / s)[:, :, None, :]  # (n, K, D, D)
        diagonal = 2 / s**2  # (K, D)
        outer -= diagonal[:, :, None] * np.eye(x.shape[1])
        out: Array = (u[:, :, None, None] * outer).sum(1)
        return out

    def laplacian(self, x: Array) -> Array:
        """(n,) Δu at points (n, D)."""
        u, t = self._terms(x)
        out: Array = (u * (4 * (t / self.widths) ** 2 - 2 / self.widths**2).sum(2)).sum(1)
        return out

    def monitor(self, x: Array, alpha: float = 5.0, power: int = 2) -> Array:
        """(n,) m = 1 + α |∇∇u|ᵖ / max |∇∇u|ᵖ, the maximum over the points asked for."""
        size = (self.hessian(x) ** 2).sum((1, 2)) ** (power / 2)
        out: Array = 1 + alpha * size / size.max()
        return out


@dataclass(frozen=True)
class Radial:
    """A spherical front, u = tanh t, or a ring, u = exp(−t²/2), with t = (|x − c| − R) / w.

    Arguments:
        kind: "front" or "ring".
        centre: (D,) c. radius: R. width: w.

    >>> Radial("front", torch.zeros(2), 1.0, 0.1)(torch.tensor([[0.0, 1.0]]))
    tensor([0.])
    """

    kind: str
    centre: Tensor
    radius: float
    width: float

    def __post_init__(self) -> None:
        check_known(self.kind, ("front", "ring"), "kind")

    @classmethod
    def draw_in(cls, rng: np.random.Generator, points: Array) -> Radial:
        """One through a random point of (N, D): R is 0.1 to 1 of the box's longest side, w 0.02
        to 0.1, both uniform in their logarithms."""
        size = float(np.ptp(points, axis=0).max())
        way = rng.normal(size=points.shape[1])
        radius, width = (
            size * float(np.exp(rng.uniform(np.log(a), np.log(b))))
            for a, b in ((0.1, 1.0), (0.02, 0.1))
        )
        through = points[int(rng.integers(len(points)))]
        centre = through - radius * way / np.linalg.norm(way)
        kind = ("front", "ring")[int(rng.integers(2))]
        return cls(kind, torch.from_numpy(centre), radius, width)

    def _profile(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """u, u′/r and u″ along the radius."""
        r = (x - self.centre).norm(dim=-1).clamp(min=1e-6 * self.width)
        t, w = (r - self.radius) / self.width, self.width
        if self.kind == "front":
            u = torch.tanh(t)
            slope = 1 - u * u
            return u, slope / (w * r), -2 * u * slope / w**2
        u = torch.exp(-t * t / 2)
        return u, -t * u / (w * r), (t * t - 1) * u / w**2

    def __call__(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "..."]:
        return self._profile(x)[0]

    def laplacian(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "..."]:
        _, across, along = self._profile(x)
        return along + (x.shape[-1] - 1) * across

    def squares(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "..."]:
        """|∇∇u|²."""
        _, across, along = self._profile(x)
        return along**2 + (x.shape[-1] - 1) * across**2
