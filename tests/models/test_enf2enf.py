"""enf2enf: only differences of positions count; tokens on the geometry; two stages."""

import pytest
import torch

from meshsim.check import InputError
from meshsim.models.enf2enf import ENF2ENF, RelativeAttention
from meshsim.models.field import Points
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

SMALL = {"normals": 0, "tokens": 5, "latent": 4, "width": 16, "blocks": 1, "shape_width": 8,
         "points": 24}  # fmt: skip


# --- attention by relative positions ---


def test_attention_is_a_softmax_of_what_its_formula_says():
    torch.manual_seed(0)
    net = RelativeAttention(2, 8, 2, 0.3, (1.0, 2.0), 0).double()
    x, p, a = normal((1, 4, 2), 0), normal((1, 3, 2), 1), normal((1, 3, 8), 2)
    k, v = net.key_value(a[0]).chunk(2, 1)
    want = torch.zeros(4, 8).double()
    for i in range(4):
        logits, values = torch.zeros(3, 2).double(), torch.zeros(3, 8).double()
        for j in range(3):
            r = x[0, i] - p[0, j]
            q = net.query(net.waves[0](r))
            gain, shift = net.film(net.waves[1](r)).chunk(2)
            values[j] = v[j] * (1 + gain) + shift
            for h in range(2):
                part = slice(4 * h, 4 * h + 4)
                logits[j, h] = q[part] @ k[j, part] / 2 - r @ r / (2 * 0.3**2)
        share = logits.softmax(0).repeat_interleave(4, 1)  # (3, 8)
        want[i] = (share * values).sum(0)
    torch.testing.assert_close(net(x, p, a)[0], net.out(want))


def test_in_a_narrow_window_only_the_nearest_token_is_seen():
    torch.manual_seed(0)
    net = RelativeAttention(2, 8, 2, 1e-2, (1.0, 1.0), 0).double()
    p = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]]).double()
    a = normal((1, 2, 8), 2)
    x = torch.tensor([[[0.2, 0.1]]]).double()
    far = a.clone()
    far[:, 1] += 1
    torch.testing.assert_close(net(x, p, far), net(x, p, a))
    near = a.clone()
    near[:, 0] += 1
    assert (net(x, p, near) - net(x, p, a)).abs().max() > 1e-2


# --- the model ---


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("normals", [0, None])
def test_moving_everything_changes_nothing(dim, normals):
    model, given = made(ENF2ENF, dim, **SMALL | {"normals": normals}), batch(dim)
    model.training_loss(given, 0.6)  # statistics
    by = torch.tensor([3.7, -11.3, 5.1][:dim]).double()

    def moved(points):
        return Points(points.pos + by, points.x)

    there = {
        "geometry": moved(given.geometry),
        "points": {k: moved(p) for k, p in given.points.items()},
    }
    close(answer(model, given, **there), answer(model, given), 1e-9)
    only = answer(model, given, points=there["points"])
    assert apart(only, answer(model, given)) > 1e-6
    for share in (0.0, 1.0):
        before, after = (model.training_loss(g, share) for g in (given, given._replace(**there)))
        torch.testing.assert_close(before, after, rtol=1e-9, atol=0.0)


def test_tokens_are_points_of_the_geometry_far_apart():
    model = made(ENF2ENF, 2, **SMALL)
    shape = model.samples(bodies(2))
    p = model.places(shape)
    assert p.shape == (2, 5, 2)
    assert torch.cdist(p, shape.cloud).amin(2).max() == 0
    apart = torch.cdist(p, p) + 9 * torch.eye(5)
    rest = torch.cdist(shape.cloud, p).amin(2).amax(1)
    assert (apart.amin((1, 2)) >= rest).all()  # no point is farther from all than two of them
    few = model.samples(Points(*(t[:, :3] for t in bodies(2))))
    assert model.places(few).shape == (2, 3, 2)


def test_more_inner_steps_make_the_error_smaller():
    model = made(ENF2ENF, 2, **SMALL | {"rate": 1.0})
    shape = model.samples(bodies(2))
    p, errors = model.places(shape), []
    for model.steps in (1, 3, 10):
        errors.append(model.shape_error(shape, p, model.shape_context(shape, p)).detach())
    start = model.shape_error(shape, p, torch.ones(2, 5, 4).double()).detach()
    for a, b in zip([start, *errors], errors, strict=False):
        assert (b < a).all()


@pytest.mark.parametrize(("dim", "dtype", "tolerance"), EXACT)
@pytest.mark.parametrize("normals", [0, None])
def test_laws(dim, dtype, tolerance, normals):
    model = made(ENF2ENF, dim, dtype, **SMALL | {"normals": normals})
    check_shared_laws(model, dim, dtype, max(2 * tolerance, 1e-10))


def test_rebuilt_from_its_arguments():
    check_rebuilt(made(ENF2ENF, 2, **SMALL), 2)


def test_refusals():
    check_refusals(ENF2ENF)
    with pytest.raises(InputError, match=r"`heads`: expected a divisor of the widths 128, 64"):
        made(ENF2ENF, 2, heads=3)
    with pytest.raises(InputError, match=r"`frequencies`: expected 2, got 1"):
        made(ENF2ENF, 2, frequencies=[1.0])


def test_seeds_fix_the_frequencies():
    a, b, c = (ENF2ENF(2, 0, {"v": {"outputs": {"p": 1}}}, seed=seed) for seed in (1, 1, 2))
    turns = [net.nets["v"].attention[0].waves[0].turns for net in (a, b, c)]
    assert torch.equal(turns[0], turns[1]) and not torch.equal(turns[0], turns[2])


def test_each_stage_trains_its_own_part():
    model, given = made(ENF2ENF, 2, **SMALL), batch(2)
    names = {name for name, _ in model.named_parameters()}
    first = {n for n in names if n.startswith(("shape.", "log_gain"))}
    model.training_loss(given, 0.49).backward()
    assert felt(model) == first and model.scale.count == 0
    model.zero_grad()
    model.training_loss(given, 0.5).backward()
    assert felt(model) == names - first and model.scale.count == 10  # five tokens of two bodies


def test_learns_two_samples():
    model = made(
        ENF2ENF,
        2,
        torch.float32,
        **SMALL | {"latent": 8, "width": 32, "shape_width": 32, "steps": 2, "rate": 60.0},
    )
    given = batch(2, dtype=torch.float32)
    shapes = trained(model, given, 45, 1e-2, 0.0, 0.49)
    fields = trained(model, given, 35, 1e-2, 0.5, 1.0)
    assert shapes[-1] < shapes[0] / 10 and fields[-1] < fields[0] / 10
