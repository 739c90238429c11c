"""Fields of one mesh, or of a series on one, on another mesh."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from meshsim.check import InputError
from meshsim.mesh import Mesh
from meshsim.render.scene import to_pyvista
from meshsim.series import Series

Array = NDArray[Any]


def carry(data: Mesh | Series, goal: Mesh) -> tuple[Mesh | Series, int]:
    """The goal with the fields of `data`: those of points by shape functions, of cells by place.

    Points outside of `data` take the values of the nearest place on it; whole numbers are never
    mixed, they come from the heaviest corner. Of a series all times are carried at once.

    Arguments:
        data: has fields; a series on a mesh that rests.
        goal: any mesh of the same dimension.

    Returns:
        A new mesh or series, and how many points lie outside `data` (by more than 1e-6 of its
        size).

    Raises:
        InputError: different dimensions, or a series whose mesh moves or changes.

    >>> data = Mesh([[0., 0.], [2., 0.], [0., 2.]], {"triangle": [[0, 1, 2]]}, {"p": [0., 2., 4.]})
    >>> goal = Mesh([[0., 0.], [1., 0.], [0., 1.]], {"triangle": [[0, 1, 2]]})
    >>> carry(data, goal)[0].point_fields["p"]
    tensor([0., 1., 2.], dtype=torch.float64)
    """
    mesh = data.mesh if isinstance(data, Series) else data
    if mesh.dim != goal.dim:
        raise InputError(f"expected meshes of one dimension, got {mesh.dim}-D and {goal.dim}-D")
    if isinstance(data, Series) and (data.points is not None or len(data.segments) > 1):
        raise InputError("expected a mesh that rests, got a series whose mesh changes")
    grid = to_pyvista(mesh.replace(point_fields={}, cell_fields={}))
    matrix, _, beyond = _locate(grid, _three(goal.points, mesh.z))
    outside = int(beyond.sum())
    cells = mesh.cell_fields or (isinstance(data, Series) and data.cell_fields)
    place = torch.zeros(0, dtype=torch.int64)
    if cells:
        place = torch.from_numpy(_locate(grid, _three(goal.cell_centres, mesh.z))[1])

    def carried(mesh: Mesh, onto: Mesh) -> Mesh:
        return onto.with_fields(
            {name: _mix(matrix, values) for name, values in mesh.point_fields.items()},
            {name: values.cpu()[place] for name, values in mesh.cell_fields.items()},
        )

    if isinstance(data, Mesh):
        return carried(data, goal), outside
    frames = [carried(data.frame(t), goal.replace(point_fields={}, cell_fields={}))
              for t in range(len(data))]  # fmt: skip
    point = {name: [f.point_fields[name] for f in frames] for name in frames[0].point_fields}
    cell = {name: [f.cell_fields[name] for f in frames] for name in frames[0].cell_fields}
    return Series(goal, data.times, point, cell), outside


def _three(points: Tensor, z: float | None) -> Array:
    values = points.detach().cpu().double().numpy()
    if values.shape[1] == 2:
        values = np.pad(values, [(0, 0), (0, 1)], constant_values=z or 0.0)
    return values


def probe(
    data: Mesh | Series, points: Float[Tensor, "N D"]
) -> tuple[Mesh | Series, Bool[Tensor, " N"]]:
    """The fields at any places: those of points by shape functions, of cells the cell's own.

    Arguments:
        data: has fields; a series on a mesh that rests.
        points: (N, D).

    Returns:
        The points as a mesh of vertices (or a series on it) with the fields, and which of them
        lie in `data`; the others have the values of the nearest place.

    Raises:
        InputError: points of another dimension, or a mesh that moves.

    >>> data = Mesh([[0., 0.], [2., 0.], [0., 2.]], {"triangle": [[0, 1, 2]]}, {"p": [0., 2., 4.]})
    >>> found, inside = probe(data, torch.tensor([[0.5, 0.5], [3.0, 3.0]]))
    >>> found.point_fields["p"][0], inside.tolist()
    (tensor(1.5000, dtype=torch.float64), [True, False])
    """
    mesh = data.mesh if isinstance(data, Series) else data
    vertices = Mesh(points.to(mesh.points.dtype), {"vertex": torch.arange(len(points))[:, None]})
    found, _ = carry(data, vertices)
    grid = to_pyvista(mesh.replace(point_fields={}, cell_fields={}))
    beyond = _locate(grid, _three(points, mesh.z))[2]
    return found, torch.from_numpy(~beyond)


def _locate(grid: Any, points: Array) -> tuple[Any, Array, Array]:
    """Where points lie in a grid.

    Returns:
        (n, N) sparse matrix of shape functions at the nearest place of each point; (n,) int64
        its cell; (n,) whether it lies outside.
    """
    from scipy.sparse import csr_matrix
    from vtkmodules.vtkCommonCore import mutable, vtkIdList
    from vtkmodules.vtkCommonDataModel import vtkStaticCellLocator

    locator = vtkStaticCellLocator()
    locator.SetDataSet(grid)
    locator.BuildLocator()
    size = float(np.linalg.norm(np.ptp(grid.points, axis=0)))
    nearest, place, local = [0.0] * 3, [0.0] * 3, [0.0] * 3
    cell, sub, distance, found = mutable(0), mutable(0), mutable(0.0), vtkIdList()
    cells, columns, shares, starts, outside = [], [], [], [0], []

    def weigh(number: int, x: Any) -> tuple[int, list[float]]:
        share = [0.0] * grid.GetCell(number).GetNumberOfPoints()
        return grid.GetCell(number).EvaluatePosition(x, place, sub, local, distance, share), share

    for x in points.tolist():
        locator.FindClosestPoint(x, nearest, cell, sub, distance)
        outside.append(float(distance) > (1e-6 * size) ** 2)
        chosen = int(cell)
        inside, share = weigh(chosen, nearest)
        if inside != 1:  # VTK takes the mirror image of a wedge for the wedge: look around
            locator.FindCellsWithinBounds([v for c in nearest for v in (c, c)], found)
            for i in range(found.GetNumberOfIds()):
                inside, other = weigh(found.GetId(i), nearest)
                if inside == 1:
                    chosen, share = found.GetId(i), other
                    break
        corners = grid.GetCell(chosen)
        cells.append(chosen)
        columns += [corners.GetPointId(i) for i in range(len(share))]
        shares += share
        starts.append(len(columns))
    shape = (len(points), grid.n_points)
    matrix = csr_matrix((np.array(shares), np.array(columns), np.array(starts)), shape)
    return matrix, np.array(cells, np.int64), np.array(outside, bool)


def _mix(matrix: Any, values: Tensor) -> Tensor:
    flat = values.detach().cpu().numpy().reshape(len(values), -1)
    if values.is_floating_point():
        mixed = matrix @ flat.astype(np.float64)
    else:
        heaviest = np.asarray(matrix.argmax(axis=1)).reshape(-1)
        mixed = flat[heaviest]
    out = torch.from_numpy(np.ascontiguousarray(mixed))
    return out.to(values.dtype).reshape(-1, *values.shape[1:])
