"""−Δu + c u = f on triangles or tetrahedra in linear elements, and the error of the solution."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from scipy.special import roots_jacobi

from meshsim.movers.recovery import solve_dirichlet
from meshsim.movers.simplices import Array, Quadrature, Simplices

Field = Callable[[Array], Array]


@cache
def conical(dim: int, n: int) -> Quadrature:
    """Gauss–Jacobi points on a simplex, exact to degree 2n − 1 (Stroud's conical product).

    >>> rule = conical(3, 4)
    >>> round(float(rule.weights @ rule.at[:, 1] ** 7 * 120), 12)  # the mean of λ⁷ is 3! 7! / 10!
    1.0
    """
    axes, weights = [], []
    for d in range(dim):  # the density of the d-th axis falls as (1 − t)^(dim − 1 − d)
        t, w = roots_jacobi(n, dim - 1 - d, 0.0)
        axes.append((t + 1) / 2)
        weights.append(w / w.sum())
    t = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dim)
    w = np.stack(np.meshgrid(*weights, indexing="ij"), -1).reshape(-1, dim).prod(1)
    left = np.cumprod(np.concatenate([np.ones((len(t), 1)), 1 - t], 1), 1)  # (q, D + 1)
    at = np.concatenate([t * left[:, :-1], left[:, -1:]], 1)
    return Quadrature(at, w)


def solve(
    grid: Simplices, source: Field, boundary: Field, reaction: float = 0.0, n: int = 5
) -> Array:
    """u with −Δu + c u = f inside and u = g at the boundary's points.

    Arguments:
        source: f at points (m, D), gives (m,).
        boundary: g likewise.
        reaction: c ≥ 0; 0 is Poisson's equation, 1 the literature's "Helmholtz".
        n: points of the quadrature of f along an axis.

    Returns:
        (N,) at the points.
    """
    rule = conical(grid.dim, n)
    at = np.einsum("qk,ckd->cqd", rule.at, grid.points[grid.cells])  # (C, q, D)
    values = source(at.reshape(-1, grid.dim)).reshape(at.shape[:2])
    load = grid.sum_at_points((values * rule.weights * grid.measures[:, None]) @ rule.at)
    held = np.zeros(len(grid.points), bool)
    held[grid.boundary.reshape(-1)] = True
    matrix = grid.stiffness + reaction * grid.mass
    return solve_dirichlet(matrix.tocsr(), load, held, boundary(grid.points))


def l2_error(grid: Simplices, values: Array, exact: Field, n: int = 5) -> float:
    """√∫ (u − exact)² of point values (N,).

    >>> grid = Simplices([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[0, 1, 2]])
    >>> round(l2_error(grid, np.ones(3), lambda x: np.zeros(len(x))) ** 2, 12)
    0.5
    """
    rule = conical(grid.dim, n)
    at = np.einsum("qk,ckd->cqd", rule.at, grid.points[grid.cells])
    want = exact(at.reshape(-1, grid.dim)).reshape(at.shape[:2])
    gap = values[grid.cells] @ rule.at.T - want
    return float(np.sqrt((gap**2 * rule.weights * grid.measures[:, None]).sum()))
