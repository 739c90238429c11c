"""Normals and curvature at the points of a surface in space or a curve in the plane."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from meshsim.geometry import measure
from meshsim.geometry.cells import Cells
from meshsim.geometry.pieces import area_vectors
from meshsim.geometry.topology import edges


def skin_normals(points: Float[Tensor, "N D"], blocks: Sequence[Cells]) -> Float[Tensor, "N D"]:
    """Unit normals at the points of a surface, or of a curve in the plane.

    n ∝ Σ S_f over the faces about a point, S_f = (dy, −dx) of a segment: to the right of its way,
    out of a body that the curve goes round against the clock.

    Arguments:
        points: (N, D) float.
        blocks: polygons for D = 3, lines for D = 2.

    Returns:
        (N, D); zero at points of no cell and where normals cancel.

    Raises:
        InputError: cells of another dimension in space.

    >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> skin_normals(points, [Cells("line", torch.tensor([[0, 1], [1, 2]]))])[1]
    tensor([ 0., -1.])
    """
    if points.shape[1] == 3:
        return measure.point_normals(points, blocks)
    x = points.double()
    ends = torch.cat([torch.zeros(0, 2, dtype=torch.int64), *(b.nodes[:, :2] for b in blocks)])
    total = torch.zeros_like(x)
    for i in (0, 1):
        total = total.index_add(0, ends[:, i], area_vectors(x[ends]))
    length = total.norm(dim=1, keepdim=True)
    return (total / length.masked_fill(length == 0, 1.0)).to(points.dtype)


def skin_curvatures(points: Float[Tensor, "N D"], blocks: Sequence[Cells]) -> Float[Tensor, " N"]:
    """Mean curvature at the points of a surface, or of a curve in the plane.

    From how far the neighbours of a point fall off its tangent: a circle of radius R does so by
    f = h² / 2R at distance h, so that κ = 2 Σ f / Σ h². Exact on even polygons about a circle,
    within a tenth on uneven triangles.

    Arguments:
        points: (N, D) float.
        blocks: polygons for D = 3, lines for D = 2.

    Returns:
        (N,) 1 / unit of length: positive where the surface bends away from its normals, as a
        sphere with outward ones does; zero at points of no cell.

    >>> ring = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, -2.0]])
    >>> lines = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]])
    >>> skin_curvatures(ring, [Cells("line", lines)])
    tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    x = points.double()
    normal = skin_normals(x, blocks)
    pairs = edges(blocks, len(points))
    i, j = torch.cat([pairs, pairs.flip(1)]).unbind(1)
    away = x[j] - x[i]  # (E, D)
    fall = -(away * normal[i]).sum(1)
    zero = x.new_zeros(len(x))
    total, square = (zero.index_add(0, i, v) for v in (fall, away.square().sum(1)))
    return (2 * total / square.masked_fill(square == 0, 1.0)).to(points.dtype)
