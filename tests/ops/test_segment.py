"""Segment reductions against loops, laws of their gradients, and the dispatcher's own checks."""

import pytest
import torch
from torch.library import opcheck

from meshsim import native, ops
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


# A segment that threads share (more than 4 · 2¹⁶ numbers), among short ones and an empty one.
LONG = torch.tensor([0, 3, 70_003, 70_003, 70_010])


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


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_same_bits_for_any_number_of_threads(name, dtype, long):
    rowptr = torch.randint(0, 40, (500,), generator=torch.Generator().manual_seed(1)).cumsum(0)
    rowptr = LONG if long else torch.cat([rowptr.new_zeros(1), rowptr])
    x = rows(dtype, (5,) if long else (33,), n=int(rowptr[-1]))
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
        ([], r"of shape \(N \+ 1,\)|expected shape \(N \+ 1,\)"),
    ],
)
def test_bad_rowptr_is_named(name, rowptr, message):
    with pytest.raises(ValueError, match=message):
        REDUCTIONS[name](rows(), torch.tensor(rowptr, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"`rowptr`: expected (int64|Long)"):
        REDUCTIONS[name](rows(), torch.tensor([0, 11], dtype=torch.int32))


def test_native_kernels_run():
    running = native.active()
    if running["segment_sum"]["cpu"] != "native" and not native.allowed():
        pytest.skip(running["segment_sum"]["why"])
    for name in (*REDUCTIONS, "spread", "place", "softmax_backward", "logsumexp_backward"):
        assert running[f"segment_{name}"]["cpu"] == "native"


@pytest.mark.parametrize("width", [2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 64, 128, 130, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_every_width(name, dtype, width):
    # one long segment, too: narrow ones are summed many rows at a time
    rowptr = torch.tensor([0, 0, 3, 4, 11, 900])
    x = rows(dtype, (width,), n=900)
    tolerance = max(1e-4, TOLERANCE[dtype]) if dtype != torch.float64 else 1e-12
    torch.testing.assert_close(
        values(name, x, rowptr).double(), loop(name, x, rowptr), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("name", REDUCTIONS)
def test_not_numbers_stay_in_their_segment_and_column(name):
    x = rows(shape=(5,))
    for row, value in ((1, torch.nan), (6, -torch.inf), (5, torch.inf)):
        if name != "softmax" or value != torch.inf:  # torch's own softmax has NaN for all beside ∞
            x[row, 2] = value
    y, clean = values(name, x, ROWPTR), values(name, rows(shape=(5,)), ROWPTR)
    expected = loop(name, x, ROWPTR)
    torch.testing.assert_close(y, expected, equal_nan=True)
    others = [0, 1, 3, 4]
    torch.testing.assert_close(y[:, others], clean[:, others], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_integers(dtype):
    x = torch.randint(0, 9, (11, 3), generator=torch.Generator().manual_seed(0)).to(dtype)
    parts = x.split(ROWPTR.diff().tolist())
    total = torch.stack([p.sum(0) for p in parts]).to(dtype)
    assert torch.equal(ops.segment_sum(x, ROWPTR), total)
    for name, pick in (("max", torch.max), ("min", torch.min)):
        y, arg = REDUCTIONS[name](x, ROWPTR)
        for i, p in enumerate(parts):
            assert y.dtype == dtype
            if len(p):
                assert torch.equal(y[i], pick(p, 0).values)
                assert torch.equal(x.gather(0, arg[i : i + 1])[0], y[i])
            else:
                assert (y[i] == 0).all() and (arg[i] == 11).all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.complex128])
def test_sums_of_truth_values_and_complex_numbers(dtype):
    x = torch.tensor([[1, 0], [1, 0], [1, 1]]).to(dtype)
    y = ops.segment_sum(x, torch.tensor([0, 2, 2, 3]))
    expected = torch.tensor([[2, 0], [0, 0], [1, 1]]).to(dtype)
    assert torch.equal(y, expected)


@pytest.mark.parametrize("mean", [False, True])
def test_spread_is_the_transposed_sum(mean):
    op = torch.ops.meshsim.segment_spread.default
    x = rows(n=6).requires_grad_()
    y = op(x, ROWPTR, 11, mean)
    share = ROWPTR.diff()[expand_rowptr(ROWPTR, 11)].view(-1, 1) if mean else 1
    assert torch.equal(y, x[expand_rowptr(ROWPTR, 11)] / share)
    assert torch.autograd.gradcheck(lambda t: op(t, ROWPTR, 11, mean), x)
    opcheck(op, (x, ROWPTR, 11, mean))


def test_place_puts_values_at_their_rows():
    op = torch.ops.meshsim.segment_place.default
    arg = torch.tensor([[11, 11], [2, 0], [3, 3], [11, 11], [4, 10], [11, 11]])
    x = rows(shape=(2,), n=6).requires_grad_()
    y = op(x, arg, ROWPTR, 11)
    assert y[2, 0] == x[1, 0] and y[0, 1] == x[1, 1] and y[10, 1] == x[4, 1]
    assert int((y != 0).sum()) == 6
    assert torch.autograd.gradcheck(lambda t: op(t, arg, ROWPTR, 11), x)
    opcheck(op, (x, arg, ROWPTR, 11))
    if native.active()["segment_place"]["cpu"] == "native":
        for bad in (-1, 12, 5):  # the last lies in another segment
            with pytest.raises(ValueError, match="`arg`"):
                op(x, arg.clone().fill_(bad), ROWPTR, 11)


@pytest.mark.parametrize("name", ["softmax", "logsumexp"])
def test_fused_gradients_equal_the_composed(name):
    x = rows().requires_grad_()
    y = values(name, x, ROWPTR)
    grad = torch.cos(torch.arange(float(y.numel()), dtype=y.dtype)).view(y.shape)
    (plain,) = torch.autograd.grad(y, x, grad, retain_graph=True)
    (again,) = torch.autograd.grad(y, x, grad, create_graph=True)
    torch.testing.assert_close(plain, again.detach())
    op = getattr(torch.ops.meshsim, f"segment_{name}_backward").default
    if name == "softmax":
        opcheck(op, (grad, y.detach(), ROWPTR))
    else:
        opcheck(op, (grad, x.detach(), y.detach(), ROWPTR))


def test_wrong_kinds_are_named():
    whole = torch.ones(11, dtype=torch.int64)
    for name in ("mean", "softmax", "logsumexp"):
        if native.active()[f"segment_{name}"]["cpu"] == "native":
            with pytest.raises(ValueError, match="`x`: expected float32"):
                getattr(torch.ops.meshsim, f"segment_{name}")(whole, ROWPTR)


@pytest.mark.parametrize("width", [4, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_very_long_segment(name, dtype, width):
    x = rows(dtype, (width,), n=70_010).requires_grad_()
    y = values(name, x, LONG)
    exact = x.detach().double().requires_grad_()
    expected = loop(name, exact, LONG)
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-3, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)
    grad = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view(y.shape).to(dtype)
    (found,) = torch.autograd.grad(y, x, grad)
    keep = LONG.diff() > 0 if name == "logsumexp" else slice(None)  # log 0 has no gradient
    (right,) = torch.autograd.grad(expected[keep], exact, grad.double()[keep])
    torch.testing.assert_close(found.double(), right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["max", "min"])
def test_arguments_of_a_very_long_segment(name):
    x = rows(torch.float32, (4,), n=70_010)
    top = 9.0 if name == "max" else -9.0
    x[60_000, 0] = x[100, 0] = x[20_000, 0] = top  # equals in several pieces: the first
    x[65_000, 1] = x[40_000, 1] = torch.nan
    x[65_001, 1] = top
    x[69_999, 2] = top
    x[50_000, 3] = -torch.inf if name == "min" else torch.inf
    y, arg = REDUCTIONS[name](x, LONG)
    assert arg[1].tolist() == [100, 40_000, 69_999, 50_000]
    assert y[1, 1].isnan() and y[1, [0, 2]].tolist() == [top, top] and y[1, 3].isinf()
    assert (arg[2] == 70_010).all()


def test_softmax_of_a_very_long_segment_without_a_finite_value():
    x = rows(torch.float32, (4,), n=70_010)
    x[3:70_003, 0] = -torch.inf
    x[40_000, 1] = torch.nan
    y = ops.segment_logsumexp(x, LONG)
    assert y[1, 0] == -torch.inf and y[1, 1].isnan() and y[1, 2:].isfinite().all()
    p = ops.segment_softmax(x, LONG)
    assert p[3:70_003, :2].isnan().all() and p[:, 2:].isfinite().all() and p[:3].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_integers_of_a_very_long_segment(dtype):
    x = torch.randint(-9, 9, (70_010, 4), generator=torch.Generator().manual_seed(0)).to(dtype)
    parts = x.split(LONG.diff().tolist())
    total = torch.stack([p.sum(0) for p in parts]).to(dtype)  # wraps around as int8 does
    assert torch.equal(ops.segment_sum(x, LONG), total)
    for name in ("max", "min"):
        y, arg = REDUCTIONS[name](x, LONG)
        assert (y[1] == (8 if name == "max" else -9)).all()
        first = torch.stack([(x[3:70_003, j] == y[1, j]).nonzero()[0, 0] + 3 for j in range(4)])
        assert torch.equal(arg[1], first)


@pytest.mark.parametrize("name", [*REDUCTIONS, "spread", "place"])
def test_direct_calls_with_wrong_tensors_raise(name):
    if native.active()[f"segment_{name}"]["cpu"] != "native":
        pytest.skip("the reference leaves it to torch")
    op = getattr(torch.ops.meshsim, f"segment_{name}").default
    x = rows(torch.float32, n=6 if name in ("spread", "place") else 11)
    rest = {"spread": (11, False), "place": (11,)}.get(name, ())
    args = (torch.zeros(6, 5, dtype=torch.int64),) if name == "place" else ()
    for wrong in (
        (x[0, 0], *args, ROWPTR),  # no rows
        (x, *args, ROWPTR.view(1, -1)),
        (x, *args, ROWPTR.int()),
        (x, *args, ROWPTR.flip(0)),
        (x, *args, ROWPTR[:0]),
        (x[:4], *args, ROWPTR),
        (x.to("meta"), *args, ROWPTR),  # on another device
        (x, *args, ROWPTR.to("meta")),
    ):
        try:
            y = op(*wrong, *rest)
        except (ValueError, RuntimeError, NotImplementedError):
            continue
        pytest.fail(f"no error, but {y}")
