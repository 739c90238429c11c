"""Noise: a draw for each step, and a target that leads from the noisy state onto the truth."""

import numpy as np
import pytest
import torch

from meshsim.data import Field
from meshsim.rollout import euler
from meshsim.train.noise import NOISE, ORDER, add_noise, corrected_rate, draw, order

FIELDS = (
    Field("velocity", "state", components=2, noise=0.1),
    Field("T", "state", noise=0.5),
    Field("p", "state"),
)


def state(n=400, dtype=torch.float64):
    return {f.name: torch.randn(n, f.components, dtype=dtype) for f in FIELDS}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-15)])
def test_noise_target_identity(dtype, tolerance):
    """Noisy input plus dt times its corrected target is the true next state."""
    now, following = state(dtype=dtype), state(dtype=dtype)
    free = torch.ones(400, 3, dtype=dtype)
    noisy = add_noise(now, FIELDS, free, 1.0, seed=0, step=3)
    for name in ("velocity", "T"):
        assert not torch.equal(noisy[name], now[name])
    dt = 0.05
    target = {k: corrected_rate(noisy[k], following[k], dt) for k in now}
    landed = euler(lambda u: target, noisy, dt)
    for name, x in landed.items():
        assert float((x - following[name]).abs().max()) <= tolerance * 10


def test_without_noise_the_target_is_the_finite_difference():
    now, following = state(), state()
    clean = add_noise(now, FIELDS, torch.ones(400, 3), 0.0, seed=0, step=0)
    for name, x in clean.items():
        assert torch.equal(x, now[name])
        rate = corrected_rate(x, following[name], 0.1)
        assert torch.equal(rate, (following[name] - now[name]) / 0.1)


def test_noise_has_the_fields_own_size_and_spares_given_nodes():
    zero = {f.name: torch.zeros(20000, f.components) for f in FIELDS}
    free = torch.ones(20000, 3)
    free[:500] = 0
    noisy = add_noise(zero, FIELDS, free, 2.0, seed=1, step=0)
    assert noisy["velocity"][500:].std() == pytest.approx(0.2, rel=0.02)
    assert noisy["T"][500:].std() == pytest.approx(1.0, rel=0.02)
    assert noisy["p"].abs().max() == 0 and noisy["T"][:500].abs().max() == 0
    assert abs(float(noisy["T"].mean())) < 0.03


def test_draws_depend_on_seed_purpose_and_counter_only():
    assert (draw(0, NOISE, 1).random(4) == draw(0, NOISE, 1).random(4)).all()
    others = [draw(1, NOISE, 1), draw(0, ORDER, 1), draw(0, NOISE, 2)]
    first = draw(0, NOISE, 1).random()
    assert all(g.random() != first for g in others)
    a, b = (add_noise(state(4), FIELDS, torch.ones(4, 3), 1.0, 0, step)["p"] for step in (0, 1))
    assert a.shape == b.shape


def test_an_order_is_a_permutation_and_epochs_differ():
    a, b = order(0, 0, 0, 50), order(0, 0, 1, 50)
    assert sorted(a) == list(range(50)) and not np.array_equal(a, b)
