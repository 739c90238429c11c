"""Coarser levels: what is joined stays joined, half the nodes go, numbers do not matter."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, shortest_path

from meshsim.check import InputError
from meshsim.graph import MeshGraph, batch, hierarchy, level_of, node_graph
from meshsim.mesh import Mesh
from tests.graph.grids import brick, grid
from tests.helpers import MESHES


def graph_of(pairs, pos):
    n = len(pos)
    pairs = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    both = torch.cat([pairs, pairs.flip(1)]).unique(dim=0)
    order = (both[:, 1] * n + both[:, 0]).argsort()
    return MeshGraph(pos=pos, edge_index=both[order].T.contiguous())


def matrix(edge_index, n):
    sender, receiver = edge_index.numpy()
    return coo_array((torch.ones(len(sender)).numpy(), (receiver, sender)), shape=(n, n)).tocsr()


def check(graph, levels):
    """Every law that a level keeps, against the level below it."""
    below, edges = torch.arange(graph.num_nodes), graph.edge_index
    for level in levels:
        joined = matrix(edges, len(below))
        places = torch.searchsorted(below, level.nodes)
        assert torch.equal(below[places], level.nodes)
        # edges are those of one or two steps below, and all of them
        steps = shortest_path(joined, unweighted=True)[np.ix_(places, places)]
        here = matrix(level.edge_index, len(level.nodes)).toarray() > 0
        assert (here == ((steps > 0) & (steps <= 2))).all()
        keys = level.edge_index[1] * len(level.nodes) + level.edge_index[0]
        assert bool((keys.diff() > 0).all())
        # each part keeps one or more of its nodes, at most half, and stays in one piece
        before, part = connected_components(joined, directed=False)
        after, own = connected_components(here, directed=False)
        assert before == after
        part = torch.from_numpy(part)
        kept = part[places]
        assert len(torch.unique(torch.stack([kept, torch.from_numpy(own)]), dim=1).T) == before
        size, left = part.bincount(minlength=before), kept.bincount(minlength=before)
        assert bool((left >= 1).all()) and bool(((2 * left <= size) | (size == 1)).all())
        # a node's parent is itself or a neighbour
        assert torch.equal(level.parent[places], torch.arange(len(places)))
        lost = torch.ones(len(below), dtype=torch.bool).scatter(0, places, False).nonzero()[:, 0]
        assert bool(
            (torch.from_numpy(joined.toarray())[lost, places[level.parent[lost]]] > 0).all()
        )
        below, edges = level.nodes, level.edge_index


@pytest.mark.parametrize("name", MESHES)
def test_laws_on_meshes(name):
    graph = node_graph(MESHES[name])
    check(graph, hierarchy(graph, 4))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 14), st.lists(st.tuples(st.integers(0, 13), st.integers(0, 13)), max_size=25))
def test_laws_on_any_graph(n, pairs):
    pairs = [(a % n, b % n) for a, b in pairs if a % n != b % n]
    pos = torch.rand(n, 2, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    graph = graph_of(pairs, pos)
    levels = hierarchy(graph, 5)
    check(graph, levels)
    # to the end: nodes that are alone
    if len(levels) < 5 and levels:
        assert levels[-1].edge_index.shape[1] == 0


def test_sizes_on_grids():
    for mesh in (grid(15, 15), grid(40, 3, "triangle"), brick(5, 5, 5)):
        graph = node_graph(mesh)
        sizes = [graph.num_nodes, *(len(level.nodes) for level in hierarchy(graph, 4))]
        assert len(sizes) == 5
        assert all(a >= 2 * b for a, b in itertools.pairwise(sizes))
    # a grid of quads is a chessboard: its rings are the colours
    level = hierarchy(node_graph(grid(4, 4)), 1)[0]
    colour = (level.nodes % 5 + level.nodes // 5) % 2
    assert len(level.nodes) == 12 and bool((colour == 1).all())


@pytest.mark.parametrize("seed", range(3))
def test_the_numbering_does_not_matter(seed):
    draw = torch.Generator().manual_seed(seed)
    mesh = grid(7, 5, "triangle")
    order = torch.randperm(mesh.n_points, generator=draw)  # new number of each old point
    points = torch.empty_like(mesh.points)
    points[order] = mesh.points
    other = Mesh(points, {"triangle": order[mesh.cells[0].nodes]})
    one, two = (hierarchy(node_graph(m), 3) for m in (mesh, other))
    assert len(one) == len(two)
    n = mesh.n_points
    assert torch.equal(level_of(one, n), level_of(two, n)[order])
    for a, b in zip(one, two, strict=True):
        renumbered = order[a.nodes]
        ends = {(int(order[a.nodes[i]]), int(order[a.nodes[j]])) for i, j in a.edge_index.T}
        assert ends == {(int(b.nodes[i]), int(b.nodes[j])) for i, j in b.edge_index.T}
        assert torch.equal(renumbered.sort().values, b.nodes)


def test_again_and_from_what_is_stored():
    graph = node_graph(brick(3, 4, 2))
    one, two = hierarchy(graph, 3), hierarchy(graph, 3)
    told = hierarchy(graph, level_of(one, graph.num_nodes))
    for a, b, c in zip(one, two, told, strict=True):
        for key in ("nodes", "edge_index", "parent"):
            assert torch.equal(getattr(a, key), getattr(b, key))
            assert torch.equal(getattr(a, key), getattr(c, key))
    assert hierarchy(graph, 0) == []
    assert level_of([], 3).tolist() == [0, 0, 0]


def test_graphs_that_have_none_are_refused():
    graph = node_graph(grid(2, 2))
    for levels, message in (
        (-1, "`levels`: expected 0 or more, got -1"),
        (torch.zeros(4, dtype=torch.int64), "`levels`: expected 9 rows"),
        (torch.tensor([1, 0, 0, 0, 0, 0, 0, 0, 0]), "node 2 of a level is joined to none"),
        (torch.full((9,), -1), "`levels`: expected whole numbers from 0"),
    ):
        with pytest.raises(InputError, match=message):
            hierarchy(graph, levels)
    with pytest.raises(InputError, match="expected a single graph, got a batch"):
        hierarchy(batch([graph, graph]), 1)
    empty = graph_of([], torch.zeros(0, 2))
    assert hierarchy(empty, 2) == [] or all(len(level.nodes) == 0 for level in hierarchy(empty, 2))
