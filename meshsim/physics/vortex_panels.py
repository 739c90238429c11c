"""Potential flow past one airfoil in two dimensions: panels of linear vorticity.

The contour is a vortex sheet γ(s), linear on straight panels and continuous at the nodes, such
that the contour is a streamline (Katz and Plotkin, Low-Speed Aerodynamics, chapter 11; Drela,
XFOIL, 1989, for the stream function as the condition). The fluid inside is then at rest, and γ
itself is the velocity along the outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from meshsim.check import InputError, check_finite, check_shape

PAIRS = 1 << 19  # pairs of point and panel at a time: 8 MB of complex numbers


@dataclass(frozen=True, eq=False)
class Flow:
    """Flow past a contour; float64.

    Arguments:
        contour: (n, 2), counter-clockwise, the trailing edge first and last.
        strength: (n,) γ at the nodes: the velocity along the contour, in its direction.
        angle: of attack (rad).
        speed: U of the free stream.
    """

    contour: Float[Tensor, "n 2"]
    strength: Float[Tensor, "n"]
    angle: float
    speed: float

    @property
    def cp(self) -> Float[Tensor, "n"]:
        """Pressure coefficient 1 − (γ/U)² at the nodes."""
        return 1 - (self.strength / self.speed) ** 2

    @property
    def surface_velocity(self) -> Float[Tensor, "n 2"]:
        """Velocity at the nodes, along the mean direction of the panels that meet there."""
        step = self.contour.diff(dim=0)
        way = step / step.norm(dim=1, keepdim=True)
        # At the trailing edge the mean of the last panel and the first, turned round, is the
        # bisector, which is where the flow leaves.
        ends = (way[-1:] - way[:1]) / 2
        mean = torch.cat([-ends, (way[1:] + way[:-1]) / 2, ends])
        if float((way[0] * way[-1]).sum()) > 0:  # no trailing edge: the contour is smooth there
            mean[0] = mean[-1] = (way[0] + way[-1]) / 2
        return self.strength[:, None] * mean / mean.norm(dim=1, keepdim=True)

    @property
    def circulation(self) -> float:
        """Γ, clockwise, so that positive circulation lifts."""
        length = self.contour.diff(dim=0).norm(dim=1)
        return -float((length * (self.strength[1:] + self.strength[:-1])).sum() / 2)

    @property
    def chord(self) -> float:
        """The largest distance of a node from the trailing edge."""
        return float((self.contour - self.contour[0]).norm(dim=1).max())

    @property
    def force(self) -> Float[Tensor, "2"]:
        """(drag, lift) coefficients −∮ cp n ds / chord across and along the free stream's normal.

        γ² of linear γ is integrated exactly. Drag is zero up to the error of the method
        (d'Alembert), lift is 2 Γ / (U chord) up to the same (Kutta, Joukowski).
        """
        step = self.contour.diff(dim=0)
        a, b = self.strength[:-1], self.strength[1:]
        mean = 1 - (a * a + a * b + b * b) / (3 * self.speed**2)
        x, y = -(mean[:, None] * torch.stack([step[:, 1], -step[:, 0]], 1)).sum(0) / self.chord
        c, s = math.cos(self.angle), math.sin(self.angle)
        return torch.stack([c * x + s * y, c * y - s * x])

    @property
    def drag(self) -> float:
        """Drag coefficient by the pressure; zero but for the error of the method."""
        return float(self.force[0])

    @property
    def lift(self) -> float:
        """Lift coefficient by the pressure."""
        return float(self.force[1])

    def velocity(self, points: Float[Tensor, "N 2"]) -> Float[Tensor, "N 2"]:
        """Velocity at points; zero inside, `surface_velocity` at a node, of either side on a panel.

        u − i v = U e^(−iα) + Σ 1/(2πi) ∫ γ ds / (z − ζ(s)), each panel in closed form.

        Raises:
            InputError: points of another shape, or not finite.
        """
        check_shape(points, (None, 2), "points")
        check_finite(points, "points")
        nodes, at = _complex(self.contour), _complex(points)
        wind = self.speed * complex(math.cos(self.angle), -math.sin(self.angle))
        parts = [at[:0]]
        for rows in _chunks(len(at), len(nodes)):
            local, length, way = _local(at[rows], nodes)
            part = length / local
            # ln(Z / (Z − L)), its cut on the panel; complex logarithms are slow
            real = torch.log1p(part.real**2 + part.imag**2 - 2 * part.real) / -2
            logs = torch.complex(real, torch.atan2(part.imag, 1 - part.real))
            second = logs / part - 1  # ∫ s/L ds / (Z − s)
            a, b = (g / way for g in (self.strength[:-1], self.strength[1:]))
            w = wind + ((logs - second) @ a + second @ b) / (2j * math.pi)
            row, node = (local == 0).nonzero().unbind(1)
            w[row] = _complex(self.surface_velocity)[node].conj()
            parts.append(w)
        flow = torch.cat(parts)
        return torch.stack([flow.real, -flow.imag], 1).to(points.dtype)

    def pressure_coefficient(self, points: Float[Tensor, "N 2"]) -> Float[Tensor, "N"]:
        """1 − |u|² / U² (Bernoulli) at points off the contour."""
        return 1 - (self.velocity(points) / self.speed).square().sum(1)


def solve(
    contour: Float[Tensor, "n 2"],
    angle: float,
    speed: float = 1.0,
    circulation: float | None = None,
) -> Flow:
    """Potential flow past a closed contour, leaving its trailing edge smoothly.

    The stream function U (y cos α − x sin α) − 1/(2π) ∮ γ ln r ds is the same at every node, and
    the speed on both sides of the trailing edge is the same, γ₁ + γₙ = 0 (Kutta). Both ends of
    the contour are one place: instead of the same equation again, γₙ − γ₁ there is what the next
    two nodes of either side lead to.

    Arguments:
        contour: (n, 2) float, either way round, the trailing edge first and once more last.
        angle: of attack (rad): the free stream is U (cos α, sin α).
        speed: U > 0.
        circulation: Γ, clockwise, in place of Kutta's condition, for smooth contours.

    Raises:
        InputError: fewer than 5 points, values that are not finite, a contour that is open, has
            two equal points in a row or no area; a speed that is not above zero.

    >>> turn = torch.linspace(0, 2 * math.pi, 101, dtype=torch.float64)
    >>> circle = torch.stack([turn.cos(), turn.sin()], 1)
    >>> flow = solve(circle, 0.0, circulation=0.0)
    >>> round(float(flow.cp.min()), 2)  # 1 − 4 sin² θ
    -3.0
    """
    check_shape(contour, (None, 2), "contour")
    check_finite(contour, "contour")
    if not speed > 0 or not math.isfinite(speed) or not math.isfinite(angle):
        raise InputError(f"`speed`, `angle`: expected above 0 and finite, got {speed}, {angle}")
    nodes = _closed(contour)
    n, size = len(nodes), nodes.diff().abs()
    matrix, right = torch.zeros(n + 1, n + 1).double(), torch.zeros(n + 1).double()
    matrix[: n - 1, :n] = _stream(nodes)[:-1]
    matrix[: n - 1, n] = -1  # the value on the contour is the last unknown
    wind = nodes.imag * math.cos(angle) - nodes.real * math.sin(angle)
    right[: n - 1] = -speed * wind[:-1]
    if circulation is None:
        matrix[n - 1, [0, n - 1]] = 1.0
        # each side's strength at the end, less what a line through the two nodes before says
        for side, (near, far) in ((1.0, size[:2]), (-1.0, size[[-1, -2]])):
            to = torch.arange(3) if side > 0 else n - 1 - torch.arange(3)
            matrix[n, to] = side * torch.stack([1 + 0 * near, -1 - near / far, near / far])
    else:
        matrix[n - 1, : n - 1] -= size / 2
        matrix[n - 1, 1:n] -= size / 2
        right[n - 1] = circulation
        matrix[n, 0], matrix[n, n - 1] = 1.0, -1.0
    strength = torch.linalg.solve(matrix, right)[:n]
    return Flow(torch.view_as_real(nodes), strength, float(angle), float(speed))


def _closed(contour: Tensor) -> Tensor:
    """(n,) complex nodes, counter-clockwise, the last equal to the first."""
    x = contour.double()
    if len(x) < 5:
        raise InputError(f"`contour`: expected at least 5 points, got {len(x)}")
    size = float((x.max(0).values - x.min(0).values).max())
    gap = float((x[-1] - x[0]).norm())
    if gap > 1e-6 * size:
        raise InputError(
            f"`contour`: expected its first point again at the end, got a gap of {gap:.3g}"
        )
    z = _complex(torch.cat([x[:-1], x[:1]]))
    short = z.diff().abs() <= 1e-12 * size
    if short.any():
        row = int(short.nonzero()[0])
        raise InputError(f"`contour`: points {row} and {row + 1} are the same")
    area = float((z[:-1].conj() * z[1:]).imag.sum()) / 2
    if abs(area) <= 1e-12 * size**2:
        raise InputError("`contour`: expected a contour about an area, got area 0")
    return z if area > 0 else z.flip(0)


def _complex(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.double().contiguous())


def _chunks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, PAIRS // columns)
    return (slice(k, k + step) for k in range(0, rows, step))


def _local(at: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, p) points as Z = (z − z₁) e^(−iθ) in each panel's frame; (p,) lengths L and e^(iθ)."""
    step = nodes.diff()
    way = step / step.abs()
    return (at[:, None] - nodes[:-1]) / way, step.abs(), way


def _stream(nodes: Tensor) -> Tensor:
    """(n, n) stream function at each node of unit strength at each, linear to its neighbours."""
    local, length, _ = _local(nodes, nodes)
    x, y = local.real, local.imag
    apart = (nodes[:, None] - nodes).abs()
    logs = torch.where(apart == 0, 0.0, apart.log())  # r ln r → 0
    first, last = logs[:, :-1], logs[:, 1:]
    turn = torch.atan2(y * length, x * (x - length) + y * y)  # the angle the panel is seen under
    # ∫ ln r ds and ∫ s ln r ds
    whole = x * (first - last) + length * (last - 1) + y * turn
    moment = ((x * x - y * y) * (first - last) + length**2 * last + 2 * x * y * turn) / 2
    second = (moment - length * (2 * x + length) / 4) / length
    out = torch.zeros(len(nodes), len(nodes)).double()
    out[:, :-1] += second - whole
    out[:, 1:] -= second
    return out / (2 * math.pi)


def wrap(upper: Float[Tensor, "n 2"], lower: Float[Tensor, "n 2"]) -> Float[Tensor, "m 2"]:
    """A contour for `solve` of two sides that both run from leading to trailing edge.

    >>> wrap(torch.tensor([[0., 0.], [0.5, 0.1], [1., 0.]]),
    ...      torch.tensor([[0., 0.], [0.5, -0.1], [1., 0.]])).shape
    torch.Size([5, 2])
    """
    return torch.cat([upper.flip(0), lower[1:]])


def stations(n: int) -> Float[Tensor, "n"]:
    """x = (1 − cos β) / 2 from 0 to 1 at equal steps of β, dense at both edges of an airfoil."""
    return (1 - torch.linspace(0, math.pi, n, dtype=torch.float64).cos()) / 2


def naca4(
    camber: float, place: float, thickness: float, n: int = 101, closed: bool = True
) -> Float[Tensor, "m 2"]:
    """Contour of a NACA airfoil of the 4-digit family, chord 1, leading edge at the origin.

    y_c = m/p² (2 p x − x²) ahead of p, m/(1 − p)² (1 − 2 p + 2 p x − x²) behind it; thickness
    across the camber line (Jacobs, Ward and Pinkerton, NACA Report 460, 1933).

    Arguments:
        camber: m, largest height of the camber line.
        place: p of it, 0 < p < 1; any where m is zero.
        thickness: t, largest.
        n: points of each side, at `stations`.
        closed: end in a point; else in the family's blunt edge, which `solve` refuses.

    Returns:
        (2 n − 1, 2) float64, counter-clockwise, from the trailing edge round to it.

    Raises:
        InputError: thickness not above zero, `place` outside 0 to 1.
    """
    if camber != 0 and not 0 < place < 1:
        raise InputError(f"`place`: expected between 0 and 1, got {place}")
    x = stations(n)
    p = place if camber != 0 else 0.5
    scale = torch.where(x < p, camber / p**2, camber / (1 - p) ** 2)
    line = scale * torch.where(x < p, 2 * p * x - x * x, 1 - 2 * p + 2 * p * x - x * x)
    return _around(x, line, scale * 2 * (p - x), thickness, closed)


def naca5(
    lift: float, place: float, thickness: float, n: int = 101, closed: bool = True
) -> Float[Tensor, "m 2"]:
    """Contour of a NACA airfoil of the 5-digit family, chord 1, without reflex.

    y_c = k/6 (x³ − 3 r x² + r² (3 − r) x) ahead of r, k r³/6 (1 − x) behind it, r such that the
    top is at p, p = r (1 − √(r/3)), and k such that thin-airfoil theory gives the design lift
    (Jacobs and Pinkerton, NACA Report 537, 1935; Ladson and others, NASA TM 4741, 1996).

    Arguments:
        lift: design lift coefficient, 0.3 for the 230 series.
        place: p of the largest camber, 0 < p ≤ 0.4: 0.15 for the 230 series.
        thickness, n, closed: as in `naca4`.

    Raises:
        InputError: thickness not above zero, `place` outside 0 to 0.4.
    """
    if not 0 < place <= 0.4:
        raise InputError(f"`place`: expected above 0 and at most 0.4, got {place}")
    r = place
    for _ in range(60):  # a contraction for such p
        r = place / (1 - math.sqrt(r / 3))
    k = lift / _design(r)
    x = stations(n)
    front = k / 6 * (x**3 - 3 * r * x**2 + r * r * (3 - r) * x)
    line = torch.where(x < r, front, k * r**3 / 6 * (1 - x))
    rise = k / 6 * (3 * x * x - 6 * r * x + r * r * (3 - r))
    slope = torch.where(x < r, rise, torch.full_like(x, -k * r**3 / 6))
    return _around(x, line, slope, thickness, closed)


def naca(code: str, n: int = 101, closed: bool = True) -> Float[Tensor, "m 2"]:
    """Contour of a NACA airfoil by its number, "2412" or "23012"; see `naca4` and `naca5`.

    Raises:
        InputError: neither four nor five digits, a reflexed camber line (third digit 1), no
            thickness.

    >>> naca("0012").shape
    torch.Size([201, 2])
    """
    if not code.isdecimal() or len(code) not in (4, 5):
        raise InputError(f"`code`: expected 4 or 5 digits, got {code!r}")
    d = [int(c) for c in code]
    if len(d) == 4:
        return naca4(d[0] / 100, d[1] / 10, (10 * d[2] + d[3]) / 100, n, closed)
    if d[2] != 0:
        raise InputError(f"`code`: expected 0 as third digit (no reflex), got {code!r}")
    return naca5(0.15 * d[0], d[1] / 20, (10 * d[3] + d[4]) / 100, n, closed)


def _design(r: float) -> float:
    """Lift coefficient at the ideal angle of the camber line of `naca5` with k = 1."""
    bend = (3 * r - 7 * r**2 + 8 * r**3 - 4 * r**4) / math.sqrt(r * (1 - r))
    return (bend - 1.5 * (1 - 2 * r) * (math.pi / 2 - math.asin(1 - 2 * r))) / 6


def _around(x: Tensor, line: Tensor, slope: Tensor, thickness: float, closed: bool) -> Tensor:
    """Thickness laid to both sides of a camber line, across it."""
    if not thickness > 0:
        raise InputError(f"`thickness`: expected above 0, got {thickness}")
    # the family's own last coefficient leaves an edge of 0.0021 t to either side
    last = -0.1036 if closed else -0.1015
    root = 0.2969 * x.sqrt() - 0.1260 * x - 0.3516 * x**2 + 0.2843 * x**3 + last * x**4
    half = 5 * thickness * root
    if closed:
        half[-1] = 0.0
    across = torch.stack([-slope, torch.ones_like(x)], 1) / (1 + slope**2).sqrt()[:, None]
    middle = torch.stack([x, line], 1)
    side = half[:, None] * across
    return wrap(middle + side, middle - side)
