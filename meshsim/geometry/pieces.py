"""Surfaces as triangles and curves as segments, and fields on them between the points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.check import InputError, check_length
from meshsim.geometry.cells import Cells
from meshsim.geometry.measure import rings


class Pieces(NamedTuple):
    """A surface as triangles, or a curve as segments; quadratic cells by their corners.

    Arguments:
        points: (P, D) float64, the mesh's points, then the mean points of fans.
        nodes: (T, D) int64 corners of the pieces, wound as their faces are.
        face: (T,) int64, rising: the cell that each is part of.
        offsets, corners: mean point q of the fans is that of `corners[offsets[q]:offsets[q + 1]]`.
    """

    points: Tensor
    nodes: Tensor
    face: Tensor
    offsets: Tensor
    corners: Tensor

    def spread(self, values: Float[Tensor, "N ..."]) -> Float[Tensor, "P ..."]:
        """Values at the mesh's points, continued to the mean points of fans."""
        sizes = self.offsets.diff()
        row = torch.repeat_interleave(sizes)
        total = values.new_zeros(len(sizes), *values.shape[1:])
        total = total.index_add(0, row, values[self.corners])
        return torch.cat([values, total / sizes.reshape(-1, *[1] * (values.dim() - 1))])

    def vectors(self) -> Float[Tensor, "T D"]:
        """Area vectors, right-handed; of curves in the plane (dy, −dx), out of a circuit."""
        return area_vectors(self.points[self.nodes])


def area_vectors(x: Float[Tensor, "T D D"]) -> Float[Tensor, "T D"]:
    """Area vectors of triangles or segments by their corners."""
    e = x[:, 1:] - x[:, :1]
    if x.shape[2] == 2:
        return torch.stack([e[:, 0, 1], -e[:, 0, 0]], 1)
    return torch.linalg.cross(e[:, 0], e[:, 1]) / 2


def pieces(points: Float[Tensor, "N D"], blocks: Sequence[Cells]) -> Pieces:
    """The triangles of a surface in space, or the segments of a curve in the plane.

    Cells with more corners than three are cut into a fan about the mean of their corners, as
    OpenFOAM does (`measure.polygon_areas`); where that folds over, because the cell is bent
    inwards, about the corner from which the fan folds over least.

    Arguments:
        points: (N, D) float, D = 2 or 3.
        blocks: lines for D = 2, triangles, quads and polygons for D = 3.

    Raises:
        InputError: cells of another dimension.

    >>> square = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    >>> pieces(square, [Cells("quad", torch.tensor([[0, 1, 2, 3]]))]).nodes.tolist()
    [[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]]
    """
    dim = points.shape[1]
    if any(block.dim != dim - 1 for block in blocks):
        raise InputError(
            f"`blocks`: expected {dim - 1}-D cells on {dim}-D points, got"
            f" {', '.join(sorted({f'{block.dim}-D' for block in blocks}))}"
        )
    x, device = points.double(), points.device
    none = torch.zeros(0, dtype=torch.int64, device=device)
    nodes, face = [none.reshape(0, dim)], [none]
    means, sizes, corners = [x[:0]], [none], [none]
    first, extra = 0, len(points)
    for block in blocks:
        for ids, ring in rings(block) if dim == 3 else _lines(block):
            k = ring.shape[1]
            if k == dim:
                nodes.append(ring)
                face.append(ids + first)
            if k <= 3:
                continue
            for rows, apex in _apexes(x, ring):
                own, of = ring[rows], ids[rows] + first
                middle = own[:, apex] if apex >= 0 else extra + torch.arange(len(own)).to(own)
                sides = [i for i in range(k) if apex < 0 or apex not in (i, (i + 1) % k)]
                some = [torch.stack([own[:, i], own[:, (i + 1) % k], middle], 1) for i in sides]
                nodes.append(torch.stack(some, 1).flatten(0, 1))
                face.append(of.repeat_interleave(len(sides)))
                if apex < 0:
                    means.append(x[own].mean(1))
                    sizes.append(torch.full_like(of, k))
                    corners.append(own.reshape(-1))
                    extra += len(own)
        first += len(block)
    owner, order = torch.cat(face).sort(stable=True)
    ends = torch.nn.functional.pad(torch.cat(sizes).cumsum(0), (1, 0))
    return Pieces(torch.cat([x, *means]), torch.cat(nodes)[order], owner, ends, torch.cat(corners))


def _lines(block: Cells) -> list[tuple[Tensor, Tensor]]:
    return [(torch.arange(len(block), device=block.nodes.device), block.nodes[:, :2])]


def _apexes(x: Tensor, ring: Tensor) -> list[tuple[Tensor, int]]:
    """Which polygons (rows) have their fan about which corner, −1 for the mean of all."""
    corners = x[ring]  # (n, k, D)
    least = _folded(corners, corners.mean(1), corners.mean(1))
    best = torch.full_like(ring[:, 0], -1)
    some = (least > 1e-12).nonzero().squeeze(1)
    for apex in range(ring.shape[1] if len(some) else 0):
        share = _folded(corners[some], corners[some, apex], corners[some].mean(1))
        better = share < least[some]
        best[some[better]], least[some[better]] = apex, share[better]
    return [((best == apex).nonzero().squeeze(1), apex) for apex in best.unique().tolist()]


def _folded(corners: Tensor, apex: Tensor, middle: Tensor) -> Tensor:
    """(n,) share of the fan about an apex (n, D) that runs against the polygon's area vector."""

    def fan(about: Tensor) -> Tensor:
        d = corners - about[:, None]
        return torch.linalg.cross(d, d.roll(-1, 1))  # (n, k, D)

    along = (fan(apex) * fan(middle).sum(1, keepdim=True)).sum(2)
    size = along.abs().sum(1)
    return -along.clamp(max=0.0).sum(1) / size.masked_fill(size == 0, 1.0)


def interpolate(
    surface: Pieces,
    values: Float[Tensor, "N ..."],
    nodes: Int[Tensor, "n D"],
    weights: Float[Tensor, "n D"],
) -> Float[Tensor, "n ..."]:
    """Σᵢ wᵢ vᵢ of a field on the mesh's points; exact for linear fields.

    Raises:
        InputError: a field of another number of rows.
    """
    check_length(values, len(surface.points) - len(surface.offsets) + 1, "values", "points")
    w = weights.to(values.dtype).reshape(*weights.shape, *[1] * (values.dim() - 1))
    return (surface.spread(values)[nodes] * w).sum(1)
