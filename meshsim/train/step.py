"""The loss of one step: mirror, noise, passes without gradients, passes with them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from meshsim.rollout import State
from meshsim.simulator import Simulator
from meshsim.symmetry import AXES, mirror, reflection
from meshsim.train.batches import Batch
from meshsim.train.config import TrainConfig, at
from meshsim.train.losses import loss
from meshsim.train.noise import JITTER, MIRROR, add_noise, draw
from meshsim.train.plan import Stage

if TYPE_CHECKING:
    from meshsim.graph import MeshGraph


def batch_loss(
    simulator: Simulator, batch: Batch, train: TrainConfig, stage: Stage, step: int, share: float
) -> Tensor:
    """Mean over passes, frames and fields of the normalised error of a batch, summed over members.

    States are compared frame by frame with the truth, in units of the lag's own rate deviation:
    for Euler steps that is the error of the rate against `noise.corrected_rate`.

    Arguments:
        simulator: whose weights get gradients.
        batch: windows of 1 + (pushforward + unroll) · M states.
        train: loss, noise, mirror, jitter, seed.
        stage: lengths of this stage.
        step: counts the random draws.
        share: of the run's work that is done.
    """
    graph, states, targets = _augmented(simulator, batch, train, step)
    fields = simulator.schema.states
    state = {name: x[0] for name, x in states.items()}
    state = add_noise(state, fields, graph.free, at(train.noise, share), train.seed, step)
    losses = [
        _unrolled(member, batch, train.loss, stage, graph, state, states, targets)
        for member in simulator.each()
    ]
    return torch.stack(losses).sum()


def _unrolled(
    simulator: Simulator,
    batch: Batch,
    kind: str,
    stage: Stage,
    graph: MeshGraph,
    state: State,
    states: State,
    targets: State,
) -> Tensor:
    """The loss of one network, from `state` on."""
    fields, m = simulator.schema.states, simulator.bundle
    terms: list[Tensor] = []
    if fields and stage.pushforward:
        with torch.no_grad():
            coded = simulator.with_edges(graph)
            for i in range(stage.pushforward):
                given = _window(states, i * m, m)
                state = _last(simulator.advance(coded, state, given=given)[0])
    graph = simulator.with_edges(graph)
    scales = {f.name: scale(simulator, f.name) for f in fields}
    for i in range(stage.pushforward, stage.pushforward + stage.unroll):
        if fields:
            truth = _window(states, i * m, m)
            ahead, now = simulator.advance(graph, state, given=truth)
        else:
            now, ahead, truth = simulator.evaluate(graph, state)[1], {}, {}
        for name, x in ahead.items():
            weights = batch.weights[name]
            terms.append(loss(kind, x, truth[name], scales[name], weights, graph.batch, batch.size))
        for name, y in now.items():
            true = targets[name]
            true = true[min(i * m, len(true) - 1)]
            std = simulator.normaliser.std(name).to(y)
            weights = batch.weights[name]
            terms.append(loss(kind, y, true, std, weights, graph.batch, batch.size))
        if not fields:
            break
        state = _last(ahead)
    return torch.stack(terms).mean()


def scale(simulator: Simulator, name: str) -> Tensor:
    """(M, 1, c) unit of a state's error i frames ahead: i dt σ(rate over i), or σ(state)."""
    components = simulator.schema[name].components
    if simulator.integrator == "direct":
        std = simulator.normaliser.std(name)
        return std.to(simulator.device, simulator.dtype).expand(simulator.bundle, 1, components)
    std = simulator.normaliser.std(f"{name}.rate").reshape(simulator.bundle, 1, components)
    lags = torch.arange(1, simulator.bundle + 1, device=std.device)[:, None, None]
    return (std * lags * (simulator.dt or 1.0)).to(simulator.device, simulator.dtype)


def _window(states: State, first: int, m: int) -> State:
    """The M frames after frame `first`."""
    return {name: x[first + 1 : first + 1 + m] for name, x in states.items()}


def _last(ahead: State) -> State:
    return {name: x[-1] for name, x in ahead.items()}


def _augmented(
    simulator: Simulator, batch: Batch, train: TrainConfig, step: int
) -> tuple[MeshGraph, State, State]:
    """The batch with some of its graphs mirrored and shifted, by draws that `step` decides."""
    graph, states, targets = batch.graph, batch.states, batch.targets
    for axis in train.mirror:
        flips = draw(train.seed, MIRROR, step, AXES.index(axis)).random(batch.size) < 0.5
        if not flips.any():
            continue
        which = torch.from_numpy(flips).to(graph.static.device)
        graph, states = mirror(simulator, graph, states, axis, which)
        nodes = which[graph.batch][:, None]  # (N, 1)
        dim = graph.pos.shape[1]
        targets = {
            name: torch.where(nodes, y * reflection(simulator.schema[name], axis, dim).to(y), y)
            for name, y in targets.items()
        }
    if train.jitter > 0 and "position" in simulator.features:
        graph = _shifted(simulator, graph, train, step, batch.size)
    return graph, states, targets


def _shifted(
    simulator: Simulator, graph: MeshGraph, train: TrainConfig, step: int, size: int
) -> MeshGraph:
    norm = simulator.normaliser
    before = simulator.features[: simulator.features.index("position")]
    wide = sum(len(norm.mean(f"feature.{name}")) for name in simulator.features)
    wide += sum(f.components for f in simulator.schema.parameters)
    first = graph.static.shape[1] - wide
    first += sum(len(norm.mean(f"feature.{name}")) for name in before)
    dim = len(norm.mean("feature.position"))
    shift = draw(train.seed, JITTER, step).standard_normal((size, dim)).astype(np.float32)
    out = copy.copy(graph)
    out.static = graph.static.clone()
    out.static[:, first : first + dim] += (
        train.jitter * torch.from_numpy(shift).to(graph.static)[graph.batch]
    )
    return out
