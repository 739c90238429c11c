"""Cell averages of one mesh on another, integrals kept: exact intersections of their cells."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Num, Shaped
from scipy.sparse import csr_matrix
from torch import Tensor

from meshsim.check import InputError, check_finite
from meshsim.geometry.overlap import common_measure, overlapping_boxes
from meshsim.mesh import Mesh
from meshsim.movers.transfer import _Faces

_AT_ONCE = 2_000_000  # pairs of simplices


class Overlap(NamedTuple):
    """What cells of two meshes have in common.

    Arguments:
        measures: (G, C) sparse, |goal cell ∩ cell|.
        source, goal: (C,), (G,) measures of the cells, of the same pieces.
    """

    measures: csr_matrix
    source: np.ndarray
    goal: np.ndarray

    @property
    def lost(self) -> float:
        """Share of the source's measure that lies outside the goal."""
        total = self.source.sum()
        return float(1 - self.measures.sum() / total) if total else 0.0

    @property
    def uncovered(self) -> np.ndarray:
        """(G,) share of each goal cell that lies outside the source."""
        held = np.asarray(self.measures.sum(axis=1)).reshape(-1)
        return 1 - held / self.goal


def overlap(mesh: Mesh, goal: Mesh) -> Overlap:
    """The measure that each cell of `goal` has in common with each cell of `mesh`.

    Cells are cut into signed simplices, from their first corner to their faces; faces with more
    than three corners are cut about their mean, so that cells with bent faces meet without gaps.
    Signs make cells that are bent inwards right too. Work and memory grow with the number of
    simplices that come near one another: some 20 for each of a tetrahedron, 12 · 12 times as many
    for hexahedra.

    Raises:
        InputError: different dimensions, or cells that do not fill their space.
    """
    if mesh.dim != goal.dim:
        raise InputError(f"expected meshes of one dimension, got {mesh.dim}-D and {goal.dim}-D")
    (a, of, sign, source), (b, to, other, measure) = _signed(mesh), _signed(goal)
    shape = (goal.n_cells, mesh.n_cells)
    found: list[tuple[np.ndarray, ...]] = []
    low, high = a.min(1), a.max(1)
    other_low, other_high = b.min(1), b.max(1)
    step = 100_000  # simplices
    for first in range(0, len(a), step):
        i, j = overlapping_boxes(
            low[first : first + step], high[first : first + step], other_low, other_high
        )
        i = i + first
        for start in range(0, len(i), _AT_ONCE):
            p, q = i[start : start + _AT_ONCE], j[start : start + _AT_ONCE]
            size = common_measure(torch.from_numpy(a[p]), torch.from_numpy(b[q]))[0].numpy()
            real = size > 0
            p, q, size = p[real], q[real], size[real]
            found.append((size * sign[p] * other[q], to[q], of[p]))
    if not found:
        return Overlap(csr_matrix(shape), source, measure)
    sizes, rows, columns = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Overlap(csr_matrix((sizes, (rows, columns)), shape=shape), source, measure)


def remap(
    known: Overlap, values: Num[Tensor, "C ..."], normalise: bool = False
) -> Shaped[Tensor, "G ..."]:
    """Averages over the goal's cells: u_g = Σ_c |g ∩ c| u_c / |g|, or / Σ_c |g ∩ c|.

    The first keeps the integral over what the goal covers to rounding, where the source ends inside
    a goal cell the rest counts as 0. The second keeps constants everywhere; both are the same on
    one domain. No value leaves the range of those that it is made of. First order in the size of
    the cells. (Supermesh: Farrell, Piggott, Pain, Gorman and Wilson, Comput. Methods Appl. Mech.
    Engrg. 198, 2009.)

    Arguments:
        known: of `overlap`.
        values: (C, …) floating-point averages over the source's cells.
        normalise: divide by what is covered; cells wholly outside get 0.

    Raises:
        InputError: values of another number, not finite, or integers.

    >>> quad = Mesh([[0., 0.], [2., 0.], [2., 1.], [0., 1.]], {"quad": [[0, 1, 2, 3]]})
    >>> two = quad.replace(cells={"triangle": [[0, 1, 2], [0, 2, 3]]})
    >>> remap(overlap(two, quad), torch.tensor([1.0, 3.0]))
    tensor([2.])
    """
    if values.shape[:1] != (len(known.source),):
        raise InputError(f"`values`: expected {len(known.source)} rows, got {tuple(values.shape)}")
    if not values.is_floating_point():
        raise InputError(f"`values`: expected floating-point numbers, got {values.dtype}")
    check_finite(values, "values")
    flat = values.detach().cpu().double().reshape(len(values), -1).numpy()
    sums = known.measures @ flat
    size = known.goal
    if normalise:
        size = np.asarray(known.measures.sum(axis=1)).reshape(-1)
        size = np.where(size > 1e-12 * known.goal, size, np.inf)
    out = torch.from_numpy(sums / size[:, None])
    return out.reshape(len(size), *values.shape[1:]).to(values.dtype)


def _signed(mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Simplices (S, D + 1, D), their cells, signs, and the cells' measures."""
    if mesh.cell_dim != mesh.dim or mesh.dim not in (2, 3):
        raise InputError(f"expected cells that fill {mesh.dim}-D space, got {mesh.cell_dim}-D ones")
    points, dim = mesh.points.detach().double(), mesh.dim
    faces = _Faces(mesh)
    corners = faces.simplices(points)  # (P, D, D)
    of = faces.part_of
    if dim == 3:  # triangles as they are
        three = faces.count == 3
        table = mesh.faces
        flat = points[table.nodes[table.offsets[:-1][three][:, None] + torch.arange(3)]]
        keep = ~three[of]
        corners = torch.cat([corners[keep], flat])
        of = torch.cat([of[keep], torch.arange(len(three))[three]])
    turn = faces.sign[of]
    owner, neighbour = faces.owner[of], faces.neighbour[of]
    inner = neighbour >= 0
    cell = torch.cat([owner, neighbour[inner]])
    base = torch.cat([corners, corners[inner]])
    turn = torch.cat([turn, -turn[inner]])
    apex = _first_corner(mesh)[cell]
    whole = torch.cat([points[apex][:, None], base], 1)  # (S, D + 1, D)
    e = whole[:, 1:] - whole[:, :1]
    size = torch.linalg.det(e) / (2 if dim == 2 else 6)
    signed = turn * size
    measure = torch.zeros(mesh.n_cells, dtype=torch.float64).index_add(0, cell, signed)
    real = size.abs() > 1e-15 * measure.abs()[cell]
    signs = (signed.sign() * measure.sign()[cell])[real]
    if not bool((measure != 0).all()):
        raise InputError(f"cell {int(measure.abs().argmin())} has no measure")
    return (
        whole[real].numpy(),
        cell[real].numpy(),
        signs.numpy(),
        measure.abs().numpy(),
    )


def _first_corner(mesh: Mesh) -> Tensor:
    """(C,) a point of each cell."""
    out = torch.full((mesh.n_cells,), -1, dtype=torch.int64)
    faces = mesh.faces
    first = faces.nodes[faces.offsets[:-1]]
    inner = faces.neighbour >= 0
    out[faces.neighbour[inner]] = first[inner]
    out[faces.owner] = first
    return out
