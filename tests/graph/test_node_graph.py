"""The node graph: edges of the cells, geometry, node types."""

import pytest
import torch

from meshsim.check import InputError
from meshsim.graph import NodeType, from_points, guess_node_type, node_graph, rowptr, to_points
from meshsim.graph.mesh_graph import edge_vectors
from meshsim.mesh import Mesh
from tests.graph.grids import grid
from tests.helpers import DTYPES, MESHES


def pairs(graph):
    return set(map(tuple, graph.edge_index.T.tolist()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MESHES)
def test_edges_of_the_cells_both_ways_sorted_by_receiver(name, dtype):
    mesh = MESHES[name].to(dtype=dtype)
    graph = node_graph(mesh)
    there = set(map(tuple, mesh.edges.tolist()))
    assert pairs(graph) == there | {(b, a) for a, b in there}
    assert graph.edge_index.shape == (2, 2 * len(mesh.edges))
    sender, receiver = graph.edge_index
    key = receiver * mesh.n_points + sender
    assert (key.diff() > 0).all()  # receivers rise, then senders, none twice
    starts = rowptr(graph)
    for i in range(mesh.n_points):
        assert (receiver[starts[i] : starts[i + 1]] == i).all()
    assert starts[-1] == len(receiver) and len(starts) == mesh.n_points + 1
    offset = mesh.points[sender] - mesh.points[receiver]
    assert graph.edge_attr.dtype == dtype
    assert torch.equal(graph.edge_attr[:, :-1], offset)
    assert torch.equal(graph.edge_attr[:, -1], offset.norm(dim=1))
    assert torch.equal(graph.pos, mesh.points)


def test_a_quad_has_four_edges_and_a_hexahedron_twelve():
    assert node_graph(grid(1, 1)).num_edges == 2 * 4
    assert node_graph(grid(1, 1, "triangle")).num_edges == 2 * 5
    cube = [[x, y, z] for z in (0.0, 1.0) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
    assert node_graph(Mesh(cube, {"hexahedron": [list(range(8))]})).num_edges == 2 * 12


def test_points_and_nodes_are_the_same_without_periodicity():
    mesh = MESHES["channel"]
    graph = node_graph(mesh)
    values = mesh.point_fields["u"]
    assert torch.equal(from_points(graph, values), values)
    assert torch.equal(to_points(graph, values), values)
    with pytest.raises(InputError, match=r"`values`: expected 15 rows .* nodes.*, got 14"):
        to_points(graph, values[1:])


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("inlet", "", "INFLOW"),
        ("INFLOW_1", "", "INFLOW"),
        ("farfield", "", "INFLOW"),
        ("pressure-outlet", "", "OUTFLOW"),
        ("outflow", "patch", "OUTFLOW"),
        ("lowerWall", "wall", "WALL"),
        ("top", "", "WALL"),
        ("sides", "", "WALL"),
        ("inside", "", "NORMAL"),
        ("cylinder", "", "OBSTACLE"),
        ("carBody", "", "OBSTACLE"),
        ("car", "", "OBSTACLE"),
        ("cartridge", "", "NORMAL"),
        ("airfoil", "", "AIRFOIL"),
        ("wing-upper", "", "AIRFOIL"),
        ("swing", "", "NORMAL"),
        ("symmetry", "", "NORMAL"),
        ("PeriodicTop", "", "NORMAL"),
        ("blades", "wall", "WALL"),
        ("frontAndBack", "empty", "NORMAL"),
        ("top", "symmetryPlane", "NORMAL"),
        ("inlet", "cyclic", "NORMAL"),
    ],
)
def test_guesses(name, kind, expected):
    assert guess_node_type(name, kind).name == expected


def types(graph, point):
    return NodeType(int(graph.node_type[point])).name


def test_a_wall_beats_an_outflow_beats_an_inflow():
    mesh = MESHES["channel"]  # inlet and outlet share their corners with the walls
    graph = node_graph(mesh)
    assert [types(graph, p) for p in (0, 5, 10)] == ["WALL", "INFLOW", "WALL"]
    assert [types(graph, p) for p in (4, 9, 14)] == ["WALL", "OUTFLOW", "WALL"]
    assert types(graph, 6) == "NORMAL"
    swapped = {"wall": "inflow", "inlet": 5, "outlet": "OBSTACLE"}
    graph = node_graph(mesh, node_types=swapped)
    assert [types(graph, p) for p in (0, 1, 5, 4)] == ["OUTFLOW", "INFLOW", "OUTFLOW", "OBSTACLE"]
    # boundaries that are not named are still guessed
    graph = node_graph(mesh, node_types={"inlet": "NORMAL"})
    assert [types(graph, p) for p in (5, 1)] == ["NORMAL", "WALL"]


def test_types_have_the_published_numbers():
    names = ["NORMAL", "OBSTACLE", "AIRFOIL", "HANDLE", "INFLOW", "OUTFLOW", "WALL", "SIZE"]
    assert [(t.name, int(t)) for t in NodeType] == list(
        zip(names, [0, 1, 2, 3, 4, 5, 6, 9], strict=True)
    )


def test_midside_nodes_of_a_boundary_have_its_type():
    mesh = MESHES["quadratic2d"]
    assert not mesh.boundaries
    on = (mesh.points[:, 0] < 0.1).nonzero().squeeze(1)
    face = (mesh.faces.neighbour < 0) & (mesh.faces.centre[:, 0] < 0.1)
    named = mesh.replace(boundaries={"inlet": face.nonzero().squeeze(1)})
    graph = node_graph(named)
    assert torch.equal((graph.node_type == NodeType.INFLOW).nonzero().squeeze(1), on)
    assert len(on) == 5  # three corners and two midside nodes


def test_refusals():
    mesh = MESHES["channel"]
    with pytest.raises(InputError, match="unknown boundary 'inlte': did you mean 'inlet'"):
        node_graph(mesh, node_types={"inlte": "INFLOW"})
    with pytest.raises(InputError, match="'inlet': 'INFLWO': did you mean 'INFLOW'"):
        node_graph(mesh, node_types={"inlet": "inflwo"})
    with pytest.raises(InputError, match=r"'inlet': expected 0..6, got 9"):
        node_graph(mesh, node_types={"inlet": 9})
    with pytest.raises(InputError, match="unknown node type"):
        node_graph(mesh, node_types={"inlet": "SIZE"})


def test_node_types_of_the_mesh_are_kept():
    mesh = grid(2, 1)
    kept = torch.tensor([4, 0, 5, 6, 6, 6], dtype=torch.int32)
    graph = node_graph(mesh.with_fields(point={"node_type": kept}))
    assert graph.node_type.tolist() == kept.tolist() and graph.node_type.dtype == torch.int64
    told = node_graph(mesh.with_fields(point={"node_type": kept}), node_types={"left": "inflow"})
    assert (
        told.node_type.tolist()
        == node_graph(mesh, node_types={"left": "inflow"}).node_type.tolist()
    )
    joined = node_graph(mesh.with_fields(point={"node_type": kept}), periodic=[("left", "right")])
    assert joined.node_type.tolist() == [4, 0, 6, 6]
    with pytest.raises(InputError, match=r"`node_type`: expected 0\.\.8, got 9"):
        node_graph(mesh.with_fields(point={"node_type": kept + 3}))
    values = node_graph(mesh.with_fields(point={"node_type": kept.double()}))  # no numbers of types
    assert torch.equal(values.node_type, node_graph(mesh).node_type)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_edge_vectors_are_the_same_bits_in_parts(monkeypatch, rows):
    monkeypatch.setattr("meshsim.graph.mesh_graph._ROWS", rows)
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    edges = torch.randint(0, 50, (2, 333), generator=torch.Generator().manual_seed(1))
    away = points[edges[0]] - points[edges[1]]
    expected = torch.cat([away, away.norm(dim=1, keepdim=True)], 1)
    assert torch.equal(edge_vectors(points, edges), expected)
    moved = points.clone().requires_grad_()
    found = edge_vectors(moved, edges)
    assert torch.equal(found, expected) and found.requires_grad
