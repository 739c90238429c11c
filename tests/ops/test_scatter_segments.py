"""segment_coo, segment_csr and their gathers: published cases, gradients, torch_scatter itself."""

import pytest
import torch

from meshsim import ops

REDUCTIONS = ["sum", "add", "mean", "min", "max"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int32, torch.int64]
# src, index, indptr: vectors, rows, batches with groups of their own, the last group empty or not
CASES = [
    ([1, 2, 3, 4, 5, 6], [0, 0, 1, 1, 1, 3], [0, 2, 5, 5, 6]),
    ([[1, 2], [4, 3], [5, 6], [8, 7], [9, 9]], [0, 0, 1, 1, 3], [0, 2, 4, 4, 5]),
    (
        [[1, 3, 5, 7, 9, 11], [2, 4, 6, 8, 10, 12]],
        [[0, 0, 1, 1, 1, 3], [0, 0, 0, 1, 1, 2]],
        [[0, 2, 5, 5, 6], [0, 3, 5, 6, 6]],
    ),
    (
        [[[1, 2], [3, 4], [5, 6]], [[7, 9], [10, 11], [12, 13]]],
        [[0, 0, 1], [0, 2, 2]],
        [[0, 2, 3, 3], [0, 1, 1, 3]],
    ),
    ([[1, 3], [2, 4]], [[0, 0]], [[0, 2]]),
]


def tensors(case, dtype):
    src, index, indptr = case
    return torch.tensor(src, dtype=dtype), torch.tensor(index), torch.tensor(indptr)


def loop(src, indptr, reduce):
    """Values and places by slices, one batch and one segment after the other."""
    if indptr.dim() > 1:
        parts = [loop(a, p, reduce) for a, p in zip(src, indptr.expand(len(src), -1), strict=True)]
        return torch.stack([p[0] for p in parts]), torch.stack([p[1] for p in parts])
    out = src.new_zeros(len(indptr) - 1, *src.shape[1:])
    arg = torch.full(out.shape, len(src))
    for i in range(len(out)):
        a, b = int(indptr[i]), int(indptr[i + 1])
        if a < b:
            part = src[a:b]
            if reduce in ("min", "max"):
                best = getattr(part, reduce)(0)
                out[i], arg[i] = best.values, best.indices + a
            elif reduce == "mean":
                total, count = part.sum(0), b - a
                out[i] = total / count if src.is_floating_point() else total // count
            else:
                out[i] = part.sum(0)
    return out, arg


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_published_cases(reduce, dtype, case):
    src, index, indptr = tensors(case, dtype)
    expected, places = loop(src, indptr, reduce)
    for form, at in (("coo", index), ("csr", indptr)):
        y = getattr(ops, f"segment_{reduce}_{form}")(src, at)
        if reduce in ("min", "max"):
            y, arg = y
            assert torch.equal(arg, places)
        torch.testing.assert_close(y, expected)
        named = getattr(ops, f"segment_{form}")(src, at, reduce=reduce)
        assert torch.equal(named, y)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_out_is_overwritten_by_csr_and_gone_on_from_by_coo(reduce, case):
    src, index, indptr = tensors(case, torch.float64)
    expected, places = loop(src, indptr, reduce)
    out = torch.full_like(expected, -2)
    ops.segment_csr(src, indptr, out, reduce)
    assert torch.equal(out, expected)
    out.fill_(-2)
    y = ops.segment_coo(src, index, out, reduce=reduce)
    assert y.data_ptr() == out.data_ptr()
    filled = places < src.shape[index.dim() - 1]
    if reduce in ("sum", "add"):
        expected = expected - 2
    elif reduce == "mean":
        count = loop(torch.ones_like(src), indptr, "sum")[0].clamp_min(1)
        expected = (loop(src, indptr, "sum")[0] - 2) / count
    elif reduce == "min":
        expected = out.new_full(out.shape, -2)
    else:
        filled = loop(torch.ones_like(src), indptr, "sum")[0] > 0
        expected = torch.where(filled, expected, -2)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_gradients(reduce, case):
    src, index, indptr = tensors(case, torch.float64)
    src.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: ops.segment_coo(t, index, reduce=reduce), src)
    assert torch.autograd.gradcheck(lambda t: ops.segment_csr(t, indptr, reduce=reduce), src)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gathers_undo(dtype, case):
    src, index, indptr = tensors(case, dtype)
    groups = loop(src, indptr, "max")[0]
    wide = index.expand(src.shape[: index.dim()])
    expected = groups.gather(
        index.dim() - 1, wide.view(*wide.shape, *[1] * (src.dim() - wide.dim())).expand(src.shape)
    )
    assert torch.equal(ops.gather_coo(groups, index), expected)
    assert torch.equal(ops.gather_csr(groups, indptr), expected)
    for f, at in ((ops.gather_coo, index), (ops.gather_csr, indptr)):
        out = torch.zeros_like(src)
        f(groups, at, out)
        assert torch.equal(out, expected)
        if dtype == torch.float64:
            leaf = groups.clone().requires_grad_()
            assert torch.autograd.gradcheck(lambda t, f=f, at=at: f(t, at), leaf)


def test_rows_outside_of_all_segments_are_left_out():
    src = torch.arange(6.0)
    y, arg = ops.segment_max_csr(src, torch.tensor([1, 3, 3, 5]))
    assert y.tolist() == [2.0, 0.0, 4.0] and arg.tolist() == [2, 6, 4]
    two = ops.segment_sum_csr(torch.ones(2, 4), torch.tensor([[0, 1, 3], [1, 2, 4]]))
    assert two.tolist() == [[1, 2], [1, 2]]


def test_an_index_need_not_be_sorted():
    assert ops.segment_coo(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1, 0, 1])).tolist() == [
        2,
        5,
    ]


@pytest.mark.parametrize("reduce", ["add", "mean", "min", "max"])
def test_nothing(reduce):
    x = torch.randn(0, 0, 0, 16, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    for y in (
        ops.segment_coo(x, none, dim_size=0, reduce=reduce),
        ops.gather_coo(x, none),
        ops.segment_csr(x, none, reduce=reduce),
        ops.gather_csr(x, none),
    ):
        y.backward(torch.randn_like(y))
        assert y.shape == (0, 0, 0, 16)


def test_wrong_arguments_are_named():
    src = torch.ones(4)
    with pytest.raises(ValueError, match="`indptr`"):
        ops.segment_csr(src, torch.tensor([0, 5]))
    with pytest.raises(ValueError, match="not rising"):
        ops.segment_csr(src, torch.tensor([0, 3, 2, 4]))
    with pytest.raises(ValueError, match="`index`: index 4"):
        ops.segment_coo(src, torch.tensor([0, 1, 2, 4]), dim_size=4)
    with pytest.raises(ValueError, match="`index`: expected 1 to 1 dimensions"):
        ops.segment_coo(src, torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="`reduce`: expected sum, add, mean, min, max, got 'mul'"):
        ops.segment_coo(src, torch.zeros(4, dtype=torch.int64), reduce="mul")


@pytest.fixture
def peer():
    return pytest.importorskip("torch_scatter", reason="torch-scatter is not installed")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_equals_torch_scatter(peer, reduce, case):
    for dtype in (torch.float64, torch.int64):
        src, index, indptr = tensors(case, dtype)
        for form, at in (("coo", index), ("csr", indptr)):
            name = f"segment_{reduce}_{form}"
            ours, theirs = getattr(ops, name)(src, at), getattr(peer, name)(src, at)
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_with_out_equals_torch_scatter(peer, reduce, case):
    src, index, indptr = tensors(case, torch.float64)  # all of them have rows for group 0
    start = torch.rand(loop(src, indptr, "sum")[0].shape, dtype=src.dtype) * 8
    for form, at in (("coo", index), ("csr", indptr)):
        name = f"segment_{reduce}_{form}"
        y = [getattr(module, name)(src, at, start.clone()) for module in (ops, peer)]
        if reduce in ("min", "max"):
            held = y[0][1] == src.shape[index.dim() - 1]  # theirs names any row there
            assert torch.equal(y[0][1][~held], y[1][1][~held])
            y = [values for values, _ in y]
        torch.testing.assert_close(*y, rtol=1e-12, atol=1e-12)


def test_where_torch_scatter_errs_with_out(peer):
    src, index = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1, 1, 2])
    y = [m.segment_sum_coo(src, index, torch.tensor([5.0, 7.0, 9.0])) for m in (ops, peer)]
    assert y[0].tolist() == [5, 10, 13] and y[1].tolist() == [5, 8, 13]  # it goes on from row 0
    out = torch.tensor([0.0, 0.0, 9.0])
    arg = [m.segment_max_coo(src, index, out.clone())[1].tolist() for m in (ops, peer)]
    assert arg == [[3, 1, 3], [3, 1, 1]]  # the row of another group
    y = [m.segment_csr(src[:0], torch.tensor([0, 0]), out[2:].clone()) for m in (ops, peer)]
    assert y[0].tolist() == [0] and y[1].tolist() == [9]  # not overwritten


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_nothing_gives_what_torch_scatter_gives(peer, reduce):
    src, index = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    for n in (None, 3):
        y = [getattr(m, f"segment_{reduce}_coo")(src, index, None, n) for m in (ops, peer)]
        torch.testing.assert_close(*y)
    y = [getattr(m, f"segment_{reduce}_csr")(src, index.new_zeros(4)) for m in (ops, peer)]
    torch.testing.assert_close(*y)
    for m in (ops, peer):
        out = m.segment_coo(src, index, torch.full((3,), 2.0), reduce=reduce)
        assert out.tolist() == [2, 2, 2]
