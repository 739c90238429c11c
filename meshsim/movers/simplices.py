"""Linear finite elements on triangles and tetrahedra: the matrices that mesh movement needs."""

from __future__ import annotations

from functools import cached_property
from itertools import combinations_with_replacement, permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix, spmatrix
from scipy.sparse.linalg import SuperLU, splu

from meshsim.check import InputError, check_finite, check_index
from meshsim.mesh import ArrayLike, as_index, as_tensor

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


class Quadrature(NamedTuple):
    """Points of a simplex as barycentric coordinates (q, D + 1), and weights (q,) of sum 1."""

    at: Array
    weights: Array


def quadrature(dim: int) -> Quadrature:
    """Rules exact to degree 4 on triangles (Dunavant 1985) and 5 on tetrahedra (Walkington 2000).

    >>> rule = quadrature(2)
    >>> round(float(rule.weights @ rule.at[:, 0] ** 4 * 15), 12)  # the mean of λ⁴ is 1/15
    1.0
    """
    orbits: list[tuple[float, tuple[float, ...]]]
    if dim == 2:
        a, b = 0.44594849091596488632, 0.09157621350977074346
        u, v = 0.22338158967801146570, 0.10995174365532186764
        orbits = [(u, (a, a, 1 - 2 * a)), (v, (b, b, 1 - 2 * b))]
    else:
        a, b, c = 0.31088591926330060980, 0.09273525031089122640, 0.04550370412564964949
        u, v, w = 0.11268792571801585080, 0.07349304311636194954, 0.04254602077708146644
        orbits = [
            (u, (a, a, a, 1 - 3 * a)),
            (v, (b, b, b, 1 - 3 * b)),
            (w, (c, c, 0.5 - c, 0.5 - c)),
        ]
    at, weights = [], []
    for weight, point in orbits:
        places = sorted(set(permutations(point)))
        at += places
        weights += [weight] * len(places)
    total = np.array(weights)
    return Quadrature(np.array(at), total / total.sum())


class Simplices:
    """Linear elements on a mesh of triangles in the plane or of tetrahedra, in float64.

    Cells may be wound either way: they are turned so that every measure is positive.

    Arguments:
        points: (N, D) float, D = 2, 3.
        cells: (C, D + 1) int.
        check: False takes folded meshes and cells without measure as they are.

    Raises:
        InputError: shapes or indices do not fit, a coordinate is not finite, a cell has no measure
            or is folded over its neighbour, a facet belongs to more than two cells.

    >>> grid = Simplices([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[0, 2, 1]])
    >>> grid.measures, grid.cells.tolist()
    (array([0.5]), [[0, 1, 2]])
    """

    def __init__(self, points: ArrayLike, cells: ArrayLike, check: bool = True):
        x, c = as_tensor(points).detach().cpu().double(), as_index(cells, "cells").cpu()
        if x.dim() != 2 or x.shape[1] not in (2, 3):
            raise InputError(f"`points`: expected shape (N, 2) or (N, 3), got {tuple(x.shape)}")
        dim = x.shape[1]
        if c.dim() != 2 or c.shape[1] != dim + 1:
            raise InputError(f"`cells`: expected shape (C, {dim + 1}), got {tuple(c.shape)}")
        check_finite(x, "points")
        check_index(c, len(x), "cells")
        self.dim = dim
        self.points: Array = x.numpy()
        self.cells: Indices = c.numpy().copy()
        signed = self.signed(self.points)
        swap = signed < 0
        self.cells[swap, -2:] = self.cells[swap, -2:][:, ::-1]
        self.measures: Array = np.abs(signed)
        if check:
            self._check()

    def _check(self) -> None:
        size = np.ptp(self.points[self.cells], axis=1).max(1)  # (C,)
        flat = np.flatnonzero(self.measures <= 1e-13 * size**self.dim)
        if len(flat):
            raise InputError(
                f"`cells`: expected cells of positive measure, got {len(flat)} without, the first"
                f" cell {flat[0]} at {_place(self.points[self.cells[flat[0]]])}"
            )
        _, _, ids, facet_ways, counts = self._facet_table
        if (counts > 2).any():
            self._refuse("belongs to more than two cells", counts > 2)
        ways = np.bincount(ids, facet_ways, len(counts))
        folded = (counts == 2) & (ways != 0)
        if folded.any():
            self._refuse("has both its cells on one side: the mesh is folded there", folded)

    def _refuse(self, what: str, bad: NDArray[np.bool_]) -> None:
        first = self._facet_table[1][np.flatnonzero(bad)[0]]
        raise InputError(
            f"`cells`: the facet of points {tuple(first.tolist())} at {_place(self.points[first])}"
            f" {what} ({int(bad.sum())} such)"
        )

    @cached_property
    def _facet_table(self) -> tuple[Indices, Indices, Indices, Array, Indices]:
        """Facets as listed (n, D), sorted and unique (F, D), numbers (n,), ways (n,), counts."""
        d = self.dim
        local = [(1, 2), (2, 0), (0, 1)] if d == 2 else [(1, 2, 3), (0, 3, 2), (0, 1, 3), (0, 2, 1)]
        listed = np.concatenate([self.cells[:, list(f)] for f in local])  # outwards, (n, D)
        ordered = np.sort(listed, 1)
        unique, ids, counts = np.unique(ordered, axis=0, return_inverse=True, return_counts=True)
        ways = np.ones(len(listed))
        for i in range(d):
            for j in range(i + 1, d):
                ways *= np.where(listed[:, i] > listed[:, j], -1.0, 1.0)
        return listed, unique, ids.reshape(-1), ways, counts

    @cached_property
    def boundary(self) -> Indices:
        """(B, D) facets of one cell only, their right-hand normals outwards."""
        listed, _, ids, _, counts = self._facet_table
        return listed[counts[ids] == 1]

    @cached_property
    def boundary_normals(self) -> Array:
        """(B, D) outward normals of `boundary`, as long as the facet is large."""
        x = self.points[self.boundary]  # (B, D, D)
        if self.dim == 2:
            along = x[:, 1] - x[:, 0]
            return np.stack([along[:, 1], -along[:, 0]], 1)
        normal: Array = np.cross(x[:, 1] - x[:, 0], x[:, 2] - x[:, 0]) / 2
        return normal

    @cached_property
    def boundary_cells(self) -> Indices:
        """(B,) the cell of each facet of `boundary`."""
        _, _, ids, _, counts = self._facet_table
        return np.flatnonzero(counts[ids] == 1) % len(self.cells)

    @cached_property
    def gradients(self) -> Array:
        """(C, D + 1, D) the gradients of the barycentric coordinates."""
        edges = self.points[self.cells[:, 1:]] - self.points[self.cells[:, :1]]  # (C, D, D)
        rest = np.linalg.inv(edges).transpose(0, 2, 1)  # (C, D, D), row i: ∇λ_{i+1}
        return np.concatenate([-rest.sum(1, keepdims=True), rest], 1)

    def signed(self, points: Array) -> Array:
        """(C,) signed measures of the cells with their points at `points` (N, D)."""
        return measures(points, self.cells)

    def assemble(self, local: Array) -> csr_matrix:
        """The (N, N) matrix of the cells' own (C, D + 1, D + 1), rows the test functions."""
        n, k = len(self.points), self.dim + 1
        rows = np.repeat(self.cells, k, 1).reshape(-1)
        columns = np.tile(self.cells, (1, k)).reshape(-1)
        return csr_matrix((local.reshape(-1), (rows, columns)), shape=(n, n))

    def sum_at_points(self, local: Array) -> Array:
        """(N,) sums at points of what their cells hold for them, (C, D + 1)."""
        total = np.bincount(self.cells.reshape(-1), local.reshape(-1), len(self.points))
        return total.astype(np.float64, copy=False)

    @cached_property
    def mass(self) -> csr_matrix:
        """∫ λ_i λ_j."""
        k = self.dim + 1
        unit = (np.eye(k) + 1) / (k * (k + 1))
        return self.assemble(self.measures[:, None, None] * unit)

    @cached_property
    def lumped(self) -> Array:
        """(N,) ∫ λ_i: the points' own shares of the mesh."""
        k = self.dim + 1
        return self.sum_at_points(np.repeat(self.measures[:, None] / k, k, 1))

    @cached_property
    def stiffness(self) -> csr_matrix:
        """∫ ∇λ_i · ∇λ_j."""
        g = self.gradients
        return self.assemble(self.measures[:, None, None] * (g @ g.transpose(0, 2, 1)))

    @cached_property
    def derivatives(self) -> tuple[csr_matrix, ...]:
        """∫ λ_i ∂_d λ_j for each direction d."""
        k = self.dim + 1
        share = self.measures[:, None, None] / k
        return tuple(
            self.assemble(np.repeat(share * self.gradients[:, None, :, d], k, 1))
            for d in range(self.dim)
        )

    @cached_property
    def mass_solver(self) -> SuperLU:
        return factor(self.mass)

    @cached_property
    def poisson_solver(self) -> SuperLU:
        """The stiffness matrix with the first point held at zero."""
        held = self.stiffness.tolil()
        held[0, :] = 0.0
        held[:, 0] = 0.0
        held[0, 0] = 1.0
        return factor(held)

    @cached_property
    def hessian_loads(self) -> dict[tuple[int, int], csr_matrix]:
        """For i ≤ j the matrix of −∫ ∂_j τ ∂_i φ + ∮ τ t_i n_j, t the tangential part of ∇φ.

        Its rows are test functions τ, its columns φ; the pairs (i, j) and (j, i) give the same
        (weak Hessian, McRae et al. 2018, eq. 3.12).
        """
        g, n = self.gradients, self.boundary_normals
        size = np.linalg.norm(n, axis=1, keepdims=True)
        unit = n / size
        own = self.boundary_cells
        held = self.cells[own]  # (B, D + 1)
        # ∮ λ_a over the facet: a share of its size for its own points, none for the one opposite.
        on = (held[:, :, None] == self.boundary[:, None, :]).any(2) * size / self.dim  # (B, D + 1)
        slope = g[own]  # (B, D + 1, D)
        tangent = slope - (slope @ unit[:, :, None]) * unit[:, None, :]  # (B, D + 1, D)
        points, k = len(self.points), self.dim + 1
        rows = np.repeat(held, k, 1).reshape(-1)
        columns = np.tile(held, (1, k)).reshape(-1)
        out = {}
        for i, j in combinations_with_replacement(range(self.dim), 2):
            inner = -self.measures[:, None, None] * (g[:, :, j, None] * g[:, None, :, i])
            edge = on[:, :, None] * (tangent[:, None, :, i] * unit[:, j, None, None])
            out[i, j] = self.assemble(inner) + csr_matrix(
                (edge.reshape(-1), (rows, columns)), shape=(points, points)
            )
        return out


def measures(points: Array, ids: Indices) -> Array:
    """(K,) signed measures of simplices (K, D + 1)."""
    return volumes(points, list(ids.T)) / (2 if points.shape[1] == 2 else 6)


def volumes(points: Array, corners: list[Indices]) -> Array:
    """(K,) signed measures times D! of simplices, given as their D + 1 corners (K,) each.

    Coordinate by coordinate: several times as fast as LAPACK's or numpy's products of many small
    matrices.
    """
    axes = [np.ascontiguousarray(points[:, d]) for d in range(points.shape[1])]
    first = [axis[corners[0]] for axis in axes]
    edges = [[axis[ids] - o for axis, o in zip(axes, first, strict=True)] for ids in corners[1:]]
    if len(edges) == 2:
        (a, b), (c, d) = edges
        return a * d - b * c
    (a, b, c), (d, e, f), (g, h, i) = edges
    out: Array = a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g)
    return out


def factor(matrix: spmatrix) -> SuperLU:
    """LU factors of a sparse matrix that is symmetric, or nearly."""
    return splu(
        csc_matrix(matrix),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )


def _place(corners: Array) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in corners.mean(0)) + ")"
