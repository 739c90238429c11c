"""Simulator: what a user saves, loads and calls."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meshsim import native
from meshsim.check import InputError
from meshsim.data.schema import Field, Schema
from meshsim.data.statistics import Normaliser
from meshsim.inputs import (
    BoundaryRule,
    check_dimension,
    check_parts,
    location_of,
    mesh_fields,
    node_values,
    opened,
    parameter_rows,
    raw_graph,
)
from meshsim.mesh import ArrayLike, Mesh
from meshsim.potential import Potential
from meshsim.ranges import body_outside, outside, without_count
from meshsim.rollout import INTEGRATORS, State, rollout
from meshsim.sample import Sample
from meshsim.series import Series
from meshsim.simulator_steps import begin, bundled, mean_and_spread, stepper
from meshsim.symmetry import averaged

if TYPE_CHECKING:
    from meshsim.graph import MeshGraph

__all__ = ["BoundaryRule", "Simulator"]


class Simulator(nn.Module):
    """A trained network and everything needed to call it on a mesh.

    A step encodes the state, calls the model on the mesh's graph, decodes rates (or the next
    state, with "direct"), integrates them over `dt` and puts the given boundary values back.

    Arguments:
        model: `model(graph) -> {branch: {field: (N, c)}}` on normalised inputs.
        schema: the fields.
        normaliser: statistics of fields, rates ("velocity.rate"), "edge_attr" and features
            ("feature.normal").
        integrator: a name of `rollout.INTEGRATORS`.
        bundle: M, how many frames one pass predicts (see `advance`); more than one with "euler"
            and "direct" only.
        boundary: where state values are given.
        features: names of geometry features, inputs of every node.
        dt: time of one step; None when nothing advances in time.
        node_types: {boundary: node type}; None guesses from the boundaries' names.
        periodic: pairs of boundaries to join.
        potential: the flow of the features "potential_…".
        symmetry: axes over whose mirror image every prediction is averaged.
        ranges: {parameter: (lowest, highest)} seen in training; "box.x", … and "low.x", … of
            bodies, see `meshsim.ranges`.
        branch: the branch of a sample that it works on; "" for the only one.
        configuration: the recipe it was trained with, for the record.

    Raises:
        InputError: parts that do not fit together.
    """

    def __init__(
        self,
        model: nn.Module,
        schema: Schema,
        normaliser: Normaliser,
        *,
        integrator: str = "euler",
        bundle: int = 1,
        boundary: BoundaryRule | None = None,
        features: Sequence[str] = (),
        dt: float | None = None,
        node_types: Mapping[str, str] | None = None,
        periodic: Sequence[Sequence[str]] = (),
        potential: Potential | None = None,
        symmetry: Sequence[str] = (),
        ranges: Mapping[str, Sequence[float]] | None = None,
        branch: str = "",
        configuration: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.model, self.schema, self.normaliser = model, schema, normaliser
        self.integrator, self.bundle = integrator, bundle
        self.boundary = boundary or BoundaryRule()
        self.features, self.dt = tuple(features), dt
        self.node_types = None if node_types is None else dict(node_types)
        self.periodic = [tuple(pair) for pair in periodic]
        self.potential, self.symmetry = potential, tuple(symmetry)
        self.ranges = {name: (float(r[0]), float(r[1])) for name, r in (ranges or {}).items()}
        self.branch, self.configuration = branch, configuration
        self.precision = "fp32"  # of the matrix products; training sets it
        check_parts(schema, normaliser, integrator, bundle, dt, self.features, self.symmetry)
        self.boundary.check(schema)

    @property
    def location(self) -> str:
        """ "point" or "cell": where states and targets sit, and with it which graph is used."""
        return location_of(self.schema)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; inputs are cast to it."""
        return next((p.dtype for p in self.parameters()), torch.float32)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    # --- a mesh to a graph, a state and back ---

    def geometry(self, mesh: Mesh) -> MeshGraph:
        """The graph of a mesh with all inputs that neither time nor global parameters change.

        Returns:
            A graph with normalised `edge_attr` (E, D+1); `geometry` (N, 9 + features +
            parameters at nodes); `free` (N, states), 1 where a state is predicted.
        """
        check_dimension(self.normaliser, mesh)
        graph = raw_graph(
            mesh, self.location, self.features, self.node_types, self.periodic, self.potential
        )
        return self.normalised(graph, mesh)

    def normalised(self, graph: MeshGraph, mesh: Mesh) -> MeshGraph:
        """What `geometry` returns, of a `raw_graph` made before."""
        from meshsim.graph import NodeType

        graph = copy.copy(graph).to(self.device)
        edges = self.normaliser.encode("edge_attr", graph.edge_attr)  # (E, D+1)
        one_hot = nn.functional.one_hot(graph.node_type, int(NodeType.SIZE))  # (N, 9)
        parts = [one_hot.to(self.dtype)]
        for name in self.features:
            values = getattr(graph, f"feature_{name}")
            parts.append(self.normaliser.encode(f"feature.{name}", values).to(self.dtype))
            delattr(graph, f"feature_{name}")
        for field in self.schema.parameters:
            if field.location != "global":
                values = self._nodes(graph, mesh, field, "parameter")
                parts.append(self.normaliser.encode(field.name, values))
        free = [self.boundary.free(f, graph.node_type).to(self.dtype) for f in self.schema.states]
        graph.edge_attr = edges.to(self.dtype)
        graph.geometry = torch.cat(parts, 1)  # (N, S)
        graph.free = torch.stack(free, 1) if free else parts[0][:, :0]  # (N, states)
        return graph

    def with_parameters(self, graph: MeshGraph, parameters: Float[Tensor, "B P"]) -> MeshGraph:
        """A graph (or batch) with its whole static input `static` (N, S + P).

        Arguments:
            graph: of `geometry`, or several of them batched.
            parameters: (B, P) normalised, a row a graph; see `encode_parameters`.
        """
        out = copy.copy(graph)
        if parameters.shape[1] == 0:
            out.static = graph.geometry
            return out
        rows = getattr(graph, "batch", None)
        wide = parameters.expand(graph.geometry.shape[0], -1) if rows is None else parameters[rows]
        out.static = torch.cat([graph.geometry, wide], 1)
        return out

    def graph(
        self, data: Mesh | Series | Sample, parameters: Mapping[str, ArrayLike] | None = None
    ) -> MeshGraph:
        """The graph of a mesh or sample with all its static inputs.

        Raises:
            InputError: a parameter that is missing, unknown or of the wrong size.
        """
        content, known = opened(data, parameters, self.schema, self.branch)
        return self._ready(content.mesh if isinstance(content, Series) else content, known)

    def _ready(self, mesh: Mesh, known: Mapping[str, ArrayLike]) -> MeshGraph:
        return self.with_parameters(self.geometry(mesh), self.encode_parameters(known, mesh))

    def encode_parameters(
        self, parameters: Mapping[str, ArrayLike], mesh: Mesh | None = None
    ) -> Float[Tensor, "1 P"]:
        """(1, P): the global parameters, normalised; those not given come from the mesh."""
        held = {} if mesh is None else mesh.global_fields
        rows = parameter_rows(self.schema, {**held, **parameters}, self.dtype)
        parts = [self.normaliser.encode(name, row.to(self.device)) for name, row in rows.items()]
        return torch.cat([torch.zeros(1, 0, dtype=self.dtype, device=self.device), *parts], 1)

    def outside(self, parameters: Mapping[str, ArrayLike], mesh: Mesh | None = None) -> list[str]:
        """A sentence for each parameter, and side of the body, outside the range of the training.

        Parameters that are not given are those of the mesh.
        """
        if mesh is None:
            return outside(self.ranges, parameters)
        found = outside(self.ranges, {**mesh.global_fields, **parameters})
        return found + body_outside(self.ranges, mesh)

    def state(self, graph: MeshGraph, mesh: Mesh) -> State:
        """{field: (N, c)}: the states of a mesh at the nodes of its graph.

        Raises:
            InputError: a field is missing, of the wrong shape, or not finite.
        """
        return {f.name: self._nodes(graph, mesh, f, "state") for f in self.schema.states}

    def _nodes(self, graph: MeshGraph, mesh: Mesh, field: Field, role: str) -> Tensor:
        values = node_values(graph, mesh, field, role, self.location)
        return values.to(self.device, self.dtype)

    # --- the step ---

    def forward(self, graph: MeshGraph, state: State) -> State:
        """The model's outputs, still normalised: {field: (N, M c)}, rates under the state's name.

        A graph of `with_edges` brings its edges.
        """
        parts = [self.normaliser.encode(f.name, state[f.name]) for f in self.schema.states]
        inputs = copy.copy(graph)
        inputs.x = torch.cat([*parts, graph.static], 1)  # (N, nodes_in)
        edges = getattr(graph, "edge_latent", None)
        with self._autocast():
            out = self.model(inputs) if edges is None else self.model(inputs, edges)
        return {name: y.to(graph.static.dtype) for name, y in next(iter(out.values())).items()}

    def with_edges(self, graph: MeshGraph) -> MeshGraph:
        """The graph with its edges encoded, where the model can: many passes then share them."""
        encode = getattr(self.model, "encode_edges", None)
        if not callable(encode):
            return graph
        out = copy.copy(graph)
        with self._autocast():
            out.edge_latent = encode(graph)
        return out

    def each(self) -> list[Simulator]:
        """The simulators of an ensemble's members, which share all but the model; else itself."""
        from meshsim.models.ensemble import GraphEnsemble

        if not isinstance(self.model, GraphEnsemble):
            return [self]
        alone = []
        for member in self.model.members:
            one = copy.copy(self)
            one._modules = {**self._modules, "model": member}
            alone.append(one)
        return alone

    def _autocast(self) -> torch.autocast:
        # on a CPU only where the compiled blocks have matrix units for it: elsewhere it is slower
        faster = self.device.type != "cpu" or native.isa() == "amx"
        low = self.precision == "bf16" and faster
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low)

    def evaluate(self, graph: MeshGraph, state: State) -> tuple[State, State]:
        """Rates of the states (next states, with "direct") and the targets at this state.

        Rates are 0 where values are given, so that every stage of an integrator keeps them.

        Returns:
            {field: (N, M c)} for the M frames of a bundle, first frame first, and {field: (N, c)}.
        """
        rates, targets = averaged(self, self._decoded, graph, state, self.symmetry)
        for i, field in enumerate(self.schema.states):
            free = graph.free[:, i : i + 1]  # (N, 1)
            if self.integrator == "direct":
                held = state[field.name].repeat(1, self.bundle)
                rates[field.name] = torch.where(free > 0, rates[field.name], held)
            else:
                rates[field.name] = rates[field.name] * free
        return rates, targets

    def _decoded(self, graph: MeshGraph, state: State) -> tuple[State, State]:
        out = self(graph, state)
        rate = "" if self.integrator == "direct" else ".rate"
        rates = {}
        for f in self.schema.states:
            y = out[f.name]
            if self.integrator == "direct":  # each frame of the bundle by the same statistics
                y = y.reshape(y.shape[0], self.bundle, f.components)
            rates[f.name] = self.normaliser.decode(f.name + rate, y).reshape(y.shape[0], -1)
        return rates, {
            f.name: self.normaliser.decode(f.name, out[f.name]) for f in self.schema.targets
        }

    def rate(self, graph: MeshGraph, state: State) -> State:
        """{field: (N, M c)} rates of the states, 0 where values are given."""
        return self.evaluate(graph, state)[0]

    def step(self, graph: MeshGraph, state: State, dt: float | None = None) -> State:
        """The state one step later.

        Values on nodes where the boundary rule fixes them stay; arguments as for `advance`.
        """
        return {name: x[0] for name, x in self.advance(graph, state, dt)[0].items()}

    def advance(
        self,
        graph: MeshGraph,
        state: State,
        dt: float | None = None,
        given: State | None = None,
    ) -> tuple[State, State]:
        """The next M states in one pass, and the targets at the state it starts from.

        With M > 1 (temporal bundling: Brandstetter, Worrall and Welling, ICLR 2022, §3.1) the
        model gives the mean rates r_i from now to i steps ahead: u(t + i dt) = u(t) + i dt r_i.

        Arguments:
            graph: of `graph`.
            state: {field: (N, c)}.
            dt: time of one step; None for the simulator's own.
            given: {field: (M, N, c)}, values to put on the nodes where the boundary rule fixes
                them; None keeps what the state has there.

        Returns:
            {field: (M, N, c)}, {target: (N, c)}.
        """
        span = float(self.dt or 0.0) if dt is None else dt
        if self.bundle == 1:
            targets: list[State] = []

            def rate(u: State) -> State:
                rates, now = self.evaluate(graph, u)
                targets.append(now)
                return rates

            new = INTEGRATORS[self.integrator](rate, state, span)
            ahead = {name: x[None] for name, x in new.items()}  # (1, N, c)
            now = targets[0]
        else:
            rates, now = self.evaluate(graph, state)
            ahead = {name: bundled(self, rates[name], u, span) for name, u in state.items()}
        if given is not None:
            for i, field in enumerate(self.schema.states):
                free = graph.free[:, i : i + 1] > 0  # (N, 1)
                ahead[field.name] = torch.where(free, ahead[field.name], given[field.name])
        return ahead, now

    # --- what a user calls ---

    @torch.no_grad()
    def predict(
        self,
        data: Mesh | Series | Sample,
        parameters: Mapping[str, ArrayLike] | None = None,
        *,
        spread: bool = False,
    ) -> Mesh:
        """The mesh with the predicted targets (without targets: with the states one step later).

        Arguments:
            data: a mesh; a series or sample stands for its first frame.
            parameters: {name: value}, over those of the sample.
            spread: add "<field>_spread", the deviation over the members of an ensemble.

        Returns:
            The same mesh, points and cells in their order, with the new fields. Where parameters
            or body lie outside the training a warning says so, and the global field
            "extrapolation" counts how many.

        Raises:
            InputError: something is missing or does not fit.
            WorkError: a prediction is not finite.
        """
        members = self.each() if spread else [self]
        if spread and len(members) < 2:
            raise InputError("`spread`: needs an ensemble (model.members), this is one network")
        content, known = opened(data, parameters, self.schema, self.branch)
        mesh = content.frame(0) if isinstance(content, Series) else content
        count = self._warn(known, mesh)
        graph = self._ready(mesh, known)
        state = self.state(graph, mesh)
        answers = [
            m.evaluate(graph, state)[1] if m.schema.targets else m.step(graph, state)
            for m in members
        ]
        found, spreads = mean_and_spread(answers)
        fields = mesh_fields(self.schema, graph, found)
        if spread:
            known_spreads = mesh_fields(self.schema, graph, spreads)
            fields |= {f"{name}_spread": y for name, y in known_spreads.items()}
        mesh = mesh.with_fields(**{self.location: fields})
        return mesh.replace(global_fields=without_count(mesh.global_fields, count))

    @torch.no_grad()
    def rollout(
        self,
        data: Mesh | Series | Sample,
        steps: int | None = None,
        *,
        parameters: Mapping[str, ArrayLike] | None = None,
        start: float | None = None,
        boundary: Series | None = None,
        progress: Callable[..., None] | None = None,
    ) -> Series:
        """Steps forward in time from a state.

        Arguments:
            data: a mesh with the state, or a series or sample to start in.
            steps: how many; None goes on to the end of the series.
            parameters: {name: value}, over those of the sample.
            start: the time to start at; None for the first.
            boundary: the same mesh with the values to put on given nodes, at the times of the
                rollout; None holds those of the start.
            progress: called with (done, steps).

        Returns:
            A series on the same mesh: the state it starts from, then `steps` more; targets at
            each of them.

        Raises:
            InputError: no state to start from, parameters missing, a start outside the series.
            WorkError: the rollout blew up.
        """
        if not self.schema.states or self.dt is None:
            raise InputError("this simulator has no state that advances in time: use predict")
        content, known = opened(data, parameters, self.schema, self.branch)
        mesh, first_time, steps = begin(self, content, start, steps)
        self._warn(known, mesh)
        graph = self.with_edges(self._ready(mesh, known))
        times = [first_time + i * self.dt for i in range(steps + 1)]
        names = [f.name for f in (*self.schema.states, *self.schema.targets)]
        frames: dict[str, list[Tensor]] = {name: [] for name in names}
        first = self.state(graph, mesh)
        step = stepper(self, graph, times, boundary)
        for state in chain([first], rollout(step, first, steps, progress)):
            targets = self.evaluate(graph, state)[1] if self.schema.targets else {}
            for name, x in mesh_fields(self.schema, graph, state | targets).items():
                frames[name].append(x)
        held = mesh.point_fields if self.location == "point" else mesh.cell_fields
        rest = {name: values for name, values in held.items() if name not in frames}
        mesh = mesh.replace(**{f"{self.location}_fields": rest})
        if self.location == "point":
            return Series(mesh, times, frames)
        return Series(mesh, times, cell_fields=frames)

    def _warn(self, parameters: Mapping[str, ArrayLike], mesh: Mesh) -> int:
        sentences = self.outside(parameters, mesh)
        for sentence in sentences:
            warnings.warn(sentence, stacklevel=4)  # no_grad's wrapper stands in between
        return len(sentences)

    def save(self, folder: Path | str) -> None:
        """Write `model.safetensors` and `simulator.json` into a folder; see `load`."""
        from meshsim.simulator_files import save

        save(self, Path(folder))

    def tensors(
        self, data: Mesh | Series | Sample, parameters: Mapping[str, ArrayLike] | None = None
    ) -> tuple[State, dict[str, Tensor]]:
        """What an exported program is called with; arguments as for `graph`."""
        from meshsim.simulator_export import tensors

        content, known = opened(data, parameters, self.schema, self.branch)
        mesh = content.frame(0) if isinstance(content, Series) else content
        graph = self._ready(mesh, known)
        return self.state(graph, mesh), tensors(self, graph)

    def export(self, path: Path | str) -> None:
        """Write `advance` by `dt` as a program of torch's own operations, for `torch.export.load`.

        `torch.export.load(path).module()(*tensors)`, with `tensors` of any mesh, gives what
        `advance` gives, and needs torch alone.
        """
        from meshsim.simulator_export import export

        export(self, Path(path))

    @classmethod
    def load(
        cls, folder: Path | str, models: Mapping[str, Callable[..., nn.Module]] | None = None
    ) -> Simulator:
        """Read what `save` wrote; nothing is unpickled.

        Arguments:
            folder: of `save`, or a finished training run.
            models: {name in simulator.json: class}; None for those of `meshsim.models`.

        Raises:
            InputError: a missing or damaged file, tensors that do not fit the architecture.
        """
        from meshsim.simulator_files import load

        return load(cls, Path(folder), models)
