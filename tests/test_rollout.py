"""Integrators converge at their order; a rollout is its step, again and again."""

import pytest
import torch

from meshsim.check import InputError, WorkError
from meshsim.rollout import INTEGRATORS, euler, rollout

A = torch.tensor([[-0.2, 1.0], [-1.0, -0.1]], dtype=torch.float64)


def linear(state):
    return {"u": state["u"] @ A.T}


def error_after(name, steps, time=2.0):
    """Distance from exp(A time) u0 after `steps` steps."""
    u0 = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    dt = time / steps
    states = list(rollout(lambda s: INTEGRATORS[name](linear, s, dt), {"u": u0}, steps))
    exact = u0 @ torch.linalg.matrix_exp(A * time).T
    return float((states[-1]["u"] - exact).norm())


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_order(name, order):
    coarse, fine = error_after(name, 40), error_after(name, 80)
    assert abs(torch.log2(torch.tensor(coarse / fine)).item() - order) < 0.1


def test_direct_is_the_function_itself():
    u = {"u": torch.ones(1, 2, dtype=torch.float64)}
    assert torch.equal(INTEGRATORS["direct"](linear, u, 0.1)["u"], linear(u)["u"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", INTEGRATORS)
def test_fields_keep_shape_and_dtype_and_the_state_is_not_touched(name, dtype):
    state = {"a": torch.randn(5, 2, dtype=dtype), "b": torch.randn(5, 1, dtype=dtype)}
    before = {k: v.clone() for k, v in state.items()}
    new = INTEGRATORS[name](lambda s: {k: -v for k, v in s.items()}, state, 0.1)
    for k in state:
        assert new[k].shape == state[k].shape and new[k].dtype == dtype
        assert torch.equal(state[k], before[k])


def test_rollout_of_an_exact_linear_field_is_explicit_euler():
    """Heat conduction on a ring of nodes: (I + dt L)^n u0."""
    n, dt = 12, 0.2
    laplacian = -2 * torch.eye(n, dtype=torch.float64)
    for i in range(n):
        laplacian[i, (i + 1) % n] = laplacian[i, (i - 1) % n] = 1.0
    u0 = torch.randn(n, 1, dtype=torch.float64)
    states = list(
        rollout(lambda s: euler(lambda u: {"T": laplacian @ u["T"]}, s, dt), {"T": u0}, 20)
    )
    step = torch.eye(n, dtype=torch.float64) + dt * laplacian
    for k, state in enumerate(states, 1):
        expected = torch.linalg.matrix_power(step, k) @ u0
        assert torch.allclose(state["T"], expected, atol=1e-13)
    total = torch.stack([s["T"].sum() for s in states])
    assert torch.allclose(total, u0.sum().expand_as(total), atol=1e-12)


def test_bundles_are_cut_to_the_steps_and_go_on_from_the_last():
    def three(state):
        return [{"a": state["a"] + i} for i in (1, 2, 3)]

    seen = [float(s["a"]) for s in rollout(three, {"a": torch.zeros(1)}, 7)]
    assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_progress_counts_up_and_zero_steps_yield_nothing():
    calls = []
    keep = {"a": torch.zeros(1)}
    list(rollout(lambda s: s, keep, 3, lambda done, total: calls.append((done, total))))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert list(rollout(lambda s: s, keep, 0)) == []
    with pytest.raises(InputError, match="0 or more, got -1"):
        rollout(lambda s: s, keep, -1)


def test_blow_up_names_field_and_step():
    with pytest.raises(WorkError, match="'a' is not finite at step 2"):
        list(rollout(lambda s: {"a": s["a"] * 1e20}, {"a": torch.full((4, 2), 1.0)}, 9))


def test_an_empty_state_rolls_out():
    states = list(rollout(lambda s: s, {"a": torch.zeros(0, 2)}, 2))
    assert len(states) == 2 and states[0]["a"].shape == (0, 2)
