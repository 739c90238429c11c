"""The published movers in use: what they are trained with, and that training helps."""

from functools import partial

import numpy as np
import pytest
import torch

from meshsim.check import InputError, WorkError
from meshsim.movers.dmm import DataFreeMover
from meshsim.movers.fields import Gaussians
from meshsim.movers.peers import (
    Batch,
    Box,
    DataFree,
    UM2NMover,
    labels,
    monitor_of,
    rastered,
    train_data_free,
    train_um2n,
    train_uniform,
)
from meshsim.movers.um2n import UM2N
from meshsim.solvers.domains import L_SHAPE, polygon
from tests.movers.grids import cube, square

SMALL = {"width": 16, "heads": 2, "widths": (16,), "decoder_heads": 2}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_labels_are_where_the_classical_solver_converged():
    cases = labels([square(6), square(8)], 4, seed=3)
    assert [len(grid.points) for grid, *_ in cases] == [49, 81, 49, 81]
    for grid, monitor, points in cases:
        assert monitor.shape == (len(points),) and monitor.min() >= 1 and monitor.max() <= 6
        assert (grid.signed(points) > 0).all() and np.abs(points - grid.points).max() > 1e-3


@pytest.mark.parametrize("dim", [2, 3])
def test_hessians_of_several_fields_are_those_of_each(dim):
    drawn = Batch.draw(np.random.default_rng(5), 7, dim)
    x = torch.rand(7, 20, dim)
    found = drawn.squares(x)
    rng = np.random.default_rng(5)
    for b in range(7):
        exact = (Gaussians.draw(rng, dim).hessian(x[b].double().numpy()) ** 2).sum((1, 2))
        np.testing.assert_allclose(found[b].numpy(), exact, rtol=1e-4, atol=1e-4 * exact.max())


def test_a_raster_is_the_monitor_between_points():
    grid = square(7)
    unit = Box(grid.points).within(grid.points)
    found = rastered(grid, 1 + 2 * unit[:, 0] + unit[:, 1], unit)
    at = torch.linspace(0, 1, 32, dtype=torch.float64)
    torch.testing.assert_close(found, 1 + 2 * at[:, None] + at[None, :])


@pytest.mark.parametrize("grid", [square(5), cube(2)], ids=["square", "cube"])
def test_a_box_is_left_and_come_back_to(grid):
    far = grid.points * 3.0 - 7.0
    box = Box(far)
    assert box.within(far).min() == 0 and box.within(far).max() == 1
    np.testing.assert_allclose(box.back(box.within(far)), far, atol=1e-14)


TRAINERS = {
    "um2n": (lambda: UM2N(2, **SMALL), partial(train_um2n, grids=[square(4)], labelled=3)),
    "m-uniform": (lambda: UM2N(2, **SMALL), partial(train_uniform, grids=[square(4)])),
    "data-free": (lambda: DataFreeMover(2, width=32), train_data_free),
}


@pytest.mark.parametrize("name", TRAINERS)
def test_training_lowers_the_loss_on_the_same_fields(name):
    make, train = TRAINERS[name]
    net = make()

    def mean_loss():
        losses = []
        fields = {"steps": 12, "seed": 9, "rate": 0.0}
        train(net=net, say=lambda step, loss: losses.append(loss), **fields)
        return np.mean(losses)

    before = mean_loss()
    train(net=net, steps=60, rate=5e-3, seed=9)
    assert mean_loss() < 0.85 * before


def test_training_wants_a_length_and_labels_that_can_be_had():
    with pytest.raises(InputError, match="minutes or steps above 0, got 0 and 0"):
        train_data_free(DataFreeMover(2, width=32))
    with pytest.raises(WorkError, match="of 10 meshes only"):
        labels([polygon(L_SHAPE, 0.1)], 1, seed=0, most=1)


def test_a_mesh_that_tangles_is_kept_and_told():
    class Turned(UM2N):
        def forward(self, points, monitor, near):
            return points.flip(1)

    grid = square(4)
    found = UM2NMover(Turned(2, **SMALL)).move(grid, lambda x: 1 + x[:, 0])
    assert not found.converged and np.array_equal(found.points, grid.points)
    assert (grid.signed(found.tangled) < 0).all()


def test_movers_give_a_sound_mesh_or_say_that_it_is_not():
    grid = square(6)
    monitor = monitor_of(Gaussians.draw(np.random.default_rng(0)), grid)
    for mover in (UM2NMover(UM2N(2, **SMALL)), DataFree(DataFreeMover(2, width=16))):
        found = mover.move(grid, monitor)
        assert (grid.signed(found.points) > 0).all()
        assert found.converged == (found.tangled is None)
        low, high = grid.points.min(0), grid.points.max(0)
        end = found.points if found.tangled is None else found.tangled
        for d in range(2):
            for side in (low[d], high[d]):  # sides stay where they are
                on = grid.points[:, d] == side
                np.testing.assert_allclose(end[on, d], side, atol=1e-6)


def test_a_data_free_mover_refuses_what_is_no_box():
    mover = DataFree(DataFreeMover(2, width=16))
    with pytest.raises(InputError, match="whole square"):
        mover.move(polygon(L_SHAPE, 0.2), lambda x: 1 + x[:, 0])
    for flat in (mover, UM2NMover(UM2N(2, **SMALL))):
        with pytest.raises(InputError, match="a mesh in 2-D, got one in 3-D"):
            flat.move(cube(2), lambda x: 1 + x[:, 0])
