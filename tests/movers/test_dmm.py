"""The data-free mover: its derivatives, and that its residual knows the exact map."""

import pytest
import torch

from meshsim.movers.dmm import DataFreeMover


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = DataFreeMover(2, 16).double()
    torch.nn.init.normal_(made.branch[-1].weight, std=0.5)
    return made


def test_an_untrained_mover_moves_nothing():
    made, x = DataFreeMover(2, 16), torch.rand(9, 2)
    assert torch.equal(made.places(made.encode(torch.rand(1, 1, 32, 32) + 0.1), x), x)


def test_places_are_the_gradient_of_the_potential(net):
    code, x, h = (
        net.encode(torch.rand(1, 1, 32, 32).double() + 0.1),
        torch.rand(7, 2).double(),
        1e-6,
    )
    slope = net.places(code, x) - x
    for d in range(2):
        step = torch.zeros(2).double()
        step[d] = h
        rate = (net.potential(code, x + step) - net.potential(code, x - step)) / (2 * h)
        assert (rate - slope[:, d]).abs().max() < 1e-8


def test_nothing_leaves_the_box_through_its_sides(net):
    code = net.encode(torch.rand(1, 1, 32, 32).double() + 0.1)
    for d in range(2):
        for side in (0.0, 1.0):
            x = torch.rand(9, 2).double()
            x[:, d] = side
            assert (net.places(code, x)[:, d] - side).abs().max() < 1e-12


def test_the_scale_of_the_monitor_does_not_matter(net):
    raster = torch.rand(1, 1, 32, 32).double() + 0.1
    assert (net.encode(raster) - net.encode(7 * raster)).abs().max() < 1e-12


class Exact(DataFreeMover):
    """φ = Σ a ξ²/2, so that x = (1 + a) ξ."""

    def potential(self, code, places):
        return 0.25 * (places**2).sum(1)


def test_residuals_of_a_known_map():
    """x = 1.5 ξ with m = 1: det is 9/4 everywhere."""
    made = Exact(2, 16).double()
    inside = torch.rand(20, 2).double()
    code = torch.zeros(1, 16).double()
    found = made.residuals(code, inside, lambda x: torch.ones(len(x)).double())
    assert float(found.equation.detach()) < 1e-24 and float(found.convexity.detach()) == 0
    bent = made.residuals(code, inside, lambda x: 1 + x[:, 0])
    m = 1 + 1.5 * inside[:, 0]
    exact = float(((m / m.mean() - 1) ** 2).mean())
    assert float(bent.equation.detach()) == pytest.approx(exact)
    two = made.residuals(code, inside, lambda x: 1 + x[:, 0], fields=2)
    halves = [((h / h.mean() - 1) ** 2).mean() for h in m.split(10)]
    assert float(two.equation.detach()) == pytest.approx(float(sum(halves) / 2))


def test_folding_is_punished():
    class Folded(Exact):
        def potential(self, code, places):
            return -(places**2).sum(1)

    made, x = Folded(2, 16).double(), torch.rand(5, 2).double()
    found = made.residuals(torch.zeros(1, 16).double(), x, lambda p: torch.ones(len(p)).double())
    assert float(found.convexity.detach()) == pytest.approx(2.0)
    assert float(found.total().detach()) == pytest.approx(2.0)


def test_it_learns_one_monitor():
    """Two hundred steps take nearly all of the residual away."""
    torch.manual_seed(0)
    made = DataFreeMover(2, 32)
    at = (torch.arange(32) + 0.5) / 32
    grid = torch.stack(torch.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2)

    def monitor(x):
        return 1 + 2 * torch.exp(-((x - 0.5) ** 2).sum(1) / 0.05)

    raster = monitor(grid).view(1, 1, 32, 32)
    optimiser = torch.optim.Adam(made.parameters(), lr=3e-3)
    losses = []
    for _ in range(200):
        found = made.residuals(made.encode(raster), torch.rand(256, 2), monitor)
        loss = found.total()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(found.equation.detach()))
    assert sum(losses[-10:]) < 0.2 * sum(losses[:10])
