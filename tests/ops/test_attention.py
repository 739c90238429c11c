"""csr_attention is softmax attention over the listed entries, whatever runs it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from meshsim.ops import csr_attention
from meshsim.ops.attention import composed, entries_by_column
from tests.ops.blocks import (
    forward_backward,
    in_another_process,
    needs_native,
    on_threads,
    random,
    relative,
)

SHAPES = [
    (1, 1),
    (3, 1),
    (2, 4),
    (5, 7),
    (4, 8),
    (4, 16),
    (4, 32),
    (6, 16),
    (1, 96),
]  # heads, depth


@pytest.fixture(autouse=True)
def _native() -> None:
    needs_native("csr_attention")


def mask(rows: int, columns: int, entries: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random rows of different lengths, every fourth of them empty."""
    generator = torch.Generator().manual_seed(seed)
    row = torch.randint(0, max(rows, 1), (entries,), generator=generator)
    row = (row + (row % 4 == 3).long()).clamp_max(rows - 1).sort().values
    rowptr = torch.searchsorted(row, torch.arange(rows + 1))
    return rowptr, torch.randint(0, max(columns, 1), (entries,), generator=generator)


def case(rows=40, columns=31, entries=300, heads=4, depth=8, bias=True):
    """Inputs and gradients in float64, and the mask."""
    width = heads * depth
    made = {
        "q": random(rows, width, seed=1),
        "k": random(columns, width, seed=2),
        "v": random(columns, width, seed=3),
    }
    if bias:
        made["bias"] = random(entries, heads, seed=4)
    grads = [random(rows, width, seed=5), random(rows, heads, seed=6)]
    rowptr, col = mask(rows, columns, entries)
    grads[1][rowptr.diff() == 0] = 0  # the log of nothing has no gradient
    return made, grads, rowptr, col


def ours(rowptr, col, heads, scale=None):
    def run(x: dict[str, Tensor]):
        return csr_attention(x["q"], x["k"], x["v"], rowptr, col, heads, scale, x.get("bias"))

    return run


def slow(rowptr, col, heads, scale=None):
    """Row by row and head by head."""

    def run(x: dict[str, Tensor]):
        depth = x["q"].shape[1] // heads
        c = depth**-0.5 if scale is None else scale
        out, lse = [], []
        for i, q in enumerate(x["q"]):
            at = slice(int(rowptr[i]), int(rowptr[i + 1]))
            for h in range(heads):
                part = slice(h * depth, (h + 1) * depth)
                if at.start == at.stop:
                    out.append(q[part] * 0)
                    lse.append(0 * q.sum() - math.inf)
                    continue
                s = x["k"][col[at], part] @ q[part] * c
                s = s + x["bias"][at, h] if "bias" in x else s
                out.append(torch.softmax(s, 0) @ x["v"][col[at], part])
                lse.append(torch.logsumexp(s, 0))
        rows = len(x["q"])
        return torch.cat(out).reshape(rows, -1), torch.stack(lse).reshape(rows, heads)

    return run


def cast(inputs, dtype):
    return {name: x.to(dtype) for name, x in inputs.items()}


def close(found, right, tolerance):
    for a, b in zip(found, right, strict=True):
        endless = b.isinf()
        assert torch.equal(a.isinf(), endless)
        assert relative(a.masked_fill(endless, 0), b.masked_fill(endless, 0)) < tolerance


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("heads", "depth"), SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 3e-6)])
def test_it_equals_its_definition(dtype, tolerance, heads, depth, bias):
    inputs, grads, rowptr, col = case(heads=heads, depth=depth, bias=bias)
    right = forward_backward(slow(rowptr, col, heads), inputs, grads)
    found = forward_backward(ours(rowptr, col, heads), cast(inputs, dtype), grads)
    assert all(x.dtype == dtype for x in found)
    close(found, right, tolerance)


@pytest.mark.parametrize(("heads", "depth"), SHAPES)
def test_bfloat16_is_stored_and_no_more(heads, depth):
    inputs, grads, rowptr, col = case(heads=heads, depth=depth)
    short = cast(inputs, torch.bfloat16)
    grads = [grads[0].bfloat16(), grads[1]]
    right = forward_backward(slow(rowptr, col, heads), cast(short, torch.float64), grads)
    out, lse, *found = forward_backward(ours(rowptr, col, heads), short, grads)
    assert out.dtype == torch.bfloat16 and lse.dtype == torch.float32
    close([out, lse], right[:2], 3e-3)
    close([lse], right[1:2], 1e-6)
    close(found, right[2:], 4e-3)


def test_the_reference_is_the_same():
    inputs, grads, rowptr, col = case(heads=3, depth=5)

    def reference(x):
        tables = entries_by_column(col, 31)
        return composed(x["q"], x["k"], x["v"], rowptr, col, *tables, x["bias"], 3, 5**-0.5)

    close(
        forward_backward(reference, inputs, grads),
        forward_backward(slow(rowptr, col, 3), inputs, grads),
        1e-14,
    )


def test_a_dense_mask_is_torch_attention():
    x = {name: random(9, 32, seed=i) for i, name in enumerate("qkv")}
    rowptr, col = 9 * torch.arange(10), torch.arange(9).repeat(9)
    out, _ = ours(rowptr, col, 4)(x)
    heads = (t.reshape(9, 4, 8).transpose(0, 1) for t in x.values())
    right = F.scaled_dot_product_attention(*heads).transpose(0, 1).reshape(9, 32)
    torch.testing.assert_close(out, right, rtol=1e-12, atol=1e-12)


def test_weights_of_a_row_sum_to_one():
    inputs, _, rowptr, col = case(heads=4, depth=16)
    inputs = cast(inputs, torch.float32)
    inputs["v"] = torch.ones_like(inputs["v"])
    out, lse = ours(rowptr, col, 4)(inputs)
    empty = rowptr.diff() == 0
    assert empty.any() and (out[empty] == 0).all() and (lse[empty] == -math.inf).all()
    torch.testing.assert_close(out[~empty], torch.ones_like(out[~empty]), rtol=0, atol=1e-6)


def test_entries_may_be_left_out_by_their_bias():
    inputs, grads, rowptr, col = case(heads=2, depth=8)
    gone = torch.arange(300) % 3 == 0
    gone[rowptr[5] : rowptr[6]] = True  # a whole row
    left = gone.logical_not().nonzero()[:, 0]
    before = torch.cat([torch.zeros(1, dtype=torch.int64), (~gone).cumsum(0)])[rowptr]
    grads[1][before.diff() == 0] = 0
    fewer = {**inputs, "bias": inputs["bias"][left]}
    inputs["bias"][gone] = -math.inf
    found = forward_backward(ours(rowptr, col, 2), inputs, grads)
    right = forward_backward(ours(before, col[left], 2), fewer, grads)
    assert (found[5][gone] == 0).all()
    close([*found[:5], found[5][left]], right, 1e-14)


def test_large_logits_do_not_overflow():
    inputs, _, rowptr, col = case(heads=4, depth=32)
    big = {"q": 60 * inputs["q"], "k": 60 * inputs["k"], "v": inputs["v"]}
    right = ours(rowptr, col, 4)(big)
    found = ours(rowptr, col, 4)(cast(big, torch.float32))
    assert found[0].isfinite().all()
    assert relative(found[0], right[0]) < 1e-2  # float32 rounds the logits, of about 10⁴


def test_nan_stays_in_its_rows():
    inputs, _, rowptr, col = case(heads=4, depth=8)
    inputs["k"][col[rowptr[8]]] = math.nan
    out, lse = ours(rowptr, col, 4)(cast(inputs, torch.float32))
    row = torch.repeat_interleave(rowptr.diff())
    hit = torch.zeros(40, dtype=torch.bool)
    hit[row[col == col[rowptr[8]]]] = True
    assert torch.equal(out.isnan().all(1), hit) and torch.equal(lse.isnan().any(1), hit)


def test_rows_may_lie_a_stride_apart():
    inputs, grads, rowptr, col = case(rows=31, heads=4, depth=8)
    wide = torch.cat([inputs[name] for name in "qkv"], 1)
    split = dict(zip("qkv", wide.chunk(3, 1), strict=True)) | {"bias": inputs["bias"]}
    run = ours(rowptr, col, 4)
    for a, b in zip(run(split), run(inputs), strict=True):
        assert torch.equal(a, b)
    turned = {name: x.T.contiguous().T for name, x in inputs.items()}
    found = forward_backward(run, turned, [g.T.contiguous().T for g in grads])
    for a, b in zip(found, forward_backward(run, inputs, grads), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_on_every_run_and_number_of_threads(dtype):
    inputs, grads, rowptr, col = case(rows=3001, columns=2003, entries=30_011, heads=4, depth=16)
    inputs = cast(inputs, dtype)
    runs = list(on_threads(lambda: forward_backward(ours(rowptr, col, 4), inputs, grads)))
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_to_rounding(isa):
    code = """
import torch
from tests.ops.test_attention import SHAPES, case, cast, forward_backward, ours, relative, slow
worst = 0.0
for heads, depth in SHAPES:
    inputs, grads, rowptr, col = case(heads=heads, depth=depth)
    right = forward_backward(ours(rowptr, col, heads), inputs, grads)
    found = forward_backward(ours(rowptr, col, heads), cast(inputs, torch.float32), grads)
    exact = forward_backward(slow(rowptr, col, heads), inputs, grads)
    for a, b, c in zip(found, right, exact, strict=True):
        bad = b.isinf()
        worst = max(worst, relative(a.masked_fill(bad, 0), b.masked_fill(bad, 0)))
        worst = max(worst, 1e8 * relative(b.masked_fill(bad, 0), c.masked_fill(bad, 0)))
print(worst)
"""
    assert float(in_another_process(code, MESHSIM_ISA=isa)) < 3e-6


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_the_result(bias):
    inputs, _, rowptr, col = case(rows=5, columns=4, entries=13, heads=2, depth=3, bias=bias)
    names, run = list(inputs), ours(rowptr, col, 2)

    def finite(*x: Tensor):
        out, lse = run(dict(zip(names, x, strict=True)))
        return out, lse[rowptr.diff() > 0]

    given = [x.requires_grad_() for x in inputs.values()]
    assert torch.autograd.gradcheck(finite, given, nondet_tol=0.0)
    assert torch.autograd.gradgradcheck(finite, given, nondet_tol=0.0)


@pytest.mark.parametrize("bias", [True, False])
def test_opcheck(bias):
    inputs, _, rowptr, col = case(rows=5, columns=4, entries=13, heads=2, depth=3, bias=bias)
    q, k, v, *rest = (x.requires_grad_() for x in inputs.values())
    tables = entries_by_column(col, 4)
    given = (q, k, v, rowptr, col, *tables, rest[0] if rest else None, 2, 0.5)
    torch.library.opcheck(torch.ops.meshsim.csr_attention.default, given)


def test_compiled_it_is_the_same():
    inputs, grads, rowptr, col = case(rows=9, columns=7, entries=40, heads=2, depth=8)
    tables = entries_by_column(col, 7)

    def run(x):
        return torch.ops.meshsim.csr_attention(
            x["q"], x["k"], x["v"], rowptr, col, *tables, x["bias"], 2, 0.5
        )

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    a, b = (forward_backward(f, inputs, grads) for f in (compiled, run))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("rows", "columns", "entries"),
    [(0, 0, 0), (0, 3, 0), (3, 0, 0), (1, 1, 1), (1, 5, 4000), (700, 1, 700)],
)
def test_any_sizes(rows, columns, entries):
    inputs, grads, _, _ = case(rows, columns, entries)
    rowptr = torch.arange(rows + 1) * (entries // max(rows, 1))
    col = torch.arange(entries) % max(columns, 1)
    found = forward_backward(ours(rowptr, col, 4), inputs, [grads[0], 0 * grads[1]])
    assert found[0].shape == (rows, 32) and found[1].shape == (rows, 4)
    if rows and columns:
        right = forward_backward(slow(rowptr, col, 4), inputs, [grads[0], 0 * grads[1]])
        close(found, right, 1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(9, 4, 4).double()}, "`q`"),
        ({0: torch.zeros(9, 16).half()}, "`q`.*float32, float64 or bfloat16|`k`.*Half"),
        ({1: torch.zeros(7, 8).double()}, r"`k`.*\(\*, 16\).*\(7, 8\)"),
        ({1: torch.zeros(7, 16)}, "`k`.*Double.*Float"),
        ({2: torch.zeros(6, 16).double()}, r"`v`.*\(7, 16\).*\(6, 16\)"),
        ({3: torch.arange(10)}, "`rowptr`.*rise from 0 to 40"),
        ({3: torch.tensor([0, 40])}, r"`rowptr`.*\(10"),
        (
            {3: torch.zeros(10, dtype=torch.int64, device="meta")},
            "`rowptr`: expected a tensor on cpu, got one on meta",
        ),
        ({2: torch.zeros(7, 16, device="meta").double()}, "`v`: expected a tensor on cpu"),
        ({4: torch.full((40,), 7)}, "`col`: index 7 at row 0 is outside 0..6"),
        ({4: torch.full((40,), -1)}, "`col`: index -1 at row 0"),
        ({4: torch.zeros(40, dtype=torch.int32)}, "`col`"),
        ({7: torch.zeros(40, 3).double()}, r"`bias`.*\(40, 2\).*\(40, 3\)"),
        ({7: torch.zeros(40, 2)}, "`bias`.*Double.*Float"),
        ({8: 3}, "`heads`.*divides the width 16.*3"),
        ({8: 0}, "`heads`"),
    ],
)
def test_bad_input_is_named(change, message):
    inputs, _, rowptr, col = case(rows=9, columns=7, entries=40, heads=2, depth=8)
    q, k, v, bias = inputs.values()
    given = [q, k, v, rowptr, col, *entries_by_column(col, 7), bias, 2, 0.5]
    for i, value in change.items():
        given[i] = value
    with pytest.raises(ValueError, match=message):
        torch.ops.meshsim.csr_attention(*given)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(9, 15).double(), "`grad_out`"),
        (1, torch.zeros(9, 3).double(), "`grad_lse`"),
        (7, torch.zeros(8, dtype=torch.int64), "`colptr`"),
        (8, torch.zeros(40, dtype=torch.int64), "`eperm`"),
        (8, torch.full((40,), 40), "`eperm`: index 40"),
        (10, torch.zeros(9, 2), "`lse`.*Double.*Float"),
    ],
)
def test_bad_input_of_the_gradient_is_named(place, value, message):
    inputs, grads, rowptr, col = case(rows=9, columns=7, entries=40, heads=2, depth=8)
    q, k, v, bias = inputs.values()
    lse = torch.zeros(9, 2).double()
    given = [*grads, q, k, v, rowptr, col, *entries_by_column(col, 7), bias, lse, 2, 0.5]
    given[place] = value
    with pytest.raises(ValueError, match=message):
        torch.ops.meshsim.csr_attention_backward(*given)


def test_columns_are_found_once():
    _, _, _, col = case()
    first = entries_by_column(col, 31)
    assert entries_by_column(col, 31)[0] is first[0]
    col[0] = (col[0] + 1) % 31
    again = entries_by_column(col, 31)
    assert torch.equal(col[again[1]], col.sort().values) and again[0] is not first[0]


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_gradients_to_be_differentiated_again_are_the_same(factor):
    """Also where one argument is another, or depends on it, and where one needs no gradient."""
    rowptr, col = torch.tensor([0, 2, 3, 5]), torch.tensor([0, 2, 1, 0, 1])
    x, v = random(3, 8), random(3, 8, seed=1)

    def gradient(twice):
        q = x.clone().requires_grad_()
        k = q if factor == 1.0 else factor * q
        out, lse = csr_attention(q, k, q if factor == 1.0 else v, rowptr, col, 2)
        return torch.autograd.grad(out.square().sum() + lse.sum(), q, create_graph=twice)[0]

    torch.testing.assert_close(gradient(True).detach(), gradient(False), rtol=1e-12, atol=1e-12)
