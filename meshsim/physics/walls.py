"""Distances to walls of segments or triangles that can be differentiated twice, at the wall too."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from meshsim.check import InputError, check_finite, check_index, check_shape

_POINTS, _PAIRS = 2**12, 2**16  # points, and pairs of a point and a wall, looked at together


def squared_distance(
    points: Float[Tensor, "N D"],
    walls: Float[Tensor, "S K E"],
    nearest: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, " N"]:
    """d² from points to walls of segments or triangles; differentiable twice by the points.

    The nearest corner, edge or face is searched for without a gradient; d² to the plane, line or
    point that it lies in is differentiated. So the gradient is exact, 2 (x − c) for the nearest
    place c, and 0 on the wall itself; it jumps only where two places are equally near, the second
    derivative also where the nearest place goes over to another corner, edge or face. A point that
    is off by no more than the rounding of its coordinates counts as on the wall.

    Arguments:
        points: (N, D) float.
        walls: (S, 2, 2) ends of segments in the plane, or (S, 3, 3) corners of triangles.
        nearest: (N,) which wall is nearest to each point, as `nearest_wall` finds it; None finds
            it each time.

    Returns:
        (N,) in the dtype of the points. Constant with respect to the walls.

    Raises:
        InputError: shapes or indices that do not fit; no walls; values that are not finite.

    >>> wall = torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])
    >>> squared_distance(torch.tensor([[1.0, 3.0], [5.0, 4.0], [0.3, 0.0]]), wall)
    tensor([ 9., 25.,  0.])
    """
    dim = points.shape[1]
    if dim not in (2, 3):
        raise InputError(f"`points`: expected shape (N, 2) or (N, 3), got {tuple(points.shape)}")
    check_shape(walls, (None, dim, dim), "walls")
    check_finite(walls, "walls")
    corners, x = walls.detach().double(), points.double()
    with torch.no_grad():
        if nearest is None:
            nearest = nearest_wall(points, walls)
        check_shape(nearest, (len(points),), "nearest")
        check_index(nearest, len(walls), "nearest", "walls")
        anchor, along = _feature(x.detach(), corners[nearest])
    r = x - anchor
    for way in along:  # orthonormal, or zero
        r = r - (r * way).sum(1, keepdim=True) * way
    size = torch.maximum(x.detach().abs().amax(1), anchor.abs().amax(1))
    rounding = 4 * torch.finfo(points.dtype).eps * size
    on = r.detach().norm(dim=1) <= rounding
    r = r - r.detach() * on[:, None]  # the value is zero, the derivatives stay
    return r.square().sum(1).to(points.dtype)


def nearest_wall(points: Float[Tensor, "N D"], walls: Float[Tensor, "S K E"]) -> Int[Tensor, " N"]:
    """Which segment or triangle is nearest to each point; arguments as in `squared_distance`.

    A wall lies within its reach of its middle, so a tree of the middles leaves few to look at,
    unless there are a few walls much larger than the others.
    """
    if len(walls) == 0:
        raise InputError("`walls`: expected at least one, got none")
    check_finite(points, "points")
    corners = walls.detach().double().cpu()
    middle = corners.mean(1)
    reach = (corners - middle[:, None]).norm(dim=2).amax(1)
    tree = cKDTree(middle.numpy())
    out = [torch.zeros(0, dtype=torch.int64)]
    for x in points.detach().double().cpu().split(_POINTS) if len(points) else ():
        guess = torch.from_numpy(tree.query(x.numpy())[1])
        bound = _squares(x, corners[guess]).sqrt()
        slack = 1e-14 * float(torch.maximum(x.abs().max(), middle.abs().max()))  # of rounding
        within = (bound + reach.max()) * (1 + 1e-9) + slack
        found = tree.query_ball_point(x.numpy(), within.numpy())
        of = torch.repeat_interleave(torch.tensor([len(f) for f in found]))
        wall = torch.from_numpy(np.concatenate(found).astype(np.int64))
        near = (bound[of] + reach[wall]) * (1 + 1e-9) + slack
        keep = (x[of] - middle[wall]).norm(dim=1) <= near
        of, wall = of[keep], wall[keep]
        parts = zip(of.split(_PAIRS), wall.split(_PAIRS), strict=True)
        square = torch.cat([_squares(x[i], corners[j]) for i, j in parts])
        order = torch.from_numpy(np.lexsort((wall, square, of)))
        counts = torch.bincount(of, minlength=len(x))
        out.append(wall[order[counts.cumsum(0) - counts]])
    return torch.cat(out).to(points.device)


def _edges(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Where the nearest place on the segment a b is, 0 … 1, and the square of its distance."""
    way, r = b - a, x - a
    size = way.square().sum(-1)
    t = ((r * way).sum(-1) / size.masked_fill(size == 0, 1.0)).clamp(0, 1)
    return t, (r - t[..., None] * way).square().sum(-1)


def _faces(x: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """Whether points are over triangles, and the squares of their distances from the planes."""
    a, b, c = corners.unbind(-2)
    normal = torch.linalg.cross(b - a, c - a)
    size = normal.square().sum(-1)
    over = size > 0
    for p, q in ((a, b), (b, c), (c, a)):
        over = over & ((torch.linalg.cross(normal, q - p) * (x - p)).sum(-1) >= 0)
    return over, ((x - a) * normal).sum(-1).square() / size.masked_fill(size == 0, 1.0)


def _squares(x: Tensor, corners: Tensor) -> Tensor:
    """(n,) squares of the distances of points (n, D) to a wall each (n, D, D)."""
    k = corners.shape[1]
    sides = [(0, 1)] if k == 2 else [(0, 1), (1, 2), (2, 0)]
    least = torch.stack([_edges(x, corners[:, i], corners[:, j])[1] for i, j in sides]).amin(0)
    if k == 2:
        return least
    over, plane = _faces(x, corners)
    return torch.where(over, plane, least)


def _feature(x: Tensor, corners: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Of one wall a point (N, D, D): a corner of what is nearest, and the directions that it has.

    The corner is the nearer one, so that rounding is least, and none at a corner.
    """
    n, k = corners.shape[:2]
    ends = corners[:, [[0, 1]] if k == 2 else [[0, 1], [1, 2], [2, 0]]]  # (N, s, 2, D)
    t, square = _edges(x[:, None], ends[:, :, 0], ends[:, :, 1])  # (N, s)
    row, side = torch.arange(n, device=x.device), square.argmin(1)
    a, b = ends[row, side].unbind(1)
    t = t[row, side][:, None]
    way = torch.nn.functional.normalize(b - a, dim=1, eps=1e-300) * ((t > 0) & (t < 1))
    anchor = torch.where(t < 0.5, a, b)
    if k == 2:
        return anchor, [way]
    over = _faces(x, corners)[0][:, None]
    first = torch.nn.functional.normalize(b - a, dim=1, eps=1e-300)
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    second = torch.nn.functional.normalize(torch.linalg.cross(normal, first), dim=1, eps=1e-300)
    corner = (corners - x[:, None]).square().sum(2).argmin(1)
    anchor = torch.where(over, corners[row, corner], anchor)
    return anchor, [torch.where(over, first, way), torch.where(over, second, 0.0)]
