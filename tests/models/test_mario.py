"""MARIO: what it learns a geometry from, latents by gradient steps, two stages."""

import pytest
import torch

from meshsim.check import InputError
from meshsim.models.field import Branch, Points
from meshsim.models.mario import MARIO, DistanceSamples
from meshsim.nn.siren import LatentScale, ShiftedNetwork, fitted
from tests.models.test_point_mlp import (
    EXACT,
    answer,
    apart,
    batch,
    bodies,
    check_rebuilt,
    check_refusals,
    check_shared_laws,
    close,
    felt,
    made,
    normal,
    trained,
)

SMALL = {"normals": 0, "latent": 4, "width": 16, "layers": 2, "frequencies": 8, "hyper": [16],
         "shape_width": 16, "shape_layers": 2, "points": 32}  # fmt: skip


# --- samples of the distance function ---


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("normals", [0, None])
def test_samples_do_not_depend_on_the_order_of_points(dim, normals):
    body = bodies(dim)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    mixed = Points(*(t[:, order] for t in body))
    for points in (16, 64):  # fewer than there are, and more
        samples = DistanceSamples(dim, dim + 1, normals, points, 0.25, 0).double()
        for a, b in zip(samples(body), samples(mixed), strict=True):
            assert torch.equal(a, b)


def test_samples_are_fixed_by_the_seed():
    a, b, c = (DistanceSamples(2, 3, 0, 16, 0.25, seed) for seed in (1, 1, 2))
    assert torch.equal(a.draws, b.draws) and not torch.equal(a.draws, c.draws)


@pytest.mark.parametrize("dim", [2, 3])
def test_values_are_the_truncated_distance_of_a_sphere(dim):
    unit = torch.nn.functional.normalize(normal((1, 2000, dim), 0), dim=2)
    shape = DistanceSamples(dim, dim, 0, 256, 0.25, 0).double()(Points(0.5 * unit, unit))
    assert shape.pos.shape == (1, 768, dim) and shape.features.shape == (1, 256, dim)
    assert not shape.value[:, :256].any()
    want = torch.tanh((shape.pos.norm(dim=2) - 0.5) / 0.25)
    torch.testing.assert_close(shape.value, want, rtol=0.0, atol=0.03)
    near = shape.value[:, 256:512].abs()
    assert near.max() <= 0.762 and (near < 0.2).float().mean() > 0.4  # tanh 1, most of them near
    bare = DistanceSamples(dim, dim, None, 256, 0.25, 0).double()(Points(0.5 * unit, unit))
    assert bare.value.min() == 0 and bare.normals.shape == (1, 2000, 0)


# --- shifted networks and inner steps ---


@pytest.mark.parametrize("activation", ["relu", "sine"])
@pytest.mark.parametrize("hyper", [(), (8, 8)])
def test_a_zero_latent_gives_the_base_network(activation, hyper):
    net = ShiftedNetwork(2, 3, 4, width=8, layers=3, activation=activation, omega=5.0, hyper=hyper)
    x = torch.randn(2, 7, 2)
    h = x
    for layer in net.layers:
        h = layer.linear(h)
        h = torch.sin(5 * h) if activation == "sine" else h.relu()
    torch.testing.assert_close(net(x, torch.zeros(2, 4)), net.out(h))
    assert (net(x, torch.ones(2, 4)) - net.out(h)).abs().max() > 1e-3


def test_shifts_are_added_in_front_of_the_activation():
    net = ShiftedNetwork(2, 1, 3, width=8, layers=2, activation="relu")
    x, z = torch.randn(2, 5, 2), torch.randn(2, 3)
    first, second = net.hyper[0](z)[:, None].chunk(2, 2)
    h = (net.layers[0].linear(x) + first).relu()
    h = (net.layers[1].linear(h) + second).relu()
    torch.testing.assert_close(net(x, z), net.out(h))


def test_latents_of_a_parabola_are_what_the_steps_say_and_gradients_flow_through_them():
    """Of (a (z − w))² after k steps from 0: z = w (1 − (1 − 2 r a²)^k)."""
    w = torch.tensor([0.7, -1.2], dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    a, k = 1.3, 3
    z = fitted(lambda z: (a * (z - w)).square().sum(1), torch.zeros(5, 2).double(), rate, k)
    shrunk = 1 - 2 * 0.1 * a**2
    torch.testing.assert_close(z, (w * (1 - shrunk**k)).expand(5, 2))
    slopes = torch.autograd.grad(z[0].sum(), [w, rate])
    torch.testing.assert_close(slopes[0], torch.full((2,), 1 - shrunk**k).double())
    want = w.detach().sum() * k * shrunk ** (k - 1) * 2 * a**2
    torch.testing.assert_close(slopes[1], want)
    with torch.no_grad():
        plain = fitted(lambda z: (a * (z - w)).square().sum(1), torch.zeros(5, 2).double(), rate, k)
    assert not plain.requires_grad
    torch.testing.assert_close(plain, z.detach())


def test_the_gradient_through_the_steps_is_that_of_finite_differences():
    model, given = made(MARIO, 2, **SMALL), batch(2)
    loss = model.training_loss(given, 0.0)
    weight = model.shape.hyper[0].weight
    slopes = torch.autograd.grad(loss, [weight, model.log_gain])
    for parameter, slope in zip([weight, model.log_gain], slopes, strict=True):
        direction = normal(parameter.shape, 4)
        ends = []
        for side in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.add_(side * direction)
            ends.append(float(model.training_loss(given, 0.0).detach()))
            with torch.no_grad():
                parameter.sub_(side * direction)
        slope = float((slope * direction).sum())
        assert abs((ends[0] - ends[1]) / 2e-6 - slope) < 1e-5 * abs(slope) + 1e-9


def test_more_inner_steps_make_the_error_smaller():
    model = made(MARIO, 2, **SMALL | {"rate": 0.1})
    shape, errors = model.samples(bodies(2)), []
    for model.steps in (1, 3, 10, 30):
        errors.append(model.shape_error(shape, model.shape_code(shape)).detach())
    start = model.shape_error(shape, torch.zeros(2, 4).double()).detach()
    for a, b in zip([start, *errors], errors, strict=False):
        assert (b < a).all()


def test_statistics_are_those_of_all_latents_together():
    scale, rows = LatentScale(3).double(), 5 + 2 * normal((11, 3), 0)
    torch.testing.assert_close(scale.scaled(rows), rows)  # nothing is known yet
    for part in rows.split([1, 4, 6]):
        scale.gather(part)
    want = (rows - rows.mean(0)) / rows.std(0, correction=0)
    torch.testing.assert_close(scale.scaled(rows), want)
    torch.testing.assert_close(scale.restored(want), rows)
    scale.forget()
    torch.testing.assert_close(scale.scaled(rows), rows)


# --- the model ---


@pytest.mark.parametrize(("dim", "dtype", "tolerance"), EXACT)
@pytest.mark.parametrize("normals", [0, None])
def test_laws(dim, dtype, tolerance, normals):
    model = made(MARIO, dim, dtype, **SMALL | {"normals": normals})
    check_shared_laws(model, dim, dtype, max(tolerance, 1e-10))


def test_rebuilt_from_its_arguments():
    check_rebuilt(made(MARIO, 2, **SMALL), 2)


def test_refusals():
    check_refusals(MARIO)
    with pytest.raises(InputError, match=r"`reach`: expected above 0, got 0"):
        MARIO(2, 0, {"v": Branch(0, {"p": 1})}, reach=0.0)


def test_seeds_fix_the_frequencies():
    a, b, c = (MARIO(2, 0, {"volume": Branch(0, {"p": 1})}, seed=seed) for seed in (1, 1, 2))
    turns = [net.nets["volume"].waves[0].turns for net in (a, b, c)]
    assert torch.equal(turns[0], turns[1]) and not torch.equal(turns[0], turns[2])


def test_outside_the_boundary_layer_its_thickness_does_not_matter():
    thick, thin = made(MARIO, 2, **SMALL, boundary=0.2), made(MARIO, 2, **SMALL, boundary=0.1)
    given = batch(2)
    far = {k: Points(p.pos * 0 + torch.tensor([3.0, 2.0]), p.x) for k, p in given.points.items()}
    close(answer(thick, given, points=far), answer(thin, given, points=far), 1e-12)
    wall = {k: Points(given.geometry.pos[:, :30], p.x) for k, p in given.points.items()}
    close(answer(thick, given, points=wall), answer(thin, given, points=wall), 1e-9)
    mid = {k: Points(1.15 * p.pos, given.points[k].x) for k, p in wall.items()}
    assert apart(answer(thick, given, points=mid), answer(thin, given, points=mid)) > 1e-4


def test_each_stage_trains_its_own_part():
    model, given = made(MARIO, 2, **SMALL), batch(2)
    names = {name for name, _ in model.named_parameters()}
    first = {n for n in names if n.startswith(("shape.", "log_gain"))}
    model.training_loss(given, 0.49).backward()
    assert felt(model) == first and model.scale.count == 0
    model.zero_grad()
    model.training_loss(given, 0.5).backward()
    assert felt(model) == names - first and model.scale.count == 2
    model.zero_grad()
    model.eval().training_loss(given, 0.5)
    assert model.scale.count == 2
    latent = model.encode(given.geometry, given.parameters)  # as a whole it is differentiable
    model.decode(latent, "volume", given.points["volume"])["p"].sum().backward()
    assert first <= felt(model)


def test_inference_mode_gives_the_bits_of_no_grad():
    model, given = made(MARIO, 3, **SMALL).eval(), batch(3)
    with torch.inference_mode():
        own = Points(*(t + 0 for t in given.geometry))  # made in there, and so without gradients
        latent = model.encode(own, given.parameters)
        out = {k: model.decode(latent, k, points) for k, points in given.points.items()}
    close(out, answer(model, given), 0.0)


def test_learns_two_samples():
    model, given = made(MARIO, 2, torch.float32, **SMALL), batch(2, dtype=torch.float32)
    shapes = trained(model, given, 40, 2e-2, 0.0, 0.49)
    fields = trained(model, given, 30, 2e-2, 0.5, 1.0)
    assert shapes[-1] < shapes[0] / 10 and fields[-1] < fields[0] / 10
    model.eval()
    with torch.no_grad():
        assert model.training_loss(given, 1.0) < fields[0] / 10
