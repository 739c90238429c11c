"""Where points lie in a mesh of simplices, and what its fields are there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.check import InputError, check_index, check_length, check_shape
from meshsim.ops.neighbors import check_points
from meshsim.ops.order import morton_order
from meshsim.ops.scatter import scatter_sum

torch.library.define(
    "meshsim::locate",
    "(Tensor points, Tensor cells, Tensor queries, float tolerance=1e-9) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    "meshsim::interpolate",
    "(Tensor values, Tensor cells, Tensor ids, Tensor weights, float outside=0.0) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_AT_ONCE = 4096  # queries
_FAN = 8  # boxes in a larger box


def _orient(x: Any) -> Any:
    """Twice the area or six times the volume of simplices (n, D + 1, D), signed."""
    e = x[:, 1:] - x[:, :1]
    if x.shape[2] == 2:
        return e[:, 0, 0] * e[:, 1, 1] - e[:, 0, 1] * e[:, 1, 0]
    a, b, c = e[:, 0], e[:, 1], e[:, 2]
    u = b[:, 1] * c[:, 2] - b[:, 2] * c[:, 1]
    v = b[:, 2] * c[:, 0] - b[:, 0] * c[:, 2]
    w = b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0]
    return (a[:, 0] * u + a[:, 1] * v) + a[:, 2] * w


def _boxes(x: Any, tolerance: float) -> tuple[Any, Any]:
    low, high = x.min(1), x.max(1)
    pad = (x.shape[2] + 2) * tolerance * (high - low).max(1, keepdims=True)
    return low - pad, high + pad


def _levels(low: Any, high: Any) -> list[tuple[Any, Any]]:
    """Boxes of boxes, the largest first."""
    levels = [(low, high)]
    while len(low) > _FAN:
        starts = np.arange(0, len(low), _FAN)
        low, high = np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)
        levels.insert(0, (low, high))
    return levels


def _candidates(levels: list[tuple[Any, Any]], q: Any) -> tuple[Any, Any]:
    """Pairs (query, box of the last level that holds it)."""
    low, _ = levels[0]
    query = np.repeat(np.arange(len(q)), len(low))
    box = np.tile(np.arange(len(low)), len(q))
    for i, (low, high) in enumerate(levels):
        if i:
            query = query.repeat(_FAN)
            box = (box[:, None] * _FAN + np.arange(_FAN)).reshape(-1)
            real = box < len(low)
            query, box = query[real], box[real]
        inside = ((low[box] <= q[query]) & (q[query] <= high[box])).all(1)
        query, box = query[inside], box[inside]
    return query, box


def _check(points: Tensor, cells: Tensor, queries: Tensor, tolerance: float) -> None:
    check_points(points, dims=(2, 3))
    dim = points.shape[1]
    check_points(queries, "queries", dims=(dim, dim))
    if queries.dtype != points.dtype:
        raise InputError(f"`queries`: expected {points.dtype}, got {queries.dtype}")
    check_shape(cells, (None, dim + 1), "cells")
    if cells.dtype != torch.int64:
        raise InputError(f"`cells`: expected int64, got {cells.dtype}")
    check_index(cells, len(points), "cells")
    if not tolerance >= 0:
        raise InputError(f"`tolerance`: expected a number >= 0, got {tolerance}")


def _locate(
    points: Tensor, cells: Tensor, queries: Tensor, tolerance: float = 1e-9
) -> tuple[Tensor, Tensor]:
    _check(points, cells, queries, tolerance)
    dim = points.shape[1]
    x = points.detach().double().cpu().numpy()[cells.cpu().numpy()]  # (C, D + 1, D)
    q = queries.detach().double().cpu().numpy()
    ids, weights = np.full(len(q), -1), np.zeros((len(q), dim + 1))
    low, high = _boxes(x, tolerance) if len(x) else (np.zeros((0, dim)),) * 2
    order = morton_order(torch.from_numpy(0.5 * low + 0.5 * high)).numpy()
    levels = _levels(low[order], high[order])
    for first in range(0, len(q) if len(x) else 0, _AT_ONCE):
        some = q[first : first + _AT_ONCE]
        query, box = _candidates(levels, some)
        cell = order[box]
        whole = _orient(x[cell])
        real = whole != 0
        query, cell, whole = query[real], cell[real], whole[real]
        part = np.empty((len(cell), dim + 1))
        for i in range(dim + 1):
            corners = x[cell]
            corners[:, i] = some[query]
            part[:, i] = _orient(corners) / whole
        inside = (part >= -tolerance).all(1)
        query, cell, part = query[inside], cell[inside], part[inside]
        by = np.lexsort((cell, query))
        query, lead = np.unique(query[by], return_index=True)
        ids[first + query], weights[first + query] = cell[by][lead], part[by][lead]
    out = torch.from_numpy(ids), torch.from_numpy(weights).to(points.dtype)
    return out[0].to(points.device), out[1].to(points.device)


def _fake(
    points: Tensor, cells: Tensor, queries: Tensor, tolerance: float = 1e-9
) -> tuple[Tensor, Tensor]:
    m = queries.shape[0]
    return queries.new_empty(m, dtype=torch.int64), queries.new_empty(m, cells.shape[1])


def _corners(values: Tensor, cells: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Which queries lie in a cell, (M,) bool, and the points at its corners (m, k)."""
    if ids.numel() and int(ids.min()) < -1:
        raise InputError(f"`ids`: expected -1 or the number of a cell, got {int(ids.min())}")
    inside = ids >= 0
    check_index(ids.clamp(min=0)[inside], len(cells), "ids", "cells")
    corners = cells[ids[inside]]
    check_index(corners, len(values), "cells")
    return inside, corners


def _interpolate(
    values: Tensor, cells: Tensor, ids: Tensor, weights: Tensor, outside: float = 0.0
) -> Tensor:
    check_shape(values, (None, None), "values")
    check_shape(cells, (None, None), "cells")
    check_shape(ids, (None,), "ids")
    check_shape(weights, (len(ids), cells.shape[1]), "weights")
    if values.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        raise InputError(f"`values`: expected float32, float64 or bfloat16, got {values.dtype}")
    for name, given, want in (
        ("cells", cells, torch.int64),
        ("ids", ids, torch.int64),
        ("weights", weights, values.dtype),
    ):
        if given.dtype != want:
            raise InputError(f"`{name}`: expected {want}, got {given.dtype}")
    inside, corners = _corners(values, cells, ids)
    wide = torch.promote_types(values.dtype, torch.float32)
    out = values.new_full((len(ids), values.shape[1]), outside)
    total = out.new_zeros(len(corners), values.shape[1], dtype=wide)
    for corner, weight in zip(corners.unbind(1), weights[inside].to(wide).unbind(1), strict=True):
        total += weight[:, None] * values[corner].to(wide)
    out[inside] = total.to(values.dtype)
    return out


def _fake_interpolate(
    values: Tensor, cells: Tensor, ids: Tensor, weights: Tensor, outside: float = 0.0
) -> Tensor:
    return values.new_empty(ids.shape[0], values.shape[1])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """∂f/∂values by sums over the queries of each point, ∂f/∂λ_i = ⟨grad, values_i⟩."""
    values, cells, ids, weights = ctx.saved_tensors
    at = cells[ids.clamp(min=0)] if len(cells) else cells.new_zeros(len(ids), cells.shape[1])
    real = torch.where((ids >= 0)[:, None], weights, 0.0)  # (M, k)
    to_values = to_weights = None
    if ctx.needs_input_grad[0]:
        rows = (real[:, :, None] * grad[:, None]).flatten(0, 1)  # (M k, W)
        to_values = scatter_sum(rows, at.reshape(-1), 0, dim_size=len(values))
    if ctx.needs_input_grad[3]:
        picked = values.index_select(0, at.reshape(-1)).unflatten(0, at.shape)  # (M, k, W)
        to_weights = (picked * grad[:, None]).sum(2) * (ids >= 0)[:, None]
    return to_values, None, None, to_weights, None


for _name, _reference, _without_data in (
    ("locate", _locate, _fake),
    ("interpolate", _interpolate, _fake_interpolate),
):
    torch.library.impl(f"meshsim::{_name}", "CompositeExplicitAutograd", _reference)
    torch.library.register_fake(f"meshsim::{_name}", _without_data)
torch.library.register_autograd("meshsim::interpolate", _backward, setup_context=_setup)


def locate(
    points: Float[Tensor, "N D"],
    cells: Int[Tensor, "C k"],
    queries: Float[Tensor, "M D"],
    tolerance: float = 1e-9,
) -> tuple[Int[Tensor, " M"], Float[Tensor, "M k"]]:
    """The simplex that each query lies in, and its barycentric coordinates there.

    λ_i = V(…, q in place of p_i, …) / V(p_0, …, p_D), in float64; inside iff all λ_i >= −tolerance.

    Arguments:
        points: (N, D) float32 or float64, D = 2, 3, finite.
        cells: (C, D + 1) int64, triangles in 2-D, tetrahedra in 3-D, wound either way.
        queries: (M, D) in the type of the points.
        tolerance: how far outside still counts, as part of a cell's height.

    Returns:
        (M,) int64 the cell, the smallest of several, −1 where there is none; (M, D + 1) the
        coordinates, 0 where there is no cell. No gradients flow through it.

    Raises:
        InputError: shapes, types or indices do not fit, or a coordinate is not finite.

    >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> locate(points, torch.tensor([[0, 1, 2]]), torch.tensor([[0.25, 0.5], [2.0, 0.0]]))
    (tensor([ 0, -1]), tensor([[0.2500, 0.2500, 0.5000], [0.0000, 0.0000, 0.0000]]))
    """
    return torch.ops.meshsim.locate(points, cells, queries, tolerance)


def interpolate(
    values: Float[Tensor, "N ..."],
    cells: Int[Tensor, "C k"],
    ids: Int[Tensor, " M"],
    weights: Float[Tensor, "M k"],
    outside: float = 0.0,
) -> Float[Tensor, "M ..."]:
    """Linear interpolation of point values: f(q) = Σ_i λ_i f_i over the corners of q's cell.

    Differentiable in `values` and `weights`, as often as wanted.

    Arguments:
        values: (N, …) at the points.
        cells: (C, k) int64.
        ids, weights: (M,), (M, k): what `locate` gives.
        outside: the value where `ids` is −1.

    Raises:
        InputError: shapes or indices do not fit.

    >>> cells, weights = torch.tensor([[0, 1, 2]]), torch.full((1, 3), 1 / 3)
    >>> interpolate(torch.tensor([0.0, 3.0, 6.0]), cells, torch.tensor([0]), weights)
    tensor([3.])
    """
    check_length(weights, len(ids), "weights", "ids")
    check_shape(weights, (None, cells.shape[1]), "weights")
    kind = torch.promote_types(values.dtype, weights.dtype)
    rows = (values.flatten(1) if values.dim() > 1 else values[:, None]).to(kind)  # (N, W)
    found = torch.ops.meshsim.interpolate(rows, cells, ids, weights.to(kind), outside)
    return found.reshape(len(ids), *values.shape[1:])
