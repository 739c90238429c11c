"""The cell graph: faces become pairs of edges that carry area and distance."""

import pytest
import torch

from meshsim.graph import NodeType, cell_graph, rowptr
from tests.helpers import DTYPES, MESHES, SOLID


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MESHES)
def test_every_face_between_two_cells_is_two_opposite_edges(name, dtype):
    mesh = MESHES[name].to(dtype=dtype)
    graph = cell_graph(mesh)
    sender, receiver = graph.edge_index
    assert torch.equal(graph.pos, mesh.cell_centres)
    assert ((receiver * mesh.n_cells + sender).diff() >= 0).all()
    assert len(rowptr(graph)) == mesh.n_cells + 1
    if name not in ("fins", "junction"):  # two cells at most meet
        n = mesh.faces.n_internal
        assert len(sender) == 2 * n
        assert torch.equal(graph.face.sort().values, torch.arange(n).repeat_interleave(2))
    by = {}
    for k, key in enumerate(zip(graph.face.tolist(), sender.tolist(), receiver.tolist())):  # noqa: B905
        assert key not in by
        by[key] = k
    for (face, a, b), k in by.items():
        back = by[face, b, a]
        assert torch.equal(graph.area[k], -graph.area[back])
        assert torch.equal(graph.edge_attr[k, :-1], -graph.edge_attr[back, :-1])
        sign = 1 if a < b else -1  # the owner is the lower cell, areas point out of it
        assert torch.equal(graph.area[k], sign * mesh.faces.area[face])
    offset = mesh.cell_centres[sender] - mesh.cell_centres[receiver]
    assert torch.equal(graph.edge_attr[:, :-1], offset)
    assert torch.equal(graph.distance, offset.norm(dim=1))
    assert torch.equal(graph.edge_attr[:, -1], graph.distance)
    assert (graph.node_type == NodeType.NORMAL).all() and len(graph.node_type) == mesh.n_cells


@pytest.mark.parametrize("name", ["channel", "mixed_solid", "warped", "polyhedra", "lifted"])
def test_area_points_from_sender_into_receiver(name):
    mesh = MESHES[name]
    graph = cell_graph(mesh)
    assert ((graph.area * -graph.edge_attr[:, :-1]).sum(1) > 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [n for n in SOLID if n not in ("vertices", "quadratic_lines")])
def test_gauss(name, dtype):
    """Σ of area vectors around each cell: what comes in over edges goes out at the boundary."""
    mesh = MESHES[name].to(dtype=dtype)
    graph, faces = cell_graph(mesh), mesh.faces
    total = torch.zeros(mesh.n_cells, mesh.dim, dtype=dtype)
    total.index_add_(0, graph.edge_index[1], -graph.area)
    outside = faces.neighbour < 0
    total.index_add_(0, faces.owner[outside], faces.area[outside])
    size = faces.area.norm(dim=1).max()
    assert total.abs().max() <= (1e-5 if dtype == torch.float32 else 1e-13) * size


@pytest.mark.parametrize("name", MESHES)
def test_fluxes_telescope(name):
    mesh = MESHES[name]
    graph = cell_graph(mesh)
    sender, receiver = graph.edge_index
    u = torch.arange(mesh.n_cells).double().cos()
    flux = (0.5 * (u[sender] + u[receiver]))[:, None] * graph.area  # (E, D), odd under reversal
    assert flux.sum(0).abs().max() <= 1e-14 * max(float(flux.abs().sum()), 1.0)


def test_all_pairs_meet_where_more_than_two_cells_share_an_edge():
    mesh = MESHES["fins"]  # three triangles and a quad on one edge
    graph = cell_graph(mesh)
    expected = {(a, b) for a in range(4) for b in range(4) if a != b}
    assert set(map(tuple, graph.edge_index.T.tolist())) == expected
    assert graph.num_edges == 12 and len(graph.face.unique()) == 1


def test_one_cell_alone():
    graph = cell_graph(MESHES["vertices"])
    assert graph.num_edges == 0 and graph.num_nodes == 2
    assert rowptr(graph).tolist() == [0, 0, 0]
