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
from tests.movers.grids import cube, ring, square


def wild() -> Density:
    """Weights that nobody trained, large."""
    torch.manual_seed(0)
    density = Density()
    for p in density.parameters():
        torch.nn.init.normal_(p, std=3.0)
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
        assert mover.prepare(grid, ids).tangled(torch.from_numpy(moved.points)) == 0


def test_a_constant_monitor_moves_nothing_whatever_the_weights():
    grid = square(6)
    moved = LearnedMover(wild()).move(grid, np.full(49, 2.0))
    assert np.abs(moved.points - grid.points).max() < 1e-13


def test_the_scale_of_the_monitor_does_not_matter():
    grid, mover = square(8), LearnedMover(wild())
    monitor = ball((0.5, 0.5), 0.3, 5.0, 30.0)(grid.points)
    gap = mover.move(grid, monitor).points - mover.move(grid, 1e6 * monitor).points
    assert np.abs(gap).max() < 1e-7


def test_the_numbers_of_points_do_not_matter():
    grid, rng = square(8), np.random.default_rng(0)
    order = rng.permutation(len(grid.points))
    again = Simplices(grid.points[order], np.argsort(order)[grid.cells])
    monitor, mover = ball((0.5, 0.5), 0.3, 5.0, 30.0), LearnedMover(Density(power=0.6))
    gap = mover.move(grid, monitor).points[order] - mover.move(again, monitor).points
    assert np.abs(gap).max() < 1e-9


def test_weights_come_back_from_their_file(tmp_path):
    density, values = wild(), torch.rand(9).double() + 0.1
    save_density(density, tmp_path / "d.safetensors")
    back = load_density(tmp_path / "d.safetensors")
    shares = torch.ones(9).double()
    assert torch.equal(back(values, shares), density(values, shares))
    with pytest.raises(InputError, match="no such file"):
        load_density(tmp_path / "none.safetensors")


def test_fields_in_torch_are_those_in_numpy():
    field, x = Gaussians.draw(np.random.default_rng(5)), np.random.rand(4, 2)
    there = Sum.of(field)
    assert np.allclose(there(torch.from_numpy(x)), field(x))
    assert np.allclose(there.laplacian(torch.from_numpy(x)), field.laplacian(x))


def test_gradients_of_the_solution_error_with_respect_to_the_monitor():
    rng, rule = np.random.default_rng(2), conical(2, 2)
    problem = draw(rng, [Transport(square(4), steps=2)], rule)
    density = Density().double()

    def loss(monitor):
        rho = density(monitor, problem.transport.shares)
        return problem.error(problem.transport.carry(rho, guard=False).points)

    m = problem.monitor.clone().requires_grad_()
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
        density = Density(8, power=1.3)
        losses: list[float] = []

        def say(_: int, loss: float, losses: list[float] = losses) -> None:
            losses.append(loss)

        train(
            density,
            [square(8)],
            conical(2, 2),
            steps=20,
            batch=4,
            rate=2e-2,
            say=say,
        )
        found.append(float(density.power.detach()))
    assert found[0] == found[1]
    assert found[0] < 1.2
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
