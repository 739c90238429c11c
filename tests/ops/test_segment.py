"""Segment reductions against loops, laws of their gradients, and the dispatcher's own checks."""

import pytest
import torch
from torch.library import opcheck

from meshsim import ops
from meshsim.check import InputError
from meshsim.ops.segment import expand_rowptr

REDUCTIONS = {
    "sum": ops.segment_sum,
    "mean": ops.segment_mean,
    "max": ops.segment_max,
    "min": ops.segment_min,
    "softmax": ops.segment_softmax,
    "logsumexp": ops.segment_logsumexp,
}
# Empty segments first, last and in between, one row, many rows.
ROWPTR = torch.tensor([0, 0, 3, 4, 4, 11, 11])
TOLERANCE = {
    torch.float64: 1e-14,
    torch.float32: 1e-6,
    torch.float16: 2e-3,
    torch.bfloat16: 1e-2,
}


def rows(dtype=torch.float64, shape=(5,), n=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, dtype=torch.float64, generator=generator).to(dtype)


def loop(name, x, rowptr):
    """The reduction, one segment after another, in float64."""
    x = x.double()
    out = []
    for a, b in zip(rowptr[:-1].tolist(), rowptr[1:].tolist(), strict=True):
        part = x[a:b]
        if name == "softmax":
            out += list(part.softmax(0))
        elif name == "logsumexp":
            out.append(part.exp().sum(0).log())
        elif name in ("max", "min") and b > a:
            out.append(getattr(part, name)(0).values)
        elif name == "mean" and b > a:
            out.append(part.mean(0))
        else:
            out.append(part.sum(0))
    return torch.stack(out) if out else x.new_zeros(0, *x.shape[1:])


def values(name, x, rowptr, index=None):
    y = REDUCTIONS[name](x, rowptr, index)
    return y[0] if isinstance(y, tuple) else y


@pytest.mark.parametrize("with_index", [False, True])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,), (1,)])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_equals_a_loop(name, dtype, shape, with_index):
    x = rows(dtype, shape)
    y = values(name, x, ROWPTR, expand_rowptr(ROWPTR, 11) if with_index else None)
    expected = loop(name, x, ROWPTR)
    assert y.dtype == dtype and y.shape == expected.shape and y.is_contiguous()
    torch.testing.assert_close(
        y.double(), expected, rtol=TOLERANCE[dtype], atol=4 * TOLERANCE[dtype]
    )


@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_no_rows(name, n):
    x = torch.zeros(0, 4, requires_grad=True)
    y = values(name, x, torch.zeros(n + 1, dtype=torch.int64))
    assert y.shape == ((0, 4) if name == "softmax" else (n, 4))
    fill = -torch.inf if name == "logsumexp" else 0.0
    assert (y == fill).all()
    y.sum().backward()
    assert x.grad.shape == (0, 4)


@pytest.mark.parametrize("name", ["max", "min"])
def test_arguments_point_at_the_first_extreme_row(name):
    x = torch.tensor([2.0, 5.0, 5.0, 1.0, 1.0, torch.nan, 7.0])
    y, arg = REDUCTIONS[name](x, torch.tensor([0, 3, 5, 5, 7]))
    first = [1, 3] if name == "max" else [0, 3]
    assert arg.tolist() == [*first, 7, 5]  # 7 rows: the empty segment's argument
    assert y[:3].tolist() == [*x[first].tolist(), 0.0] and y[3].isnan()


def test_sums_of_integers_are_exact():
    x = torch.tensor([2**53, 1, 1, -3])
    assert ops.segment_sum(x, torch.tensor([0, 3, 3, 4])).tolist() == [2**53 + 2, 0, -3]


def test_bfloat16_accumulates_in_float32():
    # in bfloat16 256 + 1 = 256
    ones = torch.ones(1000, 2, dtype=torch.bfloat16)
    assert (ops.segment_sum(ones, torch.tensor([0, 1000])) == 1000).all()
    assert (ops.segment_mean(ones, torch.tensor([0, 1000])) == 1).all()


def test_large_values_do_not_overflow():
    x = torch.tensor([1e4, 1e4, -1e4, -torch.inf])
    rowptr = torch.tensor([0, 2, 4])
    assert ops.segment_softmax(x, rowptr).tolist() == [0.5, 0.5, 1.0, 0.0]
    y = ops.segment_logsumexp(x, rowptr)
    torch.testing.assert_close(y, torch.tensor([1e4 + 0.6931, -1e4]))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_gradients(name):
    # numerical differences of −∞, log-sum-exp of nothing, are no numbers
    rowptr = torch.tensor([0, 3, 4, 11]) if name == "logsumexp" else ROWPTR
    x = rows(shape=(2,)).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: values(name, t, rowptr), x)
    assert torch.autograd.gradgradcheck(lambda t: values(name, t, rowptr), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_dispatcher_contract(name, dtype):
    op = getattr(torch.ops.meshsim, f"segment_{name}").default
    rowptr = torch.tensor([0, 3, 4, 11])
    # bfloat16 gradients through a decomposed softmax round elsewhere
    x = rows(dtype, (3,)).requires_grad_(dtype != torch.bfloat16)
    opcheck(op, (x, rowptr))
    opcheck(op, (x, rowptr, expand_rowptr(rowptr, 11)))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_compiles_whole(name):
    op = getattr(torch.ops.meshsim, f"segment_{name}")  # pytest's shape checks do not compile

    def f(x, rowptr):
        y = op(2 * x, rowptr)
        return ((y[0] if isinstance(y, tuple) else y) ** 2).sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    rowptr = torch.tensor([0, 3, 4, 11])
    a, b = rows().requires_grad_(), rows().requires_grad_()
    f(a, rowptr).backward()
    compiled(b, rowptr).backward()
    torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_same_bits_for_any_number_of_threads(name, dtype):
    rowptr = torch.randint(0, 40, (500,), generator=torch.Generator().manual_seed(1)).cumsum(0)
    rowptr = torch.cat([rowptr.new_zeros(1), rowptr])
    x = rows(dtype, (33,), n=int(rowptr[-1]))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            t = x.clone().requires_grad_()
            y = values(name, t, rowptr)
            (y * y.detach().cos()).sum().backward()
            results.append((y.detach(), t.grad))
    finally:
        torch.set_num_threads(before)
    for y, grad in results[1:]:
        assert torch.equal(y, results[0][0]) and torch.equal(grad, results[0][1])


@pytest.mark.parametrize("name", REDUCTIONS)
def test_input_is_left_alone_and_output_is_fresh(name):
    x = rows()
    kept = x.clone()
    y = values(name, x, torch.arange(12))  # one row a segment
    y += 1
    assert torch.equal(x, kept)


def test_strided_rows():
    x = rows(shape=(8, 3)).transpose(1, 2)[:, :, ::2]
    torch.testing.assert_close(ops.segment_sum(x, ROWPTR), loop("sum", x, ROWPTR))


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize(
    ("rowptr", "message"),
    [
        ([0, 3], r"from 0 to 11 \(the rows\), got 0 to 3"),
        ([1, 11], "got 1 to 11"),
        ([0, 12], "got 0 to 12"),
        ([0, 5, 3, 11], "not rising"),
        ([], r"expected int64 of shape \(N \+ 1,\)"),
    ],
)
def test_bad_rowptr_is_named(name, rowptr, message):
    with pytest.raises(InputError, match=message):
        REDUCTIONS[name](rows(), torch.tensor(rowptr, dtype=torch.int64))
    with pytest.raises(InputError, match="expected int64"):
        REDUCTIONS[name](rows(), torch.tensor([0, 11], dtype=torch.int32))
