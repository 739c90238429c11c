"""The node block is what torch's own operations give, whatever runs it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from meshsim.ops import node_block
from meshsim.ops.nodes import composed
from tests.ops.blocks import (
    SLOWER,
    forward_backward,
    in_another_process,
    needs_native,
    on_threads,
    random,
    relative,
    weights,
)

SHAPES = [(16, 1), (32, 4), (48, 2), (64, 3), (128, 3)]  # width, layers


@pytest.fixture(autouse=True)
def _native() -> None:
    needs_native("node_block")


def case(nodes: int, width: int, layers: int, after: bool = True):
    """Inputs and gradients, in float64."""
    made = {"x": random(nodes, width, seed=5), "agg": random(nodes, width, seed=6)}
    made |= weights(layers + (3 if after else 1), layers, width)
    return made, [random(nodes, width, seed=7 + i) for i in range(3 if after else 1)]


def ours(after=True, activation="silu", bf16=False):
    def block(x: dict[str, Tensor]):
        return node_block(*x.values(), after, activation, bf16=bf16)

    return block


def exact(after=True, activation="silu"):
    def block(x: dict[str, Tensor]):
        return composed(*x.values(), after, activation, 1e-5, False)

    return block


def cast(inputs, dtype):
    return {name: x.to(dtype) for name, x in inputs.items()}


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize(("width", "layers"), SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 2e-6)])
def test_it_equals_its_definition(dtype, tolerance, width, layers, activation, after):
    inputs, grads = case(130, width, layers, after)
    right = forward_backward(exact(after, activation), inputs, grads)
    found = forward_backward(ours(after, activation), cast(inputs, dtype), grads)
    for a, b in zip(found, right, strict=True):
        assert a.dtype == dtype and relative(a, b) < tolerance


@pytest.mark.parametrize(("width", "layers"), SHAPES)
def test_bfloat16_products_round_and_no_more(width, layers):
    inputs, grads = case(130, width, layers)
    right = forward_backward(exact(), inputs, grads)
    found = forward_backward(ours(bf16=True), cast(inputs, torch.float32), grads)
    for a, b in zip(found, right, strict=True):
        assert a.dtype == torch.float32 and relative(a, b) < 1e-2


@pytest.mark.parametrize("bf16", [False, True])
def test_the_same_bits_on_every_run_and_number_of_threads(bf16):
    inputs, grads = case(3001 // SLOWER, 48, 2)
    inputs = cast(inputs, torch.float32)
    runs = list(on_threads(lambda: forward_backward(ours(bf16=bf16), inputs, grads)))
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_to_rounding(isa):
    code = """
import torch
from tests.ops.test_nodes import case, cast, exact, forward_backward, ours, relative
inputs, grads = case(130, 48, 3)
right = forward_backward(exact(), inputs, grads)
found = forward_backward(ours(bf16=True), cast(inputs, torch.float32), grads)
print(max(map(relative, found, right)))
"""
    assert float(in_another_process(code, MESHSIM_ISA=isa)) < 2e-6


@pytest.mark.parametrize("after", [True, False])
def test_gradients_are_those_of_the_result(after):
    inputs, _ = case(5, 16, 2, after)
    names, block = list(inputs), ours(after)
    assert torch.autograd.gradcheck(
        lambda *x: block(dict(zip(names, x, strict=True)))[: 3 if after else 1],
        [x.requires_grad_() for x in inputs.values()],
        nondet_tol=0.0,
    )


def test_gradients_of_gradients():
    inputs, grads = case(7, 16, 2)

    def second(block):
        leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
        first = torch.autograd.grad(block(leaves), leaves["x"], grads, create_graph=True)[0]
        return torch.autograd.grad(first.square().sum(), list(leaves.values()))

    for a, b in zip(second(ours()), second(exact()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_opcheck():
    inputs, _ = case(7, 16, 2)
    given = [x.requires_grad_() for x in inputs.values()]
    torch.library.opcheck(torch.ops.meshsim.node_block.default, (*given, True, "silu", 1e-5, False))


def test_compiled_it_is_the_same():
    inputs, grads = case(7, 16, 2)

    def block(x):
        return torch.ops.meshsim.node_block(*x.values(), True, "silu", 1e-5, False)

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    a, b = (forward_backward(f, inputs, grads) for f in (compiled, block))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("nodes", [0, 1, 95, 96, 97, 193])
def test_any_number_of_nodes(nodes):
    inputs, grads = case(nodes, 16, 2)
    right = forward_backward(exact(), inputs, grads)
    for a, b in zip(forward_backward(ours(), inputs, grads), right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(9, 15).double()}, "`x`.*multiple of 16.*15"),
        ({0: torch.zeros(9, 16).half()}, "`x`.*float32 or float64|`agg`.*Half"),
        ({1: torch.zeros(8, 16).double()}, r"`agg`.*\(9, 16\).*\(8, 16\)"),
        ({2: torch.zeros(3, 16, 16).double()}, "`weight`"),
        ({3: torch.zeros(3, 16).double()}, "`bias`"),
        ({4: torch.zeros(2, 16)}, "`norm`.*Double.*Float"),
        ({6: "tanh"}, "`activation`.*tanh"),
    ],
)
def test_bad_input_is_named(change, message):
    inputs, _ = case(9, 16, 2)
    given = [*inputs.values(), True, "silu", 1e-5, False]
    for i, value in change.items():
        given[i] = value
    with pytest.raises(ValueError, match=message):
        torch.ops.meshsim.node_block(*given)
