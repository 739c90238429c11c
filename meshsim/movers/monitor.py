"""Monitor functions: the density of cells that is wanted, m(x) > 0.

A monitor is called with points (n, D), those of the mesh as it moves, and gives (n,) values. Four
conventions are in use for what m means once the mesh has moved, and results differ:

- physical: m is a function of space and is asked at the moved points (`ball`, `shock`, or any
  function of x; the package `movement`);
- interpolated: m was computed once, on the mesh at rest, and is interpolated to the moved points
  (UGM2N, UM2N without labels);
- recomputed: the fields are interpolated to the moved points and m computed anew on the moved
  mesh (`movement`'s Helmholtz demo);
- pulled back: the fields at the moved points are differentiated on the mesh at rest, with respect
  to its own coordinates: ∇_ξ u = (I + ∇∇φ)ᵀ ∇u (data-free mesh mover).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from meshsim.check import InputError, check_known
from meshsim.mesh import ArrayLike, as_tensor
from meshsim.movers.expression import Expression
from meshsim.movers.recovery import gradient, hessian, smooth
from meshsim.movers.simplices import Array, Simplices
from meshsim.ops import interpolate, locate

CONVENTIONS = ("interpolated", "recomputed", "pulled back")
RECOVERIES = ("l2", "average", "weak")
FUNCTIONS = ["H", "H2", "G", "G2", "hessian", "grad", "arc"]
AXES = "xyz"
CONTRAST = 1e100


def ball(
    centre: Array | tuple[float, ...], radius: float, amplitude: float, width: float
) -> Callable[[Array], Array]:
    """m = 1 + α / cosh²(β (|x − c|² − R²)): cells gather on a circle or sphere.

    Arguments:
        centre: (D,) c. radius: R. amplitude: α. width: β, one over length squared.

    >>> ball((0.0, 0.0), 1.0, 4.0, 10.0)(np.array([[1.0, 0.0]]))
    array([5.])
    """
    middle = np.asarray(centre, dtype=np.float64)

    def monitor(points: Array) -> Array:
        reach = ((points - middle) ** 2).sum(1) - radius**2
        out: Array = 1 + amplitude * _sech2(width * reach)
        return out

    return monitor


def shock(
    normal: Array | tuple[float, ...], offset: float, amplitude: float, width: float
) -> Callable[[Array], Array]:
    """m = 1 + α / cosh²(β (n · x − c)): cells gather on a line or plane.

    Arguments:
        normal: (D,) n, of any length. offset: c. amplitude: α. width: β, one over length.

    >>> shock((1.0, 0.0), 0.5, 4.0, 10.0)(np.array([[0.5, 0.0]]))
    array([5.])
    """
    way = np.asarray(normal, dtype=np.float64)

    def monitor(points: Array) -> Array:
        out: Array = 1 + amplitude * _sech2(width * (points @ way - offset))
        return out

    return monitor


def _sech2(x: Array) -> Array:
    small = np.exp(-np.abs(x))  # 1 / cosh without its overflow
    out: Array = (2 * small / (1 + small * small)) ** 2
    return out


class FieldMonitor:
    """A monitor function from an expression over fields of a mesh.

    Beside the plain functions of `Expression`, of a field u, by recovery on the mesh:
    `H(u)` and `H2(u)` the Frobenius norm of the Hessian and its square, each over its maximum;
    `G(u)` and `G2(u)` the same of the gradient; `hessian(u)` and `grad(u)` the norms themselves;
    `arc(u)` = √(1 + |∇u|²), the arc length. `x`, `y`, `z` are the coordinates.

    Arguments:
        grid: the mesh at rest.
        expression: such as "1 + 5*H2(u)".
        fields: {name: (N,)}.
        convention: see the module.
        rounds: of smoothing, see `recovery.smooth`; 0 for none.
        recovery: "l2", "average", or "weak" (Hessians only), see `recovery`.

    Raises:
        InputError: an unknown name, a field of the wrong length or with values that are not
            finite, or a monitor that is not positive everywhere on the mesh.

    >>> from meshsim.movers import Simplices
    >>> grid = Simplices([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[0, 1, 2]])
    >>> FieldMonitor(grid, "1 + 2*G(u)", {"u": [0.0, 1.0, 0.0]})(grid.points)
    array([3., 3., 3.])
    """

    def __init__(
        self,
        grid: Simplices,
        expression: str,
        fields: Mapping[str, ArrayLike],
        convention: str = "interpolated",
        rounds: float = 0.0,
        recovery: str = "l2",
    ):
        check_known(convention, CONVENTIONS, "convention")
        check_known(recovery, RECOVERIES, "recovery")
        self.grid, self.convention = grid, convention
        self._rounds, self._recovery = rounds, recovery
        axes = list(AXES[: grid.dim])
        self.expression = Expression(expression, [*fields, *axes], FUNCTIONS)
        self._fields = {n: self._field(n, fields[n]) for n in fields if n in self.expression.fields}
        self.values = self._on(grid, self._fields)  # (N,) at rest

    def _field(self, name: str, values: ArrayLike) -> Array:
        out = as_tensor(values).detach().cpu().double().numpy()
        if out.shape != (len(self.grid.points),):
            raise InputError(
                f"field {name!r}: expected {len(self.grid.points)} point values, got shape"
                f" {out.shape}"
            )
        bad = np.flatnonzero(~np.isfinite(out))
        if len(bad):
            raise InputError(f"field {name!r}: {out[bad[0]]} at point {bad[0]}; {len(bad)} such")
        return out

    def _on(self, grid: Simplices, fields: Mapping[str, Array]) -> Array:
        """(N,) the monitor with `fields` on the points of `grid`."""
        first = "l2" if self._recovery == "weak" else self._recovery

        def slope(u: Array) -> Array:
            u = np.broadcast_to(u, (len(grid.points),))
            out: Array = (gradient(grid, u, first) ** 2).sum(1)
            return out

        def bend(u: Array) -> Array:
            u = np.broadcast_to(u, (len(grid.points),))
            out: Array = (hessian(grid, u, self._recovery) ** 2).sum((1, 2))
            return out

        functions = {
            "H": lambda u: np.sqrt(_of_largest(bend(u))),
            "H2": lambda u: _of_largest(bend(u)),
            "G": lambda u: np.sqrt(_of_largest(slope(u))),
            "G2": lambda u: _of_largest(slope(u)),
            "hessian": lambda u: np.sqrt(bend(u)),
            "grad": lambda u: np.sqrt(slope(u)),
            "arc": lambda u: np.sqrt(1 + slope(u)),
        }
        known = {**fields, **{AXES[d]: grid.points[:, d] for d in range(grid.dim)}}
        values = self.expression.evaluate(known, functions)
        values = np.broadcast_to(values, (len(grid.points),)).copy()
        check_monitor(values, grid.points, f"monitor {self.expression.text!r}")
        if self._rounds:
            values = smooth(grid, values, self._rounds)
            check_monitor(values, grid.points, f"monitor {self.expression.text!r}")
        return values

    def __call__(self, points: Array) -> Array:
        """(n,) the monitor at points; except when interpolated, they are those of the mesh."""
        if self.convention == "interpolated":
            return at_points(self.grid, self.values[:, None], points)[:, 0]
        if self._fields:
            stacked = np.stack(list(self._fields.values()), 1)
            moved = at_points(self.grid, stacked, points)
            fields = dict(zip(self._fields, moved.T, strict=True))
        else:
            fields = {}
        if self.convention == "pulled back":
            return self._on(self.grid, fields)
        # A mover may turn cells over on its way: of no use then, but no error.
        return self._on(Simplices(points, self.grid.cells, check=False), fields)


def _of_largest(squares: Array) -> Array:
    largest = squares.max(initial=0.0)
    out: Array = squares / largest if largest > 0 else squares
    return out


def check_monitor(values: Array, points: Array, name: str = "`monitor`") -> None:
    """Raise `InputError` unless `values` (n,) are positive and finite, one for each point."""
    values = np.asarray(values)
    if values.shape != (len(points),):
        raise InputError(f"{name}: expected {len(points)} values, got shape {values.shape}")
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(bad):
        place = ", ".join(f"{v:.6g}" for v in points[bad[0]])
        raise InputError(
            f"{name}: expected positive values, got {values[bad[0]]:g} at point {bad[0]}"
            f" ({place}); {len(bad)} such"
        )
    high, low = float(values.max(initial=1.0)), float(values.min(initial=1.0))
    if high > CONTRAST or low < 1 / CONTRAST:
        raise InputError(f"{name}: expected values within 1e±100, got {low:g} to {high:g}")


def masses(grid: Simplices, values: Array, points: Array) -> Array:
    """(C,) ∫_K m over the cell's measure at rest, with m (N,) and the points at (N, D)."""
    out: Array = np.abs(grid.signed(points)) * values[grid.cells].mean(1) / grid.measures
    return out


def spread(grid: Simplices, monitor: Callable[[Array], Array], points: Array) -> float:
    """σ/μ over cells of `masses`, with the points at (N, D): 0 where m is equally distributed."""
    mass = masses(grid, monitor(points), points)
    return float(mass.std() / mass.mean())


def at_points(grid: Simplices, values: Array, points: Array) -> Array:
    """(n, k) point values (N, k) of a mesh interpolated to points (n, D).

    A point outside takes the value of the closest point of the boundary.
    """
    from meshsim.movers.boundary import closest

    rest, cells = torch.from_numpy(grid.points), torch.from_numpy(grid.cells)

    def find(x: Array) -> tuple[torch.Tensor, torch.Tensor]:
        return locate(rest, cells, torch.from_numpy(np.ascontiguousarray(x)), 1e-9)

    ids, weights = find(points)
    outside = np.flatnonzero((ids < 0).numpy())
    if len(outside):
        near = closest(points[outside], grid.points[grid.boundary])
        pulled = near + 1e-7 * (grid.points[grid.cells].mean((0, 1)) - near)
        again, shares = find(near)
        lost = np.flatnonzero((again < 0).numpy())
        if len(lost):
            again[lost], shares[lost] = find(pulled[lost])
        ids[outside], weights[outside] = again, shares
    found = interpolate(torch.from_numpy(np.ascontiguousarray(values)), cells, ids, weights)
    out: Array = found.numpy()
    return out
