"""Lists so long that kernels divide them among threads: what they say must not change by that."""

import pytest
import torch

from meshsim import ops
from meshsim.ops import csr_attention
from tests.ops.test_attention import close, slow
from tests.ops.test_segment import REDUCTIONS, loop, rows, values

# width and lengths: long lists beside each other and apart, short and empty ones in between
CASES = [
    (1, [3, 9000, 0, 20000, 8193, 40, 0]),
    (3, [2100, 2049, 5, 0, 6000]),
    (40, [513, 2, 1100]),
    (128, [3, 300, 700, 0, 257, 1000]),
    (300, [600, 1, 599]),
]


def case(width, lengths, dtype=torch.float64):
    rowptr = torch.tensor([0, *lengths]).cumsum(0)
    return rows(dtype, (width,), n=int(rowptr[-1])), rowptr


@pytest.mark.parametrize(("width", "lengths"), CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_long_segments_equal_a_loop(name, dtype, width, lengths):
    x, rowptr = case(width, lengths, dtype)
    x.requires_grad_()
    right, exact = x.detach().double().requires_grad_(), 1e-12 if dtype == torch.float64 else 1e-4
    y, expected = values(name, x, rowptr), loop(name, right, rowptr)
    finite = expected.isfinite()
    torch.testing.assert_close(y.double(), expected, rtol=exact, atol=exact)
    weight = torch.cos(torch.arange(float(y.numel()))).view(y.shape)
    (y[finite] * weight[finite]).sum().backward()
    (expected[finite] * weight[finite]).sum().backward()
    torch.testing.assert_close(x.grad.double(), right.grad, rtol=exact, atol=exact)


@pytest.mark.parametrize(("width", "lengths"), CASES)
@pytest.mark.parametrize("name", ["sum", "mean", "softmax", "logsumexp"])
def test_long_groups_in_any_order_equal_segments(name, width, lengths):
    x, rowptr = case(width, lengths)
    index = torch.repeat_interleave(rowptr.diff())
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    expected = loop(name, x, rowptr)
    op = getattr(torch.ops.meshsim, f"scatter_{name}")
    y = op(x[order][None], index[order], len(lengths))[0]
    if name == "softmax":
        y = torch.empty_like(y).index_copy(0, order, y)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("width", "lengths"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
@pytest.mark.parametrize("name", ["max", "min"])
def test_the_first_of_equals_wins_wherever_it_stands(name, dtype, width, lengths):
    _, rowptr = case(width, lengths)
    n, sign = int(rowptr[-1]), 1 if name == "max" else -1
    x = torch.zeros(n, width, dtype=dtype)
    for i, length in enumerate(lengths):  # the extreme value twice, once early and once late
        for row in {length // 3, length - 1} if length else ():
            x[rowptr[i] + row] = sign * (i + 1)
    y, arg = REDUCTIONS[name](x, rowptr)
    for i, length in enumerate(lengths):
        assert (y[i] == (sign * (i + 1) if length else 0)).all()
        assert (arg[i] == (int(rowptr[i]) + min(length // 3, length - 1) if length else n)).all()
    if dtype == torch.int32:
        return
    last = rowptr[1:][rowptr.diff() > 2] - 1
    x[last] = torch.nan
    y, arg = REDUCTIONS[name](x, rowptr)
    assert y[rowptr.diff() > 2].isnan().all()
    assert torch.equal(arg[rowptr.diff() > 2], last[:, None].expand(-1, width))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16])
def test_long_sums_of_integers_are_exact(dtype):
    x = (torch.arange(20000) % 7 - 3).to(dtype)[:, None].expand(-1, 3).contiguous()
    rowptr = torch.tensor([0, 5, 11000, 20000])
    expected = torch.stack([x[a:b].sum(0) for a, b in ((0, 5), (5, 11000), (11000, 20000))])
    assert torch.equal(ops.segment_sum(x, rowptr), expected.to(dtype))


@pytest.mark.parametrize("long_columns", [False, True])
def test_attention_of_long_rows_and_columns(long_columns):
    heads, depth, entries = 2, 8, 6000
    made = [rows(torch.float64, (heads * depth,), n=n, seed=n) for n in (4, 9, 9)]
    rowptr = torch.tensor([0, 3, 2500, 2500, entries])
    col = torch.randint(0, 9, (entries,), generator=torch.Generator().manual_seed(0))
    if long_columns:
        col[col < 8] = 0
    results = []
    for run in (slow, None):
        q, k, v = (x.clone().requires_grad_() for x in made)
        if run is None:
            y, lse = csr_attention(q, k, v, rowptr, col, heads)
        else:
            y, lse = run(rowptr, col, heads)({"q": q, "k": k, "v": v})
        weight = torch.sin(torch.arange(float(y.numel()), dtype=y.dtype)).view(y.shape)
        ((y * weight).sum() + lse[[0, 1, 3]].sum()).backward()
        results.append([y.detach(), lse.detach(), q.grad, k.grad, v.grad])
    close(results[1], results[0], 1e-12)
