"""Features of each sample that `preprocess` computes on request and stores beside its fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from jaxtyping import Int
from torch import Tensor

from meshsim.body import body_of, surface_cells
from meshsim.check import InputError, check_known, nearest
from meshsim.geometry import measure
from meshsim.geometry.distance import Closest, signed_distances
from meshsim.geometry.skin import skin_curvatures, skin_normals
from meshsim.geometry.tree import Surface
from meshsim.mesh import Mesh
from meshsim.series import Series

KEYS = ("node_type", "normal", "curvature", "distance", "measure", "levels", "partition", "at")
PLACES = ("point", "cell", "both")


@dataclass(frozen=True)
class Features:
    """What to compute for a branch; keys of the configuration's table `features`.

    Arguments:
        node_type: {node type: patterns of boundary names, "wall|airfoil*"}: point field
            `node_type`, DeepMind's numbers. The first that fits a boundary counts; boundaries that
            none fits, or all with `true`, get the type that their name suggests. A point on several
            boundaries is a wall sooner than an outflow, and that sooner than an inflow.
        normal: point field `normal`: unit normals of a surface or curve as it is wound; of a mesh
            that fills space those of its outer faces, outwards, and 0 inside.
        curvature: point field `curvature`: mean curvature there, 1/R where the surface bends away
            from its normal with radius R.
        distance: names of boundaries or branches, or {name: patterns of boundary names}: fields
            `distance_<name>`, positive in the mesh and outside of a body, and `closest_<name>`,
            the vector to the nearest place.
        measure: cell and point fields `measure`: length, area or volume.
        levels: point field `level`: the coarsest of so many levels that a point is on, see
            `meshsim.graph.hierarchy`.
        partition: a number of parts, or {"parts": …, "method": "bisection" or "metis", "at":
            "point" or "cell"}: field `part`, see `meshsim.graph.partition`.
        at: "point", "cell" or "both": where distances are wanted.
    """

    node_type: bool | dict[str, str] = False
    normal: bool = False
    curvature: bool = False
    distance: dict[str, str] = field(default_factory=dict)
    measure: bool = False
    levels: int = 0
    partition: dict[str, Any] = field(default_factory=dict)
    at: str = "point"

    @classmethod
    def from_table(cls, table: Mapping[str, Any], name: str = "features") -> Features:
        """The features of a configuration's table.

        Raises:
            InputError: an unknown key (the nearest is named), a value of the wrong kind.

        >>> Features.from_table({"distance": ["airfoil"], "normal": True}).distance
        {'airfoil': ''}
        """
        for key in table:
            check_known(key, KEYS, f"key of `{name}`:")
        out = dict(table)
        types = table.get("node_type", False)
        if not isinstance(types, bool):
            types = out["node_type"] = _patterns(types, f"{name}.node_type")
            for key in types:
                check_known(key.upper(), _types(), f"node type in `{name}.node_type`:")
        for key in ("normal", "curvature", "measure"):
            if not isinstance(table.get(key, False), bool):
                raise InputError(f"`{name}.{key}`: expected true or false, got {table[key]!r}")
        wanted = table.get("distance", [])
        if isinstance(wanted, str):
            raise InputError(f"`{name}.distance`: expected [{wanted!r}], a list, got {wanted!r}")
        if isinstance(wanted, list | tuple):
            wanted = {str(key): "" for key in wanted}
        out["distance"] = _patterns(wanted, f"{name}.distance")
        if not _count(table.get("levels", 0), 0):
            raise InputError(f"`{name}.levels`: expected 0 or more, got {table['levels']!r}")
        out["partition"] = _parts(table.get("partition", {}), f"{name}.partition")
        check_known(str(table.get("at", "point")), PLACES, f"value of `{name}.at`:")
        return cls(**out)


def derive(
    branches: Mapping[str, Mesh | Series], wanted: Mapping[str, Features]
) -> dict[str, Mesh | Series]:
    """The branches of a sample with the features asked for, beside their fields.

    Arguments:
        branches: steady meshes, or series whose points rest.
        wanted: {branch: features}.

    Raises:
        InputError: a moving mesh, a feature that a mesh cannot have, a field of that name.

    >>> mesh = Mesh([[0.0, 0.0], [3.0, 0.0], [0.0, 2.0]], {"triangle": [[0, 1, 2]]})
    >>> derive({"mesh": mesh}, {"mesh": Features(measure=True)})["mesh"].point_fields["measure"]
    tensor([1., 1., 1.], dtype=torch.float64)
    """
    out = dict(branches)
    for branch, features in wanted.items():
        part = branches.get(branch)
        if part is not None:
            out[branch] = _branch(part, features, branches, branch)
    return out


def _branch(
    part: Mesh | Series, features: Features, branches: Mapping[str, Mesh | Series], branch: str
) -> Mesh | Series:
    if isinstance(part, Mesh):
        try:
            return _with_features(part, features, branches)
        except InputError as error:
            raise InputError(f"features of branch {branch!r}: {error}") from error
    if any(segment.points is not None for segment in part.segments):
        raise InputError(
            f"features of branch {branch!r}: expected a mesh that rests, got points that move"
        )
    first, *later = (
        Series(
            _branch(segment.mesh, features, branches, branch),  # type: ignore[arg-type]
            segment.times,
            segment.point_fields,
            segment.cell_fields,
        )
        for segment in part.segments
    )
    return Series(
        first.mesh, first.times, first.point_fields, first.cell_fields, later=tuple(later)
    )


def _with_features(mesh: Mesh, features: Features, branches: Mapping[str, Mesh | Series]) -> Mesh:
    points: dict[str, Tensor] = {}
    cells: dict[str, Tensor] = {}
    if features.node_type:
        points["node_type"] = node_types(mesh, features.node_type)
    if features.normal or features.curvature:
        skin = surface_cells(mesh, None)[1]
        if features.normal:
            points["normal"] = skin_normals(mesh.points, skin)
        if features.curvature:
            points["curvature"] = skin_curvatures(mesh.points, skin)
    for name, patterns in features.distance.items():
        measured = _measured(mesh, name, patterns, branches)
        for where, places, rows in (
            ("cell", lambda: mesh.cell_centres, cells),
            ("point", lambda: mesh.points, points),
        ):
            if features.at in (where, "both"):
                here = places()
                found = measured(here.detach().double())
                rows[f"distance_{name}"] = found.distance.to(here.dtype)
                rows[f"closest_{name}"] = (found.points - here).to(here.dtype)
    if features.measure:
        points["measure"] = measure.point_measures(mesh.points, mesh.cells)
        cells["measure"] = mesh.cell_measures
    if features.levels:
        from meshsim.graph import hierarchy, level_of, node_graph

        levels = hierarchy(node_graph(mesh), features.levels)
        points["level"] = level_of(levels, mesh.n_points)
    if features.partition:
        kept = points if features.partition.get("at", "point") == "point" else cells
        kept["part"] = _part(mesh, features.partition)
    for made, held in ((points, mesh.point_fields), (cells, mesh.cell_fields)):
        if twice := sorted(made.keys() & held.keys()):
            raise InputError(f"{twice[0]!r}: the file has a field of that name already")
    return mesh.with_fields(points, cells)


def node_types(mesh: Mesh, rule: bool | Mapping[str, str]) -> Int[Tensor, " N"]:
    """(N,) int64 node types of a mesh's points, by the names of its boundaries.

    Arguments:
        rule: {node type: patterns, alternatives between bars}, or True to guess.

    Raises:
        InputError: the mesh has no boundaries, patterns that fit none of them.

    >>> from meshsim import Boundary
    >>> mesh = Mesh([[0.0, 0.0], [3.0, 0.0], [0.0, 2.0]], {"triangle": [[0, 1, 2]]})
    >>> node_types(mesh.replace(boundaries={"inlet": Boundary(mesh.faces.owner[:1])}), True).sum()
    tensor(8)
    """
    from meshsim.graph import node_graph

    if not mesh.boundaries:
        raise InputError("`node_type`: the mesh has no named boundaries")
    given: dict[str, str] = {}
    for node_type, patterns in rule.items() if isinstance(rule, Mapping) else ():
        fits = _fitting(patterns, mesh)
        if not fits:
            hint = nearest(patterns, mesh.boundaries)
            raise InputError(f"`node_type.{node_type}`: no boundary fits {patterns!r}: {hint}")
        for name in fits:
            given.setdefault(name, node_type)
    kept = {name: x for name, x in mesh.point_fields.items() if name != "node_type"}
    return node_graph(mesh.replace(point_fields=kept), node_types=given).node_type


def _measured(
    mesh: Mesh, name: str, patterns: str, branches: Mapping[str, Mesh | Series]
) -> Callable[[Tensor], Closest]:
    """What measures signed distances to a boundary, or to the surface of another branch."""
    fits = _fitting(patterns, mesh) if patterns else [n for n in mesh.boundaries if n == name]
    if fits:
        points, blocks = surface_cells(mesh, fits)
        surface = Surface(points, blocks)
        return lambda places: signed_distances(surface, places)
    if patterns or name not in branches:
        known = mesh.boundaries if patterns else [*mesh.boundaries, *branches]
        said = f"{patterns or name!r}: {nearest(patterns or name, known)}"
        raise InputError(f"`distance.{name}`: no boundary fits {said}")
    body = branches[name]
    if isinstance(body, Series):
        if body.points is not None:
            raise InputError(f"`distance.{name}`: the points of that branch move")
        body = body.mesh
    return body_of(body).distance


def _part(mesh: Mesh, rule: Mapping[str, Any]) -> Tensor:
    from meshsim.graph import cell_graph, node_graph
    from meshsim.graph.partition import labels

    graph = cell_graph(mesh) if rule.get("at", "point") == "cell" else node_graph(mesh)
    return labels(graph, rule["parts"], rule.get("method", "bisection"))


def _fitting(patterns: str, mesh: Mesh) -> list[str]:
    """Names of boundaries that one of some patterns fits, alternatives between bars."""
    some = [pattern.strip() for pattern in patterns.split("|")]
    return [name for name in mesh.boundaries if any(fnmatchcase(name, p) for p in some)]


def _types() -> list[str]:
    # those of `graph.NodeType`, without loading torch_geometric to check a configuration
    return ["NORMAL", "OBSTACLE", "AIRFOIL", "HANDLE", "INFLOW", "OUTFLOW", "WALL"]


def _patterns(given: Any, name: str) -> dict[str, str]:
    if not isinstance(given, Mapping) or not all(isinstance(p, str) for p in given.values()):
        raise InputError(f"`{name}`: expected {{name: patterns of boundaries}}, got {given!r}")
    return dict(given)


def _parts(given: Any, name: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        given = {"parts": given}
    for key in given:
        check_known(key, ("parts", "method", "at"), f"key of `{name}`:")
    if given:
        if not _count(given.get("parts"), 1):
            raise InputError(f"`{name}`: expected 1 part or more, got {given.get('parts')!r}")
        check_known(str(given.get("method", "metis")), ("bisection", "metis"), f"`{name}.method`:")
        check_known(str(given.get("at", "point")), ("point", "cell"), f"value of `{name}.at`:")
    return dict(given)


def _count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
