"""MLP: the textbook formula, its precision, its refusals."""

import pytest
import torch
from torch.nn import functional as F

from meshsim.check import InputError
from meshsim.nn import MLP
from meshsim.nn import mlp as module
from meshsim.nn.mlp import add_linear
from meshsim.ops import mlp_rows
from tests.ops.blocks import in_another_process, needs_native

ACTIVATIONS = {"relu": F.relu, "silu": F.silu, "gelu": F.gelu}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("hidden_layers", [0, 1, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_is_what_it_says(activation, hidden_layers, norm, dtype):
    mlp = MLP(3, 2, width=5, hidden_layers=hidden_layers, activation=activation, norm=norm)
    mlp = mlp.to(dtype)
    assert len(mlp.layers) == hidden_layers + 1
    x = torch.randn(7, 3, dtype=dtype)
    y = x
    for i, layer in enumerate(mlp.layers):
        y = y @ layer.weight.T + layer.bias
        y = ACTIVATIONS[activation](y) if i < hidden_layers else y
    if norm:
        centred = y - y.mean(1, keepdim=True)
        y = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(mlp(x), y, rtol=1e-4, atol=1e-5)
    assert mlp(x[:0]).shape == (0, 2)


def test_default_initialisation_is_torchs():
    torch.manual_seed(3)
    mlp = MLP(3, 2, width=5, hidden_layers=1)
    torch.manual_seed(3)
    assert torch.equal(mlp.layers[0].weight, torch.nn.Linear(3, 5).weight)
    assert torch.equal(mlp.layers[1].weight, torch.nn.Linear(5, 2).weight)


@pytest.mark.parametrize("plain", [False, True])
def test_layer_norm_keeps_float32_under_bfloat16(plain):
    """In bfloat16 torch's CPU kernel gets the gradients of gamma and beta wrong by far."""
    torch.manual_seed(0)
    mlp = MLP(4, 8, width=8)
    x = torch.randn(20000, 4)
    weight = torch.randn(20000, 8)
    (mlp(x) * weight).sum().backward()
    exact = mlp.norm.bias.grad.clone()
    assert torch.allclose(exact, weight.sum(0), atol=1e-2)
    mlp.zero_grad()
    if plain:
        mlp, x = mlp.bfloat16(), x.bfloat16()
        (mlp(x) * weight).sum().backward()
    else:
        with torch.autocast("cpu", torch.bfloat16):
            y = mlp(x)
        assert y.dtype == torch.float32
        (y * weight).sum().backward()
    torch.testing.assert_close(mlp.norm.bias.grad.float(), exact, rtol=1e-2, atol=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("outputs", "norm"), [(16, True), (3, False), (3, True)])
def test_on_the_operator_where_it_fits(outputs, norm, activation, dtype, monkeypatch):
    needs_native("mlp_rows")
    calls = []
    monkeypatch.setattr(module, "mlp_rows", lambda *a: calls.append(a) or mlp_rows(*a))
    torch.manual_seed(0)
    mlp = MLP(5, outputs, width=16, activation=activation, norm=norm).to(dtype)
    x = torch.randn(40, 5, dtype=dtype, requires_grad=True)
    wanted = [x, *mlp.parameters()]
    results = []
    for call in (mlp, lambda x: mlp.after_first(mlp.layers[0](x))):
        y = call(x)
        results.append([y, *torch.autograd.grad(y.sin().sum(), wanted)])
    assert len(calls) == (activation != "gelu" and (outputs == 16 or not norm))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        mlp(x)
    mlp.bfloat16()(x.bfloat16())
    assert len(calls) <= 1


@pytest.mark.slow
def test_compiled_it_is_the_same():
    """In a process of its own: the checks of types that run under pytest cannot be traced."""
    code = """
import torch
from meshsim.nn import MLP
mlp, x = MLP(3, 16, width=16, activation="silu"), torch.randn(7, 3)
compiled = torch.compile(mlp, fullgraph=True, backend="aot_eager")
print(float((compiled(x) - mlp(x)).abs().max()))
"""
    assert float(in_another_process(code)) < 1e-5


def test_input_is_left_alone():
    x = torch.randn(4, 3)
    kept = x.clone()
    MLP(3, 2, width=5)(x)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("autocast", [False, True])
def test_add_linear(autocast):
    h, x, w = torch.randn(5, 3), torch.randn(5, 4), torch.randn(3, 4)
    expected = h + x @ w.T
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = add_linear(h.clone(), x, w)
    torch.testing.assert_close(y, expected, rtol=2e-2, atol=5e-2 if autocast else 1e-5)


def test_refusals():
    with pytest.raises(InputError, match="unknown activation 'rleu': did you mean 'relu'"):
        MLP(1, 1, width=1, activation="rleu")
    with pytest.raises(InputError, match=r"`hidden_layers`: expected 0 or more, got -1"):
        MLP(1, 1, width=1, hidden_layers=-1)
