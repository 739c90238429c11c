"""Coefficients and reference areas of bodies, and how well predictions rank and match designs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.check import InputError, check_finite, check_length, check_shape
from meshsim.geometry.cells import Cells
from meshsim.geometry.measure import lift, rings
from meshsim.physics.forces import Forces, check_surface, fan

_TURN = 0.6  # angle of the rows: a body's edges seldom run along them
_AT_ONCE = 2**20  # pairs of a triangle and a row


def coefficients(
    forces: Forces,
    density: float,
    speed: float,
    area: float,
    *,
    drag: Sequence[float] | None = None,
    lift: Sequence[float] | None = None,
    length: float | None = None,
) -> dict[str, Tensor]:
    """Coefficients of drag, lift and side force, and of the moments.

    C = F·e / (½ ρ U² A) and C_m = M·e / (½ ρ U² A l). The side axis is lift × drag; roll, pitch
    and yaw turn about drag, side and lift. With the wind along x and z up (in the plane, y up)
    pitch is positive nose up.

    Arguments:
        forces: on the body.
        density: ρ of the fluid (kg m⁻³).
        speed: U of the undisturbed flow (m s⁻¹).
        area: A, of reference (m²); in 2-D the chord (m).
        drag: (D,) direction of the flow, of any length; None is x.
        lift: (D,) direction across it; None is the last axis.
        length: l, of reference (m); None leaves the moments out.

    Returns:
        {"drag", "lift"}, in 3-D "side"; with a length "pitch", in 3-D "roll" and "yaw": 0-d
        float64 tensors that keep the gradient.

    Raises:
        InputError: a scale that is not positive; directions that are not across each other.

    >>> f = Forces(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 6.0]), torch.tensor(0.0))
    >>> {name: float(c) for name, c in coefficients(f, 1.0, 2.0, 1.0).items()}
    {'drag': 1.0, 'lift': 3.0}
    """
    dim = len(forces.pressure)
    scales = {"density": density, "speed": speed, "area": area, "length": length}
    for name, value in scales.items():
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"`{name}`: expected a positive number, got {value}")
    axes = torch.eye(dim).tolist()
    along = _direction(axes[0] if drag is None else drag, dim, "drag")
    up = _direction(axes[-1] if lift is None else lift, dim, "lift")
    if abs(float(along @ up)) > 1e-5:
        raise InputError(
            f"`lift`: expected a direction across drag, got {float(along @ up):.3g} along it"
        )
    side = torch.linalg.cross(up, along)
    # In the plane the force has no third component, the moment nothing else.
    force = torch.nn.functional.pad(forces.total.double().cpu(), (0, 3 - dim))
    moment = torch.nn.functional.pad(forces.moment.double().cpu().reshape(-1), (3 - dim) * (2, 0))
    scale = 0.5 * density * speed**2 * area
    out = {"drag": along @ force / scale, "lift": up @ force / scale}
    if dim == 3:
        out["side"] = side @ force / scale
    if length is not None:
        turned = {"pitch": side} if dim == 2 else {"roll": along, "pitch": side, "yaw": up}
        out |= {name: axis @ moment / (scale * length) for name, axis in turned.items()}
    return out


def _direction(vector: Sequence[float], dim: int, name: str) -> Tensor:
    """(3,) float64 unit vector, z = 0 in the plane."""
    out = torch.tensor(vector, dtype=torch.float64)
    check_shape(out, (dim,), name)
    size = float(out.norm())
    if not 0 < size < math.inf:
        raise InputError(f"`{name}`: expected a direction, got {list(vector)}")
    return torch.nn.functional.pad(out / size, (0, 3 - dim))


def frontal_area(
    points: Float[Tensor, "N D"],
    cells: Sequence[Cells],
    direction: Sequence[float],
    rows: int = 1024,
) -> float:
    """Area of a surface's shadow on the plane across a direction: what is behind counts once.

    The shadow is cut into parallel rows; on the middle line of each the covered length is exact,
    the union of the intervals in which it meets the faces. The covered length changes linearly
    between corners of the outline, so the error falls with the square of the rows' height (of a
    round outline with the power 3/2); only with the height itself where the outline has an edge
    along the rows, which run askew. In 2-D the shadow of a contour is a length, and exact.

    Arguments:
        points: (N, D) float; D = 3 with 2-D cells, or D = 2 with lines.
        cells: blocks of a surface, open or closed, wound in any way. Faces of more than three
            corners are fans about the average corner, which covers a little more where they are
            not convex.
        direction: (D,) of the light, of any length.
        rows: how many, at least 1.

    Returns:
        The area in the unit of the points squared; in 2-D the length.

    Raises:
        InputError: cells of another dimension; points that are not finite; no direction.

    >>> points = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    >>> warped = Cells("quad", torch.tensor([[0, 1, 2, 3]]))
    >>> round(frontal_area(points, [warped], (0.0, 0.0, 1.0)), 4)
    1.0
    """
    dim = check_surface(points, cells)
    if rows < 1:
        raise InputError(f"`rows`: expected at least 1, got {rows}")
    check_finite(points, "points")
    along = _direction(direction, dim, "direction").to(points.device)
    x = lift(points)
    if dim == 2:
        across = along[0] * x[:, 1] - along[1] * x[:, 0]
        ends = torch.cat([across.new_zeros(0, 2), *(across[b.nodes[:, :2]] for b in cells)])
        return _covered(ends, torch.zeros(len(ends), dtype=torch.int64, device=ends.device))
    axis = torch.zeros_like(along).index_fill(0, along.abs().argmin(), 1.0)
    a = torch.linalg.cross(along, axis)
    a, b = a / a.norm(), torch.linalg.cross(along, a / a.norm())
    u, v = math.cos(_TURN) * a + math.sin(_TURN) * b, math.cos(_TURN) * b - math.sin(_TURN) * a
    shadow = x @ torch.stack([u, v], 1)  # (N, 2), rows along u
    groups = [ring for block in cells for _, ring in rings(block) if ring.shape[1] > 2]
    parts = [fan(shadow[ring]).reshape(-1, 3, 2) for ring in groups]
    corners = torch.cat([shadow.new_zeros(0, 3, 2), *parts])  # (T, 3, 2)
    if len(corners) == 0:
        return 0.0
    low, high = (float(end) for end in corners[..., 1].aminmax())
    height = (high - low) / rows
    return height * _covered(*_crossings(corners, low, height)) if height > 0 else 0.0


def _crossings(corners: Float[Tensor, "T 3 2"], low: float, height: float) -> tuple[Tensor, Tensor]:
    """Where triangles meet the lines v = low + (row + ½) height: ends (n, 2) and row (n,)."""
    v = corners[..., 1]
    first = torch.ceil((v.amin(1) - low) / height - 0.5).long()
    last = torch.floor((v.amax(1) - low) / height - 0.5).long()
    counts = (last - first + 1).clamp(min=0)
    pieces = torch.bincount(counts.cumsum(0) // _AT_ONCE).tolist()
    ends, rows = [], []
    for t, start, n in zip(*(part.split(pieces) for part in (corners, first, counts)), strict=True):
        which = torch.repeat_interleave(n)
        row = start[which] + torch.arange(len(which), device=n.device) - (n.cumsum(0) - n)[which]
        line = (low + (row + 0.5) * height)[:, None]
        p, q = t[which], t.roll(-1, 1)[which]  # (n, 3, 2): the ends of the edges
        rise = q[..., 1] - p[..., 1]
        meets = (p[..., 1] <= line) != (q[..., 1] <= line)
        share = (line - p[..., 1]) / rise.masked_fill(~meets, 1.0)
        at = p[..., 0] + share * (q[..., 0] - p[..., 0])
        least = at.masked_fill(~meets, math.inf).amin(1)
        most = at.masked_fill(~meets, -math.inf).amax(1)
        keep = most > least
        ends.append(torch.stack([least, most], 1)[keep])
        rows.append(row[keep])
    return torch.cat(ends), torch.cat(rows)


def _covered(ends: Float[Tensor, "n 2"], row: Int[Tensor, " n"]) -> float:
    """Length of the union of intervals, summed over the rows that they lie in."""
    if len(ends) == 0:
        return 0.0
    ends = ends.sort(1).values - ends.min()
    # One line for all rows, each on its own stretch of it.
    ends = ends + row[:, None] * (1.5 * ends.max())
    low, high = ends[ends[:, 0].argsort()].unbind(1)
    reached = torch.cat([low[:1], high.cummax(0).values[:-1]])
    return float((high - torch.maximum(low, reached)).clamp(min=0).sum())


def weighted_relative_l2(
    truth: Float[Tensor, "n *c"], prediction: Float[Tensor, "n *c"], weights: Float[Tensor, " m"]
) -> float:
    """√(Σ w |p − t|²) / √(Σ w |t|²): with areas or volumes for weights, the error of the fields.

    Arguments:
        truth: (n, …) values on points or cells.
        prediction: (n, …).
        weights: (n,) not negative.

    Returns:
        The ratio; 0 where both are zero, infinite where only the truth is.

    >>> truth, prediction = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.0])
    >>> weighted_relative_l2(truth, prediction, torch.tensor([16.0, 1.0]))  # √(16 / (144 + 16))
    0.316...
    """
    check_length(weights, len(truth), "weights", "values")
    check_finite(weights, "weights")
    if bool((weights < 0).any()):
        raise InputError(f"`weights`: expected none below 0, got {float(weights.min())}")
    w = weights.double().reshape(-1, *[1] * (truth.dim() - 1))
    error = math.sqrt(float((w * (prediction.double() - truth.double()).square()).sum()))
    norm = math.sqrt(float((w * truth.double().square()).sum()))
    return error / norm if norm > 0 else (0.0 if error == 0 else math.inf)


def r_squared(truth: Float[Tensor, " n"], prediction: Float[Tensor, " n"]) -> float:
    """Coefficient of determination over designs, R² = 1 − Σ (p − t)² / Σ (t − t̄)².

    Returns:
        1 is perfect, 0 no better than the mean of the truth; NaN where the truth does not vary.

    >>> r_squared(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 4.0]))
    0.5
    """
    t, p = truth.double(), prediction.double()
    if len(t) == 0 or bool((t == t[0]).all()):
        return math.nan
    return 1 - float((p - t).square().sum() / (t - t.mean()).square().sum())


def spearman(truth: Float[Tensor, " n"], prediction: Float[Tensor, " n"]) -> float:
    """Spearman's rank correlation over designs: how well a prediction orders them.

    Returns:
        The correlation of the ranks, equal values sharing the mean of theirs; NaN where one of
        the two does not vary.

    >>> spearman(torch.tensor([0.2, 0.3, 0.5]), torch.tensor([1.0, 10.0, 100.0]))
    1.0
    """
    check_finite(truth, "truth")
    check_finite(prediction, "prediction")
    a, b = _ranks(truth), _ranks(prediction)
    spread = float(a @ a) * float(b @ b)
    return max(-1.0, min(1.0, float(a @ b) / math.sqrt(spread))) if spread > 0 else math.nan


def _ranks(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Ranks less their mean, ties averaged; multiples of ½, so equal ones are so to the bit."""
    _, which, counts = torch.unique(x, return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - counts.double() / 2 - len(x) / 2)[which]
