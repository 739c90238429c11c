"""Errors, baselines and the signals of a wake.

Trajectories are (T, N, c); every error averages over time, nodes and components alike, as the
published figures of MeshGraphNets do (Pfaff et al., ICLR 2021, §4).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.check import InputError


def rmse(truth: Float[Tensor, "*shape"], prediction: Float[Tensor, "*shape"]) -> float:
    """Root of the mean squared difference over all entries.

    >>> rmse(torch.zeros(2, 3), torch.full((2, 3), 2.0))
    2.0
    """
    return math.sqrt(float((prediction.double() - truth.double()).square().mean()))


def relative_l2(truth: Float[Tensor, "*shape"], prediction: Float[Tensor, "*shape"]) -> float:
    """Norm of the difference over the norm of the truth, ‖p − t‖₂ / ‖t‖₂.

    >>> round(relative_l2(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0])), 6)
    0.2
    """
    norm = float(truth.double().norm())
    error = float((prediction.double() - truth.double()).norm())
    return error / norm if norm > 0 else (0.0 if error == 0 else math.inf)


def persistence(initial: Float[Tensor, "N c"], steps: int) -> Float[Tensor, "T N c"]:
    """The baseline that nothing changes: `initial`, `steps` times over."""
    return initial.expand(steps, *initial.shape)


def time_mean(truth: Float[Tensor, "T N c"]) -> Float[Tensor, "T N c"]:
    """The baseline that knows the trajectory's own mean over time, at every time."""
    return truth.mean(0).expand(truth.shape)


def last_period(
    history: Float[Tensor, "H N c"], steps: int, *, period: float | None = None
) -> Float[Tensor, "T N c"]:
    """The baseline that repeats the last period of what is known.

    Arguments:
        history: (H, N, c), the frames up to and with the one a forecast starts from.
        steps: how many frames to forecast.
        period: in frames; None finds it in the history.

    Returns:
        (steps, N, c), linear in time between frames. A history without a period in it (see
        `find_period`) is repeated as persistence.

    >>> wave = torch.sin(torch.arange(25) * 2 * torch.pi / 10)[:, None, None]
    >>> bool((last_period(wave[:21], 4) - wave[21:]).abs().max() < 0.05)
    True
    """
    if period is None:
        nodes, component = probes(history)
        period = find_period(history[:, nodes, component])
    known = len(history) - 1
    if not (0 < period <= known):
        return persistence(history[-1], steps)
    ahead = torch.arange(1, steps + 1, dtype=torch.float64)
    when = known + ahead - period * torch.ceil(ahead / period)  # in [known - period, known]
    return _between(history, when)


def _between(frames: Float[Tensor, "H N c"], when: Float[Tensor, " T"]) -> Float[Tensor, "T N c"]:
    """Frames at times (T,) counted in frames, 0 ≤ when ≤ H − 1, linear in between."""
    before = when.floor().clamp(0, len(frames) - 2).long()
    share = (when - before).to(frames.dtype)[:, None, None]
    return torch.lerp(frames[before], frames[before + 1], share)


def probes(truth: Float[Tensor, "T N c"], share: float = 0.05) -> tuple[Int[Tensor, "n"], int]:
    """Where a trajectory fluctuates most: the nodes and the component to watch.

    Arguments:
        truth: (T, N, c); choose from the truth and watch the same nodes in the prediction.
        share: the part of the nodes to keep, at least one.

    Returns:
        ((n,) node indices, component). For a vortex street these are the nodes of the wake and
        the component across the stream.
    """
    spread = truth.double().var(0, correction=0)  # (N, c)
    component = int(spread.sum(0).argmax())
    n = max(1, round(share * spread.shape[0]))
    return spread[:, component].topk(n).indices.sort().values, component


def amplitude(signal: Float[Tensor, "T *n"]) -> float:
    """Amplitude of the sine with the signal's variance, √2 σ, averaged over probes.

    >>> round(amplitude(3 * torch.sin(torch.arange(100) * 2 * torch.pi / 20)), 4)
    3.0
    """
    return float(signal.double().std(0, correction=0).mean()) * math.sqrt(2.0)


def dominant_frequency(signal: Float[Tensor, "T *n"], dt: float) -> float:
    """Frequency of the highest peak in the power spectrum, summed over probes.

    A Hann window, eightfold zero padding and a parabola through the logarithm of the three
    points about the peak, so that a sine over five periods or more is found to 0.5 %.

    Arguments:
        signal: (T,) or (T, n) with n probes of any phase.
        dt: time between frames.

    Returns:
        Cycles per unit of time; NaN for a signal that is constant or has under eight frames.

    >>> t = torch.arange(200) * 0.02
    >>> abs(dominant_frequency(torch.sin(2 * torch.pi * 3.1 * t), 0.02) - 3.1) < 0.01
    True
    """
    x = signal.double().reshape(len(signal), -1)
    x = x - x.mean(0)
    if len(x) < 8 or not float(x.abs().max()) > 1e-12:
        return math.nan
    window = torch.hann_window(len(x), periodic=True, dtype=torch.float64)[:, None]
    padded = 8 * len(x)
    power = torch.fft.rfft(x * window, n=padded, dim=0).abs().square().sum(1)
    first = 8  # below one cycle over the record there is only the window's own lobe
    peak = first + int(power[first:-1].argmax())
    a, b, c = power[peak - 1 : peak + 2].clamp_min(1e-300).log().tolist()
    curve = a - 2 * b + c
    shift = 0.5 * (a - c) / curve if curve < 0 else 0.0
    return (peak + max(-0.5, min(0.5, shift))) / (padded * dt)


def find_period(signal: Float[Tensor, "T *n"], threshold: float = 0.2) -> float:
    """Period of a signal in frames, from its normalised difference function.

    d'(τ) = d(τ) / ((1/τ) Σ_{j≤τ} d(j)), d(τ) the mean over t of |x_t − x_{t−τ}|²; the first dip
    under the threshold, refined by a parabola (de Cheveigné and Kawahara 2002, eqs. 6 and 8; the
    mean instead of their sum over a window, as the record is short). It needs little more than
    one period, where a spectrum needs several.

    Arguments:
        signal: (T,) or (T, n).
        threshold: how deep a dip must be.

    Returns:
        Frames a period; NaN when the signal does not repeat itself.

    >>> abs(find_period(torch.sin(torch.arange(40) * 2 * torch.pi / 12.5)) - 12.5) < 0.05
    True
    """
    x = signal.double().reshape(len(signal), -1)
    longest = len(x) - 3
    if longest < 3 or not float((x - x.mean(0)).abs().max()) > 1e-12:
        return math.nan
    lags = range(1, longest + 1)
    d = torch.stack([(x[lag:] - x[:-lag]).square().mean() for lag in lags])  # (longest,)
    relative = d * torch.arange(1, longest + 1) / d.cumsum(0).clamp_min(1e-300)
    low = (relative < threshold).nonzero()[:, 0]
    if len(low) == 0:
        return math.nan
    k = int(low[0])
    while k + 1 < longest and relative[k + 1] < relative[k]:
        k += 1
    if k == 0 or k + 1 >= longest:
        return math.nan
    a, b, c = d[k - 1 : k + 2].tolist()
    curve = a - 2 * b + c
    return k + 1 + (0.5 * (a - c) / curve if curve > 0 else 0.0)


def compare(
    truth: Float[Tensor, "T N c"],
    prediction: Float[Tensor, "T N c"],
    *,
    one_step: Float[Tensor, "K N c"] | None = None,
    frames: Int[Tensor, " K"] | None = None,
    n: int = 50,
) -> dict[str, float]:
    """RMSE of one step, of the first `n` steps and of the whole rollout; its relative L2 too.

    Arguments:
        truth: (T, N, c), frames after the starting one.
        prediction: (T, N, c), the rollout.
        one_step: (K, N, c), frames predicted from the true frame before each; without it the
            rollout's first step counts as the one step.
        frames: (K,) which frames those are; None for all.
        n: the middle horizon; left out when the trajectory is shorter.

    Returns:
        {"one_step", "rollout_<n>", "rollout_all", "relative_l2"}.
    """
    if len(truth) == 0:
        raise InputError("`truth`: expected at least one frame, got none")
    out = {"one_step": rmse(truth[:1], prediction[:1])}
    if one_step is not None:
        out["one_step"] = rmse(truth if frames is None else truth[frames], one_step)
    if len(truth) >= n:
        out[f"rollout_{n}"] = rmse(truth[:n], prediction[:n])
    out["rollout_all"] = rmse(truth, prediction)
    out["relative_l2"] = relative_l2(truth, prediction)
    return out


def baselines(
    history: Float[Tensor, "H N c"],
    truth: Float[Tensor, "T N c"],
    *,
    frames: Int[Tensor, " K"] | None = None,
    n: int = 50,
) -> dict[str, dict[str, float]]:
    """What `compare` gives for persistence, the time mean and the last known period.

    One step of each starts from the true frames up to the one before, as the model's does.

    Arguments:
        history: (H, N, c), known frames; the last is the starting frame.
        truth: (T, N, c), frames after it.
        frames: (K,) the frames on which one step is judged; None for all.
        n: the middle horizon.

    Returns:
        {"persistence": …, "time_mean": …, "last_period": …}, the last only when there is a
        period in the history.
    """
    steps = len(truth)
    at = torch.arange(steps) if frames is None else frames
    before, mean = torch.cat([history[-1:], truth[:-1]]), time_mean(truth)
    held = persistence(history[-1], steps)
    out = {
        "persistence": compare(truth, held, one_step=before[at], frames=at, n=n),
        "time_mean": compare(truth, mean, one_step=mean[at], frames=at, n=n),
    }
    nodes, component = probes(history)
    period = find_period(history[:, nodes, component])
    if math.isfinite(period):
        repeat = last_period(history, steps, period=period)
        ago = len(history) + at.double() - period  # one period before the frames to predict
        step = _between(torch.cat([history, truth]), ago)
        out["last_period"] = compare(truth, repeat, one_step=step, frames=at, n=n)
    return out


def wake(
    truth: Float[Tensor, "T N c"], prediction: Float[Tensor, "T N c"], dt: float
) -> dict[str, float]:
    """Amplitude and frequency where the truth fluctuates most, predicted and true.

    Returns:
        {"amplitude", "amplitude_true", "frequency", "frequency_true"}.
    """
    nodes, component = probes(truth)
    seen, true = prediction[:, nodes, component], truth[:, nodes, component]
    return {
        "amplitude": amplitude(seen),
        "amplitude_true": amplitude(true),
        "frequency": dominant_frequency(seen, dt),
        "frequency_true": dominant_frequency(true, dt),
    }
