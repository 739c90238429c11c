"""Fields of one mesh on another."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from meshsim.check import InputError
from meshsim.mesh import Mesh
from meshsim.render.scene import to_pyvista

Array = NDArray[Any]


def carry(data: Mesh, goal: Mesh) -> tuple[Mesh, int]:
    """The goal with the fields of `data`: those of points by shape functions, of cells by place.

    Points outside of `data` take the values of the nearest place on it; whole numbers are never
    mixed, they come from the heaviest corner.

    Arguments:
        data: has fields.
        goal: any mesh of the same dimension.

    Returns:
        A new mesh, and how many points lie outside `data` (by more than 1e-6 of its size).

    Raises:
        InputError: different dimensions.

    >>> data = Mesh([[0., 0.], [2., 0.], [0., 2.]], {"triangle": [[0, 1, 2]]}, {"p": [0., 2., 4.]})
    >>> goal = Mesh([[0., 0.], [1., 0.], [0., 1.]], {"triangle": [[0, 1, 2]]})
    >>> carry(data, goal)[0].point_fields["p"]
    tensor([0., 1., 2.], dtype=torch.float64)
    """
    if data.dim != goal.dim:
        raise InputError(f"expected meshes of one dimension, got {data.dim}-D and {goal.dim}-D")
    grid = to_pyvista(data.replace(point_fields={}, cell_fields={}))
    matrix, outside = _weights(grid, _three(goal.points, data.z))
    point = {name: _mix(matrix, values) for name, values in data.point_fields.items()}
    cell = {}
    if data.cell_fields:
        found = np.asarray(grid.find_closest_cell(_three(goal.cell_centres, data.z))).reshape(-1)
        place = torch.from_numpy(found.astype(np.int64))
        cell = {name: values.cpu()[place] for name, values in data.cell_fields.items()}
    return goal.with_fields(point, cell), outside


def _three(points: Tensor, z: float | None) -> Array:
    values = points.detach().cpu().double().numpy()
    if values.shape[1] == 2:
        values = np.pad(values, [(0, 0), (0, 1)], constant_values=z or 0.0)
    return values


def _weights(grid: Any, points: Array) -> tuple[Any, int]:
    """Shape functions at the nearest place of each point, (n, N) sparse, and how many lie apart."""
    from scipy.sparse import csr_matrix
    from vtkmodules.vtkCommonCore import mutable

    cells, nearest = grid.find_closest_cell(points, return_closest_point=True)
    nearest = np.asarray(nearest).reshape(-1, 3)
    apart = np.linalg.norm(nearest - points, axis=1)
    columns, shares, starts = [], [], [0]
    place, sub, distance, local = [0.0] * 3, mutable(0), mutable(0.0), [0.0] * 3
    for number, target in zip(np.asarray(cells).reshape(-1), nearest, strict=True):
        cell = grid.GetCell(int(number))
        share = [0.0] * cell.GetNumberOfPoints()
        cell.EvaluatePosition(target, place, sub, local, distance, share)
        columns += [cell.GetPointId(i) for i in range(len(share))]
        shares += share
        starts.append(len(columns))
    shape = (len(points), grid.n_points)
    matrix = csr_matrix((np.array(shares), np.array(columns), np.array(starts)), shape)
    size = float(np.linalg.norm(np.ptp(grid.points, axis=0)))
    return matrix, int((apart > 1e-6 * size).sum())


def _mix(matrix: Any, values: Tensor) -> Tensor:
    flat = values.detach().cpu().numpy().reshape(len(values), -1)
    if values.is_floating_point():
        mixed = matrix @ flat.astype(np.float64)
    else:
        heaviest = np.asarray(matrix.argmax(axis=1)).reshape(-1)
        mixed = flat[heaviest]
    out = torch.from_numpy(np.ascontiguousarray(mixed))
    return out.to(values.dtype).reshape(-1, *values.shape[1:])
