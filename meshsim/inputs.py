"""What goes into a simulator: graphs, node values and parameters of a mesh, not yet normalised."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meshsim.body import oriented
from meshsim.check import InputError, check_finite, check_known, check_length, nearest
from meshsim.data.schema import Field, Schema
from meshsim.data.statistics import Normaliser
from meshsim.mesh import ArrayLike, Mesh, as_tensor
from meshsim.potential import AXES, Potential, at_points
from meshsim.ranges import values as numbers
from meshsim.rollout import INTEGRATORS, State
from meshsim.sample import Sample
from meshsim.series import Series

if TYPE_CHECKING:
    from meshsim.graph import MeshGraph

FLOW = ("potential_cp", "potential_velocity")
WOUND = ("normal", "curvature")  # turn round with a surface's cells


class BoundaryRule:
    """On which node types the values of a state are given rather than predicted.

    Arguments:
        fixed: {field: names of node types}. A field that is not named follows the default: a
            vector is given everywhere but on NORMAL and OUTFLOW (Pfaff et al., ICLR 2021, A.1),
            a scalar nowhere.
    """

    def __init__(self, fixed: Mapping[str, Sequence[str]] | None = None):
        self.fixed = {name: tuple(types) for name, types in (fixed or {}).items()}

    def check(self, schema: Schema) -> None:
        """Raise `InputError` for a field that is no state, or an unknown node type."""
        for name in self.fixed:
            check_known(name, [f.name for f in schema.states], "state in the boundary rule:")
        for field in schema.states:
            self.types(field)

    def types(self, field: Field) -> tuple[str, ...]:
        """Names of the node types on which a field is given.

        Raises:
            InputError: an unknown node type.
        """
        from meshsim.graph import NodeType

        names = [t.name for t in NodeType if t.name != "SIZE"]
        for name in self.fixed.get(field.name, ()):
            check_known(name, names, f"node type of the boundary rule for {field.name!r}:")
        default = (
            [n for n in names if n not in ("NORMAL", "OUTFLOW")] if field.components > 1 else []
        )
        return self.fixed.get(field.name, tuple(default))

    def free(self, field: Field, node_type: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
        """(N,) bool: nodes on which the field is predicted."""
        from meshsim.graph import NodeType

        given = torch.tensor([int(NodeType[name]) for name in self.types(field)])
        return ~torch.isin(node_type, given.to(node_type))


def location_of(schema: Schema) -> str:
    """ "point" or "cell": where the states and targets of a schema sit."""
    return next(f.location for f in (*schema.states, *schema.targets))


def check_parts(
    schema: Schema,
    normaliser: Normaliser,
    integrator: str,
    bundle: int,
    dt: float | None,
    features: Sequence[str],
    symmetry: Sequence[str],
) -> None:
    """Raise `InputError` unless the parts of a simulator fit together; see `Simulator`."""
    check_known(integrator, INTEGRATORS, "integrator")
    if not (schema.states or schema.targets):
        raise InputError("the schema has no state and no target: nothing to predict")
    places = {f.location for f in (*schema.states, *schema.targets)}
    if len(places) > 1 or not places <= {"point", "cell"}:
        raise InputError(
            "states and targets: expected all at points or all in cells, got "
            + ", ".join(f"{f.name} ({f.location})" for f in schema)
        )
    if schema.states and not (isinstance(dt, int | float) and 0 < dt < math.inf):
        raise InputError(f"`dt`: expected a time step above 0, got {dt}")
    for field in schema.parameters:
        if field.location not in ("global", location_of(schema)):
            raise InputError(
                f"parameter {field.name!r}: expected location global or {location_of(schema)},"
                f" got {field.location}"
            )
    for axis in symmetry:
        check_known(axis, AXES, "axis of symmetry")
    whole = isinstance(bundle, int) and bundle >= 1
    if not whole or (bundle > 1 and integrator not in ("euler", "direct")):
        raise InputError(
            f"`bundle`: expected 1 (or more with euler or direct), got {bundle} with {integrator}"
        )
    widths = {f.name: f.components for f in schema}
    if integrator != "direct":
        widths |= {f"{f.name}.rate": bundle * f.components for f in schema.states}
    for name in ["edge_attr", *(f"feature.{name}" for name in features), *widths]:
        if name not in normaliser:
            raise InputError(f"statistics of {name!r} are missing")
        got = len(normaliser.mean(name))
        if got != widths.get(name, got):
            raise InputError(
                f"statistics of {name!r}: expected {widths[name]} components, got {got}"
            )


def raw_graph(
    mesh: Mesh,
    location: str = "point",
    features: Sequence[str] = (),
    node_types: Mapping[str, str] | None = None,
    periodic: Sequence[Sequence[str]] = (),
    potential: Potential | None = None,
) -> MeshGraph:
    """The graph of a mesh before normalisation, with `feature_<name>` (N, F) for each feature.

    Features are those of `graph.features`, normal and curvature of surfaces outwards however they
    are wound, and, at points of surfaces, potential_cp and potential_velocity: of the flow
    `potential` about them.
    """
    from meshsim.graph import cell_graph, from_points, node_graph
    from meshsim.graph.features import cell_features, point_features

    pairs = [tuple(pair) for pair in periodic] or None
    wound = oriented(mesh) if any(name in WOUND for name in features) else mesh
    if location == "cell":
        cells = cell_graph(mesh, periodic=pairs)
        for name in features:
            if name in FLOW:
                raise InputError(f"feature {name!r}: needs fields at points, these are in cells")
            setattr(
                cells, f"feature_{name}", cell_features(wound if name in WOUND else mesh, [name])
            )
        return cells
    if node_types is not None:  # a mesh need not have every boundary of the training meshes
        node_types = {k: v for k, v in node_types.items() if k in mesh.boundaries}
    graph = node_graph(mesh, node_types=node_types, periodic=pairs)
    for name in features:
        if name in FLOW:
            if potential is None:
                raise InputError(f"feature {name!r}: needs [simulator.potential], a direction")
            flow = at_points(mesh, potential)
            values = from_points(graph, flow[:, :1] if name == FLOW[0] else flow[:, 1:])
        else:
            values = point_features(wound if name in WOUND else mesh, [name])
            values = from_points(graph, values)
        check_length(values, len(graph.pos), f"feature {name}", "nodes")
        setattr(graph, f"feature_{name}", values)
    return graph


def node_values(
    graph: MeshGraph, mesh: Mesh, field: Field, role: str, location: str
) -> Float[Tensor, "N c"]:
    """(N, c): a field of a mesh at the nodes of its graph.

    Raises:
        InputError: the field is missing, of the wrong shape, or not finite.
    """
    from meshsim.graph import from_points

    held = mesh.point_fields if location == "point" else mesh.cell_fields
    if field.name not in held:
        raise InputError(
            f"the mesh lacks the {role} {field.name!r} in its {location} fields:"
            f" {nearest(field.name, held)}"
        )
    values = held[field.name]
    values = values.reshape(len(values), -1)
    if values.shape[1] != field.components:
        raise InputError(
            f"{role} {field.name!r}: expected {field.components} components, got {values.shape[1]}"
        )
    check_finite(values, field.name)
    if not values.is_floating_point():
        values = values.double()
    values = values.to(graph.pos.device)
    return from_points(graph, values) if location == "point" else values


def mesh_fields(schema: Schema, graph: MeshGraph, values: State) -> dict[str, Tensor]:
    """Node values {field: (N, c)} as fields of the mesh, (P, c) or (P,), in its own order."""
    from meshsim.graph import to_points

    out = {}
    for name, x in values.items():
        rows = to_points(graph, x) if location_of(schema) == "point" else x
        rows = rows.detach().cpu()
        out[name] = rows[:, 0] if schema[name].components == 1 else rows
    return out


def check_dimension(normaliser: Normaliser, mesh: Mesh) -> None:
    """Raise `InputError` unless the mesh has as many dimensions as those of the training."""
    dim = len(normaliser.mean("edge_attr")) - 1
    if mesh.dim != dim:
        raise InputError(f"expected a {dim}-D mesh, as those of the training, got {mesh.dim}-D")


def opened(
    data: Mesh | Series | Sample,
    parameters: Mapping[str, ArrayLike] | None,
    schema: Schema,
    branch: str,
) -> tuple[Mesh | Series, dict[str, ArrayLike]]:
    """The mesh or series in what a user calls a simulator with, and the global parameters known.

    Arguments:
        data: a mesh, a series, or a sample, whose `branch` ("" for the only one) is taken.
        parameters: {name: value}, over those of the sample.

    Raises:
        InputError: no such branch, an unknown parameter, or points that move.
    """
    known: dict[str, ArrayLike] = {}
    content: Mesh | Series
    if isinstance(data, Sample):
        known = dict(data.parameters)
        if branch:
            check_known(branch, data.branches, f"branch of sample {data.name!r}:")
        content = data.branches[branch] if branch else data.branch
    else:
        content = data
    names = [f.name for f in schema.parameters if f.location == "global"]
    for name in parameters or {}:
        check_known(name, names, "parameter")
    if isinstance(content, Series) and content.points is not None:
        raise InputError("the points of the series move: no simulator here can follow them")
    given = numbers(parameters or {})
    return content, {k: v for k, v in known.items() if k in names} | given


def parameter_rows(
    schema: Schema, given: Mapping[str, ArrayLike], dtype: torch.dtype
) -> dict[str, Float[Tensor, "1 c"]]:
    """{parameter: (1, c)} of every global parameter of a schema.

    Raises:
        InputError: one is missing, of the wrong size, or not finite.
    """
    wanted = [f for f in schema.parameters if f.location == "global"]
    out = {}
    for field in wanted:
        if field.name not in given:
            names = ", ".join(f.name for f in wanted)
            raise InputError(f"parameter {field.name!r} is missing (needed: {names})")
        row = as_tensor(given[field.name]).reshape(1, -1).to(dtype)
        if row.shape[1] != field.components:
            raise InputError(
                f"parameter {field.name!r}: expected {field.components} values, got {row.shape[1]}"
            )
        check_finite(row, f"parameter {field.name}")
        out[field.name] = row
    return out
