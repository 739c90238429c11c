"""Winding numbers: how many times a surface, or a curve in the plane, goes round a point."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.check import InputError
from meshsim.geometry.pieces import Pieces, area_vectors
from meshsim.geometry.tree import Surface, extremes, walk
from meshsim.rows import equal_rows

AT_ONCE = 2048  # queries
Row = Sequence[Tensor] | Tensor  # coordinates one after another
BLOCK = 1 << 15  # pairs of queries and edges of the rim, that a cache may hold them
RIM = 4096  # edges of the rim up to which winding numbers are exact even with a tolerance


def winding_numbers(
    surface: Surface, queries: Float[Tensor, "M D"], tolerance: float = 0.0
) -> Float[Tensor, " M"]:
    """How many times a surface goes round each query: 1 inside a closed one, 0 outside.

    w(q) = 1/4π ∫ (x − q)·n / |x − q|³ dA, in the plane 1/2π ∫ (x − q)·n / |x − q|² ds; of a surface
    with holes it goes over smoothly from one to nought there (Jacobson et al., ACM Trans. Graph.
    32, 2013). The part of the rim is summed up: a ray from q counts, by their sides, the pieces it
    passes, and the cone of the rim over the opposite direction makes up for the holes, each edge
    with its solid angle (Van Oosterom and Strackee, IEEE Trans. Biomed. Eng. 30, 1983). Exact, and
    without a rim a whole number.

    With a rim of more than `RIM` edges and a tolerance, far boxes count as dipoles and quadrupoles
    instead (Barill et al., ACM Trans. Graph. 37, 2018), their errors bounded by what the series
    leaves out: Σ_{k ≥ 3} k |y|^(k − 1) / R^(k + 1) of a piece at y about the box's centre.

    Arguments:
        surface: made once by `Surface`; its cells are wound so that normals point out.
        queries: (M, D) float; on the surface itself w is anything between its two sides.
        tolerance: largest error, 0 for none.

    Raises:
        InputError: queries of another dimension, or not finite; a negative tolerance.

    >>> from meshsim.geometry.cells import Cells
    >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> curve = Surface(square, [Cells("line", torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]]))])
    >>> winding_numbers(curve, torch.tensor([[0.5, 0.2], [1.5, 0.2]]))
    tensor([1., 0.])
    """
    if not tolerance >= 0:
        raise InputError(f"`tolerance`: expected a number >= 0, got {tolerance}")
    q, order = surface.prepare(queries)
    rim, _ = surface.once("rim", lambda _: _rim(surface.pieces))
    w = torch.zeros_like(q[:, 0])
    for some in order.split(AT_ONCE):
        if tolerance > 0 and len(rim) > RIM:
            w[some] = _seen(surface, q[some], tolerance, tolerance / 32)
        else:
            turned = _turn(q[some])
            query, _, way = _passed(surface, turned)
            w[some] = _cone(surface, turned).index_add_(0, query, way)
    return w.to(queries.dtype)


def _turn(x: Tensor) -> Tensor:
    """Places (…, D) turned by a radian or two, the same bits for the same place.

    Bodies have walls along the axes, and points are asked about in line with them; no ray should
    run along a wall.
    """
    c, s = math.cos(1.0), math.sin(1.0)
    if x.shape[-1] == 2:
        return torch.stack([c * x[..., 0] - s * x[..., 1], s * x[..., 0] + c * x[..., 1]], -1)
    a, b = c * x[..., 0] - s * x[..., 1], s * x[..., 0] + c * x[..., 1]
    return torch.stack([a, c * b - s * x[..., 2], s * b + c * x[..., 2]], -1)


def _shadows(corners: Tensor, part: Tensor) -> Tensor:
    """Boxes seen along the last axis (n, 2 D − 1): sides across it, and where they begin on it."""
    corners = _turn(corners)
    low, high = extremes(corners.flatten(0, 1), part.repeat_interleave(corners.shape[1]))
    return torch.cat([low, high[:, :-1]], 1)


def _rim(surface: Pieces) -> tuple[Tensor, Tensor]:
    """What is left of the pieces' ends where they do not cancel: where, and how many times.

    Returns:
        (R, D − 1, D) edges of a surface or ends of a curve, turned; (R,) ±1, ±2, … along them.
    """
    dim = surface.points.shape[1]
    nodes, points = surface.nodes.cpu(), surface.points.cpu()
    _, same = torch.unique(points + 0.0, dim=0, return_inverse=True)  # −0 and 0 are one place
    if dim == 2:
        ends, sign = nodes.T.reshape(-1, 1), torch.ones(nodes.numel(), dtype=torch.int64)
        sign[: len(nodes)] = -1
    else:
        ends = torch.stack([nodes, nodes.roll(-1, 1)], 2).flatten(0, 1)  # (3 T, 2)
        forth = same[ends[:, 0]] < same[ends[:, 1]]
        ends = torch.where(forth[:, None], ends, ends.flip(1))
        sign = forth.long() * 2 - 1
        real = same[ends[:, 0]] != same[ends[:, 1]]
        ends, sign = ends[real], sign[real]
    order, first = equal_rows(same[ends], len(points))
    group = first.long().cumsum(0) - 1
    total = torch.zeros_like(group).index_add(0, group, sign[order])[: int(first.sum())]
    return _turn(points[ends[order[first]][total != 0]]), total[total != 0].double()


def _side(a: Row, b: Row | None = None) -> tuple[Tensor, Tensor]:
    """On which side of the origin the shadows of edges (or points) pass: a number, and its sign.

    Shadows are what is left without the last coordinate. Where the number is nought the sign is
    that of the origin moved by (ε, ε²), so that neighbours agree and no ray meets an edge.
    """
    if b is None:
        return a[0], torch.where(a[0] == 0, -1.0, a[0].sign())
    number = a[0] * b[1] - a[1] * b[0]  # of b and a it is the same but for the sign, to the bit
    up = (a[1] - b[1]).sign()
    tie = torch.where(up == 0, (b[0] - a[0]).sign(), up)
    return number, torch.where(number == 0, tie, number.sign())


def _passed(surface: Surface, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pieces that rays against the last axis pass: (query, place of the piece, ±1).

    They count + where the ray goes out through them; a piece that the query lies on counts half.
    """
    side = surface.dim - 1

    def below(rows: Tensor, query: Tensor) -> Tensor:
        at = q.index_select(0, query)[:, :, None]
        hit = rows[:, side] <= at[:, side]
        for i in range(side):
            hit = hit & (rows[:, i] <= at[:, i]) & (at[:, i] <= rows[:, side + 1 + i])
        return hit

    found = walk(surface.tables("shadows", _shadows), len(q), below)
    if found is None:
        half = len(q) // 2
        first, (query, *rest) = _passed(surface, q[:half]), _passed(surface, q[half:])
        both = zip(first, (query + half, *rest), strict=True)
        query, place, way = (torch.cat(pair) for pair in both)
        return query, place, way
    query, place = surface.members(*found)
    (turned,) = surface.once("turned", lambda corners: [_turn(corners)])
    x = turned.index_select(0, place) - q.index_select(0, query)[:, None]
    if side == 1:
        (_, sa), (_, sb) = _side(x[:, 0].T), _side(x[:, 1].T)
        way = torch.where(sa == sb, 0.0, sb)  # of segments from left to right +
        depth = x[:, 0, 0] * x[:, 1, 1] - x[:, 0, 1] * x[:, 1, 0]
    else:
        a, b, c = x.permute(1, 2, 0).contiguous()
        _, way = _side(a, b)
        same = (way == _side(b, c)[1]) & (way == _side(c, a)[1])
        way = torch.where(same, -way, 0.0)
        depth = (a * torch.linalg.cross(b, c, dim=0)).sum(0)
    # Below the query a piece has the sign of its solid angle.
    way = torch.where(way * depth > 0, way, torch.where(depth == 0, way / 2, 0.0))
    real = way != 0
    return query[real], place[real], way[real]


def windings_by_part(
    surface: Surface, queries: Float[Tensor, "M D"], part: Int[Tensor, " T"], n: int
) -> Float[Tensor, "M n"]:
    """How many times each closed part of a surface goes round each query.

    Arguments:
        part: (T,) int64 in 0..n-1 for each of the pieces; what is said of open parts means nothing.
    """
    q, order = surface.prepare(queries)
    w = q.new_zeros(len(q) * n)
    own = part[surface.order]
    for some in order.split(AT_ONCE):
        query, place, way = _passed(surface, _turn(q[some]))
        w.index_add_(0, some[query] * n + own[place], way)
    return w.reshape(-1, n).to(queries.dtype)


def _cone(surface: Surface, q: Tensor) -> Tensor:
    """(m,) share of the directions from q in the cone of the rim over the last axis."""
    rim, times = surface.once("rim", lambda _: _rim(surface.pieces))
    out = torch.zeros_like(q[:, 0])
    step = max(BLOCK // max(len(rim), 1), 1)
    for first in range(0, len(q) if len(rim) else 0, step):
        own = q[first : first + step, :, None]  # (m, D, 1)
        a = [rim[None, :, 0, i] - own[:, i] for i in range(surface.dim)]  # each (m, R)
        if surface.dim == 2:
            number, sign = _side(a)
            angle = torch.atan2(-torch.where(number == 0, 0.0 * sign, number), a[1])
        else:
            b = [rim[None, :, 1, i] - own[:, i] for i in range(surface.dim)]
            la, lb, dot = _dot(a, a).sqrt(), _dot(b, b).sqrt(), _dot(a, b)
            number, sign = _side(a, b)
            number = torch.where(number == 0, 0.0 * sign, number)
            angle = torch.atan2(number, la * lb + dot + a[2] * lb + b[2] * la)
        out[first : first + step] = angle @ times / (2 * math.pi)
    return out


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    total = a[0] * b[0]
    for x, y in zip(a[1:], b[1:], strict=True):
        total = total + x * y
    return total


def _angles(x: Float[Tensor, "P D D"]) -> Float[Tensor, " P"]:
    """The share of all directions from the origin that pieces take up, signed."""
    if x.shape[2] == 2:
        a, b = x.unbind(1)
        turn = torch.atan2(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], (a * b).sum(1))
        return turn / (2 * math.pi)
    a, b, c = x.unbind(1)
    la, lb, lc = x.norm(dim=2).unbind(1)
    below = la * lb * lc + (a * b).sum(1) * lc + (b * c).sum(1) * la + (c * a).sum(1) * lb
    return torch.atan2((a * torch.linalg.cross(b, c)).sum(1), below) / (2 * math.pi)


def _moments(corners: Tensor, part: Tensor) -> Tensor:
    """Rows (n, …) of boxes: centre, ∫|y|², radius, ∫n (D), ∫y n (D²), y from the centre."""
    n, dim = int(part[-1]) + 1, corners.shape[2]

    def total(x: Tensor) -> Tensor:
        return x.new_zeros(n, x.shape[1]).index_add(0, part, x)

    area = area_vectors(corners)
    size = area.norm(dim=1, keepdim=True)
    whole = total(size)
    weight = torch.where(whole[part] > 0, size, torch.ones_like(size))
    centre = total(weight * corners.mean(1)) / total(weight)
    y = corners - centre[part, None]
    mean = y.mean(1)
    # ∫ |y|² over a simplex of d + 1 corners: A (Σ|yᵢ|² + |Σ yᵢ|²) / ((d + 1)(d + 2)).
    square = y.square().sum((1, 2)) + y.sum(1).square().sum(1)
    square = size * square[:, None] / (dim * (dim + 1))
    radius = y.norm(dim=2).amax(1)
    radius = radius.new_zeros(n).scatter_reduce(0, part, radius, "amax")
    pairs = (mean[:, :, None] * area[:, None]).flatten(1)
    return torch.cat([centre, total(square), radius[:, None], total(area), total(pairs)], 1)


def _seen(surface: Surface, q: Tensor, tolerance: float, each: float) -> Tensor:
    """(m,) winding numbers, boxes with an error of at most `each` seen from afar."""
    dim = surface.dim
    w, error = torch.zeros_like(q[:, 0]), torch.zeros_like(q[:, 0])

    def near(rows: Tensor, query: Tensor) -> Tensor:
        d = rows[:, :dim] - q.index_select(0, query)[:, :, None]  # (P, D, F)
        square = (d * d).sum(1)
        share = rows[:, dim + 1] / square.sqrt()  # radius over distance
        rest = (1 - share).clamp(min=0.0)
        if dim == 2:
            bound = rows[:, dim] / (2 * math.pi * square**1.5 * rest)
        else:
            bound = rows[:, dim] * (3 - 2 * share) / (4 * math.pi * square**2 * rest**2)
        bound = torch.where(rest > 0, bound, torch.where(rest == 0, torch.inf, bound))
        row, child = (bound <= each).nonzero(as_tuple=True)
        of, d, square = query[row], d[row, :, child], square[row, child]
        some = (rows.expand(len(query), -1, -1))[row, :, child]
        normal, pairs = (
            some[:, dim + 2 : 2 * dim + 2],
            some[:, 2 * dim + 2 :].unflatten(1, (dim, dim)),
        )
        along = ((pairs * d[:, None]).sum(2) * d).sum(1)
        trace = pairs.diagonal(dim1=1, dim2=2).sum(1)
        value = (normal * d).sum(1) + trace - dim * along / square
        w.index_add_(0, of, value * square ** (-dim / 2) / (2 * math.pi * (dim - 1)))
        error.index_add_(0, of, bound[row, child])
        return bound > each

    found = walk(surface.tables("moments", _moments), len(q), near)
    if found is None:
        half = len(q) // 2
        parts = (_seen(surface, q[i], tolerance, each) for i in (slice(half), slice(half, None)))
        return torch.cat(list(parts))
    query, piece = surface.members(*found)
    x = surface.corners.index_select(0, piece) - q.index_select(0, query)[:, None]
    w.index_add_(0, query, _angles(x))
    again = (error > tolerance).nonzero().squeeze(1)
    if len(again):
        w[again] = _seen(surface, q[again], tolerance, each / 4)
    return w
