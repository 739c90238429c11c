"""Mesh: what it refuses, what it keeps, what it works out once."""

import copy
import pickle

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.geometry import topology
from meshsim.mesh import Boundary, Cells, Mesh, as_tensor
from tests.helpers import DTYPES, MESHES

POINTS = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
TRIANGLES = [[0, 1, 2], [0, 2, 3]]


def same(a, b):
    """Whether two meshes are equal in everything a file can hold."""
    ours, theirs = ({k: v for k, v in m.__dict__.items() if k[0] != "_"} for m in (a, b))
    assert ours.keys() == theirs.keys()
    for key in ("point_fields", "cell_fields", "regions", "global_fields"):
        mine, other = ours.pop(key), theirs.pop(key)
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)
    assert torch.equal(ours.pop("points"), theirs.pop("points"))
    for one, two in zip(ours.pop("cells"), theirs.pop("cells"), strict=True):
        assert one.type == two.type and torch.equal(one.nodes, two.nodes)
        for x, y in ((one.offsets, two.offsets), (one.face_offsets, two.face_offsets)):
            assert (x is None and y is None) or torch.equal(x, y)
    mine, other = ours.pop("boundaries"), theirs.pop("boundaries")
    assert list(mine) == list(other)
    for name in mine:
        assert mine[name].kind == other[name].kind
        assert torch.equal(mine[name].faces, other[name].faces)
        assert mine[name].fields.keys() == other[name].fields.keys()
    assert ours == theirs
    return True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": []}, "shape"),
        ({"points": np.zeros((0, 3))}, "mesh is empty (0 points"),
        ({"points": np.zeros((4, 4))}, "expected shape (N, 2) or (N, 3), got (4, 4)"),
        ({"points": [["a", "b"]]}, "expected real numbers"),
        ({"points": [[0.0, 1.0], [2.0]]}, "ragged"),
        ({"cells": {}}, "0 cells"),
        ({"cells": {"triangle": np.zeros((0, 3), int)}}, "0 cells"),
        ({"cells": {"triangle": [[0, 1, 4]]}}, "index 4 at row 0 is outside 0..3 (4 points)"),
        ({"cells": {"triangle": [[0, 1, 2], [0, -1, 2]]}}, "index -1 at row 1"),
        ({"cells": {"triangle": [[0.0, 1.0, 2.0]]}}, "whole numbers"),
        ({"cells": {"triangle": [[True, False, True]]}}, "whole numbers"),
        ({"cells": {"quad": [[0, 1, 2]]}}, "quad needs shape (C, 4), got (1, 3)"),
        ({"cells": {"triange": [[0, 1, 2]]}}, "did you mean 'triangle'"),
        ({"cells": {"polygon": [[0, 1, 2]]}}, "polygon needs flat"),
        ({"cells": {"triangle": [[0, 1, 2]], "line": [[0, 1]]}}, "one dimension"),
        ({"cells": {"tetra": [[0, 1, 2, 3]]}}, "3-D cells on 2-D points"),
        ({"point_fields": {"p": [1.0]}}, "point_fields[p]`: expected 4 rows"),
        ({"point_fields": {"p": 1.0}}, "point_fields[p]`: expected 4 rows"),
        ({"cell_fields": {"k": np.zeros(4)}}, "cell_fields[k]`: expected 2 rows"),
        ({"point_fields": {"p": ["a"] * 4}}, "expected real numbers"),
        ({"point_fields": {"p": np.zeros(4, complex)}}, "expected real numbers"),
        ({"regions": {"r": [2]}}, "regions[r]`: index 2 at row 0 is outside 0..1 (2 cells)"),
        ({"regions": {"r": [True, False]}}, "whole numbers"),
        (
            {"boundaries": {"b": Boundary(torch.tensor([0]), {"q": torch.ones(2)})}},
            "q]`: expected 1 rows",
        ),
        ({"boundaries": {"b": [[0, 1]]}}, "boundaries[b]`: expected shape (*), got (1, 2)"),
        ({"file_order": torch.tensor([0])}, "file_order`: expected 2 rows"),
        ({"file_order": torch.tensor([0, 2])}, "file_order`: index 2"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(InputError) as error:
        Mesh(**{"points": POINTS, "cells": {"triangle": TRIANGLES}} | change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1, 2], [0, 2]), "rising list from 0 to 3"),
        (([0, 1, 2], [1, 3]), "rising list from 0 to 3"),
        (([0, 1, 2], [0, 4, 3]), "rising list from 0 to 3"),
        (([0, 1, 9], [0, 3]), "index 9 at row 2"),
        (([0, 1, 2], []), "shape (n + 1,)"),
        (([0, 1, 2], [0.0, 3.0]), "whole numbers"),
    ],
)
def test_bad_offsets_are_named(arguments, message):
    with pytest.raises(InputError) as error:
        Mesh(POINTS, [Cells("polygon", *map(torch.tensor, arguments))])
    assert message in str(error.value)


def test_bad_polyhedra_are_named():
    nodes, offsets = torch.arange(4), torch.tensor([0, 2])
    with pytest.raises(InputError, match="needs `face_offsets`"):
        Cells("polyhedron", nodes, offsets)
    with pytest.raises(InputError, match=r"polyhedron].offsets`: expected a rising list"):
        Mesh(np.zeros((4, 3)), [Cells("polyhedron", nodes, offsets, torch.tensor([0, 4]))])


def test_arrays_of_any_kind_are_taken():
    big = np.array(POINTS, dtype=">f4")
    cells = np.asfortranarray(np.array(TRIANGLES, dtype=np.uint32))
    fields = {
        "half": np.ones(4, np.float16),
        "long": np.ones((4, 2), np.longdouble)[::-1],
        "small": np.ones(4, np.uint8),
        "flag": np.array([True, False, True, False]),
        "unsigned": np.array([1, 2, 3, 4], ">u2"),
    }
    mesh = Mesh(big, {"triangle": cells}, fields, global_fields={"time": 2.0})
    assert mesh.points.dtype == torch.float32 and mesh.cells[0].nodes.dtype == torch.int64
    assert [str(v.dtype)[6:] for v in mesh.point_fields.values()] == [
        *("float32", "float64", "uint8", "bool", "int64")
    ]
    assert mesh.global_fields["time"].shape == ()
    assert Mesh(np.array(POINTS, int), {"triangle": TRIANGLES}).points.dtype == torch.float64
    assert Cells("line", torch.tensor([[0, 1]], dtype=torch.int32)).nodes.dtype == torch.int64
    assert as_tensor(np.float64(3.0)).shape == ()
    assert as_tensor([], torch.int64).dtype == torch.int64


def test_a_mesh_is_not_edited():
    mesh = MESHES["channel"]
    for mapping in (mesh.point_fields, mesh.boundaries, mesh.regions):
        with pytest.raises(TypeError):
            mapping["new"] = torch.zeros(15)
    more = mesh.with_fields({"t": torch.zeros(15)}, {"k": torch.zeros(11)})
    assert "t" not in mesh.point_fields and mesh.cell_fields["k"].any()
    assert list(more.point_fields) == ["p", "u", "t"] and not more.cell_fields["k"].any()
    with pytest.raises(InputError, match=r"point_fields\[t\]"):
        mesh.with_fields({"t": torch.zeros(3)})
    with pytest.raises(TypeError):
        mesh.replace(colour="red")


def test_what_is_derived_is_worked_out_once(monkeypatch):
    calls = []
    original = topology.faces
    monkeypatch.setattr(topology, "faces", lambda *a: calls.append(1) or original(*a))
    mesh = Mesh(POINTS, {"triangle": TRIANGLES})
    frames = [mesh.with_fields({"p": torch.full((4,), float(i))}) for i in range(3)]
    assert len({id(f.faces) for f in [*frames, mesh]}) == 1 == len(calls)
    edges = mesh.edges
    moved = mesh.replace(points=2 * mesh.points)
    assert moved.edges is edges
    assert len(moved.faces) == 5 and len(calls) == 2
    assert moved.cell_measures.sum() == 4 * mesh.cell_measures.sum()
    other = mesh.replace(cells={"quad": [[0, 1, 2, 3]]})
    assert len(other.edges) == len(other.faces) == 4
    with pytest.raises(InputError, match=r"outside 0\.\.1"):
        mesh.replace(points=mesh.points[:2])


def test_boundary_faces_are_checked_when_there_are_faces():
    for build_first in (True, False):
        mesh = Mesh(POINTS, {"triangle": TRIANGLES})
        assert not build_first or len(mesh.faces) == 5
        bad = mesh.replace(boundaries={"b": [1, 5]})
        with pytest.raises(InputError, match=r"boundaries\[b\].*index 5 at row 1 .*5 faces"):
            bad.boundary_points("b")
        assert len(mesh.faces) == 5


def test_boundaries_by_their_cells():
    mesh = MESHES["channel"]
    assert {k: (len(b.faces), b.kind) for k, b in mesh.boundaries.items()} == {
        "inlet": (2, "patch"),
        "outlet": (2, ""),
        "wall": (8, "wall"),
    }
    inlet = mesh.boundaries["inlet"]
    assert mesh.faces.centre[inlet.faces].tolist() == [[0.0, 1.5], [0.0, 0.5]]  # file order
    assert inlet.fields["flux"].tolist() == [1.5, 2.5]
    assert mesh.boundary_points("inlet").tolist() == [0, 5, 10]
    assert len(mesh.boundary_points("wall")) == 10
    every = torch.cat([b.faces for b in mesh.boundaries.values()])
    outside = (mesh.faces.neighbour < 0).nonzero().squeeze(1)
    assert torch.equal(every.sort().values, outside)
    with pytest.raises(InputError, match="unknown boundary 'inlett': did you mean 'inlet'"):
        mesh.boundary_points("inlett")


def test_boundary_cells_that_are_no_face_are_left_out_with_a_note():
    lines = {"a": [Cells("line", torch.tensor([[0, 1], [1, 3], [2, 1]]))]}
    mesh = Mesh(POINTS, {"triangle": TRIANGLES})
    found = mesh.with_boundary_cells(lines, {"a": {"q": [1.0, 2.0, 3.0]}})
    assert found.boundaries["a"].fields["q"].tolist() == [1.0, 3.0]
    assert found.notes == ("boundary 'a': 1 of 3 cells are no face of the mesh and were left out",)
    nothing = mesh.with_boundary_cells({"a": [Cells("line", torch.tensor([[1, 3]]))]})
    assert not nothing.boundaries and len(nothing.notes) == 1
    with pytest.raises(InputError, match=r"a\.q`: expected 3 rows"):
        mesh.with_boundary_cells(lines, {"a": {"q": [1.0]}})
    with pytest.raises(InputError, match="index 7"):
        mesh.with_boundary_cells({"a": [Cells("line", torch.tensor([[1, 7]]))]})
    assert mesh.with_boundary_cells({}).boundaries == {}


def test_midside_nodes_belong_to_boundaries():
    mesh = MESHES["quadratic2d"]
    corners = Cells("line3", torch.tensor([[0, 1, 15], [1, 2, 0]]))
    mesh = mesh.with_boundary_cells({"wall": [corners]})
    points = mesh.boundary_points("wall")
    assert len(points) == 5 and (mesh.points[points][:, 1].abs() < 0.06).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(MESHES))
def test_changing_dtype_changes_floats_only(name, dtype):
    mesh = MESHES[name].to("cpu", dtype)
    assert mesh.points.dtype == mesh.point_fields["p"].dtype == dtype
    assert all(b.nodes.dtype == torch.int64 for b in mesh.cells)
    assert list(mesh.boundaries) == list(MESHES[name].boundaries)
    assert mesh.faces.area.dtype == mesh.cell_measures.dtype == dtype
    if dtype == torch.float64:
        assert same(mesh, MESHES[name])


@pytest.mark.parametrize("name", ["channel", "polyhedra", "quadratic3d"])
def test_copies_and_pickles_are_equal(name):
    mesh = MESHES[name]
    for twin in (copy.copy(mesh), copy.deepcopy(mesh), pickle.loads(pickle.dumps(mesh))):
        assert same(mesh, twin)
        assert len(twin.faces) == len(mesh.faces)
        with pytest.raises(TypeError):
            twin.point_fields["new"] = torch.zeros(1)


def test_names_and_sizes():
    mesh = MESHES["mixed_solid"]
    assert (mesh.n_points, mesh.n_cells, mesh.dim, mesh.cell_dim) == (14, 6, 3, 3)
    assert repr(mesh) == (
        "Mesh(14 points, 3-D, 2 tetra, 1 pyramid, 2 wedge, 1 hexahedron, point: p u, cell: k,"
        " boundaries: floor)"
    )
    empty_block = Cells("quad", torch.zeros(0, 4, dtype=torch.int64))
    assert len(Mesh(POINTS, [empty_block, Cells("triangle", torch.tensor(TRIANGLES))]).cells) == 1
