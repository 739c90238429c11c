import itertools
import math

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.geometry.overlap import common_measure, overlapping_boxes


def simplices(dim, n, seed=0, size=1.0):
    return size * torch.rand(n, dim + 1, dim, dtype=torch.float64,
                             generator=torch.Generator().manual_seed(seed))  # fmt: skip


def measure(x):
    return torch.linalg.det(x[:, 1:] - x[:, :1]).abs() / math.factorial(x.shape[2])


@pytest.mark.parametrize("dim", [2, 3])
def test_with_itself_apart_and_symmetric(dim):
    a, b = simplices(dim, 300), simplices(dim, 300, 1)
    own, moment = common_measure(a, a.flip(1))
    assert torch.allclose(own, measure(a), rtol=1e-9, atol=1e-15)
    assert torch.allclose(moment, own[:, None] * a.mean(1), atol=1e-13)
    assert (common_measure(a, b + 2)[0] == 0).all()
    one, other = common_measure(a, b), common_measure(b, a)
    for x, y in zip(one, other, strict=True):
        assert torch.allclose(x, y, atol=1e-14)
    assert (one[0] <= torch.minimum(measure(a), measure(b)) + 1e-15).all() and one[0].max() > 0
    assert common_measure(a[:0], b[:0])[0].shape == (0,)
    with pytest.raises(InputError, match="`b`"):
        common_measure(a, b[:3])


@pytest.mark.parametrize("dim", [2, 3])
def test_parts_of_a_simplex_sum_to_what_the_whole_has(dim):
    """Additivity: a split about an inner point, each part against the same others."""
    a, b = simplices(dim, 200), simplices(dim, 200, 1)
    middle = b.mean(1)
    total, moment = torch.zeros(200, dtype=torch.float64), torch.zeros(200, dim).double()
    for i in range(dim + 1):
        part = b.clone()
        part[:, i] = middle
        size, first = common_measure(a, part)
        total, moment = total + size, moment + first
    whole, first = common_measure(a, b)
    assert torch.allclose(total, whole, atol=1e-14) and torch.allclose(moment, first, atol=1e-14)


@pytest.mark.parametrize("dim", [2, 3])
def test_against_counting(dim):
    """A fine grid of points inside both."""
    a, b = simplices(dim, 4, size=2.0), simplices(dim, 4, 1, size=2.0)
    n = 700 if dim == 2 else 90
    axis = (np.arange(n) + 0.5) * 2 / n
    grid = torch.tensor(np.stack(np.meshgrid(*[axis] * dim), -1).reshape(-1, dim))
    got = common_measure(a, b)[0]
    for k in range(4):
        inside = torch.ones(len(grid), dtype=torch.bool)
        for x in (a[k], b[k]):
            local = torch.linalg.solve((x[1:] - x[:1]).T, (grid - x[0]).T)
            inside &= (local >= 0).all(0) & (local.sum(0) <= 1)
        assert got[k].item() == pytest.approx(inside.sum().item() * (2 / n) ** dim, abs=0.02)


def test_boxes_against_all_pairs():
    random = np.random.default_rng(0)
    for n, m in ((0, 5), (5, 0), (1, 1), (40, 300)):
        low, other = random.random((n, 3)), random.random((m, 3))
        high, top = low + 0.1, other + 0.2
        got = list(
            zip(*(x.tolist() for x in overlapping_boxes(low, high, other, top)), strict=True)
        )
        want = [
            (i, j)
            for i, j in itertools.product(range(n), range(m))
            if (low[i] <= top[j]).all() and (high[i] >= other[j]).all()
        ]
        assert got == want
