"""The learned mover: safe untrained, indifferent to scale and numbering, and trainable."""

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.movers import Simplices, ball
from meshsim.movers.fields import Gaussians
from meshsim.movers.learned import Density, LearnedMover, load_density, save_density
from meshsim.movers.meshes import corners
from meshsim.movers.training import Sum, draw, train
from meshsim.movers.transport import Transport
from meshsim.solvers.elliptic import conical
from tests.helpers import MESHES
from tests.movers.grids import cube, ring, square, turned


def wild() -> Density:
    """Weights that nobody trained, large."""
    torch.manual_seed(0)
    density = Density()
    for p in density.parameters():
        torch.nn.init.normal_(p, std=3.0)
    return density


def mild() -> Density:
    """Weights that nobody trained, small: cells are stretched, and no safeguard is needed."""
    torch.manual_seed(1)
    density = Density(power=0.5)
    torch.nn.init.normal_(density.layers[-1].weight, std=0.3)
    return density


@pytest.mark.parametrize("name", ["square", "cube", "ring", "channel", "mixed_solid"])
def test_no_weights_tangle_a_mesh(name):
    grids = {"square": square(10), "cube": cube(4), "ring": ring(4)}
    if name in grids:
        grid, ids = grids[name], None
    else:
        of = corners(MESHES[name])
        grid, ids = of.grid, of.corners
    mover = LearnedMover(wild())
    for seed in range(5):
        values = 100.0 ** np.random.default_rng(seed).random(len(grid.points))
        moved = mover.move(grid, values, ids)
        assert mover.prepare(grid, ids).guard.tangled(moved.points) == 0


def test_a_constant_monitor_moves_nothing_whatever_the_weights():
    grid = square(6)
    moved = LearnedMover(wild()).move(grid, np.full(49, 2.0))
    assert np.abs(moved.points - grid.points).max() < 1e-13


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e7])
def test_little_contrast_moves_little(size):
    """Whatever the domain's size: the way falls with the monitor's range, to rounding."""
    unit = square(10)
    grid, mover = Simplices(size * unit.points, unit.cells), LearnedMover(mild())
    shape = ball((0.5, 0.5), 0.3, 1.0, 30.0)(unit.points) - 1
    ways = [
        np.abs(mover.move(grid, 1 + a * shape).points - grid.points).max() / size
        for a in (1.0, 1e-2, 1e-4, 1e-6)
    ]
    assert ways[0] > 5e-3
    assert ways[1] < 0.3 * ways[0] and ways[2] < 0.02 * ways[1] and ways[3] < 0.02 * ways[2]


def test_the_size_of_the_domain_does_not_matter():
    unit, values = square(8), ball((0.5, 0.5), 0.3, 5.0, 30.0)(square(8).points)
    mover = LearnedMover(mild())
    plain = mover.move(unit, values).points
    for size in (1e-6, 1e8):
        grid = Simplices(size * unit.points, unit.cells)
        assert np.abs(mover.move(grid, values).points / size - plain).max() < 1e-9


def test_the_scale_of_the_monitor_does_not_matter():
    grid, mover = square(8), LearnedMover(mild())
    monitor = ball((0.5, 0.5), 0.3, 5.0, 30.0)(grid.points)
    gap = mover.move(grid, monitor).points - mover.move(grid, 1e6 * monitor).points
    assert np.abs(gap).max() < 1e-7


def test_the_numbers_of_points_do_not_matter():
    grid, rng = square(8), np.random.default_rng(0)
    order = rng.permutation(len(grid.points))
    again = Simplices(grid.points[order], np.argsort(order)[grid.cells])
    monitor, mover = ball((0.5, 0.5), 0.3, 5.0, 30.0), LearnedMover(mild())
    gap = mover.move(grid, monitor).points[order] - mover.move(again, monitor).points
    assert np.abs(gap).max() < 1e-9


@pytest.mark.parametrize("grid", [square(8), cube(4)], ids=["square", "cube"])
def test_a_mesh_that_is_turned_is_moved_alike(grid):
    monitor = ball((0.4,) * grid.dim, 0.3, 5.0, 30.0)
    mover, again = LearnedMover(mild()), turned(grid, 30.0)
    found = mover.move(grid, monitor)
    other = mover.move(again, monitor(grid.points))
    assert found.share == other.share == 1.0
    there = turned(Simplices(found.points, grid.cells), 30.0)
    assert np.abs(there.points - other.points).max() < 1e-9
    stretched = LearnedMover(Density(power=0.5)).move(grid, monitor)
    assert np.abs(stretched.points - found.points).max() > 1e-3


def test_weights_come_back_from_their_file(tmp_path):
    density, values = wild(), torch.rand(9).double() + 0.1
    transport = Transport(square(2))
    save_density(density, tmp_path / "d.safetensors")
    back = load_density(tmp_path / "d.safetensors")
    for was, now in zip(density(values, transport), back(values, transport), strict=True):
        assert torch.equal(was, now)
    with pytest.raises(InputError, match="no such file"):
        load_density(tmp_path / "none.safetensors")


def test_fields_in_torch_are_those_in_numpy():
    field, x = Gaussians.draw(np.random.default_rng(5)), np.random.rand(4, 2)
    there = Sum.of(field)
    assert np.allclose(there(torch.from_numpy(x)), field(x))
    assert np.allclose(there.laplacian(torch.from_numpy(x)), field.laplacian(x))


def test_gradients_of_the_solution_error_with_respect_to_the_monitor():
    rng = np.random.default_rng(5)
    problem = draw(rng, [Transport(square(4), steps=2, bulk=2.5)], lambda dim: conical(dim, 2))
    density = mild().double()

    def loss(monitor):
        return problem.error(problem.transport.drift(*density(monitor, problem.transport)))

    # noise, for where the least of values is taken twice it has no gradient
    m = (problem.monitor + torch.from_numpy(rng.random(25))).requires_grad_()
    (grad,) = torch.autograd.grad(loss(m), m)
    way = torch.from_numpy(rng.standard_normal(25))
    h = 1e-6
    with torch.no_grad():
        slope = (loss(m + h * way) - loss(m - h * way)) / (2 * h)
    assert float((grad * way).sum()) == pytest.approx(float(slope), rel=1e-4)


def test_training_lessens_the_error_and_repeats():
    """From full equal distribution, forty fields teach it to go less far."""
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        density = Density(8, power=2.0)
        losses: list[float] = []

        def say(_: int, loss: float, losses: list[float] = losses) -> None:
            losses.append(loss)

        train(
            density,
            [square(8)],
            lambda dim: conical(dim, 2),
            steps=20,
            batch=4,
            rate=2e-2,
            say=say,
        )
        found.append(float(density.power.detach()))
    assert found[0] == found[1]
    assert found[0] < 1.9
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
