"""Which cell of a mesh a place lies in, and what the mesh's points weigh there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from meshsim.geometry import natural
from meshsim.geometry.cells import Cells
from meshsim.geometry.distance import closest_points
from meshsim.geometry.measure import incidence
from meshsim.geometry.overlap import overlapping_boxes
from meshsim.geometry.tree import Surface
from meshsim.mesh import Mesh
from meshsim.render.scene import to_pyvista
from meshsim.rows import by_group, slices

if TYPE_CHECKING:  # scipy takes its time to load
    from scipy.sparse import csr_matrix

Array = NDArray[Any]

FITS = 1e-6  # of the reference cell: so far outside a place is still in it
OUTSIDE = 1e-6  # of the mesh's size: so far from it a place is outside
NOTHING = 1e-12  # of a weight
_AT_ONCE = 2000  # places about which cells are looked at


def locate(mesh: Mesh, points: Array) -> tuple[csr_matrix, Array, Array]:
    """Where places lie in a mesh.

    VTK says which cell, boxes where there are polyhedra; where VTK errs (its quadratic cells are
    pieced together of linear ones, and it takes places a thousandth outside of a cell, and those in
    the mirror image of a wedge, for its own) the cells about that one are looked at too.

    Arguments:
        mesh: of any cells.
        points: (n, 3) float64.

    Returns:
        (n, N) sparse matrix of shape functions at the nearest place of each; (n,) int64 its cell;
        (n,) whether it lies outside. Of a place that is not finite the weights are NaN.
    """
    from scipy.sparse import vstack

    grid = to_pyvista(mesh.replace(point_fields={}, cell_fields={}))
    if mesh.dim == 2:  # in the grid's digits
        points = np.column_stack([points[:, :2], np.full(len(points), grid.points[0, 2])])
    cell, near, outside = _cells(mesh, grid, points)
    if mesh.cell_dim == mesh.dim and any(block.type[-1].isdecimal() for block in mesh.cells):
        missed = (outside & np.isfinite(points).all(1)).nonzero()[0]
        better, over = _best(mesh, grid, cell[missed], points[missed])
        inside, better = missed[over <= FITS], better[over <= FITS]
        cell[inside], near[inside], outside[inside] = better, points[inside], False
    matrix, over = _weigh(mesh, grid, cell, near)
    wrong = (over > FITS).nonzero()[0]
    if len(wrong):
        better, less = _best(mesh, grid, cell[wrong], near[wrong])
        wrong, better = wrong[less < over[wrong]], better[less < over[wrong]]
        cell[wrong] = better
        rows = np.arange(len(points))
        rows[wrong] = len(points) + np.arange(len(wrong))
        matrix = vstack([matrix, _weigh(mesh, grid, better, near[wrong])[0]]).tocsr()[rows]
    return matrix, cell, outside


def _cells(mesh: Mesh, grid: Any, points: Array) -> tuple[Array, Array, Array]:
    """The cell of each place, the nearest place in it, and whether that is elsewhere."""
    near, cell = points.copy(), np.full(len(points), -1)
    known = np.isfinite(points).all(1)
    # VTK takes places far outside of a polyhedron for its own, and finds nothing nearest to them
    solid = any(block.type == "polyhedron" for block in mesh.cells)
    if solid:
        cell[known] = _boxed(mesh, grid, points[known])
    elif mesh.cell_dim == mesh.dim:
        cell = _probed(grid, points)
    square = np.zeros(len(points))
    rest = ((cell < 0) & known).nonzero()[0]
    if len(rest):
        find = _on_skin if solid else _nearest
        cell[rest], near[rest], square[rest] = find(mesh, grid, points[rest])
    cell[~known], near[~known], square[~known] = 0, np.nan, np.inf
    size = float(np.linalg.norm(np.ptp(grid.points, axis=0)))
    return cell, near, square > (OUTSIDE * size) ** 2


def _nearest(mesh: Mesh, grid: Any, points: Array) -> tuple[Array, Array, Array]:
    """Cells and places nearest to others, and the squares of the distances, by VTK."""
    from vtkmodules.vtkCommonCore import mutable
    from vtkmodules.vtkCommonDataModel import vtkStaticCellLocator

    locator = vtkStaticCellLocator()
    locator.SetDataSet(grid)
    locator.BuildLocator()
    cell, near, squares = np.zeros(len(points), np.int64), points.copy(), np.zeros(len(points))
    place, number, sub, square = [0.0] * 3, mutable(0), mutable(0), mutable(0.0)
    for i, x in enumerate(points.tolist()):
        locator.FindClosestPoint(x, place, number, sub, square)
        cell[i], near[i], squares[i] = int(number), place, float(square)
    return cell, near, squares


def _on_skin(mesh: Mesh, grid: Any, points: Array) -> tuple[Array, Array, Array]:
    """The same by the faces on the outside of a volume."""
    faces = mesh.faces
    outer = (faces.neighbour < 0).nonzero().squeeze(1)
    place, ends = slices(faces.offsets, outer)
    skin = Surface(mesh.points.double(), [Cells("polygon", faces.nodes[place], ends)])
    found = closest_points(skin, torch.from_numpy(points))
    return faces.owner[outer][found.face].numpy(), found.points.numpy(), found.distance.numpy() ** 2


def _boxed(mesh: Mesh, grid: Any, points: Array) -> Array:
    """The cell that each place lies in by the cells' boxes, −1: none."""
    of, point = incidence(mesh.cells)
    x = torch.from_numpy(np.ascontiguousarray(grid.points, np.float64))[point]
    to = of[:, None].expand(-1, 3)
    low, high = (
        x.new_full((mesh.n_cells, 3), sign * np.inf).scatter_reduce(0, to, x, kind).numpy()
        for sign, kind in ((1, "amin"), (-1, "amax"))
    )
    pad = FITS * (high - low).max(1, keepdims=True)
    row, cell = overlapping_boxes(points, points, low - pad, high + pad)
    over = _weigh(mesh, grid, cell, points[row])[1]
    best = _first(row, over)
    best = best[over[best] <= FITS]
    out = np.full(len(points), -1)
    out[row[best]] = cell[best]
    return out


def _first(row: Array, over: Array) -> Array:
    """Of the entries of each row the one that fits best."""
    order = np.lexsort((over, row))
    return order[np.unique(row[order], return_index=True)[1]]


def _probed(grid: Any, points: Array) -> Array:
    """The cell that each place lies in, −1: none."""
    from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkPolyData, vtkStaticCellLocator
    from vtkmodules.vtkFiltersCore import vtkProbeFilter

    source = grid.copy(deep=False)
    source.cell_data["cell"] = np.arange(grid.n_cells)
    places, at = vtkPolyData(), vtkPoints()
    at.SetData(numpy_to_vtk(np.ascontiguousarray(points), deep=True))
    places.SetPoints(at)
    probe = vtkProbeFilter()
    probe.SetInputData(places)
    probe.SetSourceData(source)
    chosen = getattr(probe, "SetCellLocator", None) or probe.SetCellLocatorPrototype  # VTK < 9.7
    chosen(vtkStaticCellLocator())
    probe.ComputeToleranceOff()  # it takes places far outside of a cell for its own
    probe.SetTolerance(0.0)
    probe.Update()
    found = probe.GetOutput().GetPointData()
    valid = vtk_to_numpy(found.GetArray(probe.GetValidPointMaskArrayName())) != 0
    return np.where(valid, vtk_to_numpy(found.GetArray("cell")), -1)


def _weigh(mesh: Mesh, grid: Any, cell: Array, near: Array) -> tuple[csr_matrix, Array]:
    """Shape functions of cells at places, and how far outside of the reference cell they are."""
    from scipy.sparse import csr_matrix

    parts: list[tuple[Array, ...]] = []
    over, first = np.zeros(len(cell)), 0
    known = np.isfinite(near).all(1)
    points = torch.from_numpy(np.ascontiguousarray(grid.points, np.float64))
    for block in mesh.cells:
        rows = (known & (cell >= first) & (cell < first + len(block))).nonzero()[0]
        if len(rows) and natural.placeable(block.type):
            here, x = torch.from_numpy(cell[rows] - first), torch.from_numpy(near[rows])
            entry, node, weight, far = natural.weights(points, block, here, x)
            parts.append((rows[entry.numpy()], node.numpy(), weight.numpy()))
            over[rows] = far.numpy()
        elif len(rows):
            parts.append(_by_vtk(grid, rows, cell, near))
        first += len(block)
    lost = np.flatnonzero(~known)
    parts.append((lost, np.zeros_like(lost), np.full(len(lost), np.nan)))
    row, column, share = (np.concatenate(x) for x in zip(*parts, strict=True))
    real = ~(np.abs(share) <= NOTHING)  # else a NaN on the other side of a cell would count
    row, column, share = row[real], column[real], share[real]
    return csr_matrix((share, (row, column)), (len(cell), grid.n_points)), over


def _by_vtk(grid: Any, rows: Array, cell: Array, near: Array) -> tuple[Array, Array, Array]:
    """Entries of rows in cells of the other types: lines, points, quadratic pyramids."""
    from vtkmodules.vtkCommonCore import mutable

    place, local, sub, square = [0.0] * 3, [0.0] * 3, mutable(0), mutable(0.0)
    count, columns, shares = [], [], []
    for number, x in zip(cell[rows].tolist(), near[rows].tolist(), strict=True):
        corners = grid.GetCell(number)
        share = [0.0] * corners.GetNumberOfPoints()
        corners.EvaluatePosition(x, place, sub, local, square, share)
        columns += [corners.GetPointId(i) for i in range(len(share))]
        shares += share
        count.append(len(share))
    return np.repeat(rows, count), np.array(columns, np.int64), np.array(shares)


def _best(mesh: Mesh, grid: Any, cell: Array, x: Array) -> tuple[Array, Array]:
    """Of each cell and those that share a point with it the one that a place fits best."""
    of, point = incidence(mesh.cells)
    ends = by_group(of, mesh.n_cells)[1]
    touched = torch.zeros(mesh.n_points, dtype=torch.bool)
    touched[point[slices(ends, torch.from_numpy(cell).unique())[0]]] = True
    near = touched[point].nonzero().squeeze(1)
    about, starts = by_group(point[near], mesh.n_points)
    about = near[about]
    known = torch.cat(
        [torch.tensor([natural.placeable(b.type)]).expand(len(b)) for b in mesh.cells]
    )
    out, least = cell.copy(), np.full(len(cell), np.inf)
    for first in range(0, len(cell), _AT_ONCE):
        at, their = slices(ends, torch.from_numpy(cell[first : first + _AT_ONCE]))
        place, again = slices(starts, point[at])
        row = torch.repeat_interleave(their.diff())
        pairs = torch.stack([row.repeat_interleave(again.diff()), of[about[place]]], 1)
        row, other = pairs[known[pairs[:, 1]]].unique(dim=0).t().numpy()
        over = _weigh(mesh, grid, other, x[first + row])[1]
        lead = _first(row, over)
        out[first + row[lead]], least[first + row[lead]] = other[lead], over[lead]
    return out, least
