"""From a recipe and a store to a simulator that is ready to be trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from meshsim.check import InputError, check_known
from meshsim.data.frames import Picked
from meshsim.data.schema import Schema, find_in
from meshsim.data.statistics import Moments, Normaliser, blocks, rate_moments
from meshsim.data.store import Store
from meshsim.data.windows import Windows
from meshsim.inputs import BoundaryRule, raw_graph
from meshsim.mesh import Mesh
from meshsim.models.ensemble import GraphEnsemble
from meshsim.potential import AXES
from meshsim.ranges import of_bodies, placed_by
from meshsim.series import Series
from meshsim.simulator import Simulator
from meshsim.simulator_files import known_models
from meshsim.train.batches import mesh_key
from meshsim.train.config import Config

if TYPE_CHECKING:
    from meshsim.graph import MeshGraph


@dataclass
class Facts:
    """What the training samples say; enough to build the simulator without reading them again.

    Arguments:
        normaliser: statistics of fields, rates of each lag, edges and features.
        ranges: {parameter: (lowest, highest)}, and of bodies; see `meshsim.ranges`.
        dt: time of one step; None when nothing advances.
        dim: D.
        raw: {mesh key: graph before normalisation}; only right after gathering.
    """

    normaliser: Normaliser
    ranges: dict[str, tuple[float, float]]
    dt: float | None
    dim: int
    raw: dict[str, MeshGraph]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the run's record."""
        return {
            "statistics": self.normaliser.to_dict(),
            "ranges": {name: list(pair) for name, pair in self.ranges.items()},
            "dt": self.dt,
            "dim": self.dim,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Facts:
        """What `to_dict` gave."""
        ranges = {name: (low, high) for name, (low, high) in raw["ranges"].items()}
        return cls(Normaliser.from_dict(raw["statistics"]), ranges, raw["dt"], raw["dim"], {})


def schema_of(config: Config, store: Store) -> Schema:
    """The fields to train on.

    Fields of the recipe with a role are the schema, and take what they do not say from the
    store's; if none has a role, they change entries of the store's schema.
    """
    held = {} if store.schema is None else store.schema.to_dict()
    own = {name: held.get(name, {}) | entry for name, entry in config.fields.items()}
    table = own if any("role" in f for f in config.fields.values()) else held | own
    if not table:
        raise InputError(f"{store.path} has no schema and the recipe no [fields]: nothing to learn")
    return Schema.from_dict(table)


def windows_of(config: Config, store: Store, schema: Schema, length: int) -> Windows:
    """Windows of `length` states over the training samples."""
    data = config.data
    frames = (data.frames[0], data.frames[1]) if data.frames else None
    return Windows(
        store,
        data.train,
        length if schema.states else 1,
        data.stride,
        schema=schema,
        branch=data.branch or None,
        frames=frames,
        cache_bytes=int(data.memory * 1e9),
    )


def gather(
    config: Config,
    store: Store,
    schema: Schema,
    progress: Callable[..., None] | None = None,
) -> Facts:
    """Exact statistics over the training split, graphs and geometry features included."""
    names = store.members(config.data.train)
    parts = [part for name in names for part in _parts(store, name, config)]
    table = _field_moments(config, store, schema)
    seen: dict[str, MeshGraph] = {}
    extra: dict[str, Moments] = {}
    cell = any(f.location == "cell" for f in (*schema.states, *schema.targets))
    settings = config.simulator
    memory = 0.0
    boundaries = {b for p in parts for b in (p.mesh if isinstance(p, Series) else p).boundaries}
    for name in settings.node_types or {}:
        check_known(name, boundaries, "boundary in simulator.node_types:")
    inputs = [f.name for f in schema.parameters if f.location != "global"]
    keys: set[str] = set()
    for i, part in enumerate(parts):
        mesh = part.mesh if isinstance(part, Series) else part
        key = mesh_key(mesh, inputs)
        if key not in keys:
            keys.add(key)
            graph = raw_graph(
                mesh,
                "cell" if cell else "point",
                settings.features,
                settings.node_types,
                settings.periodic,
                settings.potential.flow(),
            )
            features = {f"feature.{n}": getattr(graph, f"feature_{n}") for n in settings.features}
            for name, values in {"edge_attr": graph.edge_attr, **features}.items():
                extra.setdefault(name, Moments(values.shape[1])).update(values)
            memory += sum(v.nbytes for v in graph.to_dict().values() if hasattr(v, "nbytes"))
            if memory < config.data.memory * 5e8:
                seen[key] = graph
        if progress is not None:
            progress(i + 1, len(parts), "reading the training samples")
    ranges = {
        f.name: (float(table[f.name].min.min()), float(table[f.name].max.max()))
        for f in schema.parameters
        if f.location == "global"
    }
    normaliser = _normaliser({**table, **extra}, schema, settings.bundle)
    dt = _time_step(config, store, names) if schema.states else None
    dims = {(p.mesh if isinstance(p, Series) else p).dim for p in parts}
    if len(dims) != 1:
        raise InputError(f"{store.path}: meshes of different dimension ({sorted(dims)})")
    ranges |= _of_surfaces(config, schema, parts)
    return Facts(normaliser, ranges, dt, dims.pop(), seen)


def _of_surfaces(
    config: Config, schema: Schema, parts: Sequence[Mesh | Series]
) -> dict[str, tuple[float, float]]:
    """Ranges of the bodies, where steady fields are predicted on their surfaces."""
    meshes = [p.mesh if isinstance(p, Series) else p for p in parts]
    if schema.states or any(m.cell_dim != m.dim - 1 for m in meshes):
        return {}
    settings = config.simulator
    placed = AXES if "position" in settings.features else placed_by(settings.potential.flow())
    return of_bodies(torch.stack([m.box.double() for m in meshes]), placed)


def _normaliser(table: Mapping[str, Moments], schema: Schema, bundle: int) -> Normaliser:
    """Rates of all lags of a bundle side by side: (M c,) under the name of the first."""
    single = Normaliser(table, schema)
    parts = (single.mean, single.std, single.constant)
    pairs = {n: tuple(part(n) for part in parts) for n in table if ".rate@" not in n}
    for field in schema.states:
        name = f"{field.name}.rate"
        lags = [name, *(f"{name}@{lag}" for lag in range(2, bundle + 1))]
        pairs[name] = tuple(torch.cat([part(n) for n in lags]) for part in parts)
    return Normaliser(pairs)


def _parts(store: Store, name: str, config: Config) -> Sequence[Mesh | Series]:
    sample = store.sample(name)
    if config.data.branch:
        check_known(config.data.branch, sample.branches, f"branch of sample {name!r}:")
    content = sample.branches[config.data.branch] if config.data.branch else sample.branch
    return content.segments if isinstance(content, Series) else (content,)


def _field_moments(config: Config, store: Store, schema: Schema) -> dict[str, Moments]:
    """Values and rates; the rate over lag i > 1 of a bundle is "<state>.rate@i"."""
    data, bundle = config.data, config.simulator.bundle if schema.states else 1
    branch = data.branch or None
    out: dict[str, Moments] = {}
    for lag in range(1, bundle + 1):
        if data.frames:
            table = _part_of_time(config, store, schema, lag)
        else:
            table = store.statistics(
                data.train, schema=schema, stride=lag * data.stride, branch=branch
            )
        if lag == 1:
            out = dict(table)
        else:
            for f in schema.states:
                out[f"{f.name}.rate@{lag}"] = table[f"{f.name}.rate"]
    for name, moments in out.items():
        if not moments.count:
            raise InputError(f"{store.path}: {name!r}: the training samples hold no values")
    return out


def _part_of_time(config: Config, store: Store, schema: Schema, lag: int) -> dict[str, Moments]:
    """Moments over `data.frames` only, so that nothing is learned from the other frames."""
    out = {f.name: Moments(f.components) for f in schema}
    out |= {f"{f.name}.rate": Moments(f.components) for f in schema.states}
    for name in store.members(config.data.train):
        sample = store.sample(name)
        for part in _parts(store, name, config):
            total = len(part) if isinstance(part, Series) else 1
            first, end = config.data.frames[0], min(config.data.frames[1], total)
            for field in schema:
                if field.location == "global" and field.name in sample.parameters:
                    out[field.name].update(sample.parameters[field.name].reshape(1, -1))
                    continue
                for place in find_in(part, field):
                    if place.frames is None or not isinstance(part, Series):
                        assert place.values is not None
                        out[field.name].update(place.values.reshape(-1, field.components))
                        continue
                    picked = Picked(place.frames, first, 1, end - first)
                    for _, block in blocks(picked):
                        out[field.name].update(block)
                    if field.role == "state":
                        step = lag * config.data.stride
                        times = part.times[first:end]
                        out[f"{field.name}.rate"].merge(rate_moments(picked, times, step))
    return out


def _time_step(config: Config, store: Store, names: Sequence[str]) -> float:
    """Time between the states of a window, which must be the same throughout."""
    found: float | None = None
    for name in names:
        for part in _parts(store, name, config):
            if not isinstance(part, Series):
                raise InputError(f"sample {name!r}: a state needs a series in time, got one mesh")
            if part.points is not None:
                raise InputError(f"sample {name!r}: moving points are not supported yet")
            if len(part) < 2:
                continue
            steps = part.times.diff()
            low, high = float(steps.min()), float(steps.max())
            if found is None:
                found = (float(part.times[-1]) - float(part.times[0])) / (len(part) - 1)
            if low < 0.99 * found or high > 1.01 * found:
                raise InputError(
                    f"sample {name!r}: time steps of {low:g} to {high:g}"
                    f" (expected {found:g} throughout)"
                )
    if found is None:
        raise InputError("no series with two times or more among the training samples")
    return found * config.data.stride


def build(config: Config, schema: Schema, facts: Facts) -> Simulator:
    """The simulator with weights drawn from the recipe's seed."""
    settings = config.simulator
    model = model_of(config, schema, facts)
    return Simulator(
        model,
        schema,
        facts.normaliser,
        integrator=settings.integrator,
        bundle=settings.bundle,
        boundary=BoundaryRule(settings.fixed),
        features=settings.features,
        dt=facts.dt,
        node_types=settings.node_types,
        periodic=settings.periodic,
        potential=settings.potential.flow(),
        symmetry=settings.symmetry,
        ranges=facts.ranges,
        branch=config.data.branch,
        configuration=config.to_dict(),
    )


def model_of(config: Config, schema: Schema, facts: Facts) -> nn.Module:
    """The network, its inputs and outputs as wide as fields and features ask for."""
    from meshsim.graph import NodeType

    models = known_models()
    check_known(config.model.name, models, "model")
    cls = models[config.model.name]
    own = {"nodes_in", "edges_in", "outputs"}
    known = [n for n in inspect.signature(cls).parameters if n not in own]
    for name in config.model.arguments:
        check_known(name, known, f"argument of the model {config.model.name}:")
    width = len(facts.normaliser.mean("edge_attr"))
    columns = sum(f.components for f in (*schema.states, *schema.parameters))
    features = [f"feature.{name}" for name in config.simulator.features]
    columns += int(NodeType.SIZE) + sum(len(facts.normaliser.mean(name)) for name in features)
    outputs = {f.name: f.components * config.simulator.bundle for f in schema.states}
    outputs |= {f.name: f.components for f in schema.targets}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        try:
            made = [
                cls(columns, width, outputs, **config.model.arguments)
                for _ in range(config.model.members)
            ]
        except TypeError as error:
            raise InputError(f"model {config.model.name}: {error}") from error
    return made[0] if len(made) == 1 else GraphEnsemble(made)
