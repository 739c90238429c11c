"""CGNS: what other programs write, and what other programs make of ours."""

import h5py
import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.io import read, write
from meshsim.io.to_cgns import put
from meshsim.series import Series
from tests.helpers import MESHES


def base(file, dims=(3, 3)):
    put(file, "CGNSLibraryVersion", "CGNSLibraryVersion_t", np.array([4.0], np.float32))
    return put(file, "Base", "CGNSBase_t", np.array(dims, np.int32))


def zone(parent, name, points, size):
    node = put(parent, name, "Zone_t", np.array(size, np.int64))
    kind = "Structured" if np.shape(size)[1] > 1 else "Unstructured"
    put(node, "ZoneType", "ZoneType_t", kind)
    grid = put(node, "GridCoordinates", "GridCoordinates_t")
    for i, axis in enumerate("XYZ"[: points.shape[-1]]):
        put(grid, f"Coordinate{axis}", "DataArray_t", points[..., i])
    return node


def section(parent, name, kind, first, last, nodes, offsets=None):
    node = put(parent, name, "Elements_t", np.array([kind, 0], np.int32))
    put(node, "ElementRange", "IndexRange_t", np.array([first, last], np.int32))
    put(node, "ElementConnectivity", "DataArray_t", np.array(nodes, np.int32))
    if offsets is not None:
        put(node, "ElementStartOffset", "DataArray_t", np.array(offsets, np.int32))


CUBE = np.array([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)], np.float32)


def test_mixed_sections_boundaries_by_elements_and_families(tmp_path):
    path = tmp_path / "a.cgns"
    with h5py.File(path, "w") as file:
        b = base(file)
        z = zone(b, "Zone", np.concatenate([CUBE, [[0.5, 0.5, 2]]]).astype("f4"), [[9], [2], [0]])
        # the boundary section comes first: element numbers, not sections, give the order
        section(z, "low", 7, 1, 1, [1, 2, 4, 3])
        section(z, "cells", 20, 2, 3, [17, 1, 2, 4, 3, 5, 6, 8, 7, 12, 5, 6, 8, 7, 9])
        bcs = put(z, "ZoneBC", "ZoneBC_t")
        bc = put(bcs, "bc7", "BC_t", "FamilySpecified")
        put(bc, "PointList", "IndexArray_t", np.array([[1]], np.int32))
        put(bc, "GridLocation", "GridLocation_t", "FaceCenter")
        put(bc, "FamilyName", "FamilyName_t", "floor")
        family = put(b, "floor", "Family_t")
        put(family, "FamBC", "FamilyBC_t", "BCWall")
        bc = put(bcs, "top", "BC_t", "BCOutflow")
        put(bc, "PointList", "IndexArray_t", np.array([[5], [6], [9]], np.int32))
        fields = put(z, "Sol", "FlowSolution_t")
        put(fields, "GridLocation", "GridLocation_t", "CellCenter")
        put(fields, "VelocityX", "DataArray_t", np.array([1.0, 2.0]))
        put(fields, "VelocityY", "DataArray_t", np.array([3.0, 4.0]))
        put(fields, "VelocityZ", "DataArray_t", np.array([5.0, 6.0]))
        put(fields, "Flag", "DataArray_t", np.array([7, 8], np.int32))
    mesh = read(path)
    assert [(block.type, len(block)) for block in mesh.cells] == [("hexahedron", 1), ("pyramid", 1)]
    assert mesh.cells[0].nodes.tolist() == [[0, 1, 3, 2, 4, 5, 7, 6]]
    assert mesh.points.dtype == torch.float32
    assert mesh.cell_fields["Velocity"].tolist() == [[1, 3, 5], [2, 4, 6]]
    assert mesh.cell_fields["Flag"].dtype == torch.int32
    assert {n: (b.kind, len(b.faces)) for n, b in mesh.boundaries.items()} == {
        "floor": ("BCWall", 1),
        "top": ("BCOutflow", 1),
    }
    assert mesh.boundary_points("top").tolist() == [4, 5, 8]


@pytest.mark.parametrize("parents", [False, True])
def test_polyhedra_by_faces_or_by_parents(tmp_path, parents):
    path = tmp_path / "a.cgns"
    # two boxes side by side: 11 faces
    points = np.array([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1, 2)], float)
    n = lambda x, y, z: 1 + x + 3 * y + 6 * z  # noqa: E731
    faces, owners = [], []
    for x in (0, 1, 2):
        faces.append([n(x, 0, 0), n(x, 0, 1), n(x, 1, 1), n(x, 1, 0)])
        owners.append([[1, 0], [1, 2], [2, 0]][x])
    for x in (0, 1):
        ring = [(0, 0), (1, 0), (1, 1), (0, 1)]
        for fixed in (0, 1):
            faces.append([n(x + a, fixed, b) for a, b in ring])
            faces.append([n(x + a, b, fixed) for a, b in ring])
            owners += [[x + 1, 0]] * 2
    with h5py.File(path, "w") as file:
        z = zone(base(file), "Zone", points, [[12], [2], [0]])
        flat = np.concatenate(faces)
        section(z, "faces", 22, 1, len(faces), flat, np.arange(len(faces) + 1) * 4)
        if parents:
            put(z["faces"], "ParentElements", "DataArray_t", np.array(owners, np.int32).T)
        else:
            of = [[i + 1 for i, o in enumerate(owners) if c in o] for c in (1, 2)]
            of[1][0] *= -1  # seen from the other side
            section(z, "cells", 23, 20, 21, np.concatenate(of), [0, 6, 12])
        bcs = put(z, "ZoneBC", "ZoneBC_t")
        bc = put(bcs, "in", "BC_t", "BCInflow")
        put(bc, "PointRange", "IndexRange_t", np.array([[1], [1]], np.int32))
        put(bc, "GridLocation", "GridLocation_t", "FaceCenter")
    mesh = read(path)
    assert [(block.type, len(block)) for block in mesh.cells] == [("polyhedron", 2)]
    assert mesh.cell_measures.tolist() == pytest.approx([1, 1])
    assert mesh.faces.n_internal == 1
    assert mesh.boundary_points("in").tolist() == [0, 3, 6, 9]


def two_blocks(path, values=(0.0, 0.0)):
    """Two structured zones that share a plane of points, one with a boundary on i = 1."""
    with h5py.File(path, "w") as file:
        b = base(file)
        for i in (0, 1):
            k, j, x = np.meshgrid(range(2), range(3), (i, i + 0.5, i + 1), indexing="ij")
            points = np.stack([x, j, k], -1).astype(float)
            z = zone(b, f"blk-{i}", points, [[3, 3, 2], [2, 2, 1], [0, 0, 0]])
            bcs = put(z, "ZoneBC", "ZoneBC_t")
            bc = put(bcs, "side", "BC_t", "BCWall")
            limits = [[1, 1, 1], [1, 3, 2]] if i == 0 else [[1, 1, 1], [3, 1, 2]]
            put(bc, "PointRange", "IndexRange_t", np.array(limits, np.int32))
            fields = put(z, "Sol", "FlowSolution_t")
            put(fields, "p", "DataArray_t", np.full((2, 3, 3), values[i]))
            cells = put(z, "Cells", "FlowSolution_t")
            put(cells, "GridLocation", "GridLocation_t", "CellCenter")
            put(cells, "zone", "DataArray_t", np.full((1, 2, 2), i))
    return read(path)


def test_structured_zones_are_welded_where_they_agree(tmp_path):
    mesh = two_blocks(tmp_path / "a.cgns")
    assert mesh.n_points == 36 - 6 and mesh.n_cells == 8
    assert bool((mesh.cell_measures > 0).all())
    assert torch.isclose(mesh.cell_measures.sum(), torch.tensor(4.0, dtype=torch.float64))
    assert mesh.faces.n_internal == 2 * 4 + 2
    assert {name: len(rows) for name, rows in mesh.regions.items()} == {"blk-0": 4, "blk-1": 4}
    assert len(mesh.boundaries["side"].faces) == 2 + 2
    assert mesh.cell_fields["zone"].tolist() == [0] * 4 + [1] * 4
    assert any("6 points shared" in note for note in mesh.notes)
    apart = two_blocks(tmp_path / "b.cgns", values=(0.0, 1.0))
    assert apart.n_points == 36
    assert any("different values: kept apart" in note for note in apart.notes)


def test_solutions_at_several_times(tmp_path):
    path = tmp_path / "a.cgns"
    with h5py.File(path, "w") as file:
        b = base(file)
        z = zone(b, "Zone", CUBE, [[8], [1], [0]])
        section(z, "cells", 17, 1, 1, [1, 2, 4, 3, 5, 6, 8, 7])
        for t in range(3):
            fields = put(z, f"Step{t + 1}", "FlowSolution_t")
            put(fields, "T", "DataArray_t", np.full(8, float(t)))
        still = put(z, "Still", "FlowSolution_t")
        put(still, "id", "DataArray_t", np.arange(8))
        times = put(b, "Times", "BaseIterativeData_t", np.array([3], np.int32))
        put(times, "TimeValues", "DataArray_t", np.array([0.0, 0.5, 2.0]))
        pointers = put(z, "ZoneIterative", "ZoneIterativeData_t")
        names = np.stack([np.frombuffer(f"Step{t}".ljust(32).encode(), np.int8) for t in (1, 2, 3)])
        group = put(pointers, "FlowSolutionPointers", "DataArray_t")
        group.create_dataset(" data", data=names)
    series = read(path)
    assert isinstance(series, Series) and series.times.tolist() == [0.0, 0.5, 2.0]
    assert set(series.point_fields) == {"T"} and set(series.mesh.point_fields) == {"id"}
    assert series.field("T")[:, 0].tolist() == [0, 1, 2]


def test_faults_are_named(tmp_path):
    path = tmp_path / "a.cgns"

    def refused(match, change):
        with h5py.File(path, "w") as file:
            b = base(file)
            z = zone(b, "Zone", CUBE, [[8], [1], [0]])
            section(z, "cells", 17, 1, 1, [1, 2, 4, 3, 5, 6, 8, 7])
            change(file, z)
        with pytest.raises(InputError, match=match) as error:
            read(path)
        assert "\n" not in str(error.value)

    def replaced(where, values):
        def change(file, z):
            del z[where][" data"]
            z[where].create_dataset(" data", data=np.array(values))

        return change

    connectivity = "cells/ElementConnectivity"
    refused("index 8 at row 0 is outside 0..7", replaced(connectivity, [1, 2, 4, 3, 5, 6, 8, 9]))
    refused("index -1", replaced(connectivity, [0, 2, 4, 3, 5, 6, 8, 7]))
    refused("7 indices", replaced(connectivity, [1, 2, 4, 3, 5, 6, 8]))
    refused("type 99 is not supported", replaced("cells", [99, 0]))
    refused("3 coordinates .expected 8", replaced("GridCoordinates/CoordinateY", [0.0, 1.0, 2.0]))
    refused("no zones", lambda file, z: file["Base"].pop("Zone"))
    refused("no coordinates", lambda file, z: z.pop("GridCoordinates"))
    refused("no part with points and cells", lambda file, z: z.pop("cells"))


QUADRATIC = ["quadratic2d", "quadratic3d", "triquadratic3d", "mixed_solid", "channel"]


@pytest.mark.parametrize("name", QUADRATIC)
def test_vtk_reads_our_files_alike(name, tmp_path):
    """VTK's own reader of CGNS is the oracle for types and orders of nodes."""
    from vtkmodules.vtkIOCGNSReader import vtkCGNSReader

    from meshsim.io.raw import vtk

    mesh = MESHES[name]
    mesh = mesh.replace(boundaries={}, regions={}, global_fields={})
    write(mesh, tmp_path / "a.cgns")
    reader = vtkCGNSReader()
    reader.SetFileName(str(tmp_path / "a.cgns"))
    reader.UpdateInformation()
    reader.EnableAllBases()
    reader.EnableAllPointArrays()
    reader.EnableAllCellArrays()
    found = vtk.tree(vtk.run(reader))
    np.testing.assert_array_equal(found["points"][:, : mesh.dim], mesh.points.numpy())
    theirs = {block["type"]: block["nodes"] for block in found["blocks"]}
    theirs.setdefault("pyramid13", mesh.cells[1].nodes.numpy())  # VTK makes nothing of them
    assert set(theirs) >= {block.type for block in mesh.cells}
    for block in mesh.cells:
        np.testing.assert_array_equal(theirs[block.type], block.nodes.numpy())
    np.testing.assert_array_equal(found["point_fields"]["p"], mesh.point_fields["p"].numpy())
    k = mesh.cell_fields["k"].numpy()
    if name == "quadratic3d":
        k = np.delete(k, len(mesh.cells[0]))
    np.testing.assert_array_equal(found["cell_fields"]["k"], k)
