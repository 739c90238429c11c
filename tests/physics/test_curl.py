"""Curls: no divergence whatever the potential, analytic flows, and no slip to the bit."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
import trimesh

from meshsim.check import InputError
from meshsim.physics.curl import curl, divergence, no_slip
from meshsim.physics.walls import squared_distance

DTYPES = [torch.float32, torch.float64]
ACTIVATIONS = {"tanh": torch.nn.Tanh, "gelu": torch.nn.GELU, "silu": torch.nn.SiLU}


class Sine(torch.nn.Module):
    def forward(self, x):
        return torch.sin(3 * x)


ACTIVATIONS["sine"] = Sine


def network(dim, dtype, activation=torch.nn.Tanh, seed=0):
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(dim, 32), activation(), torch.nn.Linear(32, 32), activation()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(32, 1 if dim == 2 else 3)).to(dtype)


def jacobian(field, points):
    return torch.func.vmap(torch.func.jacrev(lambda x: field(x[None])[0]))(points)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dim", [2, 3])
def test_a_network_without_divergence(dim, activation, dtype):
    net = network(dim, dtype, ACTIVATIONS[activation])
    x = torch.rand(200, dim, dtype=dtype) * 2 - 1

    def velocity(at):
        return curl(net, at, create_graph=True)

    div = divergence(velocity, x)
    size = torch.stack(
        [torch.autograd.functional.jacobian(velocity, p[None])[0, :, 0].norm() for p in x[:20]]
    )
    assert size.min() > 1e-4
    assert (div[:20].abs() / size).max() < (1e-4 if dtype == torch.float32 else 1e-10)
    assert div.abs().max() < (1e-4 if dtype == torch.float32 else 1e-10) * size.median()


def test_analytic_flows():
    """ABC flows are their own curl; ψ = sin x sin y is Taylor and Green's vortex."""
    torch.manual_seed(0)
    x = torch.rand(50, 3).double() * 6

    def abc(at):
        a, b, c = at.unbind(1)
        flow = (
            1.0 * c.sin() + 0.5 * b.cos(),
            0.7 * a.sin() + 1.0 * c.cos(),
            0.5 * b.sin() + 0.7 * a.cos(),
        )
        return torch.stack(flow, 1)

    assert (curl(abc, x) - abc(x)).abs().max() < 1e-14
    plane = x[:, :2]
    got = curl(lambda at: at[:, :1].sin() * at[:, 1:].sin(), plane)
    a, b = plane.unbind(1)
    want = torch.stack([a.sin() * b.cos(), -a.cos() * b.sin()], 1)
    assert (got - want).abs().max() < 1e-15
    assert divergence(abc, x).abs().max() < 1e-15
    assert torch.allclose(divergence(lambda at: at**2, x), 2 * x.sum(1))


@pytest.mark.parametrize("dim", [2, 3])
def test_as_much_flows_into_a_box_as_out_of_it(dim):
    net = network(dim, torch.float64)
    t, w = np.polynomial.legendre.leggauss(24)
    t, w = torch.tensor(t), torch.tensor(w)
    axes = torch.meshgrid(*[t] * (dim - 1), indexing="ij")
    weights = torch.stack(torch.meshgrid(*[w] * (dim - 1), indexing="ij")).prod(0).reshape(-1)
    total, through = 0.0, 0.0
    for axis in range(dim):
        for side in (-1.0, 1.0):
            columns = [a.reshape(-1) for a in axes]
            columns.insert(axis, torch.full_like(columns[0], side))
            flux = side * (curl(net, torch.stack(columns, 1))[:, axis] * weights)
            total, through = total + float(flux.sum()), through + float(flux.abs().sum())
    assert abs(total) < 1e-12 * through


def test_gradients_for_training():
    torch.manual_seed(1)
    x = torch.rand(4, 3).double().requires_grad_()
    weight = torch.randn(3, 3).double().requires_grad_()

    def loss(x, weight):
        return curl(lambda at: torch.tanh(at @ weight) * at.roll(1, 1), x, True).square().sum()

    assert torch.autograd.gradcheck(loss, (x, weight))
    assert torch.autograd.gradgradcheck(loss, (x, weight))
    flat = x[:, :2].detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda at, w: curl(lambda q: torch.sin(q @ w[:2, :1]) ** 2, at, True), (flat, weight)
    )


@pytest.mark.parametrize("dim", [2, 3])
def test_a_network_learns_through_its_curl(dim):
    net = network(dim, torch.float32)
    x = torch.rand(64, dim) * 2 - 1
    want = curl(network(dim, torch.float32, seed=1), x)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = (curl(net, x, create_graph=True) - want).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_prediction_keeps_no_graph_and_needs_none():
    net = network(3, torch.float32)
    x = torch.rand(5, 3)
    with torch.no_grad():
        got = curl(net, x)
    assert not got.requires_grad and torch.equal(got, curl(net, x))
    asks = x.clone().requires_grad_()
    assert not curl(net, asks).requires_grad and asks.grad is None
    assert curl(net, asks, create_graph=True).requires_grad
    assert not curl(lambda at: torch.ones(5, 3), x).any()
    assert not curl(lambda at: net[4].bias.expand(5, 3), x, create_graph=True).any()
    assert curl(net, x[:0]).shape == (0, 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_slip_on_smooth_walls_is_exact(dtype):
    """A plane, and a disc by 1 − |x|²: the velocity is zero, its derivatives are not."""
    x = torch.rand(50, 3, dtype=dtype)
    x[:, 2] = 0
    flow = no_slip(network(3, dtype), lambda at: at[:, 2])
    u = curl(flow, x)
    assert not u.any()
    shear = torch.autograd.functional.jacobian(lambda at: curl(flow, at, True), x[:1])[0, :, 0]
    assert shear[:2, 2].abs().min() > 1e-3  # ∂u/∂z and ∂v/∂z
    disc = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.6, 0.8], [0.5, 0.0]], dtype=dtype)
    d = 1 - disc.square().sum(1)
    flow = no_slip(network(2, dtype), lambda at: 1 - at.square().sum(1))
    u = curl(flow, disc)
    assert not u[d == 0].any() and u[3].abs().max() > 0
    div = divergence(lambda at: curl(flow, at, True), torch.rand(50, 2, dtype=dtype))
    assert div.abs().max() < 1e-4


def on_walls(walls, n):
    """Points at corners, on edges and inside walls."""
    k = walls.shape[1]
    corners = walls.reshape(-1, k)
    edges = [
        walls[:, i] + torch.rand(len(walls), 1).to(walls) * (walls[:, j] - walls[:, i])
        for i, j in combinations(range(k), 2)
    ]
    shares = torch.rand(n, len(walls), k).to(walls)
    shares = shares / shares.sum(2, keepdim=True)
    return torch.cat([corners, *edges, torch.einsum("nsk,skd->nsd", shares, walls).reshape(-1, k)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [2, 3])
def test_no_slip_on_walls_of_facets_is_exact(dim, dtype):
    """Turned anywhere: where rounding keeps points off the planes as well."""
    torch.manual_seed(2)
    if dim == 2:
        angle = torch.arange(11) * 2 * math.pi / 11
        ring = torch.stack([1.5 * angle.cos() + 4, angle.sin()], 1).to(dtype)
        walls = torch.stack([ring, ring.roll(-1, 0)], 1)
    else:
        body = trimesh.creation.icosphere(subdivisions=1)
        walls = torch.tensor(body.triangles).to(dtype) + 3
    x = on_walls(walls, 4)
    flow = no_slip(network(dim, dtype), lambda at: squared_distance(at, walls), squared=True)
    assert not squared_distance(x, walls).any()
    assert not curl(flow, x).any()
    off = x + 0.1
    assert (curl(flow, off).norm(dim=1) > 0).all()
    near = squared_distance(off, walls) > 1e-6
    div = divergence(lambda at: curl(flow, at, True), off[near])
    assert div.abs().max() < (1e-3 if dtype == torch.float32 else 1e-10)


def test_bad_input_is_named():
    x = torch.rand(4, 3)
    with pytest.raises(
        InputError, match=r"`potential\(points\)`: expected shape \(4, 3\), got \(4, 1\)"
    ):
        curl(lambda at: at[:, :1], x)
    with pytest.raises(
        InputError, match=r"`points`: expected shape \(N, 2\) or \(N, 3\), got \(4, 1\)"
    ):
        curl(lambda at: at, x[:, :1])
    with pytest.raises(
        InputError, match=r"`field\(points\)`: expected shape \(4, 3\), got \(4, 2\)"
    ):
        divergence(lambda at: at[:, :2], x)
    with pytest.raises(
        InputError, match=r"`distance\(points\)`: expected shape \(4\), got \(4, 1\)"
    ):
        curl(no_slip(lambda at: at, lambda at: at[:, :1]), x)
