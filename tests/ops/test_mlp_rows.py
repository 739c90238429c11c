"""The multi-layer perceptron on rows is what torch's own operations give, whatever runs it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from meshsim.ops import mlp_rows
from tests.ops.blocks import (
    Tensors,
    forward_backward,
    in_another_process,
    needs_native,
    on_threads,
    random,
    relative,
)

# inputs, width, outputs, layers, LayerNorm
SHAPES = [
    (3, 48, 48, 2, True),
    (1, 16, 16, 1, True),
    (70, 32, 32, 3, True),
    (48, 48, 10, 2, False),
    (5, 128, 1, 4, False),
    (16, 16, 40, 2, False),
]


@pytest.fixture(autouse=True)
def _native() -> None:
    needs_native("mlp_rows")


def case(rows, inputs, width, outputs, layers, norm) -> tuple[Tensors, list[Tensor]]:
    """Inputs by name and the gradient of the result, in float64."""
    made = {"x": random(rows, inputs, seed=1)}
    widths = [inputs, *[width] * (layers - 1), outputs]
    for i, (a, b) in enumerate(pairwise(widths)):
        made[f"weight{i}"] = random(b, a, seed=10 + i) / a**0.5
        made[f"bias{i}"] = 0.3 * random(b, seed=20 + i)
    if norm:
        made["gamma"] = 1 + 0.1 * random(width, seed=2)
        made["beta"] = 0.1 * random(width, seed=3)
    return made, [random(rows, outputs, seed=4)]


def ours(norm, activation="silu"):
    def net(x: Tensors) -> tuple[Tensor]:
        first, *parameters = x.values()
        return (mlp_rows(first, parameters, norm, activation),)

    return net


def exact(norm, activation="silu"):
    """Written out, without torch's layers."""

    def net(x: Tensors) -> tuple[Tensor]:
        h, *parameters = x.values()
        layers = parameters[:-2] if norm else parameters
        for i in range(0, len(layers), 2):
            if i:
                h = h.clamp_min(0) if activation == "relu" else h / (1 + (-h).exp())
            h = h @ layers[i].T + layers[i + 1]
        if norm:
            h = h - h.mean(1, keepdim=True)
            h = h / (h.square().mean(1, keepdim=True) + 1e-5).sqrt()
            h = h * parameters[-2] + parameters[-1]
        return (h,)

    return net


def cast(inputs: Tensors, dtype: torch.dtype) -> Tensors:
    return {name: x.to(dtype) for name, x in inputs.items()}


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 3e-6)])
def test_it_equals_its_definition(dtype, tolerance, shape, activation):
    inputs, grads = case(130, *shape)
    right = forward_backward(exact(shape[-1], activation), inputs, grads)
    found = forward_backward(ours(shape[-1], activation), cast(inputs, dtype), grads)
    for a, b in zip(found, right, strict=True):
        assert a.dtype == dtype and a.shape == b.shape and relative(a, b) < tolerance


@pytest.mark.parametrize("shape", SHAPES[::3])
def test_the_same_bits_on_every_run_and_number_of_threads(shape):
    inputs, grads = case(3001, *shape)
    inputs = cast(inputs, torch.float32)
    runs = list(on_threads(lambda: forward_backward(ours(shape[-1]), inputs, grads)))
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_to_rounding(isa):
    code = """
import torch
from tests.ops.test_mlp_rows import SHAPES, case, cast, exact, forward_backward, ours, relative
worst = 0
for shape in SHAPES:
    inputs, grads = case(130, *shape)
    right = forward_backward(exact(shape[-1]), inputs, grads)
    found = forward_backward(ours(shape[-1]), cast(inputs, torch.float32), grads)
    worst = max(worst, *map(relative, found, right))
print(worst)
"""
    assert float(in_another_process(code, MESHSIM_ISA=isa)) < 3e-6


@pytest.mark.parametrize("shape", [(3, 16, 16, 2, True), (3, 16, 2, 2, False)])
def test_gradients_and_their_gradients(shape):
    inputs, _ = case(5, *shape)
    names, net = list(inputs), ours(shape[-1])
    given = [x.requires_grad_() for x in inputs.values()]

    def call(*x: Tensor) -> Tensor:
        return net(dict(zip(names, x, strict=True)))[0]

    assert torch.autograd.gradcheck(call, given, nondet_tol=0.0)
    assert torch.autograd.gradgradcheck(call, given)


def test_only_some_gradients_are_wanted():
    inputs, grads = case(130, *SHAPES[0])
    right = forward_backward(exact(True), inputs, grads)[1:]
    for wanted in (["x"], ["weight0", "beta"], ["bias1"]):
        leaves = {k: v.detach().requires_grad_(k in wanted) for k, v in inputs.items()}
        found = torch.autograd.grad(ours(True)(leaves), [leaves[k] for k in wanted], grads)
        for name, a in zip(wanted, found, strict=True):
            assert relative(a, right[list(inputs).index(name)]) < 1e-13


@pytest.mark.parametrize("shape", SHAPES[2:4])
def test_opcheck(shape):
    inputs, _ = case(7, *shape)
    x, *parameters = (t.requires_grad_() for t in inputs.values())
    op = torch.ops.meshsim.mlp_rows.default
    torch.library.opcheck(op, (x, parameters, shape[-1], "silu", 1e-5))


@pytest.mark.parametrize("rows", [0, 1, 95, 96, 97, 193])
def test_any_number_of_rows(rows):
    inputs, grads = case(rows, *SHAPES[3])
    right = forward_backward(exact(False), inputs, grads)
    for a, b in zip(forward_backward(ours(False), inputs, grads), right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_rows_that_do_not_lie_together():
    inputs, grads = case(30, *SHAPES[3])
    right = forward_backward(ours(False), inputs, grads)
    inputs["x"] = torch.stack([inputs["x"], inputs["x"]], 2)[:, :, 0]
    inputs["weight1"] = inputs["weight1"].T.contiguous().T
    found = forward_backward(ours(False), inputs, [torch.stack([grads[0]] * 2, 2)[:, :, 1]])
    assert all(torch.equal(a, b) for a, b in zip(found, right, strict=True))


def test_what_is_not_a_number_stays_in_its_row():
    inputs, _ = case(200, *SHAPES[0])
    inputs["x"][7, 1], inputs["x"][150, 0] = torch.nan, torch.inf
    (y,) = ours(True)(inputs)
    assert set(y.isfinite().all(1).logical_not().nonzero().ravel().tolist()) == {7, 150}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(9)}, r"`x`.*\(9\)"),
        ({"x": torch.zeros(9, 4).double()}, r"`parameters\[0\]`.*, 4\).*\(48, 3\)"),
        ({"x": torch.zeros(9, 0).double()}, "`x`.*one column"),
        ({"x": torch.zeros(9, 3)}, r"`parameters\[0\]`.*Float.*Double"),
        ({"weight0": torch.zeros(40, 3).double()}, r"`parameters\[0\]`.*multiple of 16.*40"),
        ({"weight1": torch.zeros(32, 48).double()}, r"`parameters\[2\]`.*\(48, 48\).*\(32, 48\)"),
        ({"bias1": torch.zeros(47).double()}, r"`parameters\[3\]`.*\(48\).*\(47\)"),
        ({"gamma": torch.zeros(48, 1).double()}, r"`parameters\[4\]`.*\(48\).*\(48, 1\)"),
        ({"beta": None}, "`parameters`.*LayerNorm.*5"),
        ({"activation": "tanh"}, "`activation`.*tanh"),
    ],
)
def test_bad_input_is_named(change, message):
    inputs, _ = case(9, *SHAPES[0])
    changed = {**inputs, "activation": "silu", **change}
    activation = changed.pop("activation")
    x, *parameters = (t for t in changed.values() if t is not None)
    with pytest.raises(ValueError, match=message):
        torch.ops.meshsim.mlp_rows(x, parameters, True, activation, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_other_types_are_refused(dtype):
    inputs, _ = case(9, *SHAPES[0])
    x, *parameters = cast(inputs, dtype).values()
    with pytest.raises(ValueError, match="`x`: expected float32 or float64"):
        torch.ops.meshsim.mlp_rows(x, parameters, True, "silu", 1e-5)
