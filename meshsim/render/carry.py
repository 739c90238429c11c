"""Fields of one mesh, or of a series on one, on another mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from meshsim.check import InputError
from meshsim.mesh import Mesh
from meshsim.render.locate import locate
from meshsim.series import Series

if TYPE_CHECKING:  # scipy takes its time to load
    from scipy.sparse import csr_matrix

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
    check_rests(data)
    matrix, _, beyond = locate(mesh, _three(goal.points, mesh.z))
    place = np.zeros(0, np.int64)
    if mesh.cell_fields or (isinstance(data, Series) and data.cell_fields):
        place = locate(mesh, _three(goal.cell_centres, mesh.z))[1]
    return _carried(data, goal, matrix, place), int(beyond.sum())


def _carried(data: Mesh | Series, goal: Mesh, matrix: csr_matrix, place: Array) -> Mesh | Series:
    """The goal with fields by a matrix from points to its points, and by the cell of each cell."""
    rows = torch.from_numpy(place)

    def carried(mesh: Mesh, onto: Mesh) -> Mesh:
        return onto.with_fields(
            {name: _mix(matrix, values) for name, values in mesh.point_fields.items()},
            {name: values.cpu()[rows] for name, values in mesh.cell_fields.items()},
        )

    if isinstance(data, Mesh):
        return carried(data, goal)
    bare = goal.replace(point_fields={}, cell_fields={})
    frames = [carried(data.frame(t), bare) for t in range(len(data))]
    point = {name: [f.point_fields[name] for f in frames] for name in frames[0].point_fields}
    cell = {name: [f.cell_fields[name] for f in frames] for name in frames[0].cell_fields}
    return Series(goal, data.times, point, cell)


def check_rests(data: Mesh | Series) -> None:
    """Raise `InputError` for a series whose mesh moves or changes."""
    if isinstance(data, Series) and (data.points is not None or len(data.segments) > 1):
        raise InputError("expected a mesh that rests, got a series whose mesh changes")


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
    check_rests(data)
    vertices = Mesh(points.double(), {"vertex": torch.arange(len(points))[:, None]})
    if mesh.dim != vertices.dim:
        raise InputError(f"expected places in {mesh.dim}-D, got {vertices.dim}-D ones")
    matrix, cell, beyond = locate(mesh, _three(vertices.points, mesh.z))
    return _carried(data, vertices, matrix, cell), torch.from_numpy(~beyond)


def _mix(matrix: Any, values: Tensor) -> Tensor:
    flat = values.detach().cpu().numpy().reshape(len(values), -1)
    if values.is_floating_point():
        mixed = matrix @ flat.astype(np.float64)
    else:
        heaviest = np.asarray(matrix.argmax(axis=1)).reshape(-1)
        mixed = flat[heaviest]
    out = torch.from_numpy(np.ascontiguousarray(mixed))
    return out.to(values.dtype).reshape(-1, *values.shape[1:])
