"""Orders of points and nodes: permutations that put neighbours side by side."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch.library import opcheck

from meshsim import native
from meshsim.ops import order
from meshsim.ops.order import morton_order, rcm_order

OPS = torch.ops.meshsim


@pytest.fixture(autouse=True)
def compiled():
    """What is tested is the compiled kernel, unless it is switched off or cannot be built."""
    if native.allowed() and "no C++ compiler" not in native._state["why"]:
        assert all(native.active()[op]["cpu"] == "native" for op in ("morton_order", "rcm_order"))


def rand(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, dtype=torch.float64, generator=generator).to(dtype)


def plate(m, seed=0):
    """A triangulated square, its nodes in disorder as a mesh generator leaves them."""
    number = np.random.default_rng(seed).permutation(m * m).reshape(m, m)
    pairs = [
        (number[1:], number[:-1]),
        (number[:, 1:], number[:, :-1]),
        (number[1:, 1:], number[:-1, :-1]),
    ]
    edges = np.concatenate([np.stack([a.ravel(), b.ravel()]) for a, b in pairs], 1)
    return torch.from_numpy(np.concatenate([edges, edges[::-1]], 1).copy()), m * m


def bandwidth(edge_index, permutation):
    new = torch.empty_like(permutation)
    new[permutation] = torch.arange(len(permutation))
    return int((new[edge_index[0]] - new[edge_index[1]]).abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_morton_equals_the_reference(dim, dtype):
    points = rand(2000, dim, dtype=dtype)
    graded = points.clone()
    graded[:, 0] = 10 ** (-6 * graded[:, 0])
    for x in (points, graded, points + 1e6, (points * 3).round(), torch.ones(9, dim), points[:0]):
        found = morton_order(x)
        assert torch.equal(found, order._morton(x))
        assert torch.equal(found.sort().values, torch.arange(len(x)))


def test_morton_of_a_line_is_its_order():
    x = rand(500, 1)
    assert torch.equal(morton_order(x), x[:, 0].sort(stable=True).indices)


def test_morton_visits_one_quarter_after_another():
    x = rand(1000, 2)
    x = torch.cat([x, torch.tensor([[0.0, 0.0], [1.0, 1.0]])])
    quarter = (2 * (x[morton_order(x)] >= 0.5)[:, 0] + (x[morton_order(x)] >= 0.5)[:, 1]).long()
    assert (quarter.diff() >= 0).all()


def test_rcm_equals_the_reference():
    for edge_index, n in (plate(12), (torch.zeros(2, 0, dtype=torch.int64), 5), parts()):
        sender, by = edge_index[0].sort(stable=True)
        rowptr = torch.searchsorted(sender, torch.arange(n + 1))
        found = rcm_order(edge_index, n)
        assert torch.equal(found, order._rcm(rowptr, edge_index[1][by]))
        assert torch.equal(found.sort().values, torch.arange(n))


def parts():
    """Three graphs side by side, with a loop, a repeated edge and nodes of no edge."""
    a, b = plate(5)
    loop = torch.tensor([[b, b, b + 1, b, b + 1], [b, b + 1, b, b + 1, b]])
    return torch.cat([a, loop, a + b + 4], 1), 2 * b + 6


def test_rcm_reduces_bandwidth():
    edge_index, n = plate(40)
    ours = bandwidth(edge_index, rcm_order(edge_index, n))
    matrix = csr_array((np.ones(edge_index.shape[1]), edge_index.numpy()), shape=(n, n))
    scipys = bandwidth(
        edge_index, torch.from_numpy(reverse_cuthill_mckee(matrix, True).astype(np.int64))
    )
    assert bandwidth(edge_index, torch.arange(n)) > 1400
    assert ours <= 85 and ours <= 1.2 * scipys


def test_one_way_edges_still_give_a_permutation():
    edge_index = torch.tensor([[0, 1, 5], [1, 2, 0]])
    assert sorted(rcm_order(edge_index, 7).tolist()) == list(range(7))


def test_same_bits_for_any_number_of_threads():
    points = (rand(70_000, 3) * 300).round()  # many in one place
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            results.append(morton_order(points))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], again) for again in results[1:])
    assert torch.equal(results[0], order._morton(points))


def test_dispatcher_contract():
    opcheck(OPS.morton_order.default, (rand(20, 3),))
    opcheck(OPS.rcm_order.default, (torch.tensor([0, 1, 2, 2]), torch.tensor([1, 0])))


def test_compiles_whole():
    x = rand(30, 3)
    compiled = torch.compile(lambda t: OPS.morton_order(t) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), OPS.morton_order(x) + 1)


def test_bad_input_is_named():
    for call in (OPS.morton_order, order._morton):
        with pytest.raises(ValueError, match=r"`points`.*finite"):
            call(torch.full((2, 2), torch.nan))
        with pytest.raises(ValueError, match="`points`: expected shape"):
            call(torch.zeros(2, 4))
        with pytest.raises(ValueError, match="`points`: expected float32 or float64"):
            call(torch.zeros(2, 2, dtype=torch.int64))
    for call in (OPS.rcm_order, order._rcm):
        with pytest.raises(ValueError, match="`indices`: index 2 at row 1"):
            call(torch.tensor([0, 1, 2]), torch.tensor([0, 2]))
        with pytest.raises(ValueError, match="`rowptr`: expected to rise from 0 to 2"):
            call(torch.tensor([0, 1, 3]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="`edge_index`: index 4"):
        rcm_order(torch.tensor([[0, 4], [1, 0]]), 4)
