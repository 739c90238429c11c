"""Potential flow past closed bodies in three dimensions, without lift: panels of constant source.

Every face of the surface is a flat panel of strength σ, such that no fluid passes through its
centre (Hess and Smith, Calculation of potential flow about arbitrary bodies, Progress in
Aerospace Sciences 8, 1967). A plane ground is the mirror image of the body.

The method is of first order. At the centres two errors, of the curvature and of the slope of σ
that a panel leaves out, nearly cancel on quads: on a sphere of 1,536 of them cp is off by 0.003
(root mean square), of 3,072 triangles by 0.018. Off the body only one of them is there: 1.3 radii
from the middle of that sphere the velocity is off by up to 1.2 % of the free stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from meshsim.check import InputError, check_finite, check_shape
from meshsim.geometry.cells import Cells
from meshsim.geometry.measure import lift, polygon_areas, rings

PAIRS = 1 << 18  # pairs of point and panel at a time: what the arrays need stays in the cache
FAR = 8.0  # radii of a panel beyond which it is a source and a quadrupole


@dataclass(frozen=True, eq=False)
class Panels:
    """Flat polygons in frames of their own; float64, k the corners of the largest.

    Arguments:
        centre: (F, 3) centroids; the origins.
        axes: (F, 3, 3) rows: the principal axes of area, and the unit normal as the cell is wound.
        corners: (F, k, 2) counter-clockwise; the last one again where a panel has fewer.
        area: (F,) of the projection along the normal.
        second: (F, 2) ∫ ξ² dA and ∫ η² dA.
        radius: (F,) from the centre to the farthest corner.
    """

    centre: Float[Tensor, "F 3"]
    axes: Float[Tensor, "F 3 3"]
    corners: Float[Tensor, "F k 2"]
    area: Float[Tensor, "F"]
    second: Float[Tensor, "F 2"]
    radius: Float[Tensor, "F"]

    def __len__(self) -> int:
        return len(self.area)


@dataclass(frozen=True, eq=False)
class Flow:
    """Flow past a body; float64.

    Arguments:
        panels: of the surface.
        strength: (F,) σ, volume that flows out of a unit of area.
        surface_velocity: (F, 3) at the centres, outside.
        inflow: (3,) the free stream.
        ground: (axis, height) of the mirror plane, or None.
        residual: the largest flow through a centre over the speed of the free stream.
    """

    panels: Panels
    strength: Float[Tensor, "F"]
    surface_velocity: Float[Tensor, "F 3"]
    inflow: Float[Tensor, "3"]
    ground: tuple[int, float] | None
    residual: float

    @property
    def cp(self) -> Float[Tensor, "F"]:
        """Pressure coefficient 1 − |u|² / U² at the centres."""
        return 1 - self.surface_velocity.square().sum(1) / self.inflow.square().sum()

    @property
    def force(self) -> Float[Tensor, "3"]:
        """−∮ cp n dA (area): force over ½ ρ U². Along the inflow, the method's error (d'Alembert).

        A body above a ground is drawn to it; elsewhere all of it is zero up to the same error.
        """
        return -((self.cp * self.panels.area) @ self.panels.axes[:, 2])

    def velocity(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Velocity at points off the surface; inside of it the answer means nothing.

        Raises:
            InputError: points of another shape, or not finite.
        """
        check_shape(points, (None, 3), "points")
        check_finite(points, "points")
        x = points.double()
        out = self.inflow + _sum(self.panels, self.strength, x)
        if self.ground is not None:
            mirrored = _sum(self.panels, self.strength, _mirror(x, self.ground))
            out = out + _mirror(mirrored, (self.ground[0], 0.0))
        return out.to(points.dtype)

    def pressure_coefficient(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
        """1 − |u|² / U² (Bernoulli) at points off the surface."""
        u = self.velocity(points).double()
        return (1 - u.square().sum(1) / self.inflow.square().sum()).to(points.dtype)


def solve(
    points: Float[Tensor, "N 3"],
    cells: Sequence[Cells],
    inflow: Float[Tensor, "3"],
    ground: tuple[int, float] | None = None,
) -> Flow:
    """Potential flow past a body given by its surface.

    ½ σ_i + Σ_j n_i · V_ij σ_j = −n_i · U at every centre, V_ij the velocity that panel j of unit
    strength makes there, and with a ground its mirror image too; GMRES to 10⁻¹⁰. Where a
    surface is open, crosses itself or lies on itself there may be no answer: then the residual
    stays large, and the strengths are those GMRES has come to.

    Arguments:
        points: (N, 3) float.
        cells: 2-D blocks, quads and polygons projected to a plane. Normals, as the cells are
            wound, must point into the flow. Cells without area take no part: σ = 0, velocity 0.
        inflow: (3,) the free stream.
        ground: (axis, height): the plane of points whose coordinate `axis` is `height`. The body
            must lie on one side of it, and the inflow along it.

    Raises:
        InputError: cells that are no surface in space, no cell with area, an inflow that is zero
            or not along the ground, a body on both sides of it, values that are not finite.

    >>> from meshsim.geometry.cells import Cells
    >>> ball = torch.tensor([[1., 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    >>> sides = torch.tensor([[i, (i + 1) % 4, 4] for i in range(4)])
    >>> other = torch.tensor([[(i + 1) % 4, i, 5] for i in range(4)])
    >>> flow = solve(ball, [Cells("triangle", torch.cat([sides, other]))], torch.eye(3)[0])
    >>> flow.cp.shape, flow.residual < 1e-9
    (torch.Size([8]), True)
    """
    check_shape(inflow, (3,), "inflow")
    check_finite(inflow, "inflow")
    wind = inflow.double()
    speed = float(wind.norm())
    if speed == 0:
        raise InputError("`inflow`: expected a velocity, got zero")
    panels = flat_panels(points, cells)
    used = panels.area > 0
    if not used.any():
        raise InputError("`cells`: expected a surface, got no cell with an area")
    if ground is not None:
        _check_ground(points.double(), cells, wind, ground)
    some = Panels(*(x[used] for x in vars(panels).values()))
    normal = some.axes[:, 2]
    matrix = torch.empty(len(some), len(some)).double()
    for rows in _chunks(len(some), len(some)):
        matrix[rows] = _through(some, some.centre[rows], normal[rows], rows.start)
        if ground is not None:
            at, along = _mirror(some.centre[rows], ground), _mirror(normal[rows], (ground[0], 0.0))
            matrix[rows] += _through(some, at, along, None)
    right = -(normal @ wind)
    solved = _gmres(matrix, right)
    through = matrix @ solved - right
    del matrix
    velocity = wind + _sum(some, solved, some.centre, own=True)
    if ground is not None:
        mirrored = _sum(some, solved, _mirror(some.centre, ground))
        velocity = velocity + _mirror(mirrored, (ground[0], 0.0))
    strength, everywhere = panels.area * 0, panels.centre * 0
    strength[used], everywhere[used] = solved, velocity
    return Flow(panels, strength, everywhere, wind, ground, float(through.abs().max()) / speed)


def flat_panels(points: Float[Tensor, "N 3"], cells: Sequence[Cells]) -> Panels:
    """Cells of a surface as flat panels, through their centroids and along their area vectors.

    Raises:
        InputError: points are not 3-D or not finite, cells are not 2-D.
    """
    check_shape(points, (None, 3), "points")
    check_finite(points, "points")
    if any(block.dim != 2 for block in cells):
        raise InputError("`cells`: expected 2-D cells, triangles, quads or polygons")
    x, count = lift(points), sum(len(block) for block in cells)
    groups, start = [], 0
    for block in cells:
        block.check(len(points))
        groups += [(start + ids, x[ring]) for ids, ring in rings(block)]
        start += len(block)
    widest = max((ring.shape[1] for _, ring in groups), default=3)
    centre, axes = x.new_zeros(count, 3), x.new_zeros(count, 3, 3)
    corners, area = x.new_zeros(count, max(widest, 3), 2), x.new_zeros(count)
    second, radius = x.new_zeros(count, 2), x.new_zeros(count)
    for ids, ring in groups:
        vector, centre[ids] = polygon_areas(ring)
        offset = ring - centre[ids][:, None]  # (n, k, 3)
        size = vector.norm(dim=1)
        size = torch.where(size > 1e-14 * offset.square().sum(2).amax(1), size, 0.0)
        frame = _frame(vector, offset)
        flat = offset @ frame[:, :2].mT  # (n, k, 2)
        moments = _second_moments(flat)  # ξξ, ηη, ξη
        turn = torch.atan2(2 * moments[:, 2], moments[:, 0] - moments[:, 1]) / 2
        c, s = turn.cos()[:, None], turn.sin()[:, None]
        first, other = frame[:, 0], frame[:, 1]
        frame = torch.stack([c * first + s * other, c * other - s * first, frame[:, 2]], 1)
        flat = offset @ frame[:, :2].mT
        pad = flat[:, -1:].expand(-1, corners.shape[1] - flat.shape[1], -1)
        corners[ids], area[ids] = torch.cat([flat, pad], 1), size
        axes[ids], second[ids] = frame, _second_moments(flat)[:, :2]
        radius[ids] = flat.norm(dim=2).amax(1)
    return Panels(centre, axes, corners, area, second, radius)


def influence(
    panels: Panels, points: Float[Tensor, "M 3"], own: bool = False, far: float = FAR
) -> Float[Tensor, "M F 3"]:
    """Velocity at points that each panel makes with strength one.

    Across the panel Ω / 4π, Ω the solid angle it is seen under; along it 1/4π Σ m L over its
    edges, m their outward normals in the plane and L = ∫ dl / r = ln ((r₁ + r₂ + d) /
    (r₁ + r₂ − d)) (Hess and Smith 1967; Ω as of van Oosterom and Strackee, IEEE Trans. Biomed.
    Eng. 30, 1983). Farther off than `far` radii, a source and a quadrupole.

    Arguments:
        own: point i is the centre of panel i, where the flow across it is ½, on the outside.
        far: in radii of a panel; infinite for the exact answer everywhere.
    """
    x = points.double()
    v = _local(panels, x, 0 if own else None, far)
    return sum((v[d][:, :, None] * panels.axes[:, d] for d in range(3)), x.new_zeros(()))


def _frame(vector: Tensor, offset: Tensor) -> Tensor:
    """(n, 3, 3) orthonormal rows, the last along `vector`; zero where there is no area."""
    normal = torch.nn.functional.normalize(vector, dim=1, eps=1e-300)
    edge = offset[torch.arange(len(offset)), offset.norm(dim=2).argmax(1)]
    edge = edge - (edge * normal).sum(1, keepdim=True) * normal
    first = torch.nn.functional.normalize(edge, dim=1, eps=1e-300)
    return torch.stack([first, torch.linalg.cross(normal, first), normal], 1)


def _second_moments(flat: Tensor) -> Tensor:
    """(n, 3) ∫ ξ², ∫ η², ∫ ξη over polygons (n, k, 2)."""
    (x, y), (u, v) = flat.unbind(2), flat.roll(-1, 1).unbind(2)
    twice = x * v - u * y
    both = (x * v + 2 * x * y + 2 * u * v + u * y) / 2
    parts = [x * x + x * u + u * u, y * y + y * v + v * v, both]
    return torch.stack([(twice * part).sum(1) / 12 for part in parts], 1)


def _local(panels: Panels, at: Tensor, own: int | None, far: float) -> list[Tensor]:
    """Three (M, F): velocity at points in each panel's own frame, of strength one.

    With `own`, point i is the centre of panel `own` + i.
    """
    x, y, z = (at @ e.T - (panels.centre * e).sum(1) for e in panels.axes.unbind(1))
    xx, yy = x * x, y * y
    square = xx + yy + z * z
    a, b = panels.second.unbind(1)
    p = 1 / square
    g = p * p.sqrt() / (4 * math.pi)
    # A + 15/2 (a x² + b y²) / r⁴ − 3/2 (a + b) / r², in place: this is where the time goes
    common = xx.mul_(7.5 * a).add_(yy.mul_(7.5 * b)).mul_(p).sub_(1.5 * (a + b)).mul_(p)
    common += panels.area
    out = [(common - 3 * a * p).mul_(x).mul_(g), (common - 3 * b * p).mul_(y).mul_(g)]
    out.append(common.mul_(z).mul_(g))
    row, column = (square <= (far * panels.radius) ** 2).nonzero().unbind(1)
    pick = row * len(panels) + column
    exact = _exact(panels, column, *(v.reshape(-1)[pick] for v in (x, y, z)))
    if own is not None:
        exact[2][column == row + own] = 0.5
    for whole, part in zip(out, exact, strict=True):
        whole.view(-1)[pick] = part
    return out


def _exact(panels: Panels, of: Tensor, x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    """Three (P,): velocity at points in the frame of panel `of`."""
    tiny = torch.finfo(torch.float64).tiny
    corner = panels.corners[of]  # (P, k, 2)
    edge = corner.roll(-1, 1) - corner
    dx, dy = corner[:, :, 0] - x[:, None], corner[:, :, 1] - y[:, None]
    r = (dx * dx + dy * dy + (z * z)[:, None]).sqrt()  # (P, k)
    d, s = edge.norm(dim=2), r + r.roll(-1, 1)
    # on an edge L is infinite: it is cut off where rounding would anyway
    log = ((s + d + tiny) / torch.maximum(s - d, 1e-15 * d + tiny)).log() / (d + tiny)
    angle = torch.zeros_like(z)
    for i in range(1, r.shape[1] - 1):
        j = i + 1
        twice = (dx[:, i] - dx[:, 0]) * (dy[:, j] - dy[:, 0])
        twice = twice - (dx[:, j] - dx[:, 0]) * (dy[:, i] - dy[:, 0])
        dots = [
            dx[:, m] * dx[:, n] + dy[:, m] * dy[:, n] + z * z for m, n in ((0, i), (i, j), (0, j))
        ]
        low = (
            r[:, 0] * r[:, i] * r[:, j] + dots[0] * r[:, j] + dots[1] * r[:, 0] + dots[2] * r[:, i]
        )
        angle = angle + 2 * torch.atan2(z * twice, low)
    parts = [(edge[:, :, 1] * log).sum(1), -(edge[:, :, 0] * log).sum(1), angle]
    return [part / (4 * math.pi) for part in parts]


def _through(panels: Panels, at: Tensor, along: Tensor, own: int | None) -> Tensor:
    """(M, F) velocity at points along directions (M, 3)."""
    v = _local(panels, at, own, FAR)
    return sum((v[d] * (along @ panels.axes[:, d].T) for d in range(3)), at.new_zeros(()))


def _sum(panels: Panels, strength: Tensor, at: Tensor, own: bool = False) -> Tensor:
    """(M, 3) velocity at points of panels of these strengths."""
    parts = [at[:0]]
    for rows in _chunks(len(at), len(panels)):
        v = _local(panels, at[rows], rows.start if own else None, FAR)
        each = (v[d] @ (strength[:, None] * panels.axes[:, d]) for d in range(3))
        parts.append(sum(each, at.new_zeros(())))
    return torch.cat(parts)


def _gmres(matrix: Tensor, right: Tensor, most: int = 100, tolerance: float = 1e-10) -> Tensor:
    """Approximate solution of least residual among the first `most` Krylov spaces.

    Panels give matrices near ½: a few dozen steps do, and singular ones do no harm.
    """
    size = right.norm()
    basis, table = [right / size], right.new_zeros(most + 1, most)
    start = right.new_zeros(most + 1)
    start[0] = size
    weights = right.new_zeros(0)
    for k in range(most if float(size) > 0 else 0):
        w, space = matrix @ basis[k], torch.stack(basis)
        for _ in range(2):  # once is not enough for orthogonality to rounding
            h = space @ w
            w = w - h @ space
            table[: k + 1, k] += h
        table[k + 1, k] = w.norm()
        weights = torch.linalg.lstsq(table[: k + 2, : k + 1], start[: k + 2]).solution
        left = (table[: k + 2, : k + 1] @ weights - start[: k + 2]).norm()
        if float(left) <= tolerance * float(size) or float(table[k + 1, k]) == 0:
            break
        basis.append(w / table[k + 1, k])
    return weights @ torch.stack(basis[: len(weights)]) if len(weights) else right * 0


def _mirror(x: Tensor, ground: tuple[int, float]) -> Tensor:
    """Points beyond the ground for those before it; directions with height 0."""
    axis, height = ground
    out = x.clone()
    out[:, axis] = 2 * height - x[:, axis]
    return out


def _check_ground(
    points: Tensor, cells: Sequence[Cells], inflow: Tensor, ground: tuple[int, float]
) -> None:
    axis, height = ground
    if axis not in (0, 1, 2) or not math.isfinite(height):
        raise InputError(f"`ground`: expected an axis 0, 1 or 2 and a height, got {ground}")
    if abs(float(inflow[axis])) > 1e-12 * float(inflow.norm()):
        raise InputError(
            f"`inflow`: expected it along the ground, got {float(inflow[axis])} across it"
        )
    used = points[torch.cat([block.nodes.reshape(-1) for block in cells])]
    low, high = float(used[:, axis].min()), float(used[:, axis].max())
    slack = 1e-9 * (high - low)
    if low < height - slack and high > height + slack:
        raise InputError(
            f"`ground`: expected the body on one side of {height}, got {low:.6g} to {high:.6g}"
        )


def _chunks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, PAIRS // max(1, columns))
    return (slice(k, min(k + step, rows)) for k in range(0, rows, step))
