"""Queries through anchored blocks: torch's own operations give the same; rows do not see others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from meshsim.ops import anchor_blocks
from meshsim.ops.anchors import composed
from tests.ops.blocks import in_another_process, needs_native, on_threads, random, relative

Given = dict[str, Tensor]
# width, heads, parts of the MLP, anchors of each block, pairs turned
SHAPES = [
    (16, 2, 1, (3,), 2),
    (32, 4, 2, (70, 0, 9), 4),
    (48, 2, 1, (130, 64), 5),
    (64, 4, 2, (256, 65), 8),
    (80, 4, 1, (33, 1), 3),
    (192, 3, 3, (200,), 32),
]


def case(
    rows: int,
    width: int = 64,
    heads: int = 4,
    parts: int = 2,
    anchors: tuple[int, ...] = (100, 65),
    turns: int = 8,
) -> tuple[Given, int]:
    """Arguments in float64, and the heads."""
    blocks, total = len(anchors), sum(anchors)
    angle = random(rows, turns, seed=2)
    given = {
        "x": random(rows, width, seed=5),
        "k": random(total, width, seed=6),
        "v": random(total, width, seed=7),
        "ptr": torch.tensor([0, *anchors]).cumsum(0),
        "weight": random(blocks, 2 + 3 * parts, width, width, seed=3) / width**0.5,
        "bias": 0.1 * random(blocks, 3 + 2 * parts, width, seed=4),
        "norm": 1 + 0.1 * random(blocks, 2, width, seed=1),
        "cos": angle.cos(),
        "sin": angle.sin(),
    }
    return given, heads


def cast(given: Given, dtype: torch.dtype) -> Given:
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in given.items()}


def rows_of(given: Given, index: Tensor | slice) -> Given:
    return {name: t[index] if name in ("x", "cos", "sin") else t for name, t in given.items()}


def plain(given: Given, heads: int) -> Tensor:
    """A module's way: torch's norm, attention and GELU."""
    x, k, v, ptr, weight, bias, norm, cos, sin = given.values()
    width, turns = x.shape[1], cos.shape[1]
    for i, (w, b) in enumerate(zip(weight, bias, strict=True)):
        q = F.linear(F.rms_norm(x, (width,), norm[i, 0], 1e-6), w[0], b[0])
        q, k_i, v_i = (
            t.unflatten(1, (heads, -1)).transpose(0, 1)
            for t in (q, *(t[ptr[i] : ptr[i + 1]] for t in (k, v)))
        )
        first, second, rest = q.split([turns, turns, q.shape[2] - 2 * turns], 2)
        turned = [first * cos - second * sin, first * sin + second * cos, rest]
        y = F.scaled_dot_product_attention(torch.cat(turned, 2)[None], k_i[None], v_i[None])[0]
        x = x + F.linear(y.transpose(0, 1).flatten(1), w[1], b[1])
        m = F.rms_norm(x, (width,), norm[i, 1], 1e-6)
        parts = len(w) // 3
        out = [
            F.linear(F.gelu(F.linear(m, w[c], b[j])) * F.linear(m, w[c + 1], b[j + 1]), w[c + 2])
            for c, j in zip(range(2, 2 + 3 * parts, 3), range(2, 2 + 2 * parts, 2), strict=True)
        ]
        x = x + torch.stack(out).sum(0) + b[-1]
    return x


@pytest.fixture
def native() -> None:
    needs_native("anchor_blocks")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 2e-6)])
def test_it_equals_its_definition(dtype, tolerance, shape):
    given, heads = case(130, *shape)
    right = composed(*given.values(), heads, 1e-6)
    found = anchor_blocks(*cast(given, dtype).values(), heads)
    assert found.dtype == dtype and relative(found, right) < tolerance
    assert (found - right).abs().max() < 5 * tolerance * right.abs().max()


@pytest.mark.parametrize("shape", [s for s in SHAPES if 0 not in s[3]])
def test_it_equals_a_loop_of_torch_modules(shape):
    given, heads = case(37, *shape)
    found = anchor_blocks(*given.values(), heads)
    torch.testing.assert_close(found, plain(given, heads), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("width", [4, 8, 24])
def test_widths_that_are_not_compiled_have_the_same_answer(width):
    given, heads = case(37, width, 2, 1, (20,), 1)
    found = anchor_blocks(*given.values(), heads)
    torch.testing.assert_close(found, plain(given, heads), rtol=1e-12, atol=1e-12)


def test_attention_to_one_anchor_is_its_value_and_to_none_is_zero():
    given, heads = case(9, 32, 4, 1, (1, 0), 2)
    given["weight"][:, 4] = 0  # the MLP adds its last bias alone
    w, b, v = given["weight"], given["bias"], given["v"]
    right = given["x"] + F.linear(v, w[0, 1], b[0, 1]) + b[0, -1] + b[1, 1] + b[1, -1]
    torch.testing.assert_close(anchor_blocks(*given.values(), heads), right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [3.0, 30.0, 1e3])
def test_large_logits_are_shifted(dtype, scale):
    """Beyond what exponentials take; rows with small and large logits side by side."""
    given, heads = case(100, anchors=(70,))
    given["weight"][:, 0] *= scale
    given["x"][::7] *= 1e-8  # eps holds these down
    given["bias"][:, 0] = 0
    right = composed(*given.values(), heads, 1e-6)
    found = anchor_blocks(*cast(given, dtype).values(), heads)
    assert found.isfinite().all()
    assert relative(found, right) < scale * (1e-5 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["x", "k", "v", "weight", "norm"])
def test_what_is_not_finite_stays_where_it_is_without(name, value):
    given, heads = case(7, 32, 2, 1, (5, 4), 0)
    given[name].view(-1)[-1] = value
    right = composed(*given.values(), heads, 1e-6)
    found = anchor_blocks(*given.values(), heads)
    assert torch.equal(found.isfinite(), right.isfinite())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_a_rows_bits_depend_on_no_other_row(native, dtype, scale):
    given, heads = case(601, anchors=(100, 65))
    given["weight"][:, 0] *= scale  # 20: some rows are shifted, others not
    given = cast(given, dtype)
    whole = anchor_blocks(*given.values(), heads)
    order = torch.randperm(601, generator=torch.Generator().manual_seed(0))
    for index in (order, order[:97], order[:1], torch.arange(300), torch.arange(5, 601, 3)):
        part = anchor_blocks(*rows_of(given, index).values(), heads)
        assert torch.equal(part, whole[index])


def test_a_rows_bits_depend_on_no_other_row_in_the_reference():
    given, heads = case(601)
    given = cast(given, torch.float32)
    whole = composed(*given.values(), heads, 1e-6)
    part = composed(*rows_of(given, slice(300)).values(), heads, 1e-6)
    assert torch.equal(part, whole[:300])
    given["x"][100:] *= 3
    assert torch.equal(composed(*given.values(), heads, 1e-6)[:100], whole[:100])


def test_the_same_bits_on_every_run_and_number_of_threads(native):
    given, heads = case(1001)
    given = cast(given, torch.float32)
    first, *others = on_threads(lambda: [anchor_blocks(*given.values(), heads)])
    assert all(torch.equal(first[0], other[0]) for other in others)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_to_rounding(isa):
    code = """
import torch
from tests.ops.test_anchors import *
worst = 0.0
for shape in SHAPES:
    given, heads = case(130, *shape)
    right = composed(*given.values(), heads, 1e-6)
    single = relative(anchor_blocks(*cast(given, torch.float32).values(), heads), right)
    double = relative(anchor_blocks(*given.values(), heads), right)
    worst = max(worst, single, 1e8 * double)
print(worst)
"""
    assert float(in_another_process(code, MESHSIM_ISA=isa)) < 2e-6


def test_without_compiled_code_the_reference_runs():
    code = """
from tests.ops.test_anchors import *
given, heads = case(300)
print(torch.equal(anchor_blocks(*given.values(), heads), composed(*given.values(), heads, 1e-6)))
"""
    assert in_another_process(code, MESHSIM_NATIVE="0").split() == ["True"]


@pytest.mark.parametrize("rows", [0, 1, 5, 95, 96, 97, 193, 257])
def test_any_number_of_rows(rows):
    given, heads = case(rows, 16, 2, 1, (7,), 2)
    right = composed(*given.values(), heads, 1e-6)
    torch.testing.assert_close(anchor_blocks(*given.values(), heads), right, rtol=1e-12, atol=1e-12)


def test_strided_inputs():
    given, heads = case(20)
    apart = {n: torch.stack([t, t], -1)[..., 0] for n, t in given.items()}
    assert not apart["x"].is_contiguous()
    right = anchor_blocks(*given.values(), heads)
    assert torch.equal(anchor_blocks(*apart.values(), heads), right)


def small(rows: int = 3) -> tuple[list[Tensor], tuple[int, float]]:
    given, heads = case(rows, 16, 2, 1, (3, 0, 2), 2)
    leaves = [t.requires_grad_(t.is_floating_point()) for t in given.values()]
    return leaves, (heads, 1e-6)


def test_gradients_are_those_of_the_result():
    leaves, rest = small()
    op = torch.ops.meshsim.anchor_blocks
    assert torch.autograd.gradcheck(op, (*leaves, *rest), fast_mode=True)


def test_gradients_of_gradients():
    leaves, rest = small(2)
    op = torch.ops.meshsim.anchor_blocks
    assert torch.autograd.gradgradcheck(op, (*leaves, *rest), fast_mode=True)


def test_gradients_in_chunks_add_up():
    """More rows than the gradient takes at a time, and only what is asked for."""
    given, heads = case(2100, 16, 2, 1, (5,), 2)
    x, k = given["x"].requires_grad_(), given["k"].requires_grad_()
    grad = random(2100, 16, seed=9)
    found = torch.autograd.grad(anchor_blocks(*given.values(), heads), (x, k), grad)
    right = torch.autograd.grad(composed(*given.values(), heads, 1e-6), (x, k), grad)
    for a, b in zip(found, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_no_rows_have_gradients():
    leaves, rest = small(0)
    for create in (False, True):
        y = torch.ops.meshsim.anchor_blocks(*leaves, *rest)
        wanted = [t for t in leaves if t.requires_grad]
        for d in torch.autograd.grad(y.sum(), wanted, create_graph=create):
            assert d.abs().sum() == 0


def test_opcheck():
    leaves, rest = small()
    torch.library.opcheck(torch.ops.meshsim.anchor_blocks.default, (*leaves, *rest))


def test_compiled_it_is_the_same():
    leaves, rest = small()
    x = leaves[0]

    def run(x: Tensor) -> Tensor:
        return torch.ops.meshsim.anchor_blocks(x, *leaves[1:], *rest)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    a, b = (f(x) for f in (compiled, run))
    assert torch.equal(a, b)
    grads = (torch.autograd.grad(y.square().sum(), x)[0] for y in (a, b))
    assert torch.equal(*grads)


def test_shapes_on_meta():
    leaves, rest = small()
    y = torch.ops.meshsim.anchor_blocks(*(t.detach().to("meta") for t in leaves), *rest)
    assert y.is_meta and y.shape == (3, 16) and y.dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(9, 15).double()}, "`(x|heads|k)`"),
        ({"x": torch.zeros(9, 16).half()}, "`k`.*Half.*Double|`x`.*float"),
        ({"k": torch.zeros(5, 15).double()}, r"`k`.*\(\*, 16\).*\(5, 15\)"),
        ({"v": torch.zeros(4, 16).double()}, r"`v`.*\(5, 16\).*\(4, 16\)"),
        ({"ptr": torch.tensor([0, 3, 2, 5])}, "`ptr`.*rise.*not rising"),
        ({"ptr": torch.tensor([0, 3, 3, 4])}, "`ptr`.*rise from 0 to 5"),
        ({"ptr": torch.tensor([0, 3, 5])}, r"`ptr`.*\(4.*\(3"),
        ({"weight": torch.zeros(3, 4, 16, 16).double()}, "`weight`.*2 \\+ 3 C.*4"),
        ({"weight": torch.zeros(0, 5, 16, 16).double()}, "`weight`"),
        ({"bias": torch.zeros(3, 4, 16).double()}, r"`bias`.*\(3, 5, 16\).*\(3, 4, 16\)"),
        ({"norm": torch.zeros(3, 1, 16).double()}, r"`norm`.*\(3, 2, 16\)"),
        (
            {"cos": torch.zeros(9, 5).double(), "sin": torch.zeros(9, 5).double()},
            "`cos`.*at most 4",
        ),
        ({"cos": torch.zeros(8, 2).double()}, "`cos`"),
        ({"sin": torch.zeros(9, 1).double()}, "`sin`"),
        ({"heads": 3}, "`heads`.*divisor.*3"),
    ],
)
def test_bad_input_is_named(native, change, message):
    given, heads = case(9, 16, 2, 1, (3, 0, 2), 2)
    arguments = {**given, "heads": heads, "eps": 1e-6, **change}
    with pytest.raises(ValueError, match=message):
        torch.ops.meshsim.anchor_blocks(*arguments.values())
    if "x" not in change:
        with pytest.raises(ValueError, match=message):
            composed(*arguments.values())
