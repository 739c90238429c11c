"""Time integration of states, and the loop that applies a step again and again.

A state is `{field: (N, c) float}`. A rate function returns the time derivative of each field,
in units of the field per unit of time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from meshsim.check import InputError, WorkError

State: TypeAlias = dict[str, Tensor]
Rate: TypeAlias = Callable[[State], State]
Integrator: TypeAlias = Callable[[Rate, State, float], State]


def _along(state: State, rate: State, dt: float) -> State:
    return {name: torch.add(u, rate[name], alpha=dt) for name, u in state.items()}


def euler(rate: Rate, state: State, dt: float) -> State:
    """One explicit Euler step, u + dt f(u): order 1.

    >>> euler(lambda u: {"a": -u["a"]}, {"a": torch.tensor([1.0])}, 0.1)
    {'a': tensor([0.9000])}
    """
    return _along(state, rate(state), dt)


def heun(rate: Rate, state: State, dt: float) -> State:
    """One step of Heun's method, u + dt/2 (f(u) + f(u + dt f(u))): order 2."""
    k1 = rate(state)
    k2 = rate(_along(state, k1, dt))
    return {n: u + (0.5 * dt) * (k1[n] + k2[n]) for n, u in state.items()}


def rk4(rate: Rate, state: State, dt: float) -> State:
    """One step of the classical Runge-Kutta method: order 4, four rates a step."""
    k1 = rate(state)
    k2 = rate(_along(state, k1, 0.5 * dt))
    k3 = rate(_along(state, k2, 0.5 * dt))
    k4 = rate(_along(state, k3, dt))
    return {n: u + (dt / 6.0) * (k1[n] + 2.0 * (k2[n] + k3[n]) + k4[n]) for n, u in state.items()}


def direct(following: Rate, state: State, dt: float) -> State:
    """The function gives the next state itself; `dt` is not used."""
    return following(state)


INTEGRATORS: Mapping[str, Integrator] = {
    "euler": euler,
    "heun": heun,
    "rk4": rk4,
    "direct": direct,
}


def rollout(
    step: Callable[[State], State | Sequence[State]],
    state: State,
    steps: int,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[State]:
    """Apply `step` to its own result, `steps` times.

    Arguments:
        step: the next state of a state, or the next few; it goes on from the last of them.
        state: {field: (N, c)}, where it begins; not yielded itself.
        steps: how many states to yield.
        progress: called with (done, steps) after each step.

    Returns:
        An iterator over the states after 1, 2, …, `steps` steps.

    Raises:
        InputError: a negative number of steps.
        WorkError: a state is no longer finite; the field and the step are named.

    >>> double = lambda u: {"a": 2 * u["a"]}
    >>> [float(u["a"]) for u in rollout(double, {"a": torch.ones(1)}, 3)]
    [2.0, 4.0, 8.0]
    """
    if steps < 0:
        raise InputError(f"`steps`: expected 0 or more, got {steps}")
    return _rollout(step, state, steps, progress)


def _rollout(
    step: Callable[[State], State | Sequence[State]],
    state: State,
    steps: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[State]:
    done = 0
    while done < steps:
        following = step(state)
        for state in [following] if isinstance(following, dict) else following[: steps - done]:
            done += 1
            for name, values in state.items():
                # A sum is finite only if every term is: one pass, no mask in memory.
                if not torch.isfinite(values.sum(dtype=torch.float64)):
                    raise WorkError(f"the rollout blew up: {name!r} is not finite at step {done}")
            if progress is not None:
                progress(done, steps)
            yield state
