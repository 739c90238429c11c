"""Convection and diffusion on moving meshes: what is kept exactly, and the order of the rest."""

import numpy as np
import pytest

from meshsim.check import InputError
from meshsim.movers import Simplices
from meshsim.solvers.convection import march, step
from meshsim.solvers.domains import structured


def swirled(grid: Simplices, t: float) -> np.ndarray:
    """Points inside pushed about smoothly; those of the boundary stay."""
    x, y = grid.points.T
    bump = 0.05 * np.sin(np.pi * x) * np.sin(np.pi * y)
    return grid.points + np.stack([bump * np.cos(7 * t), bump * np.sin(5 * t)], 1)


def no_boundary(grid: Simplices) -> np.ndarray:
    return np.zeros(len(grid.points), bool)


@pytest.mark.parametrize("diffusion", [0.0, 0.1])
def test_linear_in_space_and_time_is_exact_on_a_moving_mesh(diffusion):
    grid, dt, slope, c = structured(7), 0.13, np.array([2.0, -1.0]), np.array([0.7, 0.4])
    old, new = swirled(grid, 0.0), swirled(grid, dt)
    boundary = np.unique(grid.boundary)
    held = no_boundary(grid)
    held[boundary] = True
    velocity = np.broadcast_to(c, old.shape)
    end = new @ slope - dt * (c @ slope)
    found = step(grid, old, new, old @ slope, velocity, dt, diffusion, held, end)
    assert np.abs(new - old).max() > 0.02
    np.testing.assert_allclose(found, end, rtol=0, atol=1e-12)


def test_constants_stay_whatever_moves():
    grid = structured(6)
    old, new = swirled(grid, 0.0), swirled(grid, 0.2)
    rng = np.random.default_rng(0)
    velocity, ones = rng.normal(size=old.shape), np.ones((len(old), 2))
    found = step(grid, old, new, ones, velocity, 0.2, 0.3, no_boundary(grid), ones)
    np.testing.assert_allclose(found, ones, rtol=0, atol=1e-12)


@pytest.mark.parametrize("moving", [False, True])
def test_second_order_in_space_and_time(moving):
    """A Gaussian that turns about the middle and spreads: exact on the plane."""
    diffusion, end = 2e-3, 0.4

    def exact(x, t):
        centre = 0.5 + 0.1 * np.array([np.cos(2 * t), np.sin(2 * t)])
        width = 0.01 + 4 * diffusion * t
        return 0.01 / width * np.exp(-((x - centre) ** 2).sum(1) / width)

    def velocity(x, u, t):
        return 2.0 * np.stack([0.5 - x[:, 1], x[:, 0] - 0.5], 1)

    errors = []
    for n in (16, 32, 64):
        grid, steps = structured(n), n // 2
        clock = iter(np.linspace(0, end, steps + 1)[1:])
        places = [swirled(grid, 0.0)] * 3 + [swirled(grid, t) for t in clock]
        left = iter(places)
        move = (lambda x, u, left=left: next(left)) if moving else None
        frames = march(
            grid, lambda x: exact(x, 0.0), velocity, end / steps, steps, diffusion, None, move
        )
        last = list(frames)[-1]
        share = grid.lumped
        errors.append(np.sqrt((share * (last.values - exact(last.points, end)) ** 2).sum()))
    assert errors[1] / errors[2] > 3.3, errors
    assert errors[2] < 6e-4


def test_cells_turned_half_way_are_refused():
    grid = structured(4)
    there = grid.points.copy()
    inside = np.setdiff1d(np.arange(len(there)), grid.boundary)
    there[inside] = 1.0 - there[inside]
    ones = np.ones(len(there))
    with pytest.raises(InputError, match="half way"):
        step(grid, grid.points, there, ones, 0 * there, 0.1, 0.0, no_boundary(grid), ones)


def test_still_mesh_and_none_agree():
    grid = structured(5)

    def velocity(x, u, t):
        return np.stack([u, 0 * u], 1)

    def start(x):
        return np.sin(np.pi * x).prod(1)

    a = list(march(grid, start, velocity, 0.05, 3, 0.01))
    b = list(march(grid, start, velocity, 0.05, 3, 0.01, move=lambda x, u: x))
    assert (a[-1].values == b[-1].values).all() and a[-1].time == pytest.approx(0.15)


def test_held_values_belong_to_places_not_to_points_that_slide():
    """Nothing flows: a linear field stays itself while the boundary's points slide along it."""
    grid = structured(10)
    slid = grid.points + 0.05 * np.sin(np.pi * grid.points)
    frames = march(
        grid,
        lambda x: x @ np.array([1.0, 2.0]),
        lambda x, u, t: 0 * x,
        0.1,
        1,
        move=iter_places([grid.points] * 3 + [slid]),
    )
    last = list(frames)[-1]
    assert np.abs(last.points - grid.points)[np.unique(grid.boundary)].max() > 0.02
    np.testing.assert_allclose(last.values, last.points @ [1.0, 2.0], rtol=0, atol=1e-12)


def test_a_front_that_cells_do_not_resolve_oscillates_little():
    """A jump carried across the square leaves its range by less than a quarter above, where it
    would by 0.4 without upwinding, and by a tenth below, where it would with three times as much
    by 0.15."""
    grid = structured(20)
    frames = march(
        grid,
        lambda x: np.where(x[:, 0] < 0.25, 1, 0),
        lambda x, u, t: np.tile([1.0, 0.0], (len(x), 1)),
        0.025,
        20,
        held=grid.points[:, 0] == 0,
    )
    values = list(frames)[-1].values
    assert values.dtype == np.float64
    assert values.max() < 1.25 and values.min() > -0.1


@pytest.mark.parametrize("bad", [{"dt": 0.0}, {"dt": -0.1}, {"diffusion": -1.0}])
def test_numbers_that_make_no_sense_are_refused(bad):
    with pytest.raises(InputError, match="`dt` above 0"):
        list(
            march(structured(3), lambda x: x[:, 0], lambda x, u, t: x, steps=1, **{"dt": 0.1} | bad)
        )
    with pytest.raises(InputError, match="`velocity`"):
        list(march(structured(3), lambda x: x[:, 0], lambda x, u, t: np.nan * x, 0.1, 1))


def test_where_points_cannot_go_straight_values_are_interpolated():
    """Turned by half a turn, the mesh is itself again, and so is a linear field."""
    grid = structured(4)
    frames = march(
        grid,
        lambda x: x @ np.array([1.0, 2.0]),
        lambda x, u, t: 0 * x,
        0.1,
        1,
        held=no_boundary(grid),
        move=iter_places([grid.points] * 3 + [1.0 - grid.points]),
    )
    last = list(frames)[-1]
    np.testing.assert_allclose(last.values, last.points @ [1.0, 2.0], rtol=0, atol=1e-12)


def iter_places(places):
    left = iter(places)
    return lambda x, u: next(left)
