"""Geometry features of mesh points and of cells, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

from meshsim.check import InputError, check_known
from meshsim.geometry import measure
from meshsim.geometry.skin import skin_curvatures
from meshsim.graph.mesh_graph import NodeType
from meshsim.graph.nodes import guess_node_type
from meshsim.mesh import Mesh

# Columns of each feature; 0 stands for D, the dimension of space.
FEATURE_WIDTH = MappingProxyType(
    {
        "position": 0,
        "box_position": 0,
        "box_size": 0,
        "normal": 0,
        "curvature": 1,
        "log_measure": 1,
        "wall_distance": 1,
        "on_boundary": int(NodeType.SIZE),
    }
)


def point_features(mesh: Mesh, names: Sequence[str]) -> Float[Tensor, "N F"]:
    """Geometry features of a mesh's points, side by side.

    position: x. box_position: x within the bounding box, −1 to 1 along each axis. box_size: the
    box's sides. normal: on surfaces in 3-D the unit normal; elsewhere the unit outward normal of
    the boundary, 0 inside. curvature: mean curvature of a surface in 3-D from the umbrella
    vector, 1/R on a sphere of radius R with outward normals (within a tenth on uneven
    triangles). log_measure: log of the point's
    share of the mesh. wall_distance: to the nearest point on a boundary that is a wall, obstacle
    or airfoil by its name (on any boundary if none is); "wall_distance:NAME" for a given one.
    on_boundary: 1 in the column of each `NodeType` (by its name) on whose boundary a point lies.

    Arguments:
        mesh: any mesh.
        names: of features, in the order of the columns.

    Returns:
        (N, F), F the sum of `FEATURE_WIDTH`.

    Raises:
        InputError: an unknown feature, or one that this mesh cannot have.

    >>> mesh = Mesh([[0., 0.], [2., 0.], [0., 1.]], {"triangle": [[0, 1, 2]]})
    >>> point_features(mesh, ["box_position", "wall_distance"])[1]
    tensor([ 1., -1., 0.], dtype=torch.float64)
    """
    return _columns(mesh, names, _MADE, lambda name: _wall_distance(mesh, name, mesh.points))


def cell_features(mesh: Mesh, names: Sequence[str]) -> Float[Tensor, "C F"]:
    """Geometry features of a mesh's cells, side by side: those of `point_features` at cell centres.

    log_measure: of the cell's length, area or volume. normal: a surface's own; elsewhere the unit
    sum of the area vectors of its faces that are outside, 0 if it has none. on_boundary: of those
    that its faces are on. No curvature. wall_distance: from the centre to the nearest
    point, or centre of a face, of the boundary.

    Arguments:
        mesh: any mesh.
        names: of features, in the order of the columns.

    Returns:
        (C, F), F the sum of `FEATURE_WIDTH`.

    Raises:
        InputError: an unknown feature, or one that cells, or those of this mesh, cannot have.

    >>> square = [[0., 0.], [1., 0.], [1., 1.], [0., 1.]]
    >>> cell_features(Mesh(square, {"quad": [[0, 1, 2, 3]]}), ["wall_distance", "normal"])
    tensor([[0.5000, 0.0000, 0.0000]], dtype=torch.float64)
    """
    return _columns(
        mesh, names, _OF_CELLS, lambda name: _wall_distance(mesh, name, mesh.cell_centres)
    )


def _columns(
    mesh: Mesh,
    names: Sequence[str],
    made: Mapping[str, Callable[[Mesh], Tensor]],
    distance: Callable[[str], Tensor],
) -> Tensor:
    columns = []
    for name in names:
        kind, _, argument = name.partition(":")
        if argument and kind != "wall_distance":
            raise InputError(f"feature {name!r}: only wall_distance takes a boundary's name")
        check_known(kind, FEATURE_WIDTH, "feature")
        if kind != "wall_distance" and kind not in made:
            raise InputError(f"feature {name!r}: cells have none")
        values = distance(argument) if kind == "wall_distance" else made[kind](mesh)
        columns.append(values.to(mesh.points.dtype))
    rows = mesh.n_points if made is _MADE else mesh.n_cells
    return torch.cat([mesh.points.new_zeros(rows, 0), *columns], 1)


def _box(mesh: Mesh) -> tuple[Tensor, Tensor]:
    low, high = mesh.box
    return low, high - low  # (D,) each


def _box_position(mesh: Mesh, places: Tensor | None = None) -> Tensor:
    low, size = _box(mesh)
    return (
        2
        * ((mesh.points if places is None else places) - low - size / 2)
        / size.masked_fill(size == 0, 1.0)
    )


def _box_size(mesh: Mesh) -> Tensor:
    return _box(mesh)[1].expand(mesh.n_points, -1)


def _unit(x: Tensor) -> Tensor:
    length = x.norm(dim=1, keepdim=True)
    return x / length.masked_fill(length == 0, 1.0)


def _normal(mesh: Mesh) -> Tensor:
    if mesh.cell_dim == 2 and mesh.dim == 3:
        return measure.point_normals(mesh.points, mesh.cells)
    if mesh.cell_dim != mesh.dim:
        raise InputError(f"feature 'normal': {mesh.cell_dim}-D cells in {mesh.dim}-D have none")
    faces = mesh.faces
    outside = (faces.neighbour < 0).nonzero().squeeze(1)
    out = torch.zeros_like(mesh.points)
    for offsets, nodes in ((faces.offsets, faces.nodes), (faces.mid_offsets, faces.mid_nodes)):
        face = torch.repeat_interleave(offsets.diff())
        on = torch.isin(face, outside)
        out = out.index_add(0, nodes[on], faces.area[face[on]])
    return _unit(out)


def _curvature(mesh: Mesh) -> Tensor:
    if mesh.cell_dim != 2 or mesh.dim != 3:
        raise InputError("feature 'curvature': needs a surface, 2-D cells in 3-D")
    return skin_curvatures(mesh.points, mesh.cells)[:, None]


def _log_measure(mesh: Mesh) -> Tensor:
    size = measure.point_measures(mesh.points, mesh.cells)
    some = size[size > 0]
    floor = float(some.min()) if len(some) else 1.0  # points of no cell are as the smallest
    return size.clamp_min(floor).log()[:, None]


def _on_boundary(mesh: Mesh) -> Tensor:
    out = mesh.points.new_zeros(mesh.n_points, int(NodeType.SIZE))
    for name, part in mesh.boundaries.items():
        out[mesh.boundary_points(name), int(guess_node_type(name, part.kind))] = 1.0
    return out


def _cells_on_boundary(mesh: Mesh) -> Tensor:
    out = mesh.points.new_zeros(mesh.n_cells, int(NodeType.SIZE))
    for name, part in mesh.boundaries.items():
        out[mesh.faces.owner[part.faces], int(guess_node_type(name, part.kind))] = 1.0
    return out


def _cell_normal(mesh: Mesh) -> Tensor:
    if mesh.cell_dim == 2 and mesh.dim == 3:
        return _unit(measure.cell_normals(mesh.points, mesh.cells))
    if mesh.cell_dim != mesh.dim:
        raise InputError(f"feature 'normal': {mesh.cell_dim}-D cells in {mesh.dim}-D have none")
    faces = mesh.faces
    outside = faces.neighbour < 0
    out = mesh.points.new_zeros(mesh.n_cells, mesh.dim)
    return _unit(out.index_add(0, faces.owner[outside], faces.area[outside].to(out)))


def _cell_log_measure(mesh: Mesh) -> Tensor:
    size = mesh.cell_measures.abs()
    some = size[size > 0]
    floor = float(some.min()) if len(some) else 1.0
    return size.clamp_min(floor).log()[:, None]


def _wall_distance(mesh: Mesh, name: str, places: Tensor) -> Tensor:
    walls = (NodeType.WALL, NodeType.OBSTACLE, NodeType.AIRFOIL)
    if name:
        check_known(name, mesh.boundaries, "boundary")
        names = [name]
    else:
        kinds = {k: guess_node_type(k, b.kind) for k, b in mesh.boundaries.items()}
        names = [k for k, kind in kinds.items() if kind in walls] or list(kinds)
    if names:
        on = torch.cat([mesh.boundary_points(k) for k in names])
    else:
        faces = mesh.faces
        face = torch.repeat_interleave(faces.offsets.diff())
        on = faces.nodes[faces.neighbour[face] < 0]
    if len(on) == 0:
        raise InputError("feature 'wall_distance': the mesh has no boundary")
    wall = mesh.points[on].cpu().double()
    if places is not mesh.points:
        outer = [mesh.boundaries[k].faces for k in names] or [
            (mesh.faces.neighbour < 0).nonzero()[:, 0]
        ]
        wall = torch.cat([wall, mesh.faces.centre[torch.cat(outer)].cpu().double()])
    distance, _ = cKDTree(wall.numpy()).query(places.cpu().double().numpy())
    return torch.from_numpy(distance)[:, None].to(mesh.points)


_MADE: dict[str, Callable[[Mesh], Tensor]] = {
    "position": lambda mesh: mesh.points,
    "box_position": _box_position,
    "box_size": _box_size,
    "normal": _normal,
    "curvature": _curvature,
    "log_measure": _log_measure,
    "on_boundary": _on_boundary,
}
_OF_CELLS: dict[str, Callable[[Mesh], Tensor]] = {
    "position": lambda mesh: mesh.cell_centres,
    "box_position": lambda mesh: _box_position(mesh, mesh.cell_centres),
    "box_size": lambda mesh: _box(mesh)[1].expand(mesh.n_cells, -1),
    "normal": _cell_normal,
    "log_measure": _cell_log_measure,
    "on_boundary": _cells_on_boundary,
}
