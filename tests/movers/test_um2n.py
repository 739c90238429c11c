"""UM2N: its laws, and that its losses are what they say."""

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull

from meshsim.movers import Simplices, ball
from meshsim.movers.boundary import Sides
from meshsim.movers.um2n import (
    UM2N,
    DeformAttention,
    Neighbours,
    area_loss,
    chamfer_loss,
    coordinate_loss,
    measures,
    uniformity_loss,
)
from tests.movers.grids import cube, ring, square, turned

SMALL = {"width": 16, "heads": 2, "widths": (24, 12, 6), "decoder_heads": 2}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("grid", [square(5), cube(2), ring(4)], ids=["square", "cube", "ring"])
def test_directions_of_points_are_projections(grid):
    free = Sides(grid).free()
    assert np.abs(free @ free - free).max() < 1e-14
    inside = np.ones(len(grid.points), bool)
    inside[grid.boundary.reshape(-1)] = False
    assert (np.trace(free[inside], axis1=1, axis2=2) == grid.dim).all()
    assert np.trace(free[~inside], axis1=1, axis2=2).max() == pytest.approx(grid.dim - 1)


@pytest.mark.parametrize("grid", [square(6), turned(square(6), 25.0), cube(2)])
def test_boundary_points_stay_on_their_side(grid):
    near, x = Neighbours.of(grid), torch.from_numpy(grid.points)
    net = UM2N(grid.dim, **SMALL).double()
    moved = net(x, torch.rand(len(x)).double() + 0.1, near)
    assert (moved - x).norm(dim=1).max() > 1e-2
    normals = torch.eye(grid.dim).double() - near.free
    assert (normals @ (moved - x)[:, :, None]).abs().max() < 1e-14


def test_a_layer_puts_points_into_the_hull_of_their_neighbours():
    grid = square(4)
    near, x = Neighbours.of(grid), torch.from_numpy(grid.points)
    _, goal = DeformAttention(8, 4, 3).double()(torch.randn(25, 8).double(), x, near)
    for i in (~near.boundary).nonzero().squeeze(1).tolist():
        around = x[near.sender[near.receiver == i]].numpy()
        hull = ConvexHull(around)
        assert (
            hull.equations[:, :2] @ goal[i].detach().numpy() + hull.equations[:, 2] < 1e-12
        ).all()


def test_the_numbers_of_points_do_not_matter():
    grid, rng = square(6), np.random.default_rng(0)
    order = rng.permutation(len(grid.points))
    again = Simplices(grid.points[order], np.argsort(order)[grid.cells])
    monitor = ball((0.5, 0.5), 0.3, 5.0, 30.0)
    net = UM2N(2, **SMALL).double()
    found = [
        net(torch.from_numpy(g.points), torch.from_numpy(monitor(g.points)), Neighbours.of(g))
        for g in (grid, again)
    ]
    assert (found[0][torch.from_numpy(order)] - found[1]).abs().max() < 1e-12


def test_losses_are_nothing_at_the_target_and_gradients_fit():
    grid = square(3)
    x, cells = torch.from_numpy(grid.points), torch.from_numpy(grid.cells)
    moved = (x + 0.03 * torch.randn_like(x)).requires_grad_()
    for loss in (lambda a, b: area_loss(a, b, cells), coordinate_loss, chamfer_loss):
        assert float(loss(x, x)) == pytest.approx(0, abs=1e-15)
        assert float(loss(moved, x).detach()) > 0
        assert torch.autograd.gradcheck(lambda a, loss=loss: loss(a, x), moved)


def test_signed_areas_punish_what_is_turned_over():
    grid = square(3)
    x, cells = torch.from_numpy(grid.points), torch.from_numpy(grid.cells)
    assert float(area_loss(x * torch.tensor([-1.0, 1.0]), x, cells)) == pytest.approx(2.0)
    assert float(measures(x, cells).sum()) == pytest.approx(2.0)


def test_uniformity_is_nothing_where_masses_are_equal_and_has_gradients():
    grid = square(4)
    x, cells = torch.from_numpy(grid.points), torch.from_numpy(grid.cells)
    assert float(uniformity_loss(x, x, torch.full((25,), 2.0).double(), cells)) < 1e-20
    monitor = torch.from_numpy(1 + grid.points[:, 0])
    inside = (~Neighbours.of(grid).boundary)[:, None]
    moved = (x + 0.02 * torch.rand_like(x)).requires_grad_()

    def loss(a):
        return uniformity_loss(torch.where(inside, a, x), x, monitor, cells)

    assert torch.autograd.gradcheck(loss, moved, atol=1e-4)
