"""MLP: the textbook formula, its precision, its refusals."""

import pytest
import torch
from torch.nn import functional as F

from meshsim.check import InputError
from meshsim.nn import MLP
from meshsim.nn.mlp import add_linear

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
