"""u_t + c·∇u = κ Δu in linear elements on a mesh whose points move while time goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from meshsim.check import InputError
from meshsim.movers.monitor import at_points
from meshsim.movers.recovery import solve_dirichlet
from meshsim.movers.simplices import Array, Simplices

ROUNDS = 3  # of moving to the initial field, and of Picard's iteration
Velocity = Callable[[Array, Array, float], Array]
Move = Callable[[Array, Array], Array]


class Frame(NamedTuple):
    """A time, the points (N, D) then, and the values (N, …) at them."""

    time: float
    points: Array
    values: Array


def step(
    grid: Simplices,
    old: Array,
    new: Array,
    values: Array,
    velocity: Array,
    dt: float,
    diffusion: float,
    held: np.ndarray,
    given: Array,
) -> Array:
    """The values at the end of a step in which points go straight from `old` to `new`.

    Crank–Nicolson and streamline-upwind Petrov–Galerkin on the mesh half way, with the velocity
    relative to the points (arbitrary Lagrangian–Eulerian; Brooks and Hughes 1982, Hughes, Liu and
    Zimmermann 1981): nothing is interpolated, constants stay, and so do fields linear in x and t.

    Arguments:
        old, new: (N, D) points.
        values: (N, …) at the start.
        velocity: (N, D) c at the points half way.
        dt, diffusion: > 0, ≥ 0.
        held: (N,) bool, points whose values at the end are `given` (N, …).

    Raises:
        InputError: half way a cell has no positive measure; a velocity is not finite.
    """
    middle = (old + new) / 2
    if not (grid.signed(middle) > 0).all():
        raise InputError("`new`: half way there a cell of the mesh is turned inside out")
    half = Simplices(middle, grid.cells, check=False)
    g, size, k = half.gradients, half.measures, half.dim + 1
    if not np.isfinite(velocity).all():
        raise InputError("`velocity`: expected finite values")
    c = (velocity - (new - old) / dt)[half.cells]  # (C, k, D) relative to the points
    mean = c.mean(1)
    along = (g @ mean[:, :, None]).squeeze(2)  # (C, k) c·∇λ
    width = (size * (2 if half.dim == 2 else 6)) ** (2 / half.dim)
    rate = (2 / dt) ** 2 + np.abs(along).sum(1) ** 2 + (12 * diffusion / width) ** 2
    upwind = along / np.sqrt(rate)[:, None]  # (C, k) τ c·∇λ, added to each test function
    mass = (np.eye(k) + 1) / (k * (k + 1)) + upwind[:, :, None] / k
    carried = (c.sum(1, keepdims=True) + c) @ g.transpose(0, 2, 1) / (k * (k + 1))
    flux = carried + upwind[:, :, None] * along[:, None, :] + diffusion * g @ g.transpose(0, 2, 1)
    share = size[:, None, None]
    rows = values.reshape(len(old), -1)
    matrix = half.assemble(share * (mass / dt + flux / 2))
    load = half.assemble(share * (mass / dt - flux / 2)) @ rows
    found = solve_dirichlet(matrix, load, held, given.reshape(rows.shape))
    return found.reshape(values.shape)


def march(
    grid: Simplices,
    start: Callable[[Array], Array],
    velocity: Velocity,
    dt: float,
    steps: int,
    diffusion: float = 0.0,
    held: np.ndarray | None = None,
    move: Move | None = None,
) -> Iterator[Frame]:
    """Frames of the solution, the mesh moved before every step.

    Arguments:
        grid: the mesh at rest.
        start: values (N, …) at points (N, D), at time 0.
        velocity: c (N, D) from points, values and time; asked half way, `ROUNDS` times if it is
            of the values.
        held: (N,) bool, points whose values stay what they are in space; the boundary if None.
        move: new points from the points and the values at them; None leaves them at rest. The
            mesh is moved to the initial field first, `ROUNDS` times over. Where points cannot go
            straight, the values are interpolated to where they go, before the step.
    """
    if not (dt > 0 and diffusion >= 0):
        raise InputError(
            f"expected `dt` above 0 and `diffusion` of 0 or more, got {dt} and {diffusion}"
        )
    if held is None:
        held = np.zeros(len(grid.points), bool)
        held[grid.boundary.reshape(-1)] = True
    x, u = grid.points, np.asarray(start(grid.points), dtype=np.float64)
    for _ in range(ROUNDS if move else 0):
        x = move(x, u) if move else x
        u = np.asarray(start(x), dtype=np.float64)
    yield Frame(0.0, x, u)
    for n in range(steps):
        there = move(x, u) if move else x
        if not (grid.signed((x + there) / 2) > 0).all():
            rows = at_points(Simplices(x, grid.cells), u.reshape(len(x), -1), there)
            x, u = there, rows.reshape(u.shape)
        given = u
        if (there[held] != x[held]).any():  # along their side, where the values are others
            given = u.copy()
            rows = at_points(Simplices(x, grid.cells), u.reshape(len(x), -1), there[held])
            given[held] = rows.reshape(given[held].shape)
        new = u
        for _ in range(ROUNDS):
            c = velocity((x + there) / 2, (u + new) / 2, (n + 0.5) * dt)
            before = new
            new = step(grid, x, there, u, c, dt, diffusion, held, given)
            if np.abs(new - before).max() <= 1e-10:
                break
        x, u = there, new
        yield Frame((n + 1) * dt, x, u)
