"""How far points are from a surface or curve, where on it is nearest, on which side they lie."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from meshsim.geometry.pieces import Pieces, area_vectors, interpolate
from meshsim.geometry.tree import Surface, axes, extremes, walk
from meshsim.geometry.winding import winding_numbers
from meshsim.ops import knn

AT_ONCE = 2048  # queries
SLACK = 4e-6  # of single precision, in which boxes are looked at; coordinates are of size one


class Closest(NamedTuple):
    """The nearest places on a surface.

    Arguments:
        points: (M, D).
        distance: (M,); of `signed_distances` negative inside.
        face: (M,) int64, the cell that each lies on, of equally near pieces the first.
        normals: (M, D) unit normals of the pieces there, zero where they have no area.
        nodes: (M, D) int64, points of `pieces` about each; weights: (M, D), which add up to one.
        pieces: the triangles or segments.
    """

    points: Tensor
    distance: Tensor
    face: Tensor
    normals: Tensor
    nodes: Tensor
    weights: Tensor
    pieces: Pieces

    def interpolate(self, values: Float[Tensor, "N ..."]) -> Float[Tensor, "M ..."]:
        """Linear interpolation of a field on the mesh's points."""
        return interpolate(self.pieces, values, self.nodes, self.weights)


def closest_points(surface: Surface, queries: Float[Tensor, "M D"]) -> Closest:
    """The nearest place on a surface to each query, exact to rounding.

    Triangles are looked at in their own plane (Ericson, Real-Time Collision Detection, 2005,
    §5.1.5, has the cases). A piece near the query gives a first bound; of the tree only the boxes
    within it are looked into.

    Arguments:
        surface: made once by `Surface`.
        queries: (M, D) float.

    Raises:
        InputError: queries of another dimension, or not finite.

    >>> from meshsim.geometry.cells import Cells
    >>> ground = torch.tensor([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    >>> surface = Surface(ground, [Cells("triangle", torch.tensor([[0, 1, 2]]))])
    >>> closest_points(surface, torch.tensor([[1.0, 1.0, 3.0], [-3.0, 0.0, 4.0]])).distance
    tensor([3., 5.])
    """
    q, order = surface.prepare(queries)
    middles, place = surface.corners.mean(1), torch.zeros_like(order)
    seed = knn(middles, q[order], 1)[0][:, 0]
    for some, seeds in zip(order.split(AT_ONCE), seed.split(AT_ONCE), strict=True):
        place[some] = _closest(surface, q[some], seeds)
    first, frames = surface.once("frames", _frames)
    _, where = _nearest(frames[place], q)
    piece = surface.order[place]
    nodes = surface.pieces.nodes[piece].gather(1, first[place])
    x = (surface.pieces.points[nodes] * where[:, :, None]).sum(1)
    normals = _unit(area_vectors(surface.corners[place]))[0]
    dtype = queries.dtype
    return Closest(
        x.to(dtype),
        (q - x).norm(dim=1).to(dtype),
        surface.pieces.face[piece],
        normals.to(dtype),
        nodes,
        where.to(dtype),
        surface.pieces,
    )


def signed_distances(
    surface: Surface, queries: Float[Tensor, "M D"], tolerance: float = 0.1
) -> Closest:
    """`closest_points` with the distance negative inside: where the winding number exceeds ½.

    Arguments:
        surface: made once by `Surface`; its cells are wound so that normals point out.
        queries: (M, D) float.
        tolerance: of the winding numbers of surfaces with long rims.

    >>> from meshsim.geometry.cells import Cells
    >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> curve = Surface(points, [Cells("line", torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]]))])
    >>> signed_distances(curve, torch.tensor([[0.5, 0.25], [1.5, 0.25]])).distance
    tensor([-0.2500,  0.5000])
    """
    found = closest_points(surface, queries)
    inside = winding_numbers(surface, queries.double(), tolerance) > 0.5
    return found._replace(distance=torch.where(inside, -found.distance, found.distance))


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors and lengths (n, 1); nothing for what is nothing."""
    length = x.norm(dim=1, keepdim=True)
    return x / length.masked_fill(length == 0, 1.0), length


def _frames(x: Float[Tensor, "T D D"]) -> tuple[Tensor, Tensor]:
    """Pieces in their own axes: (T, D) which corner comes first, (T, …) origin, axes, sizes.

    A triangle lies on (0, 0), (l, 0), (f, g) with its longest side first, so that all it needs is
    accurate for the thinnest of them too; without an area g = 0, without a length l = 0.
    """
    dim = x.shape[2]
    if dim == 2:
        along, length = _unit(x[:, 1] - x[:, 0])
        along[(length == 0).squeeze(1)] = x.new_tensor([1.0, 0.0])
        across = torch.stack([-along[:, 1], along[:, 0]], 1)
        first = torch.arange(2).expand(len(x), 2)
        return first, torch.cat([x[:, 0], along, across, length], 1)
    longest = (x.roll(-1, 1) - x).norm(dim=2).argmax(1)
    first = (longest[:, None] + torch.arange(3)) % 3
    a, b, c = x.gather(1, first[:, :, None].expand(-1, -1, 3)).unbind(1)
    along, length = _unit(b - a)
    foot = ((c - a) * along).sum(1, keepdim=True)
    up, height = _unit(c - a - foot * along)
    up, _ = _unit(up - (up * along).sum(1, keepdim=True) * along)
    flat = ~(height > 1e-14 * length).squeeze(1)
    other = torch.eye(3, dtype=x.dtype)[along.abs().argmin(1)]
    square, _ = _unit(torch.linalg.cross(along, other))
    point = (length == 0).squeeze(1)
    square[point], along[point] = x.new_tensor([0.0, 1.0, 0.0]), x.new_tensor([1.0, 0.0, 0.0])
    up[flat], height[flat] = square[flat], 0.0
    normal = torch.linalg.cross(along, up)
    return first, torch.cat([a, along, up, normal, length, foot, height], 1)


def _turned(corners: Tensor, part: Tensor) -> Tensor:
    """Boxes (n, D² + 2 D) with axes of their own: R, s, h with |R x + s| <= h inside, single."""
    x, part = corners.flatten(0, 1), part.repeat_interleave(corners.shape[1])
    _, own = axes(x, part)
    low, high = extremes((own[part] * x[:, None]).sum(2), part)
    return torch.cat([own.flatten(1), -(low + high) / 2, (high - low) / 2], 1).float()


def _middle(corners: Tensor) -> tuple[Tensor, Tensor]:
    """The middle of the box about all, and half its longest side."""
    low, high = corners.amin((0, 1)), corners.amax((0, 1))
    size = (high - low).max() / 2
    return (low + high) / 2, torch.where(size > 0, size, 1.0)


def _boxes(surface: Surface) -> list[Tensor]:
    """The boxes of the tree in coordinates of size one about the middle."""
    middle, size = (t.cpu() for t in surface.once("middle", _middle))
    return surface.tables("boxes", lambda x, part: _turned((x - middle) / size, part))


def _closest(surface: Surface, q: Tensor, seed: Tensor) -> Tensor:
    """(m,) places of the nearest pieces in the tree, from a piece that may be near."""
    dim = surface.dim
    _, frames = surface.once("frames", _frames)
    middle, size = surface.once("middle", _middle)
    bound = _nearest(frames[seed], q)[0].sqrt() / size
    inner = (q - middle) / size
    limit = bound * (1 + SLACK) + SLACK * (inner.abs().amax(1) + 1)
    limit, p = limit.float().square(), inner.float()[:, :, None]  # (m,), (m, D, 1)

    def near(rows: Tensor, query: Tensor) -> Tensor:
        at, square = p.index_select(0, query), torch.zeros_like(rows[:, 0])
        for i in range(dim):
            t = rows[:, dim * dim + i]
            for j in range(dim):
                t = t + rows[:, dim * i + j] * at[:, j]
            t = t.abs().sub_(rows[:, dim * (dim + 1) + i]).clamp_(min=0.0)
            square = square + t.square_()
        return square <= limit.index_select(0, query)[:, None]

    found = walk(_boxes(surface), len(q), near)
    if found is None:
        half = len(q) // 2
        parts = (_closest(surface, q[i], seed[i]) for i in (slice(half), slice(half, None)))
        return torch.cat(list(parts))
    query, place = surface.members(*found)
    square, _ = _nearest(frames.index_select(0, place), q.index_select(0, query))
    least = square.new_full((len(q),), torch.inf).scatter_reduce(0, query, square, "amin")
    best = square == least.index_select(0, query)
    piece = torch.full_like(seed, len(surface))
    piece = piece.scatter_reduce(0, query[best], surface.order[place[best]], "amin")
    return surface.place[piece]


def _nearest(frames: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances (P,) to pieces, and the weights (P, D) of their corners where nearest."""
    dim = q.shape[1]
    d = q - frames[:, :dim]
    s = (d * frames[:, dim : 2 * dim]).sum(1)
    if dim == 2:
        length, h = frames[:, 6], (d * frames[:, 4:6]).sum(1)
        k = _along(s, length)
        return (s - k * length).square() + h * h, torch.stack([1 - k, k], 1)
    t, h = (d * frames[:, 6:9]).sum(1), (d * frames[:, 9:12]).sum(1)
    length, foot, height = frames[:, 12:].unbind(1)
    zero, rest = torch.zeros_like(s), length - foot
    k1, k2, k3 = _along(s, length), _along(s - length, -rest, t, height), _along(s, foot, t, height)
    d1 = (s - k1 * length).square() + t.square()
    d2 = (s - length + k2 * rest).square() + (t - k2 * height).square()
    d3 = (s - k3 * foot).square() + (t - k3 * height).square()
    inside = (t >= 0) & (rest * t <= height * (length - s)) & (foot * t <= height * s)
    inside &= height > 0
    c = t / height.masked_fill(height == 0, 1.0)
    b = (s - c * foot) / length.masked_fill(length == 0, 1.0)
    least = torch.minimum(d1, torch.minimum(d2, d3))
    on1, on2 = d1 <= least, d2 <= least
    c = torch.where(inside, c, torch.where(on1, zero, torch.where(on2, k2, k3))).clamp(0.0, 1.0)
    b = torch.where(inside, b, torch.where(on1, k1, torch.where(on2, 1 - k2, zero))).clamp(0.0, 1.0)
    weights = torch.stack([(1 - b - c).clamp(min=0.0), b, c], 1)
    return least.masked_fill(inside, 0.0) + h * h, weights


def _along(s: Tensor, x: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> Tensor:
    """How far, 0..1, along the side from 0 to (x, y) the place nearest to (s, t) is."""
    dot, square = s * x, x * x
    if t is not None and y is not None:
        dot, square = dot + t * y, square + y * y
    return (dot / square.masked_fill(square == 0, 1.0)).clamp(0.0, 1.0)
