"""Taylor–Hood elements on triangles: the matrices of the Navier–Stokes equations, assembled fast.

Velocity is piecewise quadratic, pressure piecewise linear, both isoparametric: the sides of the
triangles may be parabolas. scikit-fem gives the bases and the matrices that stay; the convection
matrix changes every step, so it is summed here into a sparsity pattern that is made once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from numpy.typing import NDArray

from meshsim.check import MissingExtra, check_known

Array = NDArray[np.float64]


class TaylorHood:
    """P2/P1 spaces on one mesh of N velocity nodes, V vertices (pressure nodes) and C triangles.

    Nodes are numbered vertices first, then the midpoints of the sides. `mass`, `stiffness` are
    `(N, N)` for one velocity component; `pressure_mass`, `pressure_stiffness` are `(V, V)`;
    `divergence` is a pair of `(V, N)`, `−∫ q ∂u/∂x` and `−∫ q ∂v/∂y`.

    Arguments:
        mesh: a `skfem.MeshTri2` (or a `MeshTri`, whose sides are straight).

    Raises:
        MissingExtra: scikit-fem is not installed.
    """

    def __init__(self, mesh: Any) -> None:
        try:
            import skfem
        except ImportError as error:
            raise MissingExtra("scikit-fem", "solve") from error
        if not isinstance(mesh, skfem.MeshTri2):
            mesh = skfem.MeshTri2.from_mesh(mesh)
        self.mesh = mesh
        # degree 5 is exact for u·∇u·v on straight triangles: 2 + 1 + 2
        velocity = skfem.Basis(mesh, skfem.ElementTriP2(), intorder=5)
        pressure = velocity.with_element(skfem.ElementTriP1())
        self.points: Array = np.ascontiguousarray(mesh.doflocs.T)  # (N, 2)
        self.cells = np.ascontiguousarray(velocity.element_dofs.T.astype(np.int64))  # (C, 6)
        self.nodes, self.vertices = int(velocity.N), int(pressure.N)

        self._weights: Array = velocity.dx  # (C, Q)
        self._value: Array = np.stack([b[0].value[0] for b in velocity.basis])  # (6, Q)
        gradient = np.stack([b[0].grad for b in velocity.basis])  # (6, 2, C, Q)
        self._gradient: Array = np.ascontiguousarray(gradient.transpose(1, 2, 0, 3))  # (2, C, 6, Q)

        mass = skfem.BilinearForm(lambda u, v, w: u * v)
        stiffness = skfem.BilinearForm(
            lambda u, v, w: u.grad[0] * v.grad[0] + u.grad[1] * v.grad[1]
        )
        self.pattern = _Pattern(self.cells, self.nodes)
        self.mass = self.matrix(self.pattern.align(mass.assemble(velocity)))
        self.stiffness = self.matrix(self.pattern.align(stiffness.assemble(velocity)))
        self.pressure_mass = mass.assemble(pressure).tocsc()
        self.pressure_stiffness = stiffness.assemble(pressure).tocsc()
        self.divergence = tuple(
            skfem.BilinearForm(lambda u, q, w, i=i: -q * u.grad[i])
            .assemble(velocity, pressure)
            .tocsr()
            for i in range(2)
        )

    def edges(self, boundary: str) -> Int[np.ndarray, "n 3"]:
        """The sides `(n, 3)` of the named boundary: its two vertices, then its midpoint.

        Raises:
            InputError: the mesh has no boundary of this name.
        """
        named = self.mesh.boundaries or {}
        check_known(boundary, named, "boundary")
        facets = np.asarray(named[boundary])
        middle = self.mesh.dofs.facet_dofs[0, facets]
        return np.column_stack([self.mesh.facets[:, facets].T, middle]).astype(np.int64)

    def linear_triangles(self) -> Int[np.ndarray, "C4 3"]:
        """Every triangle split at its midpoints into four straight ones, `(4 C, 3)`."""
        corners = [[0, 3, 5], [3, 1, 4], [5, 4, 2], [3, 4, 5]]
        triangles = self.cells[:, corners].reshape(-1, 3)
        a, b, c = (self.points[triangles[:, i]] for i in range(3))
        area = np.cross(np.c_[b - a, 0 * a[:, :1]], np.c_[c - a, 0 * a[:, :1]])[:, 2]
        triangles[area < 0] = triangles[area < 0][:, ::-1]  # counter-clockwise throughout
        return triangles

    def at_nodes(self, pressure: Float[np.ndarray, "V"]) -> Float[np.ndarray, "N"]:
        """Pressure `(V,)` at all nodes `(N,)`: at a midpoint the mean of the side's two ends."""
        ends = self.mesh.facets
        values = np.empty(self.nodes)
        values[: self.vertices] = pressure
        values[self.mesh.dofs.facet_dofs[0]] = pressure[ends].mean(axis=0)
        return values

    def convection(self, velocity: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "entries"]:
        """Entries of the matrix `∫ (w·∇φⱼ) φᵢ`, in the order of `pattern`, for w `(N, 2)`."""
        at = np.einsum("cad,aq->dcq", velocity[self.cells], self._value, optimize=True)
        at *= self._weights  # (2, C, Q)
        along = at[0][:, None] * self._gradient[0]
        along += at[1][:, None] * self._gradient[1]  # (C, 6 of φⱼ, Q)
        return self.pattern.sum(along @ self._value.T)  # (C, 6 of φⱼ, 6 of φᵢ)

    def reaction(
        self, velocity: Float[np.ndarray, "N 2"]
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Entries of `∫ (∂w_k/∂x_l) φⱼ φᵢ` for `[k][l]`: what Newton adds to `convection`."""
        local = velocity[self.cells]  # (C, 6, 2)
        slope = np.einsum("cak,lcaq->klcq", local, self._gradient, optimize=True) * self._weights

        def entries(k: int, axis: int) -> Array:
            weighted = slope[k, axis][:, None] * self._value  # (C, 6, Q)
            return self.pattern.sum(weighted @ self._value.T)

        return (entries(0, 0), entries(0, 1)), (entries(1, 0), entries(1, 1))

    def matrix(self, entries: Float[np.ndarray, "entries"]) -> sp.csr_matrix:
        """The `(N, N)` matrix with these entries in the order of `pattern`."""
        return sp.csr_matrix(
            (entries, self.pattern.columns, self.pattern.starts), shape=(self.nodes, self.nodes)
        )

    def error(self, velocity: Float[np.ndarray, "N 2"], exact: Float[np.ndarray, "N 2"]) -> float:
        """The L2 norm of the difference of two velocities `(N, 2)`."""
        difference = velocity - exact
        return float(np.sqrt(np.sum(difference * (self.mass @ difference))))


class _Pattern:
    """Compressed rows of an `(N, N)` matrix that couples the nodes of every cell."""

    def __init__(self, cells: NDArray[np.int64], nodes: int) -> None:
        width = cells.shape[1]
        column = np.repeat(cells, width, axis=1).ravel()  # the local matrices come as (φⱼ, φᵢ)
        row = np.tile(cells, (1, width)).ravel()
        keys, self._place = np.unique(row * nodes + column, return_inverse=True)
        self._place = self._place.astype(np.intp)
        self.rows = keys // nodes
        self.columns = (keys % nodes).astype(np.int32)
        self.starts = np.searchsorted(self.rows, np.arange(nodes + 1)).astype(np.int32)
        self.size = len(keys)

    def sum(self, local: Array) -> Array:
        """Entries `(size,)`: the local matrices `(C, k, k)` added where they belong."""
        entries = np.bincount(self._place, weights=local.ravel(), minlength=self.size)
        return np.asarray(entries, dtype=np.float64)

    def align(self, matrix: sp.spmatrix) -> Array:
        """The entries `(size,)` of a matrix whose pattern is this one or a part of it."""
        coordinate = matrix.tocoo()
        nodes = len(self.starts) - 1
        keys = self.rows * nodes + self.columns
        entries = np.zeros(self.size)
        where = np.searchsorted(keys, coordinate.row.astype(np.int64) * nodes + coordinate.col)
        np.add.at(entries, where, coordinate.data)
        return entries
