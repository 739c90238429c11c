"""The coordinates of places in the reference cells, and what the points weigh there."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.geometry.cells import TYPES, Cells
from meshsim.geometry.corners import places, shape_slopes, shapes
from meshsim.geometry.measure import incidence, lift, polygon_areas, rings
from meshsim.rows import slices, starts

STEPS = 30  # of Newton's method
DONE = 1e-8  # of the reference cell: a step so short, and the next would be of its square
MISSED = 1e-9  # of a cell's size
AWAY = 2.0  # where the map is not looked at any more
NEAR = 1e-12  # of a polygon's size: on a side or corner
AT_ONCE = 20_000  # places in polyhedra


def placeable(type: str) -> bool:
    """Whether `weights` knows a type."""
    linear_or_quadratic = type.startswith(("triangle", "quad", "tetra", "wedge", "hexahedron"))
    return linear_or_quadratic or type in ("pyramid", "polygon", "polyhedron")


def weights(
    points: Float[Tensor, "N D"],
    block: Cells,
    cell: Int[Tensor, " n"],
    x: Float[Tensor, "n D"],
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"], Float[Tensor, " m"], Float[Tensor, " n"]]:
    """What the points of cells weigh at places in them, so that linear fields come out exactly.

    Shape functions of typed cells, where the place has the coordinates ξ in the reference cell
    with Σ Nᵢ(ξ) pᵢ = x (Newton's method; on surfaces in space the ξ of the nearest place); of
    polygons mean value coordinates (Hormann and Floater, ACM Trans. Graph. 25, 2006). Polyhedra are
    cut into tetrahedra from the mean of their points to each face, which is a fan about the mean
    of its own points, so that cells with bent faces meet without gaps.

    Arguments:
        points: (N, D) float.
        block: cells of a type that is `placeable`.
        cell: (n,) which of them each place is in.
        x: (n, D); where one lies outside of its cell its ξ is held to the reference cell.

    Returns:
        Row, point and weight of each entry of an (n, N) matrix; and how far ξ was outside of the
        reference cell, 0 or less inside (of polygons 0).

    >>> square = torch.tensor([[0., 0.], [2., 0.], [2., 2.], [0., 2.]])
    >>> block = Cells("quad", torch.tensor([[0, 1, 2, 3]]))
    >>> weights(square, block, torch.tensor([0]), torch.tensor([[0.5, 1.0]]))[2]
    tensor([0.3750, 0.1250, 0.1250, 0.3750], dtype=torch.float64)
    """
    p, x = lift(points), lift(x)
    row = torch.arange(len(x))
    if block.type == "polygon":
        return (*_polygons(p, block, cell, x), x.new_zeros(len(x)))
    if block.type == "polyhedron":
        return _polyhedra(p, block, cell, x)
    nodes = block.nodes[cell]
    if block.type == "pyramid":  # a hexahedron whose upper corners are one
        xi, over = _solved("hexahedron", p[nodes[:, [0, 1, 2, 3, 4, 4, 4, 4]]], x)
        share = shapes("hexahedron", xi)
        share = torch.cat([share[:, :4], share[:, 4:].sum(1, keepdim=True)], 1)
    else:
        xi, over = _solved(block.type, p[nodes], x)
        share = shapes(block.type, xi)
    return row.repeat_interleave(nodes.shape[1]), nodes.reshape(-1), share.reshape(-1), over


def _solved(type: str, p: Float[Tensor, "n k 3"], x: Float[Tensor, "n 3"]) -> tuple[Tensor, Tensor]:
    """Reference coordinates (n, d), held to the cell, and how far they were outside."""
    start = places(type)[: TYPES[type][2]].mean(0)
    p, x = p - p[:, :1], x - p[:, 0]  # small numbers round less
    size = p.norm(dim=2).amax(1).clamp(min=1e-300)
    xi = start.repeat(len(x), 1)
    left = torch.arange(len(x))
    for _ in range(STEPS):
        if not len(left):
            break
        at, corners = xi[left], p[left]
        miss = x[left] - (shapes(type, at)[:, :, None] * corners).sum(1)
        slope = shape_slopes(type, at).permute(1, 0, 2) @ corners  # (n, d, 3)
        square = slope @ slope.transpose(1, 2)
        # Marquardt's damping: where the map is singular, as at a pyramid's apex, steps stay finite
        scale = square.diagonal(dim1=1, dim2=2).clamp(min=1e-300).rsqrt()
        square = square * scale[:, :, None] * scale[:, None, :]
        square = square + 1e-14 * torch.eye(square.shape[1], dtype=x.dtype)
        right = (slope @ miss[:, :, None]) * scale[:, :, None]
        step = (torch.linalg.solve_ex(square, right)[0] * scale[:, :, None]).squeeze(2)
        new = (at + step.clamp(-1.0, 1.0)).clamp(1 - AWAY, AWAY)
        xi[left] = new
        left = left[(new - at).abs().amax(1) > DONE]
    miss = (x - (shapes(type, xi)[:, :, None] * p).sum(1)).norm(dim=1)
    held, over = _held(type, xi)
    # where Newton's method found nothing the place is as far away as it missed it
    return held, torch.maximum(over, torch.where(miss > MISSED * size, miss / size, -torch.inf))


def _held(type: str, xi: Tensor) -> tuple[Tensor, Tensor]:
    over = torch.maximum(-xi, xi - 1).amax(1)
    held = xi.clamp(0.0, 1.0)
    flat = {"tri": 3, "tet": 3, "wed": 2}.get(type[:3])  # coordinates that add up to 1 at most
    if flat is not None:
        over = torch.maximum(over, xi[:, :flat].sum(1) - 1)
        total = held[:, :flat].sum(1, keepdim=True).clamp(min=1.0)
        held = torch.cat([held[:, :flat] / total, held[:, flat:]], 1)
    return held, over


def _polygons(p: Tensor, block: Cells, cell: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean value coordinates, as entries."""
    size = torch.zeros(len(block), dtype=torch.int64)
    place = torch.zeros(len(block), dtype=torch.int64)
    groups = []
    for i, (ids, ring) in enumerate(rings(block)):
        size[ids], place[ids] = i, torch.arange(len(ids))
        groups.append(ring)
    parts = []
    for i, ring in enumerate(groups):
        row = (size[cell] == i).nonzero().squeeze(1)
        nodes = ring[place[cell[row]]]  # (n, k)
        share = _mean_values(p[nodes], x[row])
        parts.append((row.repeat_interleave(ring.shape[1]), nodes.reshape(-1), share.reshape(-1)))
    rows, columns, shares = zip(*parts, strict=True)
    return torch.cat(rows), torch.cat(columns), torch.cat(shares)


def _mean_values(p: Float[Tensor, "n k 3"], x: Float[Tensor, "n 3"]) -> Float[Tensor, "n k"]:
    normal = polygon_areas(p)[0]
    normal = normal / normal.norm(dim=1, keepdim=True).clamp(min=1e-300)
    s = p - x[:, None]
    s = s - (s * normal[:, None]).sum(2, keepdim=True) * normal[:, None]
    near = NEAR * (p - p[:, :1]).norm(dim=2).amax(1, keepdim=True)  # (n, 1)
    after = s.roll(-1, 1)
    r, side = s.norm(dim=2), (after - s).norm(dim=2)
    area = (torch.linalg.cross(s, after) * normal[:, None]).sum(2)
    dot = (s * after).sum(2)
    # tan(α / 2) between two corners as they are seen from x
    flat = area.abs() <= near * side
    tangent = (r * r.roll(-1, 1) - dot) / torch.where(flat, torch.inf, area)
    share = (tangent + tangent.roll(1, 1)) / r.clamp(min=1e-300)
    # on a side or corner: linear along it
    on = flat & (dot <= near * side)
    along = (-(s * (after - s)).sum(2) / side.square().clamp(min=1e-300)).clamp(0.0, 1.0)
    which = on.long().argmax(1, keepdim=True)
    t = along.gather(1, which)
    straight = torch.zeros_like(share).scatter(1, which, 1 - t)
    straight = straight.scatter(1, (which + 1) % share.shape[1], t)
    share = torch.where(on.any(1, keepdim=True), straight, share)
    return share / share.sum(1, keepdim=True)


def _polyhedra(
    p: Tensor, block: Cells, cell: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Entries of fans, and how far outside of the best tetrahedron each place is."""
    assert block.offsets is not None and block.face_offsets is not None
    edges, face_of = (
        block.face_offsets[block.offsets],
        torch.repeat_interleave(block.face_offsets.diff()),
    )
    after = torch.arange(1, len(block.nodes) + 1)
    after[block.face_offsets[1:] - 1] = block.face_offsets[:-1]
    of, own = incidence([block])
    points_of = starts(of, len(block))
    means = _averages(p, block.nodes, face_of, len(block.face_offsets) - 1)
    middles = _averages(p, own, of, len(block))
    parts, over = [], x.new_full((len(x),), torch.inf)
    for first in range(0, len(x), AT_ONCE):
        here, at = cell[first : first + AT_ONCE], x[first : first + AT_ONCE]
        edge, ends = slices(edges, here)
        row = torch.repeat_interleave(ends.diff())
        corners = (middles[here[row]], means[face_of[edge]], p[block.nodes[edge]])
        share = _barycentric(at[row], *corners, p[block.nodes[after[edge]]])  # (t, 4)
        least = share.amin(1)
        most = least.new_full((len(at),), -torch.inf).scatter_reduce(0, row, least, "amax")
        best = torch.full((len(at),), len(edge)).scatter_reduce(
            0, row, torch.where(least == most[row], torch.arange(len(edge)), len(edge)), "amin"
        )
        over[first : first + len(at)] = -most
        held = share[best].clamp(min=0.0)
        held = held / held.sum(1, keepdim=True)
        edge, number = edge[best], first + torch.arange(len(at))
        for column, offsets, nodes, which in (
            (0, points_of, own, here),
            (1, block.face_offsets, block.nodes, face_of[edge]),
        ):
            place, ends = slices(offsets, which)
            each = torch.repeat_interleave(ends.diff())
            parts.append((number[each], nodes[place], (held[:, column] / ends.diff())[each]))
        parts.append((number, block.nodes[edge], held[:, 2]))
        parts.append((number, block.nodes[after[edge]], held[:, 3]))
    rows, columns, shares = zip(*parts, strict=True)
    return torch.cat(rows), torch.cat(columns), torch.cat(shares), over


def _averages(p: Tensor, nodes: Tensor, group: Tensor, n: int) -> Tensor:
    count = torch.bincount(group, minlength=n).clamp(min=1)
    return p.new_zeros(n, 3).index_add(0, group, p[nodes]) / count[:, None]


def _barycentric(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """(t, 4) coordinates in tetrahedra; −∞ where one has no volume."""
    u, v, w, y = b - a, c - a, d - a, x - a
    normal = torch.linalg.cross(v, w)
    volume = (u * normal).sum(1)
    size = u.norm(dim=1) * v.norm(dim=1) * w.norm(dim=1)
    flat = volume.abs() <= 1e-14 * size
    whole = torch.where(flat, 1.0, volume)
    out = torch.stack(
        [
            (y * normal).sum(1) / whole,
            (torch.linalg.cross(w, u) * y).sum(1) / whole,
            (torch.linalg.cross(u, v) * y).sum(1) / whole,
        ],
        1,
    )
    out = torch.cat([1 - out.sum(1, keepdim=True), out], 1)
    return torch.where(flat[:, None], -torch.inf, out)
