"""CORAL: sine networks, functions as latents, and the map between latents."""

import pytest
import torch

from meshsim.check import InputError
from meshsim.models.coral import CORAL
from meshsim.models.field import Points
from meshsim.nn.siren import ShiftedNetwork, SineLayer
from tests.models.test_point_mlp import (
    EXACT,
    answer,
    batch,
    bodies,
    check_rebuilt,
    check_refusals,
    check_shared_laws,
    felt,
    made,
    trained,
)

SMALL = {"normals": 0, "latent": 8, "width": 16, "layers": 2, "map_width": 32, "points": 32}


# --- sine layers ---


@torch.no_grad()
@pytest.mark.parametrize("omega", [5.0, 30.0])
def test_what_goes_into_the_sines_keeps_its_variance_in_every_layer(omega):
    """A normal variable of variance v has a sine of (1 − e^−2v)/2, and the next sum twice that."""
    torch.manual_seed(0)
    net = ShiftedNetwork(2, 1, 1, width=512, layers=6, omega=omega)
    h = net.layers[0](torch.rand(1500, 2) * 2 - 1)
    for layer in net.layers[1:]:
        before = omega * layer.linear(h)
        h = layer(h)
        assert 0.7 < float(before.var()) < 1.3
    assert abs(float(before.var()) - 0.797) < 0.05
    flat = before.flatten() / before.std()
    assert abs(float((flat**4).mean()) - 3) < 0.15  # as of a normal variable


def test_bounds_of_the_weights():
    first, later = SineLayer(4, 4096, 30.0, first=True), SineLayer(64, 4096, 30.0)
    assert 0.249 < first.linear.weight.abs().max() <= 0.25
    bound = (6 / 64) ** 0.5 / 30
    assert 0.99 * bound < later.linear.weight.abs().max() <= bound


def test_the_first_layer_has_the_frequency_it_is_given():
    """Of weights w at most 1/n the highest is ω/n: nothing turns faster."""
    layer = SineLayer(1, 256, 12.0, first=True).double()
    x = torch.zeros(1, 1).double().requires_grad_()
    slopes = torch.autograd.functional.jacobian(layer, x.detach()).abs()
    assert 10.0 < slopes.max() <= 12.0


# --- functions and latents ---


def test_inner_steps_bring_functions_nearer():
    model, given = made(CORAL, 2, **SMALL), batch(2)
    shape, none = model.samples(given.geometry), torch.zeros(2, 8).double()
    errors, fields = [], []
    for model.steps in (1, 3, 10):
        errors.append(model.shape_error(shape, model.shape_latent(shape)).detach())
        known = given.points["volume"], given.targets["volume"]
        z = model.field_latent("volume", *known)
        fields.append(model.field_error("volume", *known, z).detach())
    for start, found in (
        (model.shape_error(shape, none), errors),
        (model.field_error("volume", *known, none), fields),
    ):
        for a, b in zip([start.detach(), *found], found, strict=False):
            assert (b < a).all()


def test_the_shape_is_its_distance_and_its_features():
    model = made(CORAL, 2, **SMALL)
    shape = model.samples(bodies(2))
    z = model.shape_latent(shape)
    y = model.shape(shape.pos, z)
    on = (y[:, :32, 1:] - shape.features).square().mean((1, 2))
    want = (y[..., 0] - shape.value).square().mean(1) + on
    torch.testing.assert_close(model.shape_error(shape, z), want)
    bare = CORAL(2, 0, {"v": {"outputs": {"p": 1}}}, width=16).double()
    other = bare.samples(Points(bodies(2).pos, bodies(2).x[..., :0]))
    assert bare.shape_error(other, bare.shape_latent(other)).shape == (2,)


# --- the model ---


@pytest.mark.parametrize(("dim", "dtype", "tolerance"), EXACT)
@pytest.mark.parametrize("normals", [0, None])
def test_laws(dim, dtype, tolerance, normals):
    model = made(CORAL, dim, dtype, **SMALL | {"normals": normals})
    check_shared_laws(model, dim, dtype, max(tolerance, 1e-10))


def test_rebuilt_from_its_arguments_with_its_statistics():
    model = made(CORAL, 2, **SMALL)
    model.training_loss(batch(2), 0.6)
    assert model.scale.count == 2
    check_rebuilt(model, 2)


def test_refusals():
    check_refusals(CORAL)
    model, given = made(CORAL, 2, **SMALL), batch(2)
    with pytest.raises(InputError, match="no targets: nothing to learn"):
        model.training_loss(given._replace(targets={}), 0.0)
    odd = {"volume": {"q": given.targets["volume"]["p"]}}
    with pytest.raises(InputError, match="unknown field of branch 'volume': 'q'"):
        model.training_loss(given._replace(targets=odd), 0.0)


def test_each_stage_trains_its_own_part():
    model, given = made(CORAL, 2, **SMALL), batch(2)
    names = {name for name, _ in model.named_parameters()}
    second = {n for n in names if n.startswith("map.")}
    model.training_loss(given, 0.49).backward()
    assert felt(model) == names - second and model.scale.count == 0
    model.zero_grad()
    model.training_loss(given, 0.5).backward()
    assert felt(model) == second
    assert model.scale.count == 2 and model.scales["volume"].count == 2


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_branches_may_be_absent_from_a_batch(share):
    model, given = made(CORAL, 2, **SMALL), batch(2)
    part = given._replace(
        points={"volume": given.points["volume"]}, targets={"volume": given.targets["volume"]}
    )
    model.training_loss(part, share).backward()
    assert felt(model) and not any("surface" in name for name in felt(model))
    assert model.scales["surface"].count == 0


def test_a_map_that_gives_zero_stands_for_the_mean_latent():
    model, given = made(CORAL, 2, **SMALL), batch(2)
    model.training_loss(given, 0.6)
    for p in model.map.parameters():
        torch.nn.init.zeros_(p)
    latent = model.encode(given.geometry, given.parameters)
    z = model.field_latent("volume", given.points["volume"], given.targets["volume"])
    torch.testing.assert_close(latent["volume"], z.mean(0).expand(2, 8))


def test_learns_two_samples():
    model, given = made(CORAL, 2, torch.float32, **SMALL), batch(2, dtype=torch.float32)
    start = given.loss(answer(model, given))
    functions = trained(model, given, 40, 1e-2, 0.0, 0.49)
    latents = trained(model, given, 40, 1e-2, 0.5, 1.0)
    assert functions[-1] < functions[0] / 10 and latents[-1] < latents[0] / 10
    assert given.loss(answer(model.eval(), given)) < start / 10


def test_errors_may_be_relative():
    model, given = made(CORAL, 2, torch.float32, **SMALL), batch(2, dtype=torch.float32)
    zeros = {k: {f: torch.zeros(()) for f in fields} for k, fields in given.targets.items()}
    losses = trained(model, given._replace(offsets=zeros), 20, 1e-2, 0.0, 0.49)
    assert losses[-1] < losses[0] / 2
