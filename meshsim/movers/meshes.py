"""Moving a `Mesh`: its corners' simplices in, the same mesh with other points out."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from meshsim.check import InputError, check_finite, check_known
from meshsim.geometry.cells import TYPES, Cells, cell_edges
from meshsim.geometry.measure import incidence
from meshsim.mesh import Mesh
from meshsim.movers.monitor import at_points
from meshsim.movers.simplices import Array, Indices, Simplices, measures
from meshsim.movers.split import simplices
from meshsim.movers.transfer import conserve

FIELDS = ("interpolate", "conserve", "keep")


class Corners(NamedTuple):
    """The simplices that a mesh is moved by.

    Attributes:
        grid: the elements, on the points in use.
        used: (n,) int64, rising: the mesh's numbers of `grid.points`.
        corners: (K, D + 1) int64, numbers of `grid.points`: the simplices whose measure must stay
            positive, each cell's at every corner. Polygons and polyhedra need not be convex, and
            have those that they are split into.
    """

    grid: Simplices
    used: Indices
    corners: Indices

    def tangled(self, points: Array) -> int:
        """How many corners are flat or inside out with the points in use at (n, D)."""
        return int((measures(points, self.corners) <= 0).sum())


def corners(mesh: Mesh) -> Corners:
    """The elements to move a mesh by, its cells of other types split without new points.

    Raises:
        InputError: a surface in space, cells of a type that is not moved, cells turned inside out
            at a corner, or a mesh that `Simplices` refuses.

    >>> square = Mesh([[0., 0.], [1., 0.], [1., 1.], [0., 1.]], {"quad": [[0, 1, 2, 3]]})
    >>> of = corners(square)
    >>> len(of.grid.cells), len(of.corners), of.tangled(of.grid.points * [1.0, -1.0])
    (2, 4, 4)
    """
    if mesh.cell_dim != mesh.dim:
        raise InputError(
            f"expected cells that fill their space, got {mesh.cell_dim}-D cells in {mesh.dim}-D:"
            " surfaces are not moved"
        )
    for block in mesh.cells:
        if TYPES[block.type][1] != TYPES[block.type][2]:
            raise InputError(f"cells of type {block.type} are not moved (expected linear cells)")
    cells = simplices(mesh.cells)
    used, numbers = torch.unique(cells, return_inverse=True)
    grid = Simplices(mesh.points[used], numbers.reshape(cells.shape))
    at = [_oriented(grid.points, _at_corners(block, used), used) for block in mesh.cells]
    return Corners(grid, used.cpu().numpy(), np.concatenate(at))


def _at_corners(block: Cells, used: Tensor) -> Indices:
    """(C, n, D + 1) numbers among `used`: the simplices at the n corners of each cell."""
    local = _local(block)
    if local:
        nodes = torch.stack([block.nodes[:, list(corner)] for corner in local], 1)
    else:
        nodes = simplices([block])[:, None]
    return torch.searchsorted(used, nodes).cpu().numpy()


def _oriented(points: Array, ids: Indices, used: Tensor) -> Indices:
    """(K, D + 1) the corners (C, n, D + 1) turned so that those of sound cells are positive."""
    flat = ids.reshape(-1, ids.shape[-1]).copy()
    size = measures(points, flat).reshape(ids.shape[:2])
    turned = size.sum(1) < 0
    wrong = (np.where(turned, -1.0, 1.0)[:, None] * size <= 0).any(1)
    if wrong.any():
        raise InputError(
            f"`cells`: {int(wrong.sum())} turned inside out or flat at a corner, the first around"
            f" point {int(used[ids[np.flatnonzero(wrong)[0], 0, 0]])}"
        )
    swap = np.repeat(turned, ids.shape[1])
    flat[swap, -2:] = flat[swap, -2:][:, ::-1]
    return flat


def _local(block: Cells) -> list[tuple[int, ...]]:
    """Each corner of a standard cell with its neighbours, in local numbers, positive alike.

    Three edges meet at the corners of hexahedra and wedges; at a pyramid's apex four, any three
    of which make one simplex.
    """
    dim, _, count, _ = TYPES[block.type]
    if not count:
        return []
    if count == dim + 1:
        return [tuple(range(count))]
    if dim == 2:
        return [(i, (i + 1) % count, (i - 1) % count) for i in range(count)]
    near: dict[int, list[int]] = {i: [] for i in range(count)}
    for a, b in cell_edges(block.type):
        near[a].append(b)
        near[b].append(a)
    unit = _UNIT[block.type]
    out: list[tuple[int, ...]] = []
    for i, others in near.items():
        for three in combinations(others, 3):
            a, b, c = three
            positive = np.linalg.det(unit[[a, b, c]] - unit[i]) > 0
            out.append((i, a, b, c) if positive else (i, a, c, b))
    return out


_UNIT = {
    "pyramid": np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 1.0]]),
    "wedge": np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1.0]]),
    "hexahedron": np.array(
        [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1.0]]
    ),
}


def point_values(mesh: Mesh, used: Indices) -> dict[str, Array]:
    """Fields as (n,) float64 at the points in use, by names that an expression may hold.

    A field of several components gives `U_x`, `U_y`, `U_z` (or `U_0`, … where they are not D) and
    `U` itself, its norm. Fields of cells come as means over the cells of a point by measure.
    """
    out: dict[str, Array] = {}
    place = torch.from_numpy(used)
    every: dict[str, Tensor] = {**_averaged(mesh), **mesh.point_fields}
    for name, values in every.items():
        rows = values[place.to(values.device)].double().cpu().reshape(len(used), -1)
        if rows.shape[1] == 1:
            out[name] = rows[:, 0].numpy()
            continue
        axes = "xyz" if rows.shape[1] == mesh.dim else range(rows.shape[1])
        for axis, column in zip(axes, rows.T, strict=False):
            out[f"{name}_{axis}"] = column.numpy().copy()
        out[name] = rows.norm(dim=1).numpy()
    return out


def _averaged(mesh: Mesh) -> dict[str, Tensor]:
    if not mesh.cell_fields:
        return {}
    cells, points = incidence(mesh.cells)
    weight = mesh.cell_measures.double()[cells]
    total = weight.new_zeros(mesh.n_points).index_add(0, points, weight)
    out = {}
    for name, values in mesh.cell_fields.items():
        rows = values.double().reshape(mesh.n_cells, -1)[cells] * weight[:, None]
        summed = rows.new_zeros(mesh.n_points, rows.shape[1]).index_add(0, points, rows)
        out[name] = (summed / total[:, None]).reshape(mesh.n_points, *values.shape[1:])
    return out


def with_points(mesh: Mesh, of: Corners, points: Array, fields: str = "interpolate") -> Mesh:
    """The mesh with other points in use, and its fields carried there.

    Arguments:
        points: (n, D) new places of the points in use; others stay.
        fields: "interpolate" gives a field's value at the new place, linear within simplices,
            for cells that of the cell with the nearest centre; "conserve" carries averages over
            cells so that their integral stays, see `transfer`, and point fields as before; "keep"
            leaves each value with its point or cell.
    """
    check_known(fields, FIELDS, "fields")
    moved = mesh.points.clone()
    moved[torch.from_numpy(of.used)] = torch.from_numpy(points).to(moved.dtype)
    if fields == "keep":
        return mesh.replace(points=moved)
    place = torch.from_numpy(of.used)
    point_fields = dict(mesh.point_fields)
    for name, values in point_fields.items():
        if not values.is_floating_point():
            continue
        rows = values[place].double().reshape(len(place), -1).numpy()
        carried = torch.from_numpy(at_points(of.grid, rows, points)).to(values.dtype)
        changed = values.clone()
        changed[place] = carried.reshape(len(place), *values.shape[1:])
        point_fields[name] = changed
    cell_fields: Mapping[str, Tensor] = mesh.cell_fields
    if fields == "conserve":
        cell_fields = _conserved(mesh, moved)
    elif cell_fields:
        from scipy.spatial import cKDTree

        now = mesh.replace(points=moved).cell_centres.double().numpy()
        _, nearest = cKDTree(mesh.cell_centres.double().numpy()).query(now)
        cell_fields = {name: values[nearest] for name, values in cell_fields.items()}
    return mesh.replace(points=moved, point_fields=point_fields, cell_fields=cell_fields)


def _conserved(mesh: Mesh, moved: Tensor) -> dict[str, Tensor]:
    """The mesh's cell fields carried with their integrals, all at once; integers stay."""
    out = dict(mesh.cell_fields)
    real = {name: values for name, values in out.items() if values.is_floating_point()}
    for name, values in real.items():
        check_finite(values, f"field {name}")
    if not real:
        return out
    flat = [values.double().reshape(mesh.n_cells, -1) for values in real.values()]
    parts = conserve(mesh, torch.cat(flat, 1), moved).split([f.shape[1] for f in flat], 1)
    for (name, values), part in zip(real.items(), parts, strict=True):
        out[name] = part.reshape(values.shape).to(values.dtype)
    return out
