"""Points spread over a surface or a curve: evenly, or more densely where it bends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.check import InputError, check_finite, check_known, check_length
from meshsim.geometry.cells import Cells
from meshsim.geometry.measure import rings
from meshsim.geometry.pieces import Pieces, interpolate, pieces
from meshsim.ops import morton_order
from meshsim.rows import equal_rows

DEPTH = 10  # 4^10 parts of a triangle, beyond which places in it are drawn independently


class Samples(NamedTuple):
    """Points on a surface.

    Arguments:
        points: (n, D).
        face: (n,) int64, the cell that each lies on.
        normals: (n, D) unit normals of the cells there.
        nodes: (n, D) int64, points of `pieces` about each; weights: (n, D), which add up to one.
        pieces: the triangles or segments.
    """

    points: Tensor
    face: Tensor
    normals: Tensor
    nodes: Tensor
    weights: Tensor
    pieces: Pieces

    def interpolate(self, values: Float[Tensor, "N ..."]) -> Float[Tensor, "n ..."]:
        """Linear interpolation of a field on the mesh's points."""
        return interpolate(self.pieces, values, self.nodes, self.weights)


def sample_surface(
    points: Float[Tensor, "N D"],
    blocks: Sequence[Cells],
    n: int,
    seed: int | torch.Generator = 0,
    weights: Float[Tensor, " C"] | None = None,
) -> Samples:
    """Points on a surface, each face with its share of them.

    The faces lie side by side along Morton's curve, [0, 1) is dealt out to them by their shares,
    and one number is drawn from each of n equal parts of it (stratified sampling): a face with the
    share p, and any run of neighbours, gets n p points but for less than two. Where a number falls
    in its face's interval says where it lies on the face: along a segment in proportion, in a
    triangle by its digits to base four, each a quarter of the triangle (Basu and Owen, SIAM
    J. Numer. Anal. 53, 2015), so that points keep apart on a large face too.

    Arguments:
        points: (N, D) float, D = 2 or 3.
        blocks: lines for D = 2, triangles, quads and polygons for D = 3.
        n: how many.
        seed: the same seed gives the same points; or a generator on the CPU to go on with.
        weights: (C,) share of each face, up to a common factor; its area if left out. Faces
            without area get none.

    Returns:
        Samples in the order of the curve: only a random choice of them is spread evenly too.

    Raises:
        InputError: nothing has an area (or weight); weights that are negative or not finite.

    >>> line = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0]])
    >>> curve = [Cells("line", torch.tensor([[0, 1], [1, 2]]))]
    >>> sample_surface(line, curve, 6).face.bincount()
    tensor([4, 2])
    """
    if n < 0:
        raise InputError(f"`n`: expected >= 0, got {n}")
    check_finite(points, "points")
    surface = pieces(points, blocks)
    order, before = _shares(surface, sum(len(block) for block in blocks), weights)
    total = float(before[-1])
    if n and not total > 0:
        raise InputError("`blocks`: expected faces with an area and a weight, got none")
    if isinstance(seed, torch.Generator):
        generator = seed
    else:
        generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(n, 3, dtype=torch.float64, generator=generator)
    level = (torch.arange(n, dtype=torch.float64) + draw[:, 0]) / max(n, 1) * total
    at = torch.searchsorted(before, level, right=True) - 1
    # What rounds up to the end belongs to the last face that has a share.
    last = int((before < total).sum()) - 1
    at = at.clamp(max=max(last, 0))
    width = before.diff()[at] if n else level
    t = ((level - before[at]) / width.masked_fill(width == 0, 1.0)).clamp(0.0, 1.0)
    where = torch.stack([1 - t, t], 1) if points.shape[1] == 2 else _in_triangle(t, draw[:, 1:])
    piece, where = order[at].to(points.device), where.to(points.device)
    nodes = surface.nodes[piece]
    x = (surface.points[nodes] * where[:, :, None]).sum(1)
    normals = torch.nn.functional.normalize(surface.vectors()[piece], dim=1, eps=0.0)
    dtype = points.dtype
    return Samples(
        x.to(dtype), surface.face[piece], normals.to(dtype), nodes, where.to(dtype), surface
    )


def _shares(surface: Pieces, cells: int, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """The pieces by their faces along Morton's curve, and the running sum of their shares."""
    area = surface.vectors().norm(dim=1)
    n = len(surface.face)
    by_cell = area.new_zeros(cells).index_add(0, surface.face, area)
    share = area
    if weights is not None:
        check_length(weights, cells, "weights", "faces")
        check_finite(weights, "weights")
        if bool((weights < 0).any()):
            raise InputError(f"`weights`: expected >= 0, got {float(weights.min())}")
        size = by_cell.masked_fill(by_cell == 0, 1.0)
        share = area * (weights.double() / size)[surface.face]
    middle = surface.points[surface.nodes].mean(1)  # (T, D)
    first = torch.searchsorted(surface.face, torch.arange(cells, device=area.device))
    rank = torch.zeros_like(first)
    if n:
        curve = morton_order(middle[first.clamp(max=n - 1)])
        rank[curve] = torch.arange(cells, device=area.device)
    order = rank[surface.face].argsort(stable=True).cpu()
    # On the CPU: sums there do not depend on who takes part.
    return order, torch.nn.functional.pad(share.cpu()[order].cumsum(0), (1, 0))


def _in_triangle(t: Float[Tensor, " n"], draw: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Barycentric coordinates of places t in [0, 1) on Basu and Owen's curve through a triangle.

    Of the four triangles that the middles of its sides make of one, the inner is 0 and turned
    about; below `DEPTH` a place is uniform in its part.
    """
    centre = t.new_full((len(t), 3), 1 / 3)
    scale, t = torch.ones_like(t), t.clone()
    for _ in range(DEPTH):
        digit = (4 * t).floor().clamp(max=3)
        t = 4 * t - digit
        corner = torch.nn.functional.one_hot(digit.long(), 4)[:, 1:].to(t) - 1 / 3
        outer = digit > 0
        centre = torch.where(outer[:, None], centre + corner * (scale / 2)[:, None], centre)
        scale = torch.where(outer, scale / 2, -scale / 2)
    root, b = draw[:, 0].sqrt(), draw[:, 1]
    inside = torch.stack([1 - root, root * (1 - b), root * b], 1)
    return (centre + (inside - 1 / 3) * scale[:, None]).clamp(min=0.0)


def ring_edges(blocks: Sequence[Cells]) -> tuple[Int[Tensor, "E 2"], Int[Tensor, " E"]]:
    """The edges of 2-D cells as each cell runs along them, and the cell; quadratic by corners.

    >>> ring_edges([Cells("triangle", torch.tensor([[0, 1, 2]]))])[0].tolist()
    [[0, 1], [1, 2], [2, 0]]
    """
    none = torch.zeros(0, dtype=torch.int64)
    ends, cell, first = [none.reshape(0, 2)], [none], 0
    for block in blocks:
        for ids, ring in rings(block):
            ends.append(torch.stack([ring, ring.roll(-1, 1)], 2).flatten(0, 1))
            cell.append((ids + first).repeat_interleave(ring.shape[1]))
        first += len(block)
    device = ends[-1].device
    return torch.cat([e.to(device) for e in ends]), torch.cat([c.to(device) for c in cell])


def bending(
    points: Float[Tensor, "N D"], blocks: Sequence[Cells]
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """How much a surface or curve bends at each face: its sharpest angle, its mean curvature.

    At an edge of length ℓ between two faces whose normals differ by θ, ∫|H| = ½ θ ℓ (Steiner's
    formula for polyhedra, H the mean of the principal curvatures); each face has half of it. At a
    point of a curve ∫|κ| = θ. Edges of one face, or of more than two, do not count. How the faces
    are wound does not matter.

    Arguments:
        points: (N, D) float, D = 2 or 3.
        blocks: lines for D = 2, triangles, quads and polygons for D = 3.

    Returns:
        (C,) largest θ, radians, 0 where nothing bends; (C,) mean |H| (or |κ|), 1 / length, 0 where
        there is no area.

    >>> corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    >>> bending(corner, [Cells("line", torch.tensor([[0, 1], [1, 2]]))])[1] / torch.pi
    tensor([0.2500, 0.2500])
    """
    x, cells = points.double(), sum(len(block) for block in blocks)
    surface = pieces(points, blocks)
    if points.shape[1] == 3:
        ends, cell = ring_edges(blocks)
        normal = x.new_zeros(cells, 3).index_add(0, surface.face, surface.vectors())
        along = x[ends[:, 1]] - x[ends[:, 0]]
        length = along.norm(dim=1)
        # Out of the face and in its plane: opposite where it goes on flat, however it is wound.
        out, half = torch.linalg.cross(along, normal[cell]), 0.25 * length
        key = ends.sort(1).values
    else:
        e = surface.points[surface.nodes]
        along = e[:, 1] - e[:, 0]
        out, key = torch.cat([-along, along]), surface.nodes.T.reshape(-1, 1)
        cell = surface.face.repeat(2)
        half = torch.full_like(out[:, 0], 0.5)
    real = (key[:, 0] != key[:, -1]) | (key.shape[1] == 1)
    key, cell, out, half = key[real], cell[real], out[real], half[real]
    order, start = equal_rows(key, len(points))
    begin = start.nonzero().squeeze(1)
    pair = begin[torch.cat([begin, begin.new_tensor([len(order)])]).diff() == 2]
    a, b = order[pair], order[pair + 1]
    u, v = (torch.nn.functional.normalize(out[i], dim=1, eps=0.0) for i in (a, b))
    # Kahan's angle between unit vectors, accurate for small ones too.
    theta = 2 * torch.atan2((u + v).norm(dim=1), (u - v).norm(dim=1))
    theta = theta.masked_fill((out[a] == 0).all(1) | (out[b] == 0).all(1), 0.0)
    both, angle = torch.cat([cell[a], cell[b]]), theta.repeat(2)
    sharpest = x.new_zeros(cells).scatter_reduce(0, both, angle, "amax")
    area = x.new_zeros(cells).index_add(0, surface.face, surface.vectors().norm(dim=1))
    total = x.new_zeros(cells).index_add(0, both, angle * half[torch.cat([a, b])])
    mean = (total / area.masked_fill(area == 0, 1.0)).masked_fill(area == 0, 0.0)
    return sharpest.to(points.dtype), mean.to(points.dtype)


def curvature_weights(
    points: Float[Tensor, "N D"],
    blocks: Sequence[Cells],
    by: str = "mean",
    power: float = 1.0,
    floor: float = 0.5,
) -> Float[Tensor, " C"]:
    """Shares for `sample_surface` that put more points where the surface bends.

    p = φ A / ΣA + (1 − φ) κ A^q / Σ κ A^q, κ the mean |H| of a face or its sharpest angle. With
    the mean curvature and q = 1 an edge or a nose gets the same share on any mesh of it.

    Arguments:
        points, blocks: as for `bending`.
        by: "mean" (curvature) or "angle".
        power: q.
        floor: φ in 0..1, the part that is spread evenly over the area, so that no region is empty.

    Returns:
        (C,) of sum one; shares by area where nothing bends, zeros where nothing has an area.

    Raises:
        InputError: an unknown `by`, `floor` outside 0..1.

    >>> line = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [2.0, 1.0]])
    >>> curvature_weights(line, [Cells("line", torch.tensor([[0, 1], [1, 2], [2, 3]]))], floor=0.3)
    tensor([0.1000, 0.4500, 0.4500])
    """
    check_known(by, ("mean", "angle"), "curvature")
    if not 0 <= floor <= 1 or not math.isfinite(power):
        raise InputError(f"`floor`: expected 0..1 and a finite power, got {floor} and {power}")
    surface = pieces(points, blocks)
    angle, mean = bending(points.double(), blocks)
    area = torch.zeros_like(mean).index_add(0, surface.face, surface.vectors().norm(dim=1))
    real = area > 0
    bent = (mean if by == "mean" else angle) * torch.where(real, area, 1.0) ** power * real
    even = area / area.sum().clamp(min=torch.finfo(torch.float64).tiny)
    if not bool(bent.sum() > 0):
        return even.to(points.dtype)
    return (floor * even + (1 - floor) * bent / bent.sum()).to(points.dtype)
