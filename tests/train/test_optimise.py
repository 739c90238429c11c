"""Optimisers: orthogonal updates, who updates what, rates over a run, averages."""

import copy

import pytest
import torch
from torch import nn

from meshsim.train.config import TrainConfig
from meshsim.train.optimise import Lion, Muon, average, optimisers, orthogonalise, rate_factor


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 24, 8), (2, 8, 24)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    s = torch.linalg.svdvals(orthogonalise(g, steps=8))
    assert float(s.min()) > 0.6 and float(s.max()) < 1.25


def test_orthogonalising_keeps_the_singular_vectors():
    u, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    g = (u * torch.linspace(0.5, 1.5, 6, dtype=torch.float64)) @ v.T
    inner = u.T @ orthogonalise(g[None])[0] @ v
    assert float((inner - inner.diag().diag()).abs().max()) < 1e-10


def test_muon_agrees_with_torchs_own():
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(16, 8))
    theirs = nn.Parameter(ours.detach().clone())
    a = Muon([ours], lr=0.02)
    b = torch.optim.Muon(
        [theirs], lr=0.02, momentum=0.95, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(5):
        grad = torch.randn(16, 8)
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        a.step()
        b.step()
    # torch's Newton-Schulz steps run in bfloat16
    assert float((ours - theirs).detach().abs().max()) < 0.02 * 0.2 * 4 * 5 * 0.02


def test_muon_takes_the_matrices_inside_and_adamw_the_rest():
    model = nn.Module()
    model.encode = nn.Linear(3, 32)
    model.blocks = nn.ModuleList([nn.Linear(32, 32), nn.LayerNorm(32)])
    adamw, muon = optimisers(model, TrainConfig(steps=1, optimiser="muon"))
    assert isinstance(muon, Muon)
    assert [p.shape for g in muon.param_groups for p in g["params"]] == [(32, 32)]
    count = sum(len(g["params"]) for o in (adamw, muon) for g in o.param_groups)
    assert count == len(list(model.parameters()))
    assert len(optimisers(model, TrainConfig(steps=1))) == 1


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_rates_rise_then_fall(schedule):
    train = TrainConfig(steps=100, warmup=10, schedule=schedule)
    rates = [rate_factor(train, s, s / 100) for s in range(101)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert rates[:9] == sorted(rates[:9])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == (1.0 if schedule == "constant" else 1e-3)


def test_an_average_forgets_its_start():
    model = nn.Linear(2, 2)
    mean = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(3.0)
    for step in range(300):
        average([*mean.parameters()], [*model.parameters()], 0.9, step)
    assert all(torch.allclose(p, torch.full_like(p, 3.0), atol=1e-5) for p in mean.parameters())


def test_lion_steps_by_signs_of_the_interpolated_momentum():
    """Algorithm 2 of Chen et al. written out, for two steps."""
    p = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    lion = Lion([p], lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    w, m = p.detach().clone(), torch.zeros(3, dtype=torch.float64)
    for g in (torch.tensor([0.3, -0.2, 0.0]), torch.tensor([-0.01, -1.0, 2.0])):
        g = g.double()
        p.grad = g.clone()
        lion.step()
        w = w - 0.1 * ((0.9 * m + 0.1 * g).sign() + 0.5 * w)
        m = 0.99 * m + 0.01 * g
        torch.testing.assert_close(p.detach(), w, rtol=0.0, atol=1e-15)


def test_lion_trains_all_weights_of_a_model():
    model = nn.Sequential(nn.Linear(3, 20), nn.Linear(20, 1))
    (only,) = optimisers(model, TrainConfig(steps=1, optimiser="lion", lr=1e-4))
    assert isinstance(only, Lion)
    held = {id(p) for group in only.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
