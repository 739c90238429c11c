"""Masks hold exactly the pairs that their options ask for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from meshsim.check import InputError
from meshsim.graph import batch, node_graph
from meshsim.ops.widen import Mask, widen
from tests.graph.grids import grid
from tests.helpers import MESHES


def path(n: int) -> tuple[Tensor, Tensor]:
    """A line of n nodes."""
    i = torch.arange(n - 1)
    pairs = torch.cat([torch.stack([i, i + 1]), torch.stack([i + 1, i])], 1)
    return pairs[:, pairs[1].argsort(stable=True)], torch.tensor([0, n])


def dense(mask: Mask) -> Tensor:
    """(R, R) bool: row i attends to column j."""
    rows = len(mask.rowptr) - 1
    row = torch.repeat_interleave(mask.rowptr.diff())
    out = torch.zeros(rows, rows, dtype=torch.int64)
    out.index_put_((row, mask.col), torch.ones_like(mask.col), accumulate=True)
    assert out.max() <= 1  # nobody twice
    return out.bool()


def distances(edges: Tensor, n: int) -> Tensor:
    """(n, n) hops that a message from j takes to i, n if it never arrives."""
    far = torch.full((n, n), n)
    far[edges[1], edges[0]] = 1
    far.fill_diagonal_(0)
    for k in range(n):
        far = torch.minimum(far, far[:, k : k + 1] + far[k : k + 1])
    return far.clamp_max(n)


def ptr(n: int) -> Tensor:
    return torch.tensor([0, n])


@pytest.fixture(params=["channel", "mixed_solid", "isolated", "grid", "one way"])
def graph(request) -> tuple[Tensor, int]:
    if request.param == "grid":
        made = node_graph(grid(6, 5))
    elif request.param == "one way":
        return torch.tensor([[3, 0, 1, 2], [0, 1, 2, 3]]), 4
    else:
        made = node_graph(MESHES[request.param])
    return made.edge_index, len(made.pos)


@pytest.mark.parametrize("window", [0, 1, 2, 3])
@pytest.mark.parametrize("rings", [(), (2,), (3, 5)])
@pytest.mark.parametrize("own", [True, False])
def test_hops_and_rings(graph, window, rings, own):
    edges, n = graph
    far = distances(edges, n)
    right = (far <= window) & (far > 0) & (far < n)
    for ring in rings:
        right |= (far == ring) & (ring < n)
    right |= torch.eye(n, dtype=torch.bool) & own
    mask = widen(edges, ptr(n), window=window, rings=rings, self_edges=own)
    assert torch.equal(dense(mask), right)
    assert all((mask.col[a:b].diff() > 0).all() for a, b in mask.rowptr.unfold(0, 2, 1))


def test_entries_know_their_mesh_edges(graph):
    edges, n = graph
    mask = widen(edges, ptr(n), window=2)
    row = torch.repeat_interleave(mask.rowptr.diff())
    on = mask.edge >= 0
    assert torch.equal(mask.edge[on].sort().values, torch.arange(edges.shape[1]))
    assert torch.equal(edges[:, mask.edge[on]], torch.stack([mask.col, row])[:, on])


def test_columns_list_every_entry(graph):
    edges, n = graph
    mask = widen(edges, ptr(n), window=2, global_nodes=1)
    assert torch.equal(mask.eperm.sort().values, torch.arange(len(mask.col)))
    assert torch.equal(mask.col[mask.eperm], mask.col.sort().values)
    assert torch.equal(mask.colptr.diff(), torch.bincount(mask.col, minlength=n + 1))


@pytest.mark.parametrize("window", [1, 2, 5])
def test_number_of_pairs_on_a_path(window):
    n = 12
    mask = widen(*path(n), window=window, self_edges=False)
    assert len(mask.col) == 2 * sum(n - j for j in range(1, window + 1))


def test_repeated_edges_count_once():
    edges = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]])
    mask = widen(edges, ptr(2))
    assert mask.col.tolist() == [0, 1, 0, 1] and mask.edge.tolist() == [-1, 0, 2, -1]


def test_random_edges_are_as_many_as_asked_both_ways_and_new():
    made = node_graph(grid(12, 9))
    edges, n = made.edge_index, len(made.pos)
    plain, more = widen(edges, ptr(n)), widen(edges, ptr(n), random_edges=0.5)
    extra = dense(more) & ~dense(plain)
    assert (dense(more) | ~dense(plain)).all()
    assert int(extra.sum()) == 2 * round(0.5 * edges.shape[1] / 2)
    assert torch.equal(extra, extra.T)
    again, other = (widen(edges.clone(), ptr(n), random_edges=0.5, seed=s) for s in (0, 1))
    assert torch.equal(again.col, more.col) and not torch.equal(dense(other), dense(more))


def test_random_edges_of_a_full_graph_are_none():
    edges = torch.tensor([[1, 2, 0, 2, 0, 1], [0, 0, 1, 1, 2, 2]])
    assert len(widen(edges, ptr(3), random_edges=4.0).col) == 9
    assert len(widen(edges[:, :2], ptr(3), random_edges=9.0, window=0).col) == 3 + 2


def test_global_nodes_see_their_graph_and_are_seen():
    graphs = [node_graph(grid(3, 2)), node_graph(MESHES["isolated"])]
    both = batch(graphs)
    n = both.num_nodes
    mask = widen(both.edge_index, both.ptr, global_nodes=2)
    own = torch.cat([both.batch, torch.tensor([0, 0, 1, 1])])
    assert torch.equal(mask.graph, own)
    hub = torch.arange(n + 4) >= n
    right = (own[:, None] == own) & (hub[:, None] | hub)
    plain = dense(widen(both.edge_index, both.ptr))
    right[:n, :n] |= plain
    assert torch.equal(dense(mask), right)
    assert (mask.edge[hub[mask.col]] == -1).all()


def test_a_batch_is_its_graphs():
    graphs = [node_graph(m) for m in (MESHES["channel"], grid(4, 3), MESHES["vertices"])]
    both = batch(graphs)
    options = {"window": 2, "rings": (4,), "random_edges": 0.3}
    mask = widen(both.edge_index, both.ptr, **options)
    parts = [widen(g.edge_index, ptr(len(g.pos)), **options) for g in graphs]
    assert torch.equal(dense(mask), torch.block_diag(*map(dense, parts)).bool())
    first = torch.tensor([0, *(g.num_edges for g in graphs)]).cumsum(0)
    edge = [torch.where(p.edge < 0, -1, p.edge + k) for p, k in zip(parts, first, strict=False)]
    assert torch.equal(mask.edge, torch.cat(edge))


def test_a_mask_is_made_once():
    edges, where = path(9)
    mask = widen(edges, where, window=2)
    assert widen(edges, where, window=2) is mask and widen(edges, where) is not mask
    edges[:, -1] = torch.tensor([0, 8])  # edited in place: another graph
    assert widen(edges, where, window=2) is not mask


def test_nothing():
    none = torch.zeros(2, 0, dtype=torch.int64)
    assert widen(none, ptr(0), window=2, random_edges=1.0).rowptr.tolist() == [0]
    assert widen(none, ptr(2), window=2, random_edges=1.0).col.tolist() == [0, 1]
    assert widen(none, torch.tensor([0, 0, 1]), global_nodes=1).rowptr.tolist() == [0, 2, 3, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": -1}, "`window`: expected 0 or more, got -1"),
        ({"rings": (0,)}, "`rings`: expected distances of 1 or more, got 0"),
        ({"random_edges": float("nan")}, "`random_edges`: expected 0 or more, got nan"),
        ({"global_nodes": -2}, "`global_nodes`"),
        ({"ptr": torch.tensor([0, 3, 5])}, "`edge_index`: expected no edge out of graph 0"),
        ({"ptr": torch.tensor([0, 4])}, "`edge_index`: index 4"),
        ({"edge_index": torch.tensor([[0, 1], [1, 0]])}, "sorted by receiver"),
    ],
)
def test_refusals(change, message):
    edges, where = path(5)
    given = {"edge_index": edges, "ptr": where} | change
    with pytest.raises(InputError, match=message):
        widen(**given)
