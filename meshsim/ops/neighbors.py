"""Neighbours of points: all within a radius, or the k nearest."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.check import InputError, check_finite
from meshsim.ops.segment import check_rowptr

torch.library.define(
    "meshsim::radius",
    "(Tensor points, Tensor queries, float r, Tensor? batch_points=None, "
    "Tensor? batch_queries=None, int? max_neighbors=None) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    "meshsim::knn",
    "(Tensor points, Tensor queries, int k, Tensor? batch_points=None, "
    "Tensor? batch_queries=None) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_SLACK = 1 + 1e-12  # the tree rounds in its own way: ask it for a little more
_AT_ONCE = 1 << 22  # candidates


def check_points(points: Tensor, name: str = "points", dims: tuple[int, ...] = (1, 2, 3)) -> None:
    """Raise `InputError` unless `points` is finite float32 or float64 of shape (N, dims)."""
    if points.dim() != 2 or points.shape[1] not in dims:
        raise InputError(
            f"`{name}`: expected shape (*, {dims[0]}..{dims[-1]}), got {tuple(points.shape)}"
        )
    if points.dtype not in (torch.float32, torch.float64):
        raise InputError(f"`{name}`: expected float32 or float64, got {points.dtype}")
    check_finite(points, name)


def check_offsets(batch: Tensor | None, n: int, name: str) -> list[int]:
    """The offsets of batches as numbers, [0, n] where there is only one."""
    if batch is None:
        return [0, n]
    check_rowptr(batch, n, name)
    return batch.tolist()


def _batches(
    points: Tensor, queries: Tensor, batch_points: Tensor | None, batch_queries: Tensor | None
) -> list[tuple[int, int, int, int]]:
    check_points(points)
    check_points(queries, "queries")
    if queries.shape[1] != points.shape[1]:
        raise InputError(
            f"`queries`: expected shape (*, {points.shape[1]}), got {tuple(queries.shape)}"
        )
    if queries.dtype != points.dtype:
        raise InputError(f"`queries`: expected {points.dtype}, got {queries.dtype}")
    if (batch_points is None) != (batch_queries is None):
        raise InputError("`batch_queries`: expected both batches or none")
    a = check_offsets(batch_points, len(points), "batch_points")
    b = check_offsets(batch_queries, len(queries), "batch_queries")
    if len(a) != len(b):
        raise InputError(
            f"`batch_queries`: expected {len(a)} offsets as for the points, got {len(b)}"
        )
    return list(zip(a[:-1], a[1:], b[:-1], b[1:], strict=True))


def _squares(points: Any, queries: Any) -> Any:
    """(dx² + dy²) + dz² in float64, each step rounded: what decides who is inside."""
    out = np.zeros(len(points))
    for p, q in zip(points.T, queries.T, strict=True):
        out += (p - q) ** 2
    return out


def _tree(points: Any) -> Any:
    from scipy.spatial import cKDTree  # a quarter of a second that only the reference costs

    return cKDTree(points)


def _within(tree: Any, points: Any, queries: Any, limit: Any) -> Any:
    """Rows (query, point, square) with square <= limit of the query, in no order."""
    reach = np.sqrt(limit) * _SLACK
    sizes = tree.query_ball_point(queries, reach, return_length=True)
    cuts = np.searchsorted(sizes.cumsum() // _AT_ONCE, np.arange(sizes.sum() // _AT_ONCE + 2))
    parts = []
    for a, b in itertools.pairwise(cuts):
        if a == b:
            continue
        found = tree.query_ball_point(queries[a:b], reach[a:b])
        query = np.repeat(np.arange(a, b), [len(f) for f in found])
        point = np.concatenate([np.asarray(f, dtype=np.int64) for f in found])
        square = _squares(points[point], queries[query])
        keep = square <= limit[query]
        parts.append((query[keep], point[keep], square[keep]))
    none = np.zeros(0, dtype=np.int64)
    columns = zip(*parts, strict=True) if parts else ([none], [none], [np.zeros(0)])
    return [np.concatenate(column) for column in columns]


def _first(query: Any, order: Any, most: int) -> Any:
    """Of rows put in order by query, the first `most` of each query."""
    query = query[order]
    start = np.searchsorted(query, query)  # where its query begins
    return order[np.arange(len(query)) - start < most]


def _radius(
    points: Tensor,
    queries: Tensor,
    r: float,
    batch_points: Tensor | None = None,
    batch_queries: Tensor | None = None,
    max_neighbors: int | None = None,
) -> tuple[Tensor, Tensor]:
    batches = _batches(points, queries, batch_points, batch_queries)
    if not r >= 0:
        raise InputError(f"`r`: expected a number >= 0, got {r}")
    if max_neighbors is not None and max_neighbors < 0:
        raise InputError(f"`max_neighbors`: expected >= 0, got {max_neighbors}")
    p, q = (t.detach().double().cpu().numpy() for t in (points, queries))
    rowptr, rows = np.zeros(len(q) + 1, dtype=np.int64), [np.zeros(0, dtype=np.int64)]
    for a, b, c, d in batches:
        if a == b or c == d:
            continue
        limit = np.full(d - c, np.square(r))
        query, point, square = _within(_tree(p[a:b]), p[a:b], q[c:d], limit)
        if max_neighbors is not None:
            keep = _first(query, np.lexsort((point, square, query)), max_neighbors)
            query, point = query[keep], point[keep]
        order = np.lexsort((point, query))
        rowptr[c + 1 : d + 1] = np.bincount(query, minlength=d - c)
        rows.append(point[order] + a)
    out = torch.from_numpy(rowptr.cumsum()), torch.from_numpy(np.concatenate(rows))
    return out[0].to(points.device), out[1].to(points.device)


def _knn(
    points: Tensor,
    queries: Tensor,
    k: int,
    batch_points: Tensor | None = None,
    batch_queries: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    batches = _batches(points, queries, batch_points, batch_queries)
    if k < 0:
        raise InputError(f"`k`: expected >= 0, got {k}")
    p, q = (t.detach().double().cpu().numpy() for t in (points, queries))
    indices = np.full((len(q), k), -1, dtype=np.int64)
    squares = np.full((len(q), k), np.inf)
    for a, b, c, d in batches:
        if a == b or c == d or k == 0:
            continue
        tree = _tree(p[a:b])
        # The k-th distance of the tree, where enough points are; it need not be the smallest
        # index of equals, so all within it are looked at again.
        limit = tree.query(q[c:d], [min(k, b - a)])[0][:, 0] ** 2 * _SLACK**2
        query, point, square = _within(tree, p[a:b], q[c:d], limit)
        keep = _first(query, np.lexsort((point, square, query)), k)
        query, column = query[keep], np.arange(len(keep))
        column -= np.searchsorted(query, query)
        indices[c + query, column] = point[keep] + a
        squares[c + query, column] = square[keep]
    distances = torch.from_numpy(np.sqrt(squares)).to(points.dtype)
    return torch.from_numpy(indices).to(points.device), distances.to(points.device)


def _fake_radius(
    points: Tensor,
    queries: Tensor,
    r: float,
    batch_points: Tensor | None = None,
    batch_queries: Tensor | None = None,
    max_neighbors: int | None = None,
) -> tuple[Tensor, Tensor]:
    found = torch.library.get_ctx().new_dynamic_size()
    rowptr = points.new_empty(queries.shape[0] + 1, dtype=torch.int64)
    return rowptr, points.new_empty(found, dtype=torch.int64)


def _fake_knn(
    points: Tensor,
    queries: Tensor,
    k: int,
    batch_points: Tensor | None = None,
    batch_queries: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], k)
    return points.new_empty(shape, dtype=torch.int64), points.new_empty(shape)


for _name, _reference, _fake in (("radius", _radius, _fake_radius), ("knn", _knn, _fake_knn)):
    torch.library.impl(f"meshsim::{_name}", "CompositeExplicitAutograd", _reference)
    torch.library.register_fake(f"meshsim::{_name}", _fake)


def radius(
    points: Float[Tensor, "N D"],
    queries: Float[Tensor, "M D"],
    r: float,
    batch_points: Int[Tensor, " _"] | None = None,
    batch_queries: Int[Tensor, " _"] | None = None,
    max_neighbors: int | None = None,
) -> tuple[Int[Tensor, " R"], Int[Tensor, " E"]]:
    """All points within `r` of each query: those with (dx² + dy²) + dz² <= r².

    Both sides are computed in float64, every step rounded, whatever the type of the points: so
    all devices agree about points on the boundary. A point is its own neighbour.

    Arguments:
        points, queries: (N, D), (M, D) float32 or float64, D = 1..3, finite.
        r: radius >= 0.
        batch_points, batch_queries: (B + 1,) int64, both or none: queries
            `batch_queries[b]:batch_queries[b + 1]` see points `batch_points[b]:…` only.
        max_neighbors: keep that many nearest, of equally far ones those with the smallest index.

    Returns:
        (M + 1,) rowptr and (E,) indices, int64: query i has the points
        `indices[rowptr[i]:rowptr[i + 1]]`, rising. No gradients flow through it.

    Raises:
        InputError: shapes, types or batches do not fit, or a coordinate is not finite.

    >>> radius(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.5], [9.0]]), 0.5)
    (tensor([0, 2, 2]), tensor([0, 1]))
    """
    return torch.ops.meshsim.radius(points, queries, r, batch_points, batch_queries, max_neighbors)


def knn(
    points: Float[Tensor, "N D"],
    queries: Float[Tensor, "M D"],
    k: int,
    batch_points: Int[Tensor, " _"] | None = None,
    batch_queries: Int[Tensor, " _"] | None = None,
) -> tuple[Int[Tensor, "M k"], Float[Tensor, "M k"]]:
    """The k points nearest to each query, near ones first, of equally far ones the smallest index.

    Distances are compared as squares in float64, see `radius`; other arguments as there.

    Returns:
        (M, k) int64 indices and (M, k) distances in the type of the points; −1 and ∞ where there
        are fewer than k points. No gradients flow through it.

    >>> knn(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.5]]), 2)
    (tensor([[0, 1]]), tensor([[0.5000, 0.5000]]))
    """
    return torch.ops.meshsim.knn(points, queries, k, batch_points, batch_queries)
