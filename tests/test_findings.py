"""Sound meshes have no findings; a planted defect is found where it was put, and no other error."""

import pytest
import torch

from meshsim.defects import of_mesh
from meshsim.findings import check
from meshsim.geometry import columns, corners, measure, quality
from meshsim.geometry.cells import TYPES, Cells, take
from meshsim.geometry.mirror import mirrored
from meshsim.mesh import Mesh
from meshsim.sample import Sample
from meshsim.series import Series
from tests.helpers import MESHES, polyhedra
from tests.sound import LINEAR, QUADRATIC, SOUND, SURFACES


def kinds(mesh):
    return {p["kind"]: p for p in check(mesh, limit=10**6)["problems"]}


def errors(found):
    return {kind for kind, p in found.items() if p["severity"] == "error"}


def bare(mesh, **changes):
    given = {"points": mesh.points, "cells": mesh.cells} | changes
    return Mesh(**given)


def joined(a, b):
    """Two blocks of one type as one."""
    if a.offsets is None:
        return Cells(a.type, torch.cat([a.nodes, b.nodes]))
    faces = a.face_offsets
    if faces is not None:
        faces = torch.cat([faces, b.face_offsets[1:] + faces[-1]])
    ends = torch.cat([a.offsets, b.offsets[1:] + a.offsets[-1]])
    return Cells(a.type, torch.cat([a.nodes, b.nodes]), ends, faces)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(SOUND))
def test_sound_meshes_have_no_findings(name, dtype):
    assert kinds(SOUND[name].to(dtype=dtype)) == {}


@pytest.mark.parametrize("name", list(MESHES))
def test_measures_by_columns_are_the_same(name):
    mesh = MESHES[name]
    want = measure.signed_measures(mesh.points, mesh.cells)
    torch.testing.assert_close(
        columns.signed(mesh.points, mesh.cells), want, rtol=1e-12, atol=1e-14
    )
    found = (columns.signed(mesh.points, mesh.cells).abs() <= 0).nonzero().squeeze(1)
    assert found.tolist() == quality.degenerate(mesh.points, mesh.cells).tolist()


@pytest.mark.parametrize("name", list(SOUND))
def test_double_and_lonely_points_are_found(name):
    mesh = SOUND[name]
    n, block = mesh.n_points, mesh.cells[0]
    flat = block.nodes.clone().reshape(-1)
    shared = int(torch.bincount(flat).argmax())
    flat[(flat == shared).nonzero()[-1]] = n  # one use of the point
    points = torch.cat([mesh.points, mesh.points[[shared]] + 1e-13, mesh.points[:1] + 100])
    nodes = flat.reshape(block.nodes.shape)
    cells = [Cells(block.type, nodes, block.offsets, block.face_offsets)]
    found = kinds(bare(mesh, points=points, cells=cells))
    assert found["duplicate_points"]["examples"] == (n,)
    assert found["orphan_points"]["examples"] == (n + 1,)
    assert errors(found) <= {"open_polyhedra"}  # it is, if one of its faces has the other point


@pytest.mark.parametrize("name", list(SOUND))
def test_double_cells_are_found(name):
    mesh = SOUND[name]
    again = joined(mesh.cells[0], take(mesh.cells[0], torch.tensor([4])))
    found = kinds(bare(mesh, cells=[again]))
    assert found["duplicate_cells"]["examples"] == (mesh.n_cells,)
    assert errors(found) - {"orientation"} == {"duplicate_cells"}


@pytest.mark.parametrize("name", [n for n in SOUND if n != "polyhedron" and n not in SURFACES])
def test_cells_inside_out_are_found(name):
    mesh = SOUND[name]
    rows = torch.zeros(mesh.n_cells, dtype=torch.bool)
    rows[[1, 4]] = True
    found = kinds(bare(mesh, cells=[mirrored(mesh.cells[0], rows)]))
    assert found["inverted"]["examples"] == (1, 4)
    assert "2 of them are only listed" in found["inverted"]["text"]
    assert set(found) == {"inverted"}
    assert set(kinds(bare(mesh, cells=[mirrored(mesh.cells[0], ~rows)]))) == {
        "inverted",
        "mirrored",
    }


def test_a_point_pulled_through_is_not_a_careless_listing():
    found = kinds(MESHES["tangled"])
    assert found["inverted"]["examples"] and "listed" not in found["inverted"]["text"]


@pytest.mark.parametrize("name", ["quad", "wedge", "hexahedron", "quad8", "quad9", "wedge15",
                                  "wedge18", "hexahedron20", "hexahedron27", "pyramid",
                                  "pyramid13", "pyramid14"])  # fmt: skip
def test_a_dented_corner_is_found(name):
    """A corner of one cell alone, pushed into it beyond the line of its neighbours."""
    mesh = SOUND[name]
    one = take(mesh.cells[0], torch.tensor([0]))
    corner, others = (0, {"quad": (1, 3), "wedg": (1, 2, 3)}.get(name[:4], (1, 3, 4)))
    points = mesh.points.clone()
    nodes = one.nodes[0]
    side = points[nodes[list(others)]].mean(0) - points[nodes[corner]]
    assert corners.folded(points, [one]).tolist() == []
    points[nodes[corner]] += 1.3 * side
    assert corners.folded(points, [one]).tolist() == [0]


@pytest.mark.parametrize("name", ["triangle6", "tetra10", "quad8", "hexahedron20", "wedge15",
                                  "hexahedron27", "triangle7", "quad9", "wedge18"])  # fmt: skip
def test_a_midside_node_beyond_its_quarter_point_is_found(name):
    """An edge's map is monotone while its node is in the middle half (Henshell & Shaw, 1975)."""
    mesh = SOUND[name]
    n = TYPES[name][2]
    straight = Mesh(mesh.points, mesh.cells)
    a, b, m = mesh.cells[0].nodes[0, [0, 1, n]].tolist()
    for t, bad in ((0.3, False), (0.2, True)):
        points = straight.points.clone()
        points[m] = (1 - t) * points[a] + t * points[b]
        found = corners.folded(points, straight.cells)
        assert (0 in found.tolist()) is bad


@pytest.mark.parametrize("name", ["triangle", "tetra"])
def test_cells_of_no_size_are_found(name):
    mesh = SOUND[name]
    k = TYPES[name][1]
    far = [0, *[mesh.n_points - 1] * (k - 1)]
    cells = Cells(name, torch.cat([mesh.cells[0].nodes, torch.tensor([far])]))
    found = kinds(bare(mesh, cells=[cells]))
    assert found["degenerate"]["examples"] == (mesh.n_cells,) == found["collapsed"]["examples"]
    assert errors(found) == {"degenerate"}


def test_hanging_faces_are_found_in_the_plane_and_in_space():
    x = [[0, 0], [2, 0], [2, 2], [0, 2], [3, 0], [3, 1], [2, 1], [3, 2]]
    quads = [[0, 1, 2, 3], [1, 4, 5, 6], [6, 5, 7, 2]]
    mesh = Mesh(torch.tensor(x).double(), {"quad": quads})
    found = kinds(mesh)
    assert errors(found) == {"hanging_faces"}
    (face,) = found["hanging_faces"]["examples"]
    assert mesh.faces.centre[face].tolist() == [2.0, 1.0] and mesh.faces.owner[face] == 0
    whole = torch.tensor(x).double()
    named = mesh.replace(boundaries={"interface": (mesh.faces.neighbour < 0).nonzero().flatten()})
    assert "hanging_faces" not in kinds(named)  # what is named is meant
    cubes = Mesh(whole, [Cells("polygon", torch.tensor(quads).flatten(), torch.arange(4) * 4)])
    assert errors(kinds(cubes)) == {"hanging_faces"}
    blocks = MESHES["polyhedra"]  # matched faces all round
    assert "hanging_faces" not in kinds(blocks)
    big = SOUND["hexahedron"]
    fine = big.points / 3 * torch.tensor([1.0, 3.0, 3.0]) / 1.0 + torch.tensor([3.0, 0.0, 0.0])
    one = torch.tensor([[0, 0, 0], [3, 0, 0], [3, 3, 0], [0, 3, 0]]).double()
    one = torch.cat([one, one + torch.tensor([0.0, 0, 3])])
    corner = len(one) + big.cells[0].nodes
    pair = Mesh(torch.cat([one, fine]), {"hexahedron": torch.cat([torch.arange(8)[None], corner])})
    found = kinds(pair)
    assert errors(found) == {"hanging_faces"} and found["hanging_faces"]["count"] == 1


def test_open_polyhedra_are_found():
    mesh = LINEAR["polyhedron"]
    cells = mesh.cells[0]
    rings = cells.nodes.reshape(-1, 6, 4).tolist()
    lost = rings[7].pop(2)
    found = kinds(Mesh(mesh.points, [polyhedra(rings)]))
    assert lost and found["open_polyhedra"]["examples"] == (7,)
    assert errors(found) == {"open_polyhedra"}


@pytest.mark.parametrize("name", list(SURFACES))
def test_surfaces_wound_wrongly_or_open_are_found(name):
    mesh = SOUND[name]
    rows = torch.zeros(mesh.n_cells, dtype=torch.bool)
    rows[[2, 30]] = True
    found = kinds(bare(mesh, cells=[mirrored(mesh.cells[0], rows)]))
    assert set(found) == {"orientation"} and found["orientation"]["examples"] == (2, 30)
    found = kinds(bare(mesh, cells=[mirrored(mesh.cells[0], rows | True)]))
    assert set(found) == {"inside_out"} and found["inside_out"]["count"] == mesh.n_cells
    keep = (~rows).nonzero().squeeze(1)
    found = kinds(bare(mesh, cells=[take(mesh.cells[0], keep)]))
    assert set(found) == {"open_surface"} and "along 2 rims" in found["open_surface"]["text"]
    assert found["open_surface"]["count"] == 2 * (3 if "triangle" in name else 4)


def test_a_moebius_strip_has_no_outside():
    n = 24
    t = torch.arange(n).double() * 2 * torch.pi / n
    out = [[(1 + s * (a / 2).cos()) * a.cos(), (1 + s * (a / 2).cos()) * a.sin(), s * (a / 2).sin()]
           for s in (-0.3, 0.3) for a in t]  # fmt: skip
    i = torch.arange(n)
    a, b = i, i + n
    after, above = a.roll(-1).clone(), b.roll(-1).clone()
    after[-1], above[-1] = n, 0  # half a turn
    strip = Mesh(torch.tensor(out), {"quad": torch.stack([a, after, above, b], 1)})
    found = kinds(strip)
    assert found["one_sided"]["count"] == n and "along 1 rim" in found["open_surface"]["text"]


def test_faces_and_edges_of_more_than_two_cells_are_found():
    assert kinds(MESHES["fins"])["non_manifold"]["severity"] == "warning"
    mesh = SOUND["tetra"]
    inner = mesh.faces.nodes[:3]
    nodes = torch.cat([mesh.cells[0].nodes, torch.tensor([[*inner.tolist(), mesh.n_points]])])
    far = mesh.points[:1] - 50
    found = kinds(bare(mesh, points=torch.cat([mesh.points, far]), cells=[Cells("tetra", nodes)]))
    assert found["non_manifold"]["count"] == 1 and "non_manifold" in errors(found)


def test_boundaries_that_miss_or_share_faces_are_found():
    mesh = SOUND["hexahedron"]
    left, rest = (mesh.boundaries[k].faces for k in ("left", "rest"))
    found = kinds(mesh.replace(boundaries={"left": left, "rest": rest[3:]}))
    assert found["unnamed_faces"]["examples"] == tuple(sorted(rest[:3].tolist()))
    both = torch.cat([left, rest[:2]])
    found = kinds(mesh.replace(boundaries={"left": both, "rest": rest}))
    assert found["shared_faces"]["examples"] == tuple(sorted(rest[:2].tolist()))
    found = kinds(mesh.replace(boundaries={"left": left, "rest": rest, "cut": torch.tensor([3])}))
    assert found["inside_faces"]["examples"] == (3,) and errors(found) == set()


def test_values_that_are_no_numbers_or_all_one_are_found():
    mesh = SOUND["quad"]
    p = torch.ones(mesh.n_points)
    p[[3, 5]] = torch.tensor([torch.nan, torch.inf])
    found = kinds(mesh.with_fields({"p": p, "c": torch.ones(mesh.n_points)}))
    assert found["field_not_finite"]["count"] == 2 and found["field_not_finite"]["examples"] == (
        3,
        5,
    )
    assert found["field_not_finite"]["where"] == "p" and found["constant_field"]["where"] == "c"
    points = mesh.points.clone()
    points[4, 0] = torch.nan
    found = kinds(mesh.replace(points=points))
    assert found["points_not_finite"]["examples"] == (4,)


def test_a_series_is_looked_at_where_it_begins_and_ends_or_everywhere():
    mesh = bare(SOUND["quad"])
    x = torch.rand(3, mesh.n_points)
    x[1, 7] = torch.nan
    series = Series(mesh, [0.0, 1.0, 2.0], {"p": x})
    assert check(series)["ok"] and not check(series, full=True)["ok"]
    moved = mesh.points.clone()
    moved[5] = 100
    found = check(Series(mesh, [0.0, 1.0], points=torch.stack([mesh.points, moved])))
    assert {(p["kind"], p["where"]) for p in found["problems"]} >= {("inverted", "time 1")}
    two = Sample({"a": mesh, "b": series})
    assert set(check(two)["figures"]) == {"a", "b"}
    assert check(two, full=True)["problems"][0]["where"] == "b: p"


def test_numbers_of_cells_are_those_of_the_file():
    mesh = MESHES["tangled"]
    order = torch.arange(mesh.n_cells).flip(0)
    found, _ = of_mesh(mesh.replace(file_order=order))
    want = {mesh.n_cells - 1 - i for i in kinds(mesh)["inverted"]["examples"]}
    assert set(next(f for f in found if f.kind == "inverted").examples) == want


@pytest.mark.parametrize("name", list(QUADRATIC))
def test_corner_measures_of_a_moved_mesh_are_a_constant_times_as_large(name):
    mesh = SOUND[name]
    a = corners.corner_measures(mesh.points, mesh.cells[0])
    if a is not None:
        b = corners.corner_measures(2 * mesh.points + 7, mesh.cells[0])
        torch.testing.assert_close(b, 2**mesh.dim * a)
