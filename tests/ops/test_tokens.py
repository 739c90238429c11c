"""The node-wise half of a transformer block is what torch's own operations give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from meshsim.ops import token_block
from meshsim.ops.tokens import composed
from tests.ops.blocks import (
    forward_backward,
    in_another_process,
    needs_native,
    on_threads,
    random,
    relative,
)

SHAPES = [(16, 1, 2), (32, 3, 4), (48, 2, 4), (64, 3, 4), (128, 3, 8)]  # width, parts, heads


@pytest.fixture(autouse=True)
def _native() -> None:
    needs_native("token_block")


def case(nodes: int, width: int, parts: int, heads: int, after: bool = True):
    """Inputs, the angles of rotation and gradients, in float64."""
    made = {"x": random(nodes, width, seed=5), "y": random(nodes, width, seed=6)}
    count = 1 + 3 * parts + 3 * after
    made["weight"] = random(count, width, width, seed=3) / width**0.5
    made["bias"] = 0.1 * random(2 + 2 * parts, width, seed=4)
    made["norm"] = 1 + 0.1 * random(1 + after, width, seed=1)
    angle = random(nodes, width // heads // 4, seed=2)
    grads = [random(nodes, width, seed=7 + i) for i in range(4 if after else 1)]
    return made, (angle.cos(), angle.sin()), grads


def ours(turns: tuple[Tensor, Tensor], heads: int, after: bool = True, bf16: bool = False):
    def block(x: dict[str, Tensor]):
        by = (t.to(x["x"].dtype) for t in turns)
        return token_block(*x.values(), *by, heads, after, bf16=bf16)

    return block


def exact(turns: tuple[Tensor, Tensor], heads: int, after: bool = True):
    def block(x: dict[str, Tensor]):
        return composed(*x.values(), *turns, heads, after, 1e-6, False)

    return block


def cast(inputs, dtype):
    return {name: x.to(dtype) for name, x in inputs.items()}


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize(("width", "parts", "heads"), SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 2e-6)])
def test_it_equals_its_definition(dtype, tolerance, width, parts, heads, after):
    inputs, turns, grads = case(130, width, parts, heads, after)
    right = forward_backward(exact(turns, heads, after), inputs, grads)
    found = forward_backward(ours(turns, heads, after), cast(inputs, dtype), grads)
    for a, b in zip(found, right, strict=True):
        assert a.dtype == dtype and relative(a, b) < tolerance


@pytest.mark.parametrize(("width", "parts", "heads"), SHAPES)
def test_bfloat16_products_round_and_no_more(width, parts, heads):
    inputs, turns, grads = case(130, width, parts, heads)
    right = forward_backward(exact(turns, heads), inputs, grads)
    found = forward_backward(ours(turns, heads, bf16=True), cast(inputs, torch.float32), grads)
    for a, b in zip(found, right, strict=True):
        assert a.dtype == torch.float32 and relative(a, b) < 1e-2


def test_nothing_turned():
    inputs, _, grads = case(7, 16, 1, 2)
    none = (torch.empty(7, 0).double(), torch.empty(7, 0).double())
    still = (torch.ones(7, 4).double(), torch.zeros(7, 4).double())
    right = forward_backward(exact(still, 2), inputs, grads)
    found = forward_backward(ours(none, 2), inputs, grads)
    for a, b in zip(found, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bf16", [False, True])
def test_the_same_bits_on_every_run_and_number_of_threads(bf16):
    inputs, turns, grads = case(3001, 48, 2, 4)
    inputs, block = cast(inputs, torch.float32), ours(turns, 4, bf16=bf16)
    runs = list(on_threads(lambda: forward_backward(block, inputs, grads)))
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_to_rounding(isa):
    code = """
import torch
from tests.ops.test_tokens import case, cast, exact, forward_backward, ours, relative
inputs, turns, grads = case(130, 48, 3, 4)
right = forward_backward(exact(turns, 4), inputs, grads)
found = forward_backward(ours(turns, 4, bf16=True), cast(inputs, torch.float32), grads)
print(max(map(relative, found, right)))
"""
    assert float(in_another_process(code, MESHSIM_ISA=isa)) < 2e-6


@pytest.mark.parametrize("scale", [1e-3, 1.0, 8.0])
def test_gelu_of_small_and_large_values(scale):
    """The approximation of erf: every value against float64, not only on average."""
    inputs, turns, _ = case(130, 16, 1, 2, False)
    inputs["weight"][1] *= scale
    right = exact(turns, 2, False)(inputs)[0]
    found = ours(turns, 2, False)(cast(inputs, torch.float32))[0]
    torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-5 * max(scale, 1))


@pytest.mark.parametrize("after", [True, False])
def test_gradients_are_those_of_the_result(after):
    inputs, turns, _ = case(5, 16, 1, 2, after)
    names, block = list(inputs), ours(turns, 2, after)
    assert torch.autograd.gradcheck(
        lambda *x: block(dict(zip(names, x, strict=True)))[: 4 if after else 1],
        [x.requires_grad_() for x in inputs.values()],
        nondet_tol=0.0,
    )


def test_gradients_of_gradients():
    inputs, turns, grads = case(7, 16, 2, 2)

    def second(block):
        leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
        first = torch.autograd.grad(block(leaves), leaves["x"], grads, create_graph=True)[0]
        return torch.autograd.grad(first.square().sum(), list(leaves.values()))

    for a, b in zip(second(ours(turns, 2)), second(exact(turns, 2)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_opcheck():
    inputs, turns, _ = case(7, 16, 2, 2)
    given = [x.requires_grad_() for x in inputs.values()]
    op = torch.ops.meshsim.token_block.default
    torch.library.opcheck(op, (*given, *turns, 2, True, 1e-6, False))


def test_compiled_it_is_the_same():
    inputs, turns, grads = case(7, 16, 2, 2)

    def block(x):
        return torch.ops.meshsim.token_block(*x.values(), *turns, 2, True, 1e-6, False)

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    a, b = (forward_backward(f, inputs, grads) for f in (compiled, block))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("nodes", [0, 1, 95, 96, 97, 193])
def test_any_number_of_nodes(nodes):
    inputs, turns, grads = case(nodes, 16, 2, 2)
    right = forward_backward(exact(turns, 2), inputs, grads)
    for a, b in zip(forward_backward(ours(turns, 2), inputs, grads), right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(9, 15).double()}, "`x`.*multiple of 16.*15"),
        ({0: torch.zeros(9, 16).half()}, "`y`.*Half.*Double"),
        ({1: torch.zeros(8, 16).double()}, r"`y`.*\(9, 16\).*\(8, 16\)"),
        ({2: torch.zeros(3, 16, 16).double()}, "`weight`"),
        ({3: torch.zeros(5, 16).double()}, "`bias`.*got 5"),
        ({4: torch.zeros(2, 16)}, "`norm`.*Double.*Float"),
        ({5: torch.zeros(9, 5).double(), 6: torch.zeros(9, 5).double()}, "`cos`.*at most 4.*5"),
        ({6: torch.zeros(8, 2).double()}, "`sin`"),
        ({7: 3}, "`heads`.*divisor.*3"),
    ],
)
def test_bad_input_is_named(change, message):
    inputs, turns, _ = case(9, 16, 2, 2)
    given = [*inputs.values(), *turns, 2, True, 1e-6, False]
    for i, value in change.items():
        given[i] = value
    with pytest.raises(ValueError, match=message):
        torch.ops.meshsim.token_block(*given)
