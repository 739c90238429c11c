"""Farthest-point sampling against its definition."""

import itertools

import numpy as np
import pytest
import torch
from torch.library import opcheck

from meshsim import native
from meshsim.ops import sampling
from meshsim.ops.sampling import farthest_points

OP = torch.ops.meshsim.farthest_points
DTYPES = (torch.float32, torch.float64)


@pytest.fixture(autouse=True)
def compiled():
    """What is tested is the compiled kernel, unless it is switched off or cannot be built."""
    if native.allowed() and "no C++ compiler" not in native._state["why"]:
        assert native.active()["farthest_points"]["cpu"] == "native"


def rand(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, dtype=torch.float64, generator=generator).to(dtype)


def definition(points, n, start):
    x = points.double().numpy()
    taken = [start]
    while len(taken) < n:
        far = [
            (-1.0 if i in taken else min(_square(x[i], x[j]) for j in taken)) for i in range(len(x))
        ]
        taken.append(int(np.argmax(far)))
    return taken[:n]


def _square(a, b):
    out = 0.0
    for d in range(len(a)):
        out = out + (a[d] - b[d]) * (a[d] - b[d])
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_equals_the_definition(dim, dtype):
    points = rand(70, dim, dtype=dtype)
    lattice = (points * 4).round()
    for x in (points, lattice, torch.ones(20, dim, dtype=dtype), points + 1e6):
        n = min(len(x), 25)
        assert farthest_points(x, n, 3).tolist() == definition(x, n, 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_reference(dtype):
    x = rand(3000, 3, dtype=dtype)
    x[:, 2] = 10 ** (-6 * x[:, 2])
    batch = torch.tensor([0, 500, 3000])
    assert torch.equal(OP(x, 400, 7), sampling._reference(x, 400, 7))
    assert torch.equal(OP(x, 100, 7, batch), sampling._reference(x, 100, 7, batch))


def test_each_point_once_and_ever_closer():
    x = rand(300, 2)
    order = farthest_points(x, 300)
    assert sorted(order.tolist()) == list(range(300))
    far = [float(torch.cdist(x[order[i]][None], x[order[:i]]).min()) for i in range(1, 300)]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(far))


def test_batches_are_sampled_apart():
    x, batch = rand(60, 3), torch.tensor([0, 20, 60])
    both = farthest_points(x, 9, 2, batch).tolist()
    second = [i + 20 for i in farthest_points(x[20:], 9, 2).tolist()]
    assert both == farthest_points(x[:20], 9, 2).tolist() + second


def test_nothing_to_sample():
    assert farthest_points(torch.zeros(0, 3), 0).shape == (0,)
    assert farthest_points(rand(5, 3), 0).shape == (0,)


def test_same_bits_for_any_number_of_threads():
    x, batch = rand(900, 3), torch.tensor([0, 300, 600, 900])
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(OP(x, 50, 0, batch))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], again) for again in results[1:])


def test_dispatcher_contract():
    opcheck(OP.default, (rand(30, 2), 5))
    opcheck(OP.default, (rand(30, 2), 5, 1, torch.tensor([0, 10, 30])))


def test_compiles_whole():
    x = rand(30, 3)
    compiled = torch.compile(lambda t: OP(t, 5) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), OP(x, 5) + 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((rand(5, 3), 6), "`n`: expected at most the 5 points of batch 0, got 6"),
        ((rand(5, 3), -1), "`n`: expected >= 0"),
        ((rand(5, 3), 2, 5), r"`start`: expected 0\.\.4 \(batch 0\), got 5"),
        ((rand(5, 3), 2, -1), "`start`"),
        ((rand(5, 3) * torch.nan, 2), "`points`.*finite"),
        ((rand(5, 4), 2), "`points`: expected shape"),
        ((rand(5, 3).half(), 2), "`points`: expected float32 or float64"),
        ((rand(5, 3), 2, 0, torch.tensor([0, 4])), "`batch`: expected to rise from 0 to 5"),
        ((rand(5, 3), 2, 0, torch.tensor([0, 1, 5])), "of batch 0, got 2"),
    ],
)
def test_bad_input_is_named(arguments, message):
    for call in (OP, sampling._reference):
        with pytest.raises(ValueError, match=message):
            call(*arguments)
