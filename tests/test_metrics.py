"""Errors against closed forms, baselines against what they claim, signals against sines."""

import math

import pytest
import torch

from meshsim.check import InputError
from meshsim.metrics import (
    amplitude,
    baselines,
    compare,
    dominant_frequency,
    find_period,
    last_period,
    persistence,
    probes,
    relative_l2,
    rmse,
    time_mean,
    wake,
)


def travelling_wave(frames, nodes=30, period=12.5, dtype=torch.float64, speed=1.0):
    """(T, N, 2): a wave in the second component, stronger downstream."""
    t = torch.arange(frames, dtype=dtype)[:, None] * speed
    x = torch.linspace(0, 1, nodes, dtype=dtype)
    wave = x * torch.sin(2 * math.pi * (t / period - x))
    return torch.stack([1 + 0.1 * wave, wave], 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rmse_and_relative_l2_closed_forms(dtype):
    truth = torch.tensor([[3.0, 4.0]], dtype=dtype)
    assert rmse(truth, truth) == 0 and relative_l2(truth, truth) == 0
    assert rmse(truth, truth + 2) == pytest.approx(2)
    assert relative_l2(truth, 1.1 * truth) == pytest.approx(0.1, rel=1e-6)
    assert relative_l2(torch.zeros_like(truth), truth) == math.inf


def test_rmse_scales_and_relative_l2_does_not():
    a, b = torch.randn(2, 5, 7, 2, dtype=torch.float64).unbind()
    assert rmse(10 * a, 10 * b) == pytest.approx(10 * rmse(a, b))
    assert relative_l2(10 * a, 10 * b) == pytest.approx(relative_l2(a, b))


def test_time_mean_is_the_best_constant():
    truth = travelling_wave(40)
    best = rmse(truth, time_mean(truth))
    for _ in range(20):
        other = time_mean(truth) + 0.1 * torch.randn(30, 2, dtype=torch.float64)
        assert rmse(truth, other) > best


def test_persistence_of_a_steady_flow_is_exact():
    truth = travelling_wave(1).expand(9, -1, -1)
    assert rmse(truth, persistence(truth[0], 9)) == 0


@pytest.mark.parametrize("period", [8.0, 12.5, 17.3])
def test_last_period_continues_a_periodic_flow(period):
    flow = travelling_wave(200, period=period)
    history, truth = flow[:60], flow[60:]
    guess = last_period(history, len(truth))
    assert rmse(truth, guess) < 0.1 * rmse(truth, time_mean(truth))


def test_last_period_of_whole_frames_repeats_them_exactly():
    flow = travelling_wave(30, period=10.0)
    guess = last_period(flow, 25, period=10.0)
    assert torch.equal(guess[:10], flow[20:]) and torch.equal(guess[10:20], flow[20:])


def test_last_period_without_a_period_is_persistence():
    history = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None, None].expand(20, 3, 1)
    assert torch.equal(last_period(history, 5), persistence(history[-1], 5))
    assert torch.equal(last_period(history[:1], 5), persistence(history[0], 5))


@pytest.mark.parametrize("frequency", [2.2, 3.0, 4.7])
def test_dominant_frequency_to_half_a_percent(frequency):
    t = torch.arange(125, dtype=torch.float64) * 0.02
    phases = torch.rand(6, generator=torch.Generator().manual_seed(0)) * 6
    signal = torch.sin(2 * math.pi * frequency * t[:, None] + phases)
    signal += 0.3 * torch.sin(4 * math.pi * frequency * t[:, None]) + 5
    assert dominant_frequency(signal, 0.02) == pytest.approx(frequency, rel=5e-3)


def test_dominant_frequency_scales_with_time():
    signal = torch.sin(torch.arange(100) * 0.7)
    slow, fast = dominant_frequency(signal, 0.1), dominant_frequency(signal, 0.05)
    assert fast == pytest.approx(2 * slow)


def test_signals_without_oscillation():
    assert math.isnan(dominant_frequency(torch.ones(50), 0.1))
    assert math.isnan(dominant_frequency(torch.ones(3), 0.1))
    assert math.isnan(find_period(torch.linspace(0, 1, 40)))
    assert math.isnan(find_period(torch.ones(40, 2)))
    assert amplitude(torch.ones(50)) == 0


@pytest.mark.parametrize("period", [6.0, 12.5, 15.2])
def test_find_period_needs_little_more_than_two_periods(period):
    signal = torch.sin(2 * math.pi * torch.arange(int(2.2 * period) + 4) / period)
    assert find_period(signal) == pytest.approx(period, rel=0.01)


def test_probes_sit_where_it_moves():
    nodes, component = probes(travelling_wave(60), share=0.1)
    assert component == 1 and nodes.tolist() == [27, 28, 29]


def test_wake_tells_amplitude_and_frequency_apart():
    truth = travelling_wave(250)
    seen = wake(truth, 0.5 * travelling_wave(250, speed=1.1), 0.02)
    assert seen["amplitude"] == pytest.approx(0.5 * seen["amplitude_true"], rel=0.03)
    assert seen["frequency"] == pytest.approx(1.1 * seen["frequency_true"], rel=0.01)
    assert seen["frequency_true"] == pytest.approx(1 / (12.5 * 0.02), rel=5e-3)


def test_compare_takes_one_step_predictions_where_it_has_them():
    truth = travelling_wave(60)
    rolled = truth + torch.linspace(0, 1, 60, dtype=torch.float64)[:, None, None]
    errors = compare(truth, rolled, one_step=truth + 0.25)
    assert errors["one_step"] == pytest.approx(0.25)
    assert errors["rollout_50"] == rmse(truth[:50], rolled[:50]) < errors["rollout_all"]
    assert compare(truth, rolled)["one_step"] == 0
    some = torch.tensor([3, 50])
    judged = compare(truth, rolled, one_step=truth[some] + 0.5, frames=some)
    assert judged["one_step"] == pytest.approx(0.5)
    assert "rollout_50" not in compare(truth[:49], rolled[:49])
    with pytest.raises(InputError, match="at least one frame"):
        compare(truth[:0], truth[:0])


def test_baselines_of_a_periodic_flow():
    flow = travelling_wave(160)
    table = baselines(flow[:50], flow[50:])
    assert set(table) == {"persistence", "time_mean", "last_period"}
    for metrics in table.values():
        assert set(metrics) == {"one_step", "rollout_50", "rollout_all", "relative_l2"}
    assert table["persistence"]["one_step"] == pytest.approx(rmse(flow[50:], flow[49:-1]))
    # one step of the last baseline knows the true frames up to the one before, as the others do
    few = baselines(flow[:50], flow[50:], frames=torch.tensor([0, 60, 109]))["last_period"]
    ago = (flow[[37, 97, 146]] + flow[[38, 98, 147]]) / 2  # 12.5 frames earlier
    assert few["one_step"] == pytest.approx(rmse(flow[[50, 110, 159]], ago), rel=0.05)
    assert table["last_period"]["rollout_all"] < table["time_mean"]["rollout_all"]
    assert table["time_mean"]["rollout_all"] < table["persistence"]["rollout_all"]
    assert "last_period" not in baselines(flow[:1], flow[1:])
