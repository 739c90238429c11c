"""Gradients and Hessians at points, recovered from point values in linear elements."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix, spmatrix
from scipy.sparse.linalg import splu

from meshsim.movers.simplices import Array, Simplices


def gradient(grid: Simplices, values: Array, method: str = "l2") -> Array:
    """∇u at the points.

    "l2" projects the cells' gradients, ∫ψ g = ∫ψ ∇u; "average" is their mean by measure over the
    cells of a point (Clément 1975), the same with a lumped mass: local, and never oscillating.

    Arguments:
        values: (N,) u at the points.

    Returns:
        (N, D).

    >>> grid = Simplices([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[0, 1, 2]])
    >>> gradient(grid, np.array([0.0, 2.0, 3.0]))[0].round(12)
    array([2., 3.])
    """
    loads = np.stack([d @ values for d in grid.derivatives], 1)
    return _divide(grid, loads, method)


def hessian(grid: Simplices, values: Array, method: str = "l2") -> Array:
    """∇∇u at the points, symmetric.

    "l2" and "average" recover the gradient of the recovered gradient. "weak" projects at once,
    ∫τ:H = −∫ div τ · ∇u + ∮ ∇u · τn (Song et al., UM2N, NeurIPS 2024).

    Arguments:
        values: (N,) u at the points.

    Returns:
        (N, D, D).
    """
    n, dim = grid.points.shape
    if method == "weak":
        loads = np.stack([(w @ values) for row in _weak(grid) for w in row], 1)
        full = grid.mass_solver.solve(loads).reshape(n, dim, dim)
    else:
        slope = gradient(grid, values, method)
        loads = np.stack([d @ slope[:, i] for i in range(dim) for d in grid.derivatives], 1)
        full = _divide(grid, loads, method).reshape(n, dim, dim)
    out: Array = (full + full.transpose(0, 2, 1)) / 2
    return out


def smooth(grid: Simplices, values: Array, rounds: float) -> Array:
    """Values spread over about √rounds cells: v − K Δv = m with K = rounds · h̄² / 4.

    h̄ is the mean size of a cell, the D-th root of D! times its measure; on the boundary v = m
    (UM2N's swirl case).

    Arguments:
        values: (N,).
    """
    dim = grid.dim
    size = float(np.mean((grid.measures * (2 if dim == 2 else 6)) ** (1 / dim)))
    matrix = (grid.mass + rounds * size**2 / 4 * grid.stiffness).tocsr()
    held = np.zeros(len(values), bool)
    held[grid.boundary.reshape(-1)] = True
    return solve_dirichlet(matrix, grid.mass @ values, held, values)


def solve_dirichlet(matrix: spmatrix, load: Array, held: np.ndarray, values: Array) -> Array:
    """The solution (N, …) of a sparse system with the rows `held` (N,) bool fixed at `values`."""
    out = np.zeros(values.shape)
    out[held] = values[held]
    inside = np.flatnonzero(~held)
    if len(inside):
        rest = load[inside] - matrix[inside] @ out
        out[inside] = splu(matrix[inside][:, inside].tocsc()).solve(rest)
    return out


def _divide(grid: Simplices, loads: Array, method: str) -> Array:
    if method == "average":
        out: Array = loads / grid.lumped[:, None]
        return out
    found: Array = grid.mass_solver.solve(loads)
    return found


def _weak(grid: Simplices) -> list[list[csr_matrix]]:
    """−∫ ∂_j τ ∂_i u + ∮ τ ∂_i u n_j, i and j in turn."""
    # −∫ ∂_j τ ∂_i u: the transpose of ∫ λ ∂_j times the cells' ∂_i, which are constant there.
    g, k = grid.gradients, grid.dim + 1
    held = grid.cells[grid.boundary_cells]
    share = (held[:, :, None] == grid.boundary[:, None, :]).any(2) / grid.dim  # (B, k)
    rows, columns = np.repeat(held, k, 1).reshape(-1), np.tile(held, (1, k)).reshape(-1)
    shape = (len(grid.points), len(grid.points))
    out: list[list[csr_matrix]] = []
    for i in range(grid.dim):
        out.append([])
        for j in range(grid.dim):
            inner = -grid.measures[:, None, None] * (g[:, :, j, None] * g[:, None, :, i])
            slope = g[grid.boundary_cells][:, None, :, i]
            edge = share[:, :, None] * grid.boundary_normals[:, j, None, None] * slope
            out[i].append(
                grid.assemble(inner) + csr_matrix((edge.reshape(-1), (rows, columns)), shape=shape)
            )
    return out
