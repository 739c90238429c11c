"""Faces and edges against hand counts, brute force and VTK's own tables."""

import subprocess
import sys

import pytest
import torch

from meshsim.geometry import topology
from meshsim.geometry.cells import TYPES, Cells, cell_edges, cell_faces
from meshsim.rows import equal_rows
from tests.helpers import CUBE, DTYPES, MESHES, SOLID, box, polygons

STANDARD = [name for name, (dim, k, _, _) in TYPES.items() if k and dim]


def rows(offsets, values):
    return [part.tolist() for part in values.split(offsets.diff().tolist())]


def listed_faces(mesh):
    """Every (cell, corners) of the mesh, in Python."""
    cell = -1
    for block in mesh.cells:
        for c in range(len(block)):
            cell += 1
            if block.type == "polyhedron":
                for f in range(int(block.offsets[c]), int(block.offsets[c + 1])):
                    yield (
                        cell,
                        block.nodes[block.face_offsets[f] : block.face_offsets[f + 1]].tolist(),
                    )
            elif block.type == "polygon":
                ring = block.nodes[block.offsets[c] : block.offsets[c + 1]].tolist()
                for pair in zip(ring, ring[1:] + ring[:1], strict=True):
                    yield cell, list(pair)
            else:
                for face, _ in cell_faces(block.type):
                    yield cell, [int(block.nodes[c, i]) for i in face]


@pytest.mark.parametrize("name", list(MESHES))
def test_faces_are_those_of_brute_force(name):
    mesh, want = MESHES[name], {}
    for cell, corners in listed_faces(mesh):
        if len(set(corners)) >= mesh.cell_dim:
            want.setdefault(frozenset(corners), []).append(cell)
    faces = mesh.faces
    rings = rows(faces.offsets, faces.nodes)
    cells = rows(faces.cell_offsets, faces.cell_index)
    assert {frozenset(r): c for r, c in zip(rings, cells, strict=True)} == want
    assert len(faces) == len(want)
    assert faces.owner.tolist() == [c[0] for c in cells]
    assert faces.neighbour.tolist() == [c[1] if len(c) > 1 else -1 for c in cells]


@pytest.mark.parametrize("name", list(MESHES))
def test_internal_faces_first_each_part_sorted(name):
    faces = MESHES[name].faces
    n = faces.n_internal
    pairs = list(zip(faces.owner.tolist(), faces.neighbour.tolist(), strict=True))
    assert (faces.neighbour[:n] >= 0).all() and (faces.neighbour[n:] < 0).all()
    assert pairs[:n] == sorted(pairs[:n])
    assert faces.owner[n:].tolist() == sorted(faces.owner[n:].tolist())
    assert all(a < b for a, b in pairs[:n])


def test_hand_counts():
    counts = {name: (len(m.faces), m.faces.n_internal) for name, m in MESHES.items()}
    assert counts["channel"] == (25, 13)
    assert counts["mixed_solid"] == (23, 6)
    assert counts["triquadratic3d"] == (23, 6)
    assert counts["cube_surface"] == (14, 14)
    assert counts["collapsed"] == (8, 1)
    assert counts["fins"] == (10, 1)
    assert counts["junction"] == (5, 1)
    assert counts["vertices"] == (0, 0)
    assert counts["polyhedra"] == (9 + 4 * 6 - 4 - 4 + 8, 8)


def test_more_than_two_cells_on_a_face_are_all_listed():
    faces = MESHES["fins"].faces
    assert faces.cell_index[faces.cell_offsets[0] : faces.cell_offsets[1]].tolist() == [0, 1, 2, 3]
    assert (faces.owner[0], faces.neighbour[0]) == (0, 1)
    ends = MESHES["junction"].faces
    assert ends.cell_index[:4].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", [n for n in SOLID if n != "tangled"])
def test_right_hand_normal_of_the_nodes_is_the_area_vector(name):
    mesh, faces = MESHES[name], MESHES[name].faces
    for ring, area in zip(rows(faces.offsets, faces.nodes), faces.area, strict=True):
        x = mesh.points[ring]
        if mesh.dim == 2:
            (tx, ty) = (x[1] - x[0]).tolist()
            want = torch.tensor([ty, -tx], dtype=torch.float64)  # the owner on the left
        else:
            want = torch.linalg.cross(x, x.roll(-1, 0)).sum(0) / 2  # Newell
        torch.testing.assert_close(area, want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["channel", "lifted", "cube_surface", "fins"])
def test_co_normals_lie_in_the_owner_and_point_away_from_it(name):
    mesh, faces = MESHES[name], MESHES[name].faces
    edge = mesh.points[faces.nodes.reshape(-1, 2)]
    tangent = edge[:, 1] - edge[:, 0]
    torch.testing.assert_close(faces.area.norm(dim=1), tangent.norm(dim=1))
    assert ((faces.area * tangent).sum(1).abs() < 1e-13).all()
    assert (((faces.centre - mesh.cell_centres[faces.owner]) * faces.area).sum(1) > 0).all()


def test_faces_of_lines_are_unit_tangents_out_of_the_owner():
    mesh, faces = MESHES["junction"], MESHES["junction"].faces
    out = mesh.points[faces.nodes] - mesh.cell_centres[faces.owner]
    want = out / out.norm(dim=1, keepdim=True)
    torch.testing.assert_close(faces.area, want)
    assert torch.equal(faces.centre, mesh.points[faces.nodes])


def test_winding_does_not_change_area_vectors():
    plain, careless = MESHES["channel"].faces, MESHES["carelessly_wound"].faces
    assert torch.equal(plain.owner, careless.owner)
    torch.testing.assert_close(plain.area, careless.area)
    tidy, careless = MESHES["polyhedra"].faces, MESHES["careless_polyhedra"].faces
    torch.testing.assert_close(tidy.area, careless.area)
    assert [set(r) for r in rows(tidy.offsets, tidy.nodes)] == [
        set(r) for r in rows(careless.offsets, careless.nodes)
    ]


def test_a_hollow_polyhedron_keeps_its_winding():
    """A C-shaped cell: the middle lies outside it, some faces look towards the middle."""
    ring = [(0, 0), (4, 0), (4, 1), (1, 1), (1, 3), (4, 3), (4, 4), (0, 4)]
    points = torch.tensor([(*p, z) for z in (0.0, 1.0) for p in ring]).double()
    sides = [[i, (i + 1) % 8, (i + 1) % 8 + 8, i + 8] for i in range(8)]
    for turn in (1, -1):
        faces = [f[::turn] for f in [list(range(7, -1, -1)), list(range(8, 16)), *sides]]
        sizes = torch.tensor([0] + [len(f) for f in faces]).cumsum(0)
        nodes = torch.tensor([i for f in faces for i in f])
        block = Cells("polyhedron", nodes, torch.tensor([0, 10]), sizes)
        f = topology.faces(points, [block])
        assert f.area.sum(0).abs().max() == 0
        # The inner side x = 1 looks in +x, into the mouth.
        inner = next(i for i, r in enumerate(rows(f.offsets, f.nodes)) if set(r) == {3, 4, 11, 12})
        assert f.area[inner].tolist() == [2, 0, 0]


@pytest.mark.parametrize("name", [n for n in STANDARD if TYPES[n][0] > 1 and TYPES[n][3]])
def test_tables_are_vtks(name):
    vtk = pytest.importorskip("vtkmodules.vtkCommonDataModel")
    dim, k, _, number = TYPES[name]
    cell = vtk.vtkGenericCell.InstantiateCell(number)
    assert cell.GetNumberOfPoints() == k
    for i in range(k):
        cell.GetPointIds().SetId(i, i)

    def ids(part):
        return frozenset(part.GetPointId(i) for i in range(part.GetNumberOfPoints()))

    edges = [ids(cell.GetEdge(i)) for i in range(cell.GetNumberOfEdges())]
    faces = [ids(cell.GetFace(i)) for i in range(cell.GetNumberOfFaces())] if dim == 3 else edges
    assert {frozenset(corners + mids) for corners, mids in cell_faces(name)} == set(faces)
    if k == TYPES[name][2]:
        assert {frozenset(e) for e in cell_edges(name)} == set(edges)


@pytest.mark.parametrize("name", STANDARD)
def test_edges_leave_no_node_alone_and_follow_the_corners(name):
    _, k, corners, _ = TYPES[name]
    linear = cell_edges(name.rstrip("0123456789"))
    edges = cell_edges(name)
    assert {i for edge in edges for i in edge} == set(range(k))
    assert len({frozenset(e) for e in edges}) == len(edges)
    if k > corners:
        halves = [e for e in edges if min(e) < corners]
        assert len(halves) == 2 * len(linear)
        for a, b in linear:  # one node half-way, joined to both ends
            assert any({(a, m), (m, b)} <= set(halves) for m in range(corners, k))


def test_edges_by_type():
    cube = torch.tensor(CUBE).double()
    hexahedron = [Cells("hexahedron", torch.arange(8)[None])]
    edges = topology.edges(hexahedron, 8)
    assert len(edges) == 12
    assert ((cube[edges[:, 0]] - cube[edges[:, 1]]).norm(dim=1) == 1).all()  # no diagonals
    assert len(topology.edges([polygons([[0, 1, 2, 3, 4]])], 5)) == 5
    assert len(MESHES["polyhedra"].edges) == 20 + 21 + 18  # big cube, small ones, prism
    assert len(MESHES["channel"].edges) == len(MESHES["channel"].faces)
    assert len(MESHES["collapsed"].edges) == 9 + 3
    assert topology.edges([], 5).shape == (0, 2)


@pytest.mark.parametrize("name", list(MESHES))
def test_edges_are_sorted_and_once(name):
    edges = MESHES[name].edges
    assert (edges[:, 0] < edges[:, 1]).all()
    assert edges.tolist() == sorted({tuple(e): e for e in edges.tolist()}.values())


@pytest.mark.parametrize("name", [n for n in MESHES if MESHES[n].cell_dim > 1])
def test_every_face_is_found_again_by_its_corners(name):
    mesh, faces = MESHES[name], MESHES[name].faces
    generator = torch.Generator().manual_seed(0)
    want = torch.randperm(len(faces), generator=generator)
    rings = [rows(faces.offsets, faces.nodes)[i] for i in want.tolist()]
    rings = [r[i % 3 :] + r[: i % 3] for i, r in enumerate(rings)]
    rings = [r[::-1] if i % 2 else r for i, r in enumerate(rings)]
    if mesh.cell_dim == 2:
        blocks = [Cells("line", torch.tensor(rings))]
    else:
        blocks = [polygons(rings[:5]), polygons(rings[5:])]
    assert torch.equal(topology.match_faces(faces, blocks, mesh.n_points), want)


def test_cells_that_are_no_face_get_minus_one():
    mesh = MESHES["mixed_solid"]
    top = mesh.faces.nodes.new_tensor([[0, 1, 2], [0, 2, 6]])  # half a quad; through the cube
    assert topology.match_faces(mesh.faces, [Cells("triangle", top)], 14).tolist() == [-1, -1]
    assert topology.match_faces(mesh.faces, [], 14).tolist() == []
    line = Cells("line", torch.tensor([[3, 3]]))
    assert topology.match_faces(MESHES["channel"].faces, [line], 15).tolist() == [-1]
    ends = Cells("vertex", torch.tensor([[4], [1]]))
    found = topology.match_faces(MESHES["junction"].faces, [ends], 5)
    assert MESHES["junction"].faces.nodes[found].tolist() == [4, 1]


def test_quadratic_cells_match_by_corners_and_faces_keep_midside_nodes():
    mesh = MESHES["triquadratic3d"]
    for f, (ring, mids) in enumerate(
        zip(
            rows(mesh.faces.offsets, mesh.faces.nodes),
            rows(mesh.faces.mid_offsets, mesh.faces.mid_nodes),
            strict=True,
        )
    ):
        x = mesh.points
        pairs = zip(ring, ring[1:] + ring[:1], strict=True)
        middles = {tuple(((x[a] + x[b]) / 2).tolist()) for a, b in pairs}
        if len(ring) == 4:
            middles.add(tuple(x[ring].mean(0).tolist()))
        assert {tuple(x[m].tolist()) for m in mids} == middles
        on_face = topology.face_points(mesh.faces, torch.tensor([f]))
        assert on_face.tolist() == sorted(ring + mids)
    block = mesh.cells[-1]
    quad = Cells("quad8", block.nodes[:, [4, 5, 6, 7, 12, 13, 14, 15]])
    found = topology.match_faces(mesh.faces, [quad], mesh.n_points)
    assert mesh.faces.owner[found] == 2 and mesh.faces.neighbour[found] == 5  # pyramid, cube


def test_linear_and_quadratic_cells_meet():
    points = torch.tensor(box((0, 0, 0)) + box((1, 0, 0))[1:7]).double()
    points = torch.cat([points, torch.rand(12, 3, dtype=torch.float64)])
    places = {tuple(p): i for i, p in reversed(list(enumerate(points[:14].tolist())))}
    right = [places[tuple(map(float, p))] for p in box((1, 0, 0))]
    left = [places[tuple(map(float, p))] for p in box((0, 0, 0))]
    nodes = torch.tensor([left + list(range(14, 26))])
    blocks = [Cells("hexahedron", torch.tensor([right])), Cells("hexahedron20", nodes)]
    faces = topology.faces(points, blocks)
    assert (len(faces), faces.n_internal) == (11, 1)
    assert faces.mid_offsets.diff().tolist().count(4) == 5


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_blocks_no_faces(dtype):
    faces = topology.faces(torch.zeros(3, 2, dtype=dtype), [])
    assert len(faces) == 0 and faces.n_internal == 0
    assert faces.area.shape == (0, 2) and faces.area.dtype == dtype
    assert topology.face_points(faces, torch.zeros(0, dtype=torch.int64)).tolist() == []


@pytest.mark.parametrize("n", [50, 2**40])
def test_equal_rows_stand_together_also_when_hashed(n):
    generator = torch.Generator().manual_seed(3)
    few = torch.randint(n, (40, 4), generator=generator)
    table = few[torch.randint(40, (300,), generator=generator)].sort(1).values
    order, first = equal_rows(table, n)
    group = first.long().cumsum(0)
    known = {}
    for place, row in zip(group.tolist(), order.tolist(), strict=True):
        assert known.setdefault(tuple(table[row].tolist()), place) == place
    assert len(known) == int(group[-1])
    for a, b, new in zip(order[:-1].tolist(), order[1:].tolist(), first[1:].tolist(), strict=True):
        assert new or a < b


def test_rows_whose_hashes_collide_stay_apart():
    multiplier = -7046029254386353131
    a, b = [0, multiplier ^ 7], [1, 7]  # (0 · m) ^ (m ^ 7) = (1 · m) ^ 7
    order, first = equal_rows(torch.tensor([a, b, a, b, a]), 2**40)
    assert first.sum() == 2
    assert sorted(order.split([3, 2])[0].tolist()) in ([0, 2, 4], [1, 3, 0])
    assert order.tolist() in ([0, 2, 4, 1, 3], [1, 3, 0, 2, 4])


@pytest.mark.parametrize("name", ["mixed_solid", "polyhedra", "channel"])
def test_renumbering_points_changes_names_only(name):
    mesh = MESHES[name]
    to = torch.randperm(mesh.n_points, generator=torch.Generator().manual_seed(5))
    points = torch.empty_like(mesh.points)
    points[to] = mesh.points
    blocks = [Cells(b.type, to[b.nodes], b.offsets, b.face_offsets) for b in mesh.cells]
    faces = topology.faces(points, blocks)
    ours = {(*sorted(to[r].tolist()),): i for i, r in enumerate(_rings(mesh.faces))}
    theirs = [(*sorted(r.tolist()),) for r in _rings(faces)]
    same = torch.tensor([ours[key] for key in theirs])
    torch.testing.assert_close(faces.area, mesh.faces.area[same])
    torch.testing.assert_close(faces.centre, mesh.faces.centre[same])
    assert torch.equal(faces.owner, mesh.faces.owner[same])


def _rings(faces):
    return faces.nodes.split(faces.offsets.diff().tolist())


def test_a_mesh_without_topology_needs_no_operators():
    """They may have to be compiled first: only who asks for faces or edges waits for that."""
    code = (
        "import sys, meshsim;"
        "m = meshsim.Mesh([[0, 0], [1, 0], [0, 1]], {'triangle': [[0, 1, 2]]});"
        "m.cell_measures; print('meshsim.ops' in sys.modules); len(m.edges);"
        "print('meshsim.ops' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "True"]
