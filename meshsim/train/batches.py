"""Batches of windows: graphs are built once for each mesh, batched once for each combination."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from meshsim.check import InputError
from meshsim.data.windows import Windows
from meshsim.geometry import measure
from meshsim.mesh import Mesh
from meshsim.rollout import State
from meshsim.simulator import Simulator
from meshsim.train.losses import node_weights
from meshsim.train.noise import order

if TYPE_CHECKING:
    from meshsim.graph import MeshGraph


@dataclass(frozen=True)
class Batch:
    """B windows on one batched graph.

    Arguments:
        graph: with `static`; `batch` says which window a node belongs to.
        states: {field: (L, N, c)}.
        targets: {field: (L, N, c)}, or (1, N, c) where they do not change in time.
        weights: {field: (N, 1)} for the loss.
        size: B.
    """

    graph: MeshGraph
    states: State
    targets: State
    weights: State
    size: int


class Kept:
    """What was made last, up to a number of bytes; the oldest goes first."""

    def __init__(self, limit: float):
        self.limit, self.size = limit, 0
        self.held: OrderedDict[Any, tuple[Any, int]] = OrderedDict()

    def get(self, key: Any, make: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        """The value of a key, made if it is not kept."""
        if key in self.held:
            self.held.move_to_end(key)
            return self.held[key][0]
        value = make()
        self.held[key] = (value, size(value))
        self.size += self.held[key][1]
        while self.size > self.limit and len(self.held) > 1:
            self.size -= self.held.popitem(last=False)[1][1]
        return value


def mesh_key(mesh: Mesh, fields: Sequence[str]) -> str:
    """A hash of all that a graph is made from: samples on one mesh share one graph."""
    h = hashlib.blake2b(digest_size=16)
    parts = [mesh.points]
    for block in mesh.cells:
        h.update(block.type.encode())
        parts += [t for t in vars(block).values() if isinstance(t, Tensor)]
    for name, boundary in sorted(mesh.boundaries.items()):
        h.update(f"{name}\n{boundary.kind}\n".encode())  # both decide the node types
        parts.append(boundary.faces)
    for name in fields:
        held = {**mesh.cell_fields, **mesh.point_fields}
        if name in held:
            parts.append(held[name])
    for part in parts:
        h.update(str((part.dtype, tuple(part.shape))).encode())
        h.update(part.detach().cpu().contiguous().numpy().tobytes())
    return h.hexdigest()


def bytes_of(graph: MeshGraph) -> int:
    """Memory of a graph's tensors."""
    return sum(v.nbytes for v in graph.to_dict().values() if isinstance(v, Tensor))


class Batches:
    """Makes the batch of any step from the windows of a store.

    Arguments:
        simulator: makes the graphs.
        windows: of the right length.
        power: see `TrainConfig.measure_power`.
        memory: bytes of graphs to keep.
        raw: {mesh key: graph without normalisation}, made while statistics were gathered.
    """

    def __init__(
        self,
        simulator: Simulator,
        windows: Windows,
        *,
        power: float = 0.0,
        memory: float = 4e9,
        raw: dict[str, MeshGraph] | None = None,
    ):
        self.simulator, self.windows, self.power = simulator, windows, power
        self.raw = raw or {}
        self._keys: dict[tuple[str, int], str] = {}
        self._rows: dict[tuple[str, int], Tensor] = {}
        # which point each node is, for meshes on which periodic points share a node
        self._nodes: dict[str, Tensor | None] = {}
        self._graphs = Kept(memory / 2)
        self._batched = Kept(memory / 2)
        self._order: tuple[tuple[int, ...], np.ndarray] | None = None

    def with_windows(self, windows: Windows) -> Batches:
        """The same graphs with windows of another length."""
        self.windows = windows
        return self

    def indices(self, seed: int, stage: int, position: int, size: int) -> list[int]:
        """The windows at `position` … `position + size - 1` of a stage.

        Each pass over the windows has its own order, which depends on seed, stage and pass only.
        """
        n = len(self.windows)
        out = []
        for i in range(position, position + size):
            key = (seed, stage, i // n, n)
            if self._order is None or self._order[0] != key:
                self._order = (key, order(*key))
            out.append(int(self._order[1][i % n]))
        return out

    def make(self, indices: Sequence[int]) -> Batch:
        """The batch of some windows."""
        loaded = [self.windows.load(i) for i in indices]
        if any(w["points"] is not None for w in loaded):
            raise InputError(f"sample {loaded[0]['name']!r}: moving points are not supported yet")
        places = [(w["name"], w["segment"]) for w in loaded]
        keys = tuple(self._key(place) for place in places)
        graph, weights = self._batched.get(
            keys, lambda: self._join(keys, places), lambda made: bytes_of(made[0])
        )
        rows = torch.cat([self._row(w) for w in loaded])  # (B, P)
        static = self.simulator.with_parameters(graph, rows)
        schema, join = self.simulator.schema, self._values
        return Batch(
            static,
            {f.name: join([w["states"][f.name] for w in loaded], keys) for f in schema.states},
            {f.name: join([w["targets"][f.name] for w in loaded], keys) for f in schema.targets},
            weights,
            len(indices),
        )

    def _values(self, parts: list[Tensor], keys: tuple[str, ...]) -> Tensor:
        """(L, ΣN, c) at the nodes, of each window's (L, P, c) or (P, c) at the points."""
        wide = [x if x.dim() == 3 else x[None] for x in parts]
        for i, key in enumerate(keys):
            nodes = self._nodes[key]
            if nodes is not None:
                wide[i] = wide[i][:, nodes]
        joined = wide[0] if len(wide) == 1 else torch.cat(wide, 1)
        return joined.to(self.simulator.device, self.simulator.dtype)

    def _key(self, place: tuple[str, int]) -> str:
        if place not in self._keys:
            inputs = [f.name for f in self.simulator.schema.parameters if f.location != "global"]
            self._keys[place] = mesh_key(self.windows.mesh(*place), inputs)
        return self._keys[place]

    def _row(self, window: dict[str, Any]) -> Tensor:
        place = (window["name"], window["segment"])
        if place not in self._rows:
            self._rows[place] = self.simulator.encode_parameters(window["parameters"])
        return self._rows[place]

    def _graph(self, key: str, place: tuple[str, int]) -> MeshGraph:
        def make() -> MeshGraph:
            mesh = self.windows.mesh(*place)
            if key in self.raw:
                graph = self.simulator.normalised(self.raw.pop(key), mesh)
            else:
                graph = self.simulator.geometry(mesh)
            graph.measure = self._measure(graph, mesh)
            shared = self.simulator.location == "point" and len(graph.pos) != mesh.n_points
            self._nodes[key] = graph.node_point.cpu() if shared else None
            return graph

        return self._graphs.get(key, make, bytes_of)

    def _measure(self, graph: MeshGraph, mesh: Mesh) -> Tensor:
        """(N,) share of the mesh's measure that a node stands for."""
        if self.power == 0:
            values = torch.ones(graph.pos.shape[0])
        elif self.simulator.location == "cell":
            values = mesh.cell_measures
        else:
            at_points = measure.point_measures(mesh.points, mesh.cells)
            values = torch.zeros(graph.pos.shape[0], dtype=at_points.dtype)
            values.index_add_(0, graph.point_node.cpu(), at_points)
        return values.to(self.simulator.device, self.simulator.dtype)

    def _join(
        self, keys: tuple[str, ...], places: Sequence[tuple[str, int]]
    ) -> tuple[MeshGraph, State]:
        from meshsim.graph import batch

        graph = batch([self._graph(k, p) for k, p in zip(keys, places, strict=True)])
        schema, rows, size = self.simulator.schema, graph.batch, len(keys)
        weights = {
            f.name: node_weights(graph.free[:, i], rows, size, graph.measure, self.power)
            for i, f in enumerate(schema.states)
        }
        everywhere = torch.ones_like(graph.measure)
        for field in schema.targets:
            weights[field.name] = node_weights(everywhere, rows, size, graph.measure, self.power)
        return graph, weights
