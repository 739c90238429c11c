"""The classical mover: the Monge–Ampère equation by relaxation or quasi-Newton iteration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator, gmres

from meshsim.check import InputError, check_known
from meshsim.movers.boundary import Sides
from meshsim.movers.monitor import check_monitor, masses
from meshsim.movers.simplices import Array, Simplices, factor, quadrature

Monitor = Callable[[Array], Array]
PATIENCE = 50


class Step(NamedTuple):
    """A line of the trace: max/min and σ/μ of the cells' monitor-weighted mass, the residual."""

    ratio: float
    variation: float
    residual: float


@dataclass(frozen=True)
class Moved:
    """A moved mesh and how it came about.

    Attributes:
        points: (N, D) float64; where the solver failed, the last untangled mesh of its trace.
        converged: whether the residual fell below the tolerance.
        why: "" or what went wrong, in a sentence.
        trace: a `Step` an iteration, the first of each stage at its start.
        potential: (N,) φ, for a warm start.
        share: of their way that a safeguard left to the points, 0 to 1.
        tangled: (N, D) where the solver ended, if that is not `points` because cells are turned.
    """

    points: Array
    converged: bool
    why: str = ""
    trace: tuple[Step, ...] = ()
    potential: Array = field(default_factory=lambda: np.zeros(0))
    share: float = 1.0
    tangled: Array | None = None


class _State(NamedTuple):
    potential: Array
    hessian: Array  # (P, N): ij with i ≤ j, row by row
    points: Array
    monitor: Array
    residual: Array
    step: Step
    tangled: bool


class MongeAmpere:
    """Moves the points of a mesh so that a monitor function is equally distributed over cells.

    x = ξ + ∇φ with m(x) det(I + ∇∇φ) = θ, in linear elements with a recovered Hessian (McRae,
    Cotter and Budd, SIAM J. Sci. Comput. 40, 2018; the package `movement`).

    Relaxation steps −∂_τ Δφ = m det(I + ∇∇φ) − θ in pseudo-time. Quasi-Newton solves the
    linearised equation, the monitor held, by GMRES and searches along the line.

    Arguments:
        grid: the mesh at rest.
        method: "relaxation" or "quasi-newton".
        rtol: of the residual, ‖∫ψ(m det − θ)‖ / ‖∫ψθ‖ over test functions ψ.
        most: iterations of a stage.
        pseudo_step: of the relaxation; halved where the iteration diverges or gets no better for
            `PATIENCE` iterations, and taken up again from the best mesh so far.
        dtol: diverged where the residual exceeds that much of the first.
        feature: degrees, see `Sides`.
        fixed: hold the boundary.

    >>> grid = Simplices([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], [[0, 1, 2], [0, 2, 3]])
    >>> MongeAmpere(grid).move(lambda x: np.ones(len(x))).converged
    True
    """

    def __init__(
        self,
        grid: Simplices,
        method: str = "relaxation",
        rtol: float = 1e-8,
        most: int = 1000,
        pseudo_step: float = 0.1,
        dtol: float = 2.0,
        feature: float = 15.0,
        fixed: bool = False,
    ):
        check_known(method, ("relaxation", "quasi-newton"), "method")
        self.grid, self.method = grid, method
        self.rtol, self.most, self.pseudo_step, self.dtol = rtol, most, pseudo_step, dtol
        self.sides = Sides(grid, feature, fixed)
        basis = self.sides.basis
        mass, n, dim = grid.mass, len(grid.points), grid.dim
        blocks = [basis[d * n : (d + 1) * n] for d in range(dim)]
        self._gradient = factor(sum(b.T @ mass @ b for b in blocks))
        self._gradient_load = sum(
            b.T @ load for b, load in zip(blocks, grid.derivatives, strict=True)
        )
        self._pairs = list(grid.hessian_loads)
        self._rule = quadrature(dim)
        self._at_rule = self._rule.at.T.copy()  # (D + 1, q)

    def move(self, monitor: Monitor, start: Array | None = None, stages: int = 1) -> Moved:
        """Solve for one monitor function.

        Arguments:
            monitor: takes points (n, D) and gives (n,) positive values, the density of cells
                wanted there; it is asked at moved points.
            start: the potential of an earlier `Moved`, to go on from there.
            stages: of continuation: mᵏ ᐟ ⁿ for k = 1 to n, each from the one before, for monitors
                of a contrast that is not reached at once.

        Raises:
            InputError: the monitor's values are not positive, not finite, or not one a point;
                `start` is of another mesh; no stages.
        """
        if stages < 1:
            raise InputError(f"`stages`: expected 1 or more, got {stages}")
        potential = np.zeros(len(self.grid.points)) if start is None else start.copy()
        if potential.shape != (len(self.grid.points),):
            raise InputError(
                f"`start`: expected {len(self.grid.points)} values, got shape {potential.shape}"
            )
        check_monitor(monitor(self.grid.points), self.grid.points)
        solve = self._newton if self.method == "quasi-newton" else self._relax
        trace: tuple[Step, ...] = ()
        for k in range(1, stages + 1):
            found = solve(_power(monitor, k / stages), potential)
            trace, potential = trace + found.trace, found.potential
            if found.why and k < stages and found.tangled is None:
                why = f"stage {k} of {stages}: {found.why}"
                return replace(found, trace=trace, why=why)
        return replace(found, trace=trace)

    def _hessian(self, potential: Array) -> Array:
        loads = np.stack([load @ potential for load in self.grid.hessian_loads.values()], 1)
        out: Array = self.grid.mass_solver.solve(loads).T
        return out

    def _points(self, potential: Array) -> Array:
        n, dim = self.grid.points.shape
        shift = self.sides.basis @ self._gradient.solve(self._gradient_load @ potential)
        return self.sides.back(self.grid.points + shift.reshape(dim, n).T)

    def _at_points(self, values: Array) -> Array:
        """(C, q) values at the quadrature points of point values (N,)."""
        out: Array = values[self.grid.cells] @ self._at_rule
        return out

    def _load(self, values: Array) -> Array:
        """(N,) ∫ λ_i f of f at the quadrature points (C, q)."""
        weighted = values * (self.grid.measures[:, None] * self._rule.weights)
        return self.grid.sum_at_points(weighted @ self._rule.at)

    def _state(self, monitor: Monitor, potential: Array) -> _State:
        hessian = self._hessian(potential)
        points = self._points(potential)
        values = np.asarray(monitor(points), dtype=np.float64)
        check_monitor(values, points)
        grid = self.grid
        stretched = _determinant([self._at_points(h) for h in hessian])
        density = self._load(self._at_points(values) * stretched)
        mean = density.sum() / grid.measures.sum()
        residual = density - mean * grid.lumped
        size = np.linalg.norm(residual) / np.linalg.norm(mean * grid.lumped)
        signed = grid.signed(points)
        share = masses(grid, values, points)
        line = Step(
            float(share.max() / max(share.min(), 1e-300)),
            float(share.std() / share.mean()),
            float(size),
        )
        tangled = bool((signed <= 0).any())
        return _State(potential, hessian, points, values, residual, line, tangled)

    def _relax(self, monitor: Monitor, potential: Array) -> Moved:
        state = self._state(monitor, potential)
        trace, good, best = [state.step], state, state
        step, since = self.pseudo_step, 0
        while not state.step.residual < self.rtol:
            why = self._failed(trace)
            if why.startswith("diverged") or since > PATIENCE:
                step, since = step / 2, 0
                if step < self.pseudo_step / 100:
                    why = (
                        why
                        or f"no better for {PATIENCE} iterations: residual {trace[-1].residual:.2e}"
                    )
                else:
                    why, state = "", best
            if why:
                return Moved(good.points, False, why, tuple(trace), good.potential)
            load = step * state.residual
            load[0] = 0.0
            change = self.grid.poisson_solver.solve(load)
            state = self._state(monitor, state.potential + change - change.mean())
            trace.append(state.step)
            if not state.tangled:
                good = state
            since += 1
            if state.step.residual < best.step.residual:
                best, since = state, 0
        return _done(state, good, trace)

    def _newton(self, monitor: Monitor, potential: Array) -> Moved:
        state = self._state(monitor, potential)
        trace, good, stuck = [state.step], state, 0
        while not state.step.residual < self.rtol:
            why = self._failed(trace)
            if stuck > 3:
                why = why or f"no step along the line is better: residual {trace[-1].residual:.2e}"
            if why:
                return Moved(good.points, False, why, tuple(trace), good.potential)
            change = self._direction(state)
            length, best = 1.0, None
            while length > 0.02:
                trial = self._state(monitor, state.potential + length * change)
                if best is None or trial.step.residual < best.step.residual:
                    best = trial
                if trial.step.residual < (1 - 0.1 * length) * state.step.residual:
                    break
                length /= 2
            assert best is not None
            stuck = 0 if best.step.residual < state.step.residual else stuck + 1
            state = best
            trace.append(state.step)
            if not state.tangled:
                good = state
        return _done(state, good, trace)

    def _direction(self, state: _State) -> Array:
        """δ with ∫ψ m cof(I + ∇∇φ) : ∇∇δ = −residual, by GMRES behind a Poisson solve."""
        grid = self.grid
        at = self._at_points(state.monitor)  # (C, q)
        weights = [
            at * c for c in _cofactors([self._at_points(h) for h in state.hessian], self._pairs)
        ]
        n = len(state.potential)
        scale = float(at.mean())

        def linear(change: Array) -> Array:
            hessian = self._hessian(change)
            rate = np.sum(
                [w * self._at_points(h) for w, h in zip(weights, hessian, strict=True)], axis=0
            )
            load = self._load(rate)
            out: Array = load - load.sum() / grid.measures.sum() * grid.lumped
            return out

        def poisson(load: Array) -> Array:
            load = load - load.sum() / grid.measures.sum() * grid.lumped
            load[0] = 0.0
            found = grid.poisson_solver.solve(load)
            out: Array = (found.mean() - found) / scale
            return out

        change, _ = gmres(
            LinearOperator((n, n), matvec=linear, dtype=np.float64),
            -state.residual,
            M=LinearOperator((n, n), matvec=poisson, dtype=np.float64),
            rtol=1e-2,
            restart=30,
            maxiter=1,
        )
        out: Array = change - change.mean()
        return out

    def _failed(self, trace: list[Step]) -> str:
        now, first = trace[-1].residual, trace[0].residual
        if not np.isfinite(now) or now > self.dtol * first:
            return f"diverged after {len(trace) - 1} iterations: residual {now:.2e}"
        if len(trace) > self.most:
            return f"not converged after {self.most} iterations: residual {now:.2e}"
        return ""


def _power(monitor: Monitor, share: float) -> Monitor:
    if share == 1.0:
        return monitor
    return lambda points: monitor(points) ** share


def _done(state: _State, good: _State, trace: list[Step]) -> Moved:
    if state.tangled:
        why = "converged, but to a tangled mesh: the domain is not convex, or the mesh too coarse"
        last = state.points
        return Moved(good.points, False, why, tuple(trace), good.potential, tangled=last)
    return Moved(state.points, True, "", tuple(trace), state.potential)


def _determinant(h: list[Array]) -> Array:
    """det(I + H) of the upper triangle of H, row by row."""
    if len(h) == 3:
        out: Array = (1 + h[0]) * (1 + h[2]) - h[1] * h[1]
        return out
    xx, xy, xz, yy, yz, zz = 1 + h[0], h[1], h[2], 1 + h[3], h[4], 1 + h[5]
    out = xx * (yy * zz - yz * yz) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)
    return out


def _cofactors(h: list[Array], pairs: list[tuple[int, int]]) -> list[Array]:
    """∂det(I + H)/∂H_ij for i ≤ j, both places of an off-diagonal entry together."""
    if len(h) == 3:
        return [1 + h[2], -2 * h[1], 1 + h[0]]
    xx, xy, xz, yy, yz, zz = 1 + h[0], h[1], h[2], 1 + h[3], h[4], 1 + h[5]
    return [
        yy * zz - yz * yz,
        2 * (yz * xz - xy * zz),
        2 * (xy * yz - yy * xz),
        xx * zz - xz * xz,
        2 * (xy * xz - xx * yz),
        xx * yy - xy * xy,
    ]
