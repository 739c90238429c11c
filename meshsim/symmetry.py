"""Mirror images of fields, graphs and states."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from meshsim.check import InputError
from meshsim.data.schema import Field
from meshsim.inputs import AXES
from meshsim.rollout import State

if TYPE_CHECKING:
    from meshsim.graph import MeshGraph
    from meshsim.simulator import Simulator

# Geometry features whose component along the axis changes sign.
ODD = ("position", "box_position", "normal", "potential_velocity")


def reflection(field: Field, axis: str, dim: int) -> Float[Tensor, " c"]:
    """(c,) of ±1: what mirroring does to a field's components; only vectors of space flip.

    >>> reflection(Field("velocity", "state", components=2), "y", 2)
    tensor([ 1., -1.])
    """
    signs = torch.ones(field.components)
    if _flips(field, axis, dim):
        signs[AXES.index(axis)] = -1.0
    return signs


def _flips(field: Field, axis: str, dim: int) -> bool:
    return field.components == dim and dim > 1 and AXES.index(axis) < dim


def mirror(
    simulator: Simulator,
    graph: MeshGraph,
    state: State,
    axis: str,
    which: Bool[Tensor, " B"] | None = None,
) -> tuple[MeshGraph, State]:
    """The mirror image of a graph and a state.

    Arguments:
        simulator: knows what the input columns mean.
        graph: with `static`, or a batch of such.
        axis: "x", "y" or "z".
        which: (B,) bool, the graphs of the batch to mirror; None for all.
    """
    k, dim = AXES.index(axis), graph.pos.shape[1]
    if k >= dim:
        raise InputError(f"cannot mirror {dim}-D meshes along {axis}")
    image = copy.copy(graph)
    if "edge_latent" in image:  # of the edges as they were
        del image.edge_latent
    nodes = edges = None
    if which is not None:
        nodes = which[graph.batch][:, None]  # (N, 1)
        edges = nodes[graph.edge_index[1]]  # (E, 1)

    def flip(x: Tensor, column: int, name: str, component: int, rows: Tensor | None) -> None:
        # a flipped value v' = -v is -x - 2 mean/std once normalised
        norm = simulator.normaliser
        shift = (2.0 * norm.mean(name)[component] / norm.std(name)[component]).to(x)
        new = -x[:, column] - shift
        x[:, column] = new if rows is None else torch.where(rows[:, 0], new, x[:, column])

    image.pos = graph.pos.clone()  # rotary positions look at it
    side = -graph.pos[:, k]
    image.pos[:, k] = side if nodes is None else torch.where(nodes[:, 0], side, graph.pos[:, k])
    image.edge_attr = graph.edge_attr.clone()
    flip(image.edge_attr, k, "edge_attr", k, edges)
    image.static = graph.static.clone()
    column = graph.static.shape[1] - own_columns(simulator)
    for name in simulator.features:
        if name in ODD:
            flip(image.static, column + k, f"feature.{name}", k, nodes)
        column += len(simulator.normaliser.mean(f"feature.{name}"))
    # those at nodes stand before the global ones, see `Simulator.with_parameters`
    for field in sorted(simulator.schema.parameters, key=lambda f: f.location == "global"):
        if _flips(field, axis, dim):
            flip(image.static, column + k, field.name, k, nodes)
        column += field.components
    out = {}
    for field in simulator.schema.states:
        x = state[field.name]
        new = x * reflection(field, axis, dim).to(x)
        out[field.name] = new if nodes is None else torch.where(nodes, new, x)
    return image, out


def averaged(
    simulator: Simulator,
    work: Callable[[MeshGraph, State], tuple[State, State]],
    graph: MeshGraph,
    state: State,
    axes: Sequence[str],
) -> tuple[State, State]:
    """The mean of what `work` gives for all 2^k mirror images along k axes, each mirrored back.

    A mean over a group of reflections R, (1/|G|) Σ R⁻¹ f(R u), commutes with each of them, so the
    prediction has the symmetry exactly; a mean over single reflections would not.

    Arguments:
        simulator: knows what the input columns mean.
        work: (graph, state) to two tables {field: (N, m c)} of decoded values.
        graph: with `static`.
        state: {field: (N, c)}.
        axes: any of "x", "y", "z", each once.
    """
    if not axes:
        return work(graph, state)
    axis, rest = axes[0], axes[1:]
    own = averaged(simulator, work, graph, state, rest)
    other = averaged(simulator, work, *mirror(simulator, graph, state, axis), rest)
    dim = graph.pos.shape[1]

    def mean(values: State, image: State) -> State:
        out = {}
        for name, x in values.items():
            flip = reflection(simulator.schema[name], axis, dim).to(x)
            out[name] = 0.5 * (x + image[name] * flip.repeat(x.shape[1] // len(flip)))
        return out

    return mean(own[0], other[0]), mean(own[1], other[1])


def own_columns(simulator: Simulator) -> int:
    """Columns of `static` after the node types: features, parameters at nodes, global ones."""
    norm = simulator.normaliser
    features = sum(len(norm.mean(f"feature.{name}")) for name in simulator.features)
    return features + sum(f.components for f in simulator.schema.parameters)
