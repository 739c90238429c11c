"""Random smooth fields to train movers on and to judge them by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
