"""Where a rollout begins, and what takes it from one state to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from meshsim.check import InputError, WorkError
from meshsim.mesh import Mesh
from meshsim.rollout import State
from meshsim.series import Series

if TYPE_CHECKING:
    from meshsim.graph import MeshGraph
    from meshsim.simulator import Simulator


def begin(
    simulator: Simulator, content: Mesh | Series, start: float | None, steps: int | None
) -> tuple[Mesh, float, int]:
    """The mesh a rollout starts from, its time, and how many steps it takes."""
    if isinstance(content, Mesh):
        if steps is None:
            raise InputError("`steps`: say how many; the mesh is no series that would tell")
        return content, start or 0.0, steps
    first = float(content.times[0]) if start is None else start
    mesh = content.at(first)
    if steps is None:
        steps = int((float(content.times[-1]) - first) / float(simulator.dt or 0.0) + 1e-6)
    return mesh, first, steps


def bundled(simulator: Simulator, rates: Tensor, u: Tensor, dt: float) -> Tensor:
    """(M, N, c) states of a bundle, of its rates (N, M c) and the state (N, c) before it."""
    r = rates.reshape(u.shape[0], simulator.bundle, -1).transpose(0, 1)  # (M, N, c)
    if simulator.integrator == "direct":
        return r
    lags = torch.arange(1, simulator.bundle + 1, dtype=u.dtype, device=u.device) * dt
    return u + lags[:, None, None] * r


def mean_and_spread(answers: Sequence[State]) -> tuple[State, State]:
    """The mean of several answers, and their deviation from it.

    Raises:
        WorkError: one of them is not finite.
    """
    found, spreads = {}, {}
    for name in answers[0]:
        values = torch.stack([answer[name] for answer in answers])
        if not torch.isfinite(values).all():
            raise WorkError(f"the prediction of {name!r} is not finite")
        found[name] = values.mean(0)
        spreads[name] = values.std(0, correction=0)
    return found, spreads


def stepper(
    simulator: Simulator, graph: MeshGraph, times: Sequence[float], boundary: Series | None
) -> Callable[[State], list[State]]:
    """A function from a state to the next M, with given values taken from `boundary`."""
    passes = iter(range(1, len(times), simulator.bundle))

    def given(first: int) -> State | None:
        if boundary is None:
            return None
        when = [times[min(first + i, len(times) - 1)] for i in range(simulator.bundle)]
        known = [simulator.state(graph, boundary.at(t)) for t in when]
        return {name: torch.stack([k[name] for k in known]) for name in known[0]}

    def step(state: State) -> list[State]:
        ahead = simulator.advance(graph, state, given=given(next(passes)))[0]
        return [{n: x[i] for n, x in ahead.items()} for i in range(simulator.bundle)]

    return step
