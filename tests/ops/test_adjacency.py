"""Adjacency: what it sums, when it is rebuilt, what it refuses."""

import gc
from itertools import pairwise

import pytest
import torch

from meshsim.check import InputError
from meshsim.ops import adjacency as module
from meshsim.ops.adjacency import adjacency
from meshsim.rows import by_group, starts

EDGES = torch.tensor([[1, 3, 0, 2, 2, 0], [0, 0, 1, 1, 3, 3]])  # node 2 receives, 4 does nothing


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edge_and_node_values(dtype):
    table = adjacency(EDGES, 5)
    x = torch.randn(5, 6, dtype=dtype)
    e = torch.randn(6, 3, dtype=dtype)
    sender, receiver = EDGES
    assert torch.equal(table.edge_values(x), x[sender, :3] + x[receiver, 3:])
    sent = torch.zeros(5, 3, dtype=dtype).index_add(0, sender, e)
    received = torch.zeros(5, 3, dtype=dtype).index_add(0, receiver, e)
    assert torch.equal(table.node_values(e), torch.cat([sent, received], 1))
    # transposed to each other: <A x, e> = <x, Aᵀ e>
    torch.testing.assert_close(
        (table.edge_values(x) * e).sum(), (x * table.node_values(e)).sum(), rtol=1e-4, atol=1e-5
    )
    assert table.rowptr.tolist() == [0, 2, 4, 4, 6, 6]


def test_is_kept_with_the_edge_list_and_not_longer():
    edges = EDGES.clone()
    gc.collect()  # what other tests have left in cycles
    before = len(module._known)
    table = adjacency(edges, 5)
    assert adjacency(edges, 5) is table
    assert adjacency(edges, 6) is not table  # another number of nodes
    edges[0, 0] = 2  # edited in place: must not serve the old senders
    assert adjacency(edges, 5).sender[0] == 2
    assert len(module._known) == before + 1
    del edges
    gc.collect()
    assert len(module._known) == before


def test_no_edges():
    table = adjacency(torch.zeros(2, 0, dtype=torch.int64), 3)
    assert table.rowptr.tolist() == [0, 0, 0, 0]
    assert table.edge_values(torch.ones(3, 4)).shape == (0, 2)
    assert torch.equal(table.node_values(torch.ones(0, 2)), torch.zeros(3, 4))


def test_refusals():
    with pytest.raises(InputError, match=r"`edge_index`: index 5 at row 1 is outside 0\.\.4"):
        adjacency(torch.tensor([[0, 5], [0, 1]]), 5)
    with pytest.raises(InputError, match="sorted by receiver, got receiver 0 after 1 at edge 2"):
        adjacency(torch.tensor([[0, 0, 1], [0, 1, 0]]), 2)


def test_rows_by_group():
    index = torch.tensor([3, 0, 3, 1, 0, 3])
    order, ptr = by_group(index, 5)
    groups = [order[a:b].tolist() for a, b in pairwise(ptr)]
    assert groups == [[1, 4], [3], [], [0, 2, 5], []]
    assert starts(index[order], 5).tolist() == ptr.tolist() == [0, 2, 3, 3, 6, 6]
    none = index[:0]
    assert by_group(none, 2)[1].tolist() == [0, 0, 0] and by_group(none, 0)[1].tolist() == [0]
