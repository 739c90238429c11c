"""Edges and faces of cells against sets, the torch reference and meshsim.geometry.topology."""

import pytest
import torch
from torch.library import opcheck

from meshsim import native
from meshsim.geometry import topology
from meshsim.geometry.cells import TYPES, Cells, cell_edges, cell_faces
from meshsim.ops import tables
from meshsim.ops.tables import FaceTable, cells_to_edges, cells_to_faces

OPS = torch.ops.meshsim
MIXES = (
    ["line"],
    ["triangle"],
    ["quad", "triangle"],
    ["triangle6", "quad8"],
    ["tetra"],
    ["hexahedron"],
    ["tetra", "hexahedron", "wedge", "pyramid"],
    ["tetra10", "hexahedron20", "wedge15"],
)


@pytest.fixture(autouse=True)
def compiled():
    """What is tested is the compiled kernel, unless it is switched off or cannot be built."""
    if native.allowed() and "no C++ compiler" not in native._state["why"]:
        ops = ("cells_to_edges", "cells_to_faces")
        assert all(native.active()[op]["cpu"] == "native" for op in ops)


def mesh(types, n_points, n_cells, seed=0):
    """Cells with points at random: with repeated corners, and faces of many cells."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(n_points, 3, generator=generator, dtype=torch.float64)
    shapes = [(n_cells, TYPES[name][1]) for name in types]
    nodes = [torch.randint(0, n_points, shape, generator=generator) for shape in shapes]
    return points, [Cells(name, n) for name, n in zip(types, nodes, strict=True)]


def edge_parts(blocks):
    return [(b.nodes, torch.tensor(cell_edges(b.type)).reshape(-1, 2)) for b in blocks]


def face_parts(blocks):
    parts, first = [], 0
    for block in blocks:
        table = [face for face, _ in cell_faces(block.type)]
        ids = torch.arange(first, first + len(block))
        for k in sorted({len(face) for face in table}):
            parts.append((block.nodes, torch.tensor([f for f in table if len(f) == k]), ids))
        first += len(block)
    return parts


def reference_faces(parts, n, least):
    return FaceTable(*tables._faces(*([p[i] for p in parts] for i in range(3)), n, least))


@pytest.mark.parametrize("types", MIXES)
@pytest.mark.parametrize(("points", "cells"), [(5, 0), (9, 3), (25, 60), (400, 300)])
def test_edges_are_those_of_topology(types, points, cells):
    _, blocks = mesh(types, points, cells)
    parts = edge_parts(blocks)
    found = cells_to_edges(parts, points)
    pairs = {
        tuple(sorted((cell[a], cell[b])))
        for nodes, local in parts
        for cell in nodes.tolist()
        for a, b in local.tolist()
        if cell[a] != cell[b]
    }
    assert found.tolist() == sorted(map(list, pairs))
    assert torch.equal(found, topology.edges(blocks, points))
    nodes, local = [p[0] for p in parts], [p[1] for p in parts]
    assert torch.equal(found, tables._edges(nodes, local, points))


# Many points: then rows of four corners and more are sorted by a hash.
@pytest.mark.parametrize("types", MIXES)
@pytest.mark.parametrize(
    ("points", "cells"), [(5, 0), (9, 3), (9, 200), (25, 60), (400, 900), (40_000, 300)]
)
def test_faces_are_those_of_topology(types, points, cells):
    x, blocks = mesh(types, points, cells)
    parts, least = face_parts(blocks), max(blocks[0].dim, 1)
    found = cells_to_faces(parts, points, least)
    known = topology.faces(x, blocks)
    assert torch.equal(found.owner, known.owner)
    assert torch.equal(found.neighbour, known.neighbour)
    assert torch.equal(found.offsets, known.offsets)
    assert torch.equal(found.row_offsets, known.cell_offsets)
    numbers = torch.cat([cells.repeat_interleave(len(local)) for _, local, cells in parts])
    assert torch.equal(numbers[found.rows], known.cell_index)
    for a, b in zip(found.offsets[:-1].tolist(), found.offsets[1:].tolist(), strict=True):
        ring, other = found.corners[a:b].tolist(), known.nodes[a:b].tolist()
        turned = other[::-1]
        assert ring in (other, turned)
    for a, b in zip(found, reference_faces(parts, points, least), strict=True):
        assert torch.equal(a, b)


def test_a_quad_has_four_edges_and_a_tetra_six():
    quad, tetra = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[0, 1, 2, 4]])
    assert cells_to_edges(edge_parts([Cells("quad", quad)]), 4).tolist() == [
        [0, 1], [0, 3], [1, 2], [2, 3]
    ]  # fmt: skip
    assert len(cells_to_edges(edge_parts([Cells("tetra", tetra)]), 5)) == 6


def test_collapsed_faces_join_triangles():
    # a hexahedron whose top quad is a triangle, on a tetrahedron
    hexahedron = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 6]])
    blocks = [Cells("hexahedron", hexahedron), Cells("tetra", torch.tensor([[4, 5, 6, 7]]))]
    table = cells_to_faces(face_parts(blocks), 8, 3)
    assert (table.owner[0], table.neighbour[0], table.offsets[1]) == (0, 1, 3)
    assert table.corners[:3].tolist() == [4, 5, 6]


def test_each_row_of_a_cell_is_in_one_face():
    _, blocks = mesh(["tetra", "wedge"], 4000, 800)
    table = cells_to_faces(face_parts(blocks), 4000)
    assert torch.equal(table.rows.sort().values, torch.arange(800 * (4 + 5)))
    internal = table.neighbour >= 0
    assert not bool((internal[1:] & ~internal[:-1]).any()) and (table.owner >= 0).all()


def prisms(n_points, n_cells, seed=0):
    """Hexagonal prisms at random, some collapsed: faces of four and six corners."""
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.randint(0, n_points, (n_cells, 12), generator=generator)
    nodes[n_cells // 2 :, :6] = nodes[: n_cells - n_cells // 2, 6:]  # on the prism before
    nodes[::5, 3] = nodes[::5, 2]
    ends = torch.tensor([[5, 4, 3, 2, 1, 0], [6, 7, 8, 9, 10, 11]])
    sides = torch.tensor([[i, (i + 1) % 6, (i + 1) % 6 + 6, i + 6] for i in range(6)])
    ids = torch.arange(n_cells)
    return [(nodes, sides, ids), (nodes, ends, ids)]


@pytest.mark.parametrize(("points", "cells"), [(14, 30), (60, 40), (3000, 500), (40_000, 300)])
def test_faces_of_many_corners(points, cells):
    parts = prisms(points, cells)
    table = cells_to_faces(parts, points, 3)
    want = {}
    row = 0
    for nodes, local, _ in parts:
        for c, cell in enumerate(nodes.tolist()):
            for face in local.tolist():
                ring = [cell[i] for i in face]
                ring = [
                    p for p, before in zip(ring, ring[-1:] + ring[:-1], strict=True) if p != before
                ]
                if len(ring) >= 3:
                    want.setdefault(tuple(sorted(ring)), []).append((c, row))
                row += 1
    found = {}
    for f in range(len(table.owner)):
        ring = table.corners[table.offsets[f] : table.offsets[f + 1]].tolist()
        rows = table.rows[table.row_offsets[f] : table.row_offsets[f + 1]].tolist()
        found[tuple(sorted(ring))] = rows
        cells_of = sorted(want[tuple(sorted(ring))])
        assert table.owner[f] == cells_of[0][0]
        assert table.neighbour[f] == (cells_of[1][0] if len(cells_of) > 1 else -1)
    assert found == {key: [r for _, r in sorted(rows)] for key, rows in want.items()}
    for a, b in zip(table, reference_faces(parts, points, 3), strict=True):
        assert torch.equal(a, b)


def test_cells_numbered_in_disorder():
    _, blocks = mesh(["tetra", "wedge"], 60, 200)
    parts = face_parts(blocks)
    mixed = torch.randperm(400, generator=torch.Generator().manual_seed(2)) * 5_000_000
    parts = [(nodes, local, mixed[ids]) for nodes, local, ids in parts]
    for a, b in zip(cells_to_faces(parts, 60), reference_faces(parts, 60, 1), strict=True):
        assert torch.equal(a, b)


def test_a_fan_around_one_point():
    n = 3000
    ring = torch.arange(1, n + 1)
    cells = torch.stack([torch.zeros_like(ring), ring, ring % n + 1], 1)
    sides = torch.tensor([[0, 1], [1, 2], [2, 0]])
    table = cells_to_faces([(cells, sides, torch.arange(n))], n + 1, 2)
    assert (table.neighbour >= 0).sum() == n and len(table.owner) == 2 * n
    assert len(cells_to_edges([(cells, sides)], n + 1)) == 2 * n


def test_same_bits_for_any_number_of_threads():
    _, blocks = mesh(["tetra", "hexahedron"], 15_000, 20_000)
    edges, faces = edge_parts(blocks), face_parts(blocks)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4, 7, 1):
            torch.set_num_threads(threads)
            results.append((cells_to_edges(edges, 15_000), *cells_to_faces(faces, 15_000, 3)))
    finally:
        torch.set_num_threads(before)
    for again in results[1:]:
        assert all(map(torch.equal, results[0], again))
    for a, b in zip(results[0][1:], reference_faces(faces, 15_000, 3), strict=True):
        assert torch.equal(a, b)


def test_strided_nodes():
    _, blocks = mesh(["tetra"], 50, 60)
    (nodes, local, ids), *_ = face_parts(blocks)
    strided = nodes.T.contiguous().T
    for a, b in zip(
        cells_to_faces([(strided, local, ids)], 50),
        cells_to_faces([(nodes, local, ids)], 50),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_no_parts():
    assert cells_to_edges([], 3).shape == (0, 2)
    assert [len(t) for t in cells_to_faces([], 3)] == [0, 0, 1, 0, 1, 0]


def test_dispatcher_contract():
    _, blocks = mesh(["tetra", "wedge"], 20, 9)
    edges, faces = edge_parts(blocks), face_parts(blocks)
    opcheck(OPS.cells_to_edges.default, ([p[0] for p in edges], [p[1] for p in edges], 20))
    columns = [[p[i] for p in faces] for i in range(3)]
    opcheck(OPS.cells_to_faces.default, (*columns, 20, 3))


def test_compiles_whole():
    _, blocks = mesh(["tetra"], 20, 9)
    (nodes, local, ids), *_ = face_parts(blocks)

    def f(nodes):
        return OPS.cells_to_faces([nodes], [local], [ids], 20, 3)[0] + 1

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        found = torch.compile(f, fullgraph=True, backend="aot_eager")(nodes)
    assert torch.equal(found, f(nodes))


NODES, RING, IDS = (
    torch.tensor([[0, 1, 2]]),
    torch.tensor([[0, 1], [1, 2], [2, 0]]),
    torch.arange(1),
)


@pytest.mark.parametrize(
    ("nodes", "local", "n", "message"),
    [
        (NODES + 1, RING, 3, "`nodes`: index 3 at row"),
        (NODES - 1, RING, 3, "`nodes`: index -1 at row"),
        (NODES, RING + 1, 3, "`local`: index 3 at row"),
        (NODES.int(), RING, 3, "`nodes`: expected"),
        (NODES[0], RING, 3, "`nodes`: expected"),
        (NODES, RING.reshape(-1), 3, "`local`: expected"),
        (NODES, RING, -1, "`n_points`|`nodes`"),
    ],
)
def test_bad_input_is_named(nodes, local, n, message):
    for edges in (OPS.cells_to_edges, tables._edges):
        with pytest.raises(ValueError, match=message):
            edges([nodes], [local], n)
    for faces in (OPS.cells_to_faces, tables._faces):
        with pytest.raises(ValueError, match=message):
            faces([nodes], [local], [IDS], n, 1)


def test_bad_lists_are_named():
    for edges in (OPS.cells_to_edges, tables._edges):
        with pytest.raises(ValueError, match="`local`: expected 1 tables"):
            edges([NODES], [], 3)
        with pytest.raises(ValueError, match=r"`local`: expected shape \(\*, 2\)"):
            edges([NODES], [NODES], 3)
    for faces in (OPS.cells_to_faces, tables._faces):
        with pytest.raises(ValueError, match="`cells`: expected 1 lists"):
            faces([NODES], [RING], [], 3, 1)
        with pytest.raises(ValueError, match="`cells`: expected"):
            faces([NODES], [RING], [torch.arange(2)], 3, 1)
        with pytest.raises(ValueError, match="`cells`: index 2147483648"):
            faces([NODES], [RING], [IDS + 2**31], 3, 1)
        with pytest.raises(ValueError, match="`cells`: index -1"):
            faces([NODES], [RING], [IDS - 1], 3, 1)
