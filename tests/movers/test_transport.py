"""The deformation method: what it carries, and that it never turns a cell inside out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsim.check import InputError
from meshsim.movers import MongeAmpere, Simplices, ball, shock
from meshsim.movers.boundary import closest
from meshsim.movers.guard import widths
from meshsim.movers.meshes import corners
from meshsim.movers.monitor import spread
from meshsim.movers.simplices import measures
from meshsim.movers.transport import Transport, as_density
from meshsim.movers.walk import Walk
from meshsim.ops import locate
from tests.helpers import MESHES
from tests.movers.grids import cube, ring, square

GRIDS = {"square": square(8), "cube": cube(4), "ring": ring(4)}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_constant_density_moves_nothing(grid):
    found = Transport(grid).carry(torch.full((len(grid.points),), 3.0).double())
    assert np.abs(found.points.numpy() - grid.points).max() < 1e-13


def test_it_distributes_equally_as_steps_and_mesh_are_refined():
    monitor = shock((1.0, 0.6), 0.8, 3.0, 4.0)
    found = []
    for n in (8, 16, 32):
        grid = square(n)
        points = Transport(grid).carry(as_density(monitor, grid)).points.numpy()
        found.append(spread(grid, monitor, points) / spread(grid, monitor, grid.points))
    assert found[0] > 2 * found[1] and found[2] < 0.1


def test_one_dimension_is_the_inverse_of_the_cumulative_density():
    """m(x) alone on a square: where the cumulative integral of m reaches ξ, to O(h²)."""
    errors = []
    for n in (8, 16, 32):
        grid = square(n)
        density = torch.from_numpy(1 + 2 * grid.points[:, 0])
        points = Transport(grid, steps=8).carry(density).points.numpy()
        exact = (np.sqrt(1 + 8 * grid.points[:, 0]) - 1) / 2  # (x + x²)/2 = ξ
        errors.append(np.sqrt(((points[:, 0] - exact) ** 2).mean()))
        assert np.abs(points[:, 1] - grid.points[:, 1]).max() < 0.02
    assert errors[0] > 3 * errors[1] > 8 * errors[2]


def test_where_the_classical_mover_tangles():
    grid, monitor = ring(6), shock((1.0, 0.0), 1.2, 4.0, 3.0)
    classical = MongeAmpere(grid, "quasi-newton", rtol=1e-5).move(monitor)
    assert not classical.converged and "tangled" in classical.why
    assert (grid.signed(classical.points) > 0).all()
    assert (grid.signed(classical.tangled) <= 0).any()
    found = Transport(grid).carry(as_density(monitor, grid))
    points = found.points.numpy()
    assert (grid.signed(points) > 0).all() and found.share > 0.9
    assert spread(grid, monitor, points) < 0.5 * spread(grid, monitor, grid.points)
    edge = np.unique(grid.boundary)
    off = points[edge] - closest(points[edge], grid.points[grid.boundary])
    assert np.abs(off).max() < 1e-14


@pytest.mark.parametrize("grid", [square(8), cube(4)], ids=["square", "cube"])
def test_straight_sides_keep_their_points_and_the_measure(grid):
    monitor = ball((0.3,) * grid.dim, 0.3, 8.0, 20.0)
    points = Transport(grid).carry(as_density(monitor, grid)).points.numpy()
    for axis in range(grid.dim):
        for end in (0.0, 1.0):
            on = grid.points[:, axis] == end
            assert np.abs(points[on, axis] - end).max() < 1e-15
    assert grid.signed(points).sum() == pytest.approx(1.0, abs=1e-12)


def test_the_numbers_of_points_and_cells_do_not_matter():
    grid, rng = square(10), np.random.default_rng(0)
    monitor = ball((0.5, 0.5), 0.3, 5.0, 30.0)
    order, cells = rng.permutation(len(grid.points)), rng.permutation(len(grid.cells))
    place = np.argsort(order)
    again = Simplices(grid.points[order], place[grid.cells][cells])
    plain = Transport(grid).carry(as_density(monitor, grid)).points.numpy()
    found = Transport(again).carry(as_density(monitor, again)).points.numpy()
    assert np.abs(found - plain[order]).max() < 1e-9


@pytest.mark.parametrize("grid", [square(4), cube(2)], ids=["square", "cube"])
def test_gradients_with_respect_to_the_density(grid):
    transport = Transport(grid, steps=2)
    rng = np.random.default_rng(1)
    density = torch.from_numpy(1 + rng.random(len(grid.points))).requires_grad_()
    weights = torch.from_numpy(rng.standard_normal(grid.points.shape))

    def total(values):
        return (weights * transport.drift(values)).sum()

    (grad,) = torch.autograd.grad(total(density), density)
    way = torch.from_numpy(rng.standard_normal(len(grid.points)))
    h = 1e-6
    with torch.no_grad():
        slope = (total(density + h * way) - total(density - h * way)) / (2 * h)
    assert float((grad * way).sum()) == pytest.approx(float(slope), rel=1e-5, abs=1e-8)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3]), st.floats(-6, 3))
def test_points_that_go_less_than_half_a_width_leave_a_simplex_on_its_side(seed, dim, flat):
    """The claim that the safeguard rests on, at its edge: 0.4999 of the width each."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((dim + 1, dim))
    x[:, 0] *= 10.0**flat
    ids = np.arange(dim + 1)[None]
    if measures(x, ids)[0] < 0:
        ids = ids[:, [1, 0, *range(2, dim + 1)]]
    reach = 0.4999 * widths(x, ids)[0]
    for _ in range(50):
        way = rng.standard_normal(x.shape)
        assert measures(x + reach * way / np.linalg.norm(way, axis=1)[:, None], ids)[0] > 0


def test_a_little_over_half_a_width_is_enough_to_flatten():
    x = np.array([[0.0, 0.0], [4.0, 0.0], [2.0, 1.0]])
    ids = np.array([[0, 1, 2]])
    assert widths(x, ids)[0] == pytest.approx(1.0)
    to = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, -1.0]])
    assert measures(x + 0.4999 * to, ids)[0] > 0 > measures(x + 0.5001 * to, ids)[0]
    corner = np.array([[1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0.2], [0, -1.0, 0.2]])
    assert widths(corner, np.array([[0, 1, 2, 3]]))[0] == pytest.approx(0.2)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["square", "cube", "ring", "channel", "mixed_solid"]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([2.0, 100.0, 1e8]),
)
def test_no_goal_however_wild_turns_a_corner(name, seed, contrast):
    """Densities of noise, and goals thrown anywhere: every corner of every cell stays positive."""
    rng = np.random.default_rng(seed)
    if name in GRIDS:
        grid, ids = GRIDS[name], None
    else:
        of = corners(MESHES[name])
        grid, ids = of.grid, of.corners
    transport = Transport(grid, ids, steps=3)
    density = torch.from_numpy(contrast ** rng.random(len(grid.points)))
    found = transport.carry(density).points.numpy()
    assert (measures(found, transport.corners) > 0).all()
    wild = found + rng.standard_normal(found.shape) * rng.choice([0.01, 1, 100])
    assert (measures(transport.guard.safe(found, wild), transport.corners) > 0).all()


def test_the_last_resort_still_moves():
    """A goal that folds everything is not followed, but each point goes some of its way."""
    grid = square(8)
    transport = Transport(grid)
    inside = np.setdiff1d(np.arange(len(grid.points)), grid.boundary)
    goal = grid.points.copy()
    goal[inside] = 1.0 - goal[inside]
    found = transport.guard.safe(grid.points, goal)
    assert (measures(found, transport.corners) > 0).all()
    moved = np.linalg.norm(found - grid.points, axis=1)
    wanted = np.linalg.norm(goal - grid.points, axis=1) > 1e-9
    assert (moved[wanted] > 0).all()


def test_bad_input():
    grid = square(4)
    with pytest.raises(InputError, match="positive values"):
        as_density(np.zeros(25), grid)
    with pytest.raises(InputError, match="expected 25 values"):
        as_density(np.ones(24), grid)
    with pytest.raises(InputError, match="`corners`"):
        Transport(grid, grid.cells[:, [1, 0, 2]])
    with pytest.raises(InputError, match="whose corners are positive"):
        Transport(grid).guard.safe(-grid.points[:, [1, 0]], np.zeros((25, 2)))


@pytest.mark.parametrize("grid", [square(9), cube(3), ring(5)], ids=["square", "cube", "ring"])
def test_points_are_found_where_they_are(grid):
    walk, rng = Walk(grid), np.random.default_rng(0)
    rest, cells = torch.from_numpy(grid.points), torch.from_numpy(grid.cells)
    for size in (0.02, 0.2, 0.6):  # within a cell, across some, and beyond the mesh
        y = grid.points + size * rng.standard_normal(grid.points.shape)
        ids, share = walk.find(y)
        exact = locate(rest, cells, torch.from_numpy(y), 1e-9)[0].numpy()
        inside = exact >= 0
        assert inside.any() and (share >= -1e-9).all()
        back = (grid.points[grid.cells[ids]] * share.T[:, :, None]).sum(1)
        np.testing.assert_allclose(back[inside], y[inside], rtol=0, atol=1e-12)
        sure = inside & (share.min(0) >= 1e-8)  # on an edge another cell is as right
        assert (ids[sure] == exact[sure]).all()


def test_the_guarded_way_is_the_one_that_is_differentiated():
    for grid in (square(12), cube(4), ring(6)):
        flow = Transport(grid, bulk=4.0)
        density = torch.exp(-((flow.points - 0.4) ** 2).sum(1) / 0.1) + 0.5
        found = flow.carry(density)
        assert found.share == 1.0
        torch.testing.assert_close(flow.drift(density), found.points, rtol=0, atol=1e-13)


def test_what_was_carried_before_changes_no_bit():
    grid = square(12)
    flow, x = Transport(grid, bulk=8.0), torch.from_numpy(grid.points)
    left, right = (1 + 30 * torch.exp(-((x - c) ** 2).sum(1) / 0.01) for c in (0.2, 0.7))
    first = flow.carry(left).points
    flow.carry(right)
    assert torch.equal(flow.carry(left).points, first)
