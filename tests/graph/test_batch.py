"""Batches: indices shift by what they point at, and values come apart again."""

import copy

import pytest
import torch
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from meshsim.check import InputError
from meshsim.graph import batch, cell_graph, from_points, node_graph, rowptr, to_points, unbatch
from tests.graph.grids import grid
from tests.helpers import MESHES

PERIODIC = [("left", "right")]


def graphs():
    """Two periodic grids, whose points outnumber their nodes, and a plain one between."""
    return [
        node_graph(grid(3, 2), periodic=PERIODIC),
        node_graph(MESHES["channel"]),
        node_graph(grid(4, 1), periodic=PERIODIC),
    ]


def test_indices_shift_by_nodes_and_points():
    parts = graphs()
    both = batch(parts)
    nodes = points = edges = 0
    for i, g in enumerate(parts):
        n, p, e = g.num_nodes, len(g.point_node), g.num_edges
        assert torch.equal(both.edge_index[:, edges : edges + e], g.edge_index + nodes)
        assert torch.equal(both.point_node[points : points + p], g.point_node + nodes)
        assert torch.equal(both.node_point[nodes : nodes + n], g.node_point + points)
        assert (both.batch[nodes : nodes + n] == i).all()
        nodes, points, edges = nodes + n, points + p, edges + e
    assert both.num_nodes == nodes and both.num_edges == edges
    assert ((both.edge_index[1] * nodes + both.edge_index[0]).diff() > 0).all()  # still sorted
    starts = rowptr(both)
    assert len(starts) == nodes + 1 and starts[-1] == edges  # not a concatenation of the parts'


def test_values_go_to_the_points_of_the_batch_and_back():
    parts = graphs()
    both = batch(parts)
    nodes = torch.arange(both.num_nodes).double()
    points = to_points(both, nodes)
    assert torch.equal(from_points(both, points), nodes)
    apart = [to_points(g, v) for g, v in zip(parts, unbatch(nodes, both), strict=True)]
    assert torch.equal(torch.cat(apart), points)
    assert [len(v) for v in apart] == [len(g.point_node) for g in parts]


def test_unbatch_of_a_single_graph():
    graph = graphs()[1]
    values = torch.rand(graph.num_nodes, 2)
    (alone,) = unbatch(values, graph)
    assert torch.equal(alone, values)


def test_pyg_takes_batches_apart_and_loads_them():
    parts = graphs()
    both = batch(parts)
    for i, g in enumerate(parts):
        back = both.get_example(i)
        for key in ("pos", "edge_index", "edge_attr", "node_type", "point_node", "node_point"):
            assert torch.equal(back[key], g[key])
    loaded = list(DataLoader(parts, batch_size=2))
    assert isinstance(loaded[0], Batch) and torch.equal(
        loaded[0].edge_index, batch(parts[:2]).edge_index
    )


def test_cells_and_faces_shift():
    meshes = [MESHES["channel"], MESHES["carelessly_wound"], grid(2, 2)]
    parts = [cell_graph(m) for m in meshes]
    both = batch(parts)
    cells = faces = edges = 0
    for g, m in zip(parts, meshes, strict=True):
        e = g.num_edges
        assert torch.equal(both.face[edges : edges + e], g.face + faces)
        assert torch.equal(both.cell_node[cells : cells + m.n_cells], g.cell_node + cells)
        cells, faces, edges = cells + m.n_cells, faces + len(m.faces), edges + e


def test_extra_fields_are_stacked():
    parts = graphs()
    for g in parts:
        g.x = torch.rand(g.num_nodes, 3)
        g.geometry = torch.rand(g.num_nodes, 2)
    both = batch(parts)
    assert torch.equal(both.x, torch.cat([g.x for g in parts]))
    assert both.geometry.shape == (both.num_nodes, 2)


def test_rowptr_follows_the_edges():
    graph = graphs()[1]
    first = rowptr(graph)
    assert rowptr(copy.copy(graph)) is first  # copies share it
    assert "rowptr" not in graph  # PyG would concatenate it
    graph.edge_index = graph.edge_index[:, graph.edge_index[1] != 3]
    assert rowptr(graph)[4] == rowptr(graph)[3]


def test_wrong_lengths_are_named():
    graph = graphs()[0]
    with pytest.raises(InputError, match=r"expected 12 rows .* points.*, got 9"):
        from_points(graph, torch.zeros(9))
    with pytest.raises(InputError, match=r"expected 9 rows .* nodes.*, got 12"):
        to_points(graph, torch.zeros(12))
