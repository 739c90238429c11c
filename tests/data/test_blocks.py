from itertools import product

import numpy as np
import pytest

from meshsim.check import InputError
from meshsim.data.blocks import draw, place, sizes_and_room


@pytest.mark.parametrize("n, nodes, blocks", [(7, 3, 1), (11, 4, 2), (12, 5, 3), (9, 8, 5),
                                              (8, 7, 5), (10, 3, 3), (10, 2, 9)])  # fmt: skip
def test_every_node_is_as_likely_and_weighted_sums_are_unbiased(n, nodes, blocks):
    """All draws, each as likely as any: also where neither n nor `nodes` can be divided."""
    sizes, room = sizes_and_room(n, nodes, blocks)
    values = np.random.default_rng(0).normal(size=n)
    hits, total, draws = np.zeros(n), 0.0, 0
    for turn, *shifts in product(range(n), *(range(r + 1) for r in room)):
        rows = place(sizes, room, turn, shifts)
        assert len(set(rows.tolist())) == nodes and (np.diff(rows) > 0).all()
        hits[rows] += 1
        total += values[rows].sum() * n / nodes
        draws += 1
    assert (hits * n == draws * nodes).all()  # in whole numbers: exactly nodes / n
    assert abs(total / draws - values.sum()) < 1e-12


def test_draws_are_as_enumerated():
    """The draws are those that the enumeration has, evenly: χ² of 12 · 3 · 3 · 4 outcomes."""
    sizes, room = sizes_and_room(12, 5, 3)
    random, seen = np.random.default_rng(3), np.zeros(12)
    known = {
        tuple(place(sizes, room, turn, shifts))
        for turn, *shifts in product(range(12), *(range(r + 1) for r in room))
    }
    for _ in range(500):
        rows = draw(12, 5, 3, random)
        assert tuple(rows) in known
        seen[rows] += 1
    # a node is in 5/12 of them; five deviations of a binomial
    assert np.abs(seen / 500 - 5 / 12).max() < 5 * np.sqrt(5 / 12 * 7 / 12 / 500)


def test_blocks_are_spread_and_few():
    rows = draw(1_000_003, 1000, 8, np.random.default_rng(0))
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    assert len(rows) == 1000 and len(runs) <= 9  # one may lie across the end
    starts = np.array([run[0] for run in runs])
    assert np.diff(starts).max() < 2.1 * 1_000_003 / 8


def test_all_nodes_and_bad_numbers():
    random = np.random.default_rng(0)
    assert draw(5, 9, 2, random).tolist() == list(range(5))
    assert draw(0, 9, 2, random).tolist() == []
    for nodes, blocks in ((0, 1), (3, 0)):
        with pytest.raises(InputError, match="expected 1 or more"):
            draw(10, nodes, blocks, random)
