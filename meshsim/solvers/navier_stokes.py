"""Incompressible flow: `∂u/∂t + (u·∇)u − ν Δu + ∇p = 0`, `∇·u = 0`, on Taylor–Hood elements.

Density is one: pressure is p/ρ (m²/s²) and forces are per unit of density and depth (m³/s²).
A boundary either has its velocity prescribed or is left free, where `ν ∂u/∂n − p n = 0` holds
("do nothing"), the usual outflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse.linalg import SuperLU, splu

from meshsim.check import InputError, WorkError
from meshsim.solvers.taylor_hood import TaylorHood

Array = NDArray[np.float64]
Prescribed = Callable[[Array, float], Array]
"""A velocity `(n, 2)` at points `(n, 2)` and a time (s)."""


class FlowProblem:
    """What is solved: spaces, viscosity and boundary conditions.

    Arguments:
        spaces: the Taylor–Hood spaces.
        viscosity: the kinematic viscosity ν (m²/s).
        prescribed: the velocity on each boundary that is not free; where two boundaries meet, the
            later one holds.

    Raises:
        InputError: the viscosity is not positive, or a boundary is not in the mesh.
    """

    def __init__(
        self, spaces: TaylorHood, *, viscosity: float, prescribed: Mapping[str, Prescribed]
    ) -> None:
        if not viscosity > 0:
            raise InputError(f"viscosity: expected above 0, got {viscosity}")
        self.spaces, self.viscosity = spaces, float(viscosity)
        self._prescribed = [
            (np.unique(spaces.edges(name)), value) for name, value in prescribed.items()
        ]
        fixed = np.zeros(spaces.nodes, dtype=bool)
        for nodes, _ in self._prescribed:
            fixed[nodes] = True
        self.fixed, self.free = np.flatnonzero(fixed), np.flatnonzero(~fixed)
        free_sides = ~fixed[spaces.mesh.dofs.facet_dofs[0, spaces.mesh.boundary_facets()]]
        sides = spaces.mesh.facets[:, spaces.mesh.boundary_facets()[free_sides]]
        self.free_vertices = np.unique(sides).astype(np.int64)
        """Vertices on the free boundary; empty for a closed flow, whose pressure has no level."""

    def boundary_values(self, time: float) -> Float[np.ndarray, "N 2"]:
        """The velocity `(N, 2)` that is prescribed at this time, zero at nodes that are free."""
        values = np.zeros((self.spaces.nodes, 2))
        for nodes, velocity in self._prescribed:
            values[nodes] = velocity(self.spaces.points[nodes], time)
        return values

    def force(self, residual: Float[np.ndarray, "N 2"], boundary: str) -> Float[np.ndarray, "2"]:
        """The force `(2,)` of the fluid on a boundary, from the residual of the momentum equation.

        The residual, tested with a function that is one on the boundary and zero at all other
        nodes, equals the surface integral of the stress: `∮ (ν ∂u/∂n − p n)`. This converges
        twice as fast as the integral of the discrete stress itself (Babuška and Miller 1984;
        for the DFG cylinder, John and Matthies 2001).

        Arguments:
            residual: `(N, 2)`, of `momentum_residual` or of a step.
            boundary: its name.
        """
        return -residual[np.unique(self.spaces.edges(boundary))].sum(axis=0)

    def momentum_residual(
        self, velocity: Float[np.ndarray, "N 2"], pressure: Float[np.ndarray, "V"]
    ) -> Float[np.ndarray, "N 2"]:
        """The steady momentum equation tested with every node's function, `(N, 2)`."""
        spaces = self.spaces
        matrix = spaces.matrix(self.viscosity * spaces.stiffness.data + spaces.convection(velocity))
        return matrix @ velocity + transposed_divergence(spaces, pressure)

    def stokes(self, time: float = 0.0) -> tuple[Array, Array]:
        """Velocity `(N, 2)` and pressure `(V,)` of the flow without inertia."""
        nothing = np.zeros((self.spaces.nodes, 2))
        return self._newton_step(nothing, np.zeros(self.spaces.vertices), time, convect=False)

    def steady(
        self,
        start: tuple[Array, Array] | None = None,
        *,
        tolerance: float = 1e-10,
        iterations: int = 20,
    ) -> tuple[Array, Array]:
        """Velocity `(N, 2)` and pressure `(V,)` of the steady flow, by Newton's method.

        Arguments:
            start: velocity and pressure to start from; without it the flow without inertia.
            tolerance: of the largest change of velocity in the last step, relative to the largest
                velocity.
            iterations: the most steps taken.

        Raises:
            WorkError: no convergence; start from a solution at a larger viscosity.
        """
        velocity, pressure = self.stokes() if start is None else start
        for _ in range(iterations):
            new, pressure = self._newton_step(velocity, pressure, 0.0, convect=True)
            change = np.abs(new - velocity).max() / max(np.abs(new).max(), 1e-300)
            velocity = new
            if change < tolerance:
                return velocity, pressure
        raise WorkError(
            f"steady: expected a change below {tolerance:g} within {iterations} Newton steps, "
            f"got {change:.3g}"
        )

    def _newton_step(
        self, velocity: Array, pressure: Array, time: float, *, convect: bool
    ) -> tuple[Array, Array]:
        spaces, n = self.spaces, self.spaces.nodes
        linear = self.viscosity * spaces.stiffness.data
        blocks = [[linear, None], [None, linear]]
        rhs = np.zeros((n, 2))
        if convect:
            transport = linear + spaces.convection(velocity)
            (xx, xy), (yx, yy) = spaces.reaction(velocity)
            blocks = [[transport + xx, xy], [yx, transport + yy]]
            rhs = spaces.matrix(transport - linear) @ velocity
        momentum = [[None if b is None else spaces.matrix(b) for b in row] for row in blocks]
        first, second = spaces.divergence
        whole = sp.bmat(
            [
                [momentum[0][0], momentum[0][1], first.T],
                [momentum[1][0], momentum[1][1], second.T],
                [first, second, None],
            ],
            format="csr",
        )
        known = np.concatenate([*self.boundary_values(time).T, np.zeros(spaces.vertices)])
        right = np.concatenate([*rhs.T, np.zeros(spaces.vertices)]) - whole @ known
        level = [np.arange(spaces.vertices)[0 if len(self.free_vertices) else 1 :] + 2 * n]
        keep = np.concatenate([self.free, self.free + n, *level])
        solution = known
        solution[keep] = splu(whole[keep][:, keep].tocsc()).solve(right[keep])
        return np.ascontiguousarray(solution[: 2 * n].reshape(2, n).T), solution[2 * n :]


def transposed_divergence(
    spaces: TaylorHood, pressure: Float[np.ndarray, "V"]
) -> Float[np.ndarray, "N 2"]:
    """`−∫ p ∇·v` for every node's function in each direction, `(N, 2)`."""
    first, second = spaces.divergence
    return np.stack([pressure @ first, pressure @ second], axis=1)


class March:
    """Advances a flow in time: BDF2, carried by a velocity extrapolated from the last three steps.

    The extrapolation is of third order: that costs nothing, cannot harm stability (the convection
    matrix is skew whatever velocity carries), and leaves BDF2's as the only second-order error.

    Each step factorises one matrix for both velocity components and corrects the pressure by
    `p ← p + (α/τ) L⁻¹ r + ν M⁻¹ r` with r the divergence that is left: the rotational incremental
    pressure correction (Timmermans, Minev and van de Vosse 1996; Guermond, Minev and Shen 2006,
    §3.4), with the end-of-step velocity eliminated. With `coupled`, the same correction is the
    preconditioner (Cahouet and Chabard 1988) of GMRES on the Schur complement, so that no
    splitting error is left; about ten corrections instead of one, twice the time.

    Arguments:
        problem: what is solved.
        step: τ (s).
        velocity: `(N, 2)` at the start.
        pressure: `(V,)` at the start; zero when not given.
        time: of the start (s).
        coupled: solve momentum and continuity together.
        tolerance: of the divergence left by a coupled step, relative to that of its first guess.

    Raises:
        InputError: the step is not positive, or a field has the wrong shape.
    """

    def __init__(
        self,
        problem: FlowProblem,
        *,
        step: float,
        velocity: Float[np.ndarray, "..."],
        pressure: Float[np.ndarray, "..."] | None = None,
        time: float = 0.0,
        coupled: bool = False,
        tolerance: float = 1e-3,
    ) -> None:
        spaces = problem.spaces
        if not step > 0:
            raise InputError(f"step: expected above 0, got {step}")
        if velocity.shape != (spaces.nodes, 2):
            raise InputError(f"velocity: expected shape {(spaces.nodes, 2)}, got {velocity.shape}")
        if pressure is not None and pressure.shape != (spaces.vertices,):
            raise InputError(f"pressure: expected shape {(spaces.vertices,)}, got {pressure.shape}")
        self.problem, self.step, self.time = problem, float(step), float(time)
        self.velocity = np.array(velocity, dtype=np.float64)
        self.pressure = np.zeros(spaces.vertices) if pressure is None else np.array(pressure)
        self.residual = np.zeros_like(self.velocity)
        """`(N, 2)`, of the momentum equation after the last step: see `FlowProblem.force`."""
        self.corrections = 0
        """Velocity solves in the last step."""
        self._coupled, self._tolerance = coupled, tolerance
        self._earlier: list[Array] = []  # velocities before this one, newest first
        self._pressures = [self.pressure]  # newest first
        # the parts by L⁻¹ of the last two corrections, newest first
        self._changes = [np.zeros(spaces.vertices), np.zeros(spaces.vertices)]
        self._prepare()

    def _prepare(self) -> None:
        problem, spaces = self.problem, self.problem.spaces
        pattern = spaces.pattern
        free = np.full(spaces.nodes, -1)
        free[problem.free] = np.arange(len(problem.free))
        inside = np.flatnonzero((free[pattern.rows] >= 0) & (free[pattern.columns] >= 0))
        row, column = free[pattern.rows[inside]], free[pattern.columns[inside]]
        order = np.lexsort((row, column))
        self._inside = inside[order]
        self._rows = row[order].astype(np.int32)
        self._starts = np.searchsorted(column[order], np.arange(len(problem.free) + 1)).astype(
            np.int32
        )
        first, second = spaces.divergence
        self._divergence = sp.hstack([first, second], format="csr")  # (V, 2 N)
        free2 = np.concatenate([problem.free, problem.free + spaces.nodes])
        self._free_gradient = self._divergence.T.tocsr()[free2]  # (2 F, V)
        self._free_divergence = self._divergence[:, free2].tocsr()  # (V, 2 F)
        self._mass_lu = _factorise(spaces.pressure_mass)
        closed = len(problem.free_vertices) == 0
        held = np.array([0]) if closed else problem.free_vertices
        self._vertices = np.setdiff1d(np.arange(spaces.vertices), held)
        laplacian = spaces.pressure_stiffness[self._vertices][:, self._vertices]
        self._laplacian_lu = _factorise(laplacian.tocsc())

    def advance(self, steps: int = 1) -> None:
        """Take this many steps."""
        for _ in range(steps):
            self._advance()

    def _advance(self) -> None:
        problem, spaces, step = self.problem, self.problem.spaces, self.step
        now, earlier = self.velocity, self._earlier
        if not earlier:  # one step of backward Euler keeps the whole second order
            lead, history, carrier = 1.0, now, now
        else:
            lead, history = 1.5, 2.0 * now - 0.5 * earlier[0]
            carrier = _extrapolate([now, *earlier])
        time = self.time + step
        entries = spaces.convection(carrier)
        entries += (lead / step) * spaces.mass.data
        entries += problem.viscosity * spaces.stiffness.data
        matrix = spaces.matrix(entries)
        load = spaces.mass @ (history / step)
        known = problem.boundary_values(time)
        lu = self._factorise(entries)
        right = (load - matrix @ known)[problem.free]

        solve = self._solve_coupled if self._coupled else self._solve_split
        velocity, pressure = solve(lu, right, known, lead)
        self._earlier = [now, *earlier][:2]
        self._pressures = [pressure, *self._pressures][:3]
        self.residual = matrix @ velocity + transposed_divergence(spaces, pressure) - load
        self.velocity, self.pressure, self.time = velocity, pressure, time

    def _factorise(self, entries: Array) -> SuperLU:
        count = len(self.problem.free)
        return _factorise(
            sp.csc_matrix((entries[self._inside], self._rows, self._starts), shape=(count, count))
        )

    def _momentum(self, lu: SuperLU, right: Array, known: Array, pressure: Array) -> Array:
        """The velocity that the momentum equation gives for a pressure."""
        count = len(self.problem.free)
        velocity = known.copy()
        gradient = (self._free_gradient @ pressure).reshape(2, count).T
        velocity[self.problem.free] = lu.solve(right - gradient)
        self.corrections += 1
        return velocity

    def _correction(self, divergence: Array, lead: float) -> tuple[Array, Array]:
        """Both parts of the change of pressure for what is left of the divergence."""
        irrotational = np.zeros_like(divergence)
        irrotational[self._vertices] = self._laplacian_lu.solve(divergence[self._vertices])
        irrotational *= lead / self.step
        return irrotational, self.problem.viscosity * self._mass_lu.solve(divergence)

    def _solve_split(
        self, lu: SuperLU, right: Array, known: Array, lead: float
    ) -> tuple[Array, Array]:
        self.corrections = 0
        last, before = self._changes
        guess = self.pressure + (4.0 * last - before) / 3.0
        velocity = self._momentum(lu, right, known, guess)
        left = self._divergence @ velocity.T.ravel()
        irrotational, rotational = self._correction(left, lead)
        self._changes = [irrotational, last]
        return velocity, self.pressure + irrotational + rotational

    def _solve_coupled(
        self, lu: SuperLU, right: Array, known: Array, lead: float, most: int = 30
    ) -> tuple[Array, Array]:
        self.corrections = 0
        guess = _extrapolate(self._pressures)
        velocity = self._momentum(lu, right, known, guess)
        left = self._divergence @ velocity.T.ravel()
        count, free = len(self.problem.free), self.problem.free

        # right-preconditioned GMRES; the velocity that each direction of pressure drives is kept,
        # so that the solution needs no further solve
        norm = float(np.linalg.norm(left))
        goal = max(self._tolerance * norm, 1e-14)
        basis: list[Array] = [left / max(norm, 1e-300)]
        directions: list[Array] = []
        driven: list[Array] = []
        weights: Array = np.zeros(0)
        hessenberg = np.zeros((most + 1, most))
        target = np.zeros(most + 1)
        target[0] = norm
        for k in range(most):
            irrotational, rotational = self._correction(basis[k], lead)
            directions.append(irrotational + rotational)
            gradient = (self._free_gradient @ directions[k]).reshape(2, count).T
            driven.append(lu.solve(gradient))
            self.corrections += 1
            image = self._free_divergence @ driven[k].T.ravel()
            for i, vector in enumerate(basis):
                hessenberg[i, k] = vector @ image
                image = image - hessenberg[i, k] * vector
            hessenberg[k + 1, k] = length = float(np.linalg.norm(image))
            small = hessenberg[: k + 2, : k + 1]
            weights = np.linalg.lstsq(small, target[: k + 2], rcond=None)[0].astype(np.float64)
            remains = float(np.linalg.norm(small @ weights - target[: k + 2]))
            if remains <= goal or length == 0.0:
                break
            basis.append(image / length)
        pressure = guess + sum(w * d for w, d in zip(weights, directions, strict=True))
        velocity[free] -= sum(w * d for w, d in zip(weights, driven, strict=True))
        return velocity, pressure


def _extrapolate(values: list[Array]) -> Array:
    """The next of a sequence, newest first, by the polynomial through up to three of them."""
    if len(values) == 1:
        return values[0]
    if len(values) == 2:
        return 2.0 * values[0] - values[1]
    return 3.0 * values[0] - 3.0 * values[1] + values[2]


def _factorise(matrix: sp.csc_matrix) -> SuperLU:
    """A sparse LU of a matrix of symmetric pattern whose diagonal needs no pivoting."""
    return splu(
        matrix,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.001,
        options={"SymmetricMode": True},
    )
