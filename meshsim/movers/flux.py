"""The fluxes that carry points from equal density to another: ∇·u = 1 − ρ, u·n = 0.

A divergence does not settle its field. `Potential` takes the gradient of a scalar, the least flux:
exact, but without bound at corners that turn inwards, where it shears cells to nothing. `Elastic`
takes the displacement of an elastic body that is to swell by 1 − ρ, as heat makes it: the least
strain, bounded at every corner, as near to the divergence as the body's bulk modulus says.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import SuperLU
from torch import Tensor

from meshsim.movers.boundary import Sides
from meshsim.movers.simplices import Array, Simplices, factor


class _Solve(torch.autograd.Function):
    """A x for a symmetric A⁻¹ given by its factors, on columns (n, k)."""

    @staticmethod
    def forward(ctx: Any, load: Tensor, factors: SuperLU) -> Tensor:
        ctx.factors = factors
        return torch.from_numpy(factors.solve(load.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return torch.from_numpy(ctx.factors.solve(grads[0].contiguous().numpy())), None


class Times(torch.autograd.Function):
    """A sparse matrix of scipy times columns (n, k)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Any) -> Tensor:
        ctx.matrix = matrix
        return torch.from_numpy(matrix @ x.detach().numpy())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return torch.from_numpy(ctx.matrix.T @ grads[0].numpy()), None


class Potential:
    """u = ∇φ with Δφ = 1 − ρ, ∂φ/∂n = 0; the gradient projected in L² onto linear elements."""

    def __init__(self, grid: Simplices, sides: Sides):
        n, dim = grid.points.shape
        self._dim, self._mass, self._basis = dim, grid.mass, sides.basis
        blocks = [sides.basis[d * n : (d + 1) * n] for d in range(dim)]
        self._poisson = grid.poisson_solver
        self._slope = factor(sum(b.T @ grid.mass @ b for b in blocks))
        load = sum(b.T @ d for b, d in zip(blocks, grid.derivatives, strict=True))
        self._load = load.tocsr()

    def __call__(
        self, rho: Float[Tensor, " N"], strain: Float[Tensor, "N P"] | None = None
    ) -> Float[Tensor, "N D"]:
        """u at the points at rest, for ρ of mean 1 there. Differentiable; takes no strain."""
        load = Times.apply((rho - 1.0)[:, None], self._mass)  # (N, 1)
        load = torch.cat([load.new_zeros(1, 1), load[1:]])
        slope = Times.apply(_Solve.apply(load, self._poisson), self._load)
        shift: Tensor = Times.apply(_Solve.apply(slope, self._slope), self._basis)  # (D N, 1)
        return shift.reshape(self._dim, -1).T


class Elastic:
    """u least in ∫ 2 |ε(u) − E|² + λ (∇·u − 1 + ρ)², in linear elements, points of sides on them.

    E is a strain that the body would have by itself: how cells are to be stretched, not only sized.

    Arguments:
        grid, sides: the mesh at rest.
        bulk: λ > 0 over the shear modulus. Large: ∇·u = 1 − ρ, and elements lock; small: cells keep
            their shape.
    """

    def __init__(self, grid: Simplices, sides: Sides, bulk: float):
        n, dim = grid.points.shape
        self._dim, self._basis = dim, sides.basis
        g, size = grid.gradients, grid.measures  # (C, k, D), (C,)
        k = dim + 1
        local = np.einsum("cie,cjd->cidje", g, g) + bulk * np.einsum("cid,cje->cidje", g, g)
        products = g @ g.transpose(0, 2, 1)
        for d in range(dim):
            local[:, :, d, :, d] += products
        local *= size[:, None, None, None, None]
        m = k * dim
        unknown = (grid.cells[:, :, None] + n * np.arange(dim)).reshape(-1, m)  # (C, m)
        rows, columns = np.repeat(unknown, m, 1).reshape(-1), np.tile(unknown, (1, m)).reshape(-1)
        matrix = csr_matrix((local.reshape(-1), (rows, columns)), shape=(dim * n, dim * n))
        self._factors = factor(sides.basis.T @ matrix @ sides.basis)
        swell = bulk * size[:, None, None] * g  # (C, k, D), of the cells' mean density
        self._load = (sides.basis.T @ self._spread(grid, [swell])).tocsr()
        strains = []
        for p, q in combinations_with_replacement(range(dim), 2):
            each = np.zeros_like(g)
            each[:, :, p] += 2 * size[:, None] * g[:, :, q]
            if p != q:
                each[:, :, q] += 2 * size[:, None] * g[:, :, p]
            strains.append(each)
        self._strain = (sides.basis.T @ self._spread(grid, strains)).tocsr()

    def _spread(self, grid: Simplices, each: list[Array]) -> csr_matrix:
        """(D N, P N) loads (C, k, D) of the cells' means of P values at points."""
        n, k, count = len(grid.points), grid.dim + 1, len(each)
        unknown = (grid.cells[:, :, None] + n * np.arange(grid.dim)).reshape(len(grid.cells), -1)
        m = unknown.shape[1]
        rows = np.tile(np.repeat(unknown, k, 1).reshape(-1), count)
        columns = np.tile(grid.cells, (1, m)).reshape(-1)
        columns = np.concatenate([columns + i * n for i in range(count)])
        values = [np.repeat(e.reshape(-1, m, 1) / k, k, 2).reshape(-1) for e in each]
        shape = (grid.dim * n, count * n)
        return csr_matrix((np.concatenate(values), (rows, columns)), shape=shape)

    def __call__(
        self, rho: Float[Tensor, " N"], strain: Float[Tensor, "N P"] | None = None
    ) -> Float[Tensor, "N D"]:
        """u at the points at rest, for ρ of mean 1 there. Differentiable.

        Arguments:
            strain: (N, P) E_ij, i ≤ j row by row, P = D(D + 1)/2; none is zero.
        """
        load = Times.apply((1.0 - rho)[:, None], self._load)
        if strain is not None:
            load = load + Times.apply(strain.T.reshape(-1, 1), self._strain)
        shift: Tensor = Times.apply(_Solve.apply(load, self._factors), self._basis)  # (D N, 1)
        return shift.reshape(self._dim, -1).T
