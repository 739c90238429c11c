"""A mesh that is moved for the fields on it, once or at every step of a time loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
import torch

from meshsim.check import InputError, check_known
from meshsim.geometry.cells import Cells
from meshsim.mesh import ArrayLike, Mesh, as_tensor
from meshsim.movers.guard import Guard
from meshsim.movers.learned import BULK, Density, LearnedMover
from meshsim.movers.meshes import FIELDS, Corners, corners, point_values, with_points
from meshsim.movers.monge_ampere import MongeAmpere, Moved
from meshsim.movers.monitor import CONVENTIONS, FieldMonitor, at_points, spread
from meshsim.movers.simplices import Array, Simplices

METHODS = ("learned", "flow", "ma", "ma-relaxation")
Monitor = Callable[[Array], Array]


class Mover:
    """Moves a mesh of any cells to where a monitor function wants them, always from rest.

    In a time loop it is given the moved mesh with the fields of the moment and gives the mesh for
    the next step: the monitor is computed on the mesh that the fields are on.

    Arguments:
        mesh: at rest; fields on it are not needed.
        monitor: an expression over fields, see `FieldMonitor`, or a function of points (n, D).
        method: "learned" goes for the least error; "flow" (which never tangles either) and "ma"
            for equal distribution, "ma" by the Monge–Ampère equation and quasi-Newton iteration,
            "ma-relaxation" by relaxation.
        convention, rounds: of the monitor, see `FieldMonitor`.
        damping: share of the way to go, 0 to 1; where a cell would be turned, less.
        fields: how fields come along, see `with_points`.
        tolerance, iterations, stages: of the Monge–Ampère solvers, see `MongeAmpere.move`;
            iterations of each stage.
        feature, fixed: see `Sides`.

    Attributes:
        moved: what the method gave last, before damping.
        share: of the way that was gone last, in the mean: the damping times what safeguards left.

    Raises:
        InputError: an argument that is none of these, or a mesh that `corners` refuses.

    >>> square = Mesh([[0., 0.], [1., 0.], [1., 1.], [0., 1.]], {"quad": [[0, 1, 2, 3]]})
    >>> Mover(square, "1 + x")(square).points[2]
    tensor([1., 1.], dtype=torch.float64)
    """

    moved: Moved
    share: float

    def __init__(
        self,
        mesh: Mesh,
        monitor: str | Monitor,
        method: str = "learned",
        convention: str = "interpolated",
        rounds: float = 0.0,
        damping: float = 1.0,
        fields: str = "interpolate",
        tolerance: float = 1e-3,
        iterations: int = 1000,
        stages: int = 1,
        feature: float = 15.0,
        fixed: bool = False,
    ):
        check_known(method, METHODS, "method")
        check_known(convention, CONVENTIONS, "convention")
        check_known(fields, FIELDS, "fields")
        for name, number in {"stages": stages, "iterations": iterations}.items():
            if number < 1:
                raise InputError(f"`{name}`: expected 1 or more, got {number}")
        if not tolerance > 0:
            raise InputError(f"`tolerance`: expected more than 0, got {tolerance}")
        if not 0 <= rounds < np.inf:
            raise InputError(f"`rounds`: expected 0 or more, got {rounds}")
        if not 0 <= damping <= 1:
            raise InputError(f"`damping`: expected 0 to 1, got {damping}")
        self.mesh, self.monitor, self.method = mesh, monitor, method
        self.convention, self.rounds = convention, rounds
        self.damping, self.fields = damping, fields
        self.corners = corners(mesh)
        self._iteration, self.stages = (tolerance, iterations), stages
        self._boundary = feature, fixed

    @cached_property
    def _solver(self) -> MongeAmpere | LearnedMover:
        grid, (feature, fixed) = self.corners.grid, self._boundary
        if self.method in ("ma", "ma-relaxation"):
            how = "quasi-newton" if self.method == "ma" else "relaxation"
            return MongeAmpere(grid, how, *self._iteration, feature=feature, fixed=fixed)
        density, bulk = (Density(power=1.0), None) if self.method == "flow" else (None, BULK)
        return LearnedMover(density, bulk=bulk, feature=feature, fixed=fixed)

    def __call__(self, mesh: Mesh) -> Mesh:
        """The mesh moved for its fields, which come along.

        Arguments:
            mesh: the one at rest, or as this moved it, with the fields of the monitor.

        Raises:
            InputError: a mesh of other cells, a field that is not there, or a monitor that is not
                positive.
        """
        same = mesh.n_points == self.mesh.n_points and len(mesh.cells) == len(self.mesh.cells)
        if not same or not all(map(_equal, mesh.cells, self.mesh.cells)):
            raise InputError(
                f"`mesh`: expected the mover's own {self.mesh.n_points} points and"
                f" {self.mesh.n_cells} cells, got others ({mesh.n_points} and {mesh.n_cells})"
            )
        now = self._in_use(mesh)
        points = self.places(point_values(mesh, self.corners.used), now)
        of = self._at(now)
        return with_points(mesh, Corners(of, *self.corners[1:]), points, self.fields)

    def places(self, fields: Mapping[str, ArrayLike], now: Array | None = None) -> Array:
        """Where the points in use go, (n, D).

        Arguments:
            fields: {name: (n,)} values at the points in use, `self.corners.used`.
            now: (n, D) where these are; at rest if None.
        """
        rest = self.corners.grid.points
        wanted = self.wanted(fields, now)
        if isinstance(self._solver, MongeAmpere):
            self.moved = self._solver.move(wanted, stages=self.stages)
        else:
            self.moved = self._solver.move(self.corners.grid, wanted, self.corners.corners)
        share, way = self.damping, self.moved.points - rest
        points = self._rounded(self.moved.points)
        if share < 1.0 or self.corners.tangled(points):
            while self.corners.tangled(
                points := self._rounded(self._guard.safe(rest, rest + share * way))
            ):
                share = 0.8 * share if share > 1e-3 else 0.0
        self.share = share * self.moved.share
        return points

    @cached_property
    def _guard(self) -> Guard:
        grid, solver = self.corners.grid, self._solver
        if isinstance(solver, LearnedMover):
            return solver.prepare(grid, self.corners.corners).guard
        return Guard(self.corners.corners, grid.boundary, solver.sides.back)

    def _rounded(self, points: Array) -> Array:
        """Points as the mesh's own precision keeps them."""
        out: Array = torch.from_numpy(points).to(self.mesh.points.dtype).double().numpy()
        return out

    def wanted(self, fields: Mapping[str, ArrayLike], now: Array | None = None) -> Monitor:
        """The monitor function for fields on the mesh with its points in use at `now`."""
        if callable(self.monitor):
            return self.monitor
        rest = self.corners.grid
        grid = rest if now is None else self._at(now)
        if self.convention == "pulled back" and grid is not rest and fields:
            # differentiated on the mesh at rest: they must be there
            FieldMonitor(grid, self.monitor, fields)  # says what is wrong with them
            rows = np.stack([as_tensor(v).double().numpy() for v in fields.values()], 1)
            columns = at_points(grid, rows, rest.points).T
            grid, fields = rest, dict(zip(fields, columns, strict=True))
        return FieldMonitor(grid, self.monitor, fields, self.convention, self.rounds)

    def spreads(self, before: Mesh, after: Mesh) -> tuple[float, float]:
        """σ/μ over cells of the monitor's mass, of a mesh with its fields and as it was moved."""
        now, then = self._in_use(before), self._in_use(after)
        wanted = self.wanted(point_values(before, self.corners.used), now)
        grid = self.corners.grid
        return spread(grid, wanted, now), spread(grid, wanted, then)

    def _in_use(self, mesh: Mesh) -> Array:
        out: Array = mesh.points.detach().cpu().double().numpy()[self.corners.used]
        return out

    def _at(self, now: Array) -> Simplices:
        grid = self.corners.grid
        return grid if np.array_equal(now, grid.points) else Simplices(now, grid.cells)


def _equal(a: Cells, b: Cells) -> bool:
    if a.type != b.type or not torch.equal(a.nodes, b.nodes):
        return False
    return a.offsets is None or (b.offsets is not None and torch.equal(a.offsets, b.offsets))
