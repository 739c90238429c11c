"""What can be seen of a mesh: its surface as triangles; and the mesh as VTK knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from meshsim.check import check_known
from meshsim.geometry.cells import TYPES, Cells
from meshsim.mesh import Mesh

if TYPE_CHECKING:
    import pyvista

Array = NDArray[Any]


def _numpy(x: Any) -> Array:
    return np.asarray(x.detach().cpu().numpy())


def _stream(block: Cells) -> tuple[Array, Array, Array]:
    """Cells of one type for VTK: point indices, their offsets, the VTK type of each cell."""
    number = TYPES[block.type][3]
    nodes = _numpy(block.nodes)
    if block.type == "pyramid14":  # VTK's number 37 has 19 points: show it without its base centre
        number, nodes = TYPES["pyramid13"][3], nodes[:, :13]
    if block.offsets is None:
        offsets = np.arange(len(nodes) + 1) * nodes.shape[1]
    elif block.face_offsets is None:
        offsets = _numpy(block.offsets)
    else:  # a polyhedron lists its own points once
        of_face = np.repeat(np.arange(len(block)), np.diff(_numpy(block.offsets)))
        owner = np.repeat(of_face, np.diff(_numpy(block.face_offsets)))
        pairs = np.unique(np.stack([owner, nodes], 1), axis=0)
        offsets = np.searchsorted(pairs[:, 0], np.arange(len(block) + 1))
        nodes = pairs[:, 1]
    return nodes.reshape(-1), offsets, np.full(len(block), number, np.uint8)


def _cell_array(offsets: Array, nodes: Array) -> Any:
    from vtkmodules.util.numpy_support import numpy_to_vtkIdTypeArray
    from vtkmodules.vtkCommonDataModel import vtkCellArray

    array = vtkCellArray()
    array.SetData(
        numpy_to_vtkIdTypeArray(np.ascontiguousarray(offsets, np.int64), deep=True),
        numpy_to_vtkIdTypeArray(np.ascontiguousarray(nodes, np.int64), deep=True),
    )
    return array


def _concatenate(parts: list[Array]) -> Array:
    """Join CSR offsets: each part starts where the one before it ended."""
    ends = np.cumsum([0, *(p[-1] for p in parts)])
    return np.concatenate([[0], *(p[1:] + end for p, end in zip(parts, ends, strict=False))])


def _pad(values: Array) -> Array:
    """Fields as VTK takes them: flat rows, and three components for a vector of two."""
    flat = values.reshape(len(values), -1) if values.ndim > 1 else values
    if flat.dtype == bool:
        flat = flat.astype(np.uint8)
    return np.pad(flat, [(0, 0), (0, 1)]) if flat.ndim == 2 and flat.shape[1] == 2 else flat


def to_pyvista(mesh: Mesh) -> pyvista.UnstructuredGrid:
    """The mesh as a PyVista grid: same points, cells of the same types, same fields.

    Points and vectors of a planar mesh get a third component (`mesh.z` or 0, and 0).

    Arguments:
        mesh: any mesh; polygons, polyhedra and quadratic cells stay what they are.

    Returns:
        A grid whose cells are in block order.
    """
    import pyvista
    from vtkmodules.util.numpy_support import numpy_to_vtk

    points = _numpy(mesh.points)
    if mesh.dim == 2:
        points = np.pad(points, [(0, 0), (0, 1)], constant_values=mesh.z or 0.0)
    streams = [_stream(block) for block in mesh.cells]
    nodes = np.concatenate([s[0] for s in streams])
    offsets = _concatenate([s[1] for s in streams])
    types = numpy_to_vtk(np.concatenate([s[2] for s in streams]), deep=True)
    cells = _cell_array(offsets, nodes)
    grid = pyvista.UnstructuredGrid()
    grid.points = points
    if any(block.type == "polyhedron" for block in mesh.cells):
        faces, face_nodes, face_cells = [], [], []
        for block in mesh.cells:
            solid = block.face_offsets is not None and block.offsets is not None
            face_cells.append(
                _numpy(block.offsets) if solid else np.zeros(len(block) + 1, dtype=np.int64)
            )
            if solid:
                faces.append(_numpy(block.face_offsets))
                face_nodes.append(_numpy(block.nodes))
        of_cells = _concatenate(face_cells)
        grid.SetPolyhedralCells(
            types,
            cells,
            _cell_array(of_cells, np.arange(of_cells[-1])),
            _cell_array(_concatenate(faces), np.concatenate(face_nodes)),
        )
    else:
        grid.SetCells(types, cells)
    for name, values in mesh.point_fields.items():
        grid.point_data[name] = _pad(_numpy(values))
    for name, values in mesh.cell_fields.items():
        grid.cell_data[name] = _pad(_numpy(values))
    return grid


@dataclass(frozen=True, eq=False)
class Surface:
    """What can be seen of a mesh, as triangles (or segments, or points, of lower meshes).

    Arguments:
        corners: (M, k) int64 point indices; k = 3, 2 or 1.
        cells: (M,) int64, the cell that each belongs to.
        edges: (M, 3) bool, side i (from corner i to the next) is an edge of a cell and not
            a cut through it.
        outline: (M, 3) bool, side i belongs to this triangle only.
        normals: (M, 3, 3) unit normals at the corners, or None for a planar mesh.
        polygons: the sides of cells before they were cut into triangles, of two-dimensional
            cells the cells themselves; None for segments and points.
        polygon: (M,) int64, which of them each triangle is a part of.
    """

    corners: Array
    cells: Array
    edges: Array
    outline: Array
    normals: Array | None = None
    polygons: Cells | None = None
    polygon: Array | None = None


def surface(mesh: Mesh, *, linear: bool = False, cut: str | None = None) -> Surface:
    """The surface that can be seen of a mesh; curved sides of quadratic cells by their nodes.

    Arguments:
        mesh: any mesh.
        linear: use the corners of quadratic cells only.
        cut: "x", "y" or "z" leaves away the cells behind the middle along that axis.

    Returns:
        Triangles that point at the mesh's own points and cells.
    """
    k = mesh.cell_dim + 1
    if k < 3:
        block = np.concatenate([_numpy(b.nodes)[:, :k] for b in mesh.cells])
        none = np.zeros((len(block), 3), bool)
        return Surface(block, np.arange(len(block)), none, none)
    import pyvista
    from vtkmodules.vtkFiltersGeometry import vtkDataSetSurfaceFilter

    grid = to_pyvista(mesh.replace(point_fields={}, cell_fields={}))
    # not VTK's own vtkOriginalPointIds and -CellIds, which are wrong for quadratic cells
    grid.point_data["point"] = np.arange(mesh.n_points)
    grid.cell_data["cell"] = np.arange(mesh.n_cells)
    if cut is not None:
        check_known(cut, "xyz"[: mesh.dim], "axis to cut at")
        centres = np.asarray(grid.cell_centers().points)[:, "xyz".index(cut)]
        middle = grid.center["xyz".index(cut)]
        grid = grid.extract_cells(np.flatnonzero(centres >= middle))
    shell = vtkDataSetSurfaceFilter()
    shell.SetInputData(grid)
    shell.SetNonlinearSubdivisionLevel(0 if linear else 1)
    shell.Update()
    skin = pyvista.wrap(shell.GetOutput())
    rings = skin.GetPolys()
    ring_nodes = np.asarray(pyvista.convert_array(rings.GetConnectivityArray()), np.int64)
    ring_offsets = np.array(pyvista.convert_array(rings.GetOffsetsArray()), np.int64)
    numbers = np.asarray(skin.point_data["point"])
    polygons = Cells(
        "polygon", torch.from_numpy(numbers[ring_nodes]), torch.from_numpy(ring_offsets)
    )
    skin.cell_data["polygon"] = np.arange(skin.n_cells)
    skin = skin.triangulate()
    if mesh.dim == 3:
        # splitting sharp edges keeps them sharp; it copies points, and their numbers with them
        skin = skin.compute_normals(
            cell_normals=False, split_vertices=True, feature_angle=40.0, auto_orient_normals=False
        )
    triangles = np.asarray(skin.faces).reshape(-1, 4)[:, 1:]
    corners = np.asarray(skin.point_data["point"])[triangles]
    cells = np.asarray(skin.cell_data["cell"])
    normals = None
    if mesh.dim == 3:
        normals = np.asarray(skin.point_data["Normals"], dtype=np.float64)[triangles]
    keys = pair_keys(corners, np.roll(corners, -1, 1), mesh.n_points)  # (M, 3)
    _, place, count = np.unique(keys, return_inverse=True, return_counts=True)
    outline = (count == 1)[place].reshape(keys.shape)
    return Surface(
        corners,
        cells,
        _real_edges(mesh, keys, linear),
        outline,
        normals,
        polygons,
        np.asarray(skin.cell_data["polygon"]),
    )


def pair_keys(a: Array, b: Array, n_points: int) -> Array:
    """One number for each pair of points, whichever comes first."""
    return np.minimum(a, b).astype(np.int64) * n_points + np.maximum(a, b)


def _real_edges(mesh: Mesh, keys: Array, linear: bool) -> Array:
    """Which sides of triangles are edges of cells: (M, 3) bool."""
    edges = _numpy(mesh.edges)
    known = pair_keys(edges[:, 0], edges[:, 1], mesh.n_points)
    curved = any(TYPES[b.type][1] > TYPES[b.type][2] for b in mesh.cells)
    if linear and curved:
        return np.ones(keys.shape, bool)
    return np.isin(keys, known)
