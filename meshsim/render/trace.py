"""Streamlines: lines that follow a velocity field, and where to begin them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from meshsim.check import InputError, check_finite, check_shape
from meshsim.mesh import ArrayLike, Mesh, as_tensor
from meshsim.render.scene import to_pyvista
from meshsim.render.values import quantity
from meshsim.render.view import used_points

Array = NDArray[Any]

MOST_STEPS = 50_000  # along one line, each way


@dataclass(frozen=True, eq=False)
class Lines:
    """Streamlines one after the other.

    Arguments:
        points: (P, D) float64, of the precision of float32, in which VTK keeps them.
        offsets: (L + 1,) int64, where each line begins; the first point is its seed.
        seeds: (L,) int64, which seed each line began at; upstream and downstream are two lines.
        speed: (P,) float64, the magnitude of the velocity.
    """

    points: Array
    offsets: Array
    seeds: Array
    speed: Array

    def segments(self) -> Array:
        """(S, 2) int64: the points at both ends of each piece."""
        joined = np.ones(max(len(self.points) - 1, 0), bool)
        joined[self.offsets[1:-1] - 1] = False
        first = np.flatnonzero(joined)
        return np.stack([first, first + 1], 1)


def trace(
    mesh: Mesh,
    name: str,
    seeds: ArrayLike,
    *,
    length: float | None = None,
    tolerance: float = 1e-6,
) -> Lines:
    """Follow a velocity field from seeds, both ways.

    dx/ds = ±u / |u| by an embedded Runge–Kutta pair of order 4 and 5 with steps of at most a
    tenth of a cell (VTK's vtkStreamTracer). Between points the velocity is what VTK's shape
    functions of the cell make of it; values of cells are averaged at points first. A line ends
    before it would leave the mesh, where the velocity vanishes, or after `length`.

    Arguments:
        mesh: cells that fill space, of any type.
        name: a point or cell field of D components.
        seeds: (S, D); those outside the mesh give no lines.
        length: of a line, each way; None: three diagonals of the mesh's box.
        tolerance: of a step, in diagonals of the mesh's box.

    Returns:
        Lines in the order of their seeds, upstream before downstream. The same on every run.

    Raises:
        InputError: no such field, or not a vector of D components that are finite; seeds of
            another shape; cells that do not fill space.
    """
    import pyvista
    from vtkmodules.vtkFiltersFlowPaths import vtkStreamTracer

    if mesh.cell_dim != mesh.dim:
        raise InputError(
            f"`mesh`: expected cells that fill space, got {mesh.cell_dim}-D cells in {mesh.dim}-D"
        )
    shown = quantity(mesh, name)
    velocity = torch.from_numpy(shown.vector(mesh))
    check_shape(velocity, (None, mesh.dim), name)
    check_finite(velocity, name)
    start = as_tensor(seeds).detach().cpu().double()
    check_shape(start, (None, mesh.dim), "seeds")
    check_finite(start, "seeds")
    bare = mesh.replace(point_fields={}, cell_fields={}).to(dtype=torch.float64)
    grid = to_pyvista(bare.with_fields(**{shown.location: {"u": velocity}}))
    if shown.location == "cell":
        grid = grid.cell_data_to_point_data()
    size = math.dist(*np.asarray(grid.bounds).reshape(3, 2).T)
    at = np.zeros((len(start), 3))
    at[:, 2] = grid.bounds[4]  # the plane of a planar mesh
    at[:, : mesh.dim] = start.numpy()
    tracer = vtkStreamTracer()
    tracer.SetInputData(grid)
    tracer.SetSourceData(pyvista.PolyData(at))
    tracer.SetInputArrayToProcess(0, 0, 0, 0, "u")
    tracer.SetInterpolatorTypeToCellLocator()
    tracer.SetIntegrationDirectionToBoth()
    tracer.SetIntegratorTypeToRungeKutta45()
    tracer.SetIntegrationStepUnit(vtkStreamTracer.CELL_LENGTH_UNIT)
    tracer.SetInitialIntegrationStep(0.05)
    tracer.SetMinimumIntegrationStep(0.005)
    tracer.SetMaximumIntegrationStep(0.1)
    tracer.SetMaximumError(tolerance * size)
    tracer.SetMaximumNumberOfSteps(MOST_STEPS)
    tracer.SetMaximumPropagation(3 * size if length is None else float(length))
    tracer.SetTerminalSpeed(1e-9 * float(velocity.norm(dim=1).max()) if len(velocity) else 0.0)
    tracer.SetComputeVorticity(False)
    if len(start):
        tracer.Update()
    return _sorted(pyvista.wrap(tracer.GetOutput()), mesh.dim)


def _sorted(found: Any, dim: int) -> Lines:
    """What VTK found, in the order of the seeds."""
    if not found.n_lines:
        none = np.zeros(0, np.int64)
        return Lines(np.zeros((0, dim)), np.zeros(1, np.int64), none, np.zeros(0))
    import pyvista

    ends = np.asarray(pyvista.convert_array(found.GetLines().GetOffsetsArray()), np.int64)
    nodes = np.asarray(pyvista.convert_array(found.GetLines().GetConnectivityArray()), np.int64)
    seed = np.asarray(found.cell_data["SeedIds"], np.int64)
    time = np.asarray(found.point_data["IntegrationTime"])
    order = np.lexsort([time[nodes[ends[1:] - 1]], seed])
    count = np.diff(ends)[order]
    rows = np.concatenate([nodes[ends[i] : ends[i + 1]] for i in order])
    return Lines(
        np.asarray(found.points, np.float64)[rows][:, :dim],
        np.concatenate([[0], count.cumsum()]),
        seed[order],
        np.linalg.norm(np.asarray(found.point_data["u"], np.float64)[rows], axis=1),
    )


def rake(mesh: Mesh, name: str, body: Mesh | None = None, count: int = 40) -> Array:
    """Seeds upstream of a body: a grid of points across the flow, or a line of them in 2-D.

    Across the flow, the axis that the mean velocity follows most, they cover the body's box and
    a quarter of its size more on each side (in 2-D half of its longest side), as far as the mesh
    goes; they stand off by half the body's length. Without a body they cover the mesh, an eighth
    of its length from its start.

    Arguments:
        mesh: the fluid's.
        name: of the velocity.
        body: its surface.
        count: how many, about; evenly spaced.

    Returns:
        (S, D) float64.
    """
    if count < 1:
        raise InputError(f"`seeds`: expected one or more, got {count}")
    low, high = box(mesh)
    along, down = main_axis(mesh, name)
    first, last = (low, high) if body is None else box(body)
    room = np.zeros(mesh.dim)
    if body is not None:
        room += (last - first).max() / 2 if mesh.dim == 2 else (last - first) / 4
    inside = 0.004 * (high - low)  # off the walls, where nothing moves
    least, most = np.maximum(first - room, low + inside), np.minimum(last + room, high - inside)
    if body is None:
        x = low[along] + (high - low)[along] / 8 if down else high[along] - (high - low)[along] / 8
    else:
        off = (last - first)[along] / 2
        x = first[along] - off if down else last[along] + off
    across = [axis for axis in range(mesh.dim) if axis != along]
    if mesh.dim == 2:
        counts = [count]
    else:
        sides = (most - least)[across].clip(1e-12)
        # a flat body gives a row of seeds, not millions of columns
        wide = min(max(1, round(math.sqrt(count * sides[0] / sides[1]))), count)
        counts = [wide, max(1, round(count / wide))]
    lattice = [
        least[axis] + (most - least)[axis] * (np.arange(n) + 0.5) / n
        for axis, n in zip(across, counts, strict=True)
    ]
    out = np.zeros((math.prod(counts), mesh.dim))
    out[:, across] = np.stack(np.meshgrid(*lattice, indexing="ij"), -1).reshape(-1, len(across))
    out[:, along] = np.clip(x, (low + inside)[along], (high - inside)[along])
    return out


def main_axis(mesh: Mesh, name: str) -> tuple[int, bool]:
    """The axis that the mean velocity follows most, and whether it does so towards larger ones."""
    mean = np.nan_to_num(quantity(mesh, name).vector(mesh)).mean(0)
    axis = int(np.abs(mean[: mesh.dim]).argmax())
    return axis, bool(mean[axis] >= 0)


def box(mesh: Mesh) -> tuple[Array, Array]:
    """Lower and upper corner (D,) of the points in use."""
    points = used_points(mesh)
    return points.min(0), points.max(0)
