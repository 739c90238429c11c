"""Into a volume: planes through it, and half of it cut away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from meshsim.check import InputError, check_known
from meshsim.geometry.cells import Cells, take
from meshsim.mesh import Mesh, as_tensor
from meshsim.render.colour import Number
from meshsim.render.scene import to_pyvista
from meshsim.render.view import look, upright, used_points
from meshsim.series import Frames, Series

Array = NDArray[Any]
Plane = tuple[str, Number]  # an axis and the coordinate on it

AXES = "xyz"


def plane(obj: Mesh | Series, text: str) -> Plane:
    """What `x=0.1` or `x` (the middle) says.

    Raises:
        InputError: another axis, no number, or a plane beside the mesh.

    >>> mesh = Mesh([[0., 0.], [4., 0.], [0., 1.]], {"triangle": [[0, 1, 2]]})
    >>> plane(mesh, "x"), plane(mesh, "y=0.25")
    (('x', 2.0), ('y', 0.25))
    """
    mesh = _first(obj)
    axis, equals, number = text.partition("=")
    check_known(axis, AXES[: mesh.dim], "axis")
    column = used_points(mesh)[:, AXES.index(axis)]
    low, high = float(np.nanmin(column)), float(np.nanmax(column))
    if not equals:
        return axis, (low + high) / 2
    try:
        at = float(number)
    except ValueError:
        at = np.nan
    if not np.isfinite(at):
        raise InputError(f"{text!r}: expected an axis and a number, as {axis}=0.1")
    if not low <= at <= high:
        raise InputError(f"{text}: beside the mesh, which lies in {axis} {low:.6g}..{high:.6g}")
    return axis, at


def _first(obj: Mesh | Series) -> Mesh:
    """The mesh of a series where it starts."""
    return obj.frame(0) if isinstance(obj, Series) else obj


def section(obj: Mesh | Series, planes: Sequence[Plane]) -> Mesh | Series:
    """The mesh of one dimension less in which planes meet the cells, with all fields.

    Values of points are linear along the edges that a plane cuts; cells keep theirs.

    Arguments:
        obj: of cells in two or three dimensions; a series is cut at each of its times.
        planes: (axis, coordinate) pairs.

    Returns:
        Polygons (or lines) in the same space as `obj`.

    Raises:
        InputError: lines and points, which have no sections; a plane that meets no cell.
    """
    if isinstance(obj, Mesh):
        return _cut(obj, planes)
    parts: list[Series] = []
    for segment in obj.segments:
        if segment.points is None:
            cuts = _Cuts(segment, planes)
            names = cuts.mesh.point_fields, cuts.mesh.cell_fields
            bare = cuts.mesh.replace(point_fields={}, cell_fields={})
            point, cell = (
                {n: _Column(cuts, n, i == 0) for n in some} for i, some in enumerate(names)
            )
            parts.append(Series(bare, segment.times, point, cell))
        else:  # every time has a section of its own
            parts += [
                _still(_cut(mesh, planes), t)
                for mesh, t in zip(segment, segment.times.tolist(), strict=True)
            ]
    return joined(parts)


def _still(mesh: Mesh, time: float) -> Series:
    point = {name: values[None] for name, values in mesh.point_fields.items()}
    cell = {name: values[None] for name, values in mesh.cell_fields.items()}
    return Series(mesh.replace(point_fields={}, cell_fields={}), [time], point, cell)


def joined(parts: Sequence[Series]) -> Series:
    """Segments as one series."""
    first, *later = parts
    return Series(
        first.mesh,
        first.times,
        first.point_fields,
        first.cell_fields,
        first.points,
        tuple(later),
    )


class _Cuts:
    """The sections of a series; that of the last time asked for is kept, for all of its fields."""

    def __init__(self, series: Series, planes: Sequence[Plane]):
        self.series, self.planes = series, planes
        self.time, self.mesh = 0, _cut(series.frame(0), planes)

    def at(self, t: int) -> Mesh:
        """The section at a time."""
        if t != self.time:
            self.time, self.mesh = t, _cut(self.series.frame(t), self.planes)
        return self.mesh


class _Column:
    """One field of the sections of a series."""

    def __init__(self, cuts: _Cuts, name: str, points: bool):
        self.cuts, self.name, self.points = cuts, name, points

    def __len__(self) -> int:
        return len(self.cuts.series)

    def __getitem__(self, t: int) -> Tensor:
        mesh = self.cuts.at(t)
        return (mesh.point_fields if self.points else mesh.cell_fields)[self.name]


class _Rows:
    """Some rows of a field, at each time."""

    def __init__(self, frames: Frames, rows: Tensor):
        self.frames, self.rows = frames, rows

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, t: int) -> Tensor:
        return as_tensor(self.frames[t])[self.rows]


def _cut(mesh: Mesh, planes: Sequence[Plane]) -> Mesh:
    if mesh.cell_dim < 2:
        raise InputError("lines and points have no sections")
    import pyvista
    from vtkmodules.vtkFiltersCore import vtkAppendPolyData

    grid = to_pyvista(mesh)
    # whole numbers are taken from a cell's corner, never mixed
    for name, values in mesh.point_fields.items():
        if values.is_floating_point() and values.dtype != torch.float64:
            grid.point_data[name] = np.asarray(grid.point_data[name], np.float64)
    all_parts = vtkAppendPolyData()
    for axis, at in planes:
        k = AXES.index(axis)
        column = grid.points[:, k]
        low, high = float(column.min()), float(column.max())
        inward = 1e-6 * (high - low)  # in a plane that only touches cells nothing is cut
        origin = [0.0, 0.0, 0.0]
        origin[k] = min(max(float(at), low + inward), high - inward)
        part = grid.slice(normal=axis, origin=origin, generate_triangles=False)
        if not part.n_cells:
            raise InputError(f"{axis}={at:g}: the plane meets no cell")
        all_parts.AddInputData(part)
    all_parts.Update()
    found = pyvista.wrap(all_parts.GetOutput())
    rings = found.GetPolys() if mesh.cell_dim == 3 else found.GetLines()
    nodes = torch.from_numpy(
        np.array(pyvista.convert_array(rings.GetConnectivityArray()), dtype=np.int64)
    )
    if mesh.cell_dim == 3:
        offsets = np.array(pyvista.convert_array(rings.GetOffsetsArray()), dtype=np.int64)
        cells = [Cells("polygon", nodes, torch.from_numpy(offsets))]
    else:
        cells = [Cells("line", nodes.reshape(-1, 2))]
    points = torch.from_numpy(np.array(found.points, dtype=np.float64)[:, : mesh.dim])
    return Mesh(
        points,
        cells,
        {name: _back(found.point_data[name], v) for name, v in mesh.point_fields.items()},
        {name: _back(found.cell_data[name], v) for name, v in mesh.cell_fields.items()},
        z=mesh.z,
    )


def _back(values: Any, known: Tensor) -> Tensor:
    """A field from VTK, in the shape and kind that it had."""
    shape = tuple(known.shape[1:])
    rows = np.array(values).reshape(len(values), -1)
    width = int(np.prod(shape, dtype=int))
    return (
        torch.from_numpy(np.ascontiguousarray(rows[:, :width])).reshape(-1, *shape).to(known.dtype)
    )


def clip(
    obj: Mesh | Series, axis: str, place: Number, keep: str = "auto", up: str | None = None
) -> Mesh | Series:
    """A volume without the cells on one side of a plane: whole cells, those whose centre is there.

    Arguments:
        obj: of three-dimensional cells of any type; of a series the same cells at all times.
        axis: "x", "y" or "z".
        place: the coordinate on it.
        keep: "low", "high" or "auto": the half whose cut side is seen from where `view.look`
            stands.
        up: the axis that points upwards there; None: `view.upright` of the whole.

    Returns:
        The cells that are left with their points and fields; no boundaries and regions.

    Raises:
        InputError: a surface, which has no inside; a plane that leaves nothing.
    """
    check_known(keep, ["low", "high", "auto"], "half")
    mesh = _first(obj)
    if mesh.cell_dim < 3:
        raise InputError("only volumes can be clipped: this mesh has no inside")
    check_known(axis, AXES, "axis")
    up = up or upright(used_points(mesh))
    if isinstance(obj, Mesh):
        return _clipped(obj, *_halves(obj, axis, place, keep, up))
    return joined([_clip_series(part, axis, place, keep, up) for part in obj.segments])


def _halves(mesh: Mesh, axis: str, place: Number, keep: str, up: str) -> tuple[Tensor, Tensor]:
    """Cells and points to keep, as sorted numbers."""
    k = AXES.index(axis)
    high = mesh.cell_centres[:, k] >= place
    if keep == "auto":
        keep = _hidden(mesh, k, high, up)
    wanted = high if keep == "high" else ~high
    if not bool(wanted.any()):
        raise InputError(f"{axis}={place:g}: no cell would be left")
    blocks = _take(mesh, wanted)
    used = torch.zeros(mesh.n_points, dtype=torch.bool)
    for block in blocks:
        used[block.nodes.reshape(-1)] = True
    return wanted.nonzero().squeeze(1), used.nonzero().squeeze(1)


def _hidden(mesh: Mesh, k: int, high: Tensor, up: str) -> str:
    """The half whose cut side the usual view of that half shows."""
    for keep, wanted in (("high", high), ("low", ~high)):
        if not bool(wanted.any()):
            continue
        half = mesh.points[torch.cat([b.nodes.reshape(-1) for b in _take(mesh, wanted)]).unique()]
        towards = look(half.double().cpu().numpy(), up=up).axes[2, k]
        if (towards < 0) == (keep == "high"):
            return keep
    return "low" if bool((~high).any()) else "high"


def _take(mesh: Mesh, wanted: Tensor) -> list[Cells]:
    rows = wanted.split([len(block) for block in mesh.cells])
    pairs = zip(mesh.cells, rows, strict=True)
    return [take(block, some.nonzero().squeeze(1)) for block, some in pairs if bool(some.any())]


def _clipped(mesh: Mesh, cells: Tensor, points: Tensor) -> Mesh:
    wanted = torch.zeros(mesh.n_cells, dtype=torch.bool)
    wanted[cells] = True
    number = torch.full((mesh.n_points,), -1)
    number[points] = torch.arange(len(points))
    return Mesh(
        mesh.points[points],
        [Cells(b.type, number[b.nodes], b.offsets, b.face_offsets) for b in _take(mesh, wanted)],
        {name: values[points] for name, values in mesh.point_fields.items()},
        {name: values[cells] for name, values in mesh.cell_fields.items()},
        z=mesh.z,
    )


def _clip_series(series: Series, axis: str, place: Number, keep: str, up: str) -> Series:
    first = series.frame(0)
    cells, points = _halves(first, axis, place, keep, up)
    return Series(
        _clipped(first.replace(point_fields={}, cell_fields={}), cells, points),
        series.times,
        {name: _Rows(f, points) for name, f in series.point_fields.items()},
        {name: _Rows(f, cells) for name, f in series.cell_fields.items()},
        None if series.points is None else _Rows(series.points, points),
    )
