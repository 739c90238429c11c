"""Losses: weights that sum to one, invariances, and agreement with the written formulas."""

import pytest
import torch

from meshsim.train.losses import KINDS, loss, node_weights

BATCH = torch.tensor([0, 0, 0, 1, 1, 1, 1])


def weights(free=None, measure=None, power=0.0, dtype=torch.float64):
    free = torch.ones(7, dtype=dtype) if free is None else free
    return node_weights(free, BATCH, 2, measure, power)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_every_graph_weighs_the_same(dtype, power):
    free = torch.tensor([1, 0, 1, 1, 1, 0, 1], dtype=dtype)
    w = weights(free, torch.rand(7, dtype=dtype) + 0.1, power)
    assert w.shape == (7, 1) and w.dtype == dtype
    assert torch.allclose(w[BATCH == 0].sum(), torch.tensor(0.5, dtype=dtype))
    assert torch.allclose(w[BATCH == 1].sum(), torch.tensor(0.5, dtype=dtype))
    assert (w[free == 0] == 0).all()


def test_a_graph_without_free_nodes_weighs_nothing():
    free = torch.tensor([0.0, 0, 0, 1, 1, 1, 1])
    w = weights(free)
    assert torch.isfinite(w).all() and w[:3].sum() == 0


def test_mse_is_the_mean_over_graphs_nodes_and_components():
    p, t = torch.randn(2, 7, 2, dtype=torch.float64).unbind()
    s = torch.tensor([0.5, 2.0], dtype=torch.float64)
    by_hand = sum((((p - t) / s)[g == BATCH] ** 2).mean() for g in (0, 1)) / 2
    got = loss("mse", p, t, s, weights(), BATCH, 2)
    assert torch.allclose(got, by_hand)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_at_the_truth_and_blind_to_nodes_that_are_given(kind):
    t = torch.randn(7, 2)
    free = torch.tensor([1.0, 1, 0, 1, 1, 1, 0])
    w = weights(free)
    p = torch.where(free[:, None] > 0, t, t + 100)
    assert float(loss(kind, p, t, torch.ones(2), w, BATCH, 2)) < 1e-6
    p[0] += 1.0
    assert float(loss(kind, p, t, torch.ones(2), w, BATCH, 2)) > 1e-3


def test_relative_l2_does_not_depend_on_scale():
    p, t = torch.randn(2, 7, 1, dtype=torch.float64).unbind()
    one = loss("relative_l2", p, t, torch.ones(1, dtype=torch.float64), weights(), BATCH, 2)
    ten = loss(
        "relative_l2", 10 * p, 10 * t, torch.ones(1, dtype=torch.float64), weights(), BATCH, 2
    )
    assert torch.allclose(one, ten)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_of_a_bundle_average(kind):
    p, t = torch.randn(2, 3, 7, 2, dtype=torch.float64).unbind()
    s = torch.rand(3, 1, 2, dtype=torch.float64) + 0.5
    together = loss(kind, p, t, s, weights(), BATCH, 2)
    apart = [loss(kind, p[i], t[i], s[i, 0], weights(), BATCH, 2) for i in range(3)]
    assert torch.allclose(together, torch.stack(apart).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_at_a_perfect_prediction(kind):
    t = torch.randn(7, 2)
    p = t.clone().requires_grad_()
    loss(kind, p, t, torch.ones(2), weights(dtype=torch.float32), BATCH, 2).backward()
    assert torch.isfinite(p.grad).all()
