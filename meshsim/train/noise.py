"""Randomness counted by step, and training noise with its corrected target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meshsim.data.schema import Field
from meshsim.rollout import State

# What a draw is for; each purpose has its own stream of numbers.
ORDER, NOISE, MIRROR, JITTER, CLOUD, ABSENT = range(6)


def draw(seed: int, purpose: int, *counters: int) -> np.random.Generator:
    """A generator that depends only on its arguments, so that a resumed run draws the same.

    >>> bool(draw(0, NOISE, 7).random() == draw(0, NOISE, 7).random())
    True
    """
    return np.random.default_rng([seed, purpose, *counters])


def order(seed: int, stage: int, epoch: int, n: int) -> np.ndarray:
    """(n,) a permutation: the order of windows in one pass over them."""
    return draw(seed, ORDER, stage, epoch).permutation(n)


def add_noise(
    state: State,
    fields: Sequence[Field],
    free: Float[Tensor, "N states"],
    factor: float,
    seed: int,
    step: int,
) -> State:
    """Gaussian noise on the states, only where they are predicted.

    The loss compares with the true next state, so the target that a noisy state stands for is
    the rate that leads from it onto the truth; see `corrected_rate`.

    Arguments:
        state: {field: (N, c)}.
        fields: the schema's states; `noise` is the standard deviation in the field's unit.
        free: (N, states), 1 where a state is predicted.
        factor: on every field's noise.
        seed, step: what the draw depends on.
    """
    out = dict(state)
    for i, field in enumerate(fields):
        if field.noise * factor == 0:
            continue
        x = state[field.name]
        generator = torch.Generator().manual_seed(int(draw(seed, NOISE, step, i).integers(2**62)))
        normal = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x)
        out[field.name] = x + (field.noise * factor) * normal * free[:, i : i + 1]
    return out


def corrected_rate(
    noisy: Float[Tensor, "*N c"], following: Float[Tensor, "*N c"], dt: float
) -> Float[Tensor, "*N c"]:
    """(u(t + dt) − ũ(t)) / dt: the rate from a noisy state that an Euler step takes to the truth.

    Pfaff et al., ICLR 2021, A.2.2 (with γ = 1: the whole noise is corrected for).
    """
    return (following - noisy) / dt
